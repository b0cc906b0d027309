//! The simulation of a fleet: real control, real client code, and a kill in the middle.

use serde_json::Value;

use crate::world::{counterfoil, text};

#[test]
fn a_small_fleet_decides_on_while_control_is_killed_and_finds_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("sim");
    let output = counterfoil(&[
        "sim",
        "--proxies",
        "20",
        "--for",
        "3s",
        "--kill-control",
        "4s",
        "--revocations",
        "3",
        "--data-dir",
        data.to_str().unwrap(),
        "-o",
        "json",
    ]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{}: {said}", text(&output.stdout));
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(figures["ok"], true, "{figures}");
    for (name, expected) in [
        ("proxies", 20),
        ("joined", 20),
        ("recovered", 20),
        ("decisions_failed", 0),
    ] {
        assert_eq!(figures[name], expected, "{name} of {figures}");
    }
    assert!(
        figures["outage_decisions"].as_u64().unwrap() >= 40,
        "{figures}"
    );
    assert_eq!(figures["revocation"]["reached"], 3);
    assert!(
        figures["revocation"]["max_ms"].as_f64().unwrap() < 2_000.0,
        "{figures}"
    );
    assert!(figures["change"]["due"].as_u64().unwrap() > 0, "{figures}");
    assert!(
        figures["steady_requests_per_s"].as_f64().unwrap() < 20.0,
        "{figures}"
    );
    assert!(
        figures["control_mib_recovered"].as_f64().unwrap() > 1.0,
        "{figures}"
    );
    // Nothing of it runs any more, so that nothing holds the directory.
    let left = std::process::Command::new("pgrep")
        .args(["-f", data.to_str().unwrap()])
        .output();
    if let Ok(left) = left {
        assert_eq!(text(&left.stdout), "", "processes are left");
    }
}

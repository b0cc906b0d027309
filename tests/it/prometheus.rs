//! The Prometheus rules of the example objectives, with promtool itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::unpacked;
use crate::world::{counterfoil, text};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards")
}

/// What promtool says, and whether it was content.
fn said(words: &[&str], file: &Path) -> (bool, String) {
    let output = Command::new(unpacked("promtool", "prometheus"))
        .args(words)
        .arg(file)
        .output()
        .unwrap();
    (
        output.status.success(),
        text(&output.stdout) + &text(&output.stderr),
    )
}

#[test]
fn the_rules_are_those_of_the_example_objectives() {
    let objectives = folder().join("objectives");
    let made = counterfoil(&[
        "slo",
        "export",
        "--prometheus",
        objectives.to_str().unwrap(),
    ]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let file = folder().join("prometheus/bank.rules.yaml");
    assert!(
        std::fs::read_to_string(&file).unwrap() == text(&made.stdout),
        "write it anew: counterfoil slo export --prometheus dashboards/objectives > dashboards/prometheus/bank.rules.yaml"
    );
    let (content, told) = said(&["check", "rules"], &file);
    assert!(content && told.contains("45 rules found"), "{told}");
}

#[test]
fn budgets_that_burn_raise_alerts_and_others_do_not() {
    let tests = folder().join("prometheus/tests/bank.test.yaml");
    let (content, told) = said(&["test", "rules"], &tests);
    assert!(content, "{told}");

    // The same tests must fail when the rules let everything pass.
    let copy = tempfile::tempdir().unwrap();
    let rules = std::fs::read_to_string(folder().join("prometheus/bank.rules.yaml")).unwrap();
    std::fs::write(
        copy.path().join("bank.rules.yaml"),
        rules.replace(" > 14.4 *", " > 1440 *"),
    )
    .unwrap();
    std::fs::create_dir(copy.path().join("tests")).unwrap();
    let copied = copy.path().join("tests/bank.test.yaml");
    std::fs::copy(&tests, &copied).unwrap();
    let (content, told) = said(&["test", "rules"], &copied);
    assert!(!content, "{told}");
}

#[test]
fn objectives_that_have_no_rules_are_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let example = std::fs::read_to_string(self::folder().join("objectives/bank.yaml")).unwrap();
    let export = |text: &str| {
        std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        counterfoil(&[
            "slo",
            "export",
            "--prometheus",
            folder.path().to_str().unwrap(),
        ])
    };
    for (from, to, told) in [
        ("value: 500", "value: 300", "no bound of 300 ms"),
        ("target: 0.9995", "target: 1.5", "spec.objectives.target"),
    ] {
        let output = export(&example.replace(from, to));
        assert_eq!(output.status.code(), Some(64));
        assert!(
            output.stdout.is_empty() && text(&output.stderr).contains(told),
            "{output:?}"
        );
    }
    let nowhere = counterfoil(&["slo", "export", "--prometheus", "/nowhere/objectives"]);
    assert_eq!(nowhere.status.code(), Some(64));
}

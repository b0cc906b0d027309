//! `counterfoil conform self`: the real proxy, as anybody checks it.

use std::process::Output;

use serde_json::Value;

use crate::world::{counterfoil, text};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn the_real_proxy_passes_every_check_with_nothing_configured() {
    let output = counterfoil(&["conform", "self", "-o", "json"]);
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    let not_passed: Vec<_> = findings
        .iter()
        .filter(|one| one["outcome"] != "pass")
        .collect();
    assert!(not_passed.is_empty(), "{not_passed:#?}");
    assert!(findings.len() >= 30, "{}", findings.len());
    for member in [
        "check",
        "title",
        "severity",
        "sent",
        "saw",
        "duration_ms",
        "checked_at",
    ] {
        assert!(
            findings.iter().all(|one| one.get(member).is_some()),
            "{member}"
        );
    }
    assert_eq!(code(&output), 0);
}

#[test]
fn junit_of_a_few_checks_is_xml_that_python_reads() {
    let output = counterfoil(&["conform", "self", "--only", "T01,P01", "-o", "junit"]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("conform.xml");
    std::fs::write(&file, &output.stdout).unwrap();
    let script = "import sys, xml.etree.ElementTree as x; r = x.parse(sys.argv[1]).getroot(); \
                  print(r.tag, r.get('tests'), sorted(c.get('name')[:3] for c in r.iter('testcase')))";
    let python = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(
        text(&python.stdout).trim(),
        "testsuites 2 ['P01', 'T01']",
        "{}",
        text(&python.stderr)
    );
}

#[test]
fn wrong_use_ends_with_2_and_a_bad_profile_with_64() {
    for (args, expected) in [
        (&["conform"][..], 2),
        (&["conform", "127.0.0.1:9"], 2),
        (&["conform", "self", "--only", "Z1"], 2),
        (&["conform", "self", "--profile", "x.toml"], 2),
        (
            &["conform", "127.0.0.1:9", "--profile", "/nowhere.toml"],
            64,
        ),
        (&["conform", "self", "--books", "/nowhere.toml"], 64),
        (&["conform", "--list"], 0),
    ] {
        let output = counterfoil(args);
        assert_eq!(
            code(&output),
            expected,
            "{args:?}: {}",
            text(&output.stderr)
        );
    }
    let list = text(&counterfoil(&["conform", "--list", "--only", "A"]).stdout);
    assert!(
        list.starts_with("A01  critical  ") && list.lines().count() == 6,
        "{list}"
    );
}

//! Who may depend on whom.

use std::process::Command;

use crate::world::text;

fn tree(package: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree", "--locked", "-e", "normal", "--prefix", "none", "-p", package,
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let names: Vec<String> = text(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    assert!(names.iter().any(|name| name == package));
    names
}

#[test]
fn the_proxy_links_no_column_engine() {
    let names = tree("counterfoil-proxy");
    for forbidden in ["arrow", "parquet", "datafusion", "object_store"] {
        let found = names.iter().find(|name| name.starts_with(forbidden));
        assert_eq!(found, None, "counterfoil-proxy links {forbidden}");
    }
}

#[test]
fn each_crate_uses_only_what_it_may() {
    let allowed: [(&str, &[&str]); 13] = [
        ("entry", &[]),
        ("dashboards", &[]),
        ("estate", &["entry"]),
        ("ledger", &["entry"]),
        ("trust", &["entry"]),
        ("columns", &["entry"]),
        ("spool", &["entry", "trust"]),
        ("control", &["entry", "spool", "trust"]),
        ("proxy", &["entry", "spool", "trust"]),
        ("conform", &["entry", "spool", "trust"]),
        (
            "collector",
            &["entry", "ledger", "trust", "columns", "spool"],
        ),
        ("query", &["entry", "ledger", "columns", "trust", "spool"]),
        (
            "retention",
            &["entry", "ledger", "columns", "trust", "spool"],
        ),
    ];
    for (name, may) in allowed {
        let package = format!("counterfoil-{name}");
        for used in tree(&package)
            .iter()
            .filter_map(|used| used.strip_prefix("counterfoil-"))
        {
            assert!(
                used == name || may.contains(&used),
                "{package} uses counterfoil-{used}"
            );
        }
    }
}

#[test]
fn entry_ledger_trust_and_estate_have_no_runtime() {
    for package in [
        "counterfoil-entry",
        "counterfoil-ledger",
        "counterfoil-trust",
        "counterfoil-estate",
    ] {
        let names = tree(package);
        for forbidden in ["tokio", "axum", "hyper", "arrow"] {
            assert!(
                !names.iter().any(|name| name == forbidden),
                "{package} links {forbidden}"
            );
        }
    }
}

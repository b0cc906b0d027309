//! Files stay small enough to be one idea.

use std::path::Path;

use crate::world::files;

/// Longest production part of a file (lines).
const LINES_MAX: usize = 600;

/// Files that may be longer, each with its reason.
const LONGER: &[(&str, &str)] = &[];

/// Lines up to the tests of a file; none for a file of tests. `path` is below `root`.
fn production_lines(root: &Path, path: &Path) -> usize {
    let of_tests = |part: &std::ffi::OsStr| part == "tests" || part == "tests.rs";
    if path.strip_prefix(root).unwrap().iter().any(of_tests) {
        return 0;
    }
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .count()
}

#[test]
fn no_file_holds_more_than_one_idea() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let crates = [
        "entry",
        "spool",
        "ledger",
        "trust",
        "columns",
        "proxy",
        "collector",
        "query",
        "control",
        "conform",
        "dashboards",
        "estate",
        "retention",
        "cli",
    ];
    let mut excused: Vec<&str> = Vec::new();
    for file in crates
        .iter()
        .flat_map(|name| files(&root.join(name).join("src")))
    {
        let lines = production_lines(root, &file);
        let excuse = LONGER.iter().find(|(name, _)| file.ends_with(name));
        match excuse {
            Some((name, _)) if lines > LINES_MAX => excused.push(name),
            _ => assert!(lines <= LINES_MAX, "{}: {lines} lines", file.display()),
        }
    }
    assert_eq!(excused.len(), LONGER.len(), "an excuse is stale");
}

//! The committed files against the rules that a dashboard must keep.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::{Unit, boards, directory, files};

const UNITS: &[Unit] = &[
    Unit::Share,
    Unit::PerSecond,
    Unit::Nanoseconds,
    Unit::Milliseconds,
    Unit::Seconds,
    Unit::Bytes,
    Unit::Days,
    Unit::Count,
    Unit::Plain,
];

fn committed() -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        all.insert(name, serde_json::from_str(&text).unwrap());
    }
    all
}

/// What is wrong with a dashboard, each as a sentence.
fn faults(board: &Value, uids: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |place: &str, what: String| faults.push(format!("{place}: {what}"));
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    if board["schemaVersion"].as_u64().unwrap_or(0) < 36 {
        fault("dashboard", "schemaVersion is missing".into());
    }
    let refresh = text(board, "refresh");
    let too_often = refresh
        .strip_suffix('s')
        .is_some_and(|s| s.parse::<u32>().unwrap() < 10);
    if refresh.is_empty() || too_often {
        fault("dashboard", format!("refresh {refresh:?}"));
    }
    let variables = board["templating"]["list"].as_array().unwrap();
    let names: BTreeSet<String> = variables.iter().map(|one| text(one, "name")).collect();
    let panels = board["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut titles = BTreeSet::new();
    for panel in panels {
        let title = text(panel, "title");
        if !ids.insert(panel["id"].as_u64().unwrap()) {
            fault(&title, "its id is taken".into());
        }
        if title.is_empty() || !titles.insert(title.clone()) {
            fault(&title, "its title is empty or taken".into());
        }
        if panel["type"] == "row" {
            continue;
        }
        if text(panel, "description").len() < 20 {
            fault(&title, "it has no description".into());
        }
        let unit = text(&panel["fieldConfig"]["defaults"], "unit");
        if !UNITS.iter().any(|known| known.id() == unit) {
            fault(&title, format!("unit {unit:?}"));
        }
    }
    for (place, query) in queries(board) {
        for wrong in query_faults(&query, &names) {
            fault(&place, wrong);
        }
    }
    for (index, one) in panels.iter().enumerate() {
        for other in &panels[index + 1..] {
            if overlap(&one["gridPos"], &other["gridPos"]) {
                fault(
                    &text(one, "title"),
                    format!("it covers {:?}", other["title"]),
                );
            }
        }
    }
    for url in strings(board, "url") {
        let uid = url
            .strip_prefix("/d/")
            .and_then(|rest| rest.split('?').next());
        if !uid.is_some_and(|uid| uids.contains(uid)) {
            fault("link", format!("{url} leads nowhere"));
        }
    }
    for source in values(board, "datasource") {
        let expected =
            serde_json::json!({"type": "grafana-postgresql-datasource", "uid": "${datasource}"});
        if *source != expected {
            fault("data source", format!("{source} is not the variable"));
        }
    }
    faults
}

fn query_faults(query: &Value, variables: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let sql = query["rawSql"].as_str().unwrap_or_default();
    let format = query["format"].as_str().unwrap_or_default();
    if query["rawQuery"] != true || query["editorMode"] != "code" {
        faults.push("without rawQuery and editorMode its text may be ignored".to_owned());
    }
    if !["table", "time_series"].contains(&format) {
        faults.push(format!("format {format:?}"));
    }
    if sql.is_empty() || sql.contains(';') || !sql.to_ascii_uppercase().starts_with("SELECT") {
        faults.push("it is not one SELECT".to_owned());
    }
    if format == "time_series" && !(sql.contains("\"time\"") || sql.contains("$__timeGroupAlias("))
    {
        faults.push("it has no column time".to_owned());
    }
    faults.extend(variable_faults(sql, variables));
    faults
}

/// Every variable is `${name:sqlstring}`, which quotes its values, and is one of the dashboard's.
fn variable_faults(sql: &str, variables: &BTreeSet<String>) -> Vec<String> {
    let places = sql.split('$').skip(1);
    let wrong = places.filter(|after| {
        if after.starts_with("__") {
            return false;
        }
        let name = after
            .strip_prefix('{')
            .and_then(|rest| rest.split_once(":sqlstring}"));
        !name.is_some_and(|(name, _)| variables.contains(name))
    });
    wrong
        .map(|after| {
            let shown: String = after.chars().take(20).collect();
            format!("unquoted or unknown variable at ${shown}")
        })
        .collect()
}

fn overlap(a: &Value, b: &Value) -> bool {
    let of = |one: &Value, key: &str| one[key].as_u64().unwrap();
    let apart = |low: &str, size: &str| {
        of(a, low) + of(a, size) <= of(b, low) || of(b, low) + of(b, size) <= of(a, low)
    };
    of(a, "x") + of(a, "w") > 24 || !(apart("x", "w") || apart("y", "h"))
}

/// Place and target of every query of a dashboard; those of variables look like targets.
fn queries(board: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    let name = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push((name(panel, "title"), target.clone()));
        }
    }
    for annotation in board["annotations"]["list"].as_array().unwrap() {
        found.push((name(annotation, "name"), annotation["target"].clone()));
    }
    for variable in board["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            let target = crate::panel::target("table", variable["query"].as_str().unwrap());
            found.push((name(variable, "name"), target));
        }
    }
    found
}

/// All values under `key`, however deep.
fn values<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                if name == key {
                    found.push(inner);
                } else {
                    found.extend(values(inner, key));
                }
            }
        }
        Value::Array(items) => found.extend(items.iter().flat_map(|item| values(item, key))),
        _ => {}
    }
    found
}

fn strings(value: &Value, key: &str) -> Vec<String> {
    let found = values(value, key).into_iter();
    found
        .filter_map(Value::as_str)
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn the_committed_files_are_what_the_generator_makes() {
    let made: BTreeMap<String, String> = files().unwrap().into_iter().collect();
    let there: BTreeSet<String> = committed().into_keys().collect();
    assert!(made.keys().eq(&there), "{there:?}");
    for (name, text) in made {
        let file = directory().join(&name);
        assert!(
            std::fs::read_to_string(&file).unwrap() == text,
            "{name} differs: run `cargo run -p counterfoil-dashboards` and commit it"
        );
    }
}

#[test]
fn every_dashboard_keeps_the_rules() {
    let boards = committed();
    assert_eq!(boards.len(), 5);
    let uids: BTreeSet<String> = boards
        .values()
        .map(|board| board["uid"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(uids.len(), boards.len(), "a uid is taken twice");
    for (name, board) in &boards {
        assert_eq!(faults(board, &uids), Vec::<String>::new(), "{name}");
        assert!(!queries(board).is_empty());
    }
}

#[test]
fn each_planted_fault_is_found() {
    let good = boards().remove(0).json();
    let uids: BTreeSet<String> = boards().iter().map(|board| board.uid.to_owned()).collect();
    assert_eq!(faults(&good, &uids), Vec::<String>::new());
    let plant = |path: &str, value: Value| {
        let mut board = good.clone();
        *board.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
        faults(&board, &uids)
    };
    for (path, value, told) in [
        ("/panels/2/id", 1.into(), "taken"),
        ("/panels/2/gridPos/x", 0.into(), "covers"),
        ("/panels/1/description", "short".into(), "description"),
        (
            "/panels/1/fieldConfig/defaults/unit",
            "parsecs".into(),
            "unit",
        ),
        (
            "/panels/1/targets/0/rawSql",
            "SELECT '$window'".into(),
            "unquoted",
        ),
        (
            "/panels/1/targets/0/rawSql",
            "SELECT ${zone:sqlstring}".into(),
            "unknown",
        ),
        (
            "/panels/1/targets/0/rawSql",
            "DROP VIEW calls".into(),
            "SELECT",
        ),
        ("/panels/1/targets/0/rawQuery", false.into(), "rawQuery"),
        (
            "/panels/1/datasource/uid",
            "P1234".into(),
            "not the variable",
        ),
        ("/links/0/url", "/d/elsewhere".into(), "nowhere"),
        ("/refresh", "5s".into(), "refresh"),
        ("/schemaVersion", 0.into(), "schemaVersion"),
    ] {
        let found = plant(path, value);
        assert!(
            found.iter().any(|fault| fault.contains(told)),
            "{path}: {found:?}"
        );
    }
}

fn yaml(path: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(&file).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_data_source_is_provisioned_with_all_that_grafana_needs() {
    let source = yaml("grafana/provisioning/datasources/counterfoil.yaml");
    let one = &source["datasources"][0];
    assert_eq!(one["type"], "grafana-postgresql-datasource");
    assert_eq!(one["jsonData"]["database"], one["database"]);
    assert!(one["jsonData"]["postgresVersion"].as_u64().unwrap() >= 1500);
    assert_eq!(one["jsonData"]["timescaledb"], false);
    assert_eq!(one["editable"], false);
    let password = one["secureJsonData"]["password"].as_str().unwrap();
    assert!(
        password.starts_with("$COUNTERFOIL_"),
        "the password is not from the environment"
    );
    let known = [
        "name",
        "uid",
        "type",
        "access",
        "url",
        "user",
        "database",
        "isDefault",
        "editable",
        "jsonData",
        "secureJsonData",
    ];
    for key in one.as_object().unwrap().keys() {
        assert!(known.contains(&key.as_str()), "{key}");
    }
}

#[test]
fn the_dashboards_are_provisioned_from_a_folder() {
    let provider = yaml("grafana/provisioning/dashboards/counterfoil.yaml");
    let one = &provider["providers"][0];
    assert_eq!(one["type"], "file");
    assert_eq!(one["allowUiUpdates"], false);
    assert!(one["options"]["path"].as_str().unwrap().starts_with('/'));
}

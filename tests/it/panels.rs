//! Every query of the dashboards, expanded as Grafana does it, over the simple protocol, through the two
//! drivers lib/pq and psycopg, against a real query server over books with known contents.

mod client;
mod grafana;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};

use counterfoil_dashboards::macros::{View, expand};
use serde_json::Value;

use crate::python;
use crate::seed::Story;
use crate::world::{binary, eventually, files, text};
use client::{Answer, Driver};

/// The query role on the books of a story.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(story: &Story) -> Self {
        let config = story.data().join("config/query.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let listen = text
            .lines()
            .find_map(|line| line.strip_prefix("postgres_listen = "));
        let port = listen
            .unwrap()
            .trim_matches('"')
            .rsplit(':')
            .next()
            .unwrap()
            .parse();
        let log = std::fs::File::create(story.folder().join("query.log")).unwrap();
        let child = Command::new(binary("counterfoil"))
            .args(["query", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self {
            child,
            port: port.unwrap(),
        };
        eventually("the SQL endpoint listens", 60, || {
            std::net::TcpStream::connect(("127.0.0.1", server.port)).ok()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One query of a dashboard.
struct Query {
    /// Title of its panel, or name of its annotation or variable.
    name: String,
    format: String,
    sql: String,
    expanded: String,
}

/// The hour of the story, with all that its variables offer chosen.
fn view(story: &Story) -> View {
    let chosen = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    View {
        from: milliseconds(&story.from.to_string()),
        until: milliseconds(&story.until.to_string()),
        epoch_s: (
            story.from.as_ns() / 1_000_000_000,
            story.until.as_ns() / 1_000_000_000,
        ),
        interval_ms: 60_000,
        variables: BTreeMap::from([
            ("service".to_owned(), chosen(&["cart", "pay", "o'brien"])),
            ("operation".to_owned(), chosen(&["", "GetCart", "Charge"])),
            ("window".to_owned(), chosen(&["30 days"])),
        ]),
    }
}

/// A time as panels give it: with three digits of the second.
fn milliseconds(time: &str) -> String {
    let (second, digits) = time.trim_end_matches('Z').split_once('.').unwrap();
    format!("{second}.{}Z", digits.get(..3).unwrap())
}

/// Every query of one of the committed dashboards.
fn queries(view: &View, uid: &str) -> Vec<Query> {
    let file = counterfoil_dashboards::directory().join(format!("{uid}.json"));
    let board: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut view = view.clone();
    if uid == "counterfoil-service" {
        // There one service is chosen.
        view.variables
            .insert("service".to_owned(), vec!["cart".to_owned()]);
    }
    let query = |name: &Value, format: &Value, sql: &Value| {
        let (name, sql) = (name.as_str().unwrap(), sql.as_str().unwrap());
        let expanded = expand(sql, &view).unwrap_or_else(|error| panic!("{uid}, {name}: {error}"));
        Query {
            name: name.to_owned(),
            format: format.as_str().unwrap().to_owned(),
            sql: sql.to_owned(),
            expanded,
        }
    };
    let list = |pointer: &str| board.pointer(pointer).unwrap().as_array().unwrap();
    let panels = list("/panels").iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(|target| query(&panel["title"], &target["format"], &target["rawSql"]))
    });
    let annotations = list("/annotations/list").iter();
    let annotations = annotations.map(|one| {
        query(
            &one["name"],
            &one["target"]["format"],
            &one["target"]["rawSql"],
        )
    });
    let variables = list("/templating/list")
        .iter()
        .filter(|one| one["type"] == "query");
    let variables = variables.map(|one| query(&one["name"], &"table".into(), &one["query"]));
    panels.chain(annotations).chain(variables).collect()
}

/// Panels whose query has no row in the story, because nothing of the kind happened in it.
const EMPTY: &[(&str, &str)] = &[
    // Certificates were issued, and none of another was seen.
    (
        "counterfoil-integrity",
        "Credentials that should not be (report E19)",
    ),
    // No proxy put the revocation's bundle in force: it was never published.
    ("counterfoil-security", "Revocations"),
];

/// What is wrong with an answer, by what Grafana wants.
fn faults(uid: &str, query: &Query, answer: &Answer) -> Vec<String> {
    let mut faults = Vec::new();
    let names: Vec<&str> = answer
        .columns
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    for (name, kind) in &answer.columns {
        if kind.starts_with("oid ") || kind.is_empty() {
            faults.push(format!(
                "column {name} has a type that Grafana does not read: {kind}"
            ));
        }
        if names.iter().filter(|other| *other == name).count() > 1 || name == "?column?" {
            faults.push(format!("column {name} has no name of its own"));
        }
    }
    if answer.rows.is_empty() != EMPTY.contains(&(uid, query.name.as_str())) {
        faults.push(format!("{} rows", answer.rows.len()));
    }
    if query.format == "time_series" {
        faults.extend(time_series_faults(answer));
    }
    faults
}

fn time_series_faults(answer: &Answer) -> Vec<String> {
    let mut faults = Vec::new();
    let Some(time) = answer.columns.iter().position(|(name, _)| name == "time") else {
        return vec!["there is no column time".to_owned()];
    };
    let times: Vec<Option<f64>> = answer.rows.iter().map(|row| row[time].as_f64()).collect();
    if times.contains(&None) {
        faults.push("a time is null".to_owned());
    }
    if !times.is_sorted_by(|a, b| a <= b) {
        faults.push("times do not ascend".to_owned());
    }
    for (name, kind) in &answer.columns {
        let expected: &[&str] = match name.as_str() {
            "time" => &["TIMESTAMPTZ", "FLOAT8", "INT8"],
            "metric" => &["TEXT"],
            _ => &["INT8", "FLOAT8", "NUMERIC"],
        };
        if !expected.contains(&kind.as_str()) {
            faults.push(format!("column {name} is {kind}"));
        }
    }
    faults
}

/// Asks all queries of one dashboard through both drivers at once, and checks every answer.
fn ask_all(uid: &str) -> Answers {
    let story = Story::told();
    let server = Server::start(&story);
    let mut drivers = Driver::all(server.port, story.password());
    let mut faulty = Vec::new();
    let mut answers = BTreeMap::new();
    let queries = queries(&view(&story), uid);
    assert!(queries.len() > 10, "{} queries", queries.len());
    for query in queries {
        let sql = query.expanded.as_str();
        let both: Vec<(&str, Result<Answer, String>)> = std::thread::scope(|scope| {
            let asked = drivers
                .iter_mut()
                .map(|driver| scope.spawn(|| (driver.name, driver.ask(sql))));
            let asked: Vec<_> = asked.collect();
            asked.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let place = format!("dashboard {uid}, {:?}", query.name);
        for (driver, answer) in &both {
            let faults = match answer {
                Ok(answer) => faults(uid, &query, answer),
                Err(error) => vec![format!("{error}\n{sql}")],
            };
            let told = faults
                .iter()
                .map(|fault| format!("{place} through {driver}: {fault}"));
            faulty.extend(told);
        }
        let both: Vec<Answer> = both
            .into_iter()
            .filter_map(|(_, answer)| answer.ok())
            .collect();
        // What depends on the moment of asking differs from one to the other.
        if let [one, other] = both.as_slice()
            && one != other
            && !query.sql.contains("now()")
        {
            faulty.push(format!(
                "{place}: the drivers read it differently: {one:?} {other:?}"
            ));
        }
        if let Some(one) = both.into_iter().next() {
            answers.insert(query.name, one);
        }
    }
    assert!(
        faulty.is_empty(),
        "{} faults:\n{}",
        faulty.len(),
        faulty.join("\n")
    );
    answers
}

/// Answers by what they are for.
type Answers = BTreeMap<String, Answer>;

/// The one value of `column` in the first row of a panel.
fn figure(answers: &Answers, title: &str, column: &str) -> Value {
    answers[title].column(column).next().cloned().unwrap()
}

/// Panel, column and what stands in its first row.
fn first_rows(answers: &Answers, expected: &[(&str, &str, f64)]) {
    for (title, column, expected) in expected {
        let found = figure(answers, title, column);
        let off = number(&found) - expected;
        assert!(
            off.abs() < 1e-6,
            "{title}, {column}: {found}, not {expected}"
        );
    }
}

/// Panel, column and what its rows add up to.
fn sums(answers: &Answers, expected: &[(&str, &str, f64)]) {
    for (title, column, expected) in expected {
        let found: f64 = answers[*title].column(column).map(number).sum();
        assert!(
            (found - expected).abs() < 1e-6,
            "{title}, {column}: {found}, not {expected}"
        );
    }
}

/// Keys that Grafana reads and its model, of an older release, does not know: the target of an annotation is
/// the data source's own matter.
const BEYOND_THE_MODEL: &[&str] = &[
    "annotations.list.target.",
    "panels.options.tooltip.mode",
    "panels.options.tooltip.showColorScale",
    "templating.list.definition",
];

#[test]
fn every_key_and_unit_is_one_that_grafanas_model_knows() {
    let python = python::with("grafana_foundation_sdk", "grafana-foundation-sdk");
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/dashboard_keys.py");
    let unknown = |files: &[std::path::PathBuf]| {
        let output = Command::new(&python)
            .arg(&script)
            .args(files)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let said = text(&output.stdout);
        let unknown = said.lines().filter(|line| {
            let key = line.split_once(' ').unwrap().1;
            !BEYOND_THE_MODEL.iter().any(|known| key.starts_with(known))
        });
        unknown.map(str::to_owned).collect::<Vec<_>>()
    };
    let boards = files(&counterfoil_dashboards::directory());
    assert_eq!(boards.len(), 5);
    assert_eq!(unknown(&boards), Vec::<String>::new());

    let folder = tempfile::tempdir().unwrap();
    let misspelt = folder.path().join("misspelt.json");
    let board = std::fs::read_to_string(&boards[0]).unwrap();
    let board = board
        .replace("\"lineWidth\"", "\"lineWith\"")
        .replace("\"reqps\"", "\"furlongs\"");
    std::fs::write(&misspelt, board).unwrap();
    let found = unknown(&[misspelt]);
    let expected = [
        "misspelt.json panels.fieldConfig.defaults.custom.lineWith",
        "misspelt.json unit furlongs",
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_fleet_is_shown_as_it_was() {
    let answers = ask_all("counterfoil-fleet");
    // 600 calls of cart, of which five failed, and 120 of pay; in roll-ups the half without counterpart waits.
    // Five in a thousand of 601 calls may fail.
    let left = 1.0 - 5.0 / (601.0 * 0.005);
    let expected = [
        ("Calls answered well", "answered", 715.0 / 720.0),
        ("Objectives in breach", "breached", 1.0),
        ("Objectives met", "met", 0.75),
        ("Least error budget left", "budget_left", left),
        ("Objectives by error budget", "bad", 5.0),
        ("Burn rates", "burn_3d", 1.0 - left),
    ];
    first_rows(&answers, &expected);
    assert_eq!(answers["Objectives by error budget"].texts(0)[0], "cart");
    assert_eq!(answers["service"].texts(0), ["cart", "pay"]);
}

#[test]
fn a_service_is_shown_as_it_was() {
    let answers = ask_all("counterfoil-service");
    let expected = [
        ("Calls", "calls", 600.0),
        ("Failed", "failed", 5.0 / 600.0),
        ("Denied calls", "denied", 0.0),
        ("By caller", "calls", 600.0),
    ];
    first_rows(&answers, &expected);
    let expected = [
        ("Calls by outcome", "calls", 600.0),
        ("Failed calls by status and cause", "calls", 5.0),
        ("Durations", "n", 600.0),
    ];
    sums(&answers, &expected);
    // Nine of ten calls take 4 ms, the tenth 40 ms.
    let heatmap = &answers["Durations"];
    let mut buckets: BTreeMap<&str, i64> = BTreeMap::new();
    for (bucket, n) in heatmap.column("metric").zip(heatmap.column("n")) {
        *buckets.entry(bucket.as_str().unwrap()).or_default() += n.as_i64().unwrap();
    }
    buckets.retain(|_, n| *n > 0);
    assert_eq!(buckets, BTreeMap::from([("5", 540), ("50", 60)]));
    let minutes: BTreeSet<String> = heatmap.column("time").map(Value::to_string).collect();
    assert_eq!(minutes.len(), 60);
    for (column, ms) in [("P50", 4.0), ("P90", 4.0), ("P99", 40.0), ("P99.9", 40.0)] {
        let found = number(&figure(&answers, "Percentiles of the duration", column));
        // Histograms tell a thousandth apart.
        assert!((found / 1e6 / ms - 1.0).abs() < 0.001, "{column}: {found}");
    }
    assert_eq!(answers["operation"].texts(0), ["GetCart"]);
}

#[test]
fn alerts_and_holds_are_shown_as_they_stand() {
    let fleet = ask_all("counterfoil-fleet");
    assert_eq!(figure(&fleet, "Alerts that stand", "service"), "pay");
    first_rows(&fleet, &[("Alerts that stand", "value", 20.5)]);
    assert_eq!(figure(&fleet, "Changes of alerts", "reason"), "recovered");
    let integrity = ask_all("counterfoil-integrity");
    let hold = "Legal holds that bind";
    assert_eq!(figure(&integrity, hold, "matter"), "2026/17");
    assert_eq!(figure(&integrity, "Steps of retention", "reason"), "held");
    first_rows(&integrity, &[("Steps of retention", "records", 7.0)]);
}

#[test]
fn the_overhead_is_shown_as_it_was() {
    let answers = ask_all("counterfoil-overhead");
    let mesh = "The mesh against its target";
    let expected = [
        (mesh, "overhead_p99_ns", 300_000.0),
        (mesh, "own_p99_ns", 300_000.0),
        // 720 calls and five denied ones, less the one that did not go over the mesh.
        (mesh, "n", 724.0),
        ("Calls that cost more than 2 ms", "slow", 0.0),
    ];
    first_rows(&answers, &expected);
    assert_eq!(figure(&answers, mesh, "verdict"), "met");
    sums(&answers, &[("Cost of both proxies", "n", 719.0)]);
}

#[test]
fn refused_access_is_shown_as_it_was() {
    let answers = ask_all("counterfoil-security");
    let expected = [
        ("Denied calls", "denied", 5.0),
        ("Refused handshakes", "refused", 3.0),
        ("Entries without mutual TLS", "plain", 1.0),
        ("Calls without a valid grant", "findings", 0.0),
        ("Denied callers and operations", "denied", 4.0),
    ];
    first_rows(&answers, &expected);
    let expected = [
        ("Denied calls by reason", "denied", 5.0),
        ("Token problems by reason", "denied", 1.0),
        ("Refused handshakes by reason", "refused", 3.0),
        ("What proposed rights would break", "calls", 7.0),
        ("Bundles put in force, by outcome", "acks", 3.0),
    ];
    sums(&answers, &expected);
}

#[test]
fn holes_certificates_and_questions_are_shown_as_they_were() {
    let answers = ask_all("counterfoil-integrity");
    let mesh = "Mesh availability against 99.95 %";
    let expected = [
        ("Entries due and present", "missing", 1.0),
        ("Open gaps", "open_gaps", 1.0),
        ("Unmatched entries", "unmatched", 1.0),
        ("Rotation success against 99.9 %", "success_rate", 0.9),
        (mesh, "availability", 348.0 / 360.0),
        (mesh, "downtime_s", 120.0),
    ];
    first_rows(&answers, &expected);
    let expected = [
        ("Renewals by outcome", "attempts", 10.0),
        ("Statements asked, by person and outcome", "statements", 7.0),
    ];
    sums(&answers, &expected);
    assert_eq!(answers["Slots that were not up"].rows.len(), 12);
    let age = number(&figure(&answers, "Age of the newest entry", "age"));
    assert!((30.0..900.0).contains(&age), "{age}");
}

/// Numerics come as text from both drivers.
fn number(value: &Value) -> f64 {
    let text = value.as_str().and_then(|text| text.parse().ok());
    value
        .as_f64()
        .or(text)
        .unwrap_or_else(|| panic!("{value} is no number"))
}

//! Roll-ups against the entries that they are made of.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::world::{Demo, counterfoil, number, rows, text};

/// Rows by the words that name them.
fn by(rows: Vec<Map<String, Value>>, names: &[&str]) -> BTreeMap<String, Map<String, Value>> {
    let key = |row: &Map<String, Value>| {
        let words = names
            .iter()
            .map(|name| row.get(*name).unwrap_or(&Value::Null).to_string());
        words.collect::<Vec<_>>().join(" ")
    };
    rows.into_iter().map(|row| (key(&row), row)).collect()
}

/// The error budgets are what the SLA's counts make of them.
fn budgets_follow(data: &Path, long: &BTreeMap<String, Map<String, Value>>, named: &[&str]) {
    let budgets = by(rows(data, "select * from error_budget"), named);
    assert!(budgets.keys().eq(long.keys()), "{budgets:?}");
    for (key, budget) in budgets.iter().filter(|(_, row)| row["total"] != 0) {
        let figure = |name: &str| budget[name].as_f64().unwrap();
        let bad = long[key]["total"].as_f64().unwrap() - long[key]["good"].as_f64().unwrap();
        let allowed = figure("total") * (1.0 - figure("target"));

        let off = [
            figure("bad") - bad,
            figure("budget") - allowed,
            figure("budget_left") - (allowed - bad),
            figure("budget_left_share") - (1.0 - bad / allowed),
            figure("burn_rate") - bad / allowed,
        ];
        assert!(off.iter().all(|off| off.abs() < 1e-6), "{key}: {budget:?}");
    }
}

/// What the mesh costs is the same from the entries and from roll-ups, to the precision of histograms.
fn overheads_follow(data: &Path, day: &str) {
    for (view, names) in [
        ("latency_overhead", &["scope", "destination"][..]),
        ("e47", &["scope", "destination", "proxy"]),
    ] {
        let of = |window: &str| {
            by(
                rows(data, &format!("select * from {view}({window})")),
                names,
            )
        };
        let (exact, rolled) = (
            of(&format!("'{day}', null")),
            of("'2020-01-01T00:00:00Z', null"),
        );
        assert!(
            exact.len() > 5 && exact.keys().eq(rolled.keys()),
            "{exact:?} {rolled:?}"
        );
        assert!(
            rolled.keys().eq(of("").keys()),
            "the default window is a long one"
        );
        let told = exact
            .values()
            .filter(|row| !row["own_p99_ns"].is_null())
            .count();
        assert!(told > 0, "no figure of {view} has its sample: {exact:?}");
        for (key, exact) in &exact {
            let rolled = &rolled[key];
            let size = |name: &str| exact[name].as_i64().unwrap_or(0).abs();
            let whole = size("p99_with_mesh_high_ns") + size("p99_without_mesh_high_ns");
            for (name, exact) in exact {
                let off = match (exact.as_i64(), rolled[name].as_i64()) {
                    (Some(exact), Some(rolled)) => (rolled - exact).abs(),
                    _ => i64::from(exact != &rolled[name]) * i64::MAX,
                };
                let allowed = match name.as_str() {
                    "n" | "n_needed" | "target_ns" => 0,
                    name if name.starts_with("overhead_") => whole / 1_000 + 2,
                    name if name.ends_with("_ns") => size(name) / 1_000 + 1,
                    // A difference at the target may fall to either side of it.
                    "verdict"
                        if (size("overhead_p99_ns") - 2_000_000).abs() <= whole / 1_000 + 2 =>
                    {
                        i64::MAX
                    }
                    _ => 0,
                };
                assert!(off <= allowed, "{key} {name}: {exact} {rolled:?}");
            }
        }
    }
}

#[test]
fn long_windows_tell_the_same_as_the_entries_and_folding_anew_changes_nothing() {
    let mut demo = Demo::start(&["--for", "14s", "--rate", "20"]);
    demo.finish_well();
    let data = demo.data();
    let entries = "select count(*) from entries where phase = 'final' and kind <> 'tls_failure'";
    let rolled = "select sum(n) from rollup_1m where side <> 'call'";
    assert_eq!(number(data, rolled), number(data, entries));
    assert_eq!(
        number(data, "select sum(n) from rollup_1m where side = 'call'"),
        number(data, "select count(*) from calls"),
    );

    let named = ["objective", "service", "measure"];
    // A short window is counted from the entries, a long one from roll-ups.
    let short = "select * from sla('%day%', null)";
    let day = &rows(
        data,
        "select min(start_time) - interval '1 hour' as day from entries",
    )[0]["day"];
    let short = short.replace("%day%", day.as_str().unwrap());
    let short = by(rows(data, &short), &named);
    let long = by(
        rows(data, "select * from sla('2020-01-01T00:00:00Z', null)"),
        &named,
    );
    assert!(
        short.len() > 10 && short.keys().eq(long.keys()),
        "{short:?} {long:?}"
    );
    for (key, short) in &short {
        let (total, good) = (short["total"].as_i64(), short["good"].as_i64());
        assert_eq!(total, long[key]["total"].as_i64(), "{key}");
        let off = good.unwrap() - long[key]["good"].as_i64().unwrap();
        let allowed = i64::from(key.contains("latency"));
        assert!(off.abs() <= allowed, "{key}: {short:?} {:?}", long[key]);
    }

    budgets_follow(data, &long, &named);
    overheads_follow(data, day.as_str().unwrap());

    let exact = "select duration_ns from entries where side = 'server' and phase = 'final' and kind <> 'tls_failure' \
                 and duration_ns is not null order by duration_ns";
    let exact: Vec<_> = rows(data, exact)
        .iter()
        .map(|row| row["duration_ns"].as_i64().unwrap())
        .collect();
    let found = "select hdr_count(hdr_merge(duration)) as n, hdr_quantile(hdr_merge(duration), 0.5) as p50, \
                 hdr_quantile(hdr_merge(duration), 0.99) as p99 from rollup_1m where side = 'server'";
    let found = &rows(data, found)[0];
    assert_eq!(found["n"].as_u64(), Some(exact.len() as u64));
    for (name, q) in [("p50", 50), ("p99", 99)] {
        let exact = exact[(exact.len() * q).div_ceil(100) - 1];
        let off = found[name].as_i64().unwrap() - exact;
        assert!(
            (0..=exact / 1_000 + 1).contains(&off),
            "{name}: {off} of {exact}"
        );
    }

    let all = "select time, source_app, destination_app, api, operation, side, outcome, decision, measured, n, \
               duration, overhead, upstream from rollup_1m order by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11";
    let before = rows(data, all);
    let rebuilt = counterfoil(&["rebuild", "rollups", "--data-dir", data.to_str().unwrap()]);
    assert!(rebuilt.status.success(), "{}", text(&rebuilt.stderr));
    assert_eq!(rows(data, all), before);
}

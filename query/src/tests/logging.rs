//! Reports on the record keeping itself, on those who ask, and on what the mesh costs.

use counterfoil_entry::rows::{GapRow, QueryLogRow};
use counterfoil_entry::statement::StatementKind;
use counterfoil_entry::{Time, clock};
use serde_json::{Value, json};

use super::estate::{CART, Estate, MS, S, ask};
use super::shop::Shop;
use crate::offline;

const REGULAR: StatementKind = StatementKind::Regular;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completeness_tells_each_stream_and_finds_what_is_missing_lost_or_one_sided() {
    let mut estate = Estate::clean();
    let at = estate.opened.plus_ns(100 * S);
    estate.state(at);
    let sql = "select scope, verdict, finding, complete from e11 where scope = 'total' or finding is not null \
               order by scope";
    let total = |verdict: &str, finding: Option<&str>| json!({"scope": "total", "verdict": verdict, "finding": finding, "complete": verdict == "met"});
    assert_eq!(estate.ask(sql).await, json!([total("met", None)]));
    let streams = "select count(*) as n, count(case when verdict = 'met' and complete and due = present \
                   then 1 end) as whole, count(distinct table_name) > 5 as tables from e11 where scope = 'stream'";
    let streams = estate.ask(streams).await;
    assert_eq!(streams[0]["n"], streams[0]["whole"], "{streams}");
    assert_eq!(streams[0]["tables"], json!(true));
    // web lost one entry and dropped two, cart's half of one call never was.
    estate.shop.lose(&mut estate.web);
    let (client, _) = estate.shop.call(&estate.web, &estate.cart, "GetCart");
    estate.shop.write(&mut estate.web, &client);
    estate.shop.state(&mut estate.web, REGULAR, 2);
    estate.shop.gap("cart", 7, Some("entries/ops_90d/0"), 1);
    let columns = "select split_part(writer, '/', 5) as writer, table_name, missing, dropped, one_sided, gaps_open, \
                   finding, verdict, complete from";
    let found = format!("{columns} e11 where finding is not null order by scope, writer");
    let row = |writer: Option<&str>, counts: [i64; 4], finding: &str| {
        json!({"writer": writer, "table_name": writer.map(|_| "entries"), "missing": counts[0],
          "dropped": counts[1], "one_sided": counts[2], "gaps_open": counts[3], "finding": finding,
          "verdict": "missed", "complete": false})
    };
    assert_eq!(
        estate.ask(&found).await,
        json!([
            row(Some("cart#1"), [0, 0, 0, 1], "gap_open"),
            row(Some("web#1"), [1, 2, 1, 0], "missing,dropped,one_sided"),
            row(None, [1, 2, 1, 1], "missing,dropped,one_sided,gap_open"),
        ])
    );
    // Each scope by itself.
    let of = |scope: &str| format!("{columns} e11(null, null, '{scope}') where scope = 'total'");
    let good = estate.ask(&of("grants")).await;
    assert_eq!(
        (&good[0]["verdict"], &good[0]["complete"]),
        (&json!("met"), &json!(true))
    );
    let bad = estate.ask(&of(CART)).await;
    assert_eq!(bad, json!([row(None, [0, 0, 0, 1], "gap_open")]));
    for nobody in ["nobody", "it''s"] {
        let none = estate.ask(&of(nobody)).await;
        assert_eq!(none[0]["verdict"], json!("insufficient"));
    }
    let wrong = offline::query(
        estate.shop.path(),
        None,
        "select * from sla(null, null, 'x')",
    )
    .await;
    assert!(
        wrong
            .unwrap_err()
            .to_string()
            .contains("takes no arguments")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_that_others_see_and_that_keep_no_records_are_found() {
    let mut estate = Estate::clean();
    let opened = estate.opened;
    let at = |s: i64| opened.plus_ns(s * S);
    let times = [at(20), at(25), at(30), at(40)];
    estate.state(at(15));
    let clean = "select count(*) as n from e14";
    assert_eq!(estate.ask(clean).await, json!([{"n": 0}]));
    // ghost was called twice by web, and called cart once; nothing of its own came.
    let ghost = estate.shop.proxy("ghost");
    for (nth, time) in times.iter().enumerate() {
        let (mut client, mut server) = match nth {
            0 | 1 => estate.shop.call(&estate.web, &ghost, "GetIt"),
            _ => estate.shop.call(&ghost, &estate.cart, "GetCart"),
        };
        for half in [&mut client, &mut server] {
            half.start_time = *time;
            half.end_time = Some(time.plus_ns(5 * MS));
        }
        match nth {
            0 | 1 => estate.shop.write(&mut estate.web, &client),
            2 => estate.shop.write(&mut estate.cart, &server),
            // Who only claimed to be there was not seen.
            _ => {
                server.mtls = false;
                estate.shop.write(&mut estate.cart, &server);
            }
        }
    }
    let sql = "select finding, workload, entries, seen_as_callee, seen_as_caller, peers, first_seen, last_seen, \
               silent_from from e14";
    assert_eq!(
        estate.ask(sql).await,
        json!([{"finding": "no_records", "workload": "spiffe://shop.test/workload/ghost", "entries": 3,
          "seen_as_callee": 2, "seen_as_caller": 1, "peers": 2, "first_seen": pg(times[0]),
          "last_seen": pg(times[2]), "silent_from": null}])
    );
    let later = format!("select count(*) as n from e14('{}', null)", times[3]);
    assert_eq!(ask(&estate.shop, &later).await, json!([{"n": 0}]));
}

/// A time as answers in JSON show it: to the microsecond, in groups of three digits.
fn pg(at: Time) -> String {
    let ns = at.as_ns();
    let text = Time::from_ns(ns - ns.rem_euclid(1_000)).to_string();
    // What is cut first are the nanoseconds, which are 0 now.
    let text = text.trim_end_matches("000Z").trim_end_matches("000");
    format!("{}Z", text.trim_end_matches('.'))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_say_nothing_while_others_see_them_are_found() {
    let mut estate = Estate::clean();
    let opened = estate.opened;
    let at = |s: i64| opened.plus_ns(s * S);
    let (first, second, last) = (at(100), at(400), at(900));
    let calls = [at(150), at(161), at(399), at(450)];
    estate.state(first);
    for time in calls {
        estate.call("GetCart", time, |_| {});
    }
    // cart is silent between 100 and 400, web speaks in time.
    estate.shop.now = at(155);
    for seconds in [155, 210, 265, 320, 375] {
        estate.shop.now = at(seconds);
        estate.shop.state(&mut estate.web, REGULAR, 0);
    }
    estate.state(second);
    for seconds in (450..=900).step_by(50) {
        estate.state(at(seconds));
    }
    estate.shop.now = last;
    let sql = "select finding, workload, entries, seen_as_callee, first_seen, last_seen, silent_from, silent_until \
               from e14";
    let found = json!([{"finding": "silent", "workload": CART, "entries": 2, "seen_as_callee": 2,
      "first_seen": pg(calls[1]), "last_seen": pg(calls[2]), "silent_from": pg(first),
      "silent_until": pg(second)}]);
    assert_eq!(estate.ask(sql).await, found);
    // A silence that lasts.
    let end = last.plus_ns(100 * S);
    estate.call("GetCart", end, |_| {});
    estate.shop.now = last.plus_ns(50 * S);
    estate.shop.state(&mut estate.web, REGULAR, 0);
    let sql = format!("select workload, entries, silent_until from e14('{last}', null)");
    assert_eq!(
        estate.ask(&sql).await,
        json!([{"workload": CART, "entries": 1, "silent_until": null}])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_record_keeping_are_told_with_their_length_cause_and_remedy() {
    let mut shop = Shop::open();
    let from = shop.now;
    let until = from.plus_ns(90 * S);
    let gap = |shop: &Shop, id: &str, revision: u64| GapRow {
        not_before: Some(from),
        not_after: Some(until),
        opened_at: until,
        ..shop.silence(id, "web", revision)
    };
    let open = gap(&shop, "open", 0);
    shop.put_gap(&open);
    for (id, explanation, ticket) in [
        ("healed", None, None),
        (
            "explained",
            Some("the disk was full; it has been replaced"),
            Some("T-7"),
        ),
        ("blank", Some(" "), None),
    ] {
        let opened = gap(&shop, id, 0);
        shop.put_gap(&opened);
        let closed = GapRow {
            revision: 1,
            closed_at: Some(until.plus_ns(S)),
            explanation: explanation.map(ToOwned::to_owned),
            ticket: ticket.map(ToOwned::to_owned),
            ..opened
        };
        shop.put_gap(&closed);
    }
    let unbounded = GapRow {
        not_before: None,
        not_after: None,
        ..gap(&shop, "unbounded", 0)
    };
    shop.put_gap(&unbounded);
    let sql = "select gap_id, started_at, ended_at, round(duration_s) as s, cause, detected_by, restored_at, \
               remediation, ticket, finding, why, split_part(writer, '/', 5) as writer from e31 \
               where gap_id <> 'unbounded' order by gap_id";
    let row =
        |id: &str, restored: bool, remedy: (Option<&str>, Option<&str>), why: Option<&str>| {
            json!({"gap_id": id, "started_at": pg(from), "ended_at": pg(until), "s": 90.0,
          "cause": "silence", "detected_by": "silence",
          "restored_at": restored.then(|| pg(until.plus_ns(S))), "remediation": remedy.0,
          "ticket": remedy.1, "finding": why.is_some(), "why": why, "writer": "web#1"})
        };
    let explained = (Some("the disk was full; it has been replaced"), Some("T-7"));
    assert_eq!(
        ask(&shop, sql).await,
        json!([
            row("blank", true, (Some(" "), None), Some("closed_unexplained")),
            row("explained", true, explained, None),
            row("healed", true, (None, None), Some("closed_unexplained")),
            row("open", false, (None, None), Some("open")),
        ])
    );
    // Nobody knows when the last one began or ended: from when it was noticed, until now.
    let sql = "select started_at, ended_at, duration_s > 500 as lasts, why from e31 where gap_id = 'unbounded'";
    assert_eq!(
        ask(&shop, sql).await,
        json!([{"started_at": pg(until), "ended_at": null, "lasts": true, "why": "open"}])
    );
    // Gaps count where they touch the window.
    let ids = |window: String| format!("select gap_id from e31({window}) order by gap_id");
    let before = ask(&shop, &ids(format!("null, '{from}'"))).await;
    assert_eq!(before, json!([]));
    let after = ask(&shop, &ids(format!("'{}', null", until.plus_ns(2 * S)))).await;
    assert_eq!(after, json!([{"gap_id": "unbounded"}]));
    let summary = "select verdict from report_summary where id = 'E31'";
    assert_eq!(ask(&shop, summary).await, json!([{"verdict": "findings"}]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asked_what_is_told_and_questions_without_purpose_or_end_are_marked() {
    let mut estate = Estate::open();
    let at = estate.opened;
    let mut ask = |id: &str, phase: &str, edit: &dyn Fn(&mut QueryLogRow)| {
        estate.question(id, phase, at, |row| edit(row));
    };
    let good: &dyn Fn(&mut QueryLogRow) = &|_| {};
    let no_purpose: &dyn Fn(&mut QueryLogRow) = &|row| row.purpose = Some("  ".into());
    ask("a-good", "start", good);
    ask("a-good", "end", good);
    ask("b-blank", "start", no_purpose);
    ask("b-blank", "end", no_purpose);
    let catalogue: &dyn Fn(&mut QueryLogRow) = &|row| {
        row.purpose = None;
        row.tables = vec![
            "pg_catalog.pg_class".into(),
            "information_schema.tables".into(),
        ];
    };
    ask("c-catalogue", "start", catalogue);
    ask("c-catalogue", "end", catalogue);
    ask("d-endless", "start", good);
    ask("e-refused", "refused", &|row| {
        row.purpose = None;
        row.sqlstate = Some("25006".into());
        row.outcome = Some("refused".into());
    });
    let both: &dyn Fn(&mut QueryLogRow) = &|row| {
        row.purpose = None;
        row.tables.push("pg_catalog.pg_class".into());
    };
    ask("f-both", "start", both);
    let young = clock::wall().plus_ns(-60 * S);
    estate.question("g-running", "start", young, |_| {});
    let sql = "select query_id, principal, purpose, tables, \"rows\", bytes, outcome, sqlstate, known, finding, why \
               from e17 order by query_id";
    let row = |id: &str, ended: bool, why: Option<&str>| {
        json!({"query_id": id, "principal": "ann", "purpose": "review 7", "tables": "entries",
          "rows": ended.then_some(3), "bytes": ended.then_some(99), "outcome": ended.then_some("ok"),
          "sqlstate": null, "known": null, "finding": why.is_some(), "why": why})
    };
    let mut expected = vec![
        row("a-good", true, None),
        row("b-blank", true, Some("no_purpose")),
        row("c-catalogue", true, None),
        row("d-endless", false, Some("never_ended")),
        row("e-refused", false, None),
        row("f-both", false, Some("no_purpose,never_ended")),
        row("g-running", false, None),
    ];
    expected[1]["purpose"] = json!("  ");
    expected[2]["purpose"] = json!(null);
    expected[2]["tables"] = json!("pg_catalog.pg_class,information_schema.tables");
    expected[4]["purpose"] = json!(null);
    expected[4]["outcome"] = json!("refused");
    expected[4]["sqlstate"] = json!("25006");
    expected[5]["purpose"] = json!(null);
    expected[5]["tables"] = json!("entries,pg_catalog.pg_class");
    assert_eq!(estate.ask(sql).await, Value::Array(expected));
}

/// Calls of web to cart and of cart to web, of which cart's proxy takes `slow_ns`.
fn slow(calls: u64, slow_ns: u64) -> Shop {
    let mut shop = Shop::open();
    let (mut web, mut cart, mut stock) =
        (shop.proxy("web"), shop.proxy("cart"), shop.proxy("stock"));
    for n in 0..calls {
        let (mut client, mut server) = shop.call(&web, &cart, "GetCart");
        client.duration_ns = Some(1_000_000 + n * 1_000 + slow_ns);
        server.overhead_ns = Some(100_000 + slow_ns);
        shop.write(&mut web, &client);
        shop.write(&mut cart, &server);
        let (client, server) = shop.call(&web, &stock, "GetStock");
        shop.write(&mut web, &client);
        shop.write(&mut stock, &server);
    }
    shop
}

/// Figures of up to ten milliseconds, row by row; all else is equal.
fn same_to_a_thousandth(rolled: &Value, exact: &Value) {
    let (rolled, exact) = (rolled.as_array().unwrap(), exact.as_array().unwrap());
    assert_eq!(rolled.len(), exact.len());
    for (rolled, exact) in rolled.iter().zip(exact) {
        for (name, exact) in exact.as_object().unwrap() {
            match (rolled[name].as_i64(), exact.as_i64()) {
                (Some(found), Some(exact)) => {
                    assert!((found - exact).abs() <= 10_000, "{name}: {found} {exact}");
                }
                _ => assert_eq!(&rolled[name], exact, "{name}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_proxy_is_found_by_its_destination_and_by_its_name() {
    let sql = |window: &str| {
        format!(
            "select scope, coalesce(destination, proxy, '') as who, n, overhead_p99_ns as overhead, own_p99_ns as own, \
             verdict, formula from e47({window}) order by scope, who"
        )
    };
    let day = format!("'{}', null", clock::wall().plus_ns(-86_400 * S));
    let (added, own) = (
        "P99(client duration) - P99(client duration - client overhead - server overhead)",
        "P99(overhead of this proxy)",
    );
    let row = |scope: &str,
               who: &str,
               n: i64,
               overhead: Option<i64>,
               own_ns: i64,
               verdict: &str| {
        let formula = if scope == "proxy" { own } else { added };
        json!({"scope": scope, "who": who, "n": n, "overhead": overhead, "own": own_ns, "verdict": verdict,
          "formula": formula})
    };
    let shop = slow(500, 3_000_000);
    assert_eq!(
        ask(&shop, &sql(&day)).await,
        json!([
            row(
                "destination",
                "cart",
                500,
                Some(3_300_000),
                3_300_000,
                "missed"
            ),
            row("destination", "stock", 500, Some(300_000), 300_000, "met"),
            row("mesh", "", 1_000, Some(300_000), 3_300_000, "met"),
            row("proxy", "cart", 500, None, 3_100_000, "missed"),
            row("proxy", "stock", 500, None, 100_000, "met"),
            row("proxy", "web", 1_000, None, 200_000, "met"),
        ])
    );
    // From histograms it is the same to a thousandth.
    let exact = ask(&shop, &sql(&day)).await;
    same_to_a_thousandth(&ask(&shop, &sql("")).await, &exact);
    let summary = "select verdict from report_summary where id = 'E47'";
    assert_eq!(ask(&shop, summary).await, json!([{"verdict": "met"}]));
    let few = ask(&slow(100, 3_000_000), &sql(&day)).await;
    let verdicts = few
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["verdict"].as_str().unwrap());
    assert!(verdicts.eq(["insufficient"; 6]), "{few}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_calls_have_no_overhead_told_from_entries_or_histograms() {
    let shop = Shop::open();
    let day = format!("'{}', null", clock::wall().plus_ns(-86_400 * S));
    for window in [day.as_str(), ""] {
        let sql = format!(
            "select scope, n, p99_with_mesh_ns, own_p50_ns, verdict from latency_overhead({window})"
        );
        assert_eq!(
            ask(&shop, &sql).await,
            json!([{"scope": "mesh", "n": 0, "p99_with_mesh_ns": null, "own_p50_ns": null,
              "verdict": "insufficient"}])
        );
    }
}

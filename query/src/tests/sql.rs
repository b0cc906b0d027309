//! What the views answer, and that each entry is there exactly once at any time.

use std::sync::Arc;

use counterfoil_entry::statement::StatementKind;
use counterfoil_entry::word::{Decision, Outcome, Phase};
use counterfoil_entry::{Time, clock};
use serde_json::{Value, json};

use super::estate::ask;
use super::shop::Shop;
use crate::offline;
use crate::{Books, json as rows_json};

/// One of each: matched, mismatch, denied by the callee, denied by the caller, retried, unmatched
/// halves, too young to be unmatched, and an open phase.
fn busy() -> Shop {
    let mut shop = Shop::open();
    let (mut web, mut cart) = (shop.proxy("web"), shop.proxy("cart"));
    shop.matched(&mut web, &mut cart, "GetCart");
    let (client, mut server) = shop.call(&web, &cart, "Mismatch");
    server.response_bytes = Some(21);
    shop.write(&mut web, &client);
    shop.write(&mut cart, &server);
    let (mut client, mut server) = shop.call(&web, &cart, "DeniedThere");
    client.status = Some(403);
    client.outcome = Some(Outcome::ClientError);
    server.status = Some(403);
    server.outcome = Some(Outcome::Denied);
    server.decision = Decision::Deny;
    server.reason = Arc::from("grant_none");
    shop.write(&mut web, &client);
    shop.write(&mut cart, &server);
    let (mut client, _) = shop.call(&web, &cart, "DeniedHere");
    client.status = Some(403);
    client.outcome = Some(Outcome::Denied);
    client.decision = Decision::Deny;
    client.reason = Arc::from("route_unknown");
    client.mtls = false;
    shop.write(&mut web, &client);
    let (client, mut server) = shop.call(&web, &cart, "Unread");
    server.request_bytes = Some(3);
    server.error_type = Some("request_incomplete".into());
    shop.write(&mut web, &client);
    shop.write(&mut cart, &server);
    let (mut client, server) = shop.call(&web, &cart, "Retried");
    client.retried = true;
    client.outcome = Some(Outcome::Unavailable);
    shop.write(&mut web, &client);
    shop.write(&mut cart, &server);
    let (client, _) = shop.call(&web, &cart, "NoServer");
    shop.write(&mut web, &client);
    let (_, server) = shop.call(&web, &cart, "NoClient");
    shop.write(&mut cart, &server);
    let (mut client, _) = shop.call(&web, &cart, "Young");
    client.end_time = Some(clock::wall());
    shop.write(&mut web, &client);
    let (mut open, _) = shop.call(&web, &cart, "StillOpen");
    open.phase = Phase::Open;
    open.end_time = None;
    open.duration_ns = None;
    open.outcome = None;
    shop.write(&mut web, &open);
    shop
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_pair_the_halves_and_say_what_is_due_matched_and_agrees() {
    let mut shop = busy();
    for sealed in [false, true] {
        if sealed {
            shop.seal(true);
        }
        let calls = ask(
            &shop,
            "select operation, outcome, decision, reason, due, matched, agrees, source, destination, \
             network_ns from calls order by start_time",
        )
        .await;
        let expected = [
            "GetCart ok allow granted true true true",
            "Mismatch ok allow granted true true false",
            "DeniedThere denied deny grant_none true true true",
            "DeniedHere denied deny route_unknown false false null",
            "Unread ok allow granted true true true",
            "NoServer ok allow granted true false null",
            "NoClient ok allow granted true false null",
            "Young ok allow granted true false null",
        ];
        let columns = [
            "operation",
            "outcome",
            "decision",
            "reason",
            "due",
            "matched",
            "agrees",
        ];
        let row = |row: &Value| {
            assert_eq!(
                (&row["source"], &row["destination"]),
                (&json!("web"), &json!("cart"))
            );
            columns
                .map(|column| row[column].to_string().replace('"', ""))
                .join(" ")
        };
        let found: Vec<String> = calls.as_array().unwrap().iter().map(row).collect();
        assert_eq!(found, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_due_halves_past_the_grace_time_are_unmatched_and_denials_name_their_reason() {
    let shop = busy();
    let unmatched = ask(
        &shop,
        "select operation, side from unmatched order by start_time",
    )
    .await;
    assert_eq!(
        unmatched,
        json!([
            {"operation": "NoServer", "side": "client"},
            {"operation": "NoClient", "side": "server"},
        ])
    );
    let denials = ask(
        &shop,
        "select operation, side, reason from denials order by start_time",
    )
    .await;
    assert_eq!(
        denials,
        json!([
            {"operation": "DeniedThere", "side": "server", "reason": "grant_none"},
            {"operation": "DeniedHere", "side": "client", "reason": "route_unknown"},
        ])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_is_there_once_before_during_and_after_its_seal() {
    let mut shop = Shop::open();
    let (mut web, mut cart) = (shop.proxy("web"), shop.proxy("cart"));
    let books = Books::open(shop.path()).unwrap();
    let count = |books: &Books| {
        let snapshot = books.snapshot().unwrap();
        let id = counterfoil_entry::table::TableId::Entries;
        let sealed: u64 = snapshot
            .segments(id)
            .map(|(_, segment)| segment.count)
            .sum();
        let tail: usize = snapshot.tail(id).iter().map(|batch| batch.num_rows()).sum();
        (sealed, tail)
    };
    shop.matched(&mut web, &mut cart, "A");
    assert_eq!(count(&books), (0, 2));
    shop.matched(&mut web, &mut cart, "B");
    assert_eq!(
        count(&books),
        (0, 4),
        "a later snapshot reads the new bytes"
    );
    shop.append(b"\x00\x00");
    assert_eq!(count(&books), (0, 4), "half a frame is not read");
    shop.seal(false);
    assert_eq!(count(&books), (4, 0), "sealed but not yet trimmed");
    shop.trim(1);
    assert_eq!(count(&books), (4, 0));
    shop.matched(&mut web, &mut cart, "C");
    assert_eq!(count(&books), (4, 2));
    let rows = ask(
        &shop,
        "select count(*) as n, count(distinct span_id) as d from entries",
    )
    .await;
    assert_eq!(rows, json!([{"n": 6, "d": 6}]));
    shop.trim(2);
    assert!(
        books.snapshot().is_err(),
        "a lost journal is not an empty one"
    );
    std::fs::remove_dir_all(shop.path().join("journal")).unwrap();
    assert_eq!(count(&books), (4, 0), "a copy of the books alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completeness_is_right_with_an_unstated_tail_and_after_a_loss() {
    let mut shop = Shop::open();
    let (mut web, mut cart) = (shop.proxy("web"), shop.proxy("cart"));
    for operation in ["A", "B", "C"] {
        shop.matched(&mut web, &mut cart, operation);
    }
    shop.state(&mut web, StatementKind::Regular, 5);
    shop.seal(true);
    shop.matched(&mut web, &mut cart, "D");
    let sql = "select writer, due, present, missing, unstated, dropped, gaps_open, last_statement, \
               epoch_state from completeness() order by writer";
    let row = |name: &str, due: i64, unstated: i64, dropped: i64, last: Value, state: &str| {
        json!({"writer": format!("spiffe://shop.test/workload/{name}#1"), "due": due, "present": due,
          "missing": 0, "unstated": unstated, "dropped": dropped, "gaps_open": 0,
          "last_statement": last, "epoch_state": state})
    };
    assert_eq!(
        ask(&shop, sql).await,
        json!([
            row("cart", 0, 4, 0, json!(null), "open"),
            row("web", 3, 1, 5, json!(0), "open")
        ])
    );
    shop.state(&mut web, StatementKind::Final, 7);
    shop.state(&mut cart, StatementKind::Regular, 0);
    let trusted = ask(
        &shop,
        "select count(*) as n from statements where trust = 'verified'",
    )
    .await;
    assert_eq!(
        trusted,
        json!([{"n": 5}]),
        "the announcement of a tail's statement may be sealed"
    );
    assert_eq!(
        ask(&shop, sql).await,
        json!([
            row("cart", 4, 0, 0, json!(0), "open"),
            row("web", 4, 0, 7, json!(1), "final")
        ])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completeness_counts_recovered_tails_lost_entries_and_open_gaps() {
    let mut shop = Shop::open();
    let (mut web, mut cart) = (shop.proxy("web"), shop.proxy("cart"));
    // Of cart, the first entry and the statement over it never came; a later entry neither.
    shop.lose(&mut cart);
    shop.state(&mut cart, StatementKind::Regular, 0);
    for operation in ["A", "B"] {
        shop.matched(&mut web, &mut cart, operation);
    }
    shop.lose(&mut cart);
    shop.state(&mut web, StatementKind::Regular, 0);
    shop.state(&mut cart, StatementKind::Regular, 0);
    let stated = shop.now;
    shop.matched(&mut web, &mut cart, "C");
    shop.now = shop.now.plus_ns(60_000_000_000);
    let tail = shop.tail_of(&web);
    let mut again = shop.restart(&web);
    shop.state(&mut again, tail, 0);
    // A gap that was closed, one of a stream, one of an epoch of which nothing else is known.
    shop.gap("web", 7, None, 1);
    shop.gap("web", 7, None, 2);
    shop.gap("cart", 7, Some("entries/ops_90d/0"), 1);
    shop.gap("ghost", 9, None, 1);
    shop.gap("shade", 9, Some("entries/ops_90d/0"), 1);
    let sql = |window: &str| {
        format!(
            "select reverse(split_part(reverse(writer), '/', 1)) as w, epoch, stream, due, present, missing, \
             unstated, gaps_open, epoch_state from completeness({window}) \
             where stream not like 'gaps%' order by w, epoch"
        )
    };
    let rows = |all: Value| -> Vec<String> {
        let row = |row: &Value| {
            let cells = row.as_object().unwrap().values();
            cells
                .map(|cell| cell.to_string().replace('"', ""))
                .collect::<Vec<_>>()
                .join(" ")
        };
        all.as_array().unwrap().iter().map(row).collect()
    };
    let stream = "entries/ops_90d/0";
    assert_eq!(
        rows(ask(&shop, &sql("")).await),
        [
            format!("cart#1 7 {stream} 4 2 2 1 1 open"),
            "ghost#1 9  0 0 0 0 1 open".to_owned(),
            format!("shade#1 9 {stream} 0 0 0 0 1 open"),
            format!("web#1 7 {stream} 3 3 0 0 0 recovered"),
        ]
    );
    // A window that ends before the recovery: what was stated later is not unstated.
    let until = stated.plus_ns(1_000);
    let window = rows(ask(&shop, &sql(&format!("null, '{until}'"))).await);
    assert_eq!(window[3], format!("web#1 7 {stream} 2 2 0 0 0 recovered"));
    let later = rows(ask(&shop, &sql(&format!("'{until}', null"))).await);
    assert_eq!(later[3], format!("web#1 7 {stream} 1 1 0 0 0 recovered"));
    assert_eq!(later[0], format!("cart#1 7 {stream} 0 0 0 1 1 open"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_overhead_is_insufficient_below_437_calls_and_exact_above() {
    let mut shop = Shop::open();
    let (mut web, mut cart) = (shop.proxy("web"), shop.proxy("cart"));
    let day = clock::wall().plus_ns(-86_400_000_000_000);
    let sql = &format!(
        "select n, p99_with_mesh_ns, p99_without_mesh_ns, overhead_p99_ns, own_p50_ns, \
         own_p99_ns, verdict from latency_overhead('{day}', null) where scope = 'mesh'"
    );
    for i in 1..=500_u64 {
        let (mut client, server) = shop.call(&web, &cart, "GetCart");
        client.duration_ns = Some(1_000_000 + i * 1_000);
        shop.write(&mut web, &client);
        shop.write(&mut cart, &server);
        if i == 436 {
            let rows = ask(&shop, sql).await;
            assert_eq!(rows[0]["verdict"], "insufficient");
            assert_eq!(rows[0]["overhead_p99_ns"], json!(null));
        }
    }
    assert_eq!(
        ask(&shop, sql).await,
        json!([{"n": 500, "p99_with_mesh_ns": 1_495_000, "p99_without_mesh_ns": 1_195_000,
            "overhead_p99_ns": 300_000, "own_p50_ns": 300_000, "own_p99_ns": 300_000,
            "verdict": "met"}])
    );
    let services = "select destination, n from latency_overhead where scope = 'destination'";
    let expected = json!([{"destination": "cart", "n": 500}]);
    assert_eq!(ask(&shop, services).await, expected);
    let until = Time::from_ns(0);
    let sql = format!("select n from latency_overhead(null, '{until}') where scope = 'mesh'");
    assert_eq!(ask(&shop, &sql).await, json!([{"n": 0}]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objectives_are_judged_per_service_and_an_idle_one_has_no_sli() {
    let shop = busy();
    let folder = tempfile::tempdir().unwrap();
    let slo = |name: &str, service: &str, metric: &str, objective: &str| {
        format!(
            "apiVersion: openslo/v1\nkind: SLO\nmetadata: {{name: {name}}}\nspec:\n  service: {service}\n  \
             timeWindow: [{{duration: 30d, isRolling: true}}]\n  indicator: {{metadata: {{name: i}}, spec: {metric}}}\n  \
             objectives: [{objective}]\n"
        )
    };
    let source = |measure: &str| {
        format!("metricSource: {{type: counterfoil, spec: {{measure: {measure}}}}}")
    };
    let ratio = format!(
        "{{ratioMetric: {{good: {{{}}}, total: {{{}}}}}}}",
        source("answered_calls"),
        source("calls")
    );
    let threshold = format!("{{thresholdMetric: {{{}}}}}", source("duration_ms"));
    let text = [
        slo("available", "'*'", &ratio, "{target: 0.9}"),
        slo(
            "fast",
            "cart",
            &threshold,
            "{op: lte, value: 4, target: 0.5}",
        ),
        slo("idle", "nobody", &ratio, "{target: 0.9}"),
    ]
    .join("---\n");
    std::fs::write(folder.path().join("a.yaml"), text).unwrap();
    let sql = "select objective, service, good, total, sli, breached from sla order by objective";
    let (schema, batches) = offline::query(shop.path(), Some(folder.path()), sql)
        .await
        .unwrap();
    let rows: Vec<Value> = batches
        .iter()
        .flat_map(|batch| rows_json::rows(&schema, batch).unwrap())
        .collect();
    assert_eq!(
        Value::Array(rows),
        json!([
            {"objective": "available", "service": "cart", "good": 6, "total": 6, "sli": 1.0, "breached": false},
            {"objective": "fast", "service": "cart", "good": 1, "total": 6, "sli": 1.0 / 6.0, "breached": true},
            {"objective": "idle", "service": "nobody", "good": 0, "total": 0, "sli": null, "breached": null},
        ])
    );
    assert_eq!(ask(&shop, "select * from sla").await, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn predicates_on_ids_and_times_reach_the_segment_files() {
    let mut shop = busy();
    shop.seal(true);
    let lookup = "select span_id from entries where trace_id = '01010101010101010000000000000001'";
    assert_eq!(ask(&shop, lookup).await.as_array().unwrap().len(), 2);
    let plan = ask(
        &shop,
        &format!("explain {lookup} and start_time >= '2020-01-01T00:00:00Z'"),
    )
    .await;
    let text = plan.to_string();
    assert!(
        text.contains("pruning_predicate=") && text.contains("trace_id_min@"),
        "{text}"
    );
    assert!(text.contains("start_time_max@"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_answers_on_empty_and_on_busy_books_in_types_that_postgresql_knows() {
    for shop in [Shop::open(), busy()] {
        let names = ask(
            &shop,
            "select table_name from information_schema.tables where table_schema = 'public'",
        )
        .await;
        let names = names.as_array().unwrap();
        assert!(names.len() > 15, "{names:?}");
        for name in names {
            let name = name["table_name"].as_str().unwrap();
            let (schema, _) = offline::query(shop.path(), None, &format!("select * from {name}"))
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            for field in schema.fields() {
                let named = rows_json::type_name(field.data_type());
                assert!(
                    [
                        "bigint",
                        "text",
                        "boolean",
                        "timestamp with time zone",
                        "double precision"
                    ]
                    .contains(&named),
                    "{name}.{} is {}",
                    field.name(),
                    field.data_type()
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_refused_offline_too() {
    let shop = Shop::open();
    let target = shop.path().join("x.csv");
    for sql in [
        format!("copy (select 1) to '{}'", target.display()),
        "create table t as select 1".to_owned(),
        "set datafusion.execution.batch_size = 1".to_owned(),
        "select 1; select 2".to_owned(),
    ] {
        assert!(
            offline::query(shop.path(), None, &sql).await.is_err(),
            "{sql}"
        );
    }
    assert!(!target.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_counted_once_beside_other_figures_without_much_memory() {
    let shop = busy();
    let of = |name: &str| format!("{name}.writer, {name}.stream, {name}.seq");
    let ids = ["a", "b", "c", "d"].map(of).join(", ");
    let found = ask(
        &shop,
        &format!(
            "select count(*) as n, count(distinct ({ids})) as rows, count(distinct array[a.seq, b.seq]) as lists, \
             count(distinct (a.seq, null)) > 0 as parts from entries a cross join entries b \
             cross join entries c cross join entries d"
        ),
    )
    .await;
    let row = &found[0];
    assert!(row["n"].as_i64().unwrap() > 20_000, "{row}");
    assert_eq!(row["n"], row["rows"]);
    assert!(row["lists"].as_i64().unwrap() < 400, "{row}");
    assert_eq!(row["parts"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_ends_before_it_begins_is_refused() {
    let shop = busy();
    let sql = "select * from e01('2026-12-01T00:00:00Z', '2026-11-01T00:00:00Z')";
    let refused = offline::query(shop.path(), None, sql).await.unwrap_err();
    let offline::OfflineError::Sql(error) = refused else {
        panic!("{refused}");
    };
    assert_eq!(error.sqlstate, "22023");
    assert!(error.message.contains("before it begins"), "{error}");
}

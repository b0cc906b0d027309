//! The reports as a list: clean books, planted violations of the rest of them, and completeness.

use std::sync::Arc;

use counterfoil_entry::Hash;
use counterfoil_entry::rows::GovernanceEventRow;
use counterfoil_entry::table::TableId;
use counterfoil_entry::word::{Decision, Kind, Outcome};
use serde_json::{Value, json};

use super::estate::{CART, Estate, S, WEB};
use crate::reports::REPORTS;

/// A clean estate that stated everything.
fn stated() -> Estate {
    let mut estate = Estate::clean();
    let at = estate.opened.plus_ns(3_000 * S);
    estate.state(at);
    estate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_estate_has_no_findings_and_is_complete_sealed_or_not() {
    let mut estate = stated();
    for sealed in [false, true] {
        if sealed {
            estate.shop.seal(true);
        }
        for view in ["e01", "e02", "e03", "e04", "e08", "e14", "e37"] {
            let arguments = if sealed { "()" } else { "" };
            let rows = estate
                .ask(&format!("select * from {view}{arguments}"))
                .await;
            assert_eq!(rows, json!([]), "{view}");
        }
        let streams = estate.ask("select count(*) as n from completeness").await;
        let streams = streams[0]["n"].as_i64().unwrap();
        let summary = estate
            .ask("select id, rows, verdict, missing, dropped, gaps_open, complete from report_summary order by id")
            .await;
        let row = |id: &str, rows: i64, verdict: Option<&str>| {
            json!({"id": id, "rows": rows, "verdict": verdict, "missing": 0, "dropped": 0,
              "gaps_open": 0, "complete": true})
        };
        assert_eq!(
            summary,
            json!([
                row("E01", 0, Some("clean")),
                row("E02", 0, Some("clean")),
                row("E03", 0, Some("clean")),
                row("E04", 0, Some("clean")),
                row("E08", 0, Some("clean")),
                row("E11", streams + 1, Some("met")),
                row("E14", 0, Some("clean")),
                row("E17", 1, Some("clean")),
                row("E18", 0, None),
                row("E19", 7, Some("clean")),
                row("E31", 0, Some("clean")),
                row("E37", 0, Some("clean")),
                row("E46", 1, Some("met")),
                row("E47", 4, Some("insufficient")),
                row("E48", 2, Some("met")),
            ])
        );
        let due = estate
            .ask("select due, present from report_summary where id = 'E48'")
            .await;
        assert_eq!(due, json!([{"due": 1, "present": 1}]));
        let due = estate
            .ask("select due = present and due > 20 as good from report_summary where id = 'E01'")
            .await;
        assert_eq!(due, json!([{"good": true}]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_of_a_report_and_the_summary_say_when_something_is_missing() {
    let complete = |summary: &Value| -> Vec<String> {
        let rows = summary.as_array().unwrap().iter();
        rows.filter(|row| row["complete"] == json!(false))
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let sql = "select id, complete, dropped, missing, gaps_open from report_summary order by id";
    // An entry of cart is lost: every report that rests on entries says so, and no other.
    let mut estate = Estate::clean();
    let at = estate.opened.plus_ns(3_000 * S);
    estate.shop.lose(&mut estate.cart);
    estate.call("GetCart", at, |entry| entry.grant_id = None);
    let found = "select finding, complete from e01";
    assert_eq!(
        estate.ask(found).await,
        json!([{"finding": "no_grant_named", "complete": false}]),
        "nothing is stated yet"
    );
    estate.state(at);
    assert_eq!(
        estate.ask(found).await,
        json!([{"finding": "no_grant_named", "complete": false}])
    );
    let summary = estate.ask(sql).await;
    assert_eq!(
        complete(&summary),
        [
            "E01", "E02", "E03", "E04", "E08", "E11", "E14", "E18", "E19", "E31", "E37", "E46",
            "E47"
        ]
    );
    assert_eq!(summary[0]["missing"], json!(1));
    // Out of the window, it is not missed.
    let later = at.plus_ns(120 * S);
    let windowed = format!("select id, complete from report_summary('{later}') where id = 'E08'");
    estate.call("GetCart", later, |_| {});
    estate.state(later.plus_ns(S));
    assert_eq!(
        estate.ask(&windowed).await,
        json!([{"id": "E08", "complete": true}])
    );
    // Declared drops, and a gap of which only the epoch is known.
    let mut estate = stated();
    let (now, regular) = (
        estate.shop.now,
        counterfoil_entry::statement::StatementKind::Regular,
    );
    estate.call("GetCart", now, |_| {});
    estate.shop.state(&mut estate.cart, regular, 3);
    let summary = estate.ask(sql).await;
    assert_eq!(complete(&summary).len(), 13);
    assert_eq!(summary[0]["dropped"], json!(3));
    let mut estate = stated();
    estate.shop.gap("cart", 7, None, 1);
    let summary = estate.ask(sql).await;
    assert_eq!(complete(&summary).len(), 15);
    assert_eq!(summary[14]["gaps_open"], json!(1));
    estate.shop.gap("cart", 7, None, 2);
    assert_eq!(complete(&estate.ask(sql).await), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_nobody_published_are_found() {
    let mut estate = Estate::clean();
    let at = estate.opened.plus_ns(30 * S);
    let mut call = |edit: &dyn Fn(&mut counterfoil_entry::entry::Entry)| {
        estate.call("GetCart", at, edit);
    };
    call(&|entry| entry.bundle_sha256 = Some(Hash([66; 32])));
    call(&|entry| entry.bundle_version = Some(9));
    call(&|entry| {
        entry.bundle_sha256 = None;
        entry.bundle_version = None;
    });
    let sql = "select finding, workload, bundle_sha256, bundle_version, published_version, entries \
               from e08 order by finding";
    assert_eq!(
        estate.ask(sql).await,
        json!([
            {"finding": "bundle_never_published", "workload": CART, "bundle_sha256": "42".repeat(32),
             "bundle_version": 1, "published_version": null, "entries": 1},
            {"finding": "bundle_version_differs", "workload": CART, "bundle_sha256": "01".repeat(32),
             "bundle_version": 9, "published_version": 1, "entries": 1},
        ])
    );
    // cart's bundle in web's proxy; and a configuration that is changed under way.
    let mut estate = Estate::clean();
    estate.call_with(
        "GetCart",
        at,
        |entry| entry.bundle_sha256 = Some(Hash([1; 32])),
        |entry| {
            entry.config_sha256 = Hash([5; 32]);
            entry.build = Arc::from("other");
        },
    );
    let sql = "select finding || ' ' || workload from e08 order by finding";
    assert_eq!(
        estate.column(sql).await,
        [
            format!("build_changed_while_running {CART}"),
            format!("bundle_of_another_workload {WEB}"),
            format!("config_changed_while_running {CART}"),
        ]
    );
    // A new process may have another one.
    let mut estate = Estate::clean();
    estate.cart = estate.shop.restart(&estate.cart);
    estate.call("GetCart", at, |entry| entry.config_sha256 = Hash([5; 32]));
    assert_eq!(estate.column(sql).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_access_is_counted_by_reason_source_and_destination() {
    let mut estate = Estate::clean();
    let at = estate.opened.plus_ns(30 * S);
    for reason in ["grant_none", "grant_none", "token_expired", "tokenless"] {
        estate.call("PutCart", at, |entry| {
            entry.decision = Decision::Deny;
            entry.reason = Arc::from(reason);
            entry.outcome = Some(Outcome::Denied);
        });
    }
    estate.call("GetCart", at, |entry| {
        entry.kind = Kind::TlsFailure;
        entry.decision = Decision::Deny;
        entry.reason = Arc::from("tls_untrusted");
        entry.source = None;
        entry.operation = None;
        entry.peer_address = Some(Arc::from("10.0.0.9"));
    });
    let row = |event_id: &str, outcome: &str| GovernanceEventRow {
        event_id: event_id.into(),
        occurred_at: at,
        actor: "ann".into(),
        action: "grant.approved".into(),
        object_kind: "grant".into(),
        object_id: "g-9".into(),
        object_revision: None,
        before_sha256: None,
        after_sha256: None,
        ticket: None,
        comment: None,
        outcome: outcome.into(),
        reason: (outcome == "refused").then(|| "four_eyes".into()),
        peer_address: None,
    };
    // One row came twice.
    for row in [
        row("v-1", "refused"),
        row("v-1", "refused"),
        row("v-2", "done"),
    ] {
        estate.row(TableId::GovernanceEvents, |header, out| {
            row.encode(header, out);
        });
    }
    let sql = "select kind, reason, source, destination, operation, peer_address, attempts from e18 \
               order by kind, reason";
    let call = |kind: &str, reason: &str, attempts: i64| {
        json!({"kind": kind, "reason": reason, "source": WEB, "destination": CART,
          "operation": "PutCart", "peer_address": null, "attempts": attempts})
    };
    assert_eq!(
        estate.ask(sql).await,
        json!([
            call("bad_token", "token_expired", 1),
            call("denied_call", "grant_none", 2),
            call("denied_call", "tokenless", 1),
            {"kind": "refused_act", "reason": "four_eyes", "source": "ann", "destination": "g-9",
             "operation": "grant.approved", "peer_address": null, "attempts": 1},
            {"kind": "refused_handshake", "reason": "tls_untrusted", "source": null,
             "destination": CART, "operation": null, "peer_address": "10.0.0.9", "attempts": 1},
        ])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_change_are_listed_and_those_that_nobody_issued_are_marked() {
    let mut estate = Estate::clean();
    let at = estate.opened.plus_ns(30 * S);
    estate.token("jti-1", WEB, at);
    estate.rotation(2, "failed", |row| row.cycle = "03".into());
    let sql = "select event, count(*) as n, bool_or(finding) as finding from e19 group by event order by event";
    let row =
        |event: &str, n: i64, finding: bool| json!({"event": event, "n": n, "finding": finding});
    let mut expected = vec![
        row("audit_key_announced", 3, false),
        row("renewal_failed", 1, false),
        row("svid_issued", 2, false),
        row("svid_renewed", 1, false),
        row("token_issued", 1, false),
    ];
    expected.insert(1, row("log_key", 1, false));
    assert_eq!(estate.ask(sql).await, Value::Array(expected));
    for (hash, id) in [(77, WEB), (2, WEB)] {
        for _ in 0..2 {
            estate.call("GetCart", at, |entry| {
                entry.source = Some(Arc::from(id));
                entry.source_cert_sha256 = Some(Hash([hash; 32]));
            });
        }
    }
    // A certificate that was refused was not used.
    estate.call("GetCart", at, |entry| {
        entry.kind = Kind::TlsFailure;
        entry.decision = Decision::Deny;
        entry.source_cert_sha256 = Some(Hash([78; 32]));
    });
    let sql =
        "select event, workload, cert_sha256, how, entries from e19 where finding order by event";
    assert_eq!(
        estate.ask(sql).await,
        json!([
            {"event": "svid_of_another", "workload": WEB, "cert_sha256": "02".repeat(32), "how": CART,
             "entries": 2},
            {"event": "svid_unknown", "workload": WEB, "cert_sha256": "4d".repeat(32), "how": null,
             "entries": 2},
        ])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_of_reports_leads_to_views_that_answer_with_their_completeness() {
    let estate = stated();
    let rows = estate
        .ask("select id, view, kind, controls from reports")
        .await;
    assert_eq!(rows.as_array().unwrap().len(), REPORTS.len());
    for row in rows.as_array().unwrap() {
        let view = row["view"].as_str().unwrap();
        let columns = format!(
            "select column_name from information_schema.columns where table_name = '{view}' \
             and column_name = 'complete'"
        );
        assert_eq!(estate.column(&columns).await, ["complete"], "{view}");
        for arguments in [
            "",
            "null",
            "null, null",
            "'2026-01-01T00:00:00Z', '2026-02-01T00:00:00Z'",
        ] {
            estate
                .ask(&format!("select * from {view}({arguments})"))
                .await;
        }
    }
    let sox = "select count(*) as n from reports where controls like '%SOX-AC-1%'";
    assert_eq!(estate.ask(sox).await, json!([{"n": 1}]));
}

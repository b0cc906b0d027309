//! Reports on access: each finds what was planted, and nothing next to it.

use std::sync::Arc;

use counterfoil_entry::rows::GrantRow;
use counterfoil_entry::word::Phase;
use counterfoil_entry::{Hash, Time};
use serde_json::json;

use super::estate::{CART, DAY, Estate, GRANT, MS, S, WEB};

const E01: &str = "select finding from e01 order by start_time";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_just_inside_of_its_grant_is_no_finding_and_just_outside_is() {
    let mut estate = Estate::open();
    let (from, until) = (estate.opened, estate.opened.plus_ns(60 * S));
    let asked = GrantRow {
        expires: until,
        ..Estate::asked(GRANT, &["GetCart"], from)
    };
    estate.put_grant(&asked);
    estate.put_grant(&Estate::approved(asked, from));
    for inside in [from, until.plus_ns(-1)] {
        estate.call("GetCart", inside, |_| {});
    }
    assert_eq!(estate.ask("select * from e01").await, json!([]));
    estate.call("GetCart", from.plus_ns(-1), |_| {});
    estate.call("GetCart", until, |_| {});
    let sql = format!(
        "{}, finding",
        E01.replace("finding from", "finding, grant_id, operation from")
    );
    assert_eq!(
        estate.ask(&sql).await,
        json!([
            {"finding": "not_in_force_yet", "grant_id": GRANT, "operation": "GetCart"},
            {"finding": "expired", "grant_id": GRANT, "operation": "GetCart"},
        ])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_lets_through_its_consumer_on_its_operations_only() {
    let mut estate = Estate::clean();
    let at = estate.opened.plus_ns(20 * S);
    let rejected = GrantRow {
        state: "rejected".into(),
        revision: 2,
        decided_by: Some("bob".into()),
        decided_at: Some(at),
        ..Estate::asked("g-no", &["GetCart"], at)
    };
    estate.put_grant(&Estate::asked("g-no", &["GetCart"], at));
    estate.put_grant(&rejected);
    let mut nth = 0;
    let mut call = |operation: &str, edit: &dyn Fn(&mut counterfoil_entry::entry::Entry)| {
        nth += 1;
        estate.call(operation, at.plus_ns(nth * S), edit);
    };
    call("GetCart", &|entry| entry.grant_id = None);
    call("GetCart", &|entry| entry.grant_id = Some("g-9".into()));
    call("GetCart", &|entry| entry.source = Some(CART.into()));
    call("Ping", &|_| {});
    call("GetCart", &|entry| entry.api = Some("other".into()));
    call("GetCart", &|entry| entry.grant_id = Some("g-no".into()));
    call("GetCart", &|entry| {
        entry.reason = Arc::from("open_operation");
        entry.grant_id = None;
    });
    call("GetCart", &|entry| {
        entry.phase = Phase::Unknown;
        entry.grant_id = None;
    });
    // Not the callee's word, and not the call's end.
    call("GetCart", &|entry| {
        entry.phase = Phase::Open;
        entry.grant_id = None;
    });
    assert_eq!(
        estate.column(E01).await,
        [
            "no_grant_named",
            "grant_unknown",
            "grant_of_another",
            "other_operation",
            "other_operation",
            "never_in_force",
            "not_open",
            "no_grant_named",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_revision_in_force_at_a_time_decides() {
    let mut estate = Estate::open();
    let opened = estate.opened;
    let at = |s: i64| opened.plus_ns(s * S);
    let first = estate.approve(GRANT, &["GetCart", "PutCart"], opened);
    // Narrowed to one operation at 100 s, reviewed at 200 s, revoked at 300 s; one row came twice.
    let narrowed = GrantRow {
        revision: 3,
        operations: vec!["GetCart".into()],
        recorded_at: at(100),
        ..first
    };
    let reviewed = GrantRow {
        revision: 4,
        reviewed_by: Some("eve".into()),
        reviewed_at: Some(at(200)),
        recorded_at: at(200),
        ..narrowed.clone()
    };
    for row in [&narrowed, &reviewed, &reviewed] {
        estate.put_grant(row);
    }
    estate.revoke(&reviewed, at(300));
    for (operation, s) in [
        ("PutCart", 99),
        ("GetCart", 99),
        ("GetCart", 199),
        ("GetCart", 299),
    ] {
        estate.call(operation, at(s), |_| {});
    }
    assert_eq!(estate.column(E01).await, [""; 0]);
    // Within two seconds of an end that control decided a call is on its way, not a finding.
    estate.call("PutCart", at(102).plus_ns(-1), |_| {});
    estate.call("GetCart", at(302).plus_ns(-1), |_| {});
    assert_eq!(estate.column(E01).await, [""; 0]);
    estate.call("PutCart", at(102), |_| {});
    estate.call("GetCart", at(302), |_| {});
    assert_eq!(estate.column(E01).await, ["other_operation", "revoked"]);
    let held = "select operation, in_force, state, \
         date_part('epoch', in_force_until) - date_part('epoch', in_force_from) as s \
         from grants_in_force order by operation";
    assert_eq!(
        estate.ask(held).await,
        json!([
            {"operation": "GetCart", "in_force": false, "state": "revoked", "s": 300.0},
            {"operation": "PutCart", "in_force": false, "state": "revoked", "s": 100.0},
        ])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_in_force_have_a_row_an_operation_and_leave_out_what_was_never_approved() {
    let mut estate = Estate::clean();
    let asked = Estate::asked("g-2", &["Ping"], estate.opened);
    estate.put_grant(&asked);
    let later = GrantRow {
        not_before: Some(estate.opened.plus_ns(DAY)),
        ..Estate::asked("g-3", &["Ping"], estate.opened)
    };
    let approved = Estate::approved(later, estate.opened);
    estate.put_grant(&approved);
    let sql = "select grant_id, operation, in_force from grants_in_force order by 1, 2";
    assert_eq!(
        estate.ask(sql).await,
        json!([
            {"grant_id": GRANT, "operation": "GetCart", "in_force": true},
            {"grant_id": GRANT, "operation": "PutCart", "in_force": true},
            {"grant_id": "g-3", "operation": "Ping", "in_force": false},
        ])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_by_a_token_needs_a_token_of_its_own_and_a_grant() {
    let mut estate = Estate::clean();
    let at = estate.opened.plus_ns(30 * S);
    estate.token("good", WEB, at);
    estate.token("foreign", CART, at);
    let mut nth = 0;
    let mut call = |jti: Option<&str>, operation: &str, after_ns: i64| {
        nth += 1;
        estate.call(operation, at.plus_ns(after_ns + nth), |entry| {
            entry.reason = Arc::from("token_granted");
            entry.grant_id = None;
            entry.token_id = jti.map(Arc::from);
        });
    };
    // Ends at 600 s, and proxies give five more.
    call(Some("good"), "GetCart", S);
    call(Some("good"), "PutCart", 605 * S - 10);
    call(Some("good"), "GetCart", 605 * S);
    call(Some("good"), "Ping", 3 * S);
    call(Some("foreign"), "GetCart", 4 * S);
    call(Some("nobody"), "GetCart", 5 * S);
    call(None, "GetCart", 6 * S);
    assert_eq!(
        estate.column(E01).await,
        [
            "token_without_grant",
            "token_of_another",
            "token_unknown",
            "no_token_named",
            "token_not_valid",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_is_open_as_long_as_the_catalogue_says_so() {
    let mut estate = Estate::clean();
    let closed = estate.opened.plus_ns(60 * S);
    estate.publish_api(closed, &[]);
    for after in [-1, 2 * S - 1, 2 * S] {
        estate.call("Ping", closed.plus_ns(after), |entry| {
            entry.reason = Arc::from("open_operation");
            entry.grant_id = None;
        });
    }
    let sql = format!(
        "select finding from e01 where start_time >= '{}'",
        closed.plus_ns(S)
    );
    assert_eq!(estate.column(&sql).await, ["not_open"]);
    assert_eq!(estate.column(E01).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approvals_that_do_not_stand_are_found() {
    let mut estate = Estate::clean();
    let at = estate.opened.plus_ns(60 * S);
    let mut grant = |id: &str, edit: &dyn Fn(&mut GrantRow)| {
        let mut approved = Estate::approved(Estate::asked(id, &["GetCart"], at), at);
        edit(&mut approved);
        estate.put_grant(&approved);
        // A review later on repeats who asked and who approved.
        approved.revision += 1;
        approved.recorded_at = at.plus_ns(5 * S);
        estate.put_grant(&approved);
    };
    grant("g-ok", &|_| {});
    grant("g-own", &|row| row.decided_by = Some(" ANN\t".into()));
    grant("g-near", &|row| row.decided_by = Some("anna".into()));
    grant("g-ticket", &|row| row.ticket = " ".into());
    grant("g-who", &|row| row.decided_by = None);
    grant("g-used", &|_| {});
    grant("g-backdated", &|row| {
        row.decided_at = Some(at.plus_ns(-DAY))
    });
    grant("g-late", &|row| row.decided_at = Some(at.plus_ns(-S)));
    for (id, after) in [
        ("g-ok", 0),
        ("g-used", -1),
        ("g-backdated", -1),
        ("g-late", 0),
    ] {
        estate.call("GetCart", at.plus_ns(after), |entry| {
            entry.grant_id = Some(id.into());
        });
    }
    // Rejected, although asked for without a ticket by the one who rejected it.
    let mut rejected = Estate::approved(Estate::asked("g-no", &["GetCart"], at), at);
    rejected.state = "rejected".into();
    rejected.ticket = String::new();
    rejected.decided_by = Some("ann".into());
    estate.put_grant(&rejected);
    assert_eq!(
        estate
            .ask("select grant_id, finding, revision from e02 order by grant_id")
            .await,
        json!([
            {"grant_id": "g-backdated", "finding": "approved_after_first_use", "revision": 2},
            {"grant_id": "g-own", "finding": "requester_approved", "revision": 2},
            {"grant_id": "g-ticket", "finding": "no_ticket", "revision": 2},
            {"grant_id": "g-used", "finding": "approved_after_first_use", "revision": 2},
            {"grant_id": "g-who", "finding": "approver_unknown", "revision": 2},
        ])
    );
    let window = |from: Time| format!("select grant_id from e02('{from}')");
    assert_eq!(estate.column(&window(at.plus_ns(10 * S))).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_that_nobody_looks_at_or_uses_are_found_after_90_days() {
    let mut estate = Estate::open();
    let now = counterfoil_entry::clock::wall();
    let ago = |days: i64, s: i64| now.plus_ns(-days * DAY + s * S);
    let mut grant = |id: &str, at: Time, reviewed_at: Option<Time>| {
        let mut approved = Estate::approved(Estate::asked(id, &["GetCart"], at), at);
        approved.reviewed_at = reviewed_at;
        estate.put_grant(&approved);
    };
    grant("g-good", ago(200, 0), Some(ago(1, 0)));
    grant("g-just", ago(90, 600), None);
    grant("g-old", ago(90, -1), None);
    grant("g-idle", ago(200, 0), Some(ago(1, 0)));
    grant("g-gone", ago(400, 0), None);
    for (id, at) in [
        ("g-good", ago(2, 0)),
        ("g-idle", ago(90, -1)),
        ("g-old", ago(1, 0)),
    ] {
        estate.call("GetCart", at, |entry| entry.grant_id = Some(id.into()));
    }
    let found = "select grant_id || ' ' || finding from e03 order by 1";
    assert_eq!(
        estate.column(found).await,
        ["g-idle unused", "g-old unreviewed"]
    );
    let review = "select grant_id, calls, days_unused, days_unreviewed, unused, unreviewed, \
                  review_overdue from access_review order by grant_id";
    assert_eq!(
        estate.ask(review).await,
        json!([
            {"grant_id": "g-good", "calls": 1, "days_unused": 2, "days_unreviewed": 1, "unused": false,
             "unreviewed": false, "review_overdue": true},
            {"grant_id": "g-idle", "calls": 1, "days_unused": 90, "days_unreviewed": 1, "unused": true,
             "unreviewed": false, "review_overdue": true},
            {"grant_id": "g-just", "calls": 0, "days_unused": 89, "days_unreviewed": 89, "unused": false,
             "unreviewed": false, "review_overdue": false},
            {"grant_id": "g-old", "calls": 1, "days_unused": 1, "days_unreviewed": 90, "unused": false,
             "unreviewed": true, "review_overdue": true},
        ])
    );
    // As it was 80 days ago: what was approved, called or reviewed later is not known then.
    let then = ago(80, 0);
    let then = format!(
        "select grant_id, calls, unused, unreviewed from access_review(null, '{then}') order by grant_id"
    );
    let row = |id: &str, calls: i64| json!({"grant_id": id, "calls": calls, "unused": false, "unreviewed": false});
    let rows = estate.ask(&then).await;
    assert_eq!(rows[3], row("g-just", 0));
    assert_eq!(rows[4], row("g-old", 0));
}

/// A revocation at 60 s that cart's proxy hears of after `heard_ms`.
fn revoked(heard_ms: Option<i64>) -> (Estate, Time) {
    let mut estate = Estate::open();
    let opened = estate.opened;
    let grant = estate.approve(GRANT, &["GetCart"], opened);
    estate.bundle(1, opened, "e-g-1-2");
    estate.ack(1, opened.plus_ns(MS));
    let at = opened.plus_ns(60 * S);
    estate.revoke(&grant, at);
    estate.bundle(2, at.plus_ns(10 * MS), "e-g-1-revoked");
    if let Some(ms) = heard_ms {
        estate.ack(2, at.plus_ns(ms * MS));
    }
    estate.call("GetCart", at.plus_ns(-1), |_| {});
    (estate, at)
}

const E04: &str = "select finding from e04";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_is_obeyed_in_time_is_no_finding_and_shows_its_delay() {
    let (mut estate, at) = revoked(Some(300));
    estate.call("GetCart", at.plus_ns(200 * MS), |_| {});
    estate.state(at.plus_ns(30 * S));
    assert_eq!(estate.column(E04).await, [""; 0]);
    let sql = "select grant_id, revoked_by, proxy, delay_ms, calls_after from revocations";
    assert_eq!(
        estate.ask(sql).await,
        json!([{"grant_id": GRANT, "revoked_by": "bob", "proxy": format!("{CART}#1"),
          "delay_ms": 300.0, "calls_after": 1}])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_under_a_revoked_grant_are_found_by_time_and_by_bundle() {
    let (mut estate, at) = revoked(Some(300));
    estate.call("GetCart", at.plus_ns(2 * S - 1), |_| {});
    assert_eq!(estate.column(E04).await, [""; 0]);
    estate.call("GetCart", at.plus_ns(2 * S), |_| {});
    assert_eq!(estate.column(E04).await, ["allowed_too_late"]);
    // The grace hides nothing: here the proxy had put the revocation in force itself.
    let (mut estate, at) = revoked(Some(300));
    estate.call("GetCart", at.plus_ns(400 * MS), |entry| {
        entry.bundle_version = Some(2);
        entry.bundle_sha256 = Some(Hash([2; 32]));
    });
    assert_eq!(estate.column(E04).await, ["allowed_though_enforced"]);
    // A call in a window long after the revocation.
    let (mut estate, at) = revoked(Some(300));
    estate.call("GetCart", at.plus_ns(3_600 * S), |_| {});
    let late = format!("select finding from e04('{}')", at.plus_ns(3_000 * S));
    assert_eq!(estate.column(&late).await, ["allowed_too_late"]);
    let before = format!("select finding from e04(null, '{}')", at.plus_ns(3_000 * S));
    assert_eq!(estate.column(&before).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_by_token_is_found_unless_another_grant_holds() {
    for (other_grant, expected) in [(false, 1), (true, 0)] {
        let (mut estate, at) = revoked(Some(300));
        if other_grant {
            estate.approve("g-2", &["GetCart"], estate.opened);
        }
        estate.call("GetCart", at.plus_ns(3 * S), |entry| {
            entry.reason = Arc::from("token_granted");
            entry.grant_id = None;
            entry.token_id = Some("jti".into());
        });
        assert_eq!(estate.column(E04).await.len(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_that_enforce_late_or_never_are_found_when_they_were_exposed() {
    let (mut estate, at) = revoked(Some(2_000));
    estate.state(at.plus_ns(30 * S));
    assert_eq!(estate.column(E04).await, [""; 0]);
    let (mut estate, at) = revoked(Some(2_001));
    estate.state(at.plus_ns(30 * S));
    assert_eq!(
        estate.ask("select finding, delay_ms from e04").await,
        json!([{"finding": "enforced_late", "delay_ms": 2_001.0}])
    );
    // Heard of it never: whether it lived on, its statements tell.
    let (mut estate, at) = revoked(None);
    estate.state(at.plus_ns(S));
    assert_eq!(estate.column(E04).await, [""; 0]);
    estate.state(at.plus_ns(30 * S));
    assert_eq!(estate.column(E04).await, ["not_enforced"]);
    // A later bundle enforces it as well.
    estate.ack(7, at.plus_ns(S));
    assert_eq!(estate.column(E04).await, [""; 0]);
}

/// A grant, its revisions and the calls under it, told by a small generator.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn ns(&mut self, n: i64) -> i64 {
        i64::try_from(self.below(u64::try_from(n).unwrap())).unwrap()
    }
}

/// Whether `revisions` of one grant let web call `operation` at `at`, by the definition, one by one.
fn is_held(revisions: &[GrantRow], operation: &str, at: Time) -> bool {
    revisions.iter().enumerate().any(|(nth, row)| {
        let decided = row.decided_at.unwrap_or(row.recorded_at);
        let continues = nth > 0 && revisions[nth - 1].state != "requested";
        let begins = if continues { row.recorded_at } else { decided };
        let from = begins.max(decided).max(row.not_before.unwrap_or(decided));
        let next = revisions.get(nth + 1);
        let next = next.map(|next| next.revoked_at.unwrap_or(next.recorded_at));
        let ends = next.into_iter().chain(row.revoked_at).min();
        let until = ends.map_or(row.expires, |end| end.min(row.expires));
        let grace = ends.map_or(row.expires, |end| end.plus_ns(2 * S).min(row.expires));
        row.state == "approved"
            && from < until
            && row.operations.iter().any(|name| name == operation)
            && from <= at
            && at < grace
    })
}

/// Requested, and mostly approved, narrowed and revoked at times that the dice choose.
fn revisions(dice: &mut Dice, mut row: GrantRow, at: Time) -> Vec<GrantRow> {
    let mut revisions = vec![row.clone()];
    if dice.below(8) > 0 {
        row = Estate::approved(row, at);
        revisions.push(row.clone());
        for _ in 0..dice.below(3) {
            row.revision += 1;
            row.recorded_at = row.recorded_at.plus_ns((1 + dice.ns(15)) * S);
            if dice.below(2) == 0 {
                row.operations.truncate(1);
            }
            revisions.push(row.clone());
        }
        if dice.below(2) == 0 {
            row.revision += 1;
            row.recorded_at = row.recorded_at.plus_ns((1 + dice.ns(15)) * S);
            row.state = "revoked".into();
            row.revoked_at = Some(row.recorded_at);
            revisions.push(row.clone());
        }
    }
    revisions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_interval_join_equals_a_naive_evaluation() {
    for seed in 1..=3 {
        let mut dice = Dice(seed);
        let mut estate = Estate::open();
        let opened = estate.opened;
        let (mut called, mut expected) = (0, Vec::new());
        for nth in 0..30 {
            let id = format!("g-{nth}");
            let at = opened.plus_ns(dice.ns(20) * S);
            let all = ["GetCart", "PutCart", "Ping"];
            let mut row = Estate::asked(&id, &all[..=usize::try_from(dice.below(3)).unwrap()], at);
            row.expires = at.plus_ns((1 + dice.ns(60)) * S);
            row.not_before = (dice.below(3) == 0).then(|| at.plus_ns(dice.ns(20) * S - 5 * S));
            let revisions = revisions(&mut dice, row, at);
            for row in &revisions {
                estate.put_grant(row);
            }
            // Calls at every bound and just before it, and some anywhere.
            let mut starts: Vec<Time> = revisions
                .iter()
                .flat_map(|row| {
                    [
                        row.decided_at,
                        row.not_before,
                        row.revoked_at,
                        Some(row.expires),
                    ]
                })
                .flatten()
                .chain(revisions.iter().map(|row| row.recorded_at))
                .collect();
            starts.sort_unstable();
            starts.dedup();
            let ends: Vec<Time> = starts.iter().map(|at| at.plus_ns(2 * S)).collect();
            starts.extend(ends);
            let before: Vec<Time> = starts.iter().map(|at| at.plus_ns(-1)).collect();
            starts.extend(before);
            starts.extend((0..4).map(|_| at.plus_ns(dice.ns(60 * S))));
            for start in starts {
                let operation = all[usize::try_from(dice.below(3)).unwrap()];
                called += 1;
                estate.call(operation, start, |entry| {
                    entry.grant_id = Some(id.as_str().into());
                    if !is_held(&revisions, operation, start) {
                        expected.push(entry.span_id.unwrap().to_string());
                    }
                });
            }
        }
        let mut found = estate.column("select span_id from e01").await;
        let share = expected.len() * 100 / called;
        assert!((20..80).contains(&share), "{share} % of {called}");
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "seed {seed}");
    }
}

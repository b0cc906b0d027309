//! Figures of the mesh on slots and attempts that were counted by hand.

use std::sync::Arc;

use counterfoil_entry::table::TableId;
use counterfoil_entry::word::{Decision, Outcome};
use counterfoil_entry::{Time, clock};
use serde_json::json;

use super::estate::{Estate, S, WEB, ask, health};
use super::shop::{Proxy, Shop};

const SLOT: i64 = 10 * S;

fn slot_ago(seconds: i64) -> Time {
    let at = clock::wall().as_ns() - seconds * S;
    Time::from_ns(at - at.rem_euclid(SLOT))
}

fn tell(shop: &mut Shop, who: &mut Proxy, (reporter, start, slots): (&str, Time, u64), up: bool) {
    let row = health(reporter, start, slots, up);
    let table = (TableId::ControlHealth, "ops_13m");
    shop.put(who, table, |header, out| row.encode(header, out));
}

/// Thirteen slots from `begin`: see the comments.
fn slots(begin: Time) -> Shop {
    let mut shop = Shop::open();
    let slot = |n: i64| begin.plus_ns(n * SLOT);
    let mut query = shop.proxy("query");
    // 0 to 5 up, 6 down, 7 and 8 up; nothing of 9 to 11; 12 up.
    for (start, slots, up) in [(0, 6, true), (6, 1, false), (7, 2, true), (12, 1, true)] {
        tell(&mut shop, &mut query, ("prober", slot(start), slots), up);
    }
    // Twenty proxies: in 7 one found control down, in 8 two did; in 9 all found it up.
    for n in 0..20 {
        let mut proxy = shop.proxy(&format!("p{n}"));
        let mut say = |start, slots, up| {
            tell(&mut shop, &mut proxy, ("proxy", slot(start), slots), up);
        };
        say(0, 6, true);
        say(6, 1, true);
        say(7, 1, n != 0);
        // The second of them was restarted within the slot, and told of it twice.
        say(8, 1, n > 1);
        if n == 1 {
            say(8, 1, true);
        }
        say(9, 1, true);
    }
    shop
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn availability_counts_slots_by_the_formula_and_shows_the_unknown_ones() {
    let begin = slot_ago(3_600);
    let shop = slots(begin);
    let columns = "slots, slots_up, slots_down, slots_unknown, slots_unprobed, downtime_s, \
                   availability, availability_known, target, verdict";
    let sql = format!("select {columns} from mesh_availability");
    assert_eq!(
        ask(&shop, &sql).await,
        json!([{"slots": 13, "slots_up": 8, "slots_down": 3, "slots_unknown": 2, "slots_unprobed": 1,
          "downtime_s": 50, "availability": 8.0 / 13.0, "availability_known": 8.0 / 11.0,
          "target": 0.9995, "verdict": "missed"}])
    );
    let states = "select state, up, prober_up, proxies, proxies_up from control_slots \
                  order by slot_start offset 6";
    let state = |state: &str, prober_up: Option<bool>, proxies: i64, proxies_up: i64| {
        json!({"state": state, "up": state == "up", "prober_up": prober_up, "proxies": proxies,
          "proxies_up": proxies_up})
    };
    assert_eq!(
        ask(&shop, states).await,
        json!([
            state("down", Some(false), 20, 20),
            state("up", Some(true), 20, 19),
            state("down", Some(true), 20, 18),
            state("unprobed", None, 20, 20),
            state("up", Some(true), 0, 0),
        ])
    );
    // A window that is given is not clipped, and cuts a row of six slots.
    let at = |n: i64| begin.plus_ns(n * SLOT);
    let sql = |from: Time, until: Time| {
        format!(
            "select slots, slots_up, slots_unknown, verdict from mesh_availability('{from}', '{until}')"
        )
    };
    assert_eq!(
        ask(&shop, &sql(at(-3), at(2))).await,
        json!([{"slots": 5, "slots_up": 2, "slots_unknown": 3, "verdict": "missed"}])
    );
    assert_eq!(
        ask(&shop, &sql(at(3), at(6))).await,
        json!([{"slots": 3, "slots_up": 3, "slots_unknown": 0, "verdict": "met"}])
    );
    // A slot belongs to the window in which it begins.
    assert_eq!(
        ask(&shop, &sql(at(3).plus_ns(1), at(6).plus_ns(1))).await,
        json!([{"slots": 3, "slots_up": 2, "slots_unknown": 0, "verdict": "missed"}])
    );
    assert_eq!(
        ask(&shop, &sql(at(-60), at(-30))).await,
        json!([{"slots": 30, "slots_up": 0, "slots_unknown": 30, "verdict": "missed"}])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_of_which_reports_may_be_on_their_way_are_not_judged_yet() {
    let begin = slot_ago(50);
    let mut shop = Shop::open();
    let mut query = shop.proxy("query");
    let mut proxy = shop.proxy("p");
    tell(&mut shop, &mut query, ("prober", begin, 2), true);
    for n in 0..4 {
        let start = begin.plus_ns(n * SLOT);
        tell(&mut shop, &mut proxy, ("proxy", start, 1), true);
    }
    let sql = "select slots, slots_up, verdict from mesh_availability";
    let two = json!([{"slots": 2, "slots_up": 2, "verdict": "met"}]);
    assert_eq!(ask(&shop, sql).await, two);
    let from = format!("{sql}('{begin}', '{}')", clock::wall().plus_ns(600 * S));
    assert_eq!(ask(&shop, &from).await, two);
    let empty = Shop::open();
    let sql = "select slots, availability, data_plane_availability, verdict from mesh_availability";
    assert_eq!(
        ask(&empty, sql).await,
        json!([{"slots": 0, "availability": null, "data_plane_availability": null,
          "verdict": "insufficient"}])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_fail_through_the_proxies_when_the_callees_proxy_was_not_reached() {
    let mut estate = Estate::open();
    let at = estate.opened.plus_ns(S);
    for _ in 0..3 {
        estate.call("GetCart", at, |_| {});
    }
    let ending = |outcome, error_type: Option<&'static str>| {
        move |entry: &mut counterfoil_entry::entry::Entry| {
            entry.outcome = Some(outcome);
            entry.error_type = error_type.map(Arc::from);
        }
    };
    let unreached = ending(Outcome::Unavailable, Some("connect_refused"));
    estate.call_with("GetCart", at, unreached, |_| {});
    // A first attempt that failed, and was tried again.
    estate.call_with(
        "GetCart",
        at,
        |entry| {
            entry.outcome = Some(Outcome::Unavailable);
            entry.retried = true;
        },
        |_| {},
    );
    for (outcome, error_type) in [
        (Outcome::Unavailable, Some("callee_unavailable")),
        (Outcome::Timeout, Some("request_timeout")),
        (Outcome::ServerError, None),
        (Outcome::Aborted, Some("caller_gone")),
    ] {
        estate.call_with("GetCart", at, ending(outcome, error_type), |_| {});
    }
    for reason in ["grant_none", "bundle_missing"] {
        estate.call_with("GetCart", at, ending(Outcome::Denied, None), |entry| {
            entry.decision = Decision::Deny;
            entry.reason = reason.into();
            entry.outcome = Some(Outcome::Denied);
        });
    }
    let sql = "select data_plane_calls as calls, data_plane_failed as failed, \
               data_plane_availability as share from mesh_availability";
    // 3 good, 1 unreached, 3 that the callee answered for, 1 for want of a bundle.
    assert_eq!(
        estate.ask(sql).await,
        json!([{"calls": 8, "failed": 2, "share": 0.75}])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_are_counted_by_attempt_and_by_cycle() {
    let mut estate = Estate::open();
    let opened = estate.opened;
    let mut rotate = |cycle: &str, attempt: u64, error: Option<&str>, expires_s: i64| {
        let outcome = if error.is_some() { "failed" } else { "success" };
        let ends = opened.plus_ns(expires_s * S);
        estate.rotation(attempt, outcome, |row| {
            row.cycle = cycle.into();
            row.old_not_after = Some(ends);
            row.error_class = error.map(ToOwned::to_owned);
        });
    };
    // Attempt n ends n seconds and 20 ms after the opening.
    rotate("a", 1, None, 60);
    rotate("b", 1, Some("ca_unreachable"), 60);
    rotate("b", 2, Some("swap_failed"), 60);
    rotate("b", 3, None, 60);
    rotate("late", 1, Some("io"), 2);
    rotate("late", 2, None, 2);
    rotate("missed", 1, Some("new_class"), 60);
    rotate("open", 1, Some("clock"), 1_000_000);
    estate.rotation(1, "success", |row| {
        row.workload = "spiffe://shop.test/workload/new".into();
        row.cycle = "first".into();
        row.trigger = "first".into();
        row.old_serial = None;
        row.old_not_after = None;
    });
    let sql = "select scope, workload, attempts, attempts_first, successes, failures, \
               failed_ca_unreachable + failed_swap_failed + failed_io + failed_clock as known, \
               failed_ca_rejected + failed_csr_invalid as none, failed_other, success_rate, cycles, \
               cycles_renewed, cycles_late, cycles_missed, cycles_open, cycle_rate, target, verdict \
               from rotation_success order by scope, workload";
    let row = |scope: &str, workload: Option<&str>, first: i64, good: i64| {
        let attempts = 8 + first;
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let rate = good as f64 / attempts as f64;
        json!({"scope": scope, "workload": workload, "attempts": attempts, "attempts_first": first,
          "successes": good, "failures": 5, "known": 4, "none": 0, "failed_other": 1,
          "success_rate": rate, "cycles": 5, "cycles_renewed": 2, "cycles_late": 1,
          "cycles_missed": 1, "cycles_open": 1, "cycle_rate": 0.5, "target": 0.999,
          "verdict": "missed"})
    };
    let new = json!({"scope": "workload", "workload": "spiffe://shop.test/workload/new",
      "attempts": 1, "attempts_first": 1, "successes": 1, "failures": 0, "known": 0, "none": 0,
      "failed_other": 0, "success_rate": 1.0, "cycles": 0, "cycles_renewed": 0, "cycles_late": 0,
      "cycles_missed": 0, "cycles_open": 0, "cycle_rate": null, "target": 0.999, "verdict": "met"});
    assert_eq!(
        estate.ask(sql).await,
        json!([
            row("total", None, 1, 4),
            new,
            row("workload", Some(WEB), 0, 3)
        ])
    );
    let one = "select workload from rotation_success where scope = 'workload' and attempts > 1";
    assert_eq!(estate.column(one).await, [WEB]);
    let scopes = "select scope from rotation_success where scope <> 'total'";
    assert_eq!(estate.column(scopes).await, ["workload", "workload"]);
    let until = format!("'{}'", opened.plus_ns(S));
    let sql = format!("select scope, attempts, verdict from rotation_success(null, {until})");
    assert_eq!(
        estate.ask(&sql).await,
        json!([{"scope": "total", "attempts": 0, "verdict": "insufficient"}])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_must_be_exceeded() {
    let mut estate = Estate::open();
    for attempt in 1..=1_000 {
        let outcome = if attempt == 1 { "failed" } else { "success" };
        estate.rotation(attempt, outcome, |_| {});
    }
    let sql = "select success_rate, verdict from rotation_success where scope = 'total'";
    assert_eq!(
        estate.ask(sql).await,
        json!([{"success_rate": 0.999, "verdict": "missed"}])
    );
    estate.rotation(1_001, "success", |_| {});
    assert_eq!(estate.ask(sql).await[0]["verdict"], json!("met"));
}

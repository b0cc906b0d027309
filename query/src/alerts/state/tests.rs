use super::super::finding::Severity;
use super::*;

const SECOND_NS: i64 = 1_000_000_000;

fn at(second: i64) -> Time {
    Time::from_ns(1_700_000_000 * SECOND_NS + second * SECOND_NS)
}

fn finding(verdict: Verdict, for_s: i64) -> Finding {
    Finding::new(
        "burn",
        "SloBurnRate",
        Severity::Page,
        verdict,
        "it burns".to_owned(),
    )
    .label("service", Some("cart"))
    .figures(Some(20.0), 14.4)
    .holding_for_s(for_s)
}

/// States that one evaluation wrote down.
fn step(alerts: &mut Alerts, second: i64, findings: &[Finding]) -> Vec<String> {
    let rows = alerts.step(
        "burn",
        findings,
        |_| false,
        |_| "no_calls",
        at(second),
        at(second),
    );
    rows.into_iter()
        .map(|row| format!("{} {}", row.state, row.reason.unwrap_or_default()))
        .collect()
}

#[test]
fn a_condition_that_holds_fires_once_and_resolves_once() {
    let mut alerts = Alerts::default();
    assert_eq!(
        step(&mut alerts, 0, &[finding(Verdict::Holds, 0)]),
        ["firing "]
    );
    assert!(step(&mut alerts, 30, &[finding(Verdict::Holds, 0)]).is_empty());
    assert_eq!(
        step(&mut alerts, 60, &[finding(Verdict::Clear, 0)]),
        ["resolved recovered"]
    );
    assert!(step(&mut alerts, 90, &[finding(Verdict::Clear, 0)]).is_empty());
    assert_eq!(alerts.iter().count(), 1, "it is still sent as resolved");
    assert!(step(&mut alerts, 60 + 900, &[finding(Verdict::Clear, 0)]).is_empty());
    assert_eq!(alerts.iter().count(), 0);
}

#[test]
fn a_condition_that_ends_before_its_time_never_fires() {
    let mut alerts = Alerts::default();
    assert_eq!(
        step(&mut alerts, 0, &[finding(Verdict::Holds, 60)]),
        ["pending "]
    );
    assert!(step(&mut alerts, 59, &[finding(Verdict::Holds, 60)]).is_empty());
    assert_eq!(
        step(&mut alerts, 59, &[finding(Verdict::Clear, 60)]),
        ["inactive recovered"]
    );
    assert_eq!(alerts.iter().count(), 0);
    assert_eq!(
        step(&mut alerts, 70, &[finding(Verdict::Holds, 60)]),
        ["pending "]
    );
    assert_eq!(
        step(&mut alerts, 130, &[finding(Verdict::Holds, 60)]),
        ["firing "]
    );
}

#[test]
fn late_data_neither_begin_nor_end_an_alert() {
    let mut alerts = Alerts::default();
    assert!(step(&mut alerts, 0, &[finding(Verdict::Unknown, 0)]).is_empty());
    step(&mut alerts, 1, &[finding(Verdict::Holds, 0)]);
    assert!(step(&mut alerts, 2, &[finding(Verdict::Unknown, 0)]).is_empty());
    assert!(
        alerts
            .iter()
            .all(|alert| alert.frozen && alert.stage == Stage::Firing)
    );
    let rows = alerts.step("burn", &[], |_| true, |_| "no_calls", at(3), at(3));
    assert!(rows.is_empty(), "nothing said while late does not end it");
    let rows = alerts.step("mesh", &[], |_| false, |_| "no_calls", at(4), at(4));
    assert!(rows.is_empty(), "another group's silence does not end it");
    assert_eq!(step(&mut alerts, 5, &[]), ["resolved no_calls"]);
}

#[test]
fn an_alert_that_returns_is_another_episode() {
    let mut alerts = Alerts::default();
    let mut ids = Vec::new();
    for (second, verdict) in [
        (0, Verdict::Holds),
        (1, Verdict::Clear),
        (2, Verdict::Holds),
    ] {
        for row in alerts.step(
            "burn",
            &[finding(verdict, 0)],
            |_| false,
            |_| "no_calls",
            at(second),
            at(second),
        ) {
            ids.push((row.alert_id, row.revision));
        }
    }
    assert_eq!(
        ids.iter()
            .map(|(_, revision)| *revision)
            .collect::<Vec<_>>(),
        [0, 1, 0]
    );
    assert_eq!(ids[0].0, ids[1].0);
    assert_ne!(ids[1].0, ids[2].0);
}

#[test]
fn what_was_kept_is_read_back_and_nothing_is_told_twice() {
    let mut alerts = Alerts::default();
    step(&mut alerts, 0, &[finding(Verdict::Holds, 0)]);
    let text = serde_json::to_string(&alerts).unwrap();
    let mut again: Alerts = serde_json::from_str(&text).unwrap();
    assert_eq!(again, alerts);
    assert!(step(&mut again, 30, &[finding(Verdict::Holds, 0)]).is_empty());
    assert_eq!(
        step(&mut again, 60, &[finding(Verdict::Clear, 0)]),
        ["resolved recovered"]
    );
}

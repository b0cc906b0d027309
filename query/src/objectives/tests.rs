use chrono::DateTime;
use counterfoil_entry::Time;

use super::*;

const GOOD: &str = "
apiVersion: openslo/v1
kind: Service
metadata: {name: cart}
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: cart-availability}
spec:
  service: cart
  budgetingMethod: Occurrences
  timeWindow: [{duration: 30d, isRolling: true}]
  indicator:
    metadata: {name: cart-answered}
    spec:
      ratioMetric:
        counter: true
        good: {metricSource: {type: counterfoil, spec: {measure: answered_calls}}}
        total: {metricSource: {type: counterfoil, spec: {measure: calls}}}
  objectives: [{displayName: three nines, target: 0.999}]
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: fast}
spec:
  service: '*'
  timeWindow: [{duration: 7d, isRolling: true}]
  indicator:
    metadata: {name: duration}
    spec:
      thresholdMetric:
        metricSource: {type: counterfoil, spec: {measure: duration_ms, operation: GetCart}}
  objectives:
    - {op: lte, value: 250, targetPercent: 95}
    - {op: lte, value: 1000, target: 0.99}
";

#[test]
fn availability_and_latency_objectives_are_read() {
    let objectives = parse(Path::new("a.yaml"), GOOD).unwrap();
    assert_eq!(objectives.len(), 3);
    assert_eq!(objectives[0].service.as_deref(), Some("cart"));
    assert_eq!(objectives[0].threshold_ns, None);
    assert_eq!(objectives[1].service, None);
    assert_eq!(objectives[1].threshold_ns, Some(250_000_000));
    assert_eq!(objectives[1].target, 0.95);
    assert_eq!(objectives[2].operation.as_deref(), Some("GetCart"));
    assert_eq!(objectives[2].window.length_ns(), 7 * 86_400 * 1_000_000_000);
}

#[test]
fn a_senseless_objective_is_refused_with_file_name_and_field() {
    for (from, to, field) in [
        ("target: 0.999", "target: 1.0", "spec.objectives.target"),
        (
            "target: 0.999",
            "target: 0.9, targetPercent: 90",
            "spec.objectives.target",
        ),
        (
            "target: 0.999",
            "target: 0.9, value: 3",
            "spec.objectives.value",
        ),
        ("value: 250", "value: -1", "spec.objectives.value"),
        (
            "op: lte, value: 250",
            "op: gt, value: 250",
            "spec.objectives.value",
        ),
        ("duration: 30d", "duration: 30y", "spec.timeWindow"),
        (
            "30d, isRolling: true",
            "30d, isRolling: false",
            "spec.timeWindow",
        ),
        (
            "measure: answered_calls",
            "measure: luck",
            "ratioMetric.good",
        ),
        (
            "budgetingMethod: Occurrences",
            "budgetingMethod: Timeslices",
            "budgetingMethod",
        ),
    ] {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD, "{from}");
        let error = parse(Path::new("objectives/a.yaml"), &text)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(field) && error.contains("objectives/a.yaml"),
            "{error}"
        );
    }
}

#[test]
fn a_misspelt_field_is_refused() {
    let text = GOOD.replace("timeWindow", "timeWindows");
    assert!(matches!(
        parse(Path::new("a.yaml"), &text),
        Err(ObjectiveError::Form { .. })
    ));
}

fn at(text: &str) -> Time {
    Time::from_ns(
        DateTime::parse_from_rfc3339(text)
            .unwrap()
            .timestamp_nanos_opt()
            .unwrap(),
    )
}

fn contract(window: &str) -> Result<Vec<Objective>, ObjectiveError> {
    let text = GOOD.replace("{duration: 30d, isRolling: true}", window);
    assert_ne!(text, GOOD);
    parse(Path::new("objectives/a.yaml"), &text)
}

#[test]
fn a_contract_is_judged_by_the_month_of_its_own_clocks() {
    let objectives = contract(
        "{duration: 1M, isRolling: false, calendar: {startTime: 2024-01-01 00:00:00, timeZone: Europe/Amsterdam}}",
    )
    .unwrap();
    let window = objectives[0].window;
    assert!(!window.is_rolling());
    // Winter and summer time: one and two hours before the midnight of Greenwich.
    for (now, begin) in [
        ("2026-11-28T10:00:00Z", "2026-10-31T23:00:00Z"),
        ("2026-07-31T21:59:59Z", "2026-06-30T22:00:00Z"),
        ("2026-07-31T22:00:00Z", "2026-07-31T22:00:00Z"),
        ("2023-02-10T00:00:00Z", "2023-12-31T23:00:00Z"),
        ("2041-03-01T00:00:00Z", "2041-02-28T23:00:00Z"),
    ] {
        assert_eq!(window.begin(at(now)), at(begin), "{now}");
    }
    assert_eq!(
        window.to_string(),
        "1M from 2024-01-01T00:00:00 Europe/Amsterdam"
    );
}

#[test]
fn quarters_years_weeks_and_days_begin_where_they_are_said_to() {
    for (duration, start, begin) in [
        ("1Q", "2020-01-01 00:00:00", "2026-10-01T00:00:00Z"),
        ("1Y", "1990-04-01 06:30:00", "2026-04-01T06:30:00Z"),
        ("2w", "2026-01-05 00:00:00", "2026-11-23T00:00:00Z"),
        ("1d", "1990-01-01 09:00:00", "2026-11-28T09:00:00Z"),
        ("1M", "2019-08-31 00:00:00", "2026-10-31T00:00:00Z"),
        ("6M", "2031-01-01 00:00:00", "2031-01-01T00:00:00Z"),
    ] {
        let window = TimeWindow::calendar(duration, start, "UTC").unwrap();
        assert_eq!(
            window.begin(at("2026-11-28T10:00:00Z")),
            at(begin),
            "{duration}"
        );
    }
}

#[test]
fn a_senseless_calendar_is_refused_with_its_field() {
    for window in [
        "{duration: 1M, isRolling: true, calendar: {startTime: 2024-01-01 00:00:00, timeZone: UTC}}",
        "{duration: 30h, isRolling: false, calendar: {startTime: 2024-01-01 00:00:00, timeZone: UTC}}",
        "{duration: 1M, isRolling: false, calendar: {startTime: yesterday, timeZone: UTC}}",
        "{duration: 1M, isRolling: false, calendar: {startTime: 2024-01-01 00:00:00, timeZone: Mars/Base}}",
        "{duration: 4000000000Y, isRolling: false, calendar: {startTime: 2024-01-01 00:00:00, timeZone: UTC}}",
        "{duration: 1M, isRolling: false}",
    ] {
        let error = contract(window).unwrap_err().to_string();
        assert!(
            error.contains("spec.timeWindow") && error.contains("objectives/a.yaml"),
            "{error}"
        );
    }
}

#[test]
fn a_minimum_of_events_is_read_and_nonsense_refused() {
    let with = |events: &str| {
        let to = format!(
            "metadata: {{name: cart-availability, annotations: {{counterfoil/events-min: '{events}'}}}}"
        );
        parse(
            Path::new("a.yaml"),
            &GOOD.replace("metadata: {name: cart-availability}", &to),
        )
    };
    assert_eq!(with("7").unwrap()[0].events_min, 7);
    assert_eq!(
        parse(Path::new("a.yaml"), GOOD).unwrap()[0].events_min,
        EVENTS_MIN_DEFAULT
    );
    let error = with("many").unwrap_err().to_string();
    assert!(error.contains("metadata.annotations"), "{error}");
}

#[test]
fn two_objectives_of_one_name_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["a.yaml", "b.yaml"] {
        std::fs::write(folder.path().join(file), GOOD).unwrap();
    }
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("b.yaml") && error.contains("metadata.name"),
        "{error}"
    );
}

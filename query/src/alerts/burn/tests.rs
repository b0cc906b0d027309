use std::path::Path;

use super::*;
use crate::objectives::parse;

fn objective() -> Objective {
    let text = "
apiVersion: openslo/v1
kind: SLO
metadata: {name: answered}
spec:
  service: cart
  timeWindow: [{duration: 30d, isRolling: true}]
  indicator:
    spec:
      ratioMetric:
        good: {metricSource: {type: counterfoil, spec: {measure: answered_calls}}}
        total: {metricSource: {type: counterfoil, spec: {measure: calls}}}
  objectives: [{target: 0.99}]
";
    parse(Path::new("a.yaml"), text).unwrap().remove(0)
}

fn verdict(long: (i64, i64), short: (i64, i64)) -> Verdict {
    let counts = |(total, bad): (i64, i64)| Counts {
        total,
        good: total - bad,
    };
    judge(PAGES[0], &objective(), counts(long), counts(short)).verdict
}

#[test]
fn both_windows_must_burn() {
    assert_eq!(verdict((1_000, 145), (100, 15)), Verdict::Holds);
    assert_eq!(verdict((1_000, 143), (100, 15)), Verdict::Clear);
    assert_eq!(verdict((1_000, 500), (100, 14)), Verdict::Clear);
    assert_eq!(verdict((1_000, 0), (100, 0)), Verdict::Clear);
}

#[test]
fn a_few_calls_are_no_page_and_end_none_either() {
    assert_eq!(verdict((99, 99), (99, 99)), Verdict::Unknown);
    assert_eq!(verdict((100, 99), (99, 99)), Verdict::Holds);
    assert_eq!(verdict((20, 1), (5, 0)), Verdict::Clear);
}

#[test]
fn silence_after_a_breach_is_not_its_end() {
    assert_eq!(verdict((1_000, 500), (0, 0)), Verdict::Unknown);
    assert_eq!(verdict((0, 0), (0, 0)), Verdict::Clear);
}

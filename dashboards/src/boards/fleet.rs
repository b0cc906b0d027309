//! Which objectives are met, how fast error budgets burn, and what the fleet does.

use super::{COUNTED, FLEET, GOOD, TO_SERVICE, governance, others, services};
use crate::board::{Board, Section, Values, Variable};
use crate::panel::{Panel, Shape};
use crate::unit::Unit;

/// Objectives of the chosen services over the chosen window. It ends now, so that a long one is answered
/// from roll-ups.
const BUDGETS: &str = "error_budget(now() - INTERVAL ${window:sqlstring}, NULL)
WHERE total > 0 AND service IN (${service:sqlstring})";

pub(super) fn board() -> Board {
    Board {
        uid: FLEET.0,
        title: FLEET.1,
        description: "Which objectives are met, which services breach theirs, and how fast error budgets burn.",
        since: "6h",
        refresh: "1m",
        variables: vec![window(), services(true)],
        annotations: vec![governance()],
        links: others(FLEET),
        sections: vec![
            Section {
                title: "Objectives",
                panels: [objectives(), by_service()].concat(),
            },
            Section {
                title: "Alerts",
                panels: alerts(),
            },
            Section {
                title: "Calls",
                panels: calls(),
            },
        ],
    }
}

fn window() -> Variable {
    Variable {
        name: "window",
        label: "Window",
        description: "How far back objectives are judged; it ends now",
        values: Values::Fixed(&["1 hour", "6 hours", "1 day", "7 days", "30 days"]),
        multi: false,
    }
}

fn objectives() -> Vec<Panel> {
    vec![
        Panel::new(
            1,
            Shape::Stat,
            Unit::Share,
            "Objectives met",
            "Share of objectives, each of one service, that the chosen window keeps. Services without calls are left out.",
            format!("SELECT avg(CASE WHEN breached THEN 0.0 ELSE 1.0 END) AS met FROM {BUDGETS}"),
        )
        .steps("red", &[(1.0, "green")]),
        Panel::new(
            2,
            Shape::Stat,
            Unit::Count,
            "Objectives in breach",
            "How many objectives, each of one service, the chosen window breaks.",
            format!("SELECT count(CASE WHEN breached THEN 1 END) AS breached FROM {BUDGETS}"),
        )
        .steps("green", &[(1.0, "red")]),
        Panel::new(
            3,
            Shape::Stat,
            Unit::Share,
            "Least error budget left",
            "Of all objectives, the share of the error budget that is left where it is least; below 0 the objective is broken.",
            format!("SELECT min(budget_left_share) AS budget_left FROM {BUDGETS}"),
        )
        .steps("red", &[(0.0, "orange"), (0.25, "green")]),
        Panel::new(
            4,
            Shape::Stat,
            Unit::Share,
            "Calls answered well",
            "Share of the counted calls of the time range that were answered without a server error. Denied calls and those given up by their callers do not count.",
            format!(
                "SELECT sum({GOOD}) * 1.0 / sum(n) AS answered FROM rollup_1m
WHERE {COUNTED} AND destination_app IN (${{service:sqlstring}})"
            ),
        ),
    ]
}

fn by_service() -> Vec<Panel> {
    vec![
        Panel::new(
            5,
            Shape::Table,
            Unit::Count,
            "Objectives by error budget",
            "Each objective over the chosen window, the emptiest budget first. burn_rate is how many times as fast as allowed the budget is used: 1 uses it up exactly at the window's end.",
            format!(
                "SELECT service, objective, operation, measure, threshold_ns, target,
  1.0 - CAST(bad AS DOUBLE) / total AS actual, total, bad, budget_left_share, burn_rate, breached
FROM {BUDGETS}
ORDER BY budget_left_share, service, objective"
            ),
        )
        .columns(Unit::Share, &["target", "actual", "budget_left_share"])
        .columns(Unit::Nanoseconds, &["threshold_ns"])
        .columns(Unit::Plain, &["burn_rate"])
        .link("service", TO_SERVICE)
        .size(24, 9),
        Panel::new(
            6,
            Shape::Table,
            Unit::Plain,
            "Burn rates",
            "How many times as fast as allowed each error budget is used: in the last hour, six hours and three days. Pages start at 14.4 in an hour and 6 in six hours.",
            "SELECT d.service, d.objective, d.operation, d.threshold_ns, h.burn_rate AS burn_1h,
  s.burn_rate AS burn_6h, d.burn_rate AS burn_3d
FROM error_budget(now() - INTERVAL '3 days', NULL) d
LEFT JOIN error_budget(now() - INTERVAL '6 hours', NULL) s ON d.objective = s.objective AND d.service = s.service
  AND (d.operation IS NOT DISTINCT FROM s.operation) AND (d.threshold_ns IS NOT DISTINCT FROM s.threshold_ns)
LEFT JOIN error_budget(now() - INTERVAL '1 hour', NULL) h ON d.objective = h.objective AND d.service = h.service
  AND (d.operation IS NOT DISTINCT FROM h.operation) AND (d.threshold_ns IS NOT DISTINCT FROM h.threshold_ns)
WHERE d.total > 0 AND d.service IN (${service:sqlstring})
ORDER BY burn_1h DESC NULLS LAST, d.service, d.objective",
        )
        .columns(Unit::Nanoseconds, &["threshold_ns"])
        .link("service", TO_SERVICE),
    ]
}

fn alerts() -> Vec<Panel> {
    vec![
        Panel::new(
            11,
            Shape::Table,
            Unit::Plain,
            "Alerts that stand",
            "What is pending or firing now, but for the dead-man's switch; evaluated_until says until when the data were whole that it was judged by.",
            "SELECT severity, state, alertname, service, objective, summary, active_since, value, threshold, evaluated_until
FROM alerts_active WHERE alertname <> 'Watchdog'
ORDER BY severity, active_since, service, alertname",
        ),
        Panel::new(
            12,
            Shape::Table,
            Unit::Plain,
            "Changes of alerts",
            "Every change of the state of an alert in the time range, the newest first.",
            "SELECT changed_at, severity, state, reason, alertname, service, objective, value, threshold, target, summary
FROM alerts WHERE alertname <> 'Watchdog' AND $__timeFilter(changed_at)
ORDER BY changed_at DESC, alert_id, revision DESC LIMIT 200",
        ),
    ]
}

fn calls() -> Vec<Panel> {
    let of_services = "destination_app IN (${service:sqlstring})";
    vec![
        Panel::new(
            7,
            Shape::Lines,
            Unit::PerSecond,
            "Calls a second, by service",
            "Counted calls of each service, from the roll-ups of minutes.",
            format!(
                "SELECT $__timeGroupAlias(time, $__interval), destination_app AS metric,
  sum(n) * 1000.0 / $__interval_ms AS calls
FROM rollup_1m WHERE {COUNTED} AND {of_services}
GROUP BY 1, 2 ORDER BY 1, 2"
            ),
        ),
        Panel::new(
            8,
            Shape::Lines,
            Unit::Share,
            "Failed calls, by service",
            "Share of the counted calls that were not answered, or with a server error.",
            format!(
                "SELECT $__timeGroupAlias(time, $__interval), destination_app AS metric,
  1.0 - sum({GOOD}) * 1.0 / sum(n) AS failed
FROM rollup_1m WHERE {COUNTED} AND {of_services}
GROUP BY 1, 2 ORDER BY 1, 2"
            ),
        ),
        Panel::new(
            9,
            Shape::Lines,
            Unit::Nanoseconds,
            "P99 by service",
            "99th percentile of the callers' durations, from merged histograms, not from averages of percentiles.",
            format!(
                "SELECT $__timeGroupAlias(time, $__interval), destination_app AS metric,
  hdr_quantile(hdr_merge(duration), 0.99) AS p99
FROM rollup_1m WHERE {COUNTED} AND {of_services}
GROUP BY 1, 2 HAVING hdr_count(hdr_merge(duration)) > 0 ORDER BY 1, 2"
            ),
        ),
        Panel::new(
            10,
            Shape::Lines,
            Unit::Nanoseconds,
            "Durations of all calls",
            "Percentiles over all chosen services together.",
            super::quantiles("duration", &format!("{COUNTED} AND {of_services}")),
        ),
    ]
}

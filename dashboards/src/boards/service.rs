//! One service: rate, errors and durations, by operation and by caller.

use super::{COUNTED, GOOD, SERVICE, governance, heatmap, others, quantiles, services};
use crate::board::{Board, Section, Values, Variable};
use crate::panel::{Panel, Shape};
use crate::unit::Unit;

/// The chosen operations of the chosen service. Calls of no known operation have an empty name.
const CHOSEN: &str = "destination_app IN (${service:sqlstring}) AND coalesce(operation, '') IN (${operation:sqlstring})";
/// The same, in the tables of calls and entries.
const CHOSEN_CALLS: &str =
    "destination IN (${service:sqlstring}) AND coalesce(operation, '') IN (${operation:sqlstring})";

pub(super) fn board() -> Board {
    Board {
        uid: SERVICE.0,
        title: SERVICE.1,
        description: "What one service is asked, by whom, how well it answers and how long it takes.",
        since: "6h",
        refresh: "1m",
        variables: vec![services(false), operations()],
        annotations: vec![governance()],
        links: others(SERVICE),
        sections: vec![
            Section {
                title: "Rate, errors, duration",
                panels: figures(),
            },
            Section {
                title: "Latency",
                panels: latency(),
            },
            Section {
                title: "Who calls what",
                panels: tables(),
            },
        ],
    }
}

fn operations() -> Variable {
    Variable {
        name: "operation",
        label: "Operation",
        description: "Operations of the service; the empty name stands for calls of no known operation",
        values: Values::Query(
            "SELECT DISTINCT coalesce(operation, '') AS operation FROM rollup_1m
WHERE side = 'call' AND destination_app IN (${service:sqlstring}) AND $__timeFilter(time) ORDER BY 1"
                .to_owned(),
        ),
        multi: true,
    }
}

fn figures() -> Vec<Panel> {
    vec![
        Panel::new(
            1,
            Shape::Stat,
            Unit::Count,
            "Calls",
            "Counted calls in the time range: not denied, and not given up by the caller.",
            format!("SELECT coalesce(sum(n), 0) AS calls FROM rollup_1m WHERE {COUNTED} AND {CHOSEN}"),
        ),
        Panel::new(
            2,
            Shape::Stat,
            Unit::Share,
            "Failed",
            "Share of the counted calls that were not answered, or with a server error.",
            format!(
                "SELECT 1.0 - sum({GOOD}) * 1.0 / sum(n) AS failed FROM rollup_1m WHERE {COUNTED} AND {CHOSEN}"
            ),
        )
        .steps("green", &[(0.001, "orange"), (0.01, "red")]),
        Panel::new(
            3,
            Shape::Stat,
            Unit::Nanoseconds,
            "P99",
            "99th percentile of the callers' durations in the time range.",
            format!(
                "SELECT hdr_quantile(hdr_merge(duration), 0.99) AS p99 FROM rollup_1m WHERE {COUNTED} AND {CHOSEN}"
            ),
        ),
        Panel::new(
            4,
            Shape::Stat,
            Unit::Count,
            "Denied calls",
            "Calls of this service that its proxy, or a caller's, did not let through.",
            format!(
                "SELECT coalesce(sum(n), 0) AS denied FROM rollup_1m
WHERE side = 'call' AND decision = 'deny' AND $__timeFilter(time) AND {CHOSEN}"
            ),
        ),
        Panel::new(
            5,
            Shape::Stacked,
            Unit::Count,
            "Calls by outcome",
            "All calls of the service, also denied ones and those given up by their callers.",
            format!(
                "SELECT $__timeGroupAlias(time, $__interval), coalesce(outcome, 'unknown') AS metric, sum(n) AS calls
FROM rollup_1m WHERE side = 'call' AND $__timeFilter(time) AND {CHOSEN}
GROUP BY 1, 2 ORDER BY 1, 2"
            ),
        ),
        Panel::new(
            6,
            Shape::Stacked,
            Unit::Count,
            "Failed calls by status and cause",
            "Calls that were not answered well, by HTTP status and class of error, from the entries themselves.",
            format!(
                "SELECT $__timeGroupAlias(start_time, $__interval),
  outcome || ' ' || coalesce(CAST(status AS VARCHAR), '') || ' ' || coalesce(error_type, '') AS metric, count(*) AS calls
FROM calls WHERE $__timeFilter(start_time) AND {CHOSEN_CALLS}
  AND decision <> 'deny' AND outcome NOT IN ('ok', 'client_error', 'aborted')
GROUP BY 1, 2 ORDER BY 1, 2"
            ),
        ),
    ]
}

fn latency() -> Vec<Panel> {
    let which = format!("{COUNTED} AND {CHOSEN}");
    vec![
        Panel::new(
            7,
            Shape::Heatmap,
            Unit::Milliseconds,
            "Durations",
            "How many calls took how long, by the callers' clocks. Rows are named by the upper bound of their bucket, in milliseconds.",
            heatmap("duration", &which),
        ),
        Panel::new(
            8,
            Shape::Lines,
            Unit::Nanoseconds,
            "Percentiles of the duration",
            "From histograms merged over all chosen operations and callers.",
            quantiles("duration", &which),
        ),
        Panel::new(
            9,
            Shape::Lines,
            Unit::Nanoseconds,
            "Percentiles of what is not the mesh",
            "The same calls, less what both proxies of each cost: application and network.",
            quantiles("upstream", &format!("{which} AND measured")),
        ),
    ]
}

fn tables() -> Vec<Panel> {
    let by = |column: &str| {
        format!(
            "SELECT {column}, sum(n) AS calls, 1.0 - sum({GOOD}) * 1.0 / sum(n) AS failed,
  hdr_quantile(hdr_merge(duration), 0.5) AS p50, hdr_quantile(hdr_merge(duration), 0.99) AS p99,
  sum(request_bytes) AS request_bytes, sum(response_bytes) AS response_bytes
FROM rollup_1m WHERE {COUNTED} AND {CHOSEN}
GROUP BY 1 ORDER BY calls DESC, 1"
        )
    };
    let as_usual = |panel: Panel| {
        panel
            .columns(Unit::Share, &["failed"])
            .columns(Unit::Nanoseconds, &["p50", "p99"])
            .columns(Unit::Bytes, &["request_bytes", "response_bytes"])
            .size(12, 8)
    };
    vec![
        as_usual(Panel::new(
            10,
            Shape::Table,
            Unit::Count,
            "By operation",
            "Counted calls of each operation.",
            by("coalesce(operation, '') AS operation"),
        )),
        as_usual(Panel::new(
            11,
            Shape::Table,
            Unit::Count,
            "By caller",
            "Counted calls of each calling application.",
            by("source_app AS caller"),
        )),
        Panel::new(
            12,
            Shape::Table,
            Unit::Count,
            "Slowest calls",
            "The fifty slowest calls of the time range. Their trace_id finds the whole flow: SELECT * FROM calls WHERE trace_id = '..'.",
            format!(
                "SELECT start_time, source, operation, method, status, outcome, client_duration_ns, server_duration_ns,
  network_ns, client_overhead_ns + server_overhead_ns AS mesh_ns, trace_id
FROM calls WHERE $__timeFilter(start_time) AND {CHOSEN_CALLS} AND client_duration_ns IS NOT NULL
ORDER BY client_duration_ns DESC, trace_id LIMIT 50"
            ),
        )
        .columns(
            Unit::Nanoseconds,
            &["client_duration_ns", "server_duration_ns", "network_ns", "mesh_ns"],
        )
        .columns(Unit::Plain, &["status"]),
        Panel::new(
            13,
            Shape::Table,
            Unit::Count,
            "Objectives",
            "The objectives of this service, each over its own window.",
            "SELECT objective, operation, measure, threshold_ns, window_days, target, sli, good, total,
  error_budget_left, breached
FROM sla WHERE service IN (${service:sqlstring}) ORDER BY error_budget_left NULLS LAST, objective",
        )
        .columns(Unit::Share, &["target", "sli", "error_budget_left"])
        .columns(Unit::Nanoseconds, &["threshold_ns"])
        .columns(Unit::Days, &["window_days"])
        .size(24, 6),
    ]
}

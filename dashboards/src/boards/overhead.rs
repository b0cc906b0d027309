//! What the mesh itself costs, hop by hop.

use super::{COUNTED, OVERHEAD, TO_SERVICE, governance, heatmap, others, services};
use crate::board::{Board, Section};
use crate::panel::{Panel, Shape};
use crate::unit::Unit;

/// The target: 2 ms.
const TARGET_NS: f64 = 2_000_000.0;
/// Calls of which both proxies measured their cost.
const MEASURED: &str = "measured AND destination_app IN (${service:sqlstring})";

pub(super) fn board() -> Board {
    Board {
        uid: OVERHEAD.0,
        title: OVERHEAD.1,
        description: "What the mesh itself adds to calls: P99 with and without it, and what both proxies of each call cost.",
        since: "1h",
        refresh: "5m",
        variables: vec![services(true)],
        annotations: vec![governance()],
        links: others(OVERHEAD),
        sections: vec![
            Section {
                title: "P99 with the mesh less P99 without it",
                panels: difference(),
            },
            Section {
                title: "What each call's proxies cost",
                panels: own(),
            },
            Section {
                title: "Where it is spent",
                panels: parts(),
            },
        ],
    }
}

const DIFFERENCE: [&str; 12] = [
    "p99_with_mesh_ns",
    "p99_without_mesh_ns",
    "overhead_p99_ns",
    "overhead_p99_low_ns",
    "overhead_p99_high_ns",
    "own_p50_ns",
    "own_p99_ns",
    "own_p99_low_ns",
    "own_p99_high_ns",
    "target_ns",
    "with_mesh",
    "without_mesh",
];

fn difference() -> Vec<Panel> {
    vec![
        Panel::new(
            1,
            Shape::Stat,
            Unit::Count,
            "The mesh against its target",
            "P99 with the mesh less P99 without it, over all measured calls of the time range; the target is 2 ms. Below n_needed calls a 99th percentile has no upper bound: then the verdict is insufficient, and the figures are empty.",
            "SELECT verdict, overhead_p99_ns, p99_with_mesh_ns, p99_without_mesh_ns, own_p99_ns, n, n_needed
FROM latency_overhead($__timeFrom(), $__timeTo()) WHERE scope = 'mesh'",
        )
        .columns(Unit::Nanoseconds, &DIFFERENCE)
        .size(24, 5),
        Panel::new(
            2,
            Shape::Table,
            Unit::Count,
            "By called service",
            "The same by service, with intervals of 95 %. own_p99 is the P99 of what both proxies of one call cost together: another quantity than the difference of two P99.",
            "SELECT destination, verdict, n, n_needed, overhead_p99_ns, overhead_p99_low_ns, overhead_p99_high_ns,
  p99_with_mesh_ns, p99_without_mesh_ns, own_p50_ns, own_p99_ns, own_p99_low_ns, own_p99_high_ns, target_ns
FROM latency_overhead($__timeFrom(), $__timeTo())
WHERE scope = 'destination' AND destination IN (${service:sqlstring})
ORDER BY overhead_p99_ns DESC NULLS LAST, destination",
        )
        .columns(Unit::Nanoseconds, &DIFFERENCE)
        .link("destination", TO_SERVICE),
        Panel::new(
            3,
            Shape::Lines,
            Unit::Nanoseconds,
            "P99 with and without the mesh",
            "From the roll-ups: the callers' durations, and the same less what both proxies cost.",
            format!(
                "SELECT $__timeGroupAlias(time, $__interval), hdr_quantile(hdr_merge(duration), 0.99) AS with_mesh,
  hdr_quantile(hdr_merge(upstream), 0.99) AS without_mesh
FROM rollup_1m WHERE {COUNTED} AND {MEASURED}
GROUP BY 1 ORDER BY 1"
            ),
        ),
        Panel::new(
            4,
            Shape::Lines,
            Unit::Nanoseconds,
            "Difference of the two P99",
            "The line above less the line below, against the target of 2 ms. Over few calls it is mostly noise: look at their number beside it.",
            format!(
                "SELECT $__timeGroupAlias(time, $__interval),
  hdr_quantile(hdr_merge(duration), 0.99) - hdr_quantile(hdr_merge(upstream), 0.99) AS overhead
FROM rollup_1m WHERE {COUNTED} AND {MEASURED}
GROUP BY 1 ORDER BY 1"
            ),
        )
        .steps("green", &[(TARGET_NS, "red")]),
    ]
}

fn own() -> Vec<Panel> {
    let which = format!("{COUNTED} AND {MEASURED}");
    vec![
        Panel::new(
            5,
            Shape::Lines,
            Unit::Nanoseconds,
            "Cost of both proxies of a call",
            "Percentiles of what caller's and callee's proxy together added to each call.",
            super::quantiles("overhead", &which),
        )
        .steps("green", &[(TARGET_NS, "red")]),
        Panel::new(
            6,
            Shape::Lines,
            Unit::Share,
            "Calls that cost more than 2 ms",
            "Share of the measured calls to which both proxies together added more than the target.",
            format!(
                "SELECT $__timeGroupAlias(time, $__interval),
  1.0 - hdr_count_at_or_below(hdr_merge(overhead), 2000000) * 1.0 / hdr_count(hdr_merge(overhead)) AS slow
FROM rollup_1m WHERE {which} AND overhead IS NOT NULL
GROUP BY 1 ORDER BY 1"
            ),
        ),
        Panel::new(
            7,
            Shape::Heatmap,
            Unit::Milliseconds,
            "Cost of both proxies",
            "How many calls cost how much. Rows are named by the upper bound of their bucket, in milliseconds.",
            heatmap("overhead", &which),
        ),
        Panel::new(
            8,
            Shape::Table,
            Unit::Count,
            "By hop",
            "What both proxies cost, by caller and called service, the dearest first.",
            format!(
                "SELECT source_app AS source, destination_app AS destination, sum(n) AS calls,
  hdr_quantile(hdr_merge(overhead), 0.5) AS p50, hdr_quantile(hdr_merge(overhead), 0.99) AS p99,
  hdr_quantile(hdr_merge(overhead), 0.999) AS p999,
  1.0 - hdr_count_at_or_below(hdr_merge(overhead), 2000000) * 1.0 / hdr_count(hdr_merge(overhead)) AS over_2ms
FROM rollup_1m WHERE {which} AND overhead IS NOT NULL
GROUP BY 1, 2 ORDER BY p99 DESC, 1, 2 LIMIT 200"
            ),
        )
        .columns(Unit::Nanoseconds, &["p50", "p99", "p999"])
        .columns(Unit::Share, &["over_2ms"])
        .link("destination", TO_SERVICE),
    ]
}

fn parts() -> Vec<Panel> {
    let entries = "phase = 'final' AND kind <> 'tls_failure' AND $__timeFilter(start_time)";
    vec![
        Panel::new(
            9,
            Shape::Lines,
            Unit::Nanoseconds,
            "P99 by side",
            "What one proxy added to each call that it carried, by its side of the call.",
            "SELECT $__timeGroupAlias(time, $__interval), side AS metric, hdr_quantile(hdr_merge(overhead), 0.99) AS p99
FROM rollup_1m
WHERE side IN ('client', 'server') AND $__timeFilter(time) AND overhead IS NOT NULL
  AND destination_app IN (${service:sqlstring})
GROUP BY 1, 2 ORDER BY 1, 2",
        ),
        Panel::new(
            10,
            Shape::Table,
            Unit::Count,
            "Parts of a call, by side",
            "99th percentiles of the parts that proxies measure, from the entries. Empty where a kept connection made a part void. With few values the greatest stands for the percentile.",
            format!(
                "SELECT side, count(*) AS n, quantile_nearest(overhead_ns, 0.99) AS overhead_p99,
  quantile_nearest(authz_ns, 0.99) AS authz_p99, quantile_nearest(connect_ns, 0.99) AS connect_p99,
  quantile_nearest(handshake_ns, 0.99) AS handshake_p99, quantile_nearest(first_byte_ns, 0.99) AS first_byte_p99,
  quantile_nearest(upstream_ns, 0.99) AS upstream_p99, quantile_nearest(downstream_ns, 0.99) AS downstream_p99
FROM entries WHERE {entries} GROUP BY side ORDER BY side"
            ),
        )
        .columns(
            Unit::Nanoseconds,
            &[
                "overhead_p99",
                "authz_p99",
                "connect_p99",
                "handshake_p99",
                "first_byte_p99",
                "upstream_p99",
                "downstream_p99",
            ],
        )
        .size(12, 8),
        Panel::new(
            11,
            Shape::Table,
            Unit::Count,
            "By build of the proxy",
            "What one proxy added to a call, by its build: whether a new version costs more.",
            format!(
                "SELECT build, side, count(*) AS n, quantile_nearest(overhead_ns, 0.5) AS p50,
  quantile_nearest(overhead_ns, 0.99) AS p99
FROM entries WHERE {entries} AND overhead_ns IS NOT NULL GROUP BY build, side ORDER BY build, side"
            ),
        )
        .columns(Unit::Nanoseconds, &["p50", "p99"])
        .size(24, 6),
    ]
}

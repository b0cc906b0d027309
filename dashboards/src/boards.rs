//! The dashboards, one a module, and what their queries share.

mod fleet;
mod integrity;
mod overhead;
mod security;
mod service;

use crate::board::{Annotation, Board, Values, Variable};

/// Uids and titles: they stand in links, so they never change.
const FLEET: (&str, &str) = ("counterfoil-fleet", "Fleet SLA");
const SERVICE: (&str, &str) = ("counterfoil-service", "Service");
const OVERHEAD: (&str, &str) = ("counterfoil-overhead", "Latency overhead");
const SECURITY: (&str, &str) = ("counterfoil-security", "Security and authorization");
const INTEGRITY: (&str, &str) = ("counterfoil-integrity", "Integrity and certificates");
const ALL: [(&str, &str); 5] = [FLEET, SERVICE, OVERHEAD, SECURITY, INTEGRITY];

/// Where a service's name leads: its dashboard, with the time that is looked at.
const TO_SERVICE: &str = "/d/counterfoil-service?${__url_time_range}&var-datasource=${datasource}\
                          &var-service=${__value.raw}";

/// Calls of the roll-ups that count: not denied, and not given up by the caller.
const COUNTED: &str = "side = 'call' AND decision <> 'deny' AND coalesce(outcome, 'unknown') <> 'aborted' \
                       AND $__timeFilter(time)";

/// What answered well, of a roll-up's row.
const GOOD: &str =
    "CASE WHEN coalesce(outcome, 'unknown') IN ('ok', 'client_error') THEN n ELSE 0 END";

pub(crate) fn all() -> Vec<Board> {
    vec![
        fleet::board(),
        service::board(),
        overhead::board(),
        security::board(),
        integrity::board(),
    ]
}

/// Links to all dashboards but `own`.
fn others(own: (&str, &str)) -> Vec<(&'static str, &'static str)> {
    ALL.into_iter().filter(|(uid, _)| *uid != own.0).collect()
}

/// The called services; several, or one.
fn services(multi: bool) -> Variable {
    Variable {
        name: "service",
        label: "Service",
        description: "Called service, of those that were called in the time range",
        values: Values::Query(
            "SELECT DISTINCT destination_app FROM rollup_1m
WHERE side = 'call' AND destination_app IS NOT NULL AND $__timeFilter(time) ORDER BY 1"
                .to_owned(),
        ),
        multi,
    }
}

/// Changes of rights, as marks over the graphs.
fn governance() -> Annotation {
    Annotation {
        name: "Rights and catalogue",
        color: "blue",
        sql: "SELECT occurred_at AS \"time\", action || ' ' || object_id || ' by ' || actor AS text, outcome AS tags
FROM governance_events WHERE $__timeFilter(occurred_at) ORDER BY 1",
    }
}

/// Upper bounds of the buckets of a heatmap: name (ms) and nanoseconds.
const BOUNDS: [(&str, i64); 18] = [
    ("0.1", 100_000),
    ("0.2", 200_000),
    ("0.5", 500_000),
    ("1", 1_000_000),
    ("2", 2_000_000),
    ("5", 5_000_000),
    ("10", 10_000_000),
    ("20", 20_000_000),
    ("50", 50_000_000),
    ("100", 100_000_000),
    ("200", 200_000_000),
    ("500", 500_000_000),
    ("1000", 1_000_000_000),
    ("2000", 2_000_000_000),
    ("5000", 5_000_000_000),
    ("10000", 10_000_000_000),
    ("60000", 60_000_000_000),
    // Histograms end at an hour: longer calls count as that.
    ("3600000", 3_600_000_000_000),
];

/// How many values of `histogram` fall into each bucket, over time, of the roll-ups that `which` chooses.
fn heatmap(histogram: &str, which: &str) -> String {
    let mut lower = -1;
    let buckets: Vec<String> = BOUNDS
        .iter()
        .map(|(name, upper)| {
            let bucket = format!("('{name}', {lower}, {upper})");
            lower = *upper;
            bucket
        })
        .collect();
    format!(
        "SELECT h.time AS \"time\", b.upper_ms AS metric,
  hdr_count_at_or_below(h.merged, b.upper_ns) - hdr_count_at_or_below(h.merged, b.lower_ns) AS n
FROM (
  SELECT $__timeGroup(time, $__interval) AS time, hdr_merge({histogram}) AS merged
  FROM rollup_1m WHERE {which} GROUP BY 1
) h CROSS JOIN (VALUES {}) AS b(upper_ms, lower_ns, upper_ns)
WHERE h.merged IS NOT NULL
ORDER BY 1, b.upper_ns",
        buckets.join(", ")
    )
}

/// Quantiles of `histogram` over time, of the roll-ups that `which` chooses.
fn quantiles(histogram: &str, which: &str) -> String {
    format!(
        "SELECT $__timeGroupAlias(time, $__interval),
  hdr_quantile(hdr_merge({histogram}), 0.5) AS \"P50\", hdr_quantile(hdr_merge({histogram}), 0.9) AS \"P90\",
  hdr_quantile(hdr_merge({histogram}), 0.99) AS \"P99\", hdr_quantile(hdr_merge({histogram}), 0.999) AS \"P99.9\"
FROM rollup_1m WHERE {which}
GROUP BY 1 ORDER BY 1"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_a_heatmap_are_what_they_are_called() {
        let mut before = 0;
        for (name, upper_ns) in BOUNDS {
            // Tenths of a millisecond, so that no fraction is needed.
            let tenths: i64 = match name.strip_prefix("0.") {
                Some(digit) => digit.parse().unwrap(),
                None => name.parse::<i64>().unwrap() * 10,
            };
            assert_eq!(tenths * 100_000, upper_ns);
            assert!(upper_ns > before);
            before = upper_ns;
        }
    }
}

//! What the mesh costs in latency: short windows from the entries themselves, long ones from roll-ups and
//! what those do not count yet.

use counterfoil_entry::Time;

use super::sla::{From, calls, from, widened};
use super::{DEFAULT_DAYS, JOINED_CONFIDENCE, Window, within};
use crate::quantile::sample_needed;

const DAY_NS: i64 = 86_400 * 1_000_000_000;
/// What the P99 must stay below (ns): 2 ms.
const TARGET_NS: u64 = 2_000_000;

/// P99 with the mesh, and without it: the client's duration less what both proxies cost.
///
/// Matched calls of which both proxies measured their cost. Intervals of the two P99 and of the
/// overhead by call have 97.5 % (two order statistics each); the interval of the difference is made
/// of the first two and has at least 95 %. Below 437 calls no upper bound of a P99 exists at that
/// confidence, the figures are null and the verdict is `insufficient`.
///
/// Windows of more than two days, and the default one, are told from histograms: they begin at a full
/// hour, and each figure but the difference is exact to a thousandth, that of the difference to a
/// thousandth of the two that it is made of.
pub(super) fn latency_overhead(window: Option<Window>, now: Time) -> String {
    let (window, source) = chosen(window, now);
    format!(
        "SELECT {} FROM ({}) grouped ORDER BY scope DESC, destination",
        figures("scope, destination", source),
        grouped(source, window)
    )
}

/// The rows of `latency_overhead`, and one for each proxy, by the name of its application: the P99 of what
/// it cost itself in each call, of either side. `formula` says what was counted.
pub(crate) fn overhead_with_proxies(window: Option<Window>, now: Time) -> String {
    let (window, source) = chosen(window, now);
    format!(
        "SELECT {}, CASE scope
  WHEN 'proxy' THEN 'P99(overhead of this proxy)'
  ELSE 'P99(client duration) - P99(client duration - client overhead - server overhead)' END AS formula
FROM (
  SELECT scope, destination, CAST(NULL AS VARCHAR) AS proxy, n, w, o, p, own_p50_ns FROM ({}) grouped
  UNION ALL
  SELECT 'proxy', CAST(NULL AS VARCHAR), proxy, n, CASE WHEN false THEN p END, CASE WHEN false THEN p END, p,
    own_p50_ns
  FROM ({}) proxies
) told",
        figures("scope, destination, proxy", source),
        grouped(source, window),
        proxies(source, window)
    )
}

/// The window that is told, and what from.
fn chosen(window: Option<Window>, now: Time) -> (Window, From) {
    let window = window.unwrap_or_else(|| Window {
        from: Some(now.plus_ns(-DEFAULT_DAYS * DAY_NS)),
        until: None,
    });
    let source = from(&window, now);
    (widened(window, source), source)
}

/// The columns of each row, after those of `names`, from the intervals `w` (with the mesh), `o` (without
/// it) and `p` (own cost).
///
/// Histograms know a value to a thousandth: where that is more than half of the target, a difference of two
/// says nothing, and the verdict is `insufficient`.
fn figures(names: &str, source: From) -> String {
    let needed = sample_needed(0.99, JOINED_CONFIDENCE);
    let enough =
        |value: &str, name: &str| format!("CASE WHEN n >= {needed} THEN {value} END AS {name}");
    let columns = [
        enough("w['value']", "p99_with_mesh_ns"),
        enough("w['low']", "p99_with_mesh_low_ns"),
        enough("w['high']", "p99_with_mesh_high_ns"),
        enough("o['value']", "p99_without_mesh_ns"),
        enough("o['low']", "p99_without_mesh_low_ns"),
        enough("o['high']", "p99_without_mesh_high_ns"),
        enough("w['value'] - o['value']", "overhead_p99_ns"),
        enough("w['low'] - o['high']", "overhead_p99_low_ns"),
        enough("w['high'] - o['low']", "overhead_p99_high_ns"),
        "own_p50_ns".to_owned(),
        enough("p['value']", "own_p99_ns"),
        enough("p['low']", "own_p99_low_ns"),
        enough("p['high']", "own_p99_high_ns"),
    ];
    let coarse = match source {
        From::Entries => "false".to_owned(),
        From::Minutes | From::Rollups => format!(
            "(scope <> 'proxy' AND (w['value'] + o['value']) / 1000 > {})",
            TARGET_NS / 2
        ),
    };
    format!(
        "{names}, n, CAST({needed} AS BIGINT) AS n_needed,
  {},
  CAST({TARGET_NS} AS BIGINT) AS target_ns,
  CASE WHEN n < {needed} OR {coarse} THEN 'insufficient'
    WHEN CASE WHEN scope = 'proxy' THEN p['value'] ELSE w['value'] - o['value'] END < {TARGET_NS} THEN 'met'
    ELSE 'missed' END AS verdict",
        columns.join(",\n  ")
    )
}

/// Matched calls of which both proxies measured their cost.
fn measured(source: From, window: Window) -> String {
    format!(
        "SELECT destination, client_duration_ns AS with_ns,
    client_duration_ns - client_overhead_ns - server_overhead_ns AS without_ns,
    client_overhead_ns + server_overhead_ns AS own_ns
  FROM {} calls
  WHERE matched AND client_overhead_ns IS NOT NULL AND server_overhead_ns IS NOT NULL
    AND client_duration_ns IS NOT NULL AND {}",
        calls(source),
        within(Some(window), "start_time")
    )
}

/// One row in all and one a destination: scope, destination, n, the three intervals, own_p50_ns.
fn grouped(source: From, window: Window) -> String {
    let (with, columns) = match source {
        From::Entries => (
            format!("measured AS ({})", measured(source, window)),
            [
                "count(*) AS n".to_owned(),
                interval("with_ns", "w"),
                interval("without_ns", "o"),
                interval("own_ns", "p"),
                "quantile_nearest(own_ns, 0.5) AS own_p50_ns".to_owned(),
            ],
        ),
        From::Minutes | From::Rollups => (
            format!(
                "measured AS (
  SELECT destination, hdr_of(with_ns) AS with_ns, hdr_of(without_ns) AS without_ns, hdr_of(own_ns) AS own_ns
  FROM ({}) fresh GROUP BY destination
  UNION ALL
  SELECT destination_app, duration, upstream, overhead FROM raw.rollups_once
  WHERE side = 'call' AND measured AND {}
)",
                measured(source, window),
                within(Some(window), "time")
            ),
            [
                "hdr_count(hdr_merge(with_ns)) AS n".to_owned(),
                merged("with_ns", "w"),
                merged("without_ns", "o"),
                merged("own_ns", "p"),
                "hdr_quantile(hdr_merge(own_ns), 0.5) AS own_p50_ns".to_owned(),
            ],
        ),
    };
    let columns = columns.join(", ");
    // A constant beside a count without groups would let a filter on it be pushed below the count.
    format!(
        "
WITH {with}
SELECT v.scope, CAST(NULL AS VARCHAR) AS destination, m.*
FROM (VALUES ('mesh')) AS v(scope) CROSS JOIN (SELECT {columns} FROM measured) m
UNION ALL
SELECT 'destination', destination, {columns} FROM measured GROUP BY destination"
    )
}

/// One row a proxy: proxy, n, the interval of its own cost, own_p50_ns.
fn proxies(source: From, window: Window) -> String {
    let own = |table: &str, also: &str| {
        let name = |app: &str, id: &str| {
            format!("coalesce({app}, reverse(split_part(reverse({id}), '/', 1)))")
        };
        format!(
            "SELECT CASE side WHEN 'client' THEN {} ELSE {} END AS proxy, overhead_ns FROM public.{table}
  WHERE phase = 'final' AND kind <> 'tls_failure' AND overhead_ns IS NOT NULL{also} AND {}",
            name("source_app", "source"),
            name("destination_app", "destination"),
            within(Some(window), "start_time")
        )
    };
    match source {
        From::Entries => format!(
            "SELECT proxy, count(*) AS n, {}, quantile_nearest(overhead_ns, 0.5) AS own_p50_ns
FROM ({}) one GROUP BY proxy",
            interval("overhead_ns", "p"),
            own("entries", "")
        ),
        // Halves that wait for their counterpart are counted by their own side already; their files do
        // not say which place they had in their stream.
        From::Minutes | From::Rollups => format!(
            "SELECT proxy, hdr_count(hdr_merge(own)) AS n, {}, hdr_quantile(hdr_merge(own), 0.5) AS own_p50_ns
FROM (
  SELECT proxy, hdr_of(overhead_ns) AS own FROM ({}) one GROUP BY proxy
  UNION ALL
  SELECT CASE side WHEN 'client' THEN source_app ELSE destination_app END, overhead FROM raw.rollups_once
  WHERE side <> 'call' AND overhead IS NOT NULL AND {}
) parts GROUP BY proxy",
            merged("own", "p"),
            own("fresh_entries", " AND seq IS NOT NULL"),
            within(Some(window), "time")
        ),
    }
}

fn interval(column: &str, name: &str) -> String {
    format!("quantile_interval({column}, 0.99, {JOINED_CONFIDENCE}) AS {name}")
}

fn merged(column: &str, name: &str) -> String {
    format!("hdr_interval(hdr_merge({column}), 0.99, {JOINED_CONFIDENCE}) AS {name}")
}

//! Figures of the mesh itself: how often the control plane was there, and how often certificates were
//! renewed.

use counterfoil_entry::Time;
use counterfoil_entry::rows::SLOT_S;

use super::frame::{Frame, between};

const SLOT_NS: i64 = SLOT_S.cast_signed() * 1_000_000_000;
/// Reporters tell of up to six equal slots at once, and delivery takes a moment. A younger slot counts
/// once the prober has told of it or of a later one.
const TOLD_WITHIN_NS: i64 = 90 * 1_000_000_000;
/// A row tells of no more slots than this.
const SLOTS_MAX: i64 = 6;

/// What each slot's reports say. `prober_up` is null when no prober told of it, and false when one
/// failed; a proxy that was restarted within the slot counts once, and as up when both its processes
/// found control up.
const SLOTS: &str = "
reports AS (
  SELECT writer, reporter, up, CAST(slot_start AS BIGINT) / %slot_ns% + i AS slot
  FROM (
    SELECT writer, reporter, up, slot_start, slots, unnest(make_array(0, 1, 2, 3, 4, 5)) AS i
    FROM raw.control_health WHERE component = 'control' AND %window%
  ) WHERE i < slots
), told AS (
  SELECT slot, reporter, writer, bool_and(up) AS up FROM reports GROUP BY slot, reporter, writer
), slots AS (
  SELECT slot, bool_and(CASE WHEN reporter = 'prober' THEN up END) AS prober_up,
    count(CASE WHEN reporter = 'proxy' THEN 1 END) AS proxies,
    count(CASE WHEN reporter = 'proxy' AND up THEN 1 END) AS proxies_up
  FROM told WHERE %slots% GROUP BY slot
), judged AS (
  SELECT *, proxies_up * 100 >= proxies * 95 AS proxies_good,
    coalesce(prober_up, false) AND proxies_up * 100 >= proxies * 95 AS up
  FROM slots
)";

/// Calls that the mesh had to carry, and those that failed through the proxies themselves.
///
/// Carried: what a caller's proxy wrote of the last attempt of a call that was neither denied nor
/// given up by the caller, and what either side refused because the mesh itself was not able to
/// decide (`bundle_missing`, `bundle_too_old`, `audit_unavailable`, `overload`). Failed: those
/// refusals, and `unavailable` as the caller's proxy found it on its way to the callee's (no
/// instance, no connection, a refused or broken handshake, a reset, no token), that is, with every
/// `error_type` but `callee_unavailable`, which the callee's proxy says of its application. Not
/// failed through the proxies: errors and denials that the callee gave, and time-outs.
const CARRIED: &str = "
carried AS (
  SELECT count(*) AS calls, count(CASE WHEN failed THEN 1 END) AS failed FROM (
    SELECT decision = 'deny'
      OR (outcome = 'unavailable' AND coalesce(error_type, '') <> 'callee_unavailable') AS failed
    FROM raw.entries
    WHERE phase = 'final' AND kind <> 'tls_failure' AND attribution = 'native' AND %window%
      AND (
        (side = 'client' AND NOT retried AND decision <> 'deny'
          AND outcome NOT IN ('denied', 'aborted'))
        OR (decision = 'deny' AND reason IN
          ('bundle_missing', 'bundle_too_old', 'audit_unavailable', 'overload'))
      )
  )
)";

/// One row per slot of ten seconds of which anybody told, as `mesh_availability` counts it.
///
/// `state`: `up`; `unprobed` when only the prober's report is missing, which counts as down;
/// `down`. A slot without any report, which has no row, is unknown and counts as down.
pub(super) fn control_slots(frame: &Frame) -> String {
    format!(
        "WITH {}
SELECT arrow_cast(slot * {SLOT_NS}, 'Timestamp(Nanosecond, Some(\"UTC\"))') AS slot_start,
  prober_up, proxies, proxies_up, up,
  CASE WHEN up THEN 'up' WHEN prober_up IS NULL AND proxies_good THEN 'unprobed' ELSE 'down' END
    AS state
FROM judged",
        slots(frame)
    )
}

fn slots(frame: &Frame) -> String {
    // A row may begin before the window and reach into it.
    let from = frame
        .from()
        .map(|at| at.plus_ns(-(SLOTS_MAX - 1) * SLOT_NS));
    let rows = between("slot_start", from, frame.given_until());
    let first = frame.from().map(|at| format!("slot >= {}", ceil(at)));
    let end = frame.given_until().map(|at| format!("slot < {}", ceil(at)));
    let both: Vec<String> = first.into_iter().chain(end).collect();
    let chosen = if both.is_empty() {
        "true".to_owned()
    } else {
        both.join(" AND ")
    };
    SLOTS
        .replace("%slot_ns%", &SLOT_NS.to_string())
        .replace("%window%", &rows)
        .replace("%slots%", &chosen)
}

/// The first slot that begins at `at` or later.
fn ceil(at: Time) -> i64 {
    at.as_ns().div_euclid(SLOT_NS) + i64::from(at.as_ns().rem_euclid(SLOT_NS) > 0)
}

/// Availability of the mesh: (total uptime - control plane downtime) / total uptime, over slots of ten
/// seconds; one row.
///
/// A slot is up when the prober was answered and at least 95 % of the proxies that told of it found
/// control up; every other one is down, also when nobody told of it (`slots_unknown`).
/// `availability_known` leaves those out. An end that is not given is that of the reports that there
/// are. The target of 99.95 % must be exceeded. Beside it `data_plane_availability`: the share of
/// the carried calls that did not fail through the proxies themselves.
pub(crate) fn mesh_availability(frame: &Frame) -> String {
    let settled = frame
        .now
        .plus_ns(-TOLD_WITHIN_NS)
        .as_ns()
        .div_euclid(SLOT_NS);
    let from = frame.given_from().map(|at| ceil(at).to_string());
    let until = frame.given_until().map(|at| ceil(at).to_string());
    AVAILABILITY
        .replace("%slots%", &slots(frame))
        .replace("%carried%", CARRIED)
        .replace("%window%", &frame.holds("start_time"))
        .replace("%first%", from.as_deref().unwrap_or("first_slot"))
        .replace("%last%", until.as_deref().unwrap_or("last_slot + 1"))
        .replace("%settled%", &settled.to_string())
        .replace("%slot_ns%", &SLOT_NS.to_string())
}

const AVAILABILITY: &str = "
WITH %slots%, %carried%, extent AS (
  SELECT min(slot) AS first_slot, max(slot) AS last_slot,
    max(CASE WHEN prober_up IS NOT NULL THEN slot END) AS probed
  FROM judged
), bounds AS (
  SELECT %first% AS first, least(%last%, greatest(%settled%, coalesce(probed + 1, %settled%))) AS last
  FROM extent
), counted AS (
  SELECT min(b.first) AS first, max(b.last) AS last,
    greatest(coalesce(max(b.last) - min(b.first), 0), 0) AS total, count(j.slot) AS reported,
    count(CASE WHEN j.up THEN 1 END) AS up,
    count(CASE WHEN j.prober_up IS NULL AND j.proxies_good THEN 1 END) AS unprobed
  FROM bounds b LEFT JOIN judged j ON j.slot >= b.first AND j.slot < b.last
)
SELECT arrow_cast(first * %slot_ns%, 'Timestamp(Nanosecond, Some(\"UTC\"))') AS from_time,
  arrow_cast(last * %slot_ns%, 'Timestamp(Nanosecond, Some(\"UTC\"))') AS until_time,
  total AS slots, up AS slots_up, reported - up AS slots_down, total - reported AS slots_unknown,
  unprobed AS slots_unprobed, (total - up) * 10 AS downtime_s,
  CASE WHEN total > 0 THEN CAST(up AS DOUBLE) / total END AS availability,
  CASE WHEN reported > 0 THEN CAST(up AS DOUBLE) / reported END AS availability_known,
  c.calls AS data_plane_calls, c.failed AS data_plane_failed,
  CASE WHEN c.calls > 0 THEN 1.0 - CAST(c.failed AS DOUBLE) / c.calls END AS data_plane_availability,
  CAST(0.9995 AS DOUBLE) AS target,
  CASE WHEN total = 0 THEN 'insufficient' WHEN up * 10000 > total * 9995 THEN 'met' ELSE 'missed' END
    AS verdict
FROM counted CROSS JOIN carried c";

/// Classes of failed attempts that have a column of their own.
const CLASSES: &[&str] = &[
    "ca_unreachable",
    "ca_rejected",
    "csr_invalid",
    "io",
    "clock",
    "swap_failed",
];

/// How often certificates were renewed: one row in all, and one a workload.
///
/// `success_rate`: attempts that ended with a handshake in which the new serial was seen, by all
/// attempts of the window, those for the first certificate too (`attempts_first`). A *cycle* is the
/// life of one certificate in which somebody tried to renew it: `cycles_renewed` succeeded before
/// that certificate expired, `cycles_late` later, `cycles_missed` not at all, `cycles_open` not yet.
/// `cycle_rate` leaves the open ones out; a first certificate has no cycle. The target of 99.9 % of
/// the attempts must be exceeded.
pub(crate) fn rotation_success(frame: &Frame) -> String {
    let classes: Vec<String> = CLASSES
        .iter()
        .map(|class| {
            format!("count(CASE WHEN error_class = '{class}' THEN 1 END) AS failed_{class},")
        })
        .collect();
    let known: Vec<String> = CLASSES.iter().map(|class| format!("'{class}'")).collect();
    let scope = |scope: &str, workload: &str, group: &str| {
        SCOPE
            .replace("%scope%", scope)
            .replace("%workload%", workload)
            .replace("%group%", group)
            .replace("%classes%", &classes.join("\n    "))
            .replace("%known%", &known.join(", "))
    };
    let columns: Vec<String> = CLASSES
        .iter()
        .map(|class| format!("a.failed_{class}"))
        .collect();
    ROTATION
        .replace(
            "%rows%",
            &[
                scope("total", "CAST(NULL AS VARCHAR)", ""),
                scope("workload", "workload", "GROUP BY workload"),
            ]
            .join("\n  UNION ALL"),
        )
        .replace("%window%", &frame.holds("ended_at"))
        .replace("%failed%", &columns.join(", "))
        .replace("%at_ns%", &frame.as_at().as_ns().to_string())
}

const ROTATION: &str = "
WITH attempts AS (
  SELECT workload, cycle, outcome = 'success' AS good, outcome, error_class, old_not_after, ended_at,
    old_not_after IS NULL AS is_first
  FROM raw.cert_rotations WHERE %window%
), ends AS (
  SELECT workload, cycle, max(old_not_after) AS not_after,
    min(CASE WHEN good THEN ended_at END) AS renewed_at
  FROM attempts WHERE NOT is_first GROUP BY workload, cycle
), cycles AS (
  SELECT workload, CASE WHEN renewed_at < not_after THEN 'renewed' WHEN renewed_at IS NOT NULL THEN 'late'
    WHEN CAST(not_after AS BIGINT) <= %at_ns% THEN 'missed' ELSE 'open' END AS state
  FROM ends
), counted AS (%rows%
)
SELECT scope, workload, attempts, attempts_first, successes, attempts - successes AS failures,
  %failed%, failed_other,
  CASE WHEN attempts > 0 THEN CAST(successes AS DOUBLE) / attempts END AS success_rate,
  renewed + late + missed + open AS cycles, renewed AS cycles_renewed, late AS cycles_late,
  missed AS cycles_missed, open AS cycles_open,
  CASE WHEN renewed + late + missed > 0
    THEN CAST(renewed AS DOUBLE) / (renewed + late + missed) END AS cycle_rate,
  CAST(0.999 AS DOUBLE) AS target,
  CASE WHEN attempts = 0 THEN 'insufficient' WHEN successes * 1000 > attempts * 999 THEN 'met'
    ELSE 'missed' END AS verdict
FROM counted a";

/// The counts of one scope: attempts and cycles are counted apart and added up, so that a scope
/// without cycles keeps its row. The scope's name comes from a table of one row: were it a constant
/// beside a count without groups, a filter on it would be pushed below the count.
const SCOPE: &str = "
  SELECT v.scope, c.* FROM (VALUES ('%scope%')) AS v(scope) CROSS JOIN (
    SELECT %workload% AS workload, count(good) AS attempts,
      count(CASE WHEN is_first THEN 1 END) AS attempts_first,
      count(CASE WHEN good THEN 1 END) AS successes,
      %classes%
      count(CASE WHEN NOT good AND coalesce(error_class, '') NOT IN (%known%) THEN 1 END)
        AS failed_other,
      count(CASE WHEN state = 'renewed' THEN 1 END) AS renewed,
      count(CASE WHEN state = 'late' THEN 1 END) AS late,
      count(CASE WHEN state = 'missed' THEN 1 END) AS missed,
      count(CASE WHEN state = 'open' THEN 1 END) AS open
    FROM (
      SELECT workload, good, is_first, CASE WHEN NOT good THEN error_class END AS error_class,
        CAST(NULL AS VARCHAR) AS state FROM attempts
      UNION ALL
      SELECT workload, CAST(NULL AS BOOLEAN), CAST(NULL AS BOOLEAN), CAST(NULL AS VARCHAR), state
      FROM cycles
    ) %group%
  ) c";

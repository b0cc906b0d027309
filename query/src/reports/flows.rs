//! The report on flows: traces whose path through the mesh has holes or contradicts itself.

use crate::views::GRACE_S;
use crate::views::flow::{DECISIONS_DISAGREE, apart};
use crate::views::frame::{Frame, between};

const S: i64 = 1_000_000_000;
/// How long before the window a caller may have begun (ns): a day.
const BEFORE_NS: i64 = 86_400 * S;
/// How long after the window a counterpart may begin (ns): an hour.
const AFTER_NS: i64 = 3_600 * S;

/// Hops of the window that make a hole in the flow of their trace, or contradict another.
///
/// - `client_half_missing`, `server_half_missing`: the counterpart is due and came in no phase; the row
///   is the half that is there.
/// - `parent_unknown`: the caller's proxy says that the call belongs to a span that is nowhere in the
///   trace. Not so for calls of the application that made the trace's first call and was not called in
///   it itself: it began the trace outside the mesh, under spans of its own.
/// - `starts_before_caller`: it began before the call, or the other half, that brought it about, by more
///   than both clocks may be off.
/// - `decisions_disagree`: the halves of the call; the row is the callee's.
///
/// The first two wait for the grace time, in which entries may be on their way. Callers and counterparts
/// are looked for from a day before the window to an hour after it. `flow(trace_id)` shows the whole.
pub(super) fn e37(frame: &Frame) -> String {
    E37.replace("%lone%", &lone_halves(frame))
        .replace("%settled%", &settled(frame))
        .replace("%apart%", &apart("h.", "p."))
        .replace("%disagree%", DECISIONS_DISAGREE)
}

/// Named queries: `near` (the entries in and around the window), `hops` (those of the window) and `lone`,
/// the hops whose counterpart is due and came in no phase.
pub(super) fn lone_halves(frame: &Frame) -> String {
    let from = frame.from().map(|at| at.plus_ns(-BEFORE_NS));
    let until = frame.given_until().map(|at| at.plus_ns(AFTER_NS));
    LONE.replace("%near%", &between("start_time", from, until))
        .replace("%window%", &frame.holds("start_time"))
        .replace("%settled%", &settled(frame))
}

/// That the counterpart of `h` has had its time to come.
fn settled(frame: &Frame) -> String {
    let settled = frame.now.plus_ns(-i64::from(GRACE_S) * S);
    between("coalesce(h.end_time, h.start_time)", None, Some(settled))
}

const LONE: &str = "near AS (
  SELECT * FROM raw.entries WHERE kind <> 'tls_failure' AND trace_id IS NOT NULL AND %near%
), hops AS (
  SELECT *, CASE side WHEN 'client' THEN span_id ELSE parent_span_id END AS pair FROM near
  WHERE phase = 'final' AND %window%
), counterparts AS (
  SELECT DISTINCT trace_id, CASE side WHEN 'client' THEN 'server' ELSE 'client' END AS side,
    CASE side WHEN 'client' THEN span_id ELSE parent_span_id END AS pair
  FROM near
), lone AS (
  SELECT h.* FROM hops h LEFT ANTI JOIN counterparts c
    ON h.trace_id = c.trace_id AND h.side = c.side AND h.pair = c.pair
  WHERE h.attribution = 'native' AND (h.side = 'server' OR (h.decision <> 'deny' AND h.mtls)) AND %settled%
)";

const E37: &str = "
WITH %lone%, spans AS (
  SELECT DISTINCT trace_id, span_id FROM near WHERE span_id IS NOT NULL
), orphans AS (
  SELECT h.* FROM hops h LEFT ANTI JOIN spans s ON h.trace_id = s.trace_id AND h.parent_span_id = s.span_id
  WHERE h.side = 'client' AND h.attribution = 'native' AND h.parent_span_id IS NOT NULL AND %settled%
), of_orphans AS (
  SELECT n.trace_id, n.side, n.start_time, n.source, n.destination
  FROM near n LEFT SEMI JOIN orphans o ON n.trace_id = o.trace_id
), first_calls AS (
  SELECT trace_id, first_value(source ORDER BY start_time, source) AS source
  FROM of_orphans WHERE side = 'client' GROUP BY trace_id
), called AS (
  SELECT DISTINCT trace_id, destination FROM of_orphans
), began AS (
  SELECT f.trace_id, f.source FROM first_calls f
  LEFT ANTI JOIN called c ON f.trace_id = c.trace_id AND f.source = c.destination
), callers AS (
  -- Of many with the same span the earliest: foreign spans must not make pairs of all with all.
  SELECT trace_id, span_id, min(start_time) AS start_time, first_value(writer ORDER BY start_time) AS writer,
    first_value(epoch ORDER BY start_time) AS epoch,
    first_value(clock_error_ns ORDER BY start_time) AS clock_error_ns
  FROM near WHERE span_id IS NOT NULL GROUP BY trace_id, span_id
), verdicts AS (
  SELECT DISTINCT trace_id, span_id, decision, outcome FROM near WHERE side = 'client' AND phase = 'final'
), found AS (
  SELECT CASE h.side WHEN 'client' THEN 'server_half_missing' ELSE 'client_half_missing' END AS finding, h.*
  FROM lone h
  UNION ALL
  SELECT 'parent_unknown', o.* FROM orphans o
  LEFT ANTI JOIN began b ON o.trace_id = b.trace_id AND o.source = b.source
  UNION ALL
  SELECT 'starts_before_caller', h.* FROM hops h
  LEFT SEMI JOIN callers p ON h.trace_id = p.trace_id AND h.parent_span_id = p.span_id
    AND CAST(p.start_time AS BIGINT) - CAST(h.start_time AS BIGINT) > %apart%
  UNION ALL
  SELECT 'decisions_disagree', s.* FROM hops s
  LEFT SEMI JOIN verdicts c ON s.trace_id = c.trace_id AND s.pair = c.span_id AND s.side = 'server'
    AND %disagree%
)
SELECT finding, as_text(trace_id) AS trace_id, as_text(span_id) AS span_id,
  as_text(parent_span_id) AS parent_span_id, side, start_time, source, destination, api, operation,
  method, decision, reason, outcome, writer, epoch, stream, seq, origin, segment, leaf_index
FROM found";

//! The path of one trace through the mesh, hop by hop.

/// For how long a clock is taken to be off when its writer does not know (ns).
const CLOCK_UNKNOWN_NS: u64 = 500_000_000;
/// The most that a clock is taken to be off, whatever its writer says (ns): an hour.
const CLOCK_ERROR_MAX_NS: u64 = 3_600_000_000_000;

/// How far the clocks of two entries, whose columns begin with these words, may be apart (ns): not at
/// all when both times are of one process.
pub(crate) fn apart(one: &str, other: &str) -> String {
    let error = |of: &str| {
        format!("least(coalesce({of}clock_error_ns, {CLOCK_UNKNOWN_NS}), {CLOCK_ERROR_MAX_NS})")
    };
    format!(
        "CASE WHEN {one}writer = {other}writer AND {one}epoch = {other}epoch THEN 0 ELSE {} + {} END",
        error(one),
        error(other)
    )
}

/// That what the caller's proxy says of the decision cannot be so when the callee's is right, or the
/// other way round. The callee's proxy decides; the caller's sees its answer.
pub(crate) const DECISIONS_DISAGREE: &str = "(c.decision = 'deny'
  OR (s.decision = 'deny' AND (c.decision = 'allow' OR coalesce(c.outcome, 'unknown') = 'ok'))
  OR (s.decision <> 'deny' AND coalesce(c.outcome, 'unknown') = 'denied'))";

/// One row a hop of the trace `trace_id` (lower-case hex): each attempt of a call, with both sides where
/// they are there, in causal order.
///
/// `link`: `root` (no parent), `called` (by the hop `parent_place`), `outside` (the trace was begun by an
/// application whose spans are not in the books), `parent_unknown`, `cycle`. `halves`: `both`, `client`,
/// `server`. `mesh_ns`: what both proxies cost; `network_ns` as in `calls`. `finding`: what is wrong with
/// the hop, as in `e37`, separated by commas; a half that is only on its way counts as missing.
/// `complete`: no half and no parent is missing, and no gap is open in which entries of that time may be.
///
/// An entry of a phase other than `final` stands for a call of which nothing later is known. Halves with
/// the same ids pair one by one, so that no row is made of two others.
pub(crate) fn flow(trace_id: &str) -> String {
    FLOW.replace("%trace_id%", trace_id)
        .replace("%apart_sides%", &apart("c.", "s."))
        .replace("%apart_hops%", &apart("h.begun_", "p."))
        .replace("%disagree%", DECISIONS_DISAGREE)
}

const FLOW: &str = "
WITH of_trace AS (
  SELECT *,
    count(CASE WHEN phase = 'final' THEN 1 END) OVER (PARTITION BY side, writer, epoch, span_id) AS finals,
    row_number() OVER (PARTITION BY side, writer, epoch, span_id, phase = 'final' ORDER BY seq DESC) AS newest,
    row_number() OVER (PARTITION BY writer, epoch, stream, seq ORDER BY start_time) AS copy
  FROM public.entries WHERE trace_id = '%trace_id%' AND kind <> 'tls_failure'
), told AS (
  SELECT * FROM of_trace WHERE copy = 1 AND (phase = 'final' OR (finals = 0 AND newest = 1))
), client AS (
  SELECT *, row_number() OVER (PARTITION BY span_id ORDER BY start_time, writer, seq) AS nth
  FROM told WHERE side = 'client'
), server AS (
  SELECT *, row_number() OVER (PARTITION BY parent_span_id ORDER BY start_time, writer, seq) AS nth
  FROM told WHERE side = 'server'
), paired AS (
  SELECT
    CASE WHEN s.side IS NULL THEN 'client' WHEN c.side IS NULL THEN 'server' ELSE 'both' END AS halves,
    c.span_id AS span_id, s.span_id AS server_span_id,
    CASE WHEN c.side IS NULL THEN s.parent_span_id ELSE c.parent_span_id END AS parent_span_id,
    coalesce(c.start_time, s.start_time) AS start_time,
    coalesce(c.end_time, s.end_time) AS end_time,
    c.start_time AS client_start_time, s.start_time AS server_start_time,
    coalesce(c.source, s.source) AS source_id,
    coalesce(c.destination, s.destination) AS destination_id,
    coalesce(c.source_app, s.source_app,
      reverse(split_part(reverse(coalesce(c.source, s.source)), '/', 1))) AS source,
    coalesce(c.destination_app, s.destination_app,
      reverse(split_part(reverse(coalesce(c.destination, s.destination)), '/', 1))) AS destination,
    coalesce(c.kind, s.kind) AS kind, coalesce(c.phase, s.phase) AS phase,
    coalesce(c.api, s.api) AS api, coalesce(c.operation, s.operation) AS operation,
    coalesce(c.method, s.method) AS method, coalesce(c.route, s.route) AS route,
    coalesce(c.attempt, s.attempt) AS attempt, coalesce(c.retried, s.retried) AS retried,
    coalesce(c.status, s.status) AS status, coalesce(c.grpc_status, s.grpc_status) AS grpc_status,
    coalesce(c.error_type, s.error_type) AS error_type,
    CASE WHEN s.decision = 'deny' THEN 'denied' ELSE coalesce(c.outcome, s.outcome) END AS outcome,
    CASE WHEN c.decision = 'deny' OR s.decision IS NULL THEN c.decision ELSE s.decision END AS decision,
    CASE WHEN c.decision = 'deny' OR s.decision IS NULL THEN c.reason ELSE s.reason END AS reason,
    coalesce(s.grant_id, c.grant_id) AS grant_id,
    c.duration_ns AS client_duration_ns, s.duration_ns AS server_duration_ns,
    s.upstream_ns AS server_upstream_ns,
    c.overhead_ns AS client_overhead_ns, s.overhead_ns AS server_overhead_ns,
    c.upstream_ns - (s.duration_ns - coalesce(s.downstream_ns, 0)) AS network_ns,
    CASE WHEN coalesce(c.overhead_ns, s.overhead_ns) IS NOT NULL
      THEN coalesce(c.overhead_ns, 0) + coalesce(s.overhead_ns, 0) END AS mesh_ns,
    c.writer AS client_writer, s.writer AS server_writer,
    -- The side in which the next hops hang, and by whose clock they are held against this one.
    coalesce(s.writer, c.writer) AS writer, coalesce(s.epoch, c.epoch) AS epoch,
    coalesce(s.start_time, c.start_time) AS reached_time,
    CASE WHEN s.side IS NULL THEN c.clock_error_ns ELSE s.clock_error_ns END AS clock_error_ns,
    coalesce(c.writer, s.writer) AS begun_writer, coalesce(c.epoch, s.epoch) AS begun_epoch,
    CASE WHEN c.side IS NULL THEN s.clock_error_ns ELSE c.clock_error_ns END AS begun_clock_error_ns,
    s.side IS NULL AND c.attribution = 'native' AND c.decision <> 'deny' AND c.mtls AS no_server,
    c.side IS NULL AND s.attribution = 'native' AS no_client,
    c.side IS NOT NULL AND s.side IS NOT NULL AND %disagree% AS disagree,
    1000 * (CAST(c.start_time AS BIGINT) - CAST(s.start_time AS BIGINT)) > %apart_sides% AS early_server
  FROM client c FULL OUTER JOIN server s ON c.span_id = s.parent_span_id AND c.nth = s.nth
), ordered AS (
  SELECT *, causal_order(span_id, server_span_id, parent_span_id, CAST(start_time AS BIGINT),
    source_id, destination_id) OVER () AS w
  FROM paired
), placed AS (
  SELECT *, w['place'] AS place, w['depth'] AS depth, w['parent_place'] AS parent_place,
    w['link'] AS link
  FROM ordered
), parents AS (
  SELECT place, reached_time, writer, epoch, clock_error_ns FROM placed
), hops AS (
  SELECT h.*, 1000 * (CAST(h.start_time AS BIGINT) - CAST(p.reached_time AS BIGINT)) AS after_caller_ns,
    coalesce(h.early_server, false)
      OR coalesce(1000 * (CAST(p.reached_time AS BIGINT) - CAST(h.start_time AS BIGINT)) > %apart_hops%, false)
      AS early
  FROM placed h LEFT JOIN parents p ON h.parent_place = p.place
), judged AS (
  SELECT *, nullif(concat_ws(',',
    CASE WHEN no_client THEN 'client_half_missing' END,
    CASE WHEN no_server THEN 'server_half_missing' END,
    CASE WHEN link = 'parent_unknown' AND NOT coalesce(no_client, false) THEN 'parent_unknown' END,
    CASE WHEN link = 'cycle' THEN 'cycle' END,
    CASE WHEN early THEN 'starts_before_caller' END,
    CASE WHEN disagree THEN 'decisions_disagree' END), '') AS finding,
    coalesce(no_client, false) OR coalesce(no_server, false) OR link IN ('parent_unknown', 'cycle') AS hole
  FROM hops
), gaps AS (
  SELECT not_before, not_after, row_number() OVER (PARTITION BY gap_id ORDER BY revision DESC) AS nth,
    closed_at, subject_stream
  FROM public.gaps
), extent AS (
  SELECT min(start_time) AS first_time, max(coalesce(end_time, start_time)) AS last_time FROM told
), hidden AS (
  SELECT count(g.nth) AS gaps FROM gaps g CROSS JOIN extent e
  WHERE g.nth = 1 AND g.closed_at IS NULL AND coalesce(g.subject_stream, 'entries/') LIKE 'entries/%'
    AND coalesce(g.not_before, e.last_time) <= e.last_time
    AND coalesce(g.not_after, e.first_time) >= e.first_time
)
SELECT j.place, j.depth, j.parent_place, j.link, '%trace_id%' AS trace_id, j.span_id, j.server_span_id,
  j.parent_span_id, j.halves, j.start_time, j.end_time, j.client_start_time, j.server_start_time,
  j.after_caller_ns, j.source, j.destination, j.kind, j.phase, j.api, j.operation, j.method, j.route,
  j.attempt, j.retried, j.status, j.grpc_status, j.outcome, j.error_type, j.decision, j.reason,
  j.grant_id, j.client_duration_ns, j.server_duration_ns, j.server_upstream_ns, j.client_overhead_ns,
  j.server_overhead_ns, j.network_ns, j.mesh_ns,
  sum(j.mesh_ns) OVER (ORDER BY j.place ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS running_mesh_ns,
  sum(j.mesh_ns) OVER (ORDER BY j.place ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
    AS total_mesh_ns,
  j.finding, NOT bool_or(j.hole) OVER (ORDER BY j.place ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
    AND h.gaps = 0 AS complete,
  j.source_id, j.destination_id, j.client_writer, j.server_writer
FROM judged j CROSS JOIN hidden h
ORDER BY j.place";

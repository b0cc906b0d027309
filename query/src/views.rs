//! The views of schema `public`: their SQL, and the table functions of the same names.
//!
//! Each view is one query over the tables of `public` and `raw`, planned when it is used. Windows
//! are `[from, until)`.

use counterfoil_entry::Time;
use counterfoil_entry::table::{TABLES, TableId};

use crate::reports;

pub(crate) mod flow;
pub(crate) mod frame;
pub(crate) mod grants;
pub(crate) mod mesh;
pub(crate) mod overhead;
mod promises;
pub(crate) mod sla;

use frame::Frame;
pub use sla::Promised;
pub(crate) use sla::{counts, counts_since};

/// A window of time; an open end has no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// First instant, included.
    pub from: Option<Time>,
    /// First instant after it.
    pub until: Option<Time>,
}

/// Names of the views that are table functions, too; the reports are as well.
const WINDOWED: &[&str] = &[
    "access_review",
    "completeness",
    "control_slots",
    "error_budget",
    "latency_overhead",
    "mesh_availability",
    "report_summary",
    "revocations",
    "rotation_success",
    "sla",
];

/// Days that a windowed view covers when it has no arguments.
pub const DEFAULT_DAYS: i64 = 30;

/// Confidence of the intervals that are joined to one of 95 % for a difference (Bonferroni).
const JOINED_CONFIDENCE: f64 = 0.975;

/// After this long without its counterpart an entry is unmatched (seconds, as text of the views).
pub const GRACE_S: u32 = 60;

/// Names of the views without arguments.
pub const VIEWS: &[&str] = &[
    "alerts",
    "alerts_active",
    "calls",
    "denials",
    "grants_in_force",
    "objective_revisions",
    "tls_failures",
    "unmatched",
];

/// The query of the view `name` without arguments; `None` for another name.
#[must_use]
pub fn plain(name: &str) -> Option<String> {
    match name {
        "alerts" => Some(promises::ALERTS.to_owned()),
        "alerts_active" => Some(promises::ALERTS_ACTIVE.to_owned()),
        "calls" => Some(CALLS.to_owned()),
        "denials" => Some(DENIALS.to_owned()),
        "grants_in_force" => Some(grants::grants_in_force("now()")),
        "objective_revisions" => Some(promises::OBJECTIVE_REVISIONS.to_owned()),
        "tls_failures" => Some(TLS_FAILURES.to_owned()),
        "unmatched" => Some(UNMATCHED.to_owned()),
        _ => None,
    }
}

/// One row a call: last attempt, final phase, both sides where they are there.
///
/// `due`: the request reached, or must have reached, the other proxy: a client entry that was not
/// denied and went out over mutual TLS, and every server entry. `matched` counts due ones only.
/// `agrees`: source, destination, operation and method are the same and, when both ended
/// completely, status and sizes; the size of a request only when neither half says that the response
/// ended before it (`request_incomplete`). For a denial the side that decided is the authority.
/// `network_ns`: what the caller's proxy waited for the callee's, less what that one worked or
/// waited for its application; small negative values are the noise of two clocks.
const CALLS: &str = "
WITH client AS (
  SELECT * FROM public.entries
  WHERE side = 'client' AND phase = 'final' AND kind <> 'tls_failure'
), server AS (
  SELECT * FROM public.entries
  WHERE side = 'server' AND phase = 'final' AND kind <> 'tls_failure'
), pairs AS (
  SELECT
    coalesce(c.trace_id, s.trace_id) AS trace_id,
    coalesce(c.span_id, s.parent_span_id) AS span_id,
    coalesce(c.start_time, s.start_time) AS start_time,
    coalesce(c.end_time, s.end_time) AS end_time,
    coalesce(c.source, s.source) AS source_id,
    coalesce(c.destination, s.destination) AS destination_id,
    coalesce(c.source_app, s.source_app,
      reverse(split_part(reverse(coalesce(c.source, s.source)), '/', 1))) AS source,
    coalesce(c.destination_app, s.destination_app,
      reverse(split_part(reverse(coalesce(c.destination, s.destination)), '/', 1))) AS destination,
    coalesce(c.kind, s.kind) AS kind,
    coalesce(c.api, s.api) AS api,
    coalesce(c.operation, s.operation) AS operation,
    coalesce(c.method, s.method) AS method,
    coalesce(c.route, s.route) AS route,
    coalesce(c.status, s.status) AS status,
    coalesce(c.grpc_status, s.grpc_status) AS grpc_status,
    CASE WHEN s.decision = 'deny' THEN 'denied' ELSE coalesce(c.outcome, s.outcome) END AS outcome,
    CASE WHEN c.decision = 'deny' OR s.decision IS NULL THEN c.decision ELSE s.decision END AS decision,
    CASE WHEN c.decision = 'deny' OR s.decision IS NULL THEN c.reason ELSE s.reason END AS reason,
    coalesce(s.grant_id, c.grant_id) AS grant_id,
    coalesce(c.attempt, s.attempt) AS attempt,
    coalesce(c.error_type, s.error_type) AS error_type,
    coalesce(c.request_bytes, s.request_bytes) AS request_bytes,
    coalesce(c.response_bytes, s.response_bytes) AS response_bytes,
    c.duration_ns AS client_duration_ns,
    s.duration_ns AS server_duration_ns,
    s.upstream_ns AS server_upstream_ns,
    c.overhead_ns AS client_overhead_ns,
    s.overhead_ns AS server_overhead_ns,
    c.upstream_ns - (s.duration_ns - coalesce(s.downstream_ns, 0)) AS network_ns,
    c.writer AS client_writer,
    s.writer AS server_writer,
    coalesce(c.retried, false) AS retried,
    CASE WHEN c.span_id IS NULL THEN s.attribution = 'native'
         ELSE c.attribution = 'native' AND c.decision <> 'deny' AND c.mtls END AS due,
    c.span_id IS NOT NULL AND s.span_id IS NOT NULL AS paired,
    (c.source IS NOT DISTINCT FROM s.source)
      AND (c.destination IS NOT DISTINCT FROM s.destination)
      AND (c.operation IS NOT DISTINCT FROM s.operation)
      AND (c.method IS NOT DISTINCT FROM s.method)
      AND (coalesce(c.outcome, '') NOT IN ('ok', 'client_error', 'server_error')
        OR coalesce(s.outcome, '') NOT IN ('ok', 'client_error', 'server_error')
        OR ((c.status IS NOT DISTINCT FROM s.status)
          AND (c.grpc_status IS NOT DISTINCT FROM s.grpc_status)
          AND ((c.request_bytes IS NOT DISTINCT FROM s.request_bytes)
            OR coalesce(c.error_type, '') = 'request_incomplete'
            OR coalesce(s.error_type, '') = 'request_incomplete')
          AND (c.response_bytes IS NOT DISTINCT FROM s.response_bytes))) AS same
  FROM client c
  FULL OUTER JOIN server s ON c.trace_id = s.trace_id AND c.span_id = s.parent_span_id
)
SELECT trace_id, span_id, start_time, end_time, source, destination, kind, api, operation, method,
  route, status, grpc_status, outcome, decision, reason, grant_id, error_type, attempt,
  request_bytes, response_bytes, client_duration_ns, server_duration_ns, server_upstream_ns,
  client_overhead_ns, server_overhead_ns, network_ns, due, due AND paired AS matched,
  CASE WHEN paired THEN same END AS agrees, source_id, destination_id, client_writer, server_writer
FROM pairs
WHERE NOT retried";

/// Due entries without a counterpart of any phase, after the grace time.
const UNMATCHED: &str = "
WITH due AS (
  SELECT *,
    trace_id || CASE side WHEN 'client' THEN span_id ELSE parent_span_id END AS pair
  FROM public.entries
  WHERE phase = 'final' AND kind <> 'tls_failure' AND attribution = 'native'
    AND (side = 'server' OR (decision <> 'deny' AND mtls))
), halves AS (
  SELECT DISTINCT side,
    trace_id || CASE side WHEN 'client' THEN span_id ELSE parent_span_id END AS pair
  FROM public.entries
  WHERE kind <> 'tls_failure' AND trace_id IS NOT NULL
), other AS (
  SELECT CASE side WHEN 'client' THEN 'server' ELSE 'client' END AS side, pair FROM halves
)
SELECT d.side, d.trace_id, d.span_id, d.parent_span_id, d.start_time, d.end_time,
  d.source, d.destination, d.api, d.operation, d.method, d.status, d.outcome, d.error_type,
  d.writer, d.epoch, d.stream, d.seq
FROM due d
LEFT ANTI JOIN other o ON d.side = o.side AND d.pair = o.pair
WHERE coalesce(d.end_time, d.start_time) < now() - INTERVAL '60 seconds'";

/// What was not allowed, as the side that decided wrote it. Refused handshakes, in which no call was
/// made yet, are in `tls_failures`.
const DENIALS: &str = "
SELECT start_time, side, kind, trace_id, span_id, source, destination, source_app, destination_app,
  api, operation, method, route, status, decision, reason, grant_id, peer_address, bundle_version,
  bundle_sha256, writer, epoch, stream, seq
FROM public.entries
WHERE decision = 'deny' AND kind <> 'tls_failure' AND phase = 'final'";

/// Refused handshakes.
const TLS_FAILURES: &str = "
SELECT start_time, side, source, destination, peer_address, peer_port, tls_version, reason,
  error_type, writer, epoch, stream, seq
FROM public.entries
WHERE kind = 'tls_failure'";

/// Names of the views that are table functions, too.
pub fn windowed_names() -> impl Iterator<Item = &'static str> {
    let reports = reports::REPORTS.iter().map(|report| report.view);
    WINDOWED.iter().copied().chain(reports)
}

/// The query of the windowed view `name` over `window`, asked at `now`; `None` for another name.
///
/// `promised` tells what the objectives are like.
#[must_use]
pub fn windowed(
    name: &str,
    window: Option<Window>,
    promised: Promised,
    now: Time,
) -> Option<String> {
    let frame = Frame::new(window, now);
    match name {
        "access_review" => Some(grants::access_review(&frame)),
        "completeness" => Some(completeness(window.unwrap_or_default())),
        "control_slots" => Some(mesh::control_slots(&frame)),
        "latency_overhead" => Some(overhead::latency_overhead(window, now)),
        "mesh_availability" => Some(mesh::mesh_availability(&frame)),
        "report_summary" => Some(reports::summary(&frame)),
        "revocations" => Some(grants::revocations(&frame)),
        "rotation_success" => Some(mesh::rotation_success(&frame)),
        "error_budget" => Some(sla::error_budget(window, promised, now)),
        "sla" => Some(sla::sla(window, promised, now)),
        _ => reports::of_view(name).map(|report| report.sql(&frame)),
    }
}

/// The query of the windowed view `name` over `window`, narrowed to `scope`; `None` for a view that knows no
/// scope.
#[must_use]
pub fn scoped(name: &str, window: Window, now: Time, scope: &str) -> Option<String> {
    let frame = Frame::new(Some(window), now);
    (name == "e11").then(|| reports::completeness_of(&frame, Some(scope)))
}

/// The condition that `column` lies in the window; without one, in the last 30 days.
fn within(window: Option<Window>, column: &str) -> String {
    let Some(window) = window else {
        return format!("{column} >= now() - INTERVAL '{DEFAULT_DAYS} days'");
    };
    let from = window.from.map(|at| format!("{column} >= {}", literal(at)));
    let until = window.until.map(|at| format!("{column} < {}", literal(at)));
    match (from, until) {
        (Some(from), Some(until)) => format!("{from} AND {until}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "true".to_owned(),
    }
}

/// A time as an SQL literal of microseconds; times between two microseconds round up, so that
/// `[from, until)` keeps its meaning on columns that are cut to microseconds.
fn literal(at: Time) -> String {
    let us = at.as_ns().div_euclid(1_000) + i64::from(at.as_ns().rem_euclid(1_000) > 0);
    format!("arrow_cast({us}, 'Timestamp(Microsecond, Some(\"UTC\"))')")
}

/// What each stream must hold and what it holds.
///
/// `due`: sequence numbers up to the last one that the window's statements (and the recovery of a
/// dead epoch) account for, from their first one, or from 0 when the window has no begin; `present`:
/// how many of those are in the books; `missing`: the rest; `unstated`: entries that no statement
/// covers yet, in the window or after it. `dropped`: declared by the writer before a number was
/// given. The window chooses statements by their time. An epoch of which nothing but an open gap is
/// known has one row, whose `stream` is the gap's, or empty.
pub(crate) fn completeness(window: Window) -> String {
    let chosen = within(Some(window), "time");
    let before = window.from.map_or_else(
        || "false".to_owned(),
        |at| format!("time < {}", literal(at)),
    );
    let upto = window
        .until
        .map_or_else(|| "true".to_owned(), |at| format!("time < {}", literal(at)));
    let present: Vec<String> = TABLES
        .iter()
        .filter(|table| table.id != TableId::Statements)
        .map(|table| {
            format!(
                "SELECT writer, CAST(epoch AS BIGINT) AS epoch, stream, CAST(seq AS BIGINT) AS seq FROM raw.{}",
                table.id.name()
            )
        })
        .collect();
    // A stream begins with 0: what was lost before its first known statement is missing.
    let low = match window.from {
        None => "CAST(0 AS BIGINT)",
        Some(_) => "min(CASE WHEN chosen THEN r['first_seq'] END)",
    };
    COMPLETENESS
        .replace("%low%", low)
        .replace("%chosen%", &chosen)
        .replace("%before%", &before)
        .replace("%upto%", &upto)
        .replace("%present%", &present.join(" UNION ALL "))
}

/// The text of `completeness`; words between percent signs are filled in.
const COMPLETENESS: &str = "
WITH said AS (
  SELECT writer, CAST(epoch AS BIGINT) AS epoch, CAST(number AS BIGINT) AS number, kind,
    arrow_cast(time, 'Timestamp(Microsecond, Some(\"UTC\"))') AS time, statement
  FROM raw.statements WHERE kind <> 'announcement'
), exploded AS (
  SELECT writer, epoch, %chosen% AS chosen, unnest(statement_ranges(statement)) AS r FROM said
), stated AS (
  SELECT writer, coalesce(r['epoch'], epoch) AS epoch, r['stream'] AS stream, %low% AS low,
    max(CASE WHEN chosen THEN r['until_seq'] END) AS high, max(r['until_seq']) AS last
  FROM exploded GROUP BY writer, coalesce(r['epoch'], epoch), r['stream']
), declared AS (
  SELECT writer, epoch, d['stream'] AS stream, d['reason'] AS reason,
    max(CASE WHEN NOT (%before%) THEN d['dropped'] END) AS last,
    max(CASE WHEN %before% THEN d['dropped'] END) AS first
  FROM (SELECT writer, epoch, time, unnest(statement_drops(statement)) AS d FROM said WHERE %upto%)
  GROUP BY writer, epoch, d['stream'], d['reason']
), dropped AS (
  SELECT writer, epoch, stream, sum(greatest(last - coalesce(first, 0), 0)) AS dropped
  FROM declared GROUP BY writer, epoch, stream
), rows AS (
  %present%
), held AS (
  SELECT writer, epoch, stream, max(seq) AS last_seq FROM rows GROUP BY writer, epoch, stream
), revisions AS (
  SELECT gap_id, subject_writer AS writer, CAST(subject_epoch AS BIGINT) AS epoch,
    subject_stream AS stream, closed_at,
    row_number() OVER (PARTITION BY gap_id ORDER BY revision DESC) AS place
  FROM raw.gaps
), open_revisions AS (
  SELECT gap_id, writer, epoch, stream FROM revisions WHERE place = 1 AND closed_at IS NULL
), known AS (
  SELECT writer, epoch, stream FROM stated
  UNION SELECT writer, epoch, stream FROM held
  UNION SELECT writer, epoch, stream FROM dropped
  UNION SELECT writer, epoch, stream FROM open_revisions WHERE stream IS NOT NULL
), streams AS (
  SELECT writer, epoch, stream FROM known
  UNION SELECT g.writer, g.epoch, '' FROM open_revisions g
  LEFT ANTI JOIN known k ON g.writer = k.writer AND g.epoch = k.epoch
), counted AS (
  SELECT k.writer, k.epoch, k.stream,
    count(CASE WHEN r.seq >= s.low AND r.seq < s.high THEN 1 END) AS present,
    count(CASE WHEN s.last IS NULL OR r.seq >= s.last THEN r.seq END) AS unstated
  FROM streams k
  LEFT JOIN stated s ON k.writer = s.writer AND k.epoch = s.epoch AND k.stream = s.stream
  LEFT JOIN rows r ON k.writer = r.writer AND k.epoch = r.epoch AND k.stream = r.stream
  GROUP BY k.writer, k.epoch, k.stream
), deleted AS (
  SELECT s.writer, s.epoch, s.stream,
    sum(greatest(least(d.until_seq, s.high) - greatest(d.first_seq, s.low), 0)) AS deleted
  FROM stated s JOIN deleted_ranges d ON s.writer = d.writer AND s.epoch = d.epoch AND s.stream = d.stream
  GROUP BY s.writer, s.epoch, s.stream
), newest AS (
  SELECT writer, epoch, max(number) AS number, max(time) AS time,
    max(CASE WHEN kind = 'final' THEN 1 ELSE 0 END) AS final
  FROM said GROUP BY writer, epoch
), recovered AS (
  SELECT DISTINCT writer, statement_old_epoch(statement) AS epoch FROM said WHERE kind = 'recovery'
), open_gaps AS (
  SELECT k.writer, k.epoch, k.stream, count(g.gap_id) AS gaps
  FROM streams k JOIN open_revisions g ON k.writer = g.writer AND k.epoch = g.epoch
    AND (g.stream IS NULL OR g.stream = k.stream)
  GROUP BY k.writer, k.epoch, k.stream
)
SELECT k.writer, k.epoch, k.stream,
  coalesce(s.high - s.low, 0) AS due, c.present, coalesce(x.deleted, 0) AS deleted,
  coalesce(s.high - s.low, 0) - c.present - coalesce(x.deleted, 0) AS missing,
  c.unstated, coalesce(d.dropped, 0) AS dropped, coalesce(g.gaps, 0) AS gaps_open,
  n.number AS last_statement, n.time AS last_statement_time,
  CASE WHEN n.final = 1 THEN 'final' WHEN e.epoch IS NOT NULL THEN 'recovered' ELSE 'open' END AS epoch_state
FROM streams k
JOIN counted c ON k.writer = c.writer AND k.epoch = c.epoch AND k.stream = c.stream
LEFT JOIN stated s ON k.writer = s.writer AND k.epoch = s.epoch AND k.stream = s.stream
LEFT JOIN dropped d ON k.writer = d.writer AND k.epoch = d.epoch AND k.stream = d.stream
LEFT JOIN deleted x ON k.writer = x.writer AND k.epoch = x.epoch AND k.stream = x.stream
LEFT JOIN open_gaps g ON k.writer = g.writer AND k.epoch = g.epoch AND k.stream = g.stream
LEFT JOIN newest n ON k.writer = n.writer AND k.epoch = n.epoch
LEFT JOIN recovered e ON k.writer = e.writer AND k.epoch = e.epoch
ORDER BY k.writer, k.epoch, k.stream";

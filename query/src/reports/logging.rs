//! Reports on the record keeping itself: is all there, who keeps silent, and what failed when.

use crate::views::frame::{Frame, between};
use crate::views::{GRACE_S, Window, completeness};

use super::flows::lone_halves;

const S: i64 = 1_000_000_000;
/// A writer that says nothing for longer than this is silent (seconds): statements come every ten.
const SILENT_S: i64 = 60;
/// How long before the window the statements are read of those who may have been silent since (ns).
const BEFORE_NS: i64 = 3_600 * S;

/// [`e11`] of everything.
pub(super) fn e11_whole(frame: &Frame) -> String {
    e11(frame, None)
}

/// What every stream must hold and what it holds: one row in all, and one a writer, epoch and stream.
///
/// Columns as in the view `completeness`, over the statements of the window, and `one_sided`: entries of
/// the window in this stream whose counterpart is due and came nowhere. `complete` is the row's own. The
/// total adds the streams up, so that a gap of which no stream is known counts once for each.
///
/// `scope` narrows it to one table, one workload (its SPIFFE id) or one writer.
pub(crate) fn e11(frame: &Frame, scope: Option<&str>) -> String {
    let window = Window {
        from: frame.from(),
        until: frame.given_until(),
    };
    let scope = scope.map_or_else(
        || "true".to_owned(),
        |scope| {
            let scope = format!("'{}'", scope.replace('\'', "''"));
            format!(
                "(split_part(c.stream, '/', 1) = {scope} OR c.writer = {scope} \
                 OR split_part(c.writer, '#', 1) = {scope})"
            )
        },
    );
    E11.replace("%lone%", &lone_halves(frame))
        .replace("%completeness%", &completeness(window))
        .replace("%scope%", &scope)
}

const E11: &str = "
WITH %lone%, one_sided AS (
  SELECT writer, CAST(epoch AS BIGINT) AS epoch, stream, count(*) AS one_sided FROM lone
  GROUP BY writer, CAST(epoch AS BIGINT), stream
), standing AS (
  SELECT c.*, coalesce(o.one_sided, 0) AS one_sided
  FROM (%completeness%) c
  LEFT JOIN one_sided o ON c.writer = o.writer AND c.epoch = o.epoch AND c.stream = o.stream
  WHERE %scope%
), counted AS (
  SELECT 'stream' AS scope, writer, epoch, stream, due, present, missing, dropped, one_sided, gaps_open,
    unstated, last_statement_time, epoch_state
  FROM standing
  UNION ALL
  -- A constant beside a count without groups would let a filter on it be pushed below the count.
  SELECT v.scope, CAST(NULL AS VARCHAR), CAST(NULL AS BIGINT), CAST(NULL AS VARCHAR), t.due, t.present,
    t.missing, t.dropped, t.one_sided, t.gaps_open, t.unstated, t.last_statement_time, CAST(NULL AS VARCHAR)
  FROM (VALUES ('total')) AS v(scope) CROSS JOIN (
    SELECT coalesce(sum(due), 0) AS due, coalesce(sum(present), 0) AS present,
      coalesce(sum(missing), 0) AS missing, coalesce(sum(dropped), 0) AS dropped,
      coalesce(sum(one_sided), 0) AS one_sided, coalesce(sum(gaps_open), 0) AS gaps_open,
      coalesce(sum(unstated), 0) AS unstated, max(last_statement_time) AS last_statement_time
    FROM standing
  ) t
), judged AS (
  SELECT *, split_part(stream, '/', 1) AS table_name,
    missing = 0 AND dropped = 0 AND one_sided = 0 AND gaps_open = 0 AS whole,
    nullif(concat_ws(',', CASE WHEN missing <> 0 THEN 'missing' END, CASE WHEN dropped > 0 THEN 'dropped' END,
      CASE WHEN one_sided > 0 THEN 'one_sided' END, CASE WHEN gaps_open > 0 THEN 'gap_open' END), '') AS finding
  FROM counted
)
SELECT scope, writer, epoch, stream, table_name, due, present, missing, dropped, one_sided, gaps_open, unstated,
  last_statement_time, epoch_state, finding,
  CASE WHEN NOT whole THEN 'missed' WHEN due = 0 THEN 'insufficient' ELSE 'met' END AS verdict,
  whole AND due > 0 AS complete
FROM judged";

/// Workloads that others saw in traffic while they kept no records of it.
///
/// - `no_records`: not one entry of its own in the window (and a minute around it).
/// - `silent`: it has entries, but made no statement for more than [`SILENT_S`], and was seen later than
///   that after its last one. `silent_from`, `silent_until`: that pause; one that lasts has no end.
///
/// Seen is what a proxy of another workload wrote of a call over mutual TLS, in which the certificate
/// says who was at the other end: at its own side and not denied there, or at the callee's. The last
/// minute does not count, in which entries may be on their way.
pub(super) fn e14(frame: &Frame) -> String {
    let from = frame.from();
    let settled = frame.now.plus_ns(-i64::from(GRACE_S) * S);
    let around = |ns: i64| {
        between(
            "start_time",
            from.map(|at| at.plus_ns(-ns)),
            frame.given_until().map(|at| at.plus_ns(ns)),
        )
    };
    E14.replace("%window%", &frame.holds("start_time"))
        .replace("%around%", &around(SILENT_S * S))
        .replace(
            "%settled%",
            &between("coalesce(end_time, start_time)", None, Some(settled)),
        )
        .replace(
            "%spoke%",
            &between("time", from.map(|at| at.plus_ns(-BEFORE_NS)), None),
        )
        .replace("%silent%", &format!("INTERVAL '{SILENT_S} seconds'"))
}

const E14: &str = "
WITH seen AS (
  SELECT * FROM (
    SELECT CASE side WHEN 'client' THEN destination ELSE source END AS workload,
      CASE side WHEN 'client' THEN 1 ELSE 0 END AS as_callee, split_part(writer, '#', 1) AS peer, start_time
    FROM raw.entries
    WHERE phase = 'final' AND kind <> 'tls_failure' AND mtls AND (side = 'server' OR decision <> 'deny')
      AND %window% AND %settled%
  ) WHERE workload IS NOT NULL AND workload <> peer
), native AS (
  SELECT DISTINCT split_part(writer, '#', 1) AS workload FROM raw.entries
  WHERE attribution = 'native' AND %around%
), own AS (
  SELECT workload FROM native
  UNION
  SELECT CASE side WHEN 'client' THEN source ELSE destination END FROM raw.entries
  WHERE attribution <> 'native' AND %around%
), spoke AS (
  SELECT split_part(writer, '#', 1) AS workload, time FROM raw.statements WHERE %spoke%
), first_words AS (
  SELECT workload, min(time) AS time, max(time) AS last_time FROM spoke GROUP BY workload
), first_sights AS (
  SELECT workload, min(start_time) AS time FROM seen GROUP BY workload
), signs AS (
  SELECT workload, time FROM spoke
  UNION ALL
  -- Before its first statement nobody is silent for longer than he has been seen.
  SELECT s.workload, s.time FROM first_sights s LEFT JOIN first_words w ON s.workload = w.workload
  WHERE w.time IS NULL OR w.time > s.time
), pauses AS (
  SELECT workload, time AS silent_from,
    lead(time) OVER (PARTITION BY workload ORDER BY time) AS silent_until
  FROM signs
), long_pauses AS (
  SELECT p.* FROM pauses p LEFT SEMI JOIN native n ON p.workload = n.workload
  WHERE p.silent_until IS NULL OR p.silent_until > p.silent_from + %silent%
), found AS (
  SELECT 'no_records' AS finding, s.workload, CAST(NULL AS TIMESTAMP WITH TIME ZONE) AS silent_from,
    CAST(NULL AS TIMESTAMP WITH TIME ZONE) AS silent_until, s.as_callee, s.peer, s.start_time
  FROM seen s LEFT ANTI JOIN own o ON s.workload = o.workload
  UNION ALL
  SELECT 'silent', s.workload, p.silent_from, p.silent_until, s.as_callee, s.peer, s.start_time
  FROM long_pauses p JOIN seen s ON p.workload = s.workload
    AND s.start_time > p.silent_from + %silent%
    AND (p.silent_until IS NULL OR s.start_time < p.silent_until)
), summed AS (
  SELECT finding, workload, silent_from, silent_until, count(*) AS entries,
    sum(as_callee) AS seen_as_callee, count(*) - sum(as_callee) AS seen_as_caller,
    count(DISTINCT peer) AS peers, min(start_time) AS first_seen, max(start_time) AS last_seen
  FROM found GROUP BY finding, workload, silent_from, silent_until
)
SELECT f.finding, f.workload, f.silent_from, f.silent_until, f.entries, f.seen_as_callee, f.seen_as_caller,
  f.peers, f.first_seen, f.last_seen, w.last_time AS last_statement_time
FROM summed f LEFT JOIN first_words w ON f.workload = w.workload";

/// Failures to keep records, one row a gap by its newest revision.
///
/// `started_at`: the time of the statement before the hole, or when the gap was opened; `ended_at`: of
/// the statement after it, or when it was closed; until then it lasts. `finding` is true, and `why` says
/// it, for gaps that are `open`, or that were `closed_unexplained`: what was missing came later, and
/// nobody wrote down why.
pub(super) fn e31(frame: &Frame) -> String {
    let touches = format!(
        "{} AND {}",
        between("coalesce(ended_at, now())", frame.from(), None),
        between("started_at", None, frame.given_until())
    );
    E31.replace("%touches%", &touches)
}

const E31: &str = "
WITH revisions AS (
  SELECT *, row_number() OVER (PARTITION BY gap_id ORDER BY revision DESC) AS place FROM raw.gaps
), timed AS (
  SELECT *, coalesce(not_before, opened_at) AS started_at, coalesce(not_after, closed_at) AS ended_at
  FROM revisions WHERE place = 1
), judged AS (
  SELECT *, CASE WHEN closed_at IS NULL THEN 'open'
    WHEN coalesce(trim(explanation), '') = '' THEN 'closed_unexplained' END AS why
  FROM timed WHERE %touches%
)
SELECT gap_id, subject_writer AS writer, subject_epoch AS epoch, subject_stream AS stream,
  split_part(subject_stream, '/', 1) AS table_name, from_seq, until_seq, from_statement, until_statement,
  started_at, ended_at,
  (CAST(coalesce(ended_at, now()) AS BIGINT) - CAST(started_at AS BIGINT)) / 1e9 AS duration_s,
  cause, detected_by, opened_at, closed_at AS restored_at, explanation AS remediation, ticket,
  why IS NOT NULL AS finding, why
FROM judged";

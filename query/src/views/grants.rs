//! Who may call what, since when and until when: views over the revisions of grants.
//!
//! Times are compared in nanoseconds, on the raw columns.

use super::frame::{Frame, instant};

/// In how many seconds a revocation is in force everywhere. Until then a call under the revoked grant
/// is a delay, which `revocations` shows call by call counted, and no finding.
pub(crate) const ENFORCED_WITHIN_S: u32 = 2;
/// The leeway with which proxies judge the times of a token (s).
pub(crate) const TOKEN_LEEWAY_S: u32 = 5;
/// A grant that nobody looked at, or that nobody used, for longer than this is a finding.
const REVIEW_DAYS: i64 = 90;

/// Entries of calls that a callee's proxy let through.
pub(crate) const ALLOWED: &str = "side = 'server' AND decision = 'allow' AND kind <> 'tls_failure' \
                                  AND phase IN ('final', 'unknown')";

/// The revisions of grants, each once: control repeats a row when it was killed between writing it and
/// noting that. `%known%` chooses by `recorded_at`.
///
/// `slices`: when which revision allowed which operation, `[from_time, until_time)`. A grant is in
/// force in `[max(decided_at, not_before), min(expires, revoked_at))`; a later revision takes over
/// when it was recorded. `allowed_until` is until when a call is no finding: after an end that control
/// decided, a revocation reaches the proxies within `ENFORCED_WITHIN_S`; an expiry stands in the
/// bundle and each proxy watches it by its own clock, so that nothing is added there. `token_until`
/// adds the leeway of tokens.
pub(crate) const SLICES: &str = "
revisions AS (
  SELECT * FROM (
    SELECT *, row_number() OVER (PARTITION BY grant_id, revision ORDER BY recorded_at) AS copy
    FROM raw.grants WHERE %known%
  ) WHERE copy = 1
), followed AS (
  SELECT *, lag(state) OVER (PARTITION BY grant_id ORDER BY revision) AS state_before,
    lead(coalesce(CASE WHEN state = 'revoked' THEN revoked_at END, recorded_at))
      OVER (PARTITION BY grant_id ORDER BY revision) AS next_at,
    coalesce(decided_at, recorded_at) AS approved_at
  FROM revisions
), timed AS (
  SELECT grant_id, revision, consumer, api, operations, expires,
    greatest(approved_at, coalesce(not_before, approved_at),
      CASE WHEN coalesce(state_before, 'requested') = 'requested' THEN approved_at
        ELSE recorded_at END) AS from_time,
    least(coalesce(revoked_at, expires), coalesce(next_at, expires)) AS ended_at
  FROM followed WHERE state = 'approved'
), slices AS (
  SELECT grant_id, revision, consumer, api, unnest(operations) AS operation, from_time,
    least(expires, ended_at) AS until_time,
    least(expires, ended_at + INTERVAL '%enforced% seconds') AS allowed_until,
    least(expires, ended_at) + INTERVAL '%leeway% seconds' AS token_until
  FROM timed WHERE from_time < least(expires, ended_at)
), latest AS (
  SELECT * FROM (
    SELECT *, row_number() OVER (PARTITION BY grant_id ORDER BY revision DESC) AS place
    FROM revisions
  ) WHERE place = 1
)";

/// [`SLICES`] with its words filled in.
pub(crate) fn slices(known: &str) -> String {
    SLICES
        .replace("%known%", known)
        .replace("%enforced%", &ENFORCED_WITHIN_S.to_string())
        .replace("%leeway%", &TOKEN_LEEWAY_S.to_string())
}

/// One row per grant that was ever approved and per operation: since when and until when it is in
/// force, `[in_force_from, in_force_until)`, whether it is now, and what its newest revision says.
pub(super) fn grants_in_force(now: &str) -> String {
    GRANTS_IN_FORCE
        .replace("%slices%", &slices("true"))
        .replace("%now%", now)
}

const GRANTS_IN_FORCE: &str = "
WITH %slices%, held AS (
  SELECT grant_id, operation, min(from_time) AS from_time, max(until_time) AS until_time,
    bool_or(from_time <= %now% AND %now% < until_time) AS in_force
  FROM slices GROUP BY grant_id, operation
)
SELECT h.grant_id, l.consumer, l.consumer_app, l.api, h.operation, h.from_time AS in_force_from,
  h.until_time AS in_force_until, h.in_force, l.revision, l.state, l.purpose, l.ticket,
  l.requested_by, l.requested_at, l.decided_by, l.decided_at, l.not_before, l.expires,
  l.reviewed_by, l.reviewed_at, l.review_due_at, l.revoked_by, l.revoked_at, l.owner_team
FROM held h JOIN latest l ON h.grant_id = l.grant_id";

/// One row per grant that is in force at the window's end, or now: when it was used last, and when
/// somebody looked at it last.
///
/// Uses are looked for in the window; without one, in everything that the books hold. `unused`: for
/// more than 90 days no call was allowed under it (or ever, and it is in force for longer than
/// that). `unreviewed`: for more than 90 days nobody approved or reviewed it. Only what was recorded
/// before the window's end counts.
pub(crate) fn access_review(frame: &Frame) -> String {
    let at = frame.as_at();
    ACCESS_REVIEW
        .replace(
            "%slices%",
            &slices(&format!("recorded_at <= {}", instant(at))),
        )
        .replace("%allowed%", ALLOWED)
        .replace("%window%", &frame.holds_if_given("start_time"))
        .replace("%at%", &instant(at))
        .replace("%at_ns%", &at.as_ns().to_string())
        .replace(
            "%review_ns%",
            &(REVIEW_DAYS * 86_400 * 1_000_000_000).to_string(),
        )
}

const ACCESS_REVIEW: &str = "
WITH %slices%, held AS (
  SELECT grant_id, min(from_time) AS from_time,
    bool_or(from_time <= %at% AND %at% < until_time) AS in_force
  FROM slices GROUP BY grant_id
), uses AS (
  SELECT grant_id, max(start_time) AS last_used_at, count(*) AS calls
  FROM raw.entries WHERE grant_id IS NOT NULL AND %allowed% AND %window% GROUP BY grant_id
), reviewed AS (
  SELECT l.*, h.from_time, u.last_used_at, coalesce(u.calls, 0) AS calls,
    %at_ns% - CAST(coalesce(u.last_used_at, h.from_time) AS BIGINT) AS unused_ns,
    %at_ns% - CAST(greatest(coalesce(l.reviewed_at, l.decided_at, l.recorded_at),
      coalesce(l.decided_at, l.recorded_at)) AS BIGINT) AS unreviewed_ns
  FROM held h JOIN latest l ON h.grant_id = l.grant_id
  LEFT JOIN uses u ON h.grant_id = u.grant_id
  WHERE h.in_force
)
SELECT grant_id, consumer, consumer_app, api, as_text(operations) AS operations, owner_team,
  purpose, ticket, requested_by, decided_by, decided_at, expires, from_time AS in_force_from,
  calls, last_used_at, unused_ns / 86400000000000 AS days_unused, unused_ns > %review_ns% AS unused,
  reviewed_by, reviewed_at, review_due_at, coalesce(review_due_at <= %at%, false) AS review_overdue,
  unreviewed_ns / 86400000000000 AS days_unreviewed, unreviewed_ns > %review_ns% AS unreviewed
FROM reviewed";

/// What followed each revocation, one row per revoked grant and process of the callee's proxy that
/// held it, or allowed a call under it all the same. `%revoked%` chooses by `revoked_at`, `%calls%`
/// by the calls' `start_time`.
///
/// A process is exposed from the revocation on, or from when it put an older bundle in force after
/// that. It enforces the revocation when it puts the bundle in force that control published for it,
/// or a later one. `defied`: calls that were allowed under the grant by a bundle of that version or a
/// later one, whatever any clock says. `late`: calls that began more than `ENFORCED_WITHIN_S` after
/// the revocation. A call by a token counts when no other grant of the caller was in force.
pub(crate) const AFTERMATH: &str = "
%slices%, revoked AS (
  SELECT grant_id, consumer, api, operations, revoked_by, owner_team, event_id,
    coalesce(revoked_at, recorded_at) AS revoked_at
  FROM (
    SELECT *, row_number() OVER (PARTITION BY grant_id ORDER BY revision) AS place
    FROM revisions WHERE state = 'revoked'
  ) WHERE place = 1
), servers AS (
  SELECT api, server FROM (
    SELECT api, server, row_number() OVER (PARTITION BY api ORDER BY revision DESC) AS place
    FROM raw.apis
  ) WHERE place = 1
), cuts AS (
  SELECT r.grant_id, b.audience, min(b.rights_version) AS version,
    min(b.published_at) AS published_at
  FROM revoked r JOIN raw.bundles b ON r.event_id = b.event_id
  LEFT JOIN servers a ON r.api = a.api
  WHERE CASE WHEN a.server IS NULL THEN b.audience <> r.consumer ELSE b.audience = a.server END
  GROUP BY r.grant_id, b.audience
), acks AS (
  SELECT audience, writer, epoch, rights_version AS version, acked_at
  FROM raw.bundle_acks WHERE outcome = 'applied' AND rights_version IS NOT NULL
), alive AS (
  SELECT writer, epoch, max(time) AS until_time FROM raw.statements GROUP BY writer, epoch
), enforced AS (
  SELECT c.grant_id, a.writer, a.epoch, min(c.published_at) AS published_at,
    min(CASE WHEN a.version < c.version THEN a.acked_at END) AS had_at,
    min(CASE WHEN a.version >= c.version THEN a.acked_at END) AS enforced_at
  FROM cuts c JOIN acks a ON c.audience = a.audience
  GROUP BY c.grant_id, a.writer, a.epoch
), exposed AS (
  SELECT e.*, l.until_time AS alive_until
  FROM enforced e JOIN revoked r ON e.grant_id = r.grant_id
  LEFT JOIN alive l ON e.writer = l.writer AND e.epoch = l.epoch
  WHERE e.had_at IS NOT NULL AND (e.enforced_at >= r.revoked_at OR l.until_time >= r.revoked_at)
), allowed AS (
  SELECT grant_id, source, api, operation, reason, start_time, bundle_version, writer, epoch
  FROM raw.entries WHERE %allowed% AND reason <> 'open_operation' AND %calls%
), by_token AS (
  SELECT a.* FROM slices s RIGHT ANTI JOIN allowed a
  ON s.consumer = a.source AND s.api = a.api AND s.operation = a.operation
    AND a.start_time >= s.from_time AND a.start_time < s.until_time
  WHERE a.reason = 'token_granted'
), revoked_operations AS (
  SELECT grant_id, consumer, api, unnest(operations) AS operation, revoked_at FROM revoked
), after AS (
  SELECT r.grant_id, r.revoked_at, a.start_time, a.bundle_version, a.writer, a.epoch
  FROM revoked r JOIN allowed a ON r.grant_id = a.grant_id
  WHERE a.reason <> 'token_granted' AND a.start_time >= r.revoked_at
  UNION ALL
  SELECT r.grant_id, r.revoked_at, a.start_time, NULL, a.writer, a.epoch
  FROM revoked_operations r JOIN by_token a
  ON r.consumer = a.source AND r.api = a.api AND r.operation = a.operation
  WHERE a.start_time >= r.revoked_at
), called AS (
  SELECT a.grant_id, a.writer, a.epoch, count(*) AS calls, min(a.start_time) AS first_call_at,
    max(a.start_time) AS last_call_at,
    count(CASE WHEN a.start_time >= a.revoked_at + INTERVAL '%enforced% seconds' THEN 1 END) AS late,
    count(CASE WHEN a.bundle_version >= c.version THEN 1 END) AS defied
  FROM cuts c RIGHT JOIN after a
  ON c.grant_id = a.grant_id AND c.audience = split_part(a.writer, '#', 1)
  GROUP BY a.grant_id, a.writer, a.epoch
), aftermath AS (
  SELECT r.*, p.writer, p.epoch, p.published_at, p.enforced_at, p.alive_until,
    CASE WHEN p.had_at > r.revoked_at THEN p.had_at ELSE r.revoked_at END AS exposed_from,
    coalesce(p.calls, 0) AS calls, p.first_call_at, p.last_call_at,
    coalesce(p.late, 0) AS late, coalesce(p.defied, 0) AS defied
  FROM revoked r JOIN (
    SELECT coalesce(e.grant_id, c.grant_id) AS grant_id, coalesce(e.writer, c.writer) AS writer,
      coalesce(e.epoch, c.epoch) AS epoch, e.published_at, e.had_at, e.enforced_at, e.alive_until,
      c.calls, c.first_call_at, c.last_call_at, c.late, c.defied
    FROM exposed e FULL JOIN called c
    ON e.grant_id = c.grant_id AND e.writer = c.writer AND e.epoch = c.epoch
  ) p ON r.grant_id = p.grant_id
)";

/// [`AFTERMATH`] with its words filled in, for calls in `calls`.
pub(crate) fn aftermath(calls: &str) -> String {
    AFTERMATH
        .replace("%slices%", &slices("true"))
        .replace("%allowed%", ALLOWED)
        .replace("%calls%", calls)
        .replace("%enforced%", &ENFORCED_WITHIN_S.to_string())
}

/// How long each revocation of the window took to reach each process, and the calls allowed meanwhile.
///
/// `delay_ms` runs from when the process was exposed to when it enforced the revocation, and is null
/// while it does not. `calls_after` began at or after the revocation.
pub(super) fn revocations(frame: &Frame) -> String {
    format!(
        "WITH {}
SELECT grant_id, consumer, api, as_text(operations) AS operations, revoked_by, revoked_at,
  writer AS proxy, epoch, published_at, enforced_at,
  (CAST(enforced_at AS BIGINT) - CAST(exposed_from AS BIGINT)) / 1000000.0 AS delay_ms,
  calls AS calls_after, first_call_at, last_call_at
FROM aftermath WHERE {}",
        aftermath("true"),
        frame.holds("revoked_at")
    )
}

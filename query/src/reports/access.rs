//! Reports on access: authorised, approved, reviewed, removed in time.

use crate::views::frame::Frame;
use crate::views::grants::{ALLOWED, TOKEN_LEEWAY_S, access_review, aftermath, slices};

/// Calls that a callee's proxy let through without a right that was in force when they began.
///
/// - A call under a grant needs the grant that its entry names: approved, for that consumer, API and
///   operation, in force at `start_time`. After a revocation two seconds pass before that is a
///   finding here; `e04` and `revocations` have what happens in them.
/// - A call by a token alone (`token_granted`) needs a token that control issued to that consumer and
///   that was valid, and any grant of the consumer on the operation that was in force, each with the
///   five seconds of leeway that proxies give to tokens.
/// - A call of an open operation needs a revision of the catalogue that says so.
pub(super) fn e01(frame: &Frame) -> String {
    E01.replace("%slices%", &slices("true"))
        .replace("%allowed%", ALLOWED)
        .replace("%window%", &frame.holds("start_time"))
        .replace("%leeway%", &TOKEN_LEEWAY_S.to_string())
}

/// Step by step, so that each join builds on the small side: first goes what a grant explains, which
/// is nearly all.
const E01: &str = "
WITH %slices%, spans AS (
  SELECT grant_id, min(from_time) AS from_time, max(until_time) AS until_time
  FROM slices GROUP BY grant_id
), known AS (
  SELECT l.grant_id, l.consumer, l.api, l.operations, l.state, l.revoked_at, s.from_time, s.until_time
  FROM latest l LEFT JOIN spans s ON l.grant_id = s.grant_id
), tokens AS (
  SELECT serial AS jti, min(spiffe_id) AS subject, min(not_before) AS valid_from,
    max(not_after) AS valid_until
  FROM raw.issuance WHERE kind = 'token' AND serial IS NOT NULL GROUP BY serial
), revisions_of_apis AS (
  SELECT api, revision, min(recorded_at) AS recorded_at FROM (
    SELECT api, revision, recorded_at FROM raw.apis
    UNION ALL SELECT api, revision, recorded_at FROM raw.operations
  ) GROUP BY api, revision
), periods AS (
  SELECT api, revision, recorded_at AS from_time,
    lead(recorded_at) OVER (PARTITION BY api ORDER BY revision) AS until_time
  FROM revisions_of_apis
), open_operations AS (
  SELECT DISTINCT o.api, o.operation, p.from_time,
    p.until_time + INTERVAL '2 seconds' AS until_time
  FROM raw.operations o JOIN periods p ON o.api = p.api AND o.revision = p.revision WHERE o.open
), allowed AS (
  SELECT start_time, source, destination, api, operation, method, route, status, reason, grant_id,
    token_id, trace_id, span_id, writer, epoch, stream, seq, origin, segment, leaf_index
  FROM raw.entries WHERE %allowed% AND %window%
), unproven AS (
  SELECT a.* FROM slices s RIGHT ANTI JOIN allowed a
  ON s.grant_id = a.grant_id AND s.consumer = a.source AND s.api = a.api
    AND s.operation = a.operation AND a.reason NOT IN ('open_operation', 'token_granted')
    AND a.start_time >= s.from_time AND a.start_time < s.allowed_until
), closed AS (
  SELECT u.* FROM open_operations o RIGHT ANTI JOIN unproven u
  ON o.api = u.api AND o.operation = u.operation AND u.reason = 'open_operation'
    AND u.start_time >= o.from_time AND (o.until_time IS NULL OR u.start_time < o.until_time)
), checked AS (
  SELECT c.*, t.jti, t.subject, coalesce(c.source = t.subject
      AND c.start_time >= t.valid_from - INTERVAL '%leeway% seconds'
      AND c.start_time < t.valid_until + INTERVAL '%leeway% seconds', false) AS token_good
  FROM tokens t RIGHT JOIN closed c ON t.jti = c.token_id
), found AS (
  SELECT c.* FROM slices s RIGHT ANTI JOIN checked c
  ON s.consumer = c.source AND s.api = c.api AND s.operation = c.operation
    AND c.reason = 'token_granted' AND c.token_good
    AND c.start_time >= s.from_time AND c.start_time < s.token_until
)
SELECT CASE
    WHEN f.reason = 'open_operation' THEN 'not_open'
    WHEN f.reason = 'token_granted' THEN CASE
      WHEN f.token_id IS NULL THEN 'no_token_named'
      WHEN f.jti IS NULL THEN 'token_unknown'
      WHEN (f.source IS DISTINCT FROM f.subject) THEN 'token_of_another'
      WHEN NOT f.token_good THEN 'token_not_valid'
      ELSE 'token_without_grant' END
    WHEN f.grant_id IS NULL THEN 'no_grant_named'
    WHEN k.grant_id IS NULL THEN 'grant_unknown'
    WHEN (f.source IS DISTINCT FROM k.consumer) THEN 'grant_of_another'
    WHEN (f.api IS DISTINCT FROM k.api)
      OR NOT coalesce(array_has(k.operations, f.operation), false) THEN 'other_operation'
    WHEN k.from_time IS NULL THEN 'never_in_force'
    WHEN f.start_time < k.from_time THEN 'not_in_force_yet'
    WHEN f.start_time >= k.revoked_at THEN 'revoked'
    WHEN f.start_time >= k.until_time THEN 'expired'
    ELSE 'not_in_force' END AS finding,
  f.start_time, f.source, f.destination, f.api, f.operation, f.method, f.route, f.status, f.reason,
  f.grant_id, k.state AS grant_state, k.from_time AS in_force_from, k.until_time AS in_force_until,
  f.token_id, as_text(f.trace_id) AS trace_id, as_text(f.span_id) AS span_id, f.writer, f.epoch,
  f.stream, f.seq, f.origin, f.segment, f.leaf_index
FROM known k RIGHT JOIN found f ON k.grant_id = f.grant_id";

/// Grants whose approval does not stand: one row per grant and finding.
///
/// `requester_approved`: the same person, but for spaces around the name and the case of its letters.
/// `no_ticket`, `approver_unknown`: blank. `approved_after_first_use`: a call under the grant began
/// before its first approval was decided, or recorded, whichever was later; both to the nanosecond,
/// for a proxy hears of a grant only after that. Whether an approver was of the owning team is not in
/// the tables: control refuses others, and such refusals are in `governance_events`. A window
/// chooses grants by that time of approval; calls are looked for in all of the books.
pub(super) fn e02(frame: &Frame) -> String {
    E02.replace("%slices%", &slices("true"))
        .replace("%allowed%", ALLOWED)
        .replace("%window%", &frame.holds_if_given("sealed_at"))
        .replace("%blank%", "' \t\r\n\u{a0}'")
}

const E02: &str = "
WITH %slices%, approvals AS (
  SELECT *, greatest(approved_at, recorded_at) AS sealed_at,
    row_number() OVER (PARTITION BY grant_id ORDER BY revision) AS place,
    lower(btrim(coalesce(requested_by, ''), %blank%)) AS asker,
    lower(btrim(coalesce(decided_by, ''), %blank%)) AS decider
  FROM followed WHERE state = 'approved'
), uses AS (
  SELECT grant_id, min(start_time) AS first_used_at FROM raw.entries
  WHERE grant_id IS NOT NULL AND %allowed% GROUP BY grant_id
), judged AS (
  SELECT a.*, u.first_used_at, unnest(make_array(
      CASE WHEN asker = decider AND decider <> '' THEN 'requester_approved' END,
      CASE WHEN btrim(coalesce(ticket, ''), %blank%) = '' THEN 'no_ticket' END,
      CASE WHEN decider = '' THEN 'approver_unknown' END,
      CASE WHEN place = 1 AND u.first_used_at < sealed_at THEN 'approved_after_first_use' END
    )) AS finding
  FROM approvals a LEFT JOIN uses u ON a.grant_id = u.grant_id
  WHERE %window%
), firsts AS (
  SELECT *, row_number() OVER (PARTITION BY grant_id, finding ORDER BY revision) AS nth
  FROM judged WHERE finding IS NOT NULL
)
SELECT finding, grant_id, revision, consumer, api, as_text(operations) AS operations, owner_team,
  ticket, requested_by, requested_at, decided_by, decided_at, recorded_at, first_used_at
FROM firsts WHERE nth = 1";

/// Grants in force, as `access_review` has them, that nobody reviewed or used for more than 90 days.
pub(super) fn e03(frame: &Frame) -> String {
    format!(
        "
SELECT finding, grant_id, consumer, api, operations, owner_team, ticket, decided_by, decided_at,
  expires, in_force_from, calls, last_used_at, days_unused, reviewed_by, reviewed_at, review_due_at,
  days_unreviewed
FROM (
  SELECT *, unnest(make_array(CASE WHEN unreviewed THEN 'unreviewed' END,
    CASE WHEN unused THEN 'unused' END)) AS finding
  FROM ({})
) WHERE finding IS NOT NULL",
        access_review(frame)
    )
}

/// Revocations that did not bite: one row per revoked grant, proxy process and finding.
///
/// `allowed_though_enforced`: the process let a call through under the grant by a bundle in which the
/// revocation stood, whatever the clocks say. `allowed_too_late`: a call began more than two seconds
/// after the revocation; that is what is promised, and nothing is added for clocks that differ.
/// `enforced_late`: the process put the bundle in force more than two seconds after it was exposed.
/// `not_enforced`: it did not, although it lived on. The calls of the first two are those of the
/// window, whenever the grant was revoked; the last two are about revocations in the window.
pub(super) fn e04(frame: &Frame) -> String {
    E04.replace("%aftermath%", &aftermath(&frame.holds("start_time")))
        .replace("%revoked%", &frame.holds("revoked_at"))
}

const E04: &str = "
WITH %aftermath%, delayed AS (
  SELECT *, CAST(coalesce(enforced_at, alive_until) AS BIGINT) - CAST(exposed_from AS BIGINT) AS delay_ns
  FROM aftermath
), judged AS (
  SELECT *, unnest(make_array(
    CASE WHEN defied > 0 THEN 'allowed_though_enforced' END,
    CASE WHEN late > 0 THEN 'allowed_too_late' END,
    CASE WHEN %revoked% AND enforced_at IS NOT NULL AND delay_ns > 2000000000 THEN 'enforced_late' END,
    CASE WHEN %revoked% AND enforced_at IS NULL AND delay_ns > 2000000000 THEN 'not_enforced' END
  )) AS finding
  FROM delayed
)
SELECT finding, grant_id, consumer, api, as_text(operations) AS operations, owner_team, revoked_by,
  revoked_at, writer AS proxy, epoch, published_at, enforced_at, delay_ns / 1000000.0 AS delay_ms,
  calls AS calls_after, late AS calls_too_late, defied AS calls_though_enforced, first_call_at,
  last_call_at
FROM judged WHERE finding IS NOT NULL";

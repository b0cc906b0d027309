//! Reports on credentials: access that was refused, and what was issued and used.

use crate::views::frame::Frame;

/// Access that was refused, counted: one row per kind, reason, source and destination.
///
/// `denied_call`, `bad_token` (a call whose token was not good) and `refused_handshake` are told by
/// the side that refused; of a handshake the source is known by its address only. `refused_act`: a
/// person tried to change catalogue or rights and was not let.
pub(super) fn e18(frame: &Frame) -> String {
    E18.replace("%window%", &frame.holds("start_time"))
        .replace("%acts%", &frame.holds("occurred_at"))
}

const E18: &str = "
SELECT CASE WHEN kind = 'tls_failure' THEN 'refused_handshake'
    WHEN reason LIKE 'token\\_%' ESCAPE '\\' THEN 'bad_token' ELSE 'denied_call' END AS kind,
  reason, side, source, destination, api, operation,
  CASE WHEN source IS NULL THEN peer_address END AS peer_address,
  count(*) AS attempts, min(start_time) AS first_at, max(start_time) AS last_at
FROM raw.entries
WHERE phase = 'final' AND (decision = 'deny' OR kind = 'tls_failure') AND %window%
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
UNION ALL
SELECT 'refused_act', reason, CAST(NULL AS VARCHAR), actor, object_id, CAST(NULL AS VARCHAR), action,
  CAST(NULL AS VARCHAR), count(*), min(occurred_at), max(occurred_at)
FROM (
  SELECT *, row_number() OVER (PARTITION BY event_id ORDER BY occurred_at) AS copy
  FROM raw.governance_events WHERE outcome = 'refused' AND %acts%
) WHERE copy = 1
GROUP BY reason, actor, object_id, action";

/// What changed of credentials, event by event.
///
/// `svid_issued` and `token_issued` by control; `svid_renewed` and `renewal_failed` by their holders;
/// `audit_key_announced`: the key by which one epoch signs its statements, with how far it is
/// believed; `log_key`: the key of a log of the books. `finding` is true for certificates in use that
/// control did not issue (`svid_unknown`) or issued to somebody else (`svid_of_another`), at the time
/// of their first use in the window, and for announcements that are not believed.
pub(super) fn e19(frame: &Frame) -> String {
    E19.replace("%issued%", &frame.holds("issued_at"))
        .replace("%ended%", &frame.holds("ended_at"))
        .replace("%time%", &frame.holds("time"))
        .replace("%from_time%", &frame.holds("from_time"))
        .replace("%start%", &frame.holds("start_time"))
}

const E19: &str = "
WITH issued AS (
  SELECT as_text(cert_sha256) AS cert_sha256, min(spiffe_id) AS spiffe_id, min(serial) AS serial
  FROM raw.issuance WHERE kind = 'svid' AND cert_sha256 IS NOT NULL GROUP BY as_text(cert_sha256)
), shown AS (
  SELECT source_cert_sha256 AS cert, source AS id, start_time FROM raw.entries
  WHERE source_cert_sha256 IS NOT NULL AND kind <> 'tls_failure' AND %start%
  UNION ALL
  SELECT destination_cert_sha256, destination, start_time FROM raw.entries
  WHERE destination_cert_sha256 IS NOT NULL AND kind <> 'tls_failure' AND %start%
), used AS (
  SELECT as_text(cert) AS cert_sha256, id, min(start_time) AS first_at, count(*) AS entries
  FROM shown GROUP BY cert, id
)
SELECT CASE kind WHEN 'svid' THEN 'svid_issued' ELSE 'token_issued' END AS event, issued_at AS time,
  spiffe_id AS workload, serial, as_text(cert_sha256) AS cert_sha256, method AS how,
  CAST(NULL AS VARCHAR) AS error_class, not_after AS valid_until, CAST(NULL AS BIGINT) AS entries,
  false AS finding
FROM raw.issuance WHERE kind IN ('svid', 'token') AND %issued%
UNION ALL
SELECT CASE outcome WHEN 'success' THEN 'svid_renewed' ELSE 'renewal_failed' END, ended_at, workload,
  new_serial, CAST(NULL AS VARCHAR), trigger, error_class, new_not_after, CAST(NULL AS BIGINT), false
FROM raw.cert_rotations WHERE %ended%
UNION ALL
SELECT 'audit_key_announced', time, split_part(writer, '#', 1), as_text(audit_key),
  CAST(NULL AS VARCHAR), trust, reason, CAST(NULL AS TIMESTAMP WITH TIME ZONE),
  CAST(NULL AS BIGINT), trust = 'unverified'
FROM raw.statements WHERE kind = 'announcement' AND %time%
UNION ALL
SELECT 'log_key', from_time, origin, sha256, CAST(NULL AS VARCHAR), kind, CAST(NULL AS VARCHAR),
  CAST(NULL AS TIMESTAMP WITH TIME ZONE), CAST(NULL AS BIGINT), false
FROM public.manifests WHERE kind = 'key' AND %from_time%
UNION ALL
SELECT CASE WHEN i.cert_sha256 IS NULL THEN 'svid_unknown' ELSE 'svid_of_another' END, u.first_at,
  u.id, i.serial, u.cert_sha256, i.spiffe_id, CAST(NULL AS VARCHAR),
  CAST(NULL AS TIMESTAMP WITH TIME ZONE), u.entries, true
FROM issued i RIGHT JOIN used u ON i.cert_sha256 = u.cert_sha256
WHERE i.cert_sha256 IS NULL OR (i.spiffe_id IS DISTINCT FROM u.id)";

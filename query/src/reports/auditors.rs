//! The report on those who ask: who read the books, with which question, and what for.

use crate::views::frame::{Frame, instant};

const S: i64 = 1_000_000_000;
/// No statement may run so long (ns): an hour. What has no end by then will have none.
const LONGEST_NS: i64 = 3_600 * S;

/// Every statement that was asked, with what it gave; `finding` is true, and `why` says it, for
///
/// - `no_purpose`: it read the books and names no purpose;
/// - `unknown_principal`: the users file has no such user; checked where a server answers, for without one
///   nobody has read that file;
/// - `never_ended`: it began an hour ago or earlier, and its end is not in the books.
///
/// The catalogue (`pg_catalog`, `information_schema`) is no evidence, and needs no purpose.
pub(super) fn e17(frame: &Frame) -> String {
    E17.replace("%window%", &frame.holds("start_time"))
        .replace("%over%", &instant(frame.now.plus_ns(-LONGEST_NS)))
}

const E17: &str = "
WITH told AS (
  SELECT *, row_number() OVER (PARTITION BY query_id, phase ORDER BY writer, epoch, seq) AS copy
  FROM raw.query_log
), asked AS (
  SELECT * FROM told WHERE phase <> 'end' AND copy = 1 AND %window%
), ended AS (
  SELECT query_id, end_time, rows, bytes, outcome, sqlstate, result_sha256 FROM told
  WHERE phase = 'end' AND copy = 1
), read AS (
  SELECT query_id, bool_or(NOT (name LIKE 'pg\\_%' ESCAPE '\\' OR name LIKE '%pg_catalog.%'
    OR name LIKE '%information_schema.%')) AS evidence
  FROM (SELECT query_id, unnest(tables) AS name FROM asked) GROUP BY query_id
), users AS (
  SELECT name FROM public.users
), checked AS (
  SELECT count(*) > 0 AS checked FROM users
), judged AS (
  SELECT a.*, e.end_time AS ended_at, e.rows AS rows_sent, e.bytes AS bytes_sent, e.outcome AS ending,
    e.sqlstate AS ending_state, e.result_sha256 AS result, coalesce(r.evidence, false) AS reads_evidence,
    CASE WHEN c.checked THEN u.name IS NOT NULL END AS known,
    nullif(concat_ws(',',
      CASE WHEN a.phase = 'start' AND coalesce(r.evidence, false) AND coalesce(trim(a.purpose), '') = ''
        THEN 'no_purpose' END,
      CASE WHEN c.checked AND u.name IS NULL THEN 'unknown_principal' END,
      CASE WHEN a.phase = 'start' AND e.query_id IS NULL AND a.start_time < %over% THEN 'never_ended' END), '')
      AS why
  FROM asked a LEFT JOIN ended e ON a.query_id = e.query_id
  LEFT JOIN read r ON a.query_id = r.query_id
  LEFT JOIN users u ON a.principal = u.name
  CROSS JOIN checked c
)
SELECT query_id, start_time, coalesce(ended_at, end_time) AS end_time, principal, role, known, endpoint,
  peer_address, purpose, sql, as_text(parameters) AS parameters, as_text(tables) AS tables, reads_evidence,
  rows_sent AS rows, bytes_sent AS bytes, coalesce(ending, outcome) AS outcome,
  coalesce(ending_state, sqlstate) AS sqlstate, checkpoint, as_text(result) AS result_sha256,
  why IS NOT NULL AS finding, why
FROM judged";

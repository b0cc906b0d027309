//! How complete the tables are on which a report rests.
//!
//! As the view `completeness`, summed up by table. Of tables that hold a state (grants, say), all that
//! was written until the window's end counts; of those that hold what happened, what the window's
//! statements cover, and those of the minute after it, for an entry is stated some seconds after it
//! was written.

use counterfoil_entry::table::TableId;

use crate::views::frame::{Frame, between};

/// The table name under which gaps stand of which nobody knows the table.
pub(super) const ANY: &str = "";

/// Statements come every ten seconds, and an entry may wait for its call's end.
const STATED_WITHIN_NS: i64 = 60 * 1_000_000_000;

/// A report over nothing that was ever stated is not complete.
pub(super) const SUMS: &str = "sum(s.due) AS due, sum(s.present) AS present, \
    sum(s.due) - sum(s.present) AS missing, sum(s.dropped) AS dropped, \
    sum(s.gaps_open) AS gaps_open, coalesce(sum(s.due) > 0 AND sum(s.due) = sum(s.present) \
    AND sum(s.dropped) = 0 AND sum(s.gaps_open) = 0, false) AS complete";

/// Whether a table's older rows still say what is so.
const fn holds_a_state(table: TableId) -> bool {
    !matches!(
        table,
        TableId::Entries
            | TableId::CertRotations
            | TableId::ControlHealth
            | TableId::QueryLog
            | TableId::ConformanceResults
    )
}

/// One row: what `tables` hold of what is due, and whether that is all.
pub(super) fn complete(tables: &[TableId], frame: &Frame) -> String {
    format!("SELECT {SUMS} FROM ({}) s", per_table(tables, frame))
}

/// One row per table of `tables` of which something is known, and one for gaps of an unknown table:
/// table_name, due, present, dropped, gaps_open.
pub(super) fn per_table(tables: &[TableId], frame: &Frame) -> String {
    let named = |tables: &mut dyn Iterator<Item = &TableId>| {
        let names: Vec<String> = tables.map(|table| format!("'{}'", table.name())).collect();
        if names.is_empty() {
            "''".to_owned()
        } else {
            names.join(", ")
        }
    };
    let states = named(&mut tables.iter().filter(|table| holds_a_state(**table)));
    let rows: Vec<String> = tables
        .iter()
        // Statements are what the others are proved by; they have no statement of their own.
        .filter(|table| **table != TableId::Statements)
        .map(|table| format!("SELECT writer, epoch, stream, seq FROM raw.{}", table.name()))
        .collect();
    let until = frame.given_until().map(|at| at.plus_ns(STATED_WITHIN_NS));
    let after = between("time", frame.from(), None);
    let low = match frame.from() {
        None => "0".to_owned(),
        Some(_) => format!("CASE WHEN table_name IN ({states}) THEN 0 ELSE min(first_seq) END"),
    };
    STANDING
        .replace("%tables%", &named(&mut tables.iter()))
        .replace("%states%", &states)
        .replace("%rows%", &rows.join(" UNION ALL "))
        .replace("%low%", &low)
        .replace("%after%", &after)
        .replace("%upto%", &between("time", None, until))
        .replace(
            "%gaps%",
            &format!(
                "{} AND {}",
                between("coalesce(not_after, now())", frame.from(), None),
                between("coalesce(not_before, opened_at)", None, until)
            ),
        )
}

/// `due`, `present` and `dropped` as in `completeness`. A gap is open when its newest revision is, and
/// counts when its bounds touch the window; one without a stream may hide rows of any table.
const STANDING: &str = "
WITH said AS (
  SELECT writer, CAST(epoch AS BIGINT) AS epoch, time, statement
  FROM raw.statements WHERE kind <> 'announcement' AND %upto%
), exploded AS (
  SELECT writer, coalesce(r['epoch'], epoch) AS epoch, r['stream'] AS stream,
    split_part(r['stream'], '/', 1) AS table_name, r['first_seq'] AS first_seq,
    r['until_seq'] AS until_seq, time
  FROM (SELECT writer, epoch, time, unnest(statement_ranges(statement)) AS r FROM said)
), stated AS (
  SELECT writer, epoch, stream, table_name, %low% AS low, max(until_seq) AS high
  FROM exploded
  WHERE table_name IN (%tables%) AND (table_name IN (%states%) OR %after%)
  GROUP BY writer, epoch, stream, table_name
), rows AS (
  SELECT writer, CAST(epoch AS BIGINT) AS epoch, stream, CAST(seq AS BIGINT) AS seq FROM (%rows%)
), present AS (
  SELECT s.table_name, count(*) AS present
  FROM stated s JOIN rows r ON s.writer = r.writer AND s.epoch = r.epoch AND s.stream = r.stream
    AND r.seq >= s.low AND r.seq < s.high
  GROUP BY s.table_name
), declared AS (
  SELECT writer, epoch, d['stream'] AS stream, d['reason'] AS reason,
    split_part(d['stream'], '/', 1) AS table_name, max(d['dropped']) AS last,
    max(CASE WHEN NOT (%after%) THEN d['dropped'] END) AS before
  FROM (SELECT writer, epoch, time, unnest(statement_drops(statement)) AS d FROM said)
  GROUP BY writer, epoch, d['stream'], d['reason']
), dropped AS (
  SELECT table_name, sum(CASE WHEN table_name IN (%states%) THEN last
    ELSE greatest(last - coalesce(before, 0), 0) END) AS dropped
  FROM declared WHERE table_name IN (%tables%) GROUP BY table_name
), newest AS (
  SELECT gap_id, coalesce(split_part(subject_stream, '/', 1), '') AS table_name, closed_at,
    not_before, not_after, opened_at,
    row_number() OVER (PARTITION BY gap_id ORDER BY revision DESC) AS place
  FROM raw.gaps
), open_gaps AS (
  SELECT table_name, count(*) AS gaps FROM newest
  WHERE place = 1 AND closed_at IS NULL AND table_name IN ('', %tables%)
    AND (table_name IN ('', %states%) OR (%gaps%))
  GROUP BY table_name
)
SELECT table_name, sum(due) AS due, sum(present) AS present, sum(dropped) AS dropped,
  sum(gaps) AS gaps_open
FROM (
  SELECT table_name, high - low AS due, 0 AS present, 0 AS dropped, 0 AS gaps FROM stated
  UNION ALL SELECT table_name, 0, present, 0, 0 FROM present
  UNION ALL SELECT table_name, 0, 0, dropped, 0 FROM dropped
  UNION ALL SELECT table_name, 0, 0, 0, gaps FROM open_gaps
) GROUP BY table_name";

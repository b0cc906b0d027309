//! Gaps: opened when something that must be there is not, closed when it comes.

use std::collections::HashMap;

use counterfoil_entry::Time;
use counterfoil_entry::id::{Epoch, Stream, Writer};
use counterfoil_entry::rows::GapRow;
use counterfoil_entry::tree::sha256;

use crate::state::EpochState;

const SILENCE: &str = "silence";

/// Whose gap it is, and when it is noticed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notice<'a> {
    pub(crate) writer: &'a Writer,
    pub(crate) epoch: Epoch,
    pub(crate) now: Time,
}

/// Compares the gaps recorded of an epoch with the holes that there are.
///
/// Returns the rows to write: new gaps, and new revisions of those that closed. Doing it again returns
/// nothing.
pub(crate) fn reconcile(notice: Notice<'_>, epoch: &mut EpochState) -> Vec<GapRow> {
    let mut rows = close(notice.now, epoch);
    let mut opened = Vec::new();
    let mut by_stream: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
    for gap in &epoch.gaps {
        if let (Some(name), Some(range)) = (&gap.subject_stream, gap.from_seq.zip(gap.until_seq)) {
            by_stream.entry(name).or_default().push(range);
        }
    }
    for (stream, state) in &epoch.streams {
        let name = stream.to_string();
        let mut recorded = disjoint(by_stream.remove(name.as_str()).unwrap_or_default());
        let causes = [
            ("sequence_skipped", "sequence"),
            ("not_proved", "statement"),
        ];
        for (holes, (cause, detected_by)) in [&state.seen, &state.proved].into_iter().zip(causes) {
            let holes: Vec<_> = holes
                .missing()
                .flat_map(|hole| without(hole, &recorded))
                .collect();
            if holes.is_empty() {
                continue;
            }
            opened.extend(holes.iter().map(|hole| GapRow {
                detected_by: detected_by.to_owned(),
                ..of_entries(notice, epoch, (&name, cause), *hole)
            }));
            recorded.extend(holes);
            recorded = disjoint(recorded);
        }
    }
    let recorded = epoch
        .gaps
        .iter()
        .filter_map(|gap| gap.from_statement.zip(gap.until_statement));
    let recorded = disjoint(recorded.collect());
    for (from, until) in epoch
        .statements
        .missing()
        .flat_map(|hole| without(hole, &recorded))
    {
        opened.push(of_statements(
            notice,
            epoch,
            (from, Some(until)),
            "statement_skipped",
        ));
    }
    epoch.gaps.extend(opened.iter().cloned());
    rows.extend(opened);
    rows
}

/// Records that statement `number` was refused for good.
///
/// Returns the row to write; `None` when it is recorded already.
pub(crate) fn refuse(
    notice: Notice<'_>,
    epoch: &mut EpochState,
    number: u64,
    cause: &'static str,
) -> Option<GapRow> {
    let is_recorded = epoch
        .gaps
        .iter()
        .any(|gap| gap.from_statement == Some(number) && gap.until_statement == Some(number + 1));
    if is_recorded {
        return None;
    }
    let row = of_statements(notice, epoch, (number, Some(number + 1)), cause);
    epoch.gaps.push(row.clone());
    Some(row)
}

/// Records that nothing comes any more from an epoch that has not ended.
///
/// Returns the row to write; `None` when it is recorded already.
pub(crate) fn fall_silent(notice: Notice<'_>, epoch: &mut EpochState) -> Option<GapRow> {
    if epoch.gaps.iter().any(|gap| gap.cause == SILENCE) {
        return None;
    }
    let next = epoch.statements.next();
    let mut row = of_statements(notice, epoch, (next, None), SILENCE);
    SILENCE.clone_into(&mut row.detected_by);
    epoch.gaps.push(row.clone());
    Some(row)
}

/// Closes the silence of an epoch that speaks again or has ended; returns the rows to write.
pub(crate) fn end_silence(now: Time, epoch: &mut EpochState) -> Vec<GapRow> {
    let mut rows = close_where(now, epoch, |_, gap| gap.cause == SILENCE);
    // Nothing was missing after all, so the closed gap explains no hole that comes later.
    rows.iter_mut()
        .for_each(|row| row.until_statement = row.from_statement);
    rows
}

fn close(now: Time, epoch: &mut EpochState) -> Vec<GapRow> {
    close_where(now, epoch, |epoch, gap| {
        let entries = gap
            .subject_stream
            .as_deref()
            .zip(gap.from_seq.zip(gap.until_seq));
        if let Some((name, (from, until))) = entries {
            let stream = Stream::parse(name)
                .ok()
                .and_then(|name| epoch.streams.get(&name));
            return stream.is_some_and(|stream| {
                stream.seen.next() >= until
                    && stream.seen.missing_in(from, until).is_empty()
                    && stream.proved.missing_in(from, until).is_empty()
            });
        }
        gap.from_statement
            .zip(gap.until_statement)
            .is_some_and(|(from, until)| {
                epoch.statements.next() >= until
                    && epoch.statements.missing_in(from, until).is_empty()
            })
    })
}

/// The same numbers as disjoint ranges, ascending.
fn disjoint(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    ranges.dedup_by(|(from, until), (_, end)| {
        let is_one = *from <= *end;
        if is_one {
            *end = (*end).max(*until);
        }
        is_one
    });
    ranges
}

/// The parts of a hole that no range of `recorded` covers; those are disjoint and ascend.
fn without((from, until): (u64, u64), recorded: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let first = recorded.partition_point(|(_, end)| *end <= from);
    let (mut parts, mut at) = (Vec::new(), from);
    for (begin, end) in recorded.iter().skip(first) {
        if *begin >= until {
            break;
        }
        if at < *begin {
            parts.push((at, *begin));
        }
        at = at.max(*end);
    }
    if at < until {
        parts.push((at, until));
    }
    parts
}

fn close_where(
    now: Time,
    epoch: &mut EpochState,
    is_over: impl Fn(&EpochState, &GapRow) -> bool,
) -> Vec<GapRow> {
    let gaps = std::mem::take(&mut epoch.gaps);
    let (over, open): (Vec<_>, Vec<_>) = gaps.into_iter().partition(|gap| is_over(epoch, gap));
    epoch.gaps = open;
    let close = |gap: GapRow| GapRow {
        revision: gap.revision.saturating_add(1),
        closed_at: Some(now),
        ..gap
    };
    over.into_iter().map(close).collect()
}

fn of_entries(
    notice: Notice<'_>,
    epoch: &EpochState,
    (stream, cause): (&str, &str),
    (from, until): (u64, u64),
) -> GapRow {
    GapRow {
        // Entries that came, so that their gap closed, and are not proved after all are another gap.
        gap_id: gap_id(notice, &format!("{stream} {from} {until} {cause}")),
        cause: cause.to_owned(),
        subject_stream: Some(stream.to_owned()),
        from_seq: Some(from),
        until_seq: Some(until),
        from_statement: None,
        until_statement: None,
        ..of_statements(notice, epoch, (0, None), "")
    }
}

fn of_statements(
    notice: Notice<'_>,
    epoch: &EpochState,
    (from, until): (u64, Option<u64>),
    cause: &str,
) -> GapRow {
    // A second silence of the same epoch is another gap, although it begins at the same number.
    let at = if cause == SILENCE {
        notice.now.as_ns()
    } else {
        0
    };
    GapRow {
        gap_id: gap_id(notice, &format!("statements {from} {until:?} {at}")),
        revision: 1,
        subject_writer: notice.writer.as_str().to_owned(),
        subject_epoch: notice.epoch.0,
        subject_stream: None,
        from_seq: None,
        until_seq: None,
        from_statement: Some(from),
        until_statement: until,
        not_before: epoch.last_time,
        not_after: Some(notice.now),
        cause: cause.to_owned(),
        detected_by: "statement".to_owned(),
        opened_at: notice.now,
        closed_at: None,
        explanation: None,
        ticket: None,
    }
}

/// The same hole has the same id, however often the collector notices it.
fn gap_id(notice: Notice<'_>, what: &str) -> String {
    let text = format!("{} {} {what}", notice.writer.as_str(), notice.epoch.0);
    sha256(text.as_bytes())
        .to_string()
        .chars()
        .take(32)
        .collect()
}

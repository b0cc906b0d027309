//! One epoch of a writer: its chain of statements, and its streams.

use std::collections::BTreeMap;

use counterfoil_entry::Hash;
use counterfoil_entry::statement::{Statement, StatementKind};

use super::conflicts::Conflicts;
use super::gaps::Gaps;
use super::intervals::Intervals;
use super::report::{Place, Report};
use super::streams::StreamState;

#[derive(Debug, Default)]
pub(super) struct EpochState {
    /// The audit key announced.
    pub(super) announced: Option<[u8; 32]>,
    /// Key of the first statement met, while the announcement is not.
    pub(super) signed_by: Option<([u8; 32], Place)>,
    /// Number of the next statement of the chain.
    pub(super) next: u64,
    /// Hash of the last statement of the chain.
    pub(super) last: Option<Hash>,
    /// Statements beyond a hole.
    pub(super) pending: BTreeMap<u64, Link>,
    pub(super) final_number: Option<u64>,
    /// Drops since the epoch's start, with the number of the statement that tells them.
    pub(super) dropped: (u64, u64),
    pub(super) recoveries: Vec<Claim>,
    pub(super) streams: BTreeMap<String, StreamState>,
    /// Statements that name another one before them than the chain has.
    breaks: Vec<(u64, Option<Hash>, Place)>,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) hash: Hash,
    pub(super) previous: Option<Hash>,
    pub(super) place: Place,
}

/// What a recovery says of the old epoch's last statement.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) last: Option<(u64, Hash)>,
    pub(super) place: Place,
}

impl EpochState {
    /// Puts a statement into the chain, and those that waited for it.
    pub(super) fn link(&mut self, number: u64, link: Link, report: &mut Report) {
        if number < self.next || self.pending.contains_key(&number) {
            return report.fail("twice", link.place, "the statement is in the books twice");
        }
        self.pending.insert(number, link);
        while let Some(link) = self.pending.remove(&self.next) {
            self.join(self.next, link);
        }
    }

    /// Notes what only the newest statement says.
    pub(super) fn tell(&mut self, statement: &Statement) {
        if statement.kind == StatementKind::Final {
            self.final_number = Some(statement.number);
        }
        if statement.number >= self.dropped.0 {
            let dropped = statement.drops.iter().map(|drop| drop.dropped).sum();
            self.dropped = (statement.number, dropped);
        }
    }

    /// Whether neither a final statement nor a recovery ended the epoch.
    pub(super) fn is_open(&self) -> bool {
        self.final_number.is_none() && self.recoveries.is_empty()
    }

    /// Checks, when all was read, that nothing is missing that no gap records.
    pub(super) fn finish(
        &mut self,
        place: &Place,
        gaps: &Gaps,
        conflicts: &Conflicts,
        report: &mut Report,
    ) {
        if let Some((_, place)) = &self.signed_by {
            let detail = "no announcement vouches for the epoch's audit key";
            report.fail("unannounced", place.clone(), detail);
        }
        let (Some(writer), Some(epoch)) = (place.writer.as_deref(), place.epoch) else {
            return;
        };
        self.finish_chain(place, &gaps.statements(writer, epoch), report);
        // Where the writer signed two statements under one number, it may go on from the other.
        let key = self.announced.as_ref();
        let is_other =
            |number: u64, hash: &Hash| conflicts.explain((writer, epoch, number), hash, key);
        for (number, previous, place) in std::mem::take(&mut self.breaks) {
            let before = number.checked_sub(1).zip(previous);
            if !before.is_some_and(|(before, previous)| is_other(before, &previous)) {
                let detail = "it does not name the statement before it by its hash";
                report.fail("statement_chain", place, detail);
            }
        }
        self.finish_recoveries(is_other, place, &gaps.statements(writer, epoch), report);
        report.counts.dropped += self.dropped.1;
        for (stream, state) in &mut self.streams {
            let place = Place {
                stream: Some(stream.clone()),
                ..place.clone()
            };
            let missing = state.finish(&place, &gaps.seqs(writer, epoch, stream), report);
            if missing > 0 {
                report.note(format!(
                    "{place}: {missing} entries are missing, as a gap records"
                ));
            }
        }
    }

    fn finish_chain(&mut self, place: &Place, recorded: &Intervals, report: &mut Report) {
        for (number, link) in std::mem::take(&mut self.pending) {
            if number > self.next {
                hole(place, (self.next, number), recorded, report);
                self.last = link.previous;
            }
            self.join(number, link);
        }
        if let Some(number) = self.final_number.filter(|number| number + 1 != self.next) {
            let found = Place {
                seq: Some(number),
                ..place.clone()
            };
            report.fail("final", found, "statements follow the final one");
        }
    }

    /// Checks that recoveries and chain agree on the last statement.
    fn finish_recoveries(
        &self,
        is_other: impl Fn(u64, &Hash) -> bool,
        place: &Place,
        recorded: &Intervals,
        report: &mut Report,
    ) {
        for claim in &self.recoveries {
            match claim.last {
                None if self.next == 0 => continue,
                Some((number, hash))
                    if number + 1 == self.next
                        && (Some(hash) == self.last || is_other(number, &hash)) =>
                {
                    continue;
                }
                Some((number, _)) if number >= self.next => {
                    hole(place, (self.next, number + 1), recorded, report);
                    continue;
                }
                _ => {}
            }
            let detail = "the recovery names another last statement of the old epoch";
            report.fail("recovery", claim.place.clone(), detail);
        }
    }

    /// Appends a statement to the chain; it should name the one before by its hash.
    fn join(&mut self, number: u64, link: Link) {
        if link.previous != self.last {
            self.breaks.push((number, link.previous, link.place));
        }
        self.last = Some(link.hash);
        self.next = number + 1;
    }
}

/// Tells of missing statements: a failure, unless gaps record them all.
fn hole(place: &Place, (from, until): (u64, u64), recorded: &Intervals, report: &mut Report) {
    let found = Place {
        seq: Some(from),
        ..place.clone()
    };
    let detail = format!("statements {from} to {} are missing", until - 1);
    if recorded.holds(from, until) {
        report.note(format!("{found}: {detail}, as a gap records"));
    } else {
        report.fail("hole", found, format!("{detail} and no gap records it"));
    }
}

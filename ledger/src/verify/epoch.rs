//! One epoch of a writer: its chain of statements, and its streams.

use std::collections::BTreeMap;

use counterfoil_entry::Hash;
use counterfoil_entry::statement::{Statement, StatementKind};

use super::gaps::Gaps;
use super::intervals::Intervals;
use super::report::{Place, Report};
use super::streams::StreamState;

#[derive(Debug, Default)]
pub(super) struct EpochState {
    /// Audit key and hash of the announcement.
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
            self.join(self.next, link, report);
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
    pub(super) fn finish(&mut self, place: &Place, gaps: &Gaps, report: &mut Report) {
        if let Some((_, place)) = &self.signed_by {
            let detail = "no announcement vouches for the epoch's audit key";
            report.fail("unannounced", place.clone(), detail);
        }
        let (Some(writer), Some(epoch)) = (place.writer.as_deref(), place.epoch) else {
            return;
        };
        self.finish_chain(place, &gaps.statements(writer, epoch), report);
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
        let hole = |from: u64, until: u64, report: &mut Report| {
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
        };
        for (number, link) in std::mem::take(&mut self.pending) {
            if number > self.next {
                hole(self.next, number, report);
                self.last = link.previous;
            }
            self.join(number, link, report);
        }
        if let Some(number) = self.final_number.filter(|number| number + 1 != self.next) {
            let found = Place {
                seq: Some(number),
                ..place.clone()
            };
            report.fail("final", found, "statements follow the final one");
        }
        for claim in &self.recoveries {
            match claim.last {
                Some((number, hash)) if number + 1 == self.next && Some(hash) == self.last => {}
                Some((number, _)) if number >= self.next => hole(self.next, number + 1, report),
                None if self.next == 0 => {}
                _ => {
                    let detail = "the recovery names another last statement of the old epoch";
                    report.fail("recovery", claim.place.clone(), detail);
                }
            }
        }
    }

    /// Appends a statement to the chain; it must name the one before by its hash.
    fn join(&mut self, number: u64, link: Link, report: &mut Report) {
        if link.previous != self.last {
            let detail = "it does not name the statement before it by its hash";
            report.fail("statement_chain", link.place, detail);
        }
        self.last = Some(link.hash);
        self.next = number + 1;
    }
}

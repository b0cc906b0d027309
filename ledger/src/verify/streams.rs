//! One stream of one epoch: what was stated against what was sealed.

use std::collections::BTreeMap;

use counterfoil_entry::Hash;

use super::intervals::Intervals;
use super::report::{Place, Report};

/// A range of a stream, as a statement or as coverage and rows give it.
#[derive(Debug, Clone)]
pub(super) struct Half {
    /// First sequence number.
    pub(super) first_seq: u64,
    /// Entries.
    pub(super) count: u64,
    /// RFC 6962 root over them; `None` when they were deleted.
    pub(super) root: Option<Hash>,
    /// Epoch and number of the statement.
    pub(super) statement: (u64, u64),
    /// Where it stands, the sequence number included.
    pub(super) place: Place,
}

impl Half {
    /// Whether both begin at the same entry and name the same statement.
    fn is_claim_of(&self, other: &Self) -> bool {
        (self.first_seq, self.statement) == (other.first_seq, other.statement)
    }
}

/// What is known of one stream. Ranges are held only until their other half is met.
#[derive(Debug, Default)]
pub(super) struct StreamState {
    proved: Intervals,
    sealed: BTreeMap<u64, Half>,
    /// By statements of the epoch itself.
    stated: BTreeMap<u64, Half>,
    /// By recoveries. They may state again what an earlier statement or recovery states, for
    /// their writer cannot know of every one that arrived.
    tails: Vec<Half>,
}

impl StreamState {
    /// Takes a range of sealed rows, which coverage says a statement of the epoch itself covers,
    /// or a recovery (`is_tail`).
    pub(super) fn seal(&mut self, half: Half, is_tail: bool, report: &mut Report) {
        let until = half.first_seq.saturating_add(half.count);
        if self.proved.touches(half.first_seq, until) || self.sealed.contains_key(&half.first_seq) {
            return report.fail("twice", half.place, "these entries are sealed twice");
        }
        let stated = if is_tail {
            let at = self.tails.iter().position(|tail| tail.is_claim_of(&half));
            at.map(|at| self.tails.swap_remove(at))
        } else {
            self.stated.remove(&half.first_seq)
        };
        match stated {
            Some(stated) => self.join(&half, &stated, report),
            None => {
                self.sealed.insert(half.first_seq, half);
            }
        }
    }

    /// Takes a range that a statement of the epoch itself names, or a recovery (`is_tail`).
    pub(super) fn state(&mut self, half: Half, is_tail: bool, report: &mut Report) {
        let until = half.first_seq.saturating_add(half.count);
        let is_known =
            self.stated.contains_key(&half.first_seq) || self.proved.touches(half.first_seq, until);
        if !is_tail && is_known {
            return report.fail("twice", half.place, "these entries are stated twice");
        }
        // Coverage of this epoch may name a wrong number: that is met here, and is a failure.
        let is_same_epoch = |sealed: &Half| sealed.statement.0 == half.statement.0;
        let sealed = self.sealed.get(&half.first_seq);
        let is_met = sealed.is_some_and(|sealed| {
            if is_tail {
                half.is_claim_of(sealed)
            } else {
                is_same_epoch(sealed)
            }
        });
        let met = if is_met {
            self.sealed.remove(&half.first_seq)
        } else {
            None
        };
        match met {
            Some(sealed) => self.join(&sealed, &half, report),
            None if is_tail => self.tails.push(half),
            None => {
                self.stated.insert(half.first_seq, half);
            }
        }
    }

    fn join(&mut self, sealed: &Half, stated: &Half, report: &mut Report) {
        let place = || sealed.place.clone();
        if sealed.statement != stated.statement {
            let detail = format!(
                "coverage names statement {} of epoch {}, and statement {} of epoch {} covers it",
                sealed.statement.1, sealed.statement.0, stated.statement.1, stated.statement.0
            );
            report.fail("coverage", place(), detail);
        } else if sealed.count != stated.count {
            let detail = format!(
                "the statement names {} entries, sealed are {}",
                stated.count, sealed.count
            );
            report.fail("statement_range", place(), detail);
        } else if sealed.root.is_some() && sealed.root != stated.root {
            let detail = "the sealed entries are not those that the writer signed: another root";
            report.fail("statement_root", place(), detail);
        }
        let until = sealed.first_seq.saturating_add(sealed.count);
        if !self.proved.add_new(sealed.first_seq, until) {
            report.fail("twice", place(), "a part of these entries is sealed twice");
        }
    }

    /// Checks that nothing is left over: sealed entries without a statement, and holes that no
    /// gap records. Returns the sequence numbers in recorded holes.
    pub(super) fn finish(&mut self, place: &Place, gaps: &Intervals, report: &mut Report) -> u64 {
        for half in std::mem::take(&mut self.sealed).into_values() {
            self.proved
                .add(half.first_seq, half.first_seq.saturating_add(half.count));
            report.fail(
                "unstated",
                half.place,
                "no statement covers these sealed entries",
            );
        }
        let stated = self.stated.values().chain(&self.tails);
        let stated_end = stated
            .map(|half| half.first_seq.saturating_add(half.count))
            .max();
        let end = self.proved.end().max(stated_end.unwrap_or(0));
        let mut recorded = 0;
        for (from, until) in self.proved.holes(end) {
            let open: Vec<(u64, u64)> = gaps
                .holes(until)
                .into_iter()
                .map(|(a, b)| (a.max(from), b))
                .filter(|(a, b)| a < b)
                .collect();
            for (from, until) in &open {
                let detail = format!(
                    "entries {from} to {} are missing and no gap records it",
                    until - 1
                );
                let place = Place {
                    seq: Some(*from),
                    ..place.clone()
                };
                report.fail("hole", place, detail);
            }
            let missing: u64 = open.iter().map(|(a, b)| b - a).sum();
            recorded += until - from - missing;
        }
        recorded
    }
}

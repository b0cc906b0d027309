//! The writers' side: announcements, chains of statements, and what they say of their streams.

use std::collections::BTreeMap;

use counterfoil_entry::Hash;
use counterfoil_entry::announcement::Announcement;
use counterfoil_entry::rows::{StatementParts, Trust};
use counterfoil_entry::statement::{Statement, StatementKind, statement_hash, verify_statement};

use super::ChainTrust;
use super::conflicts::Conflicts;
use super::epoch::{Claim, EpochState, Link};
use super::gaps::Gaps;
use super::report::{Place, Report};
use super::streams::Half;
use crate::coverage::CoverageRow;

/// Every epoch of every writer, over all origins.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    writers: BTreeMap<String, BTreeMap<u64, EpochState>>,
}

impl Epochs {
    fn state(&mut self, writer: &str, epoch: u64) -> &mut EpochState {
        if !self.writers.contains_key(writer) {
            self.writers.insert(writer.to_owned(), BTreeMap::new());
        }
        self.writers
            .entry(writer.to_owned())
            .or_default()
            .entry(epoch)
            .or_default()
    }

    /// Takes the row of an announcement.
    pub(super) fn announcement(
        &mut self,
        parts: &StatementParts,
        place: Place,
        judge: (&dyn ChainTrust, &[Vec<u8>]),
        report: &mut Report,
    ) {
        let announcement = match Announcement::decode(&parts.signed.bytes) {
            Ok(announcement) => announcement,
            Err(error) => return report.fail("announcement", place, error.to_string()),
        };
        let writer = announcement.writer.as_str();
        let place = place.of_writer(writer, announcement.epoch.0);
        let (trust, roots) = judge;
        let judged = trust
            .announcement(
                &parts.signed.bytes,
                &parts.signed.signature,
                &announcement.chain,
                roots,
                announcement.time,
            )
            .and_then(|id| {
                let is_own = id == announcement.writer.spiffe_id();
                if is_own {
                    Ok(())
                } else {
                    Err(format!("it is signed by {id}"))
                }
            });
        match (judged, parts.trust) {
            (_, Trust::Unverified) => {
                report.counts.unverified += 1;
                let reason = parts.reason.as_deref().unwrap_or("no reason given");
                report.note(format!("unverified announcement: {place}: {reason}"));
            }
            (Err(reason), _) => report.fail("announcement", place.clone(), reason),
            (Ok(()), Trust::Late) => {
                report.note(format!(
                    "announced after its certificate had expired: {place}"
                ));
            }
            (Ok(()), Trust::Verified) => {}
        }
        let state = self.state(writer, announcement.epoch.0);
        if state.announced.is_some() {
            report.fail("announcement", place, "the epoch is announced twice");
        } else if let Some((_, place)) = state
            .signed_by
            .take()
            .filter(|(key, _)| *key != announcement.audit_key)
        {
            report.fail(
                "statement_key",
                place,
                "it is signed by another key than announced",
            );
        } else {
            state.announced = Some(announcement.audit_key);
        }
    }

    /// Takes the row of a statement.
    pub(super) fn statement(&mut self, parts: &StatementParts, place: Place, report: &mut Report) {
        let statement = match Statement::decode(&parts.signed.bytes) {
            Ok(statement) => statement,
            Err(error) => return report.fail("statement", place, error.to_string()),
        };
        let writer = statement.writer.as_str();
        let place = Place {
            seq: Some(statement.number),
            ..place
        }
        .of_writer(writer, statement.epoch.0);
        if !verify_statement(&parts.signed, &parts.audit_key) {
            return report.fail("signature", place, "the statement's signature is wrong");
        }
        if numbers(&statement).any(|number| number == u64::MAX) {
            return report.fail("statement", place, "a statement's number is too high");
        }
        report.counts.statements += 1;
        let state = self.state(writer, statement.epoch.0);
        match (state.announced, &state.signed_by) {
            (Some(key), _) if key != parts.audit_key => {
                let detail = "it is signed by another key than announced";
                report.fail("statement_key", place.clone(), detail);
            }
            (None, Some((key, _))) if *key != parts.audit_key => {
                let detail = "it is signed by another key than the epoch's other statements";
                report.fail("statement_key", place.clone(), detail);
            }
            (None, None) => state.signed_by = Some((parts.audit_key, place.clone())),
            _ => {}
        }
        let link = Link {
            hash: statement_hash(&parts.signed.bytes),
            previous: statement.previous,
            place: place.clone(),
        };
        state.link(statement.number, link, report);
        state.tell(&statement);
        self.take_ranges(&statement, &place, report);
    }

    /// Hands what the statement says of streams and of an old epoch to those.
    fn take_ranges(&mut self, statement: &Statement, place: &Place, report: &mut Report) {
        let writer = statement.writer.as_str();
        if let StatementKind::Recovery(recovery) = &statement.kind {
            let claim = Claim {
                last: recovery.last,
                place: place.clone(),
            };
            self.state(writer, recovery.old_epoch.0)
                .recoveries
                .push(claim);
        }
        for (epoch, range) in statement.covered() {
            let stream = range.stream.to_string();
            let half = Half {
                first_seq: range.first_seq,
                count: range.count,
                root: Some(range.root),
                statement: (statement.epoch.0, statement.number),
                place: place.clone().at_seq(&stream, range.first_seq),
            };
            let is_tail = epoch != statement.epoch;
            let streams = &mut self.state(writer, epoch.0).streams;
            streams
                .entry(stream)
                .or_default()
                .state(half, is_tail, report);
        }
    }

    /// Takes a coverage row whose sealed rows have this root; `None` once they were deleted.
    pub(super) fn sealed(
        &mut self,
        row: &CoverageRow,
        root: Option<Hash>,
        place: Place,
        report: &mut Report,
    ) {
        let (writer, stream) = (row.writer.as_str(), row.stream.to_string());
        let half = Half {
            first_seq: row.first_seq,
            count: row.count,
            root,
            statement: (row.statement_epoch.unwrap_or(row.epoch).0, row.statement),
            place: place
                .of_writer(writer, row.epoch.0)
                .at_seq(&stream, row.first_seq),
        };
        let streams = &mut self.state(writer, row.epoch.0).streams;
        let is_tail = row.statement_epoch.is_some();
        streams
            .entry(stream)
            .or_default()
            .seal(half, is_tail, report);
    }

    /// Checks, when all was read, that nothing is missing that no gap records.
    pub(super) fn finish(&mut self, gaps: &Gaps, conflicts: &Conflicts, report: &mut Report) {
        for (writer, epochs) in &mut self.writers {
            let newest = epochs.keys().next_back().copied();
            for (epoch, state) in epochs {
                report.counts.epochs += 1;
                let place = Place::default().of_writer(writer, *epoch);
                state.finish(&place, gaps, conflicts, report);
                if state.is_open() {
                    report.counts.epochs_open += 1;
                    if newest != Some(*epoch) {
                        report.note(format!(
                            "ended without a final statement or a recovery: {place}"
                        ));
                    }
                }
            }
        }
    }

    /// Whether any instance of a workload has this epoch in the books.
    pub(super) fn knows(&self, spiffe_id: &str, epoch: u64) -> bool {
        let first = format!("{spiffe_id}#");
        self.writers
            .range(first.clone()..)
            .take_while(|(writer, _)| writer.starts_with(&first))
            .any(|(_, epochs)| epochs.contains_key(&epoch))
    }

    /// Epochs that a later one of the same writer follows, without a final statement or recovery.
    pub(super) fn abandoned(&self) -> usize {
        self.writers
            .values()
            .flat_map(|epochs| epochs.values().rev().skip(1))
            .filter(|state| state.is_open())
            .count()
    }
}

/// The numbers that the chains count with: the statement's own, and the one that a recovery names.
fn numbers(statement: &Statement) -> impl Iterator<Item = u64> {
    let recovered = match &statement.kind {
        StatementKind::Recovery(recovery) => recovery.last.map(|(number, _)| number),
        _ => None,
    };
    std::iter::once(statement.number).chain(recovered)
}

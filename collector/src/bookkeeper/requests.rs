//! Taking what writers send: announcements, entries, statements.

use counterfoil_entry::Hash;
use counterfoil_entry::clock;
use counterfoil_entry::frame::push_record;
use counterfoil_entry::id::{Stream, Writer};
use counterfoil_entry::rows::{ConflictRow, IssuanceRow, Trust};
use counterfoil_entry::statement::{Signed, Statement, StatementKind, statement_hash};
use counterfoil_entry::table::TableId;

use super::Bookkeeper;
use crate::answer::{Acknowledged, Answer, KnownEpoch, Reason, Refused};
use crate::gaps::{self, Notice};
use crate::intake::{Batch, Hello, Proof};
use crate::judge::{Verdict, judge};
use crate::state::{Kept, Place, StreamState, Unsealed};

impl Bookkeeper {
    pub(super) fn hello(&mut self, hello: Hello) -> Answer {
        let (writer, epoch) = (hello.announcement.writer.clone(), hello.announcement.epoch);
        let known = self
            .state
            .find(&writer, epoch)
            .and_then(|epoch| epoch.announced.as_ref());
        match known {
            Some(known) if known.audit_key != hello.announcement.audit_key => {
                let detail = format!("epoch {} was announced with another key", epoch.0);
                return Err(Refused::new(Reason::Signature, detail));
            }
            Some(_) => {}
            None => {
                let (trust, reason) = self.trust(&hello.proof);
                let unsealed = Unsealed {
                    is_announcement: true,
                    audit_key: hello.announcement.audit_key,
                    signed: hello.signed,
                    trust,
                    reason,
                    received_at: clock::wall(),
                };
                self.journal.announcement(&unsealed);
                self.state.announce(&writer, epoch, unsealed);
            }
        }
        self.heard(&writer, epoch);
        Ok(Acknowledged {
            epochs: Some(self.known_epochs(&writer)),
            ..self.acknowledged()
        })
    }

    fn trust(&self, proof: &Proof) -> (Trust, Option<String>) {
        match proof {
            Proof::Valid => (Trust::Verified, None),
            Proof::Expired(cert) if self.state.issued.contains(cert) => {
                (Trust::Late, Some("expired, issued by control".to_owned()))
            }
            Proof::Expired(_) => (Trust::Unverified, Some("tls_expired".to_owned())),
            Proof::None(refusal) => (Trust::Unverified, Some(refusal.reason().to_owned())),
        }
    }

    fn known_epochs(&self, writer: &Writer) -> Vec<KnownEpoch> {
        let epochs = self.state.epochs.get(writer).into_iter().flatten();
        epochs
            .filter(|(_, state)| !state.is_closed)
            .map(|(epoch, state)| {
                let number = state.statements.next().checked_sub(1);
                let hash = number.and_then(|number| state.hashes.get(&number));
                let next = |(stream, state): (&Stream, &StreamState)| {
                    (stream.to_string(), state.seen.next())
                };
                KnownEpoch {
                    epoch: epoch.0,
                    number,
                    sha256: hash.map(ToString::to_string),
                    streams: state.streams.iter().map(next).collect(),
                }
            })
            .collect()
    }

    pub(super) fn batch(&mut self, batch: &Batch) -> Answer {
        let is_announced = self.state.epochs.get(&batch.writer).is_some_and(|epochs| {
            // The tail of an old epoch comes again after the next epoch's hello.
            epochs
                .range(batch.epoch..)
                .any(|(_, epoch)| epoch.announced.is_some())
        });
        if !is_announced {
            let detail = format!("epoch {} has not said hello here", batch.epoch.0);
            return Err(Refused::new(Reason::NotAnnounced, detail));
        }
        self.check_kinds(batch)?;
        let received_at = clock::wall();
        let (file, begin) = (self.journal.number(), self.journal.batch_begin());
        let mut records = Vec::new();
        for row in &batch.rows {
            let (Some(stream), Some(record)) = (
                batch.streams.get(row.stream),
                batch.body.get(row.at.clone()),
            ) else {
                continue;
            };
            let offset = begin + u64::try_from(records.len()).unwrap_or(u64::MAX) + 4;
            let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
            let place = Place { file, offset, len };
            let kept = Kept {
                leaf: row.leaf,
                place,
                received_at,
            };
            let epoch = (&batch.writer, batch.epoch);
            if self
                .state
                .take_entry(epoch, stream, row.seq, row.schema_version, kept)
            {
                push_record(&mut records, record);
                self.note_issued(stream.table, record);
            }
        }
        if !records.is_empty() {
            self.journal.batch(received_at, &records);
        }
        self.note_holes(&batch.writer, batch.epoch);
        self.heard(&batch.writer, batch.epoch);
        Ok(self.acknowledged())
    }

    /// A stream keeps its schema version: the ranges of its statements lie in one segment. And a
    /// manifest must be able to name all segments.
    fn check_kinds(&mut self, batch: &Batch) -> Result<(), Refused> {
        let epoch = self.state.find(&batch.writer, batch.epoch);
        let mut versions: Vec<Option<u16>> = batch
            .streams
            .iter()
            .map(|stream| epoch.and_then(|epoch| epoch.streams.get(stream)?.schema_version))
            .collect();
        for row in &batch.rows {
            let Some(version) = versions.get_mut(row.stream) else {
                continue;
            };
            if *version.get_or_insert(row.schema_version) != row.schema_version {
                let detail = format!(
                    "seq {}: the schema version changes within a stream",
                    row.seq
                );
                return Err(Refused::new(Reason::Malformed, detail));
            }
        }
        for (stream, version) in batch.streams.iter().zip(versions) {
            let kind = (stream.table, stream.class.clone(), version.unwrap_or(0));
            if !self.state.admit(kind) {
                let detail = format!("{stream}: too many tables and classes wait for a seal");
                return Err(Refused::new(Reason::Overload, detail));
            }
        }
        Ok(())
    }

    fn note_issued(&mut self, table: TableId, record: &[u8]) {
        if table == TableId::Issuance
            && let Ok((_, row)) = IssuanceRow::decode(record)
        {
            self.state.issued.extend(row.cert_sha256);
        }
    }

    pub(super) fn statement(&mut self, statement: &Statement, signed: &Signed) -> Answer {
        let (writer, epoch) = (&statement.writer, statement.epoch);
        match judge(&self.state, statement, signed) {
            Verdict::Take => {
                let at = clock::wall();
                self.journal.statement(at, signed);
                self.state.take_statement(statement, signed, at);
                for (of, _) in statement.covered() {
                    self.note_holes(writer, of);
                }
                if let StatementKind::Recovery(recovery) = &statement.kind {
                    // The old epoch is silent with reason from now on.
                    let now = clock::wall();
                    let rows = gaps::end_silence(now, self.state.epoch(writer, recovery.old_epoch));
                    self.outbox.extend(rows);
                    self.note_holes(writer, recovery.old_epoch);
                }
            }
            Verdict::Known => {}
            Verdict::Conflict(kept) => self.keep_conflict(statement, signed, kept)?,
            Verdict::Wait(refused) => return Err(refused),
            Verdict::Flawed(refused, cause) => {
                tracing::warn!(
                    writer = writer.as_str(),
                    epoch = epoch.0,
                    number = statement.number,
                    cause,
                    "refused a statement for good"
                );
                let notice = Notice {
                    writer,
                    epoch,
                    now: clock::wall(),
                };
                let state = self.state.epoch(writer, epoch);
                let row = gaps::refuse(notice, state, statement.number, cause);
                self.outbox.extend(row);
                return Err(refused);
            }
        }
        self.note_holes(writer, epoch);
        self.heard(writer, epoch);
        Ok(self.acknowledged())
    }

    /// Keeps a statement under a number that is taken. It is in no journal, so that it is synced in
    /// the collector's own spool before it is acknowledged.
    fn keep_conflict(
        &mut self,
        statement: &Statement,
        signed: &Signed,
        kept: Hash,
    ) -> Result<(), Refused> {
        let other = statement_hash(&signed.bytes);
        let epoch = self.state.epoch(&statement.writer, statement.epoch);
        if epoch.others.contains(&other) {
            return Ok(());
        }
        tracing::error!(
            writer = statement.writer.as_str(),
            epoch = statement.epoch.0,
            number = statement.number,
            "two different statements under one number: both are kept"
        );
        let row = ConflictRow {
            subject_writer: statement.writer.as_str().to_owned(),
            subject_epoch: statement.epoch.0,
            number: statement.number,
            kept_sha256: kept,
            other_sha256: other,
            other_statement: signed.bytes.clone(),
            other_signature: signed.signature.clone(),
            detected_at: clock::wall(),
        };
        if let Err(error) = self.own.conflict(&row) {
            tracing::error!(%error, "the collector's own spool does not take a conflict");
            let detail = "a statement in conflict cannot be kept now";
            return Err(Refused::new(Reason::Overload, detail));
        }
        epoch.others.insert(other);
        Ok(())
    }

    fn acknowledged(&self) -> Acknowledged {
        Acknowledged {
            origin: self.pace.origin.clone(),
            checkpoint: self.checkpoint.to_string(),
            epochs: None,
        }
    }
}

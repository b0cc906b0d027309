//! The one thread that changes what the collector knows: it judges, journals, syncs, and only then answers.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::Duration;

use counterfoil_columns::journal::JournalError;
use counterfoil_entry::clock;
use counterfoil_entry::frame::push_record;
use counterfoil_entry::Hash;
use counterfoil_entry::id::{Epoch, Stream, Writer};
use counterfoil_entry::rows::{ConflictRow, GapRow, IssuanceRow, Trust};
use counterfoil_entry::statement::{Signed, Statement, statement_hash};
use counterfoil_entry::table::TableId;
use tokio::sync::oneshot;

use crate::answer::{Acknowledged, Answer, KnownEpoch, Reason, Refused};
use crate::gaps::{self, Notice};
use crate::intake::{Batch, Hello, Proof};
use crate::journal::{Journal, JournalFiles};
use crate::judge::{Verdict, judge};
use crate::own::OwnWriter;
use crate::seal::{SealError, SealJob, Sealed};
use crate::state::{EpochState, Kept, Place, State, StreamState, Unsealed};

/// Requests answered by one `fdatasync` at most.
const GROUP_MAX: usize = 256;

/// What reaches the bookkeeper.
#[derive(Debug)]
pub(crate) enum Request {
    /// A writer's announcement.
    Hello(Box<Hello>, oneshot::Sender<Answer>),
    /// Entries.
    Batch(Batch, oneshot::Sender<Answer>),
    /// A statement.
    Statement(Box<(Statement, Signed)>, oneshot::Sender<Answer>),
    /// Seal what there is and stop.
    Close,
}

/// Times and sizes that the bookkeeper keeps to.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    pub(crate) origin: String,
    /// Time between seals.
    pub(crate) seal_interval_ns: u64,
    /// Rows that make a seal due before its time.
    pub(crate) seal_rows_max: usize,
    /// Time without a word after which an open epoch counts as silent.
    pub(crate) silence_ns: u64,
}

/// The way to the sealing thread and back; each direction holds one message.
#[derive(Debug)]
pub(crate) struct SealerLine {
    pub(crate) jobs: SyncSender<SealJob>,
    pub(crate) done: Receiver<Result<Sealed, SealError>>,
}

/// Why the bookkeeper stopped before it was told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BookkeeperError {
    #[error("keeping the journal")]
    Journal(#[from] JournalError),
    #[error("sealing")]
    Seal(#[from] SealError),
    #[error("handing over to the sealing thread: it has stopped")]
    SealerGone,
}

/// A row of the collector's own, on its way into its spool.
#[derive(Debug)]
enum OwnRow {
    Gap(Box<GapRow>),
    Conflict(Box<ConflictRow>),
}

impl OwnRow {
    fn gap(row: GapRow) -> Self {
        Self::Gap(Box::new(row))
    }
}

/// State, journal and the collector's own writer, in the hands of one thread.
#[derive(Debug)]
pub(crate) struct Bookkeeper {
    pub(crate) pace: Pace,
    pub(crate) state: State,
    pub(crate) journal: Journal,
    pub(crate) files: JournalFiles,
    pub(crate) own: OwnWriter,
    pub(crate) sealer: SealerLine,
    pub(crate) checkpoint: Arc<str>,
    outbox: Vec<OwnRow>,
    is_sealing: bool,
    is_closing: bool,
    is_last_seal: bool,
    sealed_at_ns: u64,
}

impl Bookkeeper {
    /// A bookkeeper that has taken over `state` and begun `journal`.
    pub(crate) fn new(
        pace: Pace,
        (state, journal, files): (State, Journal, JournalFiles),
        own: OwnWriter,
        sealer: SealerLine,
        checkpoint: Arc<str>,
    ) -> Self {
        Self {
            pace,
            state,
            journal,
            files,
            own,
            sealer,
            checkpoint,
            outbox: Vec::new(),
            is_sealing: false,
            is_closing: false,
            is_last_seal: false,
            sealed_at_ns: clock::mono_ns(),
        }
    }

    /// Serves requests until [`Request::Close`] and the last seal, or until all senders are gone.
    ///
    /// # Errors
    /// [`BookkeeperError`]: nothing is answered any more; a restart recovers from the journal.
    pub(crate) fn run(mut self, requests: &Receiver<Request>) -> Result<(), BookkeeperError> {
        self.note_all_holes();
        loop {
            let mut answers = Vec::new();
            match requests.recv_timeout(Duration::from_millis(200)) {
                Ok(request) => {
                    self.serve(request, &mut answers);
                    for request in requests.try_iter().take(GROUP_MAX) {
                        self.serve(request, &mut answers);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if self.journal.is_dirty() {
                self.journal.sync()?;
            }
            for (to, answer) in answers {
                // A writer that hung up asks again; what was taken is taken.
                drop(to.send(answer));
            }
            self.write_own_rows();
            self.note_silence();
            self.note_sealed()?;
            self.seal_when_due()?;
            if self.is_closing && self.is_last_seal && !self.is_sealing {
                return Ok(());
            }
        }
    }

    fn serve(
        &mut self,
        request: Request,
        answers: &mut Vec<(oneshot::Sender<Answer>, Answer)>,
    ) {
        match request {
            Request::Hello(hello, to) => answers.push((to, self.hello(*hello))),
            Request::Batch(batch, to) => answers.push((to, self.batch(&batch))),
            Request::Statement(statement, to) => {
                let (statement, signed) = *statement;
                answers.push((to, self.statement(&statement, &signed)));
            }
            Request::Close => self.is_closing = true,
        }
    }

    fn hello(&mut self, hello: Hello) -> Answer {
        let (writer, epoch) = (hello.announcement.writer.clone(), hello.announcement.epoch);
        let known = self.state.find(&writer, epoch).and_then(|epoch| epoch.announced.as_ref());
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
        Ok(Acknowledged { epochs: Some(self.known_epochs(&writer)), ..self.acknowledged() })
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

    fn batch(&mut self, batch: &Batch) -> Answer {
        let is_announced = self.state.epochs.get(&batch.writer).is_some_and(|epochs| {
            // The tail of an old epoch comes again after the next epoch's hello.
            epochs.range(batch.epoch..).any(|(_, epoch)| epoch.announced.is_some())
        });
        if !is_announced {
            let detail = format!("epoch {} has not said hello here", batch.epoch.0);
            return Err(Refused::new(Reason::NotAnnounced, detail));
        }
        self.check_versions(batch)?;
        let received_at = clock::wall();
        let (file, begin) = (self.journal.number(), self.journal.batch_begin());
        let mut records = Vec::new();
        for row in &batch.rows {
            let (Some(stream), Some(record)) =
                (batch.streams.get(row.stream), batch.body.get(row.at.clone()))
            else {
                continue;
            };
            let offset = begin + u64::try_from(records.len()).unwrap_or(u64::MAX) + 4;
            let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
            let place = Place { file, offset, len };
            let kept = Kept { leaf: row.leaf, place, received_at };
            let epoch = (&batch.writer, batch.epoch);
            if self.state.take_entry(epoch, stream, row.seq, row.schema_version, kept) {
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

    /// A stream keeps its schema version: the ranges of its statements lie in one segment.
    fn check_versions(&self, batch: &Batch) -> Result<(), Refused> {
        let epoch = self.state.find(&batch.writer, batch.epoch);
        let mut versions: Vec<Option<u16>> = batch
            .streams
            .iter()
            .map(|stream| epoch.and_then(|epoch| epoch.streams.get(stream)?.schema_version))
            .collect();
        for row in &batch.rows {
            let Some(version) = versions.get_mut(row.stream) else { continue };
            if *version.get_or_insert(row.schema_version) != row.schema_version {
                let detail = format!("seq {}: the schema version changes within a stream", row.seq);
                return Err(Refused::new(Reason::Malformed, detail));
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

    fn statement(&mut self, statement: &Statement, signed: &Signed) -> Answer {
        let (writer, epoch) = (&statement.writer, statement.epoch);
        match judge(&self.state, statement, signed) {
            Verdict::Take => {
                let at = clock::wall();
                self.journal.statement(at, signed);
                self.state.take_statement(statement, signed, at);
                for (of, _) in statement.covered() {
                    self.note_holes(writer, of);
                }
                self.note_closed(writer);
            }
            Verdict::Known => {}
            Verdict::Conflict(kept) => self.note_conflict(statement, signed, kept),
            Verdict::Wait(refused) => return Err(refused),
            Verdict::Flawed(refused, cause) => {
                tracing::warn!(
                    writer = writer.as_str(),
                    epoch = epoch.0,
                    number = statement.number,
                    cause,
                    "refused a statement for good"
                );
                let notice = Notice { writer, epoch, now: clock::wall() };
                let state = self.state.epoch(writer, epoch);
                let row = gaps::refuse(notice, state, statement.number, cause);
                self.outbox.extend(row.map(OwnRow::gap));
                return Err(refused);
            }
        }
        self.note_holes(writer, epoch);
        self.heard(writer, epoch);
        Ok(self.acknowledged())
    }

    fn note_conflict(
        &mut self,
        statement: &Statement,
        signed: &Signed,
        kept: Hash,
    ) {
        let other = statement_hash(&signed.bytes);
        let epoch = self.state.epoch(&statement.writer, statement.epoch);
        if !epoch.others.insert(other) {
            return;
        }
        tracing::error!(
            writer = statement.writer.as_str(),
            epoch = statement.epoch.0,
            number = statement.number,
            "two different statements under one number: both are kept"
        );
        self.outbox.push(OwnRow::Conflict(Box::new(ConflictRow {
            subject_writer: statement.writer.as_str().to_owned(),
            subject_epoch: statement.epoch.0,
            number: statement.number,
            kept_sha256: kept,
            other_sha256: other,
            other_statement: signed.bytes.clone(),
            other_signature: signed.signature.clone(),
            detected_at: clock::wall(),
        })));
    }

    fn acknowledged(&self) -> Acknowledged {
        Acknowledged {
            origin: self.pace.origin.clone(),
            checkpoint: self.checkpoint.to_string(),
            epochs: None,
        }
    }

    fn heard(&mut self, writer: &Writer, epoch: Epoch) {
        let state = self.state.epoch(writer, epoch);
        state.heard_ns = clock::mono_ns();
        let rows = gaps::end_silence(clock::wall(), state);
        self.outbox.extend(rows.into_iter().map(OwnRow::gap));
    }

    /// An epoch that ended is silent with reason.
    fn note_closed(&mut self, writer: &Writer) {
        let epochs = self.state.epochs.get_mut(writer).into_iter().flatten();
        for (epoch, state) in epochs.filter(|(_, state)| state.is_closed) {
            let now = clock::wall();
            let mut rows = gaps::end_silence(now, state);
            rows.extend(gaps::reconcile(Notice { writer, epoch: *epoch, now }, state));
            self.outbox.extend(rows.into_iter().map(OwnRow::gap));
        }
    }

    fn note_holes(&mut self, writer: &Writer, epoch: Epoch) {
        let notice = Notice { writer, epoch, now: clock::wall() };
        let rows = gaps::reconcile(notice, self.state.epoch(writer, epoch));
        self.outbox.extend(rows.into_iter().map(OwnRow::gap));
    }

    fn note_all_holes(&mut self) {
        let now = clock::wall();
        for (writer, epochs) in &mut self.state.epochs {
            for (epoch, state) in epochs {
                state.heard_ns = clock::mono_ns();
                let rows = gaps::reconcile(Notice { writer, epoch: *epoch, now }, state);
                self.outbox.extend(rows.into_iter().map(OwnRow::gap));
            }
        }
    }

    fn note_silence(&mut self) {
        if self.is_closing {
            return;
        }
        let (limit, now) = (self.pace.silence_ns, clock::mono_ns());
        let is_silent = |state: &EpochState| {
            !state.is_closed
                && state.announced.is_some()
                && now.saturating_sub(state.heard_ns) > limit
        };
        for (writer, epochs) in &mut self.state.epochs {
            for (epoch, state) in epochs.iter_mut().filter(|(_, state)| is_silent(state)) {
                let notice = Notice { writer, epoch: *epoch, now: clock::wall() };
                self.outbox.extend(gaps::fall_silent(notice, state).map(OwnRow::gap));
            }
        }
    }

    /// Hands gaps and conflicts to the collector's own spool; what it cannot take waits.
    fn write_own_rows(&mut self) {
        let own = &mut self.own;
        let mut failed = None;
        self.outbox.retain(|row| {
            if failed.is_some() {
                return true;
            }
            let written = match row {
                OwnRow::Gap(row) => own.gap(row),
                OwnRow::Conflict(row) => own.conflict(row),
            };
            failed = written.err();
            failed.is_some()
        });
        if let Some(error) = failed {
            let waiting = self.outbox.len();
            if !self.is_closing {
                tracing::error!(%error, waiting, "the collector's own spool takes no rows");
            }
        }
    }

    fn seal_when_due(&mut self) -> Result<(), BookkeeperError> {
        if self.is_sealing || self.is_last_seal {
            return Ok(());
        }
        let since = clock::mono_ns().saturating_sub(self.sealed_at_ns);
        let is_due = self.is_closing
            || since >= self.pace.seal_interval_ns
            || self.state.sealable_rows() >= self.pace.seal_rows_max;
        if !is_due {
            return Ok(());
        }
        self.is_last_seal = self.is_closing;
        self.sealed_at_ns = clock::mono_ns();
        self.is_sealing = true;
        let job = self.rotate()?;
        self.sealer.jobs.send(job).map_err(|_| BookkeeperError::SealerGone)
    }

    /// Begins the next journal file with what no statement covers; the rest is the seal's.
    pub(crate) fn rotate(&mut self) -> Result<SealJob, BookkeeperError> {
        let directory = self.journal.directory().to_owned();
        let number = self.journal.number() + 1;
        let unstated = self.state.unstated_mut();
        self.journal = Journal::begin(&directory, number, unstated, &mut self.files)?;
        Ok(SealJob {
            covered: std::mem::take(&mut self.state.sealable),
            unsealed: std::mem::take(&mut self.state.unsealed),
            journal_file: number,
            journal_directory: directory,
            files: self.files.clone(),
        })
    }

    /// Takes the outcome of a seal, if there is one.
    fn note_sealed(&mut self) -> Result<(), BookkeeperError> {
        let sealed = match self.sealer.done.try_recv() {
            Ok(sealed) => sealed?,
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Disconnected) => return Err(BookkeeperError::SealerGone),
        };
        self.is_sealing = false;
        self.checkpoint = Arc::clone(&sealed.checkpoint);
        crate::journal::trim(self.journal.directory(), sealed.journal_file)?;
        self.files.retain(|number, _| *number >= sealed.journal_file);
        Ok(())
    }
}

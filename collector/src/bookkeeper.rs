//! The one thread that changes what the collector knows: it judges, journals, syncs, and only then answers.

mod requests;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use counterfoil_columns::journal::JournalError;
use counterfoil_entry::id::{Epoch, Writer};
use counterfoil_entry::rows::GapRow;
use counterfoil_entry::statement::{Signed, Statement};
use counterfoil_entry::{Time, clock};
use tokio::sync::oneshot;

use crate::answer::Answer;
use crate::gaps::{self, Notice};
use crate::intake::{Batch, Hello};
use crate::journal::{Journal, JournalFiles};
use crate::own::OwnWriter;
use crate::seal::{SealError, SealJob, Sealed};
use crate::state::{EpochState, State};

/// Requests answered by one `fdatasync` at most.
const GROUP_MAX: usize = 256;
/// Journal bytes written by one `fdatasync`, about; bounds the buffer.
const GROUP_BYTES: usize = 16 << 20;
/// How often seals and silence are looked at when no request comes.
const TICK: Duration = Duration::from_millis(200);

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
    /// Rows of the collector's own, on their way into its spool.
    outbox: Vec<GapRow>,
    is_sealing: bool,
    is_closing: bool,
    is_last_seal: bool,
    /// Monotonic time of the next seal.
    due_ns: u64,
}

impl Bookkeeper {
    /// A bookkeeper that has taken over `state` and begun `journal`. The next seal is due one interval
    /// after `sealed_until`, where the last manifest ends, however often the collector starts.
    pub(crate) fn new(
        pace: Pace,
        (state, journal, files): (State, Journal, JournalFiles),
        own: OwnWriter,
        sealer: SealerLine,
        checkpoint: Arc<str>,
        sealed_until: Time,
    ) -> Self {
        let waited_ns = clock::wall().since_ns(sealed_until);
        let rest_ns = rest_ns(pace.seal_interval_ns, waited_ns);
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
            due_ns: clock::mono_ns().saturating_add(rest_ns),
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
            match requests.recv_timeout(TICK) {
                Ok(request) => {
                    self.serve(request, &mut answers);
                    while answers.len() < GROUP_MAX && self.journal.waiting() < GROUP_BYTES {
                        let Ok(request) = requests.try_recv() else {
                            break;
                        };
                        self.serve(request, &mut answers);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if !self.is_closing => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => self.note_sealed(TICK)?,
            }
            if self.journal.waiting() > 0 {
                self.journal.sync()?;
            }
            for (to, answer) in answers {
                // A writer that hung up asks again; what was taken is taken.
                drop(to.send(answer));
            }
            self.write_own_rows();
            self.note_silence();
            self.note_sealed(Duration::ZERO)?;
            self.seal_when_due()?;
            if self.is_closing && self.is_last_seal && !self.is_sealing {
                return Ok(());
            }
        }
    }

    fn serve(&mut self, request: Request, answers: &mut Vec<(oneshot::Sender<Answer>, Answer)>) {
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

    fn heard(&mut self, writer: &Writer, epoch: Epoch) {
        let state = self.state.epoch(writer, epoch);
        state.heard_ns = clock::mono_ns();
        let rows = gaps::end_silence(clock::wall(), state);
        self.outbox.extend(rows);
    }

    fn note_holes(&mut self, writer: &Writer, epoch: Epoch) {
        let notice = Notice {
            writer,
            epoch,
            now: clock::wall(),
        };
        let rows = gaps::reconcile(notice, self.state.epoch(writer, epoch));
        self.outbox.extend(rows);
    }

    fn note_all_holes(&mut self) {
        let now = clock::wall();
        for (writer, epochs) in &mut self.state.epochs {
            for (epoch, state) in epochs {
                state.heard_ns = clock::mono_ns();
                let rows = gaps::reconcile(
                    Notice {
                        writer,
                        epoch: *epoch,
                        now,
                    },
                    state,
                );
                self.outbox.extend(rows);
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
                let notice = Notice {
                    writer,
                    epoch: *epoch,
                    now: clock::wall(),
                };
                self.outbox.extend(gaps::fall_silent(notice, state));
            }
        }
    }

    /// Hands gaps to the collector's own spool; what it cannot take waits.
    fn write_own_rows(&mut self) {
        let own = &mut self.own;
        let mut failed = None;
        self.outbox.retain(|row| {
            if failed.is_some() {
                return true;
            }
            failed = own.gap(row).err();
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
        let now = clock::mono_ns();
        let is_due = self.is_closing
            || now >= self.due_ns
            || self.state.sealable_rows() >= self.pace.seal_rows_max;
        if !is_due {
            return Ok(());
        }
        self.is_last_seal = self.is_closing;
        self.due_ns = now.saturating_add(self.pace.seal_interval_ns);
        self.is_sealing = true;
        let job = self.rotate()?;
        self.sealer
            .jobs
            .send(job)
            .map_err(|_| BookkeeperError::SealerGone)
    }

    /// Begins the next journal file with what no statement covers; the rest is the seal's.
    pub(crate) fn rotate(&mut self) -> Result<SealJob, BookkeeperError> {
        let directory = self.journal.directory().to_owned();
        let number = self.journal.number() + 1;
        let unstated = self.state.unstated_mut();
        self.journal = Journal::begin(&directory, number, unstated, &mut self.files)?;
        let covered = std::mem::take(&mut self.state.sealable);
        self.state.forget_kinds();
        Ok(SealJob {
            covered,
            unsealed: std::mem::take(&mut self.state.unsealed),
            journal_file: number,
            journal_directory: directory,
            files: self.files.clone(),
        })
    }

    /// Takes the outcome of a seal, if there is one within `wait`.
    fn note_sealed(&mut self, wait: Duration) -> Result<(), BookkeeperError> {
        let sealed = match self.sealer.done.recv_timeout(wait) {
            Ok(sealed) => sealed?,
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err(BookkeeperError::SealerGone),
        };
        self.is_sealing = false;
        self.checkpoint = Arc::clone(&sealed.checkpoint);
        crate::journal::trim(self.journal.directory(), sealed.journal_file)?;
        self.files
            .retain(|number, _| *number >= sealed.journal_file);
        Ok(())
    }
}

/// What is left of an interval of which `waited_ns` have passed; all of it when the clock went back.
fn rest_ns(interval_ns: u64, waited_ns: i64) -> u64 {
    interval_ns.saturating_sub(u64::try_from(waited_ns).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::rest_ns;

    #[test]
    fn a_seal_is_due_when_the_interval_since_the_last_one_has_passed() {
        for (waited, rest) in [(0, 60), (59, 1), (60, 0), (i64::MAX, 0), (-5, 60)] {
            assert_eq!(rest_ns(60, waited), rest, "{waited}");
        }
    }
}

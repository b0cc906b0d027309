//! What can go wrong, and what is refused.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use counterfoil_columns::directory::DirectoryError;
use counterfoil_columns::lock::LockError;
use counterfoil_columns::rollup::RollupError;
use counterfoil_columns::segment::SegmentError;
use counterfoil_entry::record::RecordError;
use counterfoil_ledger::log::LogError;
use counterfoil_ledger::note::NoteError;
use counterfoil_spool::{AppendError, SpoolError};

use crate::classes::ClassesError;
use crate::plan::PlanError;

/// Why something that was asked for is not done. Each refusal is a row of `retention_actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The person is not of the team that may.
    NotRecords,
    /// The same person cannot do both.
    FourEyes,
    /// The plan is not one that was made, or not as it was made.
    PlanChanged,
    /// Fewer than two people approved the plan, or their approvals are not sealed yet.
    NotApproved,
    /// The classes file is another one than when the plan was made.
    ClassesChanged,
    /// A segment of the plan is not in the books as it was.
    SegmentsChanged,
    /// A segment of the plan is not due.
    NotDue,
    /// A legal hold binds a segment of the plan.
    Held,
    /// A segment of the plan is not in the roll-ups yet.
    NotRolledUp,
    /// The clock cannot be believed.
    Clock,
    /// Nothing is due.
    NothingDue,
    /// The hold is unknown, or released already.
    NoHold,
}

impl Refusal {
    /// The stable word in the books.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotRecords => "not_records",
            Self::FourEyes => "four_eyes",
            Self::PlanChanged => "plan_changed",
            Self::NotApproved => "not_approved",
            Self::ClassesChanged => "classes_changed",
            Self::SegmentsChanged => "segments_changed",
            Self::NotDue => "not_due",
            Self::Held => "held",
            Self::NotRolledUp => "not_rolled_up",
            Self::Clock => "clock",
            Self::NothingDue => "nothing_due",
            Self::NoHold => "no_hold",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a command of retention did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RetainError {
    /// It was refused, and the refusal is recorded.
    #[error("refused ({reason}): {detail}")]
    Refused {
        /// The reason.
        reason: Refusal,
        /// The same in words, with what to do.
        detail: String,
    },
    /// A file could not be read or written.
    #[error("{doing} {path}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of retention's own is damaged.
    #[error("{path}, line {line}: {why}: restore it from a copy")]
    Register {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The classes file cannot be used.
    #[error(transparent)]
    Classes(#[from] ClassesError),
    /// The plan cannot be read.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Another process holds the books, or retention's own lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is no log of that origin.
    #[error("there is no log {0} in these books: name its origin in the configuration")]
    NoLog(String),
    /// The log's key cannot be used.
    #[error("reading the log's key {path}")]
    Key {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: NoteError,
    },
    /// The log cannot be read or written.
    #[error("working on the log")]
    Log(#[from] LogError),
    /// A segment cannot be read.
    #[error("reading the books")]
    Segment(#[from] SegmentError),
    /// A row is not what it must be.
    #[error("reading a row of {path}")]
    Row {
        /// The segment.
        path: PathBuf,
        /// Why.
        source: RecordError,
    },
    /// The roll-ups cannot be listed.
    #[error("listing the roll-ups")]
    Rollup(#[from] RollupError),
    /// The spool cannot be opened.
    #[error("opening the spool")]
    Spool(#[from] SpoolError),
    /// A row could not be written.
    #[error("writing a row to the spool")]
    Append(#[from] AppendError),
    /// A file that was to be gone is there.
    #[error(
        "{0} is still there after it was deleted: remove whatever puts it back, and execute again"
    )]
    StillThere(PathBuf),
    /// A name cannot be used.
    #[error("{key}: {why}")]
    Name {
        /// The key.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl RetainError {
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}

//! Verification of a books folder: by number, fail-closed, every file accounted for.
//!
//! What is absent, unsigned, unlisted, unreadable or by an unknown key is a failure, never a skip.
//! Memory does not grow with the rows: a segment's leaf hashes are held while it is read, then one
//! root a statement's range, until the statement is met.

mod conflicts;
mod coverage;
mod deletions;
mod epoch;
mod epochs;
mod files;
mod gaps;
mod intact;
mod intervals;
mod origin;
mod report;
mod segment;
mod streams;
mod verdict;
mod walk;

use std::ops::ControlFlow;
use std::path::Path;

use counterfoil_entry::table::TableId;
use counterfoil_entry::{Hash, Time};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::note::Note;
use crate::policy::Policy;

pub use report::{Counts, DeletedPlan, Failure, Place, Report};

/// What to verify, and against what.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The books folder.
    pub books: &'a Path,
    /// What the auditor pins; without it keys and roots come from manifest 0 of each log.
    pub policy: Option<&'a Policy>,
    /// A checkpoint that the auditor saved earlier; the log must contain all that it covers.
    pub against: Option<&'a Saved>,
    /// Whether anything that is open, dropped or unverified is a failure.
    pub complete: bool,
    /// The wall clock now, for freshness.
    pub now: Time,
}

/// A checkpoint that an auditor saved; its signature is checked when the log's key is known.
#[derive(Debug, Clone)]
pub struct Saved {
    note: Note,
    checkpoint: Checkpoint,
}

impl Saved {
    /// Reads the text of a saved checkpoint.
    ///
    /// # Errors
    /// When it is no signed checkpoint.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let note = Note::parse(text)?;
        let checkpoint = Checkpoint::parse_text(note.text())?;
        Ok(Self { note, checkpoint })
    }
}

/// Reads the rows of a segment file; `columns` fills it in.
pub trait SegmentRows {
    /// Hands every row of `file` to `each`, from top to bottom, until it breaks, and gives the
    /// file's own metadata. Rows are streamed: memory does not grow with the file.
    ///
    /// # Errors
    /// When the file is no segment of `table`.
    fn read(
        &self,
        file: &Path,
        table: TableId,
        each: &mut dyn FnMut(SealedRow<'_>) -> ControlFlow<()>,
    ) -> Result<FileMeta, RowsError>;
}

/// Why a segment could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RowsError(pub String);

/// One row of a segment.
#[derive(Debug, Clone, Copy)]
pub struct SealedRow<'a> {
    /// Its leaf index as stored.
    pub leaf_index: u64,
    /// R, rebuilt from the columns.
    pub record: &'a [u8],
    /// What the collector added.
    pub envelope: Envelope<'a>,
}

/// What the collector added to a row.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// When the collector had it.
    pub received_at: Time,
    /// Origin of the log.
    pub origin: &'a str,
    /// Number of the statement that covers the row; `None` for rows of `statements`.
    pub statement: Option<u64>,
    /// The segment.
    pub segment: u64,
    /// The retention class.
    pub retention_class: &'a str,
    /// `acked` or `best_effort`.
    pub delivery: &'a str,
    /// `native`, `als` or `otlp`.
    pub attribution: &'a str,
}

/// Metadata that a segment file carries itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    /// Origin of the log.
    pub origin: String,
    /// The segment.
    pub segment: u64,
    /// Name of the table.
    pub table: String,
    /// The retention class.
    pub class: String,
    /// Schema version of the rows.
    pub schema_version: u16,
    /// RFC 6962 root over the rows.
    pub root: Hash,
}

/// Judges certificate chains; `trust` fills it in.
pub trait ChainTrust {
    /// Checks that `signature` over the announcement `bytes` (`docs/format.md`, section 3) is by
    /// the first certificate of `chain` (DER), that the chain led to one of `roots` (DER) at `at`,
    /// and gives that certificate's SPIFFE id.
    ///
    /// # Errors
    /// The reason, in words.
    fn announcement(
        &self,
        bytes: &[u8],
        signature: &[u8],
        chain: &[Vec<u8>],
        roots: &[Vec<u8>],
        at: Time,
    ) -> Result<String, String>;
}

/// Verifies a books folder.
///
/// A folder that a collector appends to meanwhile is read again, up to three times.
#[must_use]
pub fn verify(request: &Request<'_>, rows: &dyn SegmentRows, trust: &dyn ChainTrust) -> Report {
    let mut tries = 3;
    loop {
        let before = origin::heads(request.books);
        let report = origin::audit(request, rows, trust);
        tries -= 1;
        if report.is_proved() || tries == 0 || before == origin::heads(request.books) {
            return report;
        }
    }
}

#[cfg(test)]
mod tests;

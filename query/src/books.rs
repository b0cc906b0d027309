//! The books as one statement sees them: sealed segments and the journal's tail, each entry once.
//!
//! A snapshot is the newest checkpoint's manifests and every journal file from the one that they do
//! not cover. The collector writes the checkpoint after all that it covers is in place, and trims
//! the journal after that; so a missing journal file means that the snapshot must be taken again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use counterfoil_columns::directory::DirectoryError;
use counterfoil_columns::rollup::{Covered, RollupFiles};
use counterfoil_columns::{DataDirectory, journal};
use counterfoil_entry::table::TableId;
use counterfoil_entry::{Hash, Time};
use counterfoil_ledger::checkpoint::Checkpoint;
use counterfoil_ledger::log::{LogError, read_checkpoint, read_manifest};
use counterfoil_ledger::manifest::{Body, Deletion, SegmentRef, manifest_hash};
use datafusion::arrow::array::RecordBatch;

use crate::tail::{Tail, TailError};

/// Tries to take a snapshot while the collector seals and trims under it.
const TRIES: u32 = 40;
/// Between two tries: a seal's trim takes milliseconds.
const PAUSE: Duration = Duration::from_millis(25);

/// Why the books cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BooksError {
    /// The data directory is none, or of a newer version.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A log is damaged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The journal is damaged.
    #[error(transparent)]
    Tail(#[from] TailError),
    /// A journal file that no manifest covers is gone.
    #[error("journal file {number} of {origin} is missing and no manifest covers it")]
    Missing {
        /// Origin, or its slug.
        origin: String,
        /// Number of the file.
        number: u64,
    },
    /// A folder cannot be listed.
    #[error("listing {path}")]
    List {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A manifest as the views show it.
#[derive(Debug, Clone)]
pub struct ManifestFacts {
    /// Place in the log.
    pub number: u64,
    /// `key`, `seal`, `deletion` or `hold`.
    pub kind: &'static str,
    /// Start of the interval.
    pub from: Time,
    /// End of the interval, exclusive.
    pub until: Time,
    /// Build of the collector.
    pub build: String,
    /// Hash of the manifest before.
    pub previous: Option<Hash>,
    /// Hash of this one.
    pub sha256: Hash,
    /// First journal file that it does not cover.
    pub journal_file: Option<u64>,
    /// The segments that it seals and that are in the books yet.
    pub segments: Vec<SegmentRef>,
    /// Those that it sealed and that a later manifest, whose number stands with each, deleted lawfully.
    pub deleted: Vec<(SegmentRef, u64)>,
}

/// What one origin contributes to a snapshot.
#[derive(Debug, Clone)]
pub struct OriginSnapshot {
    /// Name of the log.
    pub origin: String,
    /// Head of the log; `None` before the first seal.
    pub checkpoint: Option<Checkpoint>,
    /// Every manifest under the checkpoint, in order.
    pub manifests: Arc<Vec<Arc<ManifestFacts>>>,
    /// The roll-ups that there are; none when they cannot be listed, for they only save time.
    pub rollups: Covered,
    /// Rows of the journal that no manifest covers, by table.
    pub tail: BTreeMap<TableId, Vec<RecordBatch>>,
}

/// Everything that one statement reads.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Folder `books/`.
    pub books: PathBuf,
    /// One item a log origin, by slug.
    pub origins: Vec<OriginSnapshot>,
}

impl Snapshot {
    /// Segments of `table`, in the order of sealing within an origin.
    pub fn segments(&self, table: TableId) -> impl Iterator<Item = (&str, &SegmentRef)> {
        self.origins.iter().flat_map(move |origin| {
            let manifests = origin.manifests.iter();
            manifests
                .flat_map(|manifest| &manifest.segments)
                .filter(move |segment| segment.table == table)
                .map(|segment| (origin.origin.as_str(), segment))
        })
    }

    /// Unsealed rows of `table`.
    #[must_use]
    pub fn tail(&self, table: TableId) -> Vec<RecordBatch> {
        let tails = self
            .origins
            .iter()
            .filter_map(|origin| origin.tail.get(&table));
        tails.flatten().cloned().collect()
    }

    /// The heads of all logs, one a line: origin, size, root. Goes into `query_log`.
    #[must_use]
    pub fn checkpoint_text(&self) -> Option<String> {
        let heads = self
            .origins
            .iter()
            .filter_map(|origin| origin.checkpoint.as_ref());
        let text: Vec<String> = heads
            .map(|head| format!("{} {} {}", head.origin, head.size, head.root))
            .collect();
        (!text.is_empty()).then(|| text.join("\n"))
    }
}

/// The books of a data directory, with what was read before kept for the next statement.
#[derive(Debug)]
pub struct Books {
    directory: DataDirectory,
    origins: Mutex<BTreeMap<String, Origin>>,
}

#[derive(Debug, Default)]
struct Origin {
    manifests: Arc<Vec<Arc<ManifestFacts>>>,
    tail: Tail,
}

impl Books {
    /// Opens a data directory for reading; a running collector may write to it meanwhile.
    ///
    /// # Errors
    /// [`BooksError::Directory`] when it is none, or of a newer version.
    pub fn open(data_dir: impl Into<PathBuf>) -> Result<Self, BooksError> {
        let directory = DataDirectory::open(data_dir)?;
        // Files are named as URLs, which have no relative paths; what cannot be resolved cannot be read either.
        let root = directory.root();
        let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        Ok(Self {
            directory: DataDirectory::open(root)?,
            origins: Mutex::default(),
        })
    }

    /// Everything acknowledged or sealed by now. Reads files: call it off the network's threads.
    ///
    /// # Errors
    /// [`BooksError`] when a file is damaged, or gone without being covered.
    pub fn snapshot(&self) -> Result<Snapshot, BooksError> {
        let books = self.directory.books();
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        let mut snapshot = Snapshot {
            books: books.clone(),
            origins: Vec::new(),
        };
        for slug in self.slugs()? {
            let origin = origins.entry(slug.clone()).or_default();
            snapshot
                .origins
                .push(origin.snapshot(&books, &self.directory, &slug)?);
        }
        Ok(snapshot)
    }

    /// Slugs of the origins that have a log or a journal here.
    fn slugs(&self) -> Result<Vec<String>, BooksError> {
        let mut slugs = folders(&self.directory.books().join("log"))?;
        slugs.extend(folders(&self.directory.root().join("journal"))?);
        slugs.sort();
        slugs.dedup();
        Ok(slugs)
    }
}

fn folders(path: &Path) -> Result<Vec<String>, BooksError> {
    let list = |source| BooksError::List {
        path: path.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(list(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(list)?;
        if entry.path().is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

impl Origin {
    fn snapshot(
        &mut self,
        books: &Path,
        directory: &DataDirectory,
        slug: &str,
    ) -> Result<OriginSnapshot, BooksError> {
        let folder = directory.journal(slug);
        let mut missing = 0;
        for attempt in 0..TRIES {
            if attempt > 0 {
                pause();
            }
            let checkpoint = self.read_log(books, slug)?;
            let first = self
                .manifests
                .iter()
                .rev()
                .find_map(|manifest| manifest.journal_file);
            let Some(files) = journal_files(&folder, first)? else {
                missing = first.unwrap_or_default();
                continue;
            };
            let name = checkpoint
                .as_ref()
                .map_or(slug, |head| head.origin.as_str());
            let sealed = Sealed {
                books,
                manifests: &self.manifests,
            };
            match self.tail.read(&folder, &files, name, &sealed) {
                Ok(tail) => {
                    return Ok(OriginSnapshot {
                        rollups: rollups(directory, slug),
                        origin: name.to_owned(),
                        manifests: Arc::clone(&self.manifests),
                        tail,
                        checkpoint,
                    });
                }
                Err(TailError::Gone { number }) => missing = number,
                Err(error) => return Err(error.into()),
            }
        }
        Err(BooksError::Missing {
            origin: slug.to_owned(),
            number: missing,
        })
    }

    /// Reads the head and the manifests that were added since the last time.
    fn read_log(&mut self, books: &Path, slug: &str) -> Result<Option<Checkpoint>, BooksError> {
        let Some(head) = read_checkpoint(books, slug)? else {
            self.manifests = Arc::default();
            return Ok(None);
        };
        let size = usize::try_from(head.size).unwrap_or(usize::MAX);
        if self.manifests.len() > size {
            self.manifests = Arc::default();
        }
        for number in self.manifests.len() as u64..head.size {
            let (manifest, bytes) = read_manifest(books, slug, number)?;
            let kind = manifest.body.kind();
            let (journal_file, segments) = match manifest.body {
                Body::Seal {
                    journal_file,
                    segments,
                    ..
                } => (Some(journal_file), segments),
                Body::Deletion(deletion) => {
                    self.delete(&deletion, number);
                    (None, Vec::new())
                }
                Body::Key { .. } | Body::Hold(_) => (None, Vec::new()),
            };
            Arc::make_mut(&mut self.manifests).push(Arc::new(ManifestFacts {
                number,
                kind,
                from: manifest.from,
                until: manifest.until,
                build: manifest.build,
                previous: manifest.previous,
                sha256: manifest_hash(&bytes),
                journal_file,
                segments,
                deleted: Vec::new(),
            }));
        }
        Ok(Some(head))
    }
}

impl Origin {
    /// Takes the segments of a deletion out of the manifests that sealed them.
    fn delete(&mut self, deletion: &Deletion, by: u64) {
        let numbers: BTreeSet<u64> = deletion.segments.iter().map(|one| one.segment).collect();
        let is_gone = |segment: &SegmentRef| numbers.contains(&segment.segment);
        for manifest in Arc::make_mut(&mut self.manifests) {
            if manifest.segments.iter().any(is_gone) {
                let manifest = Arc::make_mut(manifest);
                let (gone, kept) = std::mem::take(&mut manifest.segments)
                    .into_iter()
                    .partition(is_gone);
                let gone: Vec<SegmentRef> = gone;
                manifest.segments = kept;
                let gone = gone.into_iter().map(|segment| (segment, by));
                manifest.deleted.extend(gone);
            }
        }
    }
}

fn rollups(directory: &DataDirectory, slug: &str) -> Covered {
    let covered = RollupFiles::new(directory, slug).covered();
    covered.unwrap_or_else(|error| {
        tracing::warn!(%error, "the roll-ups cannot be listed: entries are read instead");
        Covered::default()
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "snapshots are taken on blocking threads, and there is nothing to be woken by"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

/// The journal files to read, ascending and without holes; `None` when the first is not there. A copy
/// of the books alone has no journal at all.
fn journal_files(folder: &Path, first: Option<u64>) -> Result<Option<Vec<u64>>, BooksError> {
    let mut files = journal::files(folder).map_err(TailError::from)?;
    let Some(first) = first else {
        // Nothing was sealed when the log was read. When the first file is gone all the same, the first
        // seal has happened since.
        return Ok(files
            .first()
            .is_none_or(|first| *first == 1)
            .then_some(files));
    };
    files.retain(|number| *number >= first);
    if files.is_empty() && folder.exists() {
        return Ok(None);
    }
    let whole = files
        .iter()
        .zip(first..)
        .all(|(number, expected)| *number == expected);
    Ok(whole.then_some(files))
}

/// The sealed part of an origin, where the tail looks for announcements of old epochs.
#[derive(Debug)]
pub(crate) struct Sealed<'a> {
    books: &'a Path,
    manifests: &'a [Arc<ManifestFacts>],
}

impl Sealed<'_> {
    /// Paths and numbers of the segments that may hold announcements, newest first.
    pub(crate) fn announcements(&self) -> impl Iterator<Item = (u64, PathBuf)> {
        let segments = self
            .manifests
            .iter()
            .rev()
            .flat_map(|manifest| &manifest.segments);
        segments
            .filter(|one| one.table == TableId::Statements && one.class.is_permanent())
            .map(|one| (one.segment, self.books.join(&one.file)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_was_trimmed_since_the_log_was_read_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let found = |first| journal_files(folder.path(), first).unwrap();
        assert_eq!(found(None), Some(Vec::new()));
        let file = |number: u64| {
            std::fs::write(journal::file_path(folder.path(), number), b"CFJRNL01").unwrap();
        };
        file(2);
        assert_eq!(found(None), None);
        assert_eq!(found(Some(1)), None);
        assert_eq!(found(Some(2)), Some(vec![2]));
        file(1);
        assert_eq!(found(None), Some(vec![1, 2]));
    }
}

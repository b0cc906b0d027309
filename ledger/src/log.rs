//! The log of one origin as its collector writes it: one commit a seal, redone after a crash.
//!
//! Order of a commit: segment files staged outside `books/` and synced; the manifest synced and
//! renamed into place (this commits); coverage and segments renamed; tiles; checkpoint; stale
//! partial tiles removed. Only then may the caller trim its journal. [`Log::open`] redoes whatever
//! a crash left undone after the manifest. Readers go by the checkpoint: all that it covers is in
//! place before it is written.

mod deleting;
pub(crate) mod files;
mod read;
mod recovery;

use std::io;
use std::path::{Path, PathBuf};

use counterfoil_entry::tree::sha256;
use counterfoil_entry::{Hash, Time};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::coverage::{Coverage, CoverageRow};
use crate::manifest::{
    Body, CoverageRef, Manifest, ManifestError, SegmentRef, manifest_hash, manifest_leaf,
};
use crate::note::LogKey;
use crate::paths;
use crate::tile::{Edge, TooLong};

pub use deleting::read_deleted;
pub use read::{read_checkpoint, read_coverage, read_manifest};

/// Why the log could not be opened or appended to.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file system refused.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A manifest is damaged or cannot be made.
    #[error("manifest {number}: {source}")]
    Manifest {
        /// Its number.
        number: u64,
        /// The cause.
        source: ManifestError,
    },
    /// A manifest does not follow the one before, or a file that it names is lost.
    #[error("manifest {number}: {why}: restore the books from a copy, then start again")]
    Broken {
        /// Its number.
        number: u64,
        /// What is wrong.
        why: String,
    },
    /// The checkpoint is not by this log's key or does not fit the manifests.
    #[error("checkpoint {path}: {why}: restore the books from a copy, then start again")]
    Head {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The checkpoint is damaged.
    #[error("checkpoint {path}: {source}")]
    Checkpoint {
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: CheckpointError,
    },
    /// The caller's seal cannot follow what is in the log.
    #[error("sealing manifest {number}: {why}")]
    Seal {
        /// Number of the manifest that it would be.
        number: u64,
        /// What is wrong.
        why: String,
    },
    /// An earlier commit failed half-way.
    #[error("an earlier commit to this log failed: open the log again, which finishes it")]
    Unfinished,
}

/// What manifest 0 of a new log says.
#[derive(Debug, Clone)]
pub struct Genesis {
    /// DER certificates of the SPIFFE roots.
    pub trust_roots: Vec<Vec<u8>>,
    /// Build of the collector.
    pub build: String,
    /// Start of the log's first interval.
    pub at: Time,
}

/// One seal: what happened since the last manifest.
///
/// The file of each segment stands at [`Log::staged_path`] of its name.
#[derive(Debug, Clone)]
pub struct Seal {
    /// End of the interval. A clock that went back gives an empty interval, never a negative one.
    pub until: Time,
    /// Build of the collector.
    pub build: String,
    /// First journal file that this manifest does not cover.
    pub journal_file: u64,
    /// The segments, numbered on from [`Log::next_segment`]; none for an idle interval.
    pub segments: Vec<SegmentRef>,
    /// The coverage of their rows.
    pub coverage: Vec<CoverageRow>,
}

/// The log of one origin, open for appending. One process at a time may hold it: the caller keeps
/// a lock.
#[derive(Debug)]
pub struct Log {
    books: PathBuf,
    staging: PathBuf,
    key: LogKey,
    edge: Edge,
    last_hash: Hash,
    last_until: Time,
    last_segment: u64,
    journal_file: u64,
    checkpoint: String,
    is_unfinished: bool,
}

impl Log {
    /// Opens the log of `key`'s origin under `books`, makes it when it is not there, and finishes
    /// a commit that a crash cut short.
    ///
    /// `staging` is a folder of this log alone, on the same file system as `books` and outside it.
    /// Everything in it is removed: what no manifest names was never committed.
    ///
    /// # Errors
    /// When the books are damaged, were cut, or are signed by another key; nothing is signed then.
    pub fn open(
        books: &Path,
        staging: &Path,
        key: LogKey,
        genesis: &Genesis,
    ) -> Result<Self, LogError> {
        recovery::open(books, staging, key, genesis)
    }

    /// The log's origin.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.key.verifier().name()
    }

    /// Manifests in the log; also the number of the next one.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Number of the next segment.
    #[must_use]
    pub const fn next_segment(&self) -> u64 {
        self.last_segment + 1
    }

    /// End of the last interval, where the next one begins.
    #[must_use]
    pub const fn until(&self) -> Time {
        self.last_until
    }

    /// First journal file that no manifest covers; 0 before the first seal.
    #[must_use]
    pub const fn journal_file(&self) -> u64 {
        self.journal_file
    }

    /// The signed checkpoint of the current size.
    #[must_use]
    pub fn checkpoint(&self) -> &str {
        &self.checkpoint
    }

    /// Where the caller stages the segment whose name in the manifest is `file`.
    #[must_use]
    pub fn staged_path(&self, file: &str) -> PathBuf {
        files::staged(&self.staging, file)
    }

    /// Commits one seal and returns the number of its manifest. When it returns, the checkpoint
    /// covers the seal and the journal before `seal.journal_file` may go.
    ///
    /// # Errors
    /// [`LogError::Seal`] when the seal does not fit the log: nothing was changed. After any other
    /// error the log must be opened again.
    pub fn commit(&mut self, seal: Seal) -> Result<u64, LogError> {
        if self.is_unfinished {
            return Err(LogError::Unfinished);
        }
        let number = self.size();
        self.check(number, &seal)?;
        self.is_unfinished = true;
        let coverage = self.stage(number, &seal)?;
        let body = Body::Seal {
            journal_file: seal.journal_file,
            segments: seal.segments,
            coverage,
        };
        let manifest = self.next_manifest(seal.until, seal.build, body);
        let bytes = manifest
            .encode()
            .map_err(|source| LogError::Manifest { number, source })?;
        self.place(&paths::manifest(self.origin(), number), &bytes)?;
        self.place_staged(&manifest)?;
        self.take(&manifest, &bytes)?;
        self.is_unfinished = false;
        Ok(number)
    }

    /// The manifest after the newest one. A clock that went back gives an empty interval.
    fn next_manifest(&self, until: Time, build: String, body: Body) -> Manifest {
        Manifest {
            origin: self.origin().to_owned(),
            number: self.size(),
            previous: Some(self.last_hash),
            from: self.last_until,
            until: until.max(self.last_until),
            build,
            cosigned: None,
            body,
        }
    }

    fn check(&self, number: u64, seal: &Seal) -> Result<(), LogError> {
        let refuse = |why: String| Err(LogError::Seal { number, why });
        for (at, segment) in (self.next_segment()..).zip(&seal.segments) {
            let file = &segment.file;
            if segment.segment != at {
                return refuse(format!("segment {} where {at} was due", segment.segment));
            }
            if !paths::is_segment(file, self.origin(), segment.table, &segment.class, at) {
                return refuse(format!("segment {at} has the wrong file name {file}"));
            }
            if !self.staged_path(file).is_file() {
                return refuse(format!("segment {at} is not staged as {file}"));
            }
        }
        if seal.segments.is_empty() && !seal.coverage.is_empty() {
            return refuse("there is coverage, and no segment".to_owned());
        }
        if seal.journal_file < self.journal_file {
            return refuse(format!(
                "journal file {} was sealed before",
                seal.journal_file
            ));
        }
        Ok(())
    }

    /// Syncs the staged segments and stages the coverage object.
    fn stage(&self, number: u64, seal: &Seal) -> Result<Option<CoverageRef>, LogError> {
        if seal.segments.is_empty() {
            return Ok(None);
        }
        for segment in &seal.segments {
            files::sync_file(&self.staged_path(&segment.file))?;
        }
        let coverage = Coverage {
            origin: self.origin().to_owned(),
            manifest: number,
            rows: seal.coverage.clone(),
        };
        let bytes = coverage.encode();
        let staged = files::staged_coverage(&self.staging, number);
        files::write_synced(&staged, &bytes)?;
        files::sync_folder(&self.staging)?;
        Ok(Some(CoverageRef {
            sha256: sha256(&bytes),
            bytes: bytes.len() as u64,
        }))
    }

    /// Renames what `manifest` names from the staging folder into the books.
    fn place_staged(&self, manifest: &Manifest) -> Result<(), LogError> {
        let Body::Seal {
            segments, coverage, ..
        } = &manifest.body
        else {
            return Ok(());
        };
        let mut moves = Vec::new();
        if coverage.is_some() {
            moves.push((
                files::staged_coverage(&self.staging, manifest.number),
                paths::coverage(&manifest.origin, manifest.number),
            ));
        }
        for segment in segments {
            moves.push((self.staged_path(&segment.file), segment.file.clone()));
        }
        moves
            .iter()
            .try_for_each(|(from, to)| files::rename(from, &self.books, to))
    }

    /// Appends a manifest that stands in the books to the tree, and writes tiles and checkpoint.
    fn take(&mut self, manifest: &Manifest, bytes: &[u8]) -> Result<(), LogError> {
        let stale = self.partial_paths();
        for (path, tile) in self.append(manifest, bytes)? {
            self.place(&path, &tile)?;
        }
        self.write_head()?;
        let kept = self.partial_paths();
        for path in stale.iter().filter(|path| !kept.contains(path)) {
            files::remove_partial(&self.books.join(path))?;
        }
        Ok(())
    }

    /// Appends a manifest to the tree in memory; gives the tiles that it completed.
    fn append(
        &mut self,
        manifest: &Manifest,
        bytes: &[u8],
    ) -> Result<Vec<(String, Vec<u8>)>, LogError> {
        let full = self
            .edge
            .push(bytes, manifest_leaf(bytes))
            .map_err(|TooLong(len)| LogError::Manifest {
                number: manifest.number,
                source: ManifestError::TooLong(len),
            })?;
        self.last_hash = manifest_hash(bytes);
        self.last_until = manifest.until;
        if let Body::Seal {
            journal_file,
            segments,
            ..
        } = &manifest.body
        {
            self.journal_file = *journal_file;
            self.last_segment += segments.len() as u64;
        }
        let folder = paths::log_folder(self.origin());
        Ok(full
            .into_iter()
            .map(|(tile, bytes)| (format!("{folder}/{}", tile.path()), bytes))
            .collect())
    }

    /// Writes the partial tiles and the checkpoint of the current size.
    fn write_head(&mut self) -> Result<(), LogError> {
        let folder = paths::log_folder(self.origin());
        for (tile, bytes) in self.edge.partial() {
            self.place(&format!("{folder}/{}", tile.path()), &bytes)?;
        }
        let head = Checkpoint {
            origin: self.origin().to_owned(),
            size: self.edge.size(),
            root: self.edge.root(),
        };
        let text = head.sign(&self.key);
        self.place(&paths::checkpoint(self.origin()), text.as_bytes())?;
        self.checkpoint = text;
        Ok(())
    }

    fn partial_paths(&self) -> Vec<String> {
        let folder = paths::log_folder(self.origin());
        let partial = self.edge.partial();
        partial
            .iter()
            .map(|(tile, _)| format!("{folder}/{}", tile.path()))
            .collect()
    }

    /// Writes a file of the books by way of the staging folder.
    fn place(&self, file: &str, bytes: &[u8]) -> Result<(), LogError> {
        let staged = self.staging.join("writing");
        files::write_synced(&staged, bytes)?;
        files::rename(&staged, &self.books, file)
    }
}

#[cfg(test)]
mod tests;

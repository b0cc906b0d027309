//! Manifests that no collector seals: deletions, and the holds that whoever deletes has found.
//!
//! Order of a deletion: the manifest synced and renamed into place (this commits); tiles; checkpoint;
//! then the files removed. Readers go by the checkpoint, so that they look for none of them any more.
//! Every later manifest comes after that: only when the newest one is a deletion can files be left,
//! and [`Log::open`] removes them then.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use counterfoil_entry::Time;

use super::{Log, LogError, files, read_manifest};
use crate::manifest::{Body, Deletion, Hold, ManifestError};
use crate::paths;

impl Log {
    /// Commits a deletion, removes the files, and returns the number of its manifest. `names` are the
    /// files of its segments, in their order, as their seals name them.
    ///
    /// # Errors
    /// [`LogError::Seal`] and [`LogError::Manifest`] when the deletion does not fit: nothing was changed.
    /// After any other error the log must be opened again, which finishes what the manifest says.
    pub fn delete(
        &mut self,
        at: Time,
        build: &str,
        deletion: Deletion,
        names: &[String],
    ) -> Result<u64, LogError> {
        self.check_deletion(at, &deletion, names)?;
        let number = self.append_body(at, build, Body::Deletion(deletion))?;
        self.is_unfinished = true;
        self.remove_segments(names)?;
        self.is_unfinished = false;
        Ok(number)
    }

    /// Commits a hold as it was found, and returns the number of its manifest.
    ///
    /// # Errors
    /// As [`Log::commit`].
    pub fn note_hold(&mut self, at: Time, build: &str, hold: Hold) -> Result<u64, LogError> {
        self.append_body(at, build, Body::Hold(hold))
    }

    fn check_deletion(
        &self,
        at: Time,
        deletion: &Deletion,
        names: &[String],
    ) -> Result<(), LogError> {
        let number = self.size();
        let refuse = |why: String| Err(LogError::Seal { number, why });
        if let Err(why) = deletion.check() {
            return refuse(why.to_owned());
        }
        if names.len() != deletion.segments.len() {
            return refuse("not each segment of the deletion has a file".to_owned());
        }
        for (segment, name) in deletion.segments.iter().zip(names) {
            let (number, table) = (segment.segment, segment.table);
            if !paths::is_segment(name, self.origin(), table, &segment.class, number) {
                return refuse(format!("segment {number} has the wrong file name {name}"));
            }
            if number >= self.next_segment() {
                return refuse(format!("segment {number} was never sealed"));
            }
            if segment.allowed_from > at.max(self.until()) {
                return refuse(format!(
                    "segment {number} may go from {} on, not before",
                    segment.allowed_from
                ));
            }
        }
        Ok(())
    }

    /// Writes a manifest of that body, its tiles and the checkpoint.
    fn append_body(&mut self, at: Time, build: &str, body: Body) -> Result<u64, LogError> {
        if self.is_unfinished {
            return Err(LogError::Unfinished);
        }
        let manifest = self.next_manifest(at, build.to_owned(), body);
        let number = manifest.number;
        let bytes = manifest
            .encode()
            .map_err(|source| LogError::Manifest { number, source })?;
        self.is_unfinished = true;
        self.place(&paths::manifest(self.origin(), number), &bytes)?;
        self.take(&manifest, &bytes)?;
        self.is_unfinished = false;
        Ok(number)
    }

    /// Removes files that are there yet; their absence is durable then.
    fn remove_segments(&self, names: &[String]) -> Result<(), LogError> {
        let mut folders = BTreeSet::new();
        for name in names {
            let path = self.books.join(name);
            if files::remove(&path)? {
                folders.extend(path.parent().map(PathBuf::from));
            }
        }
        folders
            .iter()
            .try_for_each(|folder| files::sync_folder(folder))
    }

    /// Removes what the newest manifest deletes and a crash left there.
    pub(super) fn finish_deletion(&self) -> Result<(), LogError> {
        let Some(newest) = self.size().checked_sub(1) else {
            return Ok(());
        };
        let (manifest, _) = read_manifest(&self.books, self.origin(), newest)?;
        let Body::Deletion(deletion) = manifest.body else {
            return Ok(());
        };
        let mut due: BTreeSet<u64> = deletion.segments.iter().map(|one| one.segment).collect();
        let mut names = Vec::new();
        for number in 0..newest {
            if due.is_empty() {
                break;
            }
            let (manifest, _) = read_manifest(&self.books, self.origin(), number)?;
            if let Body::Seal { segments, .. } = manifest.body {
                let met = segments.into_iter().filter(|one| due.remove(&one.segment));
                names.extend(met.map(|one| one.file));
            }
        }
        if !due.is_empty() {
            let source = ManifestError::Form("it deletes a segment that was never sealed");
            return Err(LogError::Manifest {
                number: newest,
                source,
            });
        }
        self.remove_segments(&names)
    }
}

/// The segments of `origin` (or of its slug) that lawful deletions removed, with the manifest that says so, under a
/// log of `size`.
///
/// # Errors
/// When a manifest cannot be read.
pub fn read_deleted(books: &Path, origin: &str, size: u64) -> Result<BTreeMap<u64, u64>, LogError> {
    let mut deleted = BTreeMap::new();
    for number in 0..size {
        let (manifest, _) = read_manifest(books, origin, number)?;
        if let Body::Deletion(deletion) = manifest.body {
            deleted.extend(deletion.segments.iter().map(|one| (one.segment, number)));
        }
    }
    Ok(deleted)
}

//! Reading a log folder piece by piece, for those who do not verify: query and the collector.

use std::fs;
use std::path::Path;

use super::LogError;
use super::files::io_error;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::coverage::Coverage;
use crate::manifest::{Manifest, ManifestError};
use crate::note::Note;
use crate::paths;

/// The checkpoint of `origin` (or of its slug); its signature is not checked. `None` when there
/// is none yet. All manifests below its size, and all that they name, are in place.
///
/// # Errors
/// [`LogError::Io`] and [`LogError::Checkpoint`].
pub fn read_checkpoint(books: &Path, origin: &str) -> Result<Option<Checkpoint>, LogError> {
    let path = books.join(paths::checkpoint(origin));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("reading", &path)(error)),
    };
    Note::parse(&text)
        .map_err(CheckpointError::from)
        .and_then(|note| Checkpoint::parse_text(note.text()))
        .map(Some)
        .map_err(|source| LogError::Checkpoint { path, source })
}

/// Manifest `number` of `origin` (or of its slug), with its bytes.
///
/// # Errors
/// [`LogError::Io`] and [`LogError::Manifest`].
pub fn read_manifest(
    books: &Path,
    origin: &str,
    number: u64,
) -> Result<(Manifest, Vec<u8>), LogError> {
    let path = books.join(paths::manifest(origin, number));
    let bytes = fs::read(&path).map_err(io_error("reading", &path))?;
    let manifest =
        Manifest::decode(&bytes).map_err(|source| LogError::Manifest { number, source })?;
    if manifest.number != number {
        let source = ManifestError::Form("the file is named by another number");
        return Err(LogError::Manifest { number, source });
    }
    Ok((manifest, bytes))
}

/// Coverage object of manifest `number` of `origin` (or of its slug).
///
/// # Errors
/// [`LogError::Io`], and [`LogError::Broken`] when the object is damaged.
pub fn read_coverage(books: &Path, origin: &str, number: u64) -> Result<Coverage, LogError> {
    let path = books.join(paths::coverage(origin, number));
    let bytes = fs::read(&path).map_err(io_error("reading", &path))?;
    Coverage::decode(&bytes).map_err(|error| LogError::Broken {
        number,
        why: error.to_string(),
    })
}

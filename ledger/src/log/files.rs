//! File operations of a commit: every write and rename is synced, the folder too.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use counterfoil_entry::Hash;

use super::LogError;

/// Turns an I/O error into one that names the file.
pub(super) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
    move |source| LogError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// Where the segment that a manifest calls `file` is staged: under its last name.
pub(super) fn staged(staging: &Path, file: &str) -> PathBuf {
    staging.join(file.rsplit('/').next().unwrap_or(file))
}

pub(super) fn staged_coverage(staging: &Path, number: u64) -> PathBuf {
    staging.join(format!("coverage-{number:012}"))
}

pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), LogError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(io_error("writing", path))
}

pub(super) fn sync_file(path: &Path) -> Result<(), LogError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(io_error("syncing", path))
}

pub(super) fn sync_folder(path: &Path) -> Result<(), LogError> {
    sync_file(path)
}

/// Makes `folder` and those above it as needed; each new one is synced in its parent.
pub(super) fn create_folder(folder: &Path) -> Result<(), LogError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        create_folder(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("making the folder", folder)(error));
            }
            _ => sync_folder(parent)?,
        }
    }
    Ok(())
}

/// Renames `from` to `books/file`; a file that stands there already is replaced.
pub(super) fn rename(from: &Path, books: &Path, file: &str) -> Result<(), LogError> {
    let to = books.join(file);
    let folder = to.parent().unwrap_or(books);
    create_folder(folder)?;
    fs::rename(from, &to).map_err(io_error("renaming into the books", &to))?;
    sync_folder(folder)
}

/// Removes a file; `false` when it was not there.
pub(super) fn remove(path: &Path) -> Result<bool, LogError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("removing", path)(error)),
    }
}

/// Removes a partial tile, and its `.p` folder when it was the last one there.
pub(super) fn remove_partial(path: &Path) -> Result<(), LogError> {
    remove(path)?;
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    match fs::remove_dir(folder) {
        Err(error)
            if error.kind() != io::ErrorKind::DirectoryNotEmpty
                && error.kind() != io::ErrorKind::NotFound =>
        {
            Err(io_error("removing the folder", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Size and SHA-256 of a file, read piece by piece; `None` when it is not there.
pub(super) fn fingerprint(path: &Path) -> Result<Option<(u64, Hash)>, LogError> {
    match fingerprint_of(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("reading", path)(error)),
    }
}

/// Size and SHA-256 of a file, read piece by piece.
pub(crate) fn fingerprint_of(path: &Path) -> io::Result<(u64, Hash)> {
    let mut file = File::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut piece = vec![0; 256 * 1024];
    let mut size = 0;
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            break;
        }
        context.update(piece.get(..read).unwrap_or_default());
        size += read as u64;
    }
    let mut hash = Hash::default();
    hash.0.copy_from_slice(context.finish().as_ref());
    Ok((size, hash))
}

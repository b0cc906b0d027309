//! Locks of folders: one process at a time writes an origin's log.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::directory::create_directory;

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("another process holds {0}: stop it first; a log has one writer at a time")]
    Held(PathBuf),
    /// The file system refused.
    #[error("{doing} {path}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Takes the lock of `folder`, which is made as needed, for as long as the file is held. Whoever writes the log of
/// an origin holds the lock of its journal's folder.
///
/// # Errors
/// [`LockError::Held`] when another process has it.
pub fn lock_folder(folder: &Path) -> Result<File, LockError> {
    let path = folder.join("lock");
    let error = |doing, source| LockError::File {
        doing,
        path: path.clone(),
        source,
    };
    // The journal's files are only as durable as the names of the folders above them.
    create_directory(folder).map_err(|source| error("making the folder of", source))?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = file.map_err(|source| error("opening", source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LockError::Held(path)),
        Err(TryLockError::Error(source)) => Err(error("locking", source)),
    }
}

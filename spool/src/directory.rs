//! Where a writer's epochs lie on the disk, and which process owns them.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use counterfoil_entry::id::{Epoch, Stream};

/// What a file of entries begins with.
pub(crate) const SPOOL_MAGIC: &[u8; 8] = b"CFSPOOL1";

/// The directory of one epoch, locked for as long as this value lives.
#[derive(Debug)]
pub(crate) struct EpochDirectory {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl EpochDirectory {
    /// Makes and locks the directory of `epoch` under the writer's directory `root`.
    pub(crate) fn create(root: &Path, epoch: Epoch) -> io::Result<Self> {
        // The name is given last, so that no other process ever sees an epoch without its lock.
        let unnamed = root.join(format!("{epoch}.new"));
        fs::create_dir(&unnamed)?;
        let lock = File::options()
            .create(true)
            .append(true)
            .open(unnamed.join("lock"))?;
        lock.lock()?;
        let path = root.join(epoch.to_string());
        fs::rename(&unnamed, &path)?;
        sync_directory(root)?;
        Ok(Self { path, _lock: lock })
    }

    /// Locks the directory of an old epoch; `None` when its process is still alive.
    pub(crate) fn open_old(path: PathBuf) -> io::Result<Option<Self>> {
        let lock = File::options()
            .create(true)
            .append(true)
            .open(path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { path, _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory: everything in it is acknowledged.
    pub(crate) fn remove(&self) -> io::Result<()> {
        // Under its own name a half-removed directory would look like an epoch that crashed.
        let done = self.path.with_extension("done");
        fs::rename(&self.path, &done)?;
        fs::remove_dir_all(&done)
    }

    /// Sets the directory aside under a name that is not an epoch: it holds what was refused for
    /// good, for a person to look at.
    pub(crate) fn set_aside(&self) -> io::Result<()> {
        fs::rename(&self.path, self.path.with_extension("quarantined"))
    }
}

/// The epochs under the writer's directory, oldest first. Removes what is left of finished ones.
pub(crate) fn epochs(root: &Path) -> io::Result<Vec<(Epoch, PathBuf)>> {
    let mut found = Vec::new();
    for item in fs::read_dir(root)? {
        let path = item?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if let Ok(epoch) = name.parse::<u64>() {
            found.push((Epoch(epoch), path));
        } else if name.ends_with(".done")
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::warn!(%error, path = %path.display(), "cannot remove a delivered epoch");
        }
    }
    found.sort();
    Ok(found)
}

/// Makes `path` and the directories above it as needed; each new name survives a power loss.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent().filter(|_| !path.is_dir()) else {
        return Ok(());
    };
    // The parent of a plain name is the working directory.
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    create_directory(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_directory(parent),
    }
}

/// Makes new names in `path` survive a power loss.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Name of the file of `stream` whose first entry is `first_seq`.
pub(crate) fn file_name(stream: &Stream, first_seq: u64) -> String {
    format!(
        "{}.{}.{}.{first_seq:020}",
        stream.table.name(),
        stream.class,
        stream.lane
    )
}

/// Reads a [`file_name`] back.
fn parse_file_name(name: &str) -> Option<(Stream, u64)> {
    let (stream, seq) = name.rsplit_once('.')?;
    let stream = Stream::parse(&stream.replace('.', "/")).ok()?;
    (seq.len() == 20)
        .then(|| seq.parse().ok())
        .flatten()
        .map(|seq| (stream, seq))
}

/// A file of entries.
#[derive(Debug)]
pub(crate) struct EntryFile {
    pub(crate) stream: Stream,
    pub(crate) first_seq: u64,
    pub(crate) bytes: u64,
}

/// The files of entries in `directory`, by stream and first seq.
pub(crate) fn entry_files(directory: &Path) -> io::Result<Vec<EntryFile>> {
    let mut files = Vec::new();
    for item in fs::read_dir(directory)? {
        let item = item?;
        let name = item.file_name();
        if let Some((stream, first_seq)) = name.to_str().and_then(parse_file_name) {
            files.push(EntryFile {
                stream,
                first_seq,
                bytes: item.metadata()?.len(),
            });
        }
    }
    files.sort_by(|a, b| (&a.stream, a.first_seq).cmp(&(&b.stream, b.first_seq)));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_reads_as_it_was_made() {
        let stream = Stream::parse("query_log/sox-x_7y/12").unwrap();
        let name = file_name(&stream, 345);
        assert_eq!(name, "query_log.sox-x_7y.12.00000000000000000345");
        assert_eq!(parse_file_name(&name), Some((stream, 345)));
        for other in [
            "lock",
            "statements",
            "statements.new",
            "entries.sox_7y.0.345",
        ] {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
    }

    #[test]
    fn an_epoch_whose_process_lives_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let alive = EpochDirectory::create(root.path(), Epoch(7)).unwrap();
        let path = alive.path().to_owned();
        assert!(EpochDirectory::open_old(path.clone()).unwrap().is_none());
        drop(alive);
        assert!(EpochDirectory::open_old(path).unwrap().is_some());
    }
}

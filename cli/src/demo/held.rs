//! What the processes of a killed demo still hold: they live some seconds longer than it did.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use counterfoil_columns::directory::DataDirectory;

use super::provision::ORIGIN;
use crate::{console::line, role::Signals};

/// The longest that the processes of a killed demo take to end.
const WAIT_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits until no living process holds an epoch of the spool, or the journal.
///
/// # Errors
/// When one still does after `most`.
async fn wait(data: &DataDirectory, most: Duration) -> anyhow::Result<()> {
    let looking = || format!("looking for processes on {}", data.root().display());
    let Some(first) = holder(data).with_context(looking)? else {
        return Ok(());
    };
    line(format_args!(
        "processes of an earlier demo still write to {}; waiting for their end, {} s at most",
        first.display(),
        most.as_secs()
    ));
    let until = tokio::time::Instant::now() + most;
    let mut held = first;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
        match holder(data).with_context(looking)? {
            Some(path) => held = path,
            None => return Ok(()),
        }
    }
    bail!(
        "a process of an earlier demo still holds {}; end it, or give another --data-dir than {}",
        held.display(),
        data.root().display()
    )
}

/// The same, or the end of the demo at a signal.
///
/// # Errors
/// When a signal comes first, too.
pub(crate) async fn wait_or_signal(
    data: &DataDirectory,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    tokio::select! {
        free = wait(data, WAIT_MAX) => free,
        () = signals.next() => bail!("stopped before anything was started"),
    }
}

/// A directory whose lock somebody holds.
fn holder(data: &DataDirectory) -> io::Result<Option<PathBuf>> {
    let journal = data.journal(ORIGIN);
    if is_held(&journal)? {
        return Ok(Some(journal));
    }
    for writer in directories(&data.root().join("spool"))? {
        for epoch in directories(&writer)? {
            if is_held(&epoch)? {
                return Ok(Some(epoch));
            }
        }
    }
    Ok(None)
}

/// The directories in a directory; none when it is gone.
fn directories(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn is_held(directory: &Path) -> io::Result<bool> {
    let lock = match File::open(directory.join("lock")) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match lock.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_demo_begins_when_nothing_is_held_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDirectory::create(directory.path()).unwrap();
        wait(&data, WAIT_MAX).await.unwrap();

        let epoch = data.root().join("spool").join("writer").join("7");
        fs::create_dir_all(&epoch).unwrap();
        let lock = File::create(epoch.join("lock")).unwrap();
        wait(&data, WAIT_MAX).await.unwrap();

        lock.lock().unwrap();
        let refused = wait(&data, Duration::ZERO).await.unwrap_err().to_string();
        assert!(refused.contains(epoch.to_str().unwrap()), "{refused}");
        assert!(refused.contains("--data-dir"), "{refused}");

        let waiting = wait(&data, WAIT_MAX);
        let ending = async {
            tokio::task::yield_now().await;
            drop(lock);
        };
        tokio::join!(waiting, ending).0.unwrap();
    }
}

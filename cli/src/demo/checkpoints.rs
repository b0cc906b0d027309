//! Keeps a copy of every checkpoint, as an auditor would, to hold the books against later.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::site::write_whole;

/// Saves checkpoints as `<size, 12 digits>`.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    /// The log's newest checkpoint.
    source: PathBuf,
    directory: PathBuf,
}

impl Checkpoints {
    /// `source` is the log's checkpoint file; copies go into `directory`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(crate) fn new(source: PathBuf, directory: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
        Ok(Self { source, directory })
    }

    /// Saves the newest checkpoint when it is not saved yet. Returns its file, or nothing before the first seal.
    ///
    /// # Errors
    /// When the checkpoint cannot be read, or the copy not written.
    pub(crate) fn save(&self) -> anyhow::Result<Option<PathBuf>> {
        let text = match fs::read_to_string(&self.source) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", self.source.display()));
            }
        };
        let Some(size) = text
            .lines()
            .nth(1)
            .and_then(|line| line.parse::<u64>().ok())
        else {
            anyhow::bail!(
                "reading {}: its second line is no tree size",
                self.source.display()
            );
        };
        let file = self.directory.join(format!("{size:012}"));
        if !file.exists() {
            write_whole(&file, text.as_bytes())
                .with_context(|| format!("writing {}", file.display()))?;
        }
        Ok(Some(file))
    }

    /// Saves each new checkpoint until `stopped`.
    pub(crate) async fn watch(&self, stopped: CancellationToken) {
        loop {
            if let Err(error) = self.save() {
                tracing::warn!(
                    error = crate::console::chain(&error),
                    "saving a checkpoint failed"
                );
            }
            let pause = tokio::time::sleep(Duration::from_millis(500));
            if stopped.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_size_is_kept_once() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("checkpoint");
        let saved = directory.path().join("saved");
        let checkpoints = Checkpoints::new(source.clone(), saved.clone()).unwrap();
        assert_eq!(checkpoints.save().unwrap(), None, "nothing is sealed yet");
        for size in ["3", "3", "14"] {
            fs::write(&source, format!("origin\n{size}\nroot\n\nsignature\n")).unwrap();
            checkpoints.save().unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(&saved)
            .unwrap()
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["000000000003", "000000000014"]);
        fs::write(&source, "nonsense").unwrap();
        assert!(checkpoints.save().is_err());
    }
}

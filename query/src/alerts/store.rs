//! The alerts on the disk: a restart neither forgets one nor tells of it again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use counterfoil_columns::directory::sync_directory;

use super::state::Alerts;

/// Why alerts cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{doing} the alerts in {file}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what this program writes.
    #[error(
        "reading the alerts in {file}: {detail}: move the file away to begin anew; alerts that hold are then told once more"
    )]
    Form {
        /// The file.
        file: PathBuf,
        /// What does not fit.
        detail: String,
    },
}

/// A JSON file, replaced as a whole.
#[derive(Debug)]
pub(super) struct Store {
    file: PathBuf,
    kept: Vec<u8>,
}

impl Store {
    /// Opens `file`, which need not be there yet, and what it holds.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(super) fn open(file: PathBuf) -> Result<(Self, Alerts), StoreError> {
        let kept = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => {
                return Err(StoreError::Io {
                    doing: "reading",
                    file,
                    source,
                });
            }
        };
        let alerts = if kept.is_empty() {
            Alerts::default()
        } else {
            serde_json::from_slice(&kept).map_err(|error| StoreError::Form {
                file: file.clone(),
                detail: error.to_string(),
            })?
        };
        Ok((Self { file, kept }, alerts))
    }

    /// Keeps `alerts`; they are on the disk when this returns.
    ///
    /// # Errors
    /// [`StoreError::Io`]; then the file holds what it held before.
    pub(super) fn keep(&mut self, alerts: &Alerts) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(alerts).map_err(|error| StoreError::Form {
            file: self.file.clone(),
            detail: error.to_string(),
        })?;
        if bytes == self.kept {
            return Ok(());
        }
        write(&self.file, &bytes).map_err(|source| StoreError::Io {
            doing: "writing",
            file: self.file.clone(),
            source,
        })?;
        self.kept = bytes;
        Ok(())
    }
}

fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = file.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder)?;
    let staged = file.with_extension("new");
    let mut out = File::create(&staged)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&staged, file)?;
    sync_directory(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_list_of_alerts_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("alerts.json");
        assert_eq!(Store::open(file.clone()).unwrap().1, Alerts::default());
        fs::write(&file, b"{\"alerts\": 3}").unwrap();
        let error = Store::open(file).unwrap_err().to_string();
        assert!(error.contains("alerts.json"), "{error}");
    }
}

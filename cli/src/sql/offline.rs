//! A data directory with nothing running, also one that a killed demo left.

use std::path::{Path, PathBuf};

use counterfoil_columns::{DataDirectory, directory::DirectoryError};
use counterfoil_query::{
    json,
    offline::{OfflineError, query},
};

use super::error::SqlError;
use crate::rows::Answer;

/// The books of a data directory, and the objectives that lie beside them.
#[derive(Debug)]
pub(crate) struct Offline {
    directory: PathBuf,
    objectives: Option<PathBuf>,
}

impl Offline {
    /// Looks whether this is a data directory that can be read.
    ///
    /// # Errors
    /// When it is none, or of a newer version.
    pub(crate) fn open(directory: &Path) -> Result<Self, DirectoryError> {
        let data = DataDirectory::open(directory)?;
        let objectives = Some(data.root().join("objectives")).filter(|folder| folder.is_dir());
        Ok(Self {
            directory: data.root().to_owned(),
            objectives,
        })
    }

    /// Asks one statement.
    ///
    /// # Errors
    /// [`SqlError`] when the statement fails, else what is wrong with the directory.
    pub(crate) async fn ask(&self, sql: &str) -> anyhow::Result<Answer> {
        let asked = query(&self.directory, self.objectives.as_deref(), sql).await;
        let (schema, batches) = asked.map_err(|error| match error {
            OfflineError::Sql(error) => anyhow::Error::from(SqlError {
                sqlstate: error.sqlstate.to_owned(),
                message: error.message,
                position: error.position,
            }),
            other => other.into(),
        })?;
        let mut objects = Vec::new();
        for batch in &batches {
            objects.extend(json::rows(&schema, batch)?);
        }
        Ok(Answer::of_objects(json::keys(&schema), objects))
    }
}

//! SQL straight on a data directory, with no server and nothing written.

use std::path::{Path, PathBuf};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use tokio::runtime::Handle;

use crate::books::{Books, BooksError};
use crate::engine::Engine;
use crate::error::SqlError;
use crate::objectives::{self, ObjectiveError};
use crate::template::{MEMORY_BYTES, template};

/// Why an offline question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The data directory cannot be read.
    #[error(transparent)]
    Books(#[from] BooksError),
    /// The objectives were refused.
    #[error(transparent)]
    Objectives(#[from] ObjectiveError),
    /// The statement failed.
    #[error(transparent)]
    Sql(#[from] SqlError),
}

/// Answers one statement over the books in `data_dir`, also of a collector that was killed.
///
/// `objectives` is a folder of OpenSLO files, for the view `sla`. No `query_log` is written. Needs a
/// multi-threaded runtime around it; not cancel safe in the sense that the answer is then lost.
///
/// # Errors
/// [`OfflineError`]; anything but one reading statement is refused as the server refuses it.
pub async fn query(
    data_dir: impl Into<PathBuf>,
    objectives: Option<&Path>,
    sql: &str,
) -> Result<(SchemaRef, Vec<RecordBatch>), OfflineError> {
    let books = Books::open(data_dir)?;
    let objectives = objectives
        .map(objectives::load)
        .transpose()?
        .unwrap_or_default();
    let partitions = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let template = template(MEMORY_BYTES, partitions).map_err(|error| SqlError::from(&error))?;
    let engine = Engine::new(books, template, objectives, Handle::current(), 1, None)?;
    Ok(engine.answer(sql).await?)
}

//! SQL straight on a data directory, with no server and nothing written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::books::{Books, BooksError};
use crate::engine::{Engine, Limits, Question};
use crate::error::SqlError;
use crate::guard::{Allowed, check, parse};
use crate::log::Asker;
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
    let mut statements = parse(sql)?.into_iter();
    let (Some(statement), None) = (statements.next(), statements.next()) else {
        return Err(SqlError::new("42601", "expected exactly one statement").into());
    };
    let Allowed::Query(statement) = check(statement)? else {
        return Err(SqlError::new("25006", "only queries can be asked of a data directory").into());
    };
    let partitions = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let template = template(MEMORY_BYTES, partitions).map_err(|error| SqlError::from(&error))?;
    let engine = Engine::new(books, template, objectives, Handle::current(), 1, None)?;
    let asker = Asker {
        principal: "local".to_owned(),
        role: "local".to_owned(),
        endpoint: "local",
        peer_address: String::new(),
        purpose: None,
    };
    let question = Question {
        sql: sql.to_owned(),
        statement: *statement,
        parameters: None,
        parameter_texts: Vec::new(),
        settings: crate::settings::defaults("local"),
        limits: Limits {
            timeout: std::time::Duration::from_secs(86_400),
            rows_max: u64::MAX,
        },
    };
    let mut rows = engine
        .ask(&asker, question, CancellationToken::new())
        .await?;
    let schema = rows.schema();
    let mut batches = Vec::new();
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        let batch = RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec());
        batches.push(batch.map_err(|error| SqlError::new("XX000", error.to_string()))?);
    }
    Ok((schema, batches))
}

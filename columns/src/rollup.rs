//! Roll-ups: counts and HDR histograms of entries by minute and hour, derived from sealed segments.
//!
//! They are a fold over the log of one origin (ADR 14): each manifest that brings entries adds one
//! file of minutes, and leaves the halves of calls whose counterpart has not come yet to the next
//! step. Nothing is ever rewritten, so late data needs no care, and folding anew gives the same rows.
//! They are no evidence: whoever doubts them folds again.

mod files;
mod fold;
mod histogram;
mod minutes;
#[cfg(test)]
mod tests;

pub use files::{Covered, RollupFiles};
pub use fold::{Step, fold};
pub use histogram::{Histogram, HistogramError};
pub use minutes::{hours, schema};

use std::io;
use std::path::PathBuf;

use arrow::error::ArrowError;
use parquet::errors::ParquetError;

/// Why roll-ups cannot be read, made or written.
#[derive(Debug, thiserror::Error)]
pub enum RollupError {
    /// The file system refused.
    #[error("{doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no Parquet, or cannot be written as such.
    #[error("reading or writing {path} as Parquet")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ParquetError,
    },
    /// Rows do not fit together.
    #[error("folding entries into roll-ups")]
    Arrow(#[from] ArrowError),
    /// A column is not there or has another type.
    #[error("column {0} is missing or has another type")]
    Column(&'static str),
    /// A histogram cannot be read or made.
    #[error("merging histograms")]
    Histogram(#[from] HistogramError),
}

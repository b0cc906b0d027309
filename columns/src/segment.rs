//! Segments: sealed entries of one table and class as one Parquet file.

mod reader;
mod writer;

use std::io;
use std::path::PathBuf;

use counterfoil_entry::Hash;
use counterfoil_entry::Time;
use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::table::TableId;
use parquet::errors::ParquetError;

use crate::row::RowError;

pub use reader::read_rows;
pub use writer::{SegmentRow, write};

/// What a segment holds; stored in the file's key-value metadata beside the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentMeta {
    /// Log origin of the collector that sealed it.
    pub origin: String,
    /// Number, counted from 1 over the origin.
    pub segment: u64,
    /// Table of all rows.
    pub table: TableId,
    /// Retention class of all rows.
    pub class: RetentionClass,
    /// Schema version of all rows.
    pub schema_version: u16,
}

/// A written segment, for its manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFile {
    /// Size of the file.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: Hash,
    /// RFC 6962 root over the leaf hashes by leaf index.
    pub root: Hash,
    /// Rows.
    pub count: u64,
    /// Earliest `start_time`, or `received_at` where the table has none.
    pub first_time: Time,
    /// Latest of the same.
    pub last_time: Time,
}

/// What a segment file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    /// Its key-value metadata but the root.
    pub segment: SegmentMeta,
    /// The root in its key-value metadata.
    pub root: Hash,
    /// Rows by its footer.
    pub rows: u64,
}

/// Why a segment was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The file system refused.
    #[error("{doing} segment file {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no Parquet, or Parquet could not be written.
    #[error("handling {path} as parquet")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ParquetError,
    },
    /// A row is no entry of the table.
    #[error("row {row} of {path}")]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: u64,
        /// Why.
        source: RowError,
    },
    /// A key of the file's metadata is missing or unreadable, or names another table.
    #[error("metadata key {key} of {path} is missing or does not fit")]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
    },
}

const KEY_ORIGIN: &str = "counterfoil.origin";
const KEY_SEGMENT: &str = "counterfoil.segment";
const KEY_TABLE: &str = "counterfoil.table";
const KEY_CLASS: &str = "counterfoil.class";
const KEY_SCHEMA_VERSION: &str = "counterfoil.schema_version";
const KEY_ROOT: &str = "counterfoil.root";

#[cfg(test)]
mod tests;

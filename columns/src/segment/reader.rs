//! Reading a segment: its rows as entries, a batch at a time.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::table::TableId;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::{FileMetaData, KeyValue};

use crate::record::RowReader;
use crate::row::RowError;
use crate::schema::Envelope;
use crate::segment::{
    FileMeta, KEY_CLASS, KEY_ORIGIN, KEY_ROOT, KEY_SCHEMA_VERSION, KEY_SEGMENT, KEY_TABLE,
    SegmentError, SegmentMeta,
};

/// Rows decoded at a time; bounds the reader's memory.
const BATCH_ROWS: usize = 4096;

/// Gives every row of the segment at `path` to `each`: place in the file from 0, canonical bytes, envelope.
///
/// Rows come in file order until `each` breaks. Memory is bounded by one batch of rows.
///
/// # Errors
/// [`SegmentError`] when the file cannot be read, is not Parquet, is of another table, or a row is no
/// entry.
pub fn read_rows(
    path: &Path,
    table: TableId,
    mut each: impl FnMut(u64, &[u8], &Envelope<'_>) -> ControlFlow<()>,
) -> Result<FileMeta, SegmentError> {
    let parquet = |source| SegmentError::Parquet {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(|source| SegmentError::Io {
        doing: "opening",
        path: path.to_owned(),
        source,
    })?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(parquet)?;
    let meta = file_meta(path, builder.metadata().file_metadata())?;
    if meta.segment.table != table {
        return Err(SegmentError::Metadata {
            path: path.to_owned(),
            key: KEY_TABLE,
        });
    }
    let mut row = 0_u64;
    let mut record = Vec::new();
    for batch in builder
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(parquet)?
    {
        let at = |row, source: RowError| SegmentError::Row {
            path: path.to_owned(),
            row,
            source,
        };
        let batch = batch.map_err(|source| at(row, RowError::Arrow(source)))?;
        let reader = RowReader::new(table, meta.segment.schema_version, &batch)
            .map_err(|source| at(row, source))?;
        for index in 0..batch.num_rows() {
            record.clear();
            reader
                .record(index, &mut record)
                .map_err(|source| at(row, source))?;
            let envelope = reader.envelope(index).map_err(|source| at(row, source))?;
            if each(row, &record, &envelope).is_break() {
                return Ok(meta);
            }
            row += 1;
        }
    }
    Ok(meta)
}

fn file_meta(path: &Path, file: &FileMetaData) -> Result<FileMeta, SegmentError> {
    let none = Vec::new();
    let pairs: &Vec<KeyValue> = file.key_value_metadata().unwrap_or(&none);
    let value = |key: &'static str| {
        let pair = pairs.iter().find(|pair| pair.key == key);
        pair.and_then(|pair| pair.value.as_deref())
            .ok_or_else(|| SegmentError::Metadata {
                path: path.to_owned(),
                key,
            })
    };
    let wrong = |key: &'static str| SegmentError::Metadata {
        path: path.to_owned(),
        key,
    };
    Ok(FileMeta {
        segment: SegmentMeta {
            origin: value(KEY_ORIGIN)?.to_owned(),
            segment: value(KEY_SEGMENT)?
                .parse()
                .map_err(|_| wrong(KEY_SEGMENT))?,
            table: TableId::from_name(value(KEY_TABLE)?).ok_or_else(|| wrong(KEY_TABLE))?,
            class: RetentionClass::parse(value(KEY_CLASS)?).map_err(|_| wrong(KEY_CLASS))?,
            schema_version: value(KEY_SCHEMA_VERSION)?
                .parse()
                .map_err(|_| wrong(KEY_SCHEMA_VERSION))?,
        },
        root: value(KEY_ROOT)?.parse().map_err(|_| wrong(KEY_ROOT))?,
        rows: u64::try_from(file.num_rows()).map_err(|_| wrong(KEY_ROOT))?,
    })
}

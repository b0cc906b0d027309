//! Writing a segment: sorted, hashed, compressed, synced.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use counterfoil_entry::table::{Shape, TableId};
use counterfoil_entry::tree::{Accumulator, leaf_hash};
use counterfoil_entry::{Hash, Time};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use crate::row::{RowBuilder, RowError, start_time};
use crate::schema::{Attribution, Delivery, Envelope};
use crate::segment::{
    KEY_CLASS, KEY_ORIGIN, KEY_ROOT, KEY_SCHEMA_VERSION, KEY_SEGMENT, KEY_TABLE, SegmentError,
    SegmentFile, SegmentMeta,
};

/// Rows of a row group at most.
const ROW_GROUP_ROWS: usize = 1_000_000;
/// Encoded bytes of a row group at most; bounds the writer's memory.
const ROW_GROUP_BYTES: usize = 128 << 20;
/// Rows built into one batch before they are handed to Parquet.
const BATCH_ROWS: usize = 8192;
/// Part of lookups of a foreign trace id that read a row group in vain.
const BLOOM_FALSE_POSITIVES: f64 = 0.01;
/// Columns whose values hardly ever repeat, so that a dictionary would be written in vain.
const DISTINCT: [&str; 4] = ["span_id", "parent_span_id", "trace_id", "sha256"];
/// Numbers that repeat over a whole file, so that a dictionary beats deltas.
const REPEATED: [&str; 6] = [
    "epoch",
    "statement",
    "segment",
    "bundle_version",
    "policy_stale_ms",
    "subject_epoch",
];

/// An entry on its way into a segment.
#[derive(Debug, Clone, Copy)]
pub struct SegmentRow<'a> {
    /// The entry's canonical bytes.
    pub record: &'a [u8],
    /// When the collector took it.
    pub received_at: Time,
    /// Number of the statement that covers it; `None` for the table `statements`.
    pub statement: Option<u64>,
    /// How it came.
    pub delivery: Delivery,
    /// Who vouches for it.
    pub attribution: Attribution,
}

/// Sorts `rows` by `start_time` (else by `received_at`) and writes them to `path`, synced to disk.
///
/// Leaf indices count 0, 1, 2 .. in that order.
///
/// # Errors
/// [`SegmentError`]; the file is then incomplete and must not be used.
pub fn write(
    path: &Path,
    meta: &SegmentMeta,
    rows: &mut [SegmentRow<'_>],
) -> Result<SegmentFile, SegmentError> {
    let row_error = |row: usize, source: RowError| SegmentError::Row {
        path: path.to_owned(),
        row: u64::try_from(row).unwrap_or(u64::MAX),
        source,
    };
    let mut order = Vec::with_capacity(rows.len());
    for (at, row) in rows.iter().enumerate() {
        let time = start_time(meta.table, row.record).map_err(|source| row_error(at, source))?;
        order.push((time.unwrap_or(row.received_at), *row));
    }
    order.sort_by_key(|(time, _)| *time);
    let sink = Sink::create(path)?;
    let parquet = |source| SegmentError::Parquet {
        path: path.to_owned(),
        source,
    };
    let mut writer = ArrowWriter::try_new(
        sink,
        crate::schema(meta.table),
        Some(properties(meta, order.len())),
    )
    .map_err(parquet)?;
    let mut builder = RowBuilder::new(meta.table);
    let mut tree = Accumulator::default();
    for (at, (_, row)) in order.iter().enumerate() {
        builder
            .push(row.record, &envelope(meta, row, tree.len()))
            .map_err(|source| row_error(at, source))?;
        tree.push(leaf_hash(row.record));
        if builder.len() == BATCH_ROWS {
            let batch = builder.finish().map_err(|source| row_error(at, source))?;
            writer.write(&batch).map_err(parquet)?;
        }
    }
    let batch = builder
        .finish()
        .map_err(|source| row_error(order.len(), source))?;
    writer.write(&batch).map_err(parquet)?;
    let root = tree.root();
    writer.append_key_value_metadata(KeyValue::new(KEY_ROOT.to_owned(), root.to_string()));
    let (bytes, sha256) = writer
        .into_inner()
        .and_then(Sink::finish)
        .map_err(parquet)?;
    Ok(SegmentFile {
        bytes,
        sha256,
        root,
        count: tree.len(),
        first_time: order.first().map(|(time, _)| *time).unwrap_or_default(),
        last_time: order.last().map(|(time, _)| *time).unwrap_or_default(),
    })
}

fn envelope<'a>(meta: &'a SegmentMeta, row: &SegmentRow<'_>, leaf_index: u64) -> Envelope<'a> {
    Envelope {
        received_at: row.received_at,
        origin: &meta.origin,
        statement: row.statement,
        segment: Some(meta.segment),
        leaf_index: Some(leaf_index),
        retention_class: meta.class.as_str(),
        delivery: row.delivery,
        attribution: row.attribution,
    }
}

fn properties(meta: &SegmentMeta, rows: usize) -> WriterProperties {
    let metadata = [
        (KEY_ORIGIN, meta.origin.clone()),
        (KEY_SEGMENT, meta.segment.to_string()),
        (KEY_TABLE, meta.table.name().to_owned()),
        (KEY_CLASS, meta.class.to_string()),
        (KEY_SCHEMA_VERSION, meta.schema_version.to_string()),
    ];
    let metadata = metadata.map(|(key, value)| KeyValue::new(key.to_owned(), value));
    let level = ZstdLevel::try_new(3).unwrap_or_default();
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_key_value_metadata(Some(metadata.to_vec()));
    let deltas = meta
        .table
        .table()
        .columns
        .iter()
        .filter(|column| matches!(column.shape, Shape::U64 | Shape::I64 | Shape::Time))
        .map(|column| column.name)
        .chain(["received_at", "leaf_index"])
        .filter(|name| !REPEATED.contains(name));
    for name in deltas {
        builder = builder
            .set_column_dictionary_enabled(ColumnPath::from(name), false)
            .set_column_encoding(ColumnPath::from(name), Encoding::DELTA_BINARY_PACKED);
    }
    for name in DISTINCT {
        builder = builder.set_column_dictionary_enabled(ColumnPath::from(name), false);
    }
    if matches!(meta.table, TableId::Entries | TableId::Spans) {
        // The filter is folded to the real count of distinct values when the row group ends.
        let distinct = u64::try_from(rows.clamp(1, ROW_GROUP_ROWS)).unwrap_or(u64::MAX);
        builder = builder
            .set_column_bloom_filter_fpp(ColumnPath::from("trace_id"), BLOOM_FALSE_POSITIVES)
            .set_column_bloom_filter_max_ndv(ColumnPath::from("trace_id"), distinct);
        let columns = meta.table.table().columns;
        let sorted = columns
            .iter()
            .position(|column| column.name == "start_time");
        if let Some(column_idx) = sorted.and_then(|at| i32::try_from(at).ok()) {
            builder = builder.set_sorting_columns(Some(vec![SortingColumn {
                column_idx,
                descending: false,
                nulls_first: false,
            }]));
        }
    }
    builder.build()
}

/// The file, hashed and counted on its way to disk.
struct Sink {
    file: BufWriter<File>,
    hash: Context,
    bytes: u64,
}

impl Sink {
    fn create(path: &Path) -> Result<Self, SegmentError> {
        let file = File::create_new(path).map_err(|source| SegmentError::Io {
            doing: "creating",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            file: BufWriter::new(file),
            hash: Context::new(&SHA256),
            bytes: 0,
        })
    }

    fn finish(mut self) -> Result<(u64, Hash), ParquetError> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        let hash = Hash::from_slice(self.hash.finish().as_ref()).unwrap_or_default();
        Ok((self.bytes, hash))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += u64::try_from(bytes.len()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

//! Where roll-ups lie, and which manifests each file covers: its name says so.
//!
//! ```text
//! <data>/derived/<origin slug>/minutes/<manifest>.parquet        what that manifest adds
//! <data>/derived/<origin slug>/hours/<first>-<last>.parquet      the minutes of those manifests, by the hour
//! <data>/derived/<origin slug>/waiting/<manifest>.parquet        halves of calls that wait after that manifest
//! ```
//! A file has its name only when it is whole; a step is done when its `waiting` file is there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::fold::{COLUMNS, Step, entry_schema};
use super::{RollupError, hours};
use crate::DataDirectory;
use crate::directory::origin_slug;

/// Statements read on in the files that were the newest when they began.
const WAITING_KEPT: usize = 20;

/// The roll-ups of one origin.
#[derive(Debug, Clone)]
pub struct RollupFiles {
    root: PathBuf,
}

/// Files by the first and last manifest in their names.
type Listed = Vec<((u64, u64), PathBuf)>;

/// Which files there are, and which manifests they answer for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Covered {
    /// The last manifest that was folded; `None` before the first.
    pub until: Option<u64>,
    /// Files of hours: first and last manifest, path.
    pub hours: Vec<(u64, u64, PathBuf)>,
    /// Files of minutes: manifest, path.
    pub minutes: Vec<(u64, PathBuf)>,
    /// Halves of calls that wait after `until`.
    pub waiting: Option<PathBuf>,
}

impl Covered {
    /// The files of minutes that no file of hours covers: with those of hours they answer for each
    /// manifest once.
    pub fn minutes_alone(&self) -> impl Iterator<Item = &(u64, PathBuf)> {
        let by_hour = self.hours.last().map(|(_, last, _)| *last);
        let minutes = self.minutes.iter();
        minutes.filter(move |(manifest, _)| by_hour.is_none_or(|last| *manifest > last))
    }
}

impl RollupFiles {
    /// The roll-ups of `origin` in `data`; there need not be any.
    #[must_use]
    pub fn new(data: &DataDirectory, origin: &str) -> Self {
        Self {
            root: data.root().join("derived").join(origin_slug(origin)),
        }
    }

    /// What there is. Files beyond the last whole step do not count.
    ///
    /// # Errors
    /// [`RollupError::Io`] when a folder cannot be listed.
    pub fn covered(&self) -> Result<Covered, RollupError> {
        let waiting = self.list("waiting")?;
        let Some(((until, _), path)) = waiting.into_iter().next_back() else {
            return Ok(Covered::default());
        };
        let mut hours = Vec::new();
        for ((first, last), path) in self.list("hours")? {
            // Of files that overlap, which no whole run leaves, the first counts.
            let is_next = hours.last().is_none_or(|(_, before, _)| *before < first);
            if last <= until && is_next {
                hours.push((first, last, path));
            }
        }
        let minutes = self.list("minutes")?;
        let minutes = minutes
            .into_iter()
            .map(|((manifest, _), path)| (manifest, path));
        Ok(Covered {
            until: Some(until),
            minutes: minutes.filter(|(manifest, _)| *manifest <= until).collect(),
            hours,
            waiting: Some(path),
        })
    }

    /// The halves that wait after the last step; none before the first.
    ///
    /// # Errors
    /// [`RollupError`] when the file cannot be read.
    pub fn waiting(&self, covered: &Covered) -> Result<RecordBatch, RollupError> {
        let batches = match &covered.waiting {
            Some(path) => read(path)?,
            None => Vec::new(),
        };
        Ok(arrow::compute::concat_batches(&entry_schema(), &batches)?)
    }

    /// Writes what one manifest adds, and then what waits after it; the step is done then.
    ///
    /// # Errors
    /// [`RollupError`]; the step must be done again.
    pub fn write_step(&self, manifest: u64, step: &Step) -> Result<(), RollupError> {
        self.write("minutes", &name(manifest), &step.minutes)?;
        self.write("waiting", &name(manifest), &step.waiting)?;
        let waiting = self.list("waiting")?;
        for (_, path) in waiting.iter().rev().skip(WAITING_KEPT) {
            remove(path)?;
        }
        Ok(())
    }

    /// Adds up the minutes of the manifests from `first` to `last` by the hour.
    ///
    /// # Errors
    /// [`RollupError`] when a file of minutes cannot be read, or the file of hours not be written.
    pub fn write_hours(&self, first: u64, last: u64) -> Result<(), RollupError> {
        let mut minutes = Vec::new();
        for ((manifest, _), path) in self.list("minutes")? {
            if (first..=last).contains(&manifest) {
                minutes.extend(read(&path)?);
            }
        }
        let name = format!("{first:012}-{last:012}");
        self.write("hours", &name, &hours(&minutes)?)
    }

    /// Takes everything away, so that it can be folded anew.
    ///
    /// # Errors
    /// [`RollupError::Io`] when a file cannot be removed.
    pub fn clear(&self) -> Result<(), RollupError> {
        // Without what waits no step counts: what follows may be cut short.
        for folder in ["waiting", "hours", "minutes"] {
            for (_, path) in self.list(folder)? {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// The columns of a segment of `entries` that are folded.
    ///
    /// # Errors
    /// [`RollupError::Parquet`] when the segment cannot be read.
    pub fn read_entries(path: &Path) -> Result<Vec<RecordBatch>, RollupError> {
        let parquet = |source| RollupError::Parquet {
            path: path.to_owned(),
            source,
        };
        let builder = ParquetRecordBatchReaderBuilder::try_new(open(path)?).map_err(parquet)?;
        let columns = COLUMNS.iter().copied();
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns);
        let reader = builder.with_projection(mask).build().map_err(parquet)?;
        let mut batches = Vec::new();
        for batch in reader {
            let batch = batch?;
            // An older segment may lack a newer column, and its order is its own.
            let columns: Option<Vec<_>> = COLUMNS
                .iter()
                .map(|name| batch.column_by_name(name).cloned())
                .collect();
            let columns = columns.ok_or(RollupError::Column("of entries"))?;
            batches.push(RecordBatch::try_new(entry_schema(), columns)?);
        }
        Ok(batches)
    }

    /// Files of a folder by the manifests in their names, ascending.
    fn list(&self, folder: &str) -> Result<Listed, RollupError> {
        let path = self.root.join(folder);
        let io = |source| RollupError::Io {
            doing: "listing",
            path: path.clone(),
            source,
        };
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io(error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(io)?.path();
            let is_whole = path.extension().is_some_and(|ending| ending == "parquet");
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if let Some(manifests) = stem.filter(|_| is_whole).and_then(manifests) {
                files.push((manifests, path));
            }
        }
        files.sort();
        Ok(files)
    }

    pub(super) fn write(
        &self,
        folder: &str,
        name: &str,
        rows: &RecordBatch,
    ) -> Result<(), RollupError> {
        let folder = self.root.join(folder);
        let path = folder.join(format!("{name}.parquet"));
        let staged = folder.join(format!("{name}.new"));
        let io = |doing, source| RollupError::Io {
            doing,
            path: path.clone(),
            source,
        };
        let parquet = |source: ParquetError| RollupError::Parquet {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(&folder).map_err(|source| io("making the folder of", source))?;
        let file = File::create(&staged).map_err(|source| io("writing", source))?;
        let level = ZstdLevel::try_new(3).unwrap_or_default();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .build();
        let writer = ArrowWriter::try_new(file, rows.schema(), Some(properties));
        let mut writer = writer.map_err(parquet)?;
        writer.write(rows).map_err(parquet)?;
        writer.close().map_err(parquet)?;
        fs::rename(&staged, &path).map_err(|source| io("naming", source))
    }
}

fn name(manifest: u64) -> String {
    format!("{manifest:012}")
}

fn manifests(stem: &str) -> Option<(u64, u64)> {
    let (first, last) = stem.split_once('-').unwrap_or((stem, stem));
    Some((first.parse().ok()?, last.parse().ok()?))
}

fn open(path: &Path) -> Result<File, RollupError> {
    File::open(path).map_err(|source| RollupError::Io {
        doing: "opening",
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<RecordBatch>, RollupError> {
    let parquet = |source| RollupError::Parquet {
        path: path.to_owned(),
        source,
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(open(path)?).map_err(parquet)?;
    let reader = builder.build().map_err(parquet)?;
    Ok(reader.collect::<Result<_, _>>()?)
}

fn remove(path: &Path) -> Result<(), RollupError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RollupError::Io {
            doing: "removing",
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

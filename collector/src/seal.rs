//! Sealing: what statements cover leaves the journal as segments, under one manifest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use counterfoil_columns::journal::JournalError;
use counterfoil_columns::provenance;
use counterfoil_columns::segment::{self, SegmentError, SegmentMeta, SegmentRow};
use counterfoil_entry::Time;
use counterfoil_entry::announcement::AnnouncementError;
use counterfoil_entry::clock;
use counterfoil_entry::rows::StatementRow;
use counterfoil_entry::statement::StatementError;
use counterfoil_entry::table::TableId;
use counterfoil_ledger::coverage::CoverageRow;
use counterfoil_ledger::log::{Log, LogError, Seal};
use counterfoil_ledger::manifest::SegmentRef;
use counterfoil_ledger::paths;

use crate::journal::{JournalFiles, read_entry};
use crate::state::{Covered, SegmentKind, Unsealed};

/// Rows of a segment, unless one statement's range alone has more.
const SEGMENT_ROWS: usize = 1_000_000;
/// Canonical bytes of a segment, unless one statement's range alone has more; bounds the memory of a seal.
const SEGMENT_BYTES: u64 = 128 << 20;

/// What one manifest will seal.
#[derive(Debug)]
pub(crate) struct SealJob {
    pub(crate) covered: Vec<Covered>,
    pub(crate) unsealed: Vec<Unsealed>,
    /// The first journal file that the seal does not cover.
    pub(crate) journal_file: u64,
    pub(crate) journal_directory: PathBuf,
    pub(crate) files: JournalFiles,
}

/// A committed seal.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) journal_file: u64,
    pub(crate) checkpoint: Arc<str>,
}

/// Why a seal was not committed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    #[error("reading entries to seal")]
    Journal(#[from] JournalError),
    #[error("writing a segment")]
    Segment(#[from] SegmentError),
    #[error("making the row of a statement")]
    Statement(#[from] StatementError),
    #[error("making the row of an announcement")]
    Announcement(#[from] AnnouncementError),
    #[error("committing a manifest")]
    Log(#[from] LogError),
}

/// The owner of the log.
#[derive(Debug)]
pub(crate) struct Sealer {
    pub(crate) log: Log,
    /// Told after each seal; who is busy still looks at all seals then.
    pub(crate) sealed: SyncSender<()>,
    pub(crate) build: String,
}

/// A row of the table `statements`.
struct SignedRow {
    record: Vec<u8>,
    received_at: Time,
}

impl Sealer {
    /// Seals job after job until the senders are gone or one fails; every outcome is reported.
    pub(crate) fn run(
        mut self,
        jobs: &Receiver<SealJob>,
        done: &SyncSender<Result<Sealed, SealError>>,
    ) {
        for job in jobs {
            let outcome = self.seal(&job);
            let is_failed = outcome.is_err();
            let _busy = self.sealed.try_send(());
            if done.send(outcome).is_err() || is_failed {
                return;
            }
        }
    }

    /// Stages the segments of `job` and commits them.
    ///
    /// # Errors
    /// [`SealError`]; the log must be opened again then.
    pub(crate) fn seal(&mut self, job: &SealJob) -> Result<Sealed, SealError> {
        let until = clock::wall();
        let (segments, coverage) = self.stage(job, until)?;
        self.log.commit(Seal {
            until,
            build: self.build.clone(),
            journal_file: job.journal_file,
            segments,
            coverage,
        })?;
        let checkpoint = Arc::from(self.log.checkpoint());
        Ok(Sealed {
            journal_file: job.journal_file,
            checkpoint,
        })
    }

    /// Writes the segments of `job` into the staging folder.
    pub(crate) fn stage(
        &self,
        job: &SealJob,
        until: Time,
    ) -> Result<(Vec<SegmentRef>, Vec<CoverageRow>), SealError> {
        let mut segments = Vec::new();
        let mut coverage = Vec::new();
        for (kind, ranges) in by_kind(&job.covered) {
            for ranges in split(ranges) {
                let number = self.log.next_segment() + wide(segments.len());
                segments.push(self.stage_entries(job, until, number, &kind, &ranges)?);
                coverage.extend(ranges.iter().map(|covered| coverage_row(covered, number)));
            }
        }
        for (kind, rows) in signed_rows(&job.unsealed)? {
            let number = self.log.next_segment() + wide(segments.len());
            let mut rows: Vec<_> = rows
                .iter()
                .map(|row| segment_row(&row.record, row.received_at, None, 0))
                .collect();
            segments.push(self.write(until, number, &kind, &mut rows)?);
        }
        Ok((segments, coverage))
    }

    fn stage_entries(
        &self,
        job: &SealJob,
        until: Time,
        number: u64,
        kind: &SegmentKind,
        ranges: &[&Covered],
    ) -> Result<SegmentRef, SealError> {
        let mut records = Vec::new();
        for covered in ranges {
            let (by, lane) = (covered.by.number, covered.stream.lane);
            for kept in &covered.rows {
                let record = read_entry(&job.journal_directory, &job.files, kept.place)?;
                records.push((record, kept.received_at, by, lane));
            }
        }
        let mut rows: Vec<_> = records
            .iter()
            .map(|(record, received_at, by, lane)| {
                segment_row(record, *received_at, Some(*by), *lane)
            })
            .collect();
        self.write(until, number, kind, &mut rows)
    }

    fn write(
        &self,
        until: Time,
        number: u64,
        (table, class, schema_version): &SegmentKind,
        rows: &mut [SegmentRow<'_>],
    ) -> Result<SegmentRef, SealError> {
        let origin = self.log.origin();
        let file = paths::segment(origin, *table, class, until, number, rand::random());
        let meta = SegmentMeta {
            origin: origin.to_owned(),
            segment: number,
            table: *table,
            class: class.clone(),
            schema_version: *schema_version,
        };
        let written = segment::write(&self.log.staged_path(&file), &meta, rows)?;
        Ok(SegmentRef {
            table: *table,
            class: class.clone(),
            schema_version: *schema_version,
            count: written.count,
            first_time: written.first_time,
            last_time: written.last_time,
            root: written.root,
            file,
            bytes: written.bytes,
            sha256: written.sha256,
            segment: number,
        })
    }
}

fn by_kind(covered: &[Covered]) -> BTreeMap<SegmentKind, Vec<&Covered>> {
    let mut kinds: BTreeMap<SegmentKind, Vec<&Covered>> = BTreeMap::new();
    for range in covered {
        let stream = &range.stream;
        let kind = (stream.table, stream.class.clone(), range.schema_version);
        kinds.entry(kind).or_default().push(range);
    }
    kinds
}

/// Packs ranges into segments; a range is never split.
fn split(ranges: Vec<&Covered>) -> Vec<Vec<&Covered>> {
    let mut segments = Vec::new();
    let mut current = Vec::new();
    let (mut rows, mut bytes) = (0_usize, 0_u64);
    for range in ranges {
        let range_bytes: u64 = range
            .rows
            .iter()
            .map(|kept| u64::from(kept.place.len))
            .sum();
        let is_full = rows + range.rows.len() > SEGMENT_ROWS || bytes + range_bytes > SEGMENT_BYTES;
        if is_full && !current.is_empty() {
            segments.push(std::mem::take(&mut current));
            (rows, bytes) = (0, 0);
        }
        rows += range.rows.len();
        bytes += range_bytes;
        current.push(range);
    }
    if !current.is_empty() {
        segments.push(current);
    }
    segments
}

fn signed_rows(unsealed: &[Unsealed]) -> Result<BTreeMap<SegmentKind, Vec<SignedRow>>, SealError> {
    let mut kinds: BTreeMap<SegmentKind, Vec<SignedRow>> = BTreeMap::new();
    for one in unsealed {
        let reason = one.reason.as_deref();
        let row = if one.is_announcement {
            StatementRow::of_announcement(&one.signed, one.trust, reason)?
        } else {
            StatementRow::of_statement(&one.signed, one.audit_key, one.trust, reason)?
        };
        let mut record = Vec::new();
        row.encode(&mut record);
        let version = TableId::Statements.table().schema_version;
        let kind = (
            TableId::Statements,
            row.header.stream.class.clone(),
            version,
        );
        let row = SignedRow {
            record,
            received_at: one.received_at,
        };
        kinds.entry(kind).or_default().push(row);
    }
    Ok(kinds)
}

fn segment_row(
    record: &[u8],
    received_at: Time,
    statement: Option<u64>,
    lane: u16,
) -> SegmentRow<'_> {
    let (delivery, attribution) = provenance(lane);
    SegmentRow {
        record,
        received_at,
        statement,
        delivery,
        attribution,
    }
}

fn coverage_row(covered: &Covered, segment: u64) -> CoverageRow {
    let (delivery, attribution) = provenance(covered.stream.lane);
    CoverageRow {
        writer: covered.writer.clone(),
        epoch: covered.epoch,
        stream: covered.stream.clone(),
        first_seq: covered.first_seq,
        count: wide(covered.rows.len()),
        statement: covered.by.number,
        segment,
        received_at: covered
            .rows
            .iter()
            .map(|kept| kept.received_at)
            .max()
            .unwrap_or_default(),
        delivery: delivery.as_str().to_owned(),
        attribution: attribution.as_str().to_owned(),
        statement_epoch: (covered.by.epoch != covered.epoch).then_some(covered.by.epoch),
    }
}

fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

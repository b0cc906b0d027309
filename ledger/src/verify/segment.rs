//! One segment: its file, its rows, its root, and what its rows say.

use std::ops::ControlFlow;

use counterfoil_entry::Time;
use counterfoil_entry::record::{HeaderRef, RecordError, RecordView};
use counterfoil_entry::rows::{GapRow, IssuanceRow, RetentionActionRow, StatementRow};
use counterfoil_entry::table::TableId;
use counterfoil_entry::tlv::Field;
use counterfoil_entry::tree::{Accumulator, leaf_hash};

use super::coverage::Ranges;
use super::origin::Audit;
use super::report::{Checked, Failure, Place};
use super::{FileMeta, SealedRow};
use crate::coverage::CoverageRow;
use crate::log::files::fingerprint_of;
use crate::manifest::SegmentRef;
use crate::paths;

/// Rows that a byte of a segment's file may hold at most; compressed rows take some ten bytes each.
const ROWS_A_BYTE: u64 = 8;

/// A segment as its manifest and its coverage describe it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Described<'a> {
    pub(super) origin: &'a str,
    pub(super) manifest: u64,
    pub(super) segment: &'a SegmentRef,
    pub(super) coverage: &'a [&'a CoverageRow],
}

impl Described<'_> {
    fn place(&self) -> Place {
        Place {
            segment: Some(self.segment.segment),
            ..Place::file(&self.segment.file)
        }
        .in_manifest(self.origin, self.manifest)
    }

    fn failure(&self, what: &'static str, detail: impl Into<String>) -> Box<Failure> {
        Failure::at(what, self.place(), detail)
    }
}

/// Checks one segment; `roots` are the SPIFFE roots for announcements in it.
pub(super) fn check(
    audit: &mut Audit<'_>,
    described: &Described<'_>,
    roots: &[Vec<u8>],
) -> Checked<()> {
    check_file(audit, described)?;
    let segment = described.segment;
    // Memory is taken by the count that manifest and coverage give, before a row is read.
    if segment.count / ROWS_A_BYTE > segment.bytes {
        return Err(described.failure("manifest", "its file cannot hold so many rows"));
    }
    let ranges = Ranges::new(described.coverage, segment)
        .or_else(|detail| {
            // Rows of `statements` are not covered: their signatures are checked instead.
            let is_exempt = segment.table == TableId::Statements && described.coverage.is_empty();
            if is_exempt {
                Ranges::new(
                    &[],
                    &SegmentRef {
                        count: 0,
                        ..segment.clone()
                    },
                )
            } else {
                Err(detail)
            }
        })
        .map_err(|detail| described.failure("coverage", detail))?;
    let path = audit.files.path(&segment.file);
    let rows = audit.rows;
    let mut walk = Walk {
        described,
        ranges,
        tree: Accumulator::default(),
        times: None,
        time_field: time_field(segment.table),
    };
    let mut failed = None;
    let meta = rows.read(
        &path,
        segment.table,
        &mut |row| match walk.row(&row, audit, roots) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                failed = Some(failure);
                ControlFlow::Break(())
            }
        },
    );
    if let Some(failure) = failed {
        return Err(failure);
    }
    let meta = meta.map_err(|error| described.failure("unreadable", error.to_string()))?;
    audit.report.counts.segments += 1;
    audit.report.counts.bytes += segment.bytes;
    walk.finish(&meta, audit)
}

/// Checks a segment that a later manifest deletes: its file must be gone, and its coverage must fit all the same.
/// What statements say of its rows is checked but for their root.
pub(super) fn check_deleted(audit: &mut Audit<'_>, described: &Described<'_>) -> Checked<()> {
    let segment = described.segment;
    check_name(described)?;
    if audit.files.take(&segment.file) {
        let detail = "the log says that it was deleted, and the file is there: when a deletion was cut short, start the \
                      collector or run `counterfoil retain execute` again, which finishes it";
        return Err(described.failure("undeleted", detail));
    }
    if segment.count / ROWS_A_BYTE > segment.bytes {
        return Err(described.failure("manifest", "its file could not hold so many rows"));
    }
    let ranges = Ranges::new(described.coverage, segment)
        .map_err(|detail| described.failure("coverage", detail))?;
    for row in ranges.rows() {
        audit
            .epochs
            .sealed(row, None, described.place(), &mut audit.report);
    }
    Ok(())
}

fn check_name(described: &Described<'_>) -> Checked<()> {
    let segment = described.segment;
    let (file, class) = (&segment.file, &segment.class);
    let (origin, table) = (described.origin, segment.table);
    if paths::is_segment(file, origin, table, class, segment.segment) {
        Ok(())
    } else {
        Err(described.failure("manifest", "the file's name is not this segment's"))
    }
}

fn check_file(audit: &mut Audit<'_>, described: &Described<'_>) -> Checked<()> {
    let segment = described.segment;
    let file = &segment.file;
    check_name(described)?;
    if !audit.files.take(file) {
        return Err(described.failure("missing", "the file is missing"));
    }
    let (bytes, sha256) = fingerprint_of(&audit.files.path(file))
        .map_err(|e| described.failure("unreadable", format!("the file cannot be read: {e}")))?;
    if bytes != segment.bytes || sha256 != segment.sha256 {
        return Err(described.failure("changed", "the file is not the one that was sealed"));
    }
    Ok(())
}

/// The field whose least and greatest value the manifest names; `None` for `received_at`.
fn time_field(table: TableId) -> Option<u16> {
    let columns = table.table().columns;
    columns
        .iter()
        .find(|column| column.name == "start_time")
        .map(|column| column.id)
}

struct Walk<'a> {
    described: &'a Described<'a>,
    ranges: Ranges<'a>,
    tree: Accumulator,
    /// Least and greatest.
    times: Option<(Time, Time)>,
    time_field: Option<u16>,
}

impl Walk<'_> {
    fn row(
        &mut self,
        row: &SealedRow<'_>,
        audit: &mut Audit<'_>,
        roots: &[Vec<u8>],
    ) -> Checked<()> {
        let described = self.described;
        let segment = described.segment;
        let fail = |detail: String| described.failure("row", detail);
        if row.leaf_index != self.tree.len() {
            return Err(fail(format!(
                "leaf {} where {} was due",
                row.leaf_index,
                self.tree.len()
            )));
        }
        let view = RecordView::parse(row.record).map_err(|error| fail(error.to_string()))?;
        // A newer version proves as well: its unknown fields are bytes like the others. What is
        // read of a row beyond its header demands the version that this build knows.
        let kind = (view.table, view.schema_version);
        if kind != (segment.table.number(), segment.schema_version) {
            return Err(fail("it is of another table or schema version".to_owned()));
        }
        let header = view.header_ref().map_err(|error| fail(error.to_string()))?;
        self.content(row, &view, &header, audit, roots)
            .map_err(|(what, detail)| {
                let place = described.place().of_writer(header.writer, header.epoch.0);
                Failure::at(what, place.at_seq(header.stream, header.seq), detail)
            })
    }

    fn content(
        &mut self,
        row: &SealedRow<'_>,
        view: &RecordView<'_>,
        header: &HeaderRef<'_>,
        audit: &mut Audit<'_>,
        roots: &[Vec<u8>],
    ) -> Result<(), (&'static str, String)> {
        let fail = |detail: String| ("row", detail);
        self.check_envelope(row).map_err(fail)?;
        self.see_time(row, view).map_err(fail)?;
        let leaf = leaf_hash(row.record);
        self.tree.push(leaf);
        audit.report.counts.rows += 1;
        let table = self.described.segment.table;
        if table == TableId::Statements {
            return self.signed(row, header, audit, roots).map_err(fail);
        }
        self.ranges
            .take(header, &row.envelope, leaf)
            .map_err(|detail| ("coverage", detail))?;
        let fail = |error: RecordError| ("row", error.to_string());
        match table {
            TableId::Gaps => audit.gaps.add(GapRow::decode(row.record).map_err(fail)?.1),
            TableId::Conflicts => audit.conflicts.add(row.record).map_err(|e| ("row", e))?,
            TableId::RetentionActions => {
                let (_, action) = RetentionActionRow::decode(row.record).map_err(fail)?;
                let sealed = (self.described.origin, self.described.manifest);
                audit.deletions.consent(header, action, leaf, sealed);
            }
            TableId::Issuance => {
                let (_, issued) = IssuanceRow::decode(row.record).map_err(fail)?;
                if let Some(epoch) = issued.subject_epoch {
                    audit.seen.insert((issued.spiffe_id, epoch));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn check_envelope(&self, row: &SealedRow<'_>) -> Result<(), String> {
        let (envelope, segment) = (&row.envelope, self.described.segment);
        let is_fitting = envelope.origin == self.described.origin
            && envelope.segment == segment.segment
            && envelope.retention_class == segment.class.as_str();
        if is_fitting {
            Ok(())
        } else {
            Err("its origin, segment or class is not the file's".into())
        }
    }

    fn see_time(&mut self, row: &SealedRow<'_>, view: &RecordView<'_>) -> Result<(), String> {
        let mut time = row.envelope.received_at;
        if let Some(id) = self.time_field {
            for field in view.decoder() {
                match field.map_err(|error| error.to_string())? {
                    (at, Field::Time(start)) if at == id => time = start,
                    _ => {}
                }
            }
        }
        let (first, last) = self.times.unwrap_or((time, time));
        self.times = Some((first.min(time), last.max(time)));
        Ok(())
    }

    /// Takes a row of `statements`: it must be the one that the signed bytes give.
    fn signed(
        &self,
        row: &SealedRow<'_>,
        header: &HeaderRef<'_>,
        audit: &mut Audit<'_>,
        roots: &[Vec<u8>],
    ) -> Result<(), String> {
        let place = self.described.place();
        let parts = StatementRow::parts(row.record).map_err(|error| error.to_string())?;
        let due = parts.record().map_err(|error| error.to_string())?;
        if due != row.record {
            return Err("the row does not say what the signed bytes in it say".to_owned());
        }
        let class = header.stream.split('/').nth(1);
        if class != Some(self.described.segment.class.as_str()) {
            return Err("the row is in a segment of another class".to_owned());
        }
        if parts.is_announcement {
            let judge = (audit.trust, roots);
            audit
                .epochs
                .announcement(&parts, place, judge, &mut audit.report);
        } else {
            audit.epochs.statement(&parts, place, &mut audit.report);
        }
        Ok(())
    }

    fn finish(self, meta: &FileMeta, audit: &mut Audit<'_>) -> Checked<()> {
        let (described, segment) = (self.described, self.described.segment);
        if self.tree.len() != segment.count || segment.count == 0 {
            let detail = format!(
                "it has {} rows, its manifest {}",
                self.tree.len(),
                segment.count
            );
            return Err(described.failure("count", detail));
        }
        if self.tree.root() != segment.root {
            return Err(
                described.failure("root", "its rows have another root than its manifest says")
            );
        }
        if self.times != Some((segment.first_time, segment.last_time)) {
            return Err(
                described.failure("manifest", "its first or last time is not that of its rows")
            );
        }
        let due = FileMeta {
            origin: described.origin.to_owned(),
            segment: segment.segment,
            table: segment.table.name().to_owned(),
            class: segment.class.to_string(),
            schema_version: segment.schema_version,
            root: segment.root,
        };
        if *meta != due {
            return Err(described.failure(
                "metadata",
                "the file's metadata is not that of its manifest",
            ));
        }
        let place = described.place();
        let roots = self.ranges.roots().map_err(|(row, seq)| {
            let place = place.clone().of_writer(row.writer.as_str(), row.epoch.0);
            let detail = "coverage says that the segment holds it, and it does not";
            Failure::at(
                "coverage",
                place.at_seq(&row.stream.to_string(), seq),
                detail,
            )
        })?;
        for (row, root) in roots {
            audit
                .epochs
                .sealed(row, Some(root), place.clone(), &mut audit.report);
        }
        Ok(())
    }
}

//! The record of retention: rows that this process writes, and those that are sealed in the books.

use std::ops::ControlFlow;
use std::path::Path;

use counterfoil_columns::segment::read_rows;
use counterfoil_entry::Hash;
use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::record::RecordError;
use counterfoil_entry::rows::{LegalHoldRow, RetentionActionRow};
use counterfoil_entry::table::TableId;
use counterfoil_entry::tree::leaf_hash;
use counterfoil_spool::{AppendError, Lane, Spool, SpoolConfig};

use crate::BUILD;
use crate::config::RetentionConfig;
use crate::error::RetainError;
use crate::survey::{Sealed, Survey};

/// Rows of ten thousand steps, while no collector takes them.
const SPOOL_BYTES_MAX: u64 = 16 << 20;

/// Writes rows: each is on the disk when a call returns.
#[derive(Debug)]
pub(crate) struct Recorder {
    spool: Spool,
    lane: Lane,
    class: RetentionClass,
}

impl Recorder {
    /// Opens the spool of this command.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(crate) fn open(config: &RetentionConfig) -> Result<Self, RetainError> {
        let writer = config
            .writer()
            .map_err(|(key, why)| RetainError::Name { key, why })?;
        let spool = Spool::open(SpoolConfig {
            directory: config.spool_dir.clone(),
            writer,
            size_max: SPOOL_BYTES_MAX,
            build: BUILD.to_owned(),
            config_sha256: config.sha256(),
        })?;
        let lane = spool.lane(0);
        Ok(Self {
            spool,
            lane,
            class: RetentionClass::permanent(),
        })
    }

    /// Writes a step.
    pub(crate) fn action(&mut self, row: &RetentionActionRow) -> Result<(), AppendError> {
        self.lane
            .append(TableId::RetentionActions, &self.class, |header, out| {
                row.encode(header, out);
            })?;
        self.lane.sync().map_err(AppendError::Io)
    }

    /// Writes a revision of a hold.
    pub(crate) fn hold(&mut self, row: &LegalHoldRow) -> Result<(), AppendError> {
        self.lane
            .append(TableId::LegalHolds, &self.class, |header, out| {
                row.encode(header, out);
            })?;
        self.lane.sync().map_err(AppendError::Io)
    }

    /// Spool and lane, for the delivery.
    pub(crate) fn parts(&mut self) -> (&Spool, &mut Lane) {
        (&self.spool, &mut self.lane)
    }
}

/// A step that is sealed in the books.
#[derive(Debug)]
pub(crate) struct SealedAction {
    pub(crate) leaf: Hash,
    pub(crate) row: RetentionActionRow,
}

/// The steps that are sealed in the books, in the order of sealing.
///
/// # Errors
/// When a segment cannot be read.
pub(crate) fn sealed_actions(
    books: &Path,
    survey: &Survey,
) -> Result<Vec<SealedAction>, RetainError> {
    let mut actions = Vec::new();
    each(books, survey, TableId::RetentionActions, |record| {
        let (_, row) = RetentionActionRow::decode(record)?;
        let leaf = leaf_hash(record);
        actions.push(SealedAction { leaf, row });
        Ok(())
    })?;
    Ok(actions)
}

/// The revisions of holds that are sealed in the books.
///
/// # Errors
/// When a segment cannot be read.
pub(crate) fn sealed_holds(
    books: &Path,
    survey: &Survey,
) -> Result<Vec<LegalHoldRow>, RetainError> {
    let mut holds = Vec::new();
    each(books, survey, TableId::LegalHolds, |record| {
        holds.push(LegalHoldRow::decode(record)?.1);
        Ok(())
    })?;
    Ok(holds)
}

fn each(
    books: &Path,
    survey: &Survey,
    table: TableId,
    mut take: impl FnMut(&[u8]) -> Result<(), RecordError>,
) -> Result<(), RetainError> {
    let of_table = survey.live.values().filter(|one| one.of.table == table);
    of_table
        .map(|sealed: &Sealed| books.join(&sealed.of.file))
        .try_for_each(|path| {
            let mut failed = None;
            read_rows(&path, table, |_, record, _| match take(record) {
                Ok(()) => ControlFlow::Continue(()),
                Err(source) => {
                    failed = Some(source);
                    ControlFlow::Break(())
                }
            })?;
            failed.map_or(Ok(()), |source| Err(RetainError::Row { path, source }))
        })
}

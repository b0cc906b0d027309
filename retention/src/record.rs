//! The record of retention: rows that this process writes, and those that are sealed in the books.

use std::ops::ControlFlow;
use std::path::Path;

use counterfoil_columns::segment::read_rows;
use counterfoil_entry::Hash;
use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::record::{HeaderRef, RecordError};
use counterfoil_entry::rows::{LegalHoldRow, RetentionActionRow};
use counterfoil_entry::table::TableId;
use counterfoil_entry::tree::leaf_hash;
use counterfoil_spool::{AppendError, Lane, Spool, SpoolConfig, SpoolError};

use crate::BUILD;
use crate::config::RetentionConfig;
use crate::error::RetainError;
use crate::survey::{Sealed, Survey};

/// Rows of ten thousand steps, while no collector takes them.
const SPOOL_BYTES_MAX: u64 = 16 << 20;

/// Writes rows: each is on the disk when a call returns. Its spool is opened by the first one.
#[derive(Debug)]
pub(crate) struct Recorder {
    config: SpoolConfig,
    class: RetentionClass,
    open: Option<(Spool, Lane)>,
}

impl Recorder {
    /// A writer of permanent rows.
    ///
    /// # Errors
    /// When the writer's name is none.
    pub(crate) fn new(config: &RetentionConfig) -> Result<Self, RetainError> {
        let writer = config
            .writer()
            .map_err(|(key, why)| RetainError::Name { key, why })?;
        Ok(Self {
            config: SpoolConfig {
                directory: config.spool_dir.clone(),
                writer,
                size_max: SPOOL_BYTES_MAX,
                build: BUILD.to_owned(),
                config_sha256: config.sha256(),
            },
            class: RetentionClass::permanent(),
            open: None,
        })
    }

    /// Spool and lane of this command.
    ///
    /// # Errors
    /// When the spool cannot be opened.
    pub(crate) fn parts(&mut self) -> Result<(&Spool, &mut Lane), SpoolError> {
        let (spool, lane) = match &mut self.open {
            Some(open) => open,
            closed => {
                let spool = Spool::open(self.config.clone())?;
                let lane = spool.lane(0);
                closed.insert((spool, lane))
            }
        };
        Ok((spool, lane))
    }

    /// Writes a step.
    ///
    /// # Errors
    /// When the spool does not take it.
    pub(crate) fn action(&mut self, row: &RetentionActionRow) -> Result<(), RetainError> {
        self.append(TableId::RetentionActions, |header, out| {
            row.encode(header, out)
        })
    }

    /// Writes a revision of a hold.
    ///
    /// # Errors
    /// When the spool does not take it.
    pub(crate) fn hold(&mut self, row: &LegalHoldRow) -> Result<(), RetainError> {
        self.append(TableId::LegalHolds, |header, out| row.encode(header, out))
    }

    fn append(
        &mut self,
        table: TableId,
        encode: impl FnOnce(&HeaderRef<'_>, &mut Vec<u8>),
    ) -> Result<(), RetainError> {
        let class = self.class.clone();
        let (_, lane) = self.parts()?;
        lane.append(table, &class, encode)?;
        Ok(lane.sync().map_err(AppendError::Io)?)
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

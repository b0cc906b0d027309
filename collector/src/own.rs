//! The collector as a writer: its gaps and conflicts go the way of all entries, through a spool.

use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::rows::{ConflictRow, GapRow};
use counterfoil_entry::table::TableId;
use counterfoil_spool::{AppendError, Lane};

/// The lane of the collector's own spool, and the class of its rows.
#[derive(Debug)]
pub(crate) struct OwnWriter {
    lane: Lane,
    class: RetentionClass,
}

impl OwnWriter {
    /// A writer of permanent rows on `lane`.
    pub(crate) fn new(lane: Lane) -> Self {
        Self {
            lane,
            class: RetentionClass::permanent(),
        }
    }

    /// Writes a revision of a gap.
    pub(crate) fn gap(&mut self, row: &GapRow) -> Result<(), AppendError> {
        self.lane
            .append(TableId::Gaps, &self.class, |header, out| {
                row.encode(header, out)
            })
            .map(|_| ())
    }

    /// Writes a conflict; it is on the disk when this returns.
    pub(crate) fn conflict(&mut self, row: &ConflictRow) -> Result<(), AppendError> {
        self.lane
            .append(TableId::Conflicts, &self.class, |header, out| {
                row.encode(header, out)
            })?;
        self.lane.sync().map_err(AppendError::Io)
    }
}

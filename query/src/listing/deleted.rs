//! What was deleted lawfully, stream by stream: the coverage of its segments stays in the books for ever.

use counterfoil_ledger::coverage::CoverageRow;
use counterfoil_ledger::log::read_coverage;
use datafusion::arrow::array::RecordBatch;
use datafusion::common::{DataFusionError, Result};

use super::{batch, number, text};
use crate::books::{OriginSnapshot, Snapshot};

/// The table `deleted_ranges`.
///
/// # Errors
/// When a coverage file cannot be read.
pub(super) fn ranges(snapshot: &Snapshot) -> Result<RecordBatch> {
    let mut rows: Vec<(&OriginSnapshot, u64, CoverageRow)> = Vec::new();
    for origin in &snapshot.origins {
        let touched = origin
            .manifests
            .iter()
            .filter(|one| !one.deleted.is_empty());
        for manifest in touched {
            let coverage = read_coverage(&snapshot.books, &origin.origin, manifest.number)
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            for row in coverage.rows {
                let deleted = &manifest.deleted;
                let found = deleted.iter().find(|(one, _)| one.segment == row.segment);
                if let Some((_, by)) = found {
                    rows.push((origin, *by, row));
                }
            }
        }
    }
    batch(vec![
        text(
            "origin",
            rows.iter().map(|(of, ..)| Some(of.origin.clone())),
        ),
        number("segment", rows.iter().map(|(.., row)| Some(row.segment))),
        number("deleted_by", rows.iter().map(|(_, by, _)| Some(*by))),
        text(
            "table_name",
            rows.iter()
                .map(|(.., row)| Some(row.stream.table.name().to_owned())),
        ),
        text(
            "writer",
            rows.iter()
                .map(|(.., row)| Some(row.writer.as_str().to_owned())),
        ),
        number("epoch", rows.iter().map(|(.., row)| Some(row.epoch.0))),
        text(
            "stream",
            rows.iter().map(|(.., row)| Some(row.stream.to_string())),
        ),
        number(
            "first_seq",
            rows.iter().map(|(.., row)| Some(row.first_seq)),
        ),
        number(
            "until_seq",
            rows.iter()
                .map(|(.., row)| Some(row.first_seq.saturating_add(row.count))),
        ),
    ])
}

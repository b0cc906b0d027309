//! Verification of the books: the ledger's checks over Parquet segments and SPIFFE chains.

use std::ops::ControlFlow;
use std::path::Path;

use counterfoil_columns::schema::{Attribution, Delivery};
use counterfoil_columns::segment;
use counterfoil_entry::Time;
use counterfoil_entry::table::TableId;
use counterfoil_ledger::verify::{
    ChainTrust, Envelope, FileMeta, Report, Request, RowsError, SealedRow, SegmentRows,
};
use counterfoil_trust::{TrustRoots, verify_announcement};

/// Proves a directory of books, or finds where that fails. Reads every sealed row; blocks.
#[must_use]
pub fn verify(request: &Request<'_>) -> Report {
    counterfoil_ledger::verify::verify(request, &Segments, &Chains)
}

/// An error with its sources, on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| {
        format!("{text}: {source}")
    })
}

/// Rows of segment files, by the Parquet reader.
struct Segments;

impl SegmentRows for Segments {
    fn read(
        &self,
        file: &Path,
        table: TableId,
        each: &mut dyn FnMut(SealedRow<'_>) -> ControlFlow<()>,
    ) -> Result<FileMeta, RowsError> {
        let mut misplaced = None;
        let meta = segment::read_rows(file, table, |row, record, envelope| {
            let (Some(segment), Some(leaf_index)) = (envelope.segment, envelope.leaf_index) else {
                misplaced = Some(row);
                return ControlFlow::Break(());
            };
            each(SealedRow {
                leaf_index,
                record,
                envelope: Envelope {
                    received_at: envelope.received_at,
                    origin: envelope.origin,
                    statement: envelope.statement,
                    segment,
                    retention_class: envelope.retention_class,
                    delivery: delivery(envelope.delivery),
                    attribution: attribution(envelope.attribution),
                },
            })
        })
        .map_err(|error| RowsError(chain(&error)))?;
        if let Some(row) = misplaced {
            return Err(RowsError(format!("row {row} has no segment or leaf index")));
        }
        let of = meta.segment;
        Ok(FileMeta {
            origin: of.origin,
            segment: of.segment,
            table: of.table.name().to_owned(),
            class: of.class.to_string(),
            schema_version: of.schema_version,
            root: meta.root,
        })
    }
}

fn delivery(delivery: Delivery) -> &'static str {
    delivery.as_str()
}

fn attribution(attribution: Attribution) -> &'static str {
    attribution.as_str()
}

/// Certificate chains, by the rules of SPIFFE.
struct Chains;

impl ChainTrust for Chains {
    fn announcement(
        &self,
        bytes: &[u8],
        signature: &[u8],
        chain: &[Vec<u8>],
        roots: &[Vec<u8>],
        at: Time,
    ) -> Result<String, String> {
        let roots = roots.iter().map(|der| der.clone().into()).collect();
        let roots = TrustRoots::from_der(roots).map_err(|error| error.to_string())?;
        let (announcement, peer) =
            verify_announcement(&roots, bytes, signature, at).map_err(|error| error.to_string())?;
        if announcement.chain != chain {
            return Err("the chain is not that of the announcement".to_owned());
        }
        Ok(peer.spiffe_id.as_str().to_owned())
    }
}

//! The pen of the books' thread: rows on bundles and on control's health.

use std::sync::Arc;

use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::record::HeaderRef;
use counterfoil_entry::table::TableId;
use counterfoil_spool::{Gauges, Lane};

use crate::pull::Seen;

/// A lane of its own, so that those of the workers stay theirs.
#[derive(Debug)]
pub(crate) struct Books {
    lane: Lane,
    gauges: Arc<Gauges>,
    audit: RetentionClass,
    operations: RetentionClass,
    is_failing: bool,
}

impl Books {
    pub(crate) fn new(lane: Lane, gauges: Arc<Gauges>) -> Self {
        Self {
            lane,
            gauges,
            audit: class("audit_7y"),
            operations: class("ops_13m"),
            is_failing: false,
        }
    }

    /// Writes what the pull told. What does not fit is dropped and counted by the spool.
    pub(crate) fn note(&mut self, seen: &Seen) {
        match seen {
            Seen::Polled(_) => {}
            Seen::Acked(row) => {
                if row.reason.is_none() {
                    self.gauges.set_bundle_sha256(Some(row.sha256));
                }
                let class = self.audit.clone();
                self.append(TableId::BundleAcks, &class, |header, out| {
                    row.encode(header, out);
                });
            }
            Seen::Health(row) => {
                let class = self.operations.clone();
                self.append(TableId::ControlHealth, &class, |header, out| {
                    row.encode(header, out);
                });
            }
        }
    }

    fn append(
        &mut self,
        table: TableId,
        class: &RetentionClass,
        encode: impl FnOnce(&HeaderRef<'_>, &mut Vec<u8>),
    ) {
        let failed = self.lane.append(table, class, encode).err();
        if self.is_failing == failed.is_some() {
            return;
        }
        self.is_failing = failed.is_some();
        match failed {
            None => tracing::info!("the spool takes rows on bundles and control again"),
            Some(error) => {
                tracing::error!(%error, "rows on bundles and control are dropped and counted");
            }
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "the texts are constants and a test parses them"
)]
fn class(name: &str) -> RetentionClass {
    RetentionClass::parse(name).expect("a constant class")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_classes_of_their_tables() {
        for name in ["audit_7y", "ops_13m"] {
            assert_eq!(class(name).as_str(), name);
        }
    }
}

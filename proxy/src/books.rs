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
    use counterfoil_entry::id::Writer;
    use counterfoil_entry::rows::{BundleAckRow, ControlHealthRow};
    use counterfoil_entry::{Hash, clock};
    use counterfoil_spool::{Spool, SpoolConfig};

    use super::*;

    fn ack(reason: Option<&str>) -> Seen {
        Seen::Acked(BundleAckRow {
            audience: "spiffe://bank.test/workload/pay".to_owned(),
            sha256: Hash([1; 32]),
            rights_version: Some(1),
            outcome: "applied".to_owned(),
            reason: reason.map(str::to_owned),
            acked_at: clock::wall(),
            origin_kind: "control".to_owned(),
        })
    }

    fn health() -> Seen {
        Seen::Health(ControlHealthRow {
            component: "control".to_owned(),
            reporter: "proxy".to_owned(),
            slot_start: clock::wall(),
            slots: 1,
            ok: 1,
            failed: 0,
            up: true,
            latency_max_ns: None,
            error_class: None,
        })
    }

    #[test]
    fn what_a_full_spool_does_not_take_is_counted_and_nothing_waits() {
        let directory = tempfile::tempdir().unwrap();
        let of_size = |size_max| {
            let spool = Spool::open(SpoolConfig {
                directory: directory.path().to_owned(),
                writer: Writer::parse("spiffe://bank.test/workload/pay#1").unwrap(),
                size_max,
                build: "test".to_owned(),
                config_sha256: Hash([2; 32]),
            });
            spool.unwrap()
        };
        for (size_max, dropped) in [(1 << 20, 0), (1, 3)] {
            let spool = of_size(size_max);
            let mut books = Books::new(spool.lane(2), spool.gauges());
            for seen in [ack(Some("older")), ack(None), health()] {
                books.note(&seen);
            }
            assert_eq!(spool.gauges().dropped(), dropped);
            assert_eq!(spool.gauges().bundle_sha256(), Some(Hash([1; 32])));
        }
    }

    #[test]
    fn rows_have_the_classes_of_their_tables() {
        for name in ["audit_7y", "ops_13m"] {
            assert_eq!(class(name).as_str(), name);
        }
    }
}

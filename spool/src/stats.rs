//! Figures of the delivery, for metrics pages.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use counterfoil_entry::{Time, clock};

/// Counters that the delivery keeps; read them with [`DeliveryStats::snapshot`].
#[derive(Debug, Default)]
pub struct DeliveryStats {
    is_connected: AtomicBool,
    batches: AtomicU64,
    entries: AtomicU64,
    statements_made: AtomicU64,
    statements_acknowledged: AtomicU64,
    quarantined: AtomicU64,
    failures: AtomicU64,
    last_acknowledged_ns: AtomicI64,
}

/// The counters at one moment, since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliverySnapshot {
    /// Whether the collector answered last time.
    pub is_connected: bool,
    /// Batches that the collector took.
    pub batches: u64,
    /// Entries in them, repetitions included.
    pub entries: u64,
    /// Statements made.
    pub statements_made: u64,
    /// Statements acknowledged, those of earlier epochs included.
    pub statements_acknowledged: u64,
    /// Statements and entries that the collector refused for good.
    pub quarantined: u64,
    /// Connections and requests that failed.
    pub failures: u64,
    /// When the last acknowledgement came.
    pub last_acknowledged: Option<Time>,
}

impl DeliveryStats {
    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> DeliverySnapshot {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let last_ns = self.last_acknowledged_ns.load(Ordering::Relaxed);
        DeliverySnapshot {
            is_connected: self.is_connected.load(Ordering::Relaxed),
            batches: of(&self.batches),
            entries: of(&self.entries),
            statements_made: of(&self.statements_made),
            statements_acknowledged: of(&self.statements_acknowledged),
            quarantined: of(&self.quarantined),
            failures: of(&self.failures),
            last_acknowledged: (last_ns != 0).then_some(Time::from_ns(last_ns)),
        }
    }

    pub(crate) fn set_connected(&self, is_connected: bool) {
        self.is_connected.store(is_connected, Ordering::Relaxed);
    }

    pub(crate) fn count_batch(&self, entries: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(entries as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_statement_made(&self) {
        self.statements_made.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_acknowledged(&self) {
        self.statements_acknowledged.fetch_add(1, Ordering::Relaxed);
        self.last_acknowledged_ns
            .store(clock::wall().as_ns(), Ordering::Relaxed);
    }

    pub(crate) fn count_quarantined(&self) {
        self.quarantined.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}

//! What foreign receivers took and did not take, counted since the start.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    SpansReceived,
    SpansRefused,
    EntriesReceived,
    EntriesRefused,
    EntriesIntermediate,
    EntriesRepeated,
    EntriesDropped,
    RequestsMalformed,
    RequestsTooLarge,
    RequestsSlow,
    RequestsGone,
    RequestsUnsupported,
    RequestsBusy,
    RequestsSpoolFull,
    RequestsDisk,
    ConnectionsRefused,
}

const NAMES: [(&str, Count); 16] = [
    ("otlp_spans_received", Count::SpansReceived),
    ("otlp_spans_refused", Count::SpansRefused),
    ("als_entries_received", Count::EntriesReceived),
    ("als_entries_refused", Count::EntriesRefused),
    ("als_entries_intermediate", Count::EntriesIntermediate),
    ("als_entries_repeated", Count::EntriesRepeated),
    ("als_entries_dropped", Count::EntriesDropped),
    ("foreign_refused_malformed", Count::RequestsMalformed),
    ("foreign_refused_too_large", Count::RequestsTooLarge),
    ("foreign_refused_slow", Count::RequestsSlow),
    ("foreign_broken_off", Count::RequestsGone),
    ("foreign_refused_unsupported", Count::RequestsUnsupported),
    ("foreign_refused_busy", Count::RequestsBusy),
    ("foreign_refused_spool_full", Count::RequestsSpoolFull),
    ("foreign_refused_disk", Count::RequestsDisk),
    ("foreign_connections_refused", Count::ConnectionsRefused),
];

/// Counters of the foreign receivers; clones of the `Arc` around it may read them at any time.
#[derive(Debug, Default)]
pub struct ForeignCounters([AtomicU64; NAMES.len()]);

impl ForeignCounters {
    /// Every counter by its name.
    #[must_use]
    pub fn read(&self) -> Vec<(&'static str, u64)> {
        let value = |count: Count| {
            self.0
                .get(count as usize)
                .map(|n| n.load(Ordering::Relaxed))
        };
        NAMES
            .iter()
            .map(|(name, count)| (*name, value(*count).unwrap_or_default()))
            .collect()
    }

    pub(crate) fn add(&self, count: Count, n: usize) {
        if let Some(counter) = self.0.get(count as usize) {
            counter.fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_a_name_and_a_place_of_its_own() {
        let counters = ForeignCounters::default();
        for (n, (_, count)) in NAMES.iter().enumerate() {
            counters.add(*count, n + 1);
        }
        let read = counters.read();
        for (n, (name, value)) in read.iter().enumerate() {
            assert_eq!(*value, n as u64 + 1, "{name}");
        }
    }
}

//! Figures of the running process that go into every statement and onto the metrics page.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use counterfoil_entry::{Hash, Time};

use crate::lock;

/// What the process tells of itself. All methods may be called from any thread.
#[derive(Debug, Default)]
pub struct Gauges {
    calls_open: AtomicU64,
    /// 0 when no call runs.
    oldest_call_start_ns: AtomicI64,
    dropped: AtomicU64,
    spool_bytes: AtomicU64,
    bundle_sha256: Mutex<Option<Hash>>,
}

impl Gauges {
    /// Sets how many calls run now.
    pub fn set_calls_open(&self, calls: u64) {
        self.calls_open.store(calls, Ordering::Relaxed);
    }

    /// Counts one call more.
    pub fn call_began(&self) {
        self.calls_open.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one call less.
    pub fn call_ended(&self) {
        self.calls_open.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many calls run now.
    pub fn calls_open(&self) -> u64 {
        self.calls_open.load(Ordering::Relaxed)
    }

    /// Sets when the oldest running call began; `None` when none runs.
    pub fn set_oldest_call_start(&self, start: Option<Time>) {
        self.oldest_call_start_ns
            .store(start.map_or(0, Time::as_ns), Ordering::Relaxed);
    }

    /// When the oldest running call began.
    pub fn oldest_call_start(&self) -> Option<Time> {
        match self.oldest_call_start_ns.load(Ordering::Relaxed) {
            0 => None,
            ns => Some(Time::from_ns(ns)),
        }
    }

    /// Sets the bundle in force.
    pub fn set_bundle_sha256(&self, bundle: Option<Hash>) {
        *lock(&self.bundle_sha256) = bundle;
    }

    /// The bundle in force.
    pub fn bundle_sha256(&self) -> Option<Hash> {
        *lock(&self.bundle_sha256)
    }

    /// Entries dropped since the start, over all streams and reasons.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Bytes of entries in this writer's spool, also those of earlier epochs.
    pub fn spool_bytes(&self) -> u64 {
        self.spool_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn count_drop(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes `bytes` of the spool; `false` when that would pass `max`.
    pub(crate) fn reserve(&self, bytes: u64, max: u64) -> bool {
        let within = |used: u64| used.checked_add(bytes).filter(|total| *total <= max);
        self.spool_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within)
            .is_ok()
    }

    /// Takes `bytes` without asking: they lie on the disk already.
    pub(crate) fn occupy(&self, bytes: u64) {
        self.spool_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let always = self
            .spool_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        debug_assert!(always.is_ok(), "the update always yields a value");
    }
}

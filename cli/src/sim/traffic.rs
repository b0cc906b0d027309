//! Requests to control, counted where they are sent, in tenths of a second.

use std::sync::atomic::{AtomicU32, Ordering};

use counterfoil_entry::Time;

const SLOT_NS: i64 = 100_000_000;
/// A day: no simulation is longer.
const SLOTS: usize = 864_000;

/// Requests by the time at which they were sent.
#[derive(Debug)]
pub(super) struct Traffic {
    from: Time,
    slots: Vec<AtomicU32>,
}

/// What was sent in a span of time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counted {
    /// Requests a second, on average.
    pub(super) per_s: f64,
    /// Most requests of a tenth of a second.
    pub(super) peak: u32,
}

impl Traffic {
    pub(super) fn new(from: Time) -> Self {
        Self {
            from,
            slots: (0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Counts a request.
    pub(super) fn sent(&self, at: Time) {
        if let Some(slot) = self.slot(at).and_then(|slot| self.slots.get(slot)) {
            slot.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was sent in `[from, until)`, in whole tenths of a second.
    pub(super) fn between(&self, from: Time, until: Time) -> Counted {
        let (Some(first), Some(end)) = (self.slot(from), self.slot(until)) else {
            return Counted::default();
        };
        let slots = self.slots.get(first..end).unwrap_or_default();
        let counts = slots.iter().map(|slot| slot.load(Ordering::Relaxed));
        let sum: f64 = counts.clone().map(f64::from).sum();
        let tenths = u32::try_from(slots.len()).unwrap_or(u32::MAX).max(1);
        Counted {
            per_s: sum * 10.0 / f64::from(tenths),
            peak: counts.max().unwrap_or(0),
        }
    }

    fn slot(&self, at: Time) -> Option<usize> {
        usize::try_from(at.since_ns(self.from).div_euclid(SLOT_NS)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_when_they_were_sent() {
        let start = Time::from_ns(5_000_000_000);
        let at = |ms: i64| start.plus_ns(ms * 1_000_000);
        let traffic = Traffic::new(start);
        for ms in [0, 99, 100, 150, 199, 950, 1_000, -1] {
            traffic.sent(at(ms));
        }
        let counted = traffic.between(at(0), at(1_000));
        assert_eq!(
            counted,
            Counted {
                per_s: 6.0,
                peak: 3
            }
        );
        assert_eq!(traffic.between(at(1_000), at(1_100)).peak, 1);
        assert_eq!(traffic.between(at(-5_000), at(0)), Counted::default());
    }
}

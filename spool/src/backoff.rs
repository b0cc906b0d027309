//! How long to wait before a peer that did not answer is asked again.

use std::time::Duration;

use aws_lc_rs::rand;

/// Exponential back-off with full jitter: each wait is drawn evenly from zero to a bound that
/// doubles from `first` to `max`.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    bound: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            bound: first,
        }
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = self.max.min(bound * 2);
        bound.mul_f64(fraction())
    }

    /// Begins anew: the peer answered.
    pub(crate) const fn reset(&mut self) {
        self.bound = self.first;
    }
}

/// A random number of `[0, 1)`; 1 when the system gives no randomness, which only waits longer.
pub(crate) fn fraction() -> f64 {
    let mut bytes = [0; 4];
    match rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_under_a_bound_that_doubles_up_to_a_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for bound_ms in [100, 200, 400, 800, 1000, 1000] {
            assert!(backoff.next() < Duration::from_millis(bound_ms));
        }
        backoff.reset();
        assert!(backoff.next() < Duration::from_millis(100));
        let waits: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(waits.windows(2).any(|pair| pair[0] != pair[1]), "jitter");
    }
}

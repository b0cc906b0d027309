//! When control is asked again, and how long it may hold the answer.

use std::time::Duration;

use counterfoil_entry::{Time, clock};

/// Seconds for which control may hold a poll: 8, give or take a fifth in whole seconds, as RFC 7240
/// has it. With the pause after it, a poll ends in each slot of ten seconds.
const WAIT_S: std::ops::RangeInclusive<u64> = 7..=9;
/// Longest pause after a held poll. Whole seconds alone would keep a fleet in step that one change
/// has woken at once.
const SPREAD: Duration = Duration::from_millis(300);
/// First and longest bound of the pause after a failure; the pause is a random part of it.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// First and longest pause after an answer that was not held, give or take a fifth.
const EARLY_FIRST: Duration = Duration::from_millis(250);
const EARLY_MAX: Duration = Duration::from_secs(3);

/// How a poll ended, as far as the next one depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nothing new came before its time, or the same body again: control does not hold polls open,
    /// or is about to stop.
    Early,
    /// No good answer.
    Failed,
    /// Control held it, and nothing changed.
    Held,
    /// A body that had not come before.
    New,
}

/// What the polls so far were like.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u32,
    early: u32,
    /// The next poll only asks whether control is back.
    is_asking: bool,
}

impl Pace {
    /// How long control may hold the next poll: never past the end of the certificate that is
    /// shown. After a failure not at all, so that a control that is back is noticed at once.
    pub(super) fn wait_s(&mut self, not_after: Time) -> u64 {
        self.is_asking = self.failures > 0 && !self.is_asking;
        if self.is_asking {
            return 0;
        }
        let left_s = not_after.since_ns(clock::wall()) / 1_000_000_000;
        let left_s = u64::try_from(left_s).unwrap_or(0);
        rand::random_range(WAIT_S).min(left_s.max(1))
    }

    /// Whether a failure now would be the first after good answers.
    pub(super) const fn is_first_failure(&self) -> bool {
        self.failures == 0
    }

    /// The pause before the next poll.
    pub(super) fn pause(&mut self, ended: Ended) -> Duration {
        let was_asking = self.is_asking;
        match ended {
            Ended::Failed => {
                let bound = doubled(RETRY_FIRST, self.failures, RETRY_MAX);
                self.failures = self.failures.saturating_add(1);
                self.is_asking = false;
                return bound.mul_f64(rand::random_range(0.0..1.0));
            }
            // an answer at once was asked for; whether control is well the held poll will tell
            Ended::Held | Ended::Early if was_asking => return Duration::ZERO,
            Ended::Early => {
                let pause = doubled(EARLY_FIRST, self.early, EARLY_MAX);
                self.early = self.early.saturating_add(1);
                self.failures = 0;
                return pause.mul_f64(rand::random_range(0.8..1.2));
            }
            Ended::Held | Ended::New => {}
        }
        self.early = 0;
        self.failures = 0;
        if ended == Ended::New {
            Duration::ZERO
        } else {
            SPREAD.mul_f64(rand::random_range(0.0..1.0))
        }
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(5)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far() -> Time {
        clock::wall().plus_ns(3_600_000_000_000)
    }

    #[test]
    fn polls_are_held_for_8_s_give_or_take_a_fifth_and_never_past_the_certificate() {
        let mut pace = Pace::default();
        let waits: Vec<_> = (0..100).map(|_| pace.wait_s(far())).collect();
        assert!(waits.iter().all(|wait| (7..=9).contains(wait)), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait != waits[0]), "jitter");
        let soon = clock::wall().plus_ns(3_500_000_000);
        assert_eq!(pace.wait_s(soon), 3);
        assert_eq!(pace.wait_s(clock::wall()), 1, "never a busy loop");
    }

    #[test]
    fn pauses_after_failures_stay_under_a_bound_that_doubles_up_to_5_s() {
        let mut pace = Pace::default();
        for bound_ms in [500, 1_000, 2_000, 4_000, 5_000, 5_000] {
            pace.wait_s(far());
            let pause = pace.pause(Ended::Failed);
            assert!(pause < Duration::from_millis(bound_ms), "{pause:?}");
        }
        let pauses: Vec<_> = (0..20).map(|_| pace.pause(Ended::Failed)).collect();
        assert!(pauses.windows(2).any(|pair| pair[0] != pair[1]), "jitter");
    }

    #[test]
    fn after_a_failure_control_is_asked_for_an_answer_at_once_and_then_holds_again() {
        let mut pace = Pace::default();
        assert!(pace.wait_s(far()) > 0);
        pace.pause(Ended::Failed);
        assert_eq!(pace.wait_s(far()), 0);
        assert_eq!(pace.pause(Ended::Held), Duration::ZERO);
        assert!(pace.wait_s(far()) > 0);
        // it answers at once and holds none: the pauses grow all the same
        for _ in 0..10 {
            pace.pause(Ended::Failed);
            assert_eq!(pace.wait_s(far()), 0);
            pace.pause(Ended::Held);
            assert!(pace.wait_s(far()) > 0);
        }
        assert!(pace.failures > 10);
        pace.pause(Ended::Held);
        assert!(pace.is_first_failure());
    }

    #[test]
    fn answers_that_are_not_held_make_no_busy_loop() {
        let mut pace = Pace::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pace.wait_s(far());
            pauses.push(pace.pause(Ended::Early));
        }
        assert!(pauses[0] >= EARLY_FIRST.mul_f64(0.8), "{pauses:?}");
        assert!(pauses[7] >= EARLY_MAX.mul_f64(0.8), "{pauses:?}");
        pace.pause(Ended::New);
        assert!(pace.pause(Ended::Early) < EARLY_FIRST * 2);
    }
}

//! The one place that reads clocks.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::Time;

/// The wall clock now.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one reader of the wall clock"
)]
pub fn wall() -> Time {
    let ns = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    };
    Time::from_ns(ns)
}

/// Monotonic nanoseconds since this process first asked.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one reader of the monotonic clock"
)]
pub fn mono_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

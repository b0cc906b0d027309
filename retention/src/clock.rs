//! Whether the clock of this host may be believed, by what the log itself says.

use counterfoil_entry::Time;
use counterfoil_ledger::manifest::DAY_NS;

/// How far the clock may be behind the newest seal.
const BEHIND_NS_MAX: i64 = 3_600_000_000_000;
/// How far it may be ahead: collectors seal every minute, so that longer is a turned clock or a store at rest.
const AHEAD_NS_MAX: i64 = DAY_NS;

/// Checks the clock against the end of the newest manifest's interval.
///
/// # Errors
/// What is wrong and what to do, in words.
pub(crate) fn check(now: Time, newest: Time) -> Result<(), String> {
    let ahead_ns = now.as_ns().saturating_sub(newest.as_ns());
    if ahead_ns < -BEHIND_NS_MAX {
        return Err(format!(
            "the clock of this host says {now}, and the newest seal ends {newest}: set the clock right"
        ));
    }
    if ahead_ns > AHEAD_NS_MAX {
        return Err(format!(
            "the clock of this host says {now}, more than a day after the newest seal, which ends {newest}: set the \
             clock right, or let the collector run until it has sealed; `simulate --as-of` shows another day"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_turned_is_refused() {
        let newest = Time::from_ns(1_700_000_000_000_000_000);
        let hour = BEHIND_NS_MAX;
        for (off, is_right) in [
            (0, true),
            (-hour, true),
            (-hour - 1, false),
            (24 * hour, true),
            (24 * hour + 1, false),
            (7 * 366 * DAY_NS, false),
        ] {
            assert_eq!(
                check(newest.plus_ns(off), newest).is_ok(),
                is_right,
                "{off}"
            );
        }
    }
}

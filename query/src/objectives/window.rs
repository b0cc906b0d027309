//! Time windows of objectives: rolling ones, and periods of a calendar in a time zone.

use std::fmt;

use chrono::{DateTime, Days, Months, NaiveDateTime, TimeDelta, TimeZone as _};
use chrono_tz::Tz;
use counterfoil_entry::Time;

const MINUTE_NS: i64 = 60_000_000_000;
const DAY_NS: i64 = 24 * 60 * MINUTE_NS;
/// Form of a start time, as OpenSLO's examples write it.
const START: [&str; 3] = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"];
/// A window may reach back ten years.
const LENGTH_MAX_NS: i64 = 3_660 * DAY_NS;

/// Over which time an objective is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeWindow {
    /// The last so many nanoseconds, always a multiple of a minute.
    Rolling(i64),
    /// The current period of a calendar.
    Calendar(Calendar),
}

/// Periods that follow on one another from a start, by the clocks of a time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calendar {
    count: u32,
    unit: Unit,
    start: NaiveDateTime,
    zone: Tz,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Days,
    Weeks,
    Months,
    Quarters,
    Years,
}

/// The parts of a duration shorthand of OpenSLO, such as `30d`.
fn shorthand(text: &str) -> Option<(u32, &str)> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number = number.parse().ok().filter(|number| *number > 0)?;
    Some((number, unit))
}

impl TimeWindow {
    /// A rolling window of `duration`; `None` when that is no length in minutes, hours, days or weeks.
    #[must_use]
    pub fn rolling(duration: &str) -> Option<Self> {
        let (number, unit) = shorthand(duration)?;
        let unit_ns = match unit {
            "m" => MINUTE_NS,
            "h" => 60 * MINUTE_NS,
            "d" => DAY_NS,
            "w" => 7 * DAY_NS,
            _ => return None,
        };
        let length_ns = i64::from(number).checked_mul(unit_ns)?;
        (length_ns <= LENGTH_MAX_NS).then_some(Self::Rolling(length_ns))
    }

    /// Periods of `duration` from `start` by the clocks of `zone`.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence.
    pub fn calendar(duration: &str, start: &str, zone: &str) -> Result<Self, String> {
        let (count, unit) = shorthand(duration)
            .and_then(|(count, unit)| {
                let unit = match unit {
                    "d" => Unit::Days,
                    "w" => Unit::Weeks,
                    "M" => Unit::Months,
                    "Q" => Unit::Quarters,
                    "Y" => Unit::Years,
                    _ => return None,
                };
                Some((count, unit))
            })
            .ok_or_else(|| format!("{duration:?} is no calendar period such as 1M, 1Q or 1w"))?;
        let start = START
            .iter()
            .find_map(|form| NaiveDateTime::parse_from_str(start, form).ok())
            .ok_or_else(|| format!("startTime {start:?} is no time such as 2026-01-01 00:00:00"))?;
        let zone = zone
            .parse()
            .map_err(|_| format!("timeZone {zone:?} is no zone such as Europe/Amsterdam"))?;
        let calendar = Calendar {
            count,
            unit,
            start,
            zone,
        };
        if calendar.length_ns() > LENGTH_MAX_NS || calendar.begin_of(1).is_none() {
            return Err(format!("{duration:?} is longer than ten years"));
        }
        Ok(Self::Calendar(calendar))
    }

    /// Where the window that `now` lies in begins.
    #[must_use]
    pub fn begin(&self, now: Time) -> Time {
        match self {
            Self::Rolling(length_ns) => now.plus_ns(-length_ns),
            Self::Calendar(calendar) => calendar.begin(now),
        }
    }

    /// Its length; of a calendar's period about.
    #[must_use]
    pub fn length_ns(&self) -> i64 {
        match self {
            Self::Rolling(length_ns) => *length_ns,
            Self::Calendar(calendar) => calendar.length_ns(),
        }
    }

    /// Whether it moves with time, instead of beginning anew.
    #[must_use]
    pub const fn is_rolling(&self) -> bool {
        matches!(self, Self::Rolling(_))
    }
}

impl fmt::Display for TimeWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rolling(length_ns) => {
                let length_min = length_ns / MINUTE_NS;
                match (length_min % 1_440, length_min % 60) {
                    (0, _) => write!(f, "{}d", length_min / 1_440),
                    (_, 0) => write!(f, "{}h", length_min / 60),
                    _ => write!(f, "{length_min}m"),
                }
            }
            Self::Calendar(calendar) => {
                let unit = match calendar.unit {
                    Unit::Days => "d",
                    Unit::Weeks => "w",
                    Unit::Months => "M",
                    Unit::Quarters => "Q",
                    Unit::Years => "Y",
                };
                let start = calendar.start.format("%Y-%m-%dT%H:%M:%S");
                write!(f, "{}{unit} from {start} {}", calendar.count, calendar.zone)
            }
        }
    }
}

impl Calendar {
    fn length_ns(self) -> i64 {
        let days = match self.unit {
            Unit::Days => 1,
            Unit::Weeks => 7,
            Unit::Months => 30,
            Unit::Quarters => 91,
            Unit::Years => 365,
        };
        i64::from(self.count).saturating_mul(days * DAY_NS)
    }

    /// The begin of the period `number`, which is 0 for the first one.
    fn begin_of(self, number: i32) -> Option<Time> {
        let count = u64::from(number.unsigned_abs()).checked_mul(u64::from(self.count))?;
        let months = |each: u64| count.checked_mul(each)?.try_into().ok().map(Months::new);
        let local = match self.unit {
            Unit::Days | Unit::Weeks => {
                let each = if self.unit == Unit::Days { 1 } else { 7 };
                let days = Days::new(count.checked_mul(each)?);
                if number < 0 {
                    self.start.checked_sub_days(days)
                } else {
                    self.start.checked_add_days(days)
                }
            }
            Unit::Months | Unit::Quarters | Unit::Years => {
                let each = match self.unit {
                    Unit::Months => 1,
                    Unit::Quarters => 3,
                    _ => 12,
                };
                if number < 0 {
                    self.start.checked_sub_months(months(each)?)
                } else {
                    self.start.checked_add_months(months(each)?)
                }
            }
        }?;
        // Clocks that are put forward leave out at most a few hours; the period begins after them.
        let instant = (0..24)
            .find_map(|hour| {
                let local = local.checked_add_signed(TimeDelta::hours(hour))?;
                self.zone.from_local_datetime(&local).earliest()
            })?
            .timestamp_nanos_opt()?;
        Some(Time::from_ns(instant))
    }

    fn begin(self, now: Time) -> Time {
        let local = DateTime::from_timestamp_nanos(now.as_ns()).with_timezone(&self.zone);
        let since = (local.naive_local() - self.start).num_days();
        let length_days = (self.length_ns() / DAY_NS).max(1);
        let guess = i32::try_from(since.div_euclid(length_days)).unwrap_or_default();
        // Real months and years are shorter or longer than the guess takes them: by two weeks a year.
        let apart = guess.abs() / 16 + 2;
        let first = (guess - apart).max(0);
        let begins = (first..=guess + apart).filter_map(|number| self.begin_of(number));
        let begin = begins.filter(|begin| *begin <= now).max();
        // Before its start a contract judges nothing.
        begin.or_else(|| self.begin_of(0)).unwrap_or(now)
    }
}

//! Points of wall-clock time, as the books write them.

use std::fmt;

/// A point in time: nanoseconds since the Unix epoch, UTC.
///
/// Covers the years 1677 to 2262. Displayed as RFC 3339 with nine digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(i64);

const NS_PER_S: i64 = 1_000_000_000;
const S_PER_DAY: i64 = 86_400;

impl Time {
    /// The time `ns` nanoseconds after the Unix epoch.
    #[must_use]
    pub const fn from_ns(ns: i64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn as_ns(self) -> i64 {
        self.0
    }

    /// The time `ns` nanoseconds later; stops at the ends of the range.
    #[must_use]
    pub const fn plus_ns(self, ns: i64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to `self`; negative when `earlier` is later.
    #[must_use]
    pub const fn since_ns(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The UTC day, as `YYYY-MM-DD`.
    #[must_use]
    pub fn date(self) -> String {
        let (year, month, day) = civil(self.0.div_euclid(NS_PER_S).div_euclid(S_PER_DAY));
        format!("{year:04}-{month:02}-{day:02}")
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(NS_PER_S);
        let ns = self.0.rem_euclid(NS_PER_S);
        let of_day = seconds.rem_euclid(S_PER_DAY);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        write!(
            f,
            "{}T{hour:02}:{minute:02}:{second:02}.{ns:09}Z",
            self.date()
        )
    }
}

/// Year, month and day of a day number counted from 1970-01-01 (Gregorian, proleptic).
fn civil(day: i64) -> (i64, i64, i64) {
    // Years are counted from 1 March, so that the leap day is the last one of a year.
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants_print_as_rfc_3339() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
            (1_661_140_339_210_020_096, "2022-08-22T03:52:19.210020096Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
            (i64::MIN, "1677-09-21T00:12:43.145224192Z"),
        ] {
            assert_eq!(Time::from_ns(ns).to_string(), text);
        }
    }
}

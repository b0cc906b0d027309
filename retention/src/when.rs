//! Instants as people write them.

use counterfoil_entry::Time;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime};

/// Why a text is no instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no instant from 1678 to 2262: write a day as in 2033-01-01, or RFC 3339 as in 2033-01-01T12:00:00Z"
)]
pub struct NoInstant(pub String);

/// Reads a day (its beginning, UTC) or an instant in RFC 3339.
///
/// # Errors
/// [`NoInstant`]
pub fn instant(text: &str) -> Result<Time, NoInstant> {
    let day = format_description!("[year]-[month]-[day]");
    let read = OffsetDateTime::parse(text, &Rfc3339).ok().or_else(|| {
        Date::parse(text, &day)
            .ok()
            .map(|date| date.midnight().assume_utc())
    });
    read.and_then(|at| i64::try_from(at.unix_timestamp_nanos()).ok())
        .map(Time::from_ns)
        .ok_or_else(|| NoInstant(text.chars().take(80).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_instants_are_read_and_nothing_else() {
        let at = |text: &str| instant(text).map(|at| at.to_string());
        assert_eq!(at("2033-01-01").unwrap(), "2033-01-01T00:00:00.000000000Z");
        let exact = "2022-08-22T03:52:19.210020096Z";
        assert_eq!(at(exact).unwrap(), exact);
        assert_eq!(
            at("2033-01-01T01:00:00+01:00").unwrap(),
            "2033-01-01T00:00:00.000000000Z"
        );
        for bad in [
            "",
            "tomorrow",
            "2033-13-01",
            "9999-01-01",
            "2033-01-01 12:00",
        ] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }
}

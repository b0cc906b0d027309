//! Points in time as RFC 3339 texts.

use counterfoil_entry::Time;
use serde::{Deserialize, Deserializer, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The point in time that an RFC 3339 text with an offset names.
pub(crate) fn parse(text: &str) -> Option<Time> {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|at| i64::try_from(at.unix_timestamp_nanos()).ok())
        .map(Time::from_ns)
}

pub(crate) fn serialize<S: Serializer>(time: &Time, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(time)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Time, D::Error> {
    let text = String::deserialize(d)?;
    parse(&text).ok_or_else(|| {
        serde::de::Error::custom("it is no RFC 3339 point in time with an offset, 1677 to 2262")
    })
}

/// The same for what may be absent.
pub(crate) mod option {
    use counterfoil_entry::Time;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Option<Time>, s: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => s.collect_str(time),
            None => s.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Time>, D::Error> {
        #[derive(Deserialize)]
        struct Given(#[serde(with = "super")] Time);
        Ok(Option::<Given>::deserialize(d)?.map(|Given(time)| time))
    }
}

//! Whose data are late: what they would show may be missing, so that nothing may end because of them.

use std::collections::BTreeSet;

use counterfoil_entry::Time;

use super::rows::rows;
use crate::engine::Engine;
use crate::error::SqlError;

const SECOND_NS: i64 = 1_000_000_000;
/// Writers state what they wrote every 10 s, also when idle: this long without a word is late.
const LATE_NS: i64 = 60 * SECOND_NS;
/// How far back writers are looked for.
const HEARD_NS: i64 = 600 * SECOND_NS;

/// Whose data are late.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lateness {
    /// Until when the data of all others are whole.
    pub(super) until: Time,
    /// Nobody at all was heard: the collector itself is away, or cannot be.
    pub(super) everybody: bool,
    /// Short names of services with a writer that is late.
    services: BTreeSet<String>,
    /// How many writers are late.
    pub(super) writers: usize,
}

impl Lateness {
    /// Whether data of `service` are late; of `None`, whether anybody's are.
    pub(super) fn is_late(&self, service: Option<&str>) -> bool {
        self.everybody
            || match service {
                Some(service) => self.services.contains(service),
                None => !self.services.is_empty(),
            }
    }
}

/// Short name of the service that a writer stands beside: the last part of its SPIFFE id.
fn service(writer: &str) -> &str {
    let id = writer.split_once('#').map_or(writer, |(id, _)| id);
    id.rsplit_once('/').map_or(id, |(_, name)| name)
}

/// Looks at the newest statement of each writer, and at the gaps of those that fell silent.
///
/// A service whose writer fell silent for good is late only while no other writer of it is heard:
/// what a lost instance took with it must not keep an alert of its service for ever.
pub(super) async fn lateness(engine: &Engine, now: Time) -> Result<Lateness, SqlError> {
    let heard = format!(
        "SELECT writer, time, kind FROM (
  SELECT writer, time, kind, row_number() OVER (PARTITION BY writer ORDER BY time DESC, number DESC) AS newest
  FROM raw.statements
  WHERE received_at >= arrow_cast({from}, 'Timestamp(Nanosecond, Some(\"UTC\"))') AND number IS NOT NULL
) WHERE newest = 1",
        from = now.as_ns() - HEARD_NS
    );
    let silent = "SELECT DISTINCT subject_writer FROM (
  SELECT subject_writer, closed_at, explanation, detected_by,
    row_number() OVER (PARTITION BY gap_id ORDER BY revision DESC) AS newest FROM raw.gaps
) WHERE newest = 1 AND closed_at IS NULL AND explanation IS NULL AND detected_by = 'silence'";
    let mut found = Lateness {
        until: now,
        everybody: true,
        ..Lateness::default()
    };
    let mut live = BTreeSet::new();
    for row in rows(&engine.answer(&heard).await?.1) {
        let (Some(writer), Some(time_ns)) = (row.text("writer"), row.time_ns("time")) else {
            continue;
        };
        if row.text("kind") == Some("final") {
            found.everybody &= now.as_ns() - time_ns > LATE_NS;
        } else if now.as_ns() - time_ns > LATE_NS {
            found.writers += 1;
            found.services.insert(service(writer).to_owned());
        } else {
            found.everybody = false;
            live.insert(service(writer).to_owned());
            found.until = found.until.min(Time::from_ns(time_ns));
        }
    }
    for row in rows(&engine.answer(silent).await?.1) {
        let writer = row.text("subject_writer").unwrap_or_default();
        if !live.contains(service(writer)) {
            found.writers += 1;
            found.services.insert(service(writer).to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::service;

    #[test]
    fn a_writer_stands_beside_the_service_that_its_id_ends_in() {
        assert_eq!(service("spiffe://bank.test/ns/shop/sa/cart#pod-1"), "cart");
        assert_eq!(service("spiffe://bank.test/cart"), "cart");
        assert_eq!(service(""), "");
    }
}

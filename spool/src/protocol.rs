//! What the collector answers: `docs/format.md` section 7.

use std::collections::BTreeMap;

use counterfoil_entry::Hash;
use counterfoil_entry::id::{Epoch, Stream};
use serde::Deserialize;

/// Greeting or acknowledgement.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Acknowledged {
    pub(crate) origin: Option<String>,
    pub(crate) checkpoint: Option<String>,
    #[serde(default)]
    pub(crate) epochs: Vec<KnownEpoch>,
}

impl Acknowledged {
    pub(crate) fn epoch(&self, epoch: Epoch) -> Option<&KnownEpoch> {
        self.epochs.iter().find(|known| known.epoch == epoch.0)
    }
}

/// What the collector has of an epoch that is not closed.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct KnownEpoch {
    pub(crate) epoch: u64,
    number: Option<u64>,
    sha256: Option<String>,
    #[serde(default)]
    streams: BTreeMap<String, u64>,
}

impl KnownEpoch {
    /// Its last statement.
    pub(crate) fn last(&self) -> Option<(u64, Hash)> {
        self.number.zip(self.sha256.as_ref()?.parse().ok())
    }

    /// How far it has the entries of `stream`.
    pub(crate) fn next_seq(&self, stream: &Stream) -> u64 {
        self.streams.get(&stream.to_string()).copied().unwrap_or(0)
    }
}

/// Why something was not taken.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Refusal {
    #[serde(default)]
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) detail: String,
    #[serde(default)]
    pub(crate) permanent: bool,
}

/// The answer to one request.
#[derive(Debug)]
pub(crate) enum Answer {
    Taken(Acknowledged),
    Refused(Refusal),
}

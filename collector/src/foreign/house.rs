//! What all foreign receivers share.

use std::sync::{Arc, Mutex};

use counterfoil_entry::Hash;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::als::Seen;
use super::config::DefaultSide;
use super::counters::{Count, ForeignCounters};
use super::desk::{Desk, Rows};
use super::trouble::Trouble;

/// KiB of bodies that are read or wait for the disk at a time.
const BODIES_KIB_MAX: usize = 64 << 10;
/// Requests of which the bodies are decoded at a time: bounds the memory of decoded messages.
const DECODING_MAX: usize = 2;
/// Rows that wait for the disk at a time, of half a kilobyte each.
const ROWS_MAX: usize = 131_072;

/// Writing, counting and bounds.
#[derive(Debug)]
pub(crate) struct House {
    desk: Desk,
    pub(crate) counters: Arc<ForeignCounters>,
    /// Room for bodies, in KiB.
    pub(crate) room: Arc<Semaphore>,
    decoding: Semaphore,
    waiting: Semaphore,
    /// Side of an access-log entry that tells none.
    pub(crate) default_side: DefaultSide,
    /// Hash of the collector's configuration.
    pub(crate) config_sha256: Hash,
    /// Access-log entries seen lately.
    pub(crate) seen: Mutex<Seen>,
}

impl House {
    pub(crate) fn new(
        desk: Desk,
        counters: Arc<ForeignCounters>,
        default_side: DefaultSide,
        config_sha256: Hash,
    ) -> Self {
        Self {
            desk,
            counters,
            room: Arc::new(Semaphore::new(BODIES_KIB_MAX)),
            decoding: Semaphore::new(DECODING_MAX),
            waiting: Semaphore::new(ROWS_MAX),
            default_side,
            config_sha256,
            seen: Mutex::default(),
        }
    }

    /// Waits for its turn to decode.
    ///
    /// # Errors
    /// [`Trouble::Closing`], which does not happen while the house stands.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, Trouble> {
        self.decoding.acquire().await.map_err(|_| Trouble::Closing)
    }

    /// Writes `rows`; they are on the disk when this returns. Who decoded them keeps its `turn` until
    /// there is room for them to wait.
    ///
    /// # Errors
    /// [`Trouble`] when they are not.
    pub(crate) async fn write(&self, rows: Rows, turn: SemaphorePermit<'_>) -> Result<(), Trouble> {
        let (count, n) = match &rows {
            Rows::Spans(rows) => (Count::SpansReceived, rows.len()),
            Rows::Entries(rows) => (Count::EntriesReceived, rows.len()),
        };
        if n == 0 {
            return Ok(());
        }
        let places = u32::try_from(n.min(ROWS_MAX)).unwrap_or(u32::MAX);
        let places = self.waiting.acquire_many(places).await;
        let _places = places.map_err(|_| Trouble::Closing)?;
        drop(turn);
        self.desk.write(rows).await?;
        self.counters.add(count, n);
        Ok(())
    }

    /// Counts what was not taken.
    pub(crate) fn note(&self, trouble: &Trouble) {
        self.counters.add(trouble.count(), 1);
        match trouble {
            Trouble::Gone => tracing::debug!("a foreign system went away"),
            _ => tracing::info!(%trouble, "refused a request of a foreign system"),
        }
    }
}

//! The writer's side of evidence: lanes, the spool on disk, signed statements and their delivery.
//!
//! A process opens one [`Spool`], gives each worker thread a [`Lane`], and runs one [`Delivery`]
//! until it ends. [`join`] is how it comes by its SVID and keeps it fresh, [`token`] how it comes by
//! access tokens. `docs/format.md` sections 3, 4 and 7 give the bytes.

use std::sync::{Mutex, MutexGuard, PoisonError};

mod backoff;
mod client;
mod courier;
mod cursor;
mod delivery;
mod directory;
mod gauges;
pub mod join;
mod lane;
mod old;
pub mod probe;
mod protocol;
mod sending;
pub mod slots;
mod space;
mod state;
mod stating;
mod stats;
mod stream;
#[cfg(test)]
mod tests;
pub mod token;

pub use delivery::{Delivery, DeliveryConfig, DeliveryError, Ending};
pub use gauges::Gauges;
pub use lane::{AppendError, Lane};
pub use space::{Spool, SpoolConfig, SpoolError};
pub use stats::{DeliverySnapshot, DeliveryStats};

/// Locks `mutex`. A panic elsewhere while it was held must not take the evidence down with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

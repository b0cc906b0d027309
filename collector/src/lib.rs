//! The collector: receives, checks, journals and seals what writers send.
//!
//! Requests come over mutual TLS on the tokio runtime, are decoded and hashed there, and go through
//! one bounded queue to the bookkeeper thread, which judges, journals and syncs them in groups and
//! only then answers. A second thread seals. `docs/format.md` gives the bytes.

mod admin;
mod answer;
mod bookkeeper;
mod config;
mod foreign;
mod gaps;
mod intake;
mod journal;
mod judge;
mod own;
mod rebuild;
mod receiver;
mod rollup;
mod seal;
mod seen;
mod service;
mod state;
#[cfg(test)]
mod tests;

use tokio_util::sync::CancellationToken;

pub use config::{AlsConfig, CollectorConfig, ConfigError, DefaultSide, OtlpConfig, Port};
pub use foreign::ForeignCounters;
pub use rollup::{FoldError, rebuild as rebuild_rollups};
pub use service::{Collector, CollectorError, Prepared};

/// Runs a collector until `shutdown`: opens the data directory and the port, gets its SVID from
/// control, recovers, serves, and at the end seals everything that statements cover.
///
/// Not cancel safe: cancel `shutdown` and await instead of dropping the future. What was
/// acknowledged survives that, too.
///
/// # Errors
/// [`CollectorError`]; what was acknowledged is safe, and a restart recovers it.
pub async fn run(
    config: CollectorConfig,
    shutdown: CancellationToken,
) -> Result<(), CollectorError> {
    config.identity.check().map_err(ConfigError::Identity)?;
    let prepared = Prepared::open(config).await?;
    let identity_config = prepared.config().identity.clone();
    let mut lane = prepared.lane();
    let joining = counterfoil_spool::join::join(&identity_config, &mut lane);
    let identity = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        joined = joining => joined.map_err(CollectorError::Join)?,
    };
    let renewing = tokio::spawn(counterfoil_spool::join::renew_loop(
        identity.clone(),
        identity_config,
        lane,
        shutdown.clone(),
    ));
    let outcome = match prepared.start(identity).await {
        Ok(collector) => collector.serve(shutdown).await,
        Err(error) => Err(error),
    };
    renewing.abort();
    outcome
}

//! Bringing rows to the collector, when it and control are there.

use std::error::Error;
use std::time::Duration;

use counterfoil_spool::join::{self, JoinError};
use counterfoil_spool::{Delivery, DeliveryConfig, DeliveryError, Ending, SpoolError};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::RetentionConfig;
use crate::record::Recorder;

/// How long control may take to give a certificate.
const JOIN_MAX: Duration = Duration::from_secs(8);
/// How long the collector may take for its last answer.
const END_MAX: Duration = Duration::from_secs(8);

/// Whether rows are in the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// The collector has them; its next seal puts them into the books.
    Done,
    /// They wait in the spool, for this reason.
    Kept(String),
}

#[derive(Debug, thiserror::Error)]
enum DeliverError {
    #[error("opening the spool")]
    Spool(#[from] SpoolError),
    #[error("getting a certificate from control")]
    Join(#[from] JoinError),
    #[error("control at {0} gives no certificate in time")]
    Late(String),
    #[error("delivering to the collector at {to}")]
    Delivery { to: String, source: DeliveryError },
    #[error("the collector at {0} did not take them in time")]
    Kept(String),
    #[error("{0}: {1}")]
    Name(&'static str, String),
}

/// Delivers what the spool holds; what that fails to stays there for the next command.
pub(crate) async fn deliver(config: &RetentionConfig, recorder: &mut Recorder) -> Delivered {
    match bring(config, recorder).await {
        Ok(()) => Delivered::Done,
        Err(error) => Delivered::Kept(said(&error)),
    }
}

async fn bring(config: &RetentionConfig, recorder: &mut Recorder) -> Result<(), DeliverError> {
    let (spool, lane) = recorder.parts()?;
    let identity = timeout(JOIN_MAX, join::join(&config.identity, lane))
        .await
        .map_err(|_| DeliverError::Late(config.identity.control.clone()))??;
    let to = || config.collector.clone();
    let delivering = |source| DeliverError::Delivery { to: to(), source };
    let collector = config
        .collector_id()
        .map_err(|(key, why)| DeliverError::Name(key, why))?;
    let mut settings = DeliveryConfig::new(to(), collector);
    settings.end_deadline = END_MAX;
    let delivery = Delivery::new(spool, identity, settings).map_err(delivering)?;
    let end = CancellationToken::new();
    end.cancel();
    match delivery.run(end).await.map_err(delivering)? {
        Ending::Acknowledged => Ok(()),
        Ending::Kept => Err(DeliverError::Kept(to())),
    }
}

fn said(error: &DeliverError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

//! Looking at control from outside: is it there, and does it answer over mutual TLS?

use std::time::Duration;

use bytes::Bytes;
use counterfoil_entry::clock;
use counterfoil_trust::{Expect, Identity, SpiffeId, SpiffeIdError, client_config};
use http::HeaderMap;
use tokio::time::timeout;

use crate::client::{ALPN, Ask, ClientError, Connection};
use crate::join::IdentityConfig;

const PATH: &str = "/v1/health";

/// Why a probe was not answered well.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No connection, no handshake, or it broke off.
    #[error("control cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Control answered, with another status than success.
    #[error("control answers with status {0}")]
    Refused(u16),
    /// No answer came in time.
    #[error("control gives no answer in time")]
    Timeout,
}

impl ProbeError {
    /// The class of the failure, as rows of `control_health` hold it.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Refused(_) => "refused",
            Self::Timeout => "timeout",
        }
    }
}

/// Asks control for `GET /v1/health`, each time on a new connection: what a kept one says of control
/// is not what a newcomer meets.
#[derive(Debug)]
pub struct HealthProbe {
    identity: Identity,
    control: String,
    control_id: SpiffeId,
}

impl HealthProbe {
    /// A probe that shows the SVID that `identity` holds at the time, to the control of `config`.
    ///
    /// # Errors
    /// When an id of the configuration is malformed.
    pub fn new(identity: Identity, config: &IdentityConfig) -> Result<Self, SpiffeIdError> {
        Ok(Self {
            identity,
            control: config.control.clone(),
            control_id: config.control_id()?,
        })
    }

    /// One probe: how long the good answer took, connection and handshake included.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ProbeError`]
    pub async fn ask(&self, within: Duration) -> Result<Duration, ProbeError> {
        let began_ns = clock::mono_ns();
        let expect = Expect::Id(self.control_id.clone());
        let tls = client_config(&self.identity, expect, ALPN);
        let ask = Ask {
            method: "GET",
            path: PATH,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        let asking = async { Connection::open(&self.control, tls).await?.ask(ask).await };
        let reply = match timeout(within, asking).await {
            Err(_) | Ok(Err(ClientError::Timeout)) => return Err(ProbeError::Timeout),
            Ok(Err(error)) => return Err(ProbeError::Unreachable(Box::new(error))),
            Ok(Ok(reply)) => reply,
        };
        if !reply.status.is_success() {
            return Err(ProbeError::Refused(reply.status.as_u16()));
        }
        Ok(Duration::from_nanos(clock::mono_ns() - began_ns))
    }
}

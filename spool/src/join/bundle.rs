//! Asking control for the bundle, on one connection that is kept.

use std::time::Duration;

use bytes::Bytes;
use counterfoil_entry::Hash;
use counterfoil_trust::{Expect, Identity, SpiffeId, client_config};
use http::header::{ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::timeout;

use super::{JoinError, accepted, default_control_id};
use crate::client::{ALPN, Ask, ClientError, Connection, Reply};

const PATH: &str = "/v1/proxy/bundle";
/// Room for a connection and for the answer, beyond the time that control may hold a poll.
const MARGIN: Duration = Duration::from_secs(5);

/// What to tell control when asking for the bundle.
#[derive(Debug, Clone, Default)]
pub struct BundleQuery {
    /// `ETag` of the bundle in force.
    pub etag: Option<String>,
    /// Epoch of the asking process.
    pub epoch: u64,
    /// The bundle that is in force.
    pub applied: Option<Hash>,
    /// Build of the asking process.
    pub build: String,
    /// How long control may hold the answer when nothing has changed (RFC 7240, `wait`); 0 asks
    /// for an answer at once.
    pub wait_s: u64,
}

/// A bundle as it was served; its signatures are not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedBundle {
    /// The body, for `counterfoil_trust::bundle`.
    pub body: Bytes,
    /// Its `ETag`.
    pub etag: Option<String>,
}

/// A connection to control for one bundle after the other. It is made when it is needed, kept
/// between polls, and made anew after a failure and when the SVID was renewed.
#[derive(Debug)]
pub struct BundleLink {
    identity: Identity,
    control: String,
    control_id: SpiffeId,
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    connection: Connection,
    /// The certificate that it was made with.
    shown: Hash,
}

impl BundleLink {
    /// Polls of `identity` to control at `control` (`host:port`). `control_id` defaults as in
    /// [`super::IdentityConfig`].
    ///
    /// # Errors
    /// [`JoinError::Id`] when there is no default id.
    pub fn new(
        identity: Identity,
        control: String,
        control_id: Option<SpiffeId>,
    ) -> Result<Self, JoinError> {
        let control_id = match control_id {
            Some(id) => id,
            None => default_control_id(identity.current().spiffe_id())?,
        };
        Ok(Self {
            identity,
            control,
            control_id,
            kept: None,
        })
    }

    /// Asks for the bundle; `None` when the one in force is still the newest.
    ///
    /// Cancel safe: the connection is closed then.
    ///
    /// # Errors
    /// [`JoinError::Unreachable`], [`JoinError::Timeout`] and [`JoinError::Refused`]; keep serving
    /// from the bundle in force.
    pub async fn poll(&mut self, query: &BundleQuery) -> Result<Option<FetchedBundle>, JoinError> {
        let within = Duration::from_secs(query.wait_s).saturating_add(MARGIN);
        let reply = timeout(within, self.ask(query))
            .await
            .unwrap_or(Err(ClientError::Timeout))
            .map_err(|error| JoinError::of_client(&self.control, &error))?;
        if reply.status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let reply = accepted(PATH, reply)?;
        let etag = reply
            .headers
            .get(ETAG)
            .and_then(|etag| etag.to_str().ok())
            .map(str::to_owned);
        Ok(Some(FetchedBundle {
            body: reply.body,
            etag,
        }))
    }

    async fn ask(&mut self, query: &BundleQuery) -> Result<Reply, ClientError> {
        // taken out, so that a poll that fails or is broken off leaves none behind
        let kept = self.kept.take();
        let shown = self.identity.current().cert_sha256();
        if let Some(kept) = kept.filter(|kept| kept.shown == shown) {
            match self.ask_on(kept, query).await {
                // control may close a kept connection at any time: that says nothing of control
                Err(ClientError::Http(_)) => {}
                answered => return answered,
            }
        }
        // whoever replaces the SVID meanwhile must not make this connection pass for its own
        let identity = self.identity.pinned();
        let tls = client_config(&identity, Expect::Id(self.control_id.clone()), ALPN);
        let kept = Kept {
            connection: Connection::open(&self.control, tls).await?,
            shown: identity.current().cert_sha256(),
        };
        self.ask_on(kept, query).await
    }

    async fn ask_on(&mut self, mut kept: Kept, query: &BundleQuery) -> Result<Reply, ClientError> {
        let ask = Ask {
            method: "GET",
            path: PATH,
            headers: headers(query),
            body: Bytes::new(),
        };
        let reply = kept.connection.ask(ask).await?;
        self.kept = Some(kept);
        Ok(reply)
    }
}

fn headers(query: &BundleQuery) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let wait = (query.wait_s > 0).then(|| format!("wait={}", query.wait_s));
    let texts = [
        ("mesh-epoch", Some(query.epoch.to_string())),
        ("mesh-applied", query.applied.map(|hash| hash.to_string())),
        ("mesh-build", Some(query.build.clone())),
        ("prefer", wait),
        (IF_NONE_MATCH.as_str(), query.etag.clone()),
    ];
    for (name, text) in texts {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(name, value);
        }
    }
    headers
}

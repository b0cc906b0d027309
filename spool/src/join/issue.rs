//! Asking control for a certificate, and for the proof that it sees it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use counterfoil_entry::clock;
use counterfoil_trust::{
    Expect, Identity, SpiffeId, Svid, TrustRoots, client_config, client_config_without_svid,
};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use rcgen::{CertificateParams, KeyPair, SanType};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::kept::Kept;
use super::{IdentityConfig, JoinError, accepted};
use crate::client::{ALPN, Ask, ClientError, Connection};

#[derive(Serialize)]
struct SvidRequest<'a> {
    csr: String,
    spiffe_id: &'a str,
}

#[derive(Deserialize)]
struct SvidAnswer {
    chain: String,
    roots: String,
}

#[derive(Deserialize)]
struct Health {
    #[serde(default)]
    serial: Option<String>,
}

/// A new SVID that nobody has been shown yet.
pub(super) struct Issued {
    pub(super) identity: Identity,
    pub(super) kept: Kept,
}

/// Asks control to certify a new key, within `within`: as `identity`, or by the join token.
pub(super) async fn ask_for_svid(
    config: &IdentityConfig,
    identity: Option<&Identity>,
    within: Duration,
) -> Result<Issued, JoinError> {
    let path = "/v1/svid";
    let own = config.own_id()?;
    let control_id = config.control_id()?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let tls = match identity {
        Some(identity) => client_config(identity, Expect::Id(control_id), ALPN),
        None => {
            headers.insert(AUTHORIZATION, token(config)?);
            client_config_without_svid(&configured_roots(config)?, control_id, ALPN)
        }
    };
    let key = KeyPair::generate()?;
    let body = SvidRequest {
        csr: certificate_request(&own, &key)?,
        spiffe_id: own.as_str(),
    };
    let body = serde_json::to_vec(&body).map_err(|error| garbled(config, &error))?;
    let ask = Ask {
        method: "POST",
        path,
        headers,
        body: Bytes::from(body),
    };
    let asking = async { Connection::open(&config.control, tls).await?.ask(ask).await };
    let reply = timeout(within, asking)
        .await
        .unwrap_or(Err(ClientError::Timeout))
        .map_err(|error| JoinError::of_client(&config.control, &error))?;
    let status = reply.status.as_u16();
    let reply = accepted(path, reply)?;
    let answer: SvidAnswer =
        serde_json::from_slice(&reply.body).map_err(|error| garbled(config, &error))?;
    let bad = |source| JoinError::Svid {
        place: format!("the answer of control at {}", config.control),
        source,
    };
    let svid = Svid::from_pem(&answer.chain, &key.serialize_pem()).map_err(bad)?;
    let roots = TrustRoots::from_pem(&answer.roots).map_err(bad)?;
    if *svid.spiffe_id() != own {
        let detail = format!("the SVID is of {}", svid.spiffe_id().as_str());
        return Err(JoinError::Refused {
            path,
            status,
            detail,
        });
    }
    // The roots in use stay: links to peers are checked by them.
    let roots = identity.map_or(roots, |identity| identity.roots().clone());
    Ok(Issued {
        identity: Identity::new(svid, roots),
        kept: Kept {
            key: key.serialize_pem(),
            chain: answer.chain,
            roots: answer.roots,
            received_ns: Some(clock::wall().as_ns()),
        },
    })
}

/// Makes a handshake with the new SVID and lets control say which serial it saw.
pub(super) async fn prove(
    config: &IdentityConfig,
    new: &Identity,
    within: Duration,
) -> Result<(), JoinError> {
    let svid = new.current();
    let now = clock::wall();
    if now < svid.not_before() || svid.not_after() <= now {
        return Err(JoinError::Clock);
    }
    let unproven = |cause: String| JoinError::Unproven {
        control: config.control.clone(),
        serial: svid.serial().to_owned(),
        cause,
    };
    let tls = client_config(new, Expect::Id(config.control_id()?), ALPN);
    let ask = Ask {
        method: "GET",
        path: "/v1/health",
        headers: HeaderMap::new(),
        body: Bytes::new(),
    };
    let asking = async { Connection::open(&config.control, tls).await?.ask(ask).await };
    let reply = timeout(within, asking)
        .await
        .unwrap_or(Err(ClientError::Timeout))
        .map_err(|error| unproven(super::with_causes(&error)))?;
    if !reply.status.is_success() {
        return Err(unproven(format!("status {}", reply.status.as_u16())));
    }
    let health: Health =
        serde_json::from_slice(&reply.body).map_err(|error| unproven(error.to_string()))?;
    match health.serial {
        Some(seen) if seen == svid.serial() => Ok(()),
        Some(_) => Err(unproven("it saw another serial".to_owned())),
        None => Err(unproven("it saw no serial".to_owned())),
    }
}

fn certificate_request(own: &SpiffeId, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(own.as_str().try_into()?)];
    params.serialize_request(key)?.pem()
}

fn garbled(config: &IdentityConfig, error: &serde_json::Error) -> JoinError {
    JoinError::Unreachable {
        control: config.control.clone(),
        cause: error.to_string(),
    }
}

fn token(config: &IdentityConfig) -> Result<HeaderValue, JoinError> {
    let missing = || JoinError::NoToken(config.state_dir.clone());
    let path = config.join_token_file.as_ref().ok_or_else(missing)?;
    let token = read(path)?;
    let bad = |_| JoinError::File {
        path: path.clone(),
        source: io::Error::new(io::ErrorKind::InvalidData, "the token is no plain text"),
    };
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(bad)?;
    value.set_sensitive(true);
    Ok(value)
}

fn configured_roots(config: &IdentityConfig) -> Result<TrustRoots, JoinError> {
    let path = &config.roots_pem_file;
    let place = path.display().to_string();
    TrustRoots::from_pem(&read(path)?).map_err(|source| JoinError::Svid { place, source })
}

fn read(path: &Path) -> Result<String, JoinError> {
    fs::read_to_string(path).map_err(|source| JoinError::File {
        path: path.to_owned(),
        source,
    })
}

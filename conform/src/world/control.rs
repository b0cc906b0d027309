//! As much of control as proxies and a collector need: SVIDs, one bundle each, health.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counterfoil_trust::bundle::SignedBundle;
use counterfoil_trust::keys::SealKey;
use counterfoil_trust::{ClientAuth, Identity, Peer, Svid, TrustRoots, peer_of, server_config};
use http::header::{AUTHORIZATION, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{CertificateParams, KeyPair, SanType};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::rights::{self, Places};
use super::{CALLEE, CALLER, TRUST_DOMAIN, WorldError, failed};
use crate::material::Ca;

const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Longest time that a poll is held open (s).
const WAIT_S_MAX: u64 = 30;
const TAG: &str = "\"1\"";

/// The keys that seal bundles.
pub(super) struct Seals {
    pub(super) governance: SealKey,
    pub(super) control: SealKey,
}

/// A running stand-in. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Control {
    address: SocketAddr,
    token: String,
    _serving: AbortOnDropHandle<()>,
}

/// What its answers are made from.
struct Desk {
    ca: Arc<Ca>,
    token: String,
    callee: Bytes,
    caller: Bytes,
}

impl Control {
    pub(super) async fn start(
        ca: &Arc<Ca>,
        seals: &Seals,
        places: &Places,
    ) -> Result<Self, WorldError> {
        let token: [u8; 16] = rand::random();
        let seal = |(rights, endpoints)| {
            SignedBundle::seal(&rights, &endpoints, &seals.governance, &seals.control)
                .map(Bytes::from)
                .map_err(|error| failed("a bundle")(std::io::Error::other(error)))
        };
        let desk = Arc::new(Desk {
            ca: Arc::clone(ca),
            token: hex::encode(token),
            callee: seal(rights::callee(places)?)?,
            caller: seal(rights::caller(places)?)?,
        });
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(failed("a port"))?;
        let address = listener.local_addr().map_err(failed("a port"))?;
        let alpn: [&[u8]; 2] = [b"h2", b"http/1.1"];
        let own = identity(ca, &format!("spiffe://{TRUST_DOMAIN}/counterfoil/control"))?;
        let tls = TlsAcceptor::from(server_config(&own, ClientAuth::Optional, &alpn));
        let token = desk.token.clone();
        let serving = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                tokio::spawn(connection(Arc::clone(&desk), tls.clone(), stream));
            }
        });
        Ok(Self {
            address,
            token,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }
}

/// A good identity of any workload.
pub(super) fn identity(ca: &Ca, id: &str) -> Result<Identity, WorldError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
    let csr = params.serialize_request(&key)?.pem()?;
    let svid = Svid::from_pem(&ca.certify(&csr, id)?, &key.serialize_pem())?;
    Ok(Identity::new(svid, TrustRoots::from_pem(ca.pem())?))
}

async fn connection(desk: Arc<Desk>, tls: TlsAcceptor, stream: TcpStream) {
    let Ok(stream) = tls.accept(stream).await else {
        return;
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = Arc::new(peer_of(chain).ok());
    let service = service_fn(move |request| {
        let (desk, peer) = (Arc::clone(&desk), Arc::clone(&peer));
        async move { Ok::<_, Infallible>(answer(&desk, peer.as_ref().as_ref(), request).await) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the stand-in of control ended");
    }
}

async fn answer(
    desk: &Desk,
    peer: Option<&Peer>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/v1/svid" => match Limited::new(body, REQUEST_BYTES_MAX).collect().await {
            Ok(body) => certify(desk, peer, &head.headers, &body.to_bytes()),
            Err(_broken) => status(StatusCode::BAD_REQUEST),
        },
        "/v1/proxy/bundle" => bundle(desk, peer, &head.headers).await,
        "/v1/health" => {
            let serial = peer.map(|peer| peer.serial.as_str());
            json(&serde_json::json!({ "status": "ok", "serial": serial }))
        }
        _ => status(StatusCode::NOT_FOUND),
    }
}

#[derive(Deserialize)]
struct SvidRequest {
    csr: String,
    spiffe_id: String,
}

/// For whoever shows the token, or renews what it shows.
fn certify(
    desk: &Desk,
    peer: Option<&Peer>,
    headers: &HeaderMap,
    body: &[u8],
) -> Response<Full<Bytes>> {
    let Ok(asked) = serde_json::from_slice::<SvidRequest>(body) else {
        return status(StatusCode::BAD_REQUEST);
    };
    let by_token = headers
        .get(AUTHORIZATION)
        .is_some_and(|value| value == format!("Bearer {}", desk.token).as_str());
    let renews = peer.is_some_and(|peer| peer.spiffe_id.as_str() == asked.spiffe_id);
    if !by_token && !renews {
        return status(StatusCode::UNAUTHORIZED);
    }
    match desk.ca.certify(&asked.csr, &asked.spiffe_id) {
        Ok(chain) => json(&serde_json::json!({ "chain": chain, "roots": desk.ca.pem() })),
        Err(_unusable) => status(StatusCode::BAD_REQUEST),
    }
}

/// The asking workload's bundle, which never changes: a poll waits as long as it asks to.
async fn bundle(desk: &Desk, peer: Option<&Peer>, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let body = match peer.map(|peer| peer.spiffe_id.as_str()) {
        Some(CALLEE) => desk.callee.clone(),
        Some(CALLER) => desk.caller.clone(),
        _ => return status(StatusCode::FORBIDDEN),
    };
    if headers.get(IF_NONE_MATCH).is_some_and(|tag| tag == TAG) {
        tokio::time::sleep(Duration::from_secs(wait_s(headers))).await;
        return status(StatusCode::NOT_MODIFIED);
    }
    let mut response = Response::new(Full::new(body));
    let tag = http::HeaderValue::from_static(TAG);
    response.headers_mut().insert(ETAG, tag);
    response
}

/// `Prefer: wait=<seconds>` (RFC 7240 4.3).
fn wait_s(headers: &HeaderMap) -> u64 {
    let text = headers.get("prefer").and_then(|value| value.to_str().ok());
    let wait = text.and_then(|text| text.trim().strip_prefix("wait=")?.parse().ok());
    wait.unwrap_or(0).min(WAIT_S_MAX)
}

fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::from(value.to_string())))
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

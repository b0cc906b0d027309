//! The requests of workloads: who asks, what is refused and how, and the SVIDs.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use counterfoil_entry::{clock, tree};
use counterfoil_trust::{Peer, Refusal, SpiffeId};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{poll, token};

use crate::authority::{Authority, AuthorityError};
use crate::issuance::{Issuance, Method};
use crate::metrics::{self, Requests};
use crate::published::Publisher;

/// A request for an SVID holds a certificate signing request of about 500 bytes.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Bytes of a body that are read before it is answered all the same.
const DRAINED_BYTES_MAX: usize = 1 << 20;

/// What all requests share.
#[derive(Debug)]
pub(super) struct App {
    pub(super) authority: Arc<Authority>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) issuance: Mutex<Issuance>,
    pub(super) spiffe_id: SpiffeId,
    pub(super) life: Duration,
    pub(super) requests: Requests,
}

impl App {
    /// A panic elsewhere must not end issuing: the lane keeps its own order.
    pub(super) fn issuance(&self) -> MutexGuard<'_, Issuance> {
        self.issuance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asks, as the handshake proved it.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) peer: Option<Peer>,
    pub(super) address: SocketAddr,
    /// Cancelled when control stops: nobody is kept waiting any more.
    pub(super) closing: CancellationToken,
}

impl Caller {
    /// The peer, if it showed an SVID that is still good: a connection may outlive it.
    pub(super) fn peer(&self) -> Result<&Peer, Refused> {
        match &self.peer {
            None => Err(Refused::tls(Refusal::NoClientCert)),
            Some(peer) if peer.not_after <= clock::wall() => Err(Refused::tls(Refusal::Expired)),
            Some(peer) => Ok(peer),
        }
    }
}

/// A refusal with its stable reason.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    reason: &'static str,
    detail: String,
}

impl Refused {
    pub(super) fn new(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            detail: detail.into(),
        }
    }

    fn tls(refusal: Refusal) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            refusal.reason(),
            refusal.to_string(),
        )
    }

    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "req_malformed", detail)
    }

    pub(super) fn unwritten(error: &dyn std::error::Error) -> Self {
        error!(%error, "a request is refused because the books cannot be written");
        let detail = "the issuance log cannot be written now";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable", detail)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = Json(json!({ "reason": self.reason, "detail": self.detail }));
        (self.status, body).into_response()
    }
}

/// The routes for one connection.
pub(super) fn router(app: Arc<App>, caller: Caller) -> Router {
    let counting = (app.requests.clone(), "workloads");
    Router::new()
        .route("/v1/svid", post(svid))
        .route("/v1/proxy/bundle", get(poll::bundle))
        .route("/v1/token", post(token::token).layer(token::body_limit()))
        .route("/v1/jwks", get(jwks))
        .route("/v1/health", get(health))
        .fallback(nothing)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(whole_body))
        .layer(middleware::from_fn_with_state(counting, metrics::count))
        .layer(Extension(caller))
        .with_state(app)
}

/// Reads a body whole before anything is answered: an answer that comes before the end of the body can
/// be lost with the stream (RFC 9113 8.1). What is more than any route takes is read and dropped.
async fn whole_body(request: Request, next: Next) -> Response {
    let (parts, mut body) = request.into_parts();
    let mut whole = Vec::new();
    let mut left = DRAINED_BYTES_MAX;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        let Some(data) = frame.data_ref() else {
            continue;
        };
        let Some(less) = left.checked_sub(data.len()) else {
            break;
        };
        left = less;
        // One byte too many tells the routes that there was too much.
        let room = (BODY_BYTES_MAX + 1).saturating_sub(whole.len());
        whole.extend_from_slice(data.get(..room).unwrap_or(data));
    }
    let body = Body::from(whole);
    next.run(Request::from_parts(parts, body)).await
}

/// A caller sees here that its new certificate is in use, before it gives the old one up.
async fn health(Extension(caller): Extension<Caller>) -> Response {
    let serial = caller.peer.as_ref().map(|peer| peer.serial.as_str());
    Json(json!({ "status": "ok", "serial": serial })).into_response()
}

async fn jwks(State(app): State<Arc<App>>) -> Response {
    let content_type = [(CONTENT_TYPE, "application/jwk-set+json")];
    (content_type, app.authority.jwks().to_string()).into_response()
}

async fn nothing() -> Response {
    Refused::new(
        StatusCode::NOT_FOUND,
        "route_unknown",
        "there is nothing here",
    )
    .into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SvidRequest {
    /// PKCS#10 in PEM. Only its public key is taken.
    csr: String,
    spiffe_id: String,
}

#[derive(Serialize)]
struct SvidAnswer<'a> {
    chain: &'a str,
    roots: &'a str,
    not_after: String,
}

async fn svid(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body =
        body.map_err(|error| Refused::new(error.status(), "req_malformed", error.body_text()));
    body.and_then(|body| answer_svid(&app, &caller, &headers, &body))
        .unwrap_or_else(IntoResponse::into_response)
}

fn answer_svid(
    app: &App,
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, Refused> {
    let request: SvidRequest =
        serde_json::from_slice(body).map_err(|e| Refused::malformed(e.to_string()))?;
    let spiffe_id =
        SpiffeId::parse(&request.spiffe_id).map_err(|e| Refused::malformed(e.to_string()))?;
    let method = authenticate(app, caller, headers, &spiffe_id)?;
    let now = clock::wall();
    let issued = app
        .authority
        .issue(&request.csr, &spiffe_id, app.life, now)
        .map_err(|error| {
            if matches!(error, AuthorityError::Request(_)) {
                Refused::malformed(error.to_string())
            } else {
                error!(%error, %spiffe_id, "cannot issue an SVID");
                let detail = "the certificate authority failed";
                Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "ca_failed", detail)
            }
        })?;
    app.issuance()
        .issued(&issued, method, Some(caller.address), now)
        .map_err(|error| Refused::unwritten(&error))?;
    info!(%spiffe_id, serial = issued.peer.serial, ?method, "an SVID is issued");
    let answer = SvidAnswer {
        chain: &issued.pem,
        roots: &app.authority.roots_pem,
        not_after: issued.peer.not_after.to_string(),
    };
    Ok(Json(answer).into_response())
}

/// How the caller proves that it is `spiffe_id`: by the SVID that it has, or by its join token.
///
/// A wrong token and an unknown workload get the same answer, so that nobody can list workloads.
fn authenticate(
    app: &App,
    caller: &Caller,
    headers: &HeaderMap,
    spiffe_id: &SpiffeId,
) -> Result<Method, Refused> {
    let catalogue = app.publisher.catalogue();
    let workload = catalogue.workloads.get(spiffe_id);
    let renews = caller.peer().is_ok_and(|peer| &peer.spiffe_id == spiffe_id);
    if renews && workload.is_some() {
        return Ok(Method::Renewal);
    }
    let token = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let expected = workload.and_then(|workload| workload.join_token_sha256);
    match (token, expected) {
        // Hashes are compared, so that the time which it takes tells nothing of the token.
        (Some(token), Some(expected)) if tree::sha256(token.as_bytes()) == expected => {
            Ok(Method::JoinToken)
        }
        _ => {
            let detail = "neither a join token nor an SVID of this workload was shown";
            Err(Refused::new(StatusCode::FORBIDDEN, "join_refused", detail))
        }
    }
}

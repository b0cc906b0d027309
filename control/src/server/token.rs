//! Access tokens for workloads: client credentials (RFC 6749 4.4) for one API (RFC 8707), proved and
//! bound by the client certificate (RFC 8705). See ADR 9.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::FormRejection;
use axum::extract::{DefaultBodyLimit, Extension, Form, State};
use axum::response::{IntoResponse, Response};
use counterfoil_entry::{Time, clock};
use counterfoil_trust::Peer;
use counterfoil_trust::token::{Claims, Subject, scope};
use http::StatusCode;
use http::header::{CACHE_CONTROL, PRAGMA};
use rand::Rng as _;
use serde_json::json;
use tracing::{error, info, warn};

use super::api::{App, Caller};
use crate::catalogue::{Catalogue, GrantState};
use crate::live::{Live, LiveError};

/// A form names one API and some of its operations.
const BODY_BYTES_MAX: usize = 16 << 10;
/// A proxy looks at tokens of up to 8 KiB, which base64 makes of 6 KiB; the rest is for other claims.
const SCOPE_BYTES_MAX: usize = 5 << 10;
const NO_STORE: [(http::HeaderName, &str); 2] = [(CACHE_CONTROL, "no-store"), (PRAGMA, "no-cache")];

type Parameters = Vec<(String, String)>;

/// A refusal in the form of RFC 6749 5.2.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    error: &'static str,
    description: String,
}

impl Refused {
    fn new(status: StatusCode, error: &'static str, description: impl Into<String>) -> Self {
        Self {
            status,
            error,
            description: description.into(),
        }
    }

    fn bad(error: &'static str, description: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, description)
    }

    fn unable(cause: &dyn std::error::Error) -> Self {
        error!(error = %cause, "no token can be given out");
        let description = "no token can be given out now";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "temporarily_unavailable",
            description,
        )
    }
}

impl From<LiveError> for Refused {
    fn from(error: LiveError) -> Self {
        match error {
            LiveError::TooMany => {
                warn!(%error, "a token is refused");
                let status = StatusCode::TOO_MANY_REQUESTS;
                Self::new(status, "temporarily_unavailable", error.to_string())
            }
            LiveError::Lines(_) => Self::unable(&error),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.error, "error_description": self.description });
        (self.status, NO_STORE, Json(body)).into_response()
    }
}

/// What is more than this is not read.
pub(super) fn body_limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(BODY_BYTES_MAX)
}

pub(super) async fn token(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    form: Result<Form<Parameters>, FormRejection>,
) -> Response {
    answer(&app, &caller, form).unwrap_or_else(IntoResponse::into_response)
}

fn answer(
    app: &App,
    caller: &Caller,
    form: Result<Form<Parameters>, FormRejection>,
) -> Result<Response, Refused> {
    // Whoever shows no certificate learns nothing, not even whether the form is good.
    let peer = caller.peer().map_err(|_| {
        let description = "a client certificate of this trust domain is needed";
        Refused::new(StatusCode::UNAUTHORIZED, "invalid_client", description)
    })?;
    let Form(parameters) = form.map_err(|error| {
        let status = match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        let description = "the body is not a form of application/x-www-form-urlencoded";
        Refused::new(status, "invalid_request", description)
    })?;
    let asked = Asked::read(&parameters, peer)?;
    let now = clock::wall();
    let claims = app.publisher.tokens().admit(now, || {
        let claims = claims(&app.publisher.catalogue(), &asked, peer, now)?;
        Ok::<_, Refused>(claims)
    })?;
    let signed = app.authority.token_signer.sign(&claims);
    let signed = signed.map_err(|error| Refused::unable(&error))?;
    app.issuance()
        .token(&claims, peer, caller.address, now)
        .map_err(|error| Refused::unable(&error))?;
    info!(caller = %peer.spiffe_id, api = claims.aud, jti = claims.jti, "a token is issued");
    let body = json!({
        "access_token": signed,
        "token_type": "Bearer",
        "expires_in": claims.exp - claims.iat,
        "scope": claims.scope,
    });
    Ok((NO_STORE, Json(body)).into_response())
}

/// What a caller asks for.
#[derive(Debug)]
struct Asked<'a> {
    api: &'a str,
    /// The operations, encoded as in the claim; all that are granted when `None`.
    scope: Option<BTreeSet<&'a str>>,
}

impl<'a> Asked<'a> {
    /// Parameters that are not known are ignored, and those without a value are as if they were not
    /// there (RFC 6749 3.2).
    fn read(parameters: &'a Parameters, peer: &Peer) -> Result<Self, Refused> {
        let mut seen = BTreeSet::new();
        for (name, _) in parameters {
            if !seen.insert(name.as_str()) {
                let description = "a parameter stands in the form twice";
                return Err(Refused::bad("invalid_request", description));
            }
        }
        let value = |wanted: &str| {
            let found = parameters.iter().find(|(name, _)| name == wanted);
            found
                .map(|(_, value)| value.as_str())
                .filter(|v| !v.is_empty())
        };
        match value("grant_type") {
            Some("client_credentials") => {}
            Some(_) => {
                let description = "grant_type is client_credentials";
                return Err(Refused::bad("unsupported_grant_type", description));
            }
            None => {
                let description = "grant_type is missing";
                return Err(Refused::bad("invalid_request", description));
            }
        }
        if value("client_id").is_some_and(|id| id != peer.spiffe_id.as_str()) {
            let description = "client_id is not whom the certificate names";
            let status = StatusCode::UNAUTHORIZED;
            return Err(Refused::new(status, "invalid_client", description));
        }
        let api = value("resource").ok_or_else(|| {
            Refused::bad("invalid_target", "resource is missing: the name of an API")
        })?;
        let scope = value("scope").map(|scope| scope.split(' ').collect());
        Ok(Self { api, scope })
    }
}

/// The claims of a token for all that was asked for, with what is to be remembered of it.
fn claims(
    catalogue: &Catalogue,
    asked: &Asked<'_>,
    peer: &Peer,
    now: Time,
) -> Result<(Live, Claims), Refused> {
    // One answer for an API that is not there and one that the caller may not call.
    let granted = granted(catalogue, asked.api, peer, now);
    if granted.is_empty() {
        let description = "the caller holds no grant on this API now";
        return Err(Refused::bad("invalid_target", description));
    }
    let wanted = match &asked.scope {
        None => granted,
        Some(scope) => narrowed(granted, scope)?,
    };
    let operations: Vec<_> = wanted.iter().map(|(operation, _)| *operation).collect();
    let ends = wanted.iter().map(|(_, expires)| *expires).min();
    let subject = Subject {
        caller: &peer.spiffe_id,
        cert_sha256: peer.cert_sha256,
        cert_not_after: ends.map_or(peer.not_after, |ends| ends.min(peer.not_after)),
        api: asked.api,
        operations: &operations,
    };
    let jti = hex::encode(rand::rng().random::<[u8; 16]>());
    let claims = Claims::new(&subject, jti, now);
    if claims.exp <= claims.iat {
        let description = "the grant or the certificate ends within this second";
        return Err(Refused::bad("invalid_target", description));
    }
    if claims.scope.len() > SCOPE_BYTES_MAX {
        let description = "that are too many operations for one token: name some of them in scope";
        return Err(Refused::bad("invalid_scope", description));
    }
    let live = Live {
        jti: claims.jti.clone(),
        caller: peer.spiffe_id.clone(),
        api: claims.aud.clone(),
        operations: operations.iter().map(|o| (*o).to_owned()).collect(),
        exp_s: claims.exp,
    };
    Ok((live, claims))
}

/// The operations of `api` that the caller may call now, and until when.
fn granted<'a>(
    catalogue: &'a Catalogue,
    api: &str,
    peer: &Peer,
    now: Time,
) -> Vec<(&'a str, Time)> {
    let mut granted: Vec<(&str, Time)> = catalogue
        .grants_of(&peer.spiffe_id)
        .filter(|grant| grant.api == api && grant.state == GrantState::Approved)
        .filter(|grant| grant.not_before.is_none_or(|from| from <= now) && now < grant.expires)
        .flat_map(|grant| {
            let operations = grant.operations.iter().map(String::as_str);
            operations.map(|operation| (operation, grant.expires))
        })
        .collect();
    // The grant that lasts longest counts.
    granted.sort_unstable_by(|one, other| one.0.cmp(other.0).then(other.1.cmp(&one.1)));
    granted.dedup_by(|later, first| later.0 == first.0);
    granted
}

/// Those that `scope` names; a name that is not among them refuses all.
fn narrowed<'a>(
    granted: Vec<(&'a str, Time)>,
    scopes: &BTreeSet<&str>,
) -> Result<Vec<(&'a str, Time)>, Refused> {
    let named: Vec<_> = granted
        .into_iter()
        .filter(|(operation, _)| scopes.contains(scope([*operation]).as_str()))
        .collect();
    if named.len() == scopes.len() {
        return Ok(named);
    }
    let description = "scope names an operation that is not granted to the caller";
    Err(Refused::bad("invalid_scope", description))
}

//! Reading requests: bodies, paths and queries, with the field named that cannot be read.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;

use super::answer::Problem;

/// Enough for a document of 8 MiB with every character escaped once.
const BODY_BYTES_MAX: usize = 16 << 20;
const BODY_TIME_MAX: Duration = Duration::from_secs(60);
/// What takes longer to read than a millisecond or so is read off the network's threads.
const INLINE_BYTES_MAX: usize = 64 << 10;
const ID_BYTES_MAX: usize = 200;

/// A JSON body. None at all is taken as `null`.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned + Send + 'static> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        read(request, BODY_BYTES_MAX).await.map(Self)
    }
}

/// Reads a JSON body of at most `bytes_max`.
pub(super) async fn read<T: DeserializeOwned + Send + 'static>(
    request: Request,
    bytes_max: usize,
) -> Result<T, Problem> {
    let (parts, body) = request.into_parts();
    let reading = tokio::time::timeout(BODY_TIME_MAX, to_bytes(body, bytes_max)).await;
    let malformed = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, "req_malformed", detail);
    let bytes = match reading {
        Err(_) => return Err(malformed("the body did not come in time")),
        Ok(Err(error)) if is_too_large(&error) => {
            let detail = format!("the body has more than {bytes_max} bytes");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Err(Problem::new(status, "body_too_large", detail));
        }
        Ok(Err(_)) => return Err(malformed("the body ended early")),
        Ok(Ok(bytes)) => bytes,
    };
    if bytes.is_empty() {
        return parse(b"null");
    }
    if !is_json(&parts.headers) {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let detail = "the body must be application/json";
        return Err(Problem::new(status, "media_type", detail));
    }
    if bytes.len() <= INLINE_BYTES_MAX {
        return parse(&bytes);
    }
    tokio::task::spawn_blocking(move || parse(&bytes))
        .await
        .unwrap_or_else(|_| Err(malformed("the body cannot be read")))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let refuse = |field: Option<String>, detail: String| {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "req_malformed", detail);
        field.map_or_else(|| problem.clone(), |field| problem.clone().field(field))
    };
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let detail = error.inner().to_string();
        let path = error.path().to_string();
        let path = (path != ".").then_some(path);
        // Of a field that is missing the path names the object that lacks it.
        let missing = detail
            .strip_prefix("missing field `")
            .and_then(|rest| rest.split('`').next());
        let field = match (path, missing) {
            (Some(path), Some(name)) => Some(format!("{path}.{name}")),
            (None, Some(name)) => Some(name.to_owned()),
            (path, None) => path,
        };
        refuse(field, detail)
    })?;
    json.end()
        .map_err(|error| refuse(None, error.to_string()))?;
    Ok(value)
}

fn is_too_large(error: &axum::Error) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        // The type is of a crate that axum does not show.
        if error.to_string() == "length limit exceeded" {
            return true;
        }
        source = error.source();
    }
    false
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// The one parameter in the path of a request: the name of an API or the id of a grant.
#[derive(Debug)]
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let refuse = |detail: &str| {
            Problem::new(StatusCode::BAD_REQUEST, "req_malformed", detail).field("path")
        };
        let Path(name) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| refuse("the path is not UTF-8"))?;
        if name.len() > ID_BYTES_MAX || name.contains(char::is_control) {
            let detail = "the path names nothing that can be";
            let problem = Problem::new(StatusCode::NOT_FOUND, "not_found", detail);
            return Err(problem.field("path"));
        }
        Ok(Self(name))
    }
}

/// The parameters of a query.
#[derive(Debug)]
pub(super) struct Asked(BTreeMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|_| {
                let detail = "the query cannot be read";
                Problem::new(StatusCode::BAD_REQUEST, "req_malformed", detail).field("query")
            })?;
        let mut asked = BTreeMap::new();
        for (name, value) in pairs {
            if asked.contains_key(&name) {
                return Err(refused(&name, "it is there twice"));
            }
            asked.insert(name, value);
        }
        Ok(Self(asked))
    }
}

impl Asked {
    /// Takes a parameter; an empty one counts as absent.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).filter(|value| !value.is_empty())
    }

    /// Takes a parameter that must be there.
    pub(super) fn need(&mut self, name: &str) -> Result<String, Problem> {
        self.take(name)
            .ok_or_else(|| refused(name, "it is missing"))
    }

    /// Refuses what nobody took.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(refused(&name, "there is no such parameter")),
        }
    }
}

/// A parameter of the query that is not accepted.
pub(super) fn refused(name: &str, detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "req_malformed", detail)
        .field(crate::governance::grants::shown(name))
}

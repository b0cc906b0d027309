//! Problem details (RFC 9457): what every refused request is answered with.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use tracing::error;
use utoipa::{IntoResponses, ToSchema};

use crate::governance::{GovernanceError, Refusal, RefusalKind};

const CONTENT: &str = "application/problem+json";

/// Why a request was refused.
#[derive(Clone, Debug)]
pub(super) struct Problem(Box<Details>);

/// Why a request was refused (RFC 9457).
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Details {
    /// Names the reason, as a URN.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// A sentence.
    detail: String,
    /// The reason's stable word.
    reason: String,
    /// The field that is meant, as in `grants[3].expires`.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// The document that is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// Its line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    /// The path inside the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    /// Grants that stand against it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    grants: Vec<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, reason: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind: format!("urn:counterfoil:problem:{reason}"),
            title: status.canonical_reason().unwrap_or("refused").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            reason: reason.to_owned(),
            field: None,
            file: None,
            line: None,
            place: None,
            grants: Vec::new(),
        }))
    }

    /// Names the field that is meant.
    pub(super) fn field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let content = [(CONTENT_TYPE, HeaderValue::from_static(CONTENT))];
        (self.status(), content, body).into_response()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.kind {
            RefusalKind::Value => StatusCode::UNPROCESSABLE_ENTITY,
            RefusalKind::Forbidden => StatusCode::FORBIDDEN,
            RefusalKind::Missing => StatusCode::NOT_FOUND,
            RefusalKind::Conflict => StatusCode::CONFLICT,
        };
        let mut problem = Self::new(status, refusal.reason, refusal.detail);
        problem.0.field = refusal.field;
        problem.0.grants = refusal.grants;
        if let Some(document) = refusal.document {
            problem.0.file = Some(document.file);
            problem.0.line = document.line;
            problem.0.place = Some(document.place);
        }
        problem
    }
}

impl From<GovernanceError> for Problem {
    fn from(error: GovernanceError) -> Self {
        let away = StatusCode::SERVICE_UNAVAILABLE;
        match error {
            GovernanceError::Refused(refusal) => (*refusal).into(),
            GovernanceError::Books { recorded } => {
                let detail = if recorded {
                    "it is recorded, and takes effect when the books can be written"
                } else {
                    "nothing is decided while the books cannot be written"
                };
                Self::new(away, "audit_unavailable", detail)
            }
            GovernanceError::Store(error) => {
                // What the database says is for the log only.
                error!(error = %Chain(&error), "the governance state failed");
                Self::new(away, "state_unavailable", "the state cannot be used now")
            }
        }
    }
}

struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// The refusals that any route may answer, for the OpenAPI document.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "the OpenAPI document is made of it")]
pub(super) enum Refused {
    /// The request cannot be read.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(Details),
    /// Name and password are missing or wrong.
    #[response(status = 401, content_type = "application/problem+json")]
    Login(Details),
    /// This person may not do it; the attempt is recorded.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Details),
    /// What is named is not there.
    #[response(status = 404, content_type = "application/problem+json")]
    Missing(Details),
    /// The path knows other methods.
    #[response(status = 405, content_type = "application/problem+json")]
    Method(Details),
    /// It does not fit how things stand.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(Details),
    /// The body is too large.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Details),
    /// The body is no JSON.
    #[response(status = 415, content_type = "application/problem+json")]
    MediaType(Details),
    /// A value is not accepted.
    #[response(status = 422, content_type = "application/problem+json")]
    Value(Details),
    /// Too many ask at once.
    #[response(status = 429, content_type = "application/problem+json")]
    Busy(Details),
    /// Books or state cannot be written now.
    #[response(status = 503, content_type = "application/problem+json")]
    Away(Details),
}

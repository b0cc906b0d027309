//! Responses that the proxy makes itself: denials and failures, each with its entry and its reason.

use std::sync::Arc;

use counterfoil_entry::word::{Decision, Outcome};
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::body::{Answering, ResponseBody};
use crate::call::{Ending, GRPC_STATUS, OpenCall};
use crate::failure::Failure;
use crate::gate::Turned;
use crate::headers::REASON;

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// gRPC's PERMISSION_DENIED, for every denial.
pub(crate) const GRPC_DENIED: u16 = 7;

/// Why a call ends in this proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stop {
    /// It may not go on.
    Denied {
        /// HTTP status for callers that do not speak gRPC.
        status: StatusCode,
        /// The stable reason.
        reason: &'static str,
    },
    /// It could not go on.
    Failed(Failure),
}

impl Stop {
    /// Denied for `reason` with the status that the reason has.
    pub(crate) const fn denied(reason: &'static str) -> Self {
        Self::Denied {
            status: status_of_denial(reason),
            reason,
        }
    }
}

impl From<Turned> for Stop {
    fn from(turned: Turned) -> Self {
        Self::Denied {
            status: turned.status,
            reason: turned.reason,
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Writes the entry of a call that ends here, then makes its response.
pub(crate) fn stop(
    call: &OpenCall,
    answering: Answering<'_>,
    stop: Stop,
) -> Response<ResponseBody> {
    let (status, grpc_status, reason, ending) = match stop {
        Stop::Denied { status, reason } => {
            call.note(|entry| {
                entry.decision = Decision::Deny;
                entry.reason = Arc::from(reason);
                entry.grant_id = None;
            });
            let ending = Ending {
                outcome: Outcome::Denied,
                error_type: None,
            };
            (status, GRPC_DENIED, reason, ending)
        }
        Stop::Failed(failure) => {
            let ending = if call.is_upload_broken() {
                Ending {
                    outcome: Outcome::Aborted,
                    error_type: Some("caller_gone"),
                }
            } else {
                Ending {
                    outcome: failure.outcome,
                    error_type: Some(failure.error_type),
                }
            };
            (
                failure.status,
                failure.grpc_status,
                failure.error_type,
                ending,
            )
        }
    };
    call.set_ending(ending);
    let text = match (answering.grpc || answering.method == Method::HEAD, stop) {
        (true, _) => String::new(),
        (false, Stop::Denied { .. }) => format!("denied by the mesh: {reason}\n"),
        (false, Stop::Failed(_)) => format!("failed in the mesh: {reason}\n"),
    };
    let mut response = if answering.grpc {
        trailers_only(grpc_status, reason)
    } else {
        plain(status)
    };
    response
        .headers_mut()
        .insert(REASON, HeaderValue::from_static(reason));
    call.respond(response.status(), response.headers());
    call.complete(text.len() as u64, None);
    response.map(|()| ResponseBody::own(text))
}

fn plain(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn trailers_only(grpc_status: u16, reason: &'static str) -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(grpc_status));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(reason));
    response
}

const fn status_of_denial(reason: &'static str) -> StatusCode {
    match reason.as_bytes() {
        b"bundle_missing" => StatusCode::SERVICE_UNAVAILABLE,
        b"req_malformed" | b"path_ambiguous" => StatusCode::BAD_REQUEST,
        _ => StatusCode::FORBIDDEN,
    }
}

/// What the reason on another proxy's response says about how the call ended there; `None` for an
/// ending that the status tells.
pub(crate) fn ending_at_callee(
    reason: &HeaderValue,
    status: StatusCode,
    grpc: Option<u16>,
) -> Ending {
    let denied = reason == "bundle_missing"
        || match grpc {
            Some(code) => code == GRPC_DENIED,
            None => status.is_client_error(),
        };
    if denied {
        return Ending {
            outcome: Outcome::Denied,
            error_type: None,
        };
    }
    match (status, grpc) {
        (StatusCode::GATEWAY_TIMEOUT, _) | (_, Some(4)) => Ending {
            outcome: Outcome::Timeout,
            error_type: Some("callee_timeout"),
        },
        _ => Ending {
            outcome: Outcome::Unavailable,
            error_type: Some("callee_unavailable"),
        },
    }
}

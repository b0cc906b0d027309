//! Why a call could not reach its next hop, or came back from it without a response.

use std::io;

use counterfoil_entry::word::Outcome;
use counterfoil_trust::Refusal;
use http::StatusCode;

/// One class of failure: what the entry says of it and what the caller gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) outcome: Outcome,
    pub(crate) error_type: &'static str,
    pub(crate) status: StatusCode,
    pub(crate) grpc_status: u16,
}

/// gRPC's DEADLINE_EXCEEDED.
const GRPC_DEADLINE: u16 = 4;
/// gRPC's UNAVAILABLE.
const GRPC_UNAVAILABLE: u16 = 14;

impl Failure {
    /// The response did not begin in time.
    pub(crate) const TIMEOUT: Self = Self {
        outcome: Outcome::Timeout,
        error_type: "request_timeout",
        status: StatusCode::GATEWAY_TIMEOUT,
        grpc_status: GRPC_DEADLINE,
    };
    /// No instance of the destination is known.
    pub(crate) const NO_INSTANCE: Self = Self::unavailable("no_instance");
    /// The next hop did not accept the connection in time.
    pub(crate) const CONNECT_TIMEOUT: Self = Self::unavailable("connect_timeout");
    /// The next hop does not speak the protocol that this proxy needs.
    pub(crate) const PROTOCOL: Self = Self::unavailable("upstream_protocol");
    /// The destination wants a token, and control could not be asked for one.
    pub(crate) const TOKEN_UNAVAILABLE: Self = Self::unavailable("token_unavailable");
    /// The connection ended before the response began.
    pub(crate) const RESET: Self = Self {
        outcome: Outcome::Unavailable,
        error_type: "upstream_reset",
        status: StatusCode::BAD_GATEWAY,
        grpc_status: GRPC_UNAVAILABLE,
    };

    const fn unavailable(error_type: &'static str) -> Self {
        Self {
            outcome: Outcome::Unavailable,
            error_type,
            status: StatusCode::SERVICE_UNAVAILABLE,
            grpc_status: GRPC_UNAVAILABLE,
        }
    }

    /// A refused handshake, by either side.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self::unavailable(refusal.reason())
    }

    /// A TCP connection that did not come about.
    pub(crate) fn of_connect(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::unavailable("connect_refused"),
            io::ErrorKind::TimedOut => Self::CONNECT_TIMEOUT,
            _ => Self::unavailable("connect_failed"),
        }
    }

    /// A TLS handshake that did not come about.
    pub(crate) fn of_handshake(error: &io::Error) -> Self {
        counterfoil_trust::refusal_of_io(error)
            .map_or_else(|| Self::unavailable("tls_broken_off"), Self::refused)
    }

    /// A request that got no response. In TLS 1.3 the caller learns only now that the other side
    /// refused its certificate: `refusal` is what the connection noted.
    pub(crate) fn of_send(error: &hyper::Error, refusal: Option<Refusal>) -> Self {
        if let Some(refusal) = refusal {
            return Self::refused(refusal);
        }
        if error.is_parse() {
            Self::PROTOCOL
        } else {
            Self::RESET
        }
    }
}

//! How a call ended, from Envoy's response flags and codes.

use counterfoil_entry::word::Outcome;
use envoy_types::pb::envoy::data::accesslog::v3::ResponseFlags;

/// Outcome, and the class of the error.
pub(super) type Ending = (Outcome, Option<&'static str>);

/// The ending that `flags` tell; `None` when the codes decide.
pub(super) fn of_flags(flags: &ResponseFlags) -> Option<Ending> {
    use Outcome::{Aborted, ClientError, Timeout, Unavailable};
    let all = [
        (
            flags.downstream_connection_termination,
            Aborted,
            "downstream_connection_termination",
        ),
        (
            flags.downstream_remote_reset,
            Aborted,
            "downstream_remote_reset",
        ),
        (
            flags.downstream_protocol_error,
            ClientError,
            "downstream_protocol_error",
        ),
        (
            flags.unauthorized_details.is_some(),
            ClientError,
            "unauthorized",
        ),
        (flags.rate_limited, ClientError, "rate_limited"),
        (
            flags.invalid_envoy_request_headers,
            ClientError,
            "invalid_request_headers",
        ),
        (flags.no_route_found, ClientError, "no_route_found"),
        (
            flags.upstream_request_timeout,
            Timeout,
            "upstream_request_timeout",
        ),
        (flags.stream_idle_timeout, Timeout, "stream_idle_timeout"),
        (flags.duration_timeout, Timeout, "duration_timeout"),
        (
            flags.upstream_max_stream_duration_reached,
            Timeout,
            "upstream_max_stream_duration_reached",
        ),
        (
            flags.no_healthy_upstream,
            Unavailable,
            "no_healthy_upstream",
        ),
        (flags.no_cluster_found, Unavailable, "no_cluster_found"),
        (
            flags.dns_resolution_failure,
            Unavailable,
            "dns_resolution_failure",
        ),
        (
            flags.upstream_connection_failure,
            Unavailable,
            "upstream_connection_failure",
        ),
        (
            flags.upstream_connection_termination,
            Unavailable,
            "upstream_connection_termination",
        ),
        (
            flags.upstream_remote_reset,
            Unavailable,
            "upstream_remote_reset",
        ),
        (
            flags.upstream_protocol_error,
            Unavailable,
            "upstream_protocol_error",
        ),
        (flags.upstream_overflow, Unavailable, "upstream_overflow"),
        (
            flags.upstream_retry_limit_exceeded,
            Unavailable,
            "upstream_retry_limit_exceeded",
        ),
        (flags.overload_manager, Unavailable, "overload_manager"),
        (flags.local_reset, Unavailable, "local_reset"),
    ];
    all.into_iter()
        .find(|(is_set, _, _)| *is_set)
        .map(|(_, outcome, class)| (outcome, Some(class)))
}

/// The outcome that status and gRPC status tell; for gRPC the outer `Option` is there.
pub(super) const fn of_codes(status: Option<u16>, grpc: Option<Option<u16>>) -> Outcome {
    match (status, grpc) {
        (None, _) => Outcome::Unknown,
        (Some(400..=499), _) => Outcome::ClientError,
        (Some(500..=599), _) => Outcome::ServerError,
        (_, None | Some(Some(0))) => Outcome::Ok,
        (_, Some(Some(1 | 3 | 5..=11 | 16))) => Outcome::ClientError,
        (_, Some(_)) => Outcome::ServerError,
    }
}

//! How a call ended, from Envoy's response flags and codes.

use counterfoil_entry::word::Outcome;
use envoy_types::pb::envoy::data::accesslog::v3::ResponseFlags;

/// Outcome, and the class of the error.
pub(super) type Ending = (Outcome, Option<&'static str>);

/// Whether a flag is set, and its name.
type Flag = (bool, &'static str);

/// The ending that `flags` tell; `None` when the codes decide. What the caller did comes first.
pub(super) fn of_flags(flags: &ResponseFlags) -> Option<Ending> {
    let class = |set: &[Flag]| {
        set.iter()
            .find(|(is_set, _)| *is_set)
            .map(|(_, name)| *name)
    };
    let endings = [
        (Outcome::Aborted, class(&aborted(flags))),
        (Outcome::ClientError, class(&client_error(flags))),
        (Outcome::Timeout, class(&timeout(flags))),
        (Outcome::Unavailable, class(&unavailable(flags))),
    ];
    endings.into_iter().find(|(_, class)| class.is_some())
}

const fn aborted(flags: &ResponseFlags) -> [Flag; 2] {
    [
        (
            flags.downstream_connection_termination,
            "downstream_connection_termination",
        ),
        (flags.downstream_remote_reset, "downstream_remote_reset"),
    ]
}

const fn client_error(flags: &ResponseFlags) -> [Flag; 5] {
    [
        (flags.downstream_protocol_error, "downstream_protocol_error"),
        (flags.unauthorized_details.is_some(), "unauthorized"),
        (flags.rate_limited, "rate_limited"),
        (
            flags.invalid_envoy_request_headers,
            "invalid_request_headers",
        ),
        (flags.no_route_found, "no_route_found"),
    ]
}

const fn timeout(flags: &ResponseFlags) -> [Flag; 4] {
    [
        (flags.upstream_request_timeout, "upstream_request_timeout"),
        (flags.stream_idle_timeout, "stream_idle_timeout"),
        (flags.duration_timeout, "duration_timeout"),
        (
            flags.upstream_max_stream_duration_reached,
            "upstream_max_stream_duration_reached",
        ),
    ]
}

const fn unavailable(flags: &ResponseFlags) -> [Flag; 11] {
    [
        (flags.no_healthy_upstream, "no_healthy_upstream"),
        (flags.no_cluster_found, "no_cluster_found"),
        (flags.dns_resolution_failure, "dns_resolution_failure"),
        (
            flags.upstream_connection_failure,
            "upstream_connection_failure",
        ),
        (
            flags.upstream_connection_termination,
            "upstream_connection_termination",
        ),
        (flags.upstream_remote_reset, "upstream_remote_reset"),
        (flags.upstream_protocol_error, "upstream_protocol_error"),
        (flags.upstream_overflow, "upstream_overflow"),
        (
            flags.upstream_retry_limit_exceeded,
            "upstream_retry_limit_exceeded",
        ),
        (flags.overload_manager, "overload_manager"),
        (flags.local_reset, "local_reset"),
    ]
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

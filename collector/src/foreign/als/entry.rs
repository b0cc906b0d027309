//! From an access-log entry to an entry of the books.

use std::sync::{Arc, PoisonError};

use counterfoil_entry::Time;
use counterfoil_entry::entry::Entry;
use counterfoil_entry::id::{SpanId, TraceId};
use counterfoil_entry::word::{Durability, Kind, Outcome, Side};
use counterfoil_trust::SpiffeId;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, RequestMethod};
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::subject_alt_name::San;
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::{
    CertificateProperties, TlsVersion,
};
use envoy_types::pb::envoy::data::accesslog::v3::http_access_log_entry::HttpVersion;
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpRequestProperties,
    HttpResponseProperties, TcpAccessLogEntry,
};
use envoy_types::pb::google::protobuf::Duration;

use super::ending;
use super::node::{Node, service, text};
use super::seen::{mint_span_id, mint_trace_id, traceparent};
use crate::foreign::config::DefaultSide;
use crate::foreign::house::House;

/// Why nothing was decided: the entry is a foreign mesh's, which decides by rules of its own.
const REASON: &str = "foreign";

/// A request or a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Log<'a> {
    Http(&'a HttpAccessLogEntry),
    Tcp(&'a TcpAccessLogEntry),
}

/// Where the time of a request went (ns).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) duration: Option<u64>,
    pub(super) upstream: Option<u64>,
    pub(super) downstream: Option<u64>,
    pub(super) overhead: Option<u64>,
}

/// The entry; `None` when its begin is not told, or no id is to be had.
pub(super) fn of(
    house: &House,
    node: &Node,
    common: &AccessLogCommon,
    log: Log<'_>,
) -> Option<Entry> {
    let start = common.start_time?;
    let start_ns = start
        .seconds
        .checked_mul(1_000_000_000)?
        .checked_add(i64::from(start.nanos))?;
    let side = side(house.default_side, common);
    let mut entry = Entry::new(side, Kind::Http, Time::from_ns(start_ns));
    entry.reason = Arc::from(REASON);
    entry.durability = Durability::BestEffort;
    entry.config_sha256 = house.config_sha256;
    entry.build = Arc::clone(&node.build);
    (entry.site, entry.zone) = (node.site.clone(), node.zone.clone());
    entry.attempt = u16::try_from(common.upstream_request_attempt_count)
        .unwrap_or(u16::MAX)
        .saturating_sub(1);
    who(&mut entry, node, common);
    let addresses = (
        &common.downstream_direct_remote_address,
        &common.downstream_remote_address,
    );
    let peer = addresses.0.as_ref().or(addresses.1.as_ref());
    if let Some((address, port)) = peer.and_then(socket) {
        (entry.peer_address, entry.peer_port) = (text(address), port);
    }
    let upstream = common.upstream_remote_address.as_ref().and_then(socket);
    entry.upstream_address = upstream
        .and_then(|(address, port)| text(&format!("{address}:{}", port.unwrap_or_default())));
    let mut header = None;
    match log {
        Log::Http(log) => {
            let request = log.request.clone().unwrap_or_default();
            let response = log.response.clone().unwrap_or_default();
            header = request.request_headers.get("traceparent").cloned();
            http(&mut entry, log.protocol_version, &request, &response);
            entry.route = route(&common.route_name);
        }
        Log::Tcp(log) => {
            entry.kind = Kind::Tcp;
            entry.protocol = Arc::from("tcp");
            let bytes = log.connection_properties.unwrap_or_default();
            entry.request_bytes = Some(bytes.received_bytes);
            entry.response_bytes = Some(bytes.sent_bytes);
            entry.outcome = Some(Outcome::Ok);
        }
    }
    times_and_ending(&mut entry, common);
    let caller = header.as_deref().and_then(traceparent);
    ids(house, &mut entry, caller)?;
    Some(entry)
}

/// Whose Envoy wrote it: Istio's cluster names tell, and so does a log of the upstream request.
fn side(default: DefaultSide, common: &AccessLogCommon) -> Side {
    let is_upstream = common.access_log_type == AccessLogType::UpstreamEnd as i32;
    match common.upstream_cluster.split_once('|') {
        Some(("outbound", _)) => Side::Client,
        Some(("inbound", _)) => Side::Server,
        _ if is_upstream || default == DefaultSide::Client => Side::Client,
        _ => Side::Server,
    }
}

/// Names and certificates of both ends, as far as this side knows them.
fn who(entry: &mut Entry, node: &Node, common: &AccessLogCommon) {
    let called = text(service(&common.upstream_cluster));
    if entry.side == Side::Client {
        entry.source_app = node.service.clone();
        entry.destination_app = called;
    } else {
        entry.destination_app = called.or_else(|| node.service.clone());
    }
    let Some(tls) = &common.tls_properties else {
        return;
    };
    let peer = tls.peer_certificate_properties.as_ref();
    entry.source = peer.and_then(spiffe_id);
    entry.mtls =
        peer.is_some_and(|peer| !(peer.subject.is_empty() && peer.subject_alt_name.is_empty()));
    if entry.side == Side::Server {
        entry.destination = tls
            .local_certificate_properties
            .as_ref()
            .and_then(spiffe_id);
    }
    let version = match TlsVersion::try_from(tls.tls_version) {
        Ok(TlsVersion::TlSv1) => Some("TLSv1.0"),
        Ok(TlsVersion::TlSv11) => Some("TLSv1.1"),
        Ok(TlsVersion::TlSv12) => Some("TLSv1.2"),
        Ok(TlsVersion::TlSv13) => Some("TLSv1.3"),
        _ => None,
    };
    entry.tls_version = version.map(Arc::from);
}

fn spiffe_id(certificate: &CertificateProperties) -> Option<Arc<str>> {
    let uri = |san: &Option<San>| match san {
        Some(San::Uri(uri)) => SpiffeId::parse(uri).ok(),
        _ => None,
    };
    let mut names = certificate.subject_alt_name.iter();
    names
        .find_map(|name| uri(&name.san))
        .map(|id| Arc::from(id.as_str()))
}

fn http(
    entry: &mut Entry,
    version: i32,
    request: &HttpRequestProperties,
    response: &HttpResponseProperties,
) {
    let version = match HttpVersion::try_from(version) {
        Ok(HttpVersion::Http10) => "http/1.0",
        Ok(HttpVersion::Http11) => "http/1.1",
        Ok(HttpVersion::Http2) => "h2",
        Ok(HttpVersion::Http3) => "h3",
        _ => "unknown",
    };
    entry.protocol = Arc::from(version);
    let method = RequestMethod::try_from(request.request_method).ok();
    let method = method.filter(|method| *method != RequestMethod::MethodUnspecified);
    entry.method = method.map(|method| Arc::from(method.as_str_name()));
    let status = response.response_code.map(|code| code.value);
    entry.status = status
        .and_then(|code| u16::try_from(code).ok())
        .filter(|code| *code > 0);
    entry.request_bytes = Some(request.request_body_bytes);
    entry.response_bytes = Some(response.response_body_bytes);
    let grpc_status = [&response.response_trailers, &response.response_headers]
        .into_iter()
        .find_map(|fields| fields.get("grpc-status"));
    entry.grpc_status = grpc_status.and_then(|status| status.parse().ok());
    let is_grpc = request
        .request_headers
        .get("content-type")
        .is_some_and(|kind| kind.starts_with("application/grpc"));
    entry.kind = if is_grpc || grpc_status.is_some() {
        Kind::Grpc
    } else if entry.status == Some(101) {
        Kind::Websocket
    } else {
        Kind::Http
    };
    // Whether a gRPC call went well only its status tells; without one the HTTP status stands.
    let grpc = grpc_status.map(|_| entry.grpc_status);
    entry.outcome = Some(ending::of_codes(entry.status, grpc));
}

fn times_and_ending(entry: &mut Entry, common: &AccessLogCommon) {
    let times = times(common);
    entry.duration_ns = times.duration;
    let end = times.duration.and_then(|ns| i64::try_from(ns).ok());
    entry.end_time = end.map(|ns| entry.start_time.plus_ns(ns));
    entry.first_byte_ns = ns(common.time_to_first_upstream_rx_byte.as_ref());
    entry.upstream_ns = times.upstream;
    entry.downstream_ns = times.downstream;
    if !matches!(entry.kind, Kind::Tcp | Kind::Websocket) {
        entry.overhead_ns = times.overhead;
    }
    let flagged = common.response_flags.as_ref().and_then(ending::of_flags);
    if let Some((outcome, class)) = flagged {
        entry.outcome = Some(outcome);
        entry.error_type = class.map(Arc::from);
    }
}

/// What Envoy itself cost: on the way up from the last byte of the request to the first one sent on,
/// nothing when it streams; on the way down from the first byte of the response to the first one sent on.
///
/// The rest of the duration is the next hop's, from the first byte sent to it to the last one that came,
/// and the caller's. All of it is null where a time stamp is missing.
pub(super) fn times(common: &AccessLogCommon) -> Times {
    let rx_last = ns(common.time_to_last_rx_byte.as_ref());
    let up_first = ns(common.time_to_first_upstream_tx_byte.as_ref());
    let up_answer = ns(common.time_to_first_upstream_rx_byte.as_ref());
    let up_last = ns(common.time_to_last_upstream_rx_byte.as_ref());
    let down_first = ns(common.time_to_first_downstream_tx_byte.as_ref());
    let down_last = ns(common.time_to_last_downstream_tx_byte.as_ref());
    let duration = ns(common.duration.as_ref()).or(down_last);
    let parts = (|| {
        let request = up_first?.saturating_sub(rx_last?);
        let response = down_first?.saturating_sub(up_answer?);
        let upstream = up_last.or(up_answer)?.saturating_sub(up_first?);
        Some((request.saturating_add(response), upstream))
    })();
    let split = duration.zip(parts).map(|(duration, (overhead, upstream))| {
        let overhead = overhead.min(duration);
        // A response that streams overlaps with what is sent on: the next hop's time then ends there.
        let upstream = upstream.min(duration - overhead);
        (overhead, upstream, duration - overhead - upstream)
    });
    Times {
        duration,
        overhead: split.map(|(overhead, _, _)| overhead),
        upstream: split.map(|(_, upstream, _)| upstream),
        downstream: split.map(|(_, _, downstream)| downstream),
    }
}

/// Ids of the entry. With a `traceparent` both sides of the call share a span, and the trace is the
/// caller's; without one the entry stands alone.
fn ids(house: &House, entry: &mut Entry, caller: Option<(TraceId, SpanId)>) -> Option<()> {
    let own = mint_span_id();
    let Some((trace_id, parent)) = caller else {
        entry.trace_id = Some(mint_trace_id(entry.start_time)?);
        entry.span_id = Some(own?);
        return Some(());
    };
    let destination = entry.destination_app.as_deref().unwrap_or_default();
    let shared = house
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .span(entry.side, (trace_id, parent), destination);
    entry.trace_id = Some(trace_id);
    (entry.span_id, entry.parent_span_id) = match entry.side {
        Side::Client => (Some(shared?), Some(parent)),
        Side::Server => (Some(own?), Some(shared?)),
    };
    Some(())
}

/// The name of a route as the operator gave it; what looks like an address is none.
fn route(name: &str) -> Option<Arc<str>> {
    let is_name = !name.contains('?') && !name.contains("://");
    text(name).filter(|_| is_name)
}

fn socket(address: &Address) -> Option<(&str, Option<u16>)> {
    let Some(AddressKind::SocketAddress(socket)) = &address.address else {
        return None;
    };
    let port = match socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port).ok(),
        _ => None,
    };
    Some((&socket.address, port))
}

fn ns(duration: Option<&Duration>) -> Option<u64> {
    let duration = duration?;
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u64::try_from(duration.nanos).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

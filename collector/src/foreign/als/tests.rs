//! What becomes of an access-log entry: sides, names, times, ids, endings.

use std::sync::Arc;

use counterfoil_entry::Hash;
use counterfoil_entry::entry::Entry;
use counterfoil_entry::id::{RetentionClass, Writer};
use counterfoil_entry::word::{Decision, Kind, Outcome, Side};
use counterfoil_spool::{Spool, SpoolConfig};
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::config::core::v3::{Locality, Node as EnvoyNode};
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::CertificateProperties;
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::SubjectAltName;
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::subject_alt_name::San;
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, ConnectionProperties, HttpAccessLogEntry,
    HttpRequestProperties, HttpResponseProperties, ResponseFlags, TcpAccessLogEntry, TlsProperties,
};
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, LogEntries, TcpAccessLogEntries,
};
use envoy_types::pb::google::protobuf::{Duration, Timestamp, UInt32Value};

use super::node::{Node, service};
use super::{decode, entries_of, entry};
use crate::foreign::config::DefaultSide;
use crate::foreign::desk::{Clerk, Desk};
use crate::foreign::house::House;
use crate::foreign::trouble::Trouble;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn house() -> (tempfile::TempDir, House) {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(SpoolConfig {
        directory: folder.path().to_owned(),
        writer: Writer::parse("spiffe://bank.test/counterfoil/collector#1.foreign").unwrap(),
        size_max: 1 << 20,
        build: "test".to_owned(),
        config_sha256: Hash::default(),
    })
    .unwrap();
    let class = RetentionClass::permanent;
    let clerk = Clerk::new(&spool, 1 << 20, (class(), class()));
    let (desk, _thread) = Desk::open(clerk).unwrap();
    let house = House::new(desk, Arc::default(), DefaultSide::Server, Hash([3; 32]));
    (folder, house)
}

fn node(cluster: &str) -> Node {
    Node::new(&EnvoyNode {
        id: "envoy-1".to_owned(),
        cluster: cluster.to_owned(),
        locality: Some(Locality {
            region: "eu-1".to_owned(),
            zone: "a".to_owned(),
            ..Locality::default()
        }),
        user_agent_name: "envoy".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion("1.40.0".to_owned())),
        ..EnvoyNode::default()
    })
}

fn us(us: i32) -> Option<Duration> {
    Some(Duration {
        seconds: 0,
        nanos: us * 1_000,
    })
}

fn common() -> AccessLogCommon {
    AccessLogCommon {
        start_time: Some(Timestamp {
            seconds: 1_700_000_000,
            nanos: 5,
        }),
        time_to_last_rx_byte: us(100),
        time_to_first_upstream_tx_byte: us(160),
        time_to_last_upstream_tx_byte: us(170),
        time_to_first_upstream_rx_byte: us(5_000),
        time_to_last_upstream_rx_byte: us(5_200),
        time_to_first_downstream_tx_byte: us(5_040),
        time_to_last_downstream_tx_byte: us(5_250),
        duration: us(5_300),
        upstream_cluster: "payments".to_owned(),
        stream_id: "r-1".to_owned(),
        access_log_type: AccessLogType::DownstreamEnd as i32,
        ..AccessLogCommon::default()
    }
}

fn log(common: AccessLogCommon) -> HttpAccessLogEntry {
    let headers = [("traceparent".to_owned(), PARENT.to_owned())];
    HttpAccessLogEntry {
        common_properties: Some(common),
        protocol_version: 3,
        request: Some(HttpRequestProperties {
            request_method: 3,
            path: "/payments/DE02?token=secret-4711".to_owned(),
            original_path: "/payments/DE02?token=secret-4711".to_owned(),
            authority: "payments.bank.test".to_owned(),
            user_agent: "secret-4711".to_owned(),
            forwarded_for: "203.0.113.9".to_owned(),
            request_body_bytes: 12,
            request_headers: headers.into_iter().collect(),
            ..HttpRequestProperties::default()
        }),
        response: Some(HttpResponseProperties {
            response_code: Some(UInt32Value { value: 201 }),
            response_body_bytes: 34,
            ..HttpResponseProperties::default()
        }),
    }
}

fn entries(house: &House, node: &Node, logs: Vec<HttpAccessLogEntry>) -> Vec<Entry> {
    let logs = HttpAccessLogEntries { log_entry: logs };
    entries_of(house, node, LogEntries::HttpLogs(logs))
}

fn entry(common: AccessLogCommon) -> Entry {
    let (_folder, house) = house();
    let mut found = entries(&house, &node("edge"), vec![log(common)]);
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn counted(house: &House, name: &str) -> u64 {
    let counters = house.counters.read();
    counters.iter().find(|(n, _)| *n == name).unwrap().1
}

#[test]
fn an_entry_tells_what_envoy_measured_and_no_path() {
    let entry = entry(common());
    let shown = format!("{entry:?}");
    for never in ["secret-4711", "DE02", "203.0.113.9"] {
        assert!(!shown.contains(never), "{shown}");
    }
    assert_eq!((entry.side, entry.kind), (Side::Server, Kind::Http));
    assert_eq!(entry.decision, Decision::NotRequired);
    assert_eq!(&*entry.reason, "foreign");
    assert_eq!(entry.duration_ns, Some(5_300_000));
    // 60 us from the last byte of the request to the first one sent on, 40 us on the way back
    assert_eq!(entry.overhead_ns, Some(100_000));
    assert_eq!(entry.upstream_ns, Some(5_040_000));
    assert_eq!(entry.downstream_ns, Some(160_000));
    assert_eq!(entry.start_time.as_ns(), 1_700_000_000_000_000_005);
    assert_eq!(entry.status, Some(201));
    assert_eq!(entry.outcome, Some(Outcome::Ok));
    assert_eq!(entry.method.as_deref(), Some("POST"));
    assert_eq!(&*entry.protocol, "h2");
    assert_eq!(entry.destination_app.as_deref(), Some("payments"));
    assert_eq!(entry.site.as_deref(), Some("eu-1"));
    assert_eq!(&*entry.build, "envoy 1.40.0");
    assert_eq!(
        (entry.request_bytes, entry.response_bytes),
        (Some(12), Some(34))
    );
}

#[test]
fn a_request_that_streams_costs_nothing_on_the_way_up() {
    let streaming = AccessLogCommon {
        time_to_last_rx_byte: us(5_100),
        ..common()
    };
    assert_eq!(entry(streaming).overhead_ns, Some(40_000));
    let unanswered = AccessLogCommon {
        time_to_first_upstream_rx_byte: None,
        ..common()
    };
    let entry = entry(unanswered);
    assert_eq!((entry.overhead_ns, entry.upstream_ns), (None, None));
    assert_eq!(entry.duration_ns, Some(5_300_000));
}

#[test]
fn parts_never_exceed_the_duration_and_always_make_it_up() {
    for duration in [0, 1, 50, 100, 5_000, 5_300, 90_000] {
        let of = AccessLogCommon {
            duration: us(duration),
            ..common()
        };
        let times = entry::times(&of);
        let parts = [times.overhead, times.upstream, times.downstream];
        let sum: u64 = parts.iter().map(|part| part.unwrap()).sum();
        assert_eq!(Some(sum), times.duration, "{times:?}");
    }
    let negative = AccessLogCommon {
        duration: Some(Duration {
            seconds: -1,
            nanos: -1,
        }),
        time_to_last_downstream_tx_byte: None,
        ..common()
    };
    assert_eq!(entry::times(&negative).duration, None);
}

#[test]
fn istio_s_cluster_names_tell_side_and_service() {
    let of = |cluster: &str| {
        entry(AccessLogCommon {
            upstream_cluster: cluster.to_owned(),
            ..common()
        })
    };
    let client = of("outbound|9080|v1|reviews.shop.svc.cluster.local");
    assert_eq!(client.side, Side::Client);
    assert_eq!(client.source_app.as_deref(), Some("edge"));
    assert_eq!(client.destination_app.as_deref(), Some("reviews"));
    let server = of("inbound|9080||");
    assert_eq!(server.side, Side::Server);
    assert_eq!(server.destination_app.as_deref(), Some("edge"));
    assert_eq!(service("reviews.shop"), "reviews");
    assert_eq!(service("outbound|80||10.0.0.7"), "10.0.0.7");
}

#[test]
fn both_sides_of_a_call_share_a_span_and_two_calls_do_not() {
    let (_folder, house) = house();
    let client = AccessLogCommon {
        upstream_cluster: "outbound|9080||payments.shop.svc.cluster.local".to_owned(),
        ..common()
    };
    let server = AccessLogCommon {
        upstream_cluster: "inbound|9080||".to_owned(),
        ..common()
    };
    let again = |common: &AccessLogCommon| AccessLogCommon {
        stream_id: "r-2".to_owned(),
        ..common.clone()
    };
    let callee = node("payments.shop");
    let clients = vec![log(client.clone()), log(again(&client))];
    let servers = vec![log(server.clone()), log(again(&server))];
    let clients = entries(&house, &node("shop.shop"), clients);
    let servers = entries(&house, &callee, servers);
    for (client, server) in clients.iter().zip(&servers) {
        assert_eq!(client.trace_id, server.trace_id);
        assert_eq!(client.span_id, server.parent_span_id);
        assert!(client.span_id.is_some() && server.span_id.is_some());
    }
    assert_ne!(clients[0].span_id, clients[1].span_id);
    let parent = clients[0].parent_span_id.unwrap().to_string();
    assert_eq!(parent, "00f067aa0ba902b7");
    assert_ne!(clients[0].span_id, clients[0].parent_span_id);
}

#[test]
fn without_a_traceparent_an_entry_stands_alone_under_ids_of_its_own() {
    let (_folder, house) = house();
    let mut log = log(common());
    log.request.as_mut().unwrap().request_headers.clear();
    let found = entries(&house, &node("edge"), vec![log]);
    let ms = found[0].trace_id.unwrap().to_string();
    assert_eq!(
        u64::from_str_radix(ms.get(..12).unwrap(), 16).unwrap(),
        1_700_000_000_000
    );
    assert_eq!(found[0].parent_span_id, None);
    assert!(found[0].span_id.is_some());
}

#[test]
fn what_comes_twice_or_is_not_over_is_counted_and_left_out() {
    let (_folder, house) = house();
    let node = node("edge");
    let running = AccessLogCommon {
        access_log_type: AccessLogType::DownstreamPeriodic as i32,
        ..common()
    };
    let untimed = AccessLogCommon {
        start_time: None,
        stream_id: "r-9".to_owned(),
        ..common()
    };
    let logs = vec![log(common()), log(common()), log(running), log(untimed)];
    assert_eq!(entries(&house, &node, logs).len(), 1);
    assert_eq!(counted(&house, "als_entries_repeated"), 1);
    assert_eq!(counted(&house, "als_entries_intermediate"), 1);
    assert_eq!(counted(&house, "als_entries_refused"), 1);
    // the same request id at another time, and on another node, is another request
    let later = AccessLogCommon {
        start_time: Some(Timestamp {
            seconds: 1_700_000_001,
            nanos: 0,
        }),
        ..common()
    };
    assert_eq!(entries(&house, &node, vec![log(later)]).len(), 1);
}

#[test]
fn certificates_name_both_ends_of_a_server_s_entry() {
    let certificate = |uri: &str| CertificateProperties {
        subject_alt_name: vec![SubjectAltName {
            san: Some(San::Uri(uri.to_owned())),
        }],
        ..CertificateProperties::default()
    };
    let of = AccessLogCommon {
        tls_properties: Some(TlsProperties {
            tls_version: 4,
            peer_certificate_properties: Some(certificate("spiffe://cluster.local/ns/a/sa/shop")),
            local_certificate_properties: Some(certificate("https://no.spiffe/id")),
            ..TlsProperties::default()
        }),
        ..common()
    };
    let entry = entry(of);
    assert!(entry.mtls);
    assert_eq!(
        entry.source.as_deref(),
        Some("spiffe://cluster.local/ns/a/sa/shop")
    );
    assert_eq!(entry.destination, None);
    assert_eq!(entry.tls_version.as_deref(), Some("TLSv1.3"));
}

#[test]
fn flags_tell_how_a_call_ended_before_codes_do() {
    let flagged = |flags: ResponseFlags| {
        let entry = entry(AccessLogCommon {
            response_flags: Some(flags),
            ..common()
        });
        (
            entry.outcome.unwrap(),
            entry.error_type.as_deref().map(str::to_owned),
        )
    };
    let none = flagged(ResponseFlags::default());
    assert_eq!(none, (Outcome::Ok, None));
    let (outcome, class) = flagged(ResponseFlags {
        upstream_request_timeout: true,
        ..ResponseFlags::default()
    });
    assert_eq!(outcome, Outcome::Timeout);
    assert_eq!(class.as_deref(), Some("upstream_request_timeout"));
    let (outcome, _) = flagged(ResponseFlags {
        downstream_connection_termination: true,
        upstream_remote_reset: true,
        ..ResponseFlags::default()
    });
    assert_eq!(outcome, Outcome::Aborted);
}

#[test]
fn a_tcp_connection_has_bytes_and_no_overhead() {
    let (_folder, house) = house();
    let logs = TcpAccessLogEntries {
        log_entry: vec![TcpAccessLogEntry {
            common_properties: Some(AccessLogCommon {
                access_log_type: AccessLogType::TcpConnectionEnd as i32,
                ..common()
            }),
            connection_properties: Some(ConnectionProperties {
                received_bytes: 7,
                sent_bytes: 8,
            }),
        }],
    };
    let found = entries_of(&house, &node("edge"), LogEntries::TcpLogs(logs));
    let [entry] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(entry.kind, Kind::Tcp);
    assert_eq!(
        (entry.request_bytes, entry.response_bytes),
        (Some(7), Some(8))
    );
    assert_eq!(entry.overhead_ns, None);
    assert_eq!(&*entry.protocol, "tcp");
}

#[test]
fn a_message_of_too_many_entries_is_refused_before_it_is_decoded() {
    let mut logs = Vec::new();
    for _ in 0..9_000 {
        logs.extend([0x0a, 0x00]);
    }
    let mut message = vec![0x12];
    prost::encoding::encode_varint(logs.len() as u64, &mut message);
    message.extend_from_slice(&logs);
    let refused = decode(&message).unwrap_err();
    assert_eq!(refused, Trouble::TooLarge("8192 log entries"));
    assert!(matches!(decode(b"\xff\xff"), Err(Trouble::Malformed(_))));
}

//! OTLP and the access-log service over real sockets: what is acknowledged, what is refused and how.

use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use counterfoil_columns::segment::read_rows;
use counterfoil_entry::entry::Entry;
use counterfoil_entry::frame::push_record;
use counterfoil_entry::record::HeaderRef;
use counterfoil_entry::table::TableId;
use counterfoil_entry::word::{Kind, Side};
use counterfoil_entry::{Time, clock};
use counterfoil_ledger::log::{read_checkpoint, read_manifest};
use counterfoil_ledger::manifest::Body;
use counterfoil_trust::{Expect, client_config, server_name};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::data::accesslog::v3::{AccessLogCommon, HttpAccessLogEntry};
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, Identifier, LogEntries,
};
use envoy_types::pb::google::protobuf::Timestamp;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::world::{ORIGIN, Running, SHOP, World, eventually};
use crate::config::CollectorConfig;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const ALS: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

fn config(world: &World, address: &str) -> CollectorConfig {
    let otlp = format!("grpc_listen = \"{address}\"\nhttp_listen = \"{address}\"");
    CollectorConfig {
        otlp: Some(toml::from_str(&otlp).unwrap()),
        als: Some(toml::from_str(&format!("listen = \"{address}\"")).unwrap()),
        ..world.config()
    }
}

async fn collector(world: &World) -> Running {
    world.collector_with(config(world, "127.0.0.1:0")).await
}

impl Running {
    fn grpc(&self) -> SocketAddr {
        self.foreign[0]
    }

    fn http(&self) -> SocketAddr {
        self.foreign[1]
    }

    fn als(&self) -> SocketAddr {
        self.foreign[2]
    }
}

fn span(id: u8) -> Span {
    Span {
        trace_id: vec![id; 16],
        span_id: vec![id; 8],
        name: "GET /accounts/{id}".to_owned(),
        start_time_unix_nano: 1_700_000_000_000_000_000,
        end_time_unix_nano: 1_700_000_000_000_000_900,
        ..Span::default()
    }
}

fn traces(spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// Status and body of the answer to a POST over HTTP/1.1.
async fn post(to: SocketAddr, path: &str, headers: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: otlp\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A refusal may come, and the connection close, before all is sent.
    let _sent = stream.write_all(body).await;
    answer(stream).await
}

async fn answer(mut stream: TcpStream) -> (u16, Vec<u8>) {
    let mut answer = Vec::new();
    let _end = stream.read_to_end(&mut answer).await;
    let split = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let status = answer
        .get(9..12)
        .and_then(|code| std::str::from_utf8(code).ok());
    let status = status.and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = split.map(|at| answer[at + 4..].to_vec());
    (status, body.unwrap_or_default())
}

const PROTOBUF: &str = "content-type: application/x-protobuf";

/// gRPC status, and the answer's message.
async fn call<S>(stream: S, path: &str, framed: Vec<u8>) -> (String, Bytes)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://collector{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-encoding", "gzip")
        .body(Full::new(Bytes::from(framed)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = trailers
        .get("grpc-status")
        .or_else(|| head.headers.get("grpc-status"));
    let status = status.unwrap().to_str().unwrap().to_owned();
    connection.abort();
    (status, body.to_bytes())
}

async fn grpc(to: SocketAddr, path: &str, framed: Vec<u8>) -> (String, Bytes) {
    call(TcpStream::connect(to).await.unwrap(), path, framed).await
}

fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut framed = vec![flag];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// Delivery and attribution of the sealed rows of a table.
fn provenance(world: &World, table: TableId) -> Vec<(String, String)> {
    let books = world.data().books();
    let size = read_checkpoint(&books, ORIGIN).unwrap().unwrap().size;
    let mut found = Vec::new();
    for number in 0..size {
        let Body::Seal { segments, .. } = read_manifest(&books, ORIGIN, number).unwrap().0.body
        else {
            continue;
        };
        for segment in segments.iter().filter(|segment| segment.table == table) {
            read_rows(&books.join(&segment.file), table, |_, _, envelope| {
                let words = (envelope.delivery.as_str(), envelope.attribution.as_str());
                found.push((words.0.to_owned(), words.1.to_owned()));
                ControlFlow::Continue(())
            })
            .unwrap();
        }
    }
    found
}

fn pair(delivery: &str, attribution: &str) -> (String, String) {
    (delivery.to_owned(), attribution.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_come_by_every_way_and_are_sealed_as_unsigned_ones() {
    let world = World::new();
    let collector = collector(&world).await;
    let plain = traces(vec![span(1)]).encode_to_vec();
    let packed = gzip(&traces(vec![span(2)]).encode_to_vec());
    let json = serde_json::to_vec(&traces(vec![span(3)])).unwrap();
    let (status, body) = post(collector.http(), "/v1/traces", PROTOBUF, &plain).await;
    assert_eq!(status, 200);
    let taken = ExportTraceServiceResponse::decode(&body[..]).unwrap();
    assert_eq!(taken.partial_success, None);
    let headers = format!("{PROTOBUF}\r\ncontent-encoding: gzip");
    let (status, _) = post(collector.http(), "/v1/traces", &headers, &packed).await;
    assert_eq!(status, 200);
    let headers = "content-type: application/json";
    let (status, body) = post(collector.http(), "/v1/traces", headers, &json).await;
    assert_eq!((status, &body[..1]), (200, &b"{"[..]));
    let both = traces(vec![span(4), span(0)]).encode_to_vec();
    let (status, body) = grpc(collector.grpc(), EXPORT, frame(1, &gzip(&both))).await;
    assert_eq!(status, "0");
    let taken = ExportTraceServiceResponse::decode(&body[5..]).unwrap();
    let partial = taken.partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 1);
    assert!(partial.error_message.contains("trace id"), "{partial:?}");
    collector.stop().await;
    assert_eq!(
        provenance(&world, TableId::Spans),
        vec![pair("acked", "otlp"); 4]
    );
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_crash_and_comes_once() {
    let world = World::new();
    let collector = collector(&world).await;
    for id in 1..=20 {
        let body = traces(vec![span(id)]).encode_to_vec();
        let (status, _) = post(collector.http(), "/v1/traces", PROTOBUF, &body).await;
        assert_eq!(status, 200);
    }
    collector.kill().await;
    // Also a collector that listens for nobody any more delivers what was left.
    let collector = world.collector().await;
    eventually("the spans arrive", || {
        world.rows(TableId::Spans).sorted().len() >= 20
    })
    .await;
    collector.stop().await;
    let mut rows = world.rows(TableId::Spans).sorted();
    rows.dedup();
    assert_eq!(rows.len(), 20);
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_over_http_are_told_what_is_wrong_and_harm_nobody() {
    let world = World::new();
    let collector = collector(&world).await;
    let http = collector.http();
    let good = traces(vec![span(1)]).encode_to_vec();
    let bomb = gzip(&vec![0; 64 << 20]);
    assert!(bomb.len() < 100_000);
    let gzipped = format!("{PROTOBUF}\r\ncontent-encoding: gzip");
    let brotli = format!("{PROTOBUF}\r\ncontent-encoding: br");
    let json = "content-type: application/json";
    let large = vec![b' '; 5 << 20];
    for (path, headers, body, expected) in [
        ("/v1/traces", PROTOBUF, &b"\xff\xff\xff\xff"[..], 400),
        ("/v1/traces", json, b"{\"resourceSpans\": 7}", 400),
        ("/v1/traces", gzipped.as_str(), b"no gzip", 400),
        ("/v1/traces", gzipped.as_str(), &bomb, 413),
        ("/v1/traces", PROTOBUF, &large, 413),
        ("/v1/traces", brotli.as_str(), &good, 415),
        ("/v1/traces", "content-type: text/csv", b"a,b", 415),
        ("/v1/logs", PROTOBUF, &good, 404),
        ("/v1/metrics", PROTOBUF, &good, 404),
        ("/elsewhere", PROTOBUF, &good, 404),
    ] {
        let (status, body) = post(http, path, headers, body).await;
        // Who sends on after an early refusal may see the connection end instead of its text.
        let is_cut = expected == 413 && status == 0;
        assert!(
            status == expected || is_cut,
            "{path} {headers}: {status} {body:?}"
        );
        let (status, _) = post(http, "/v1/traces", PROTOBUF, &good).await;
        assert_eq!(status, 200);
    }
    let (_, body) = post(http, "/v1/traces", json, b"{").await;
    let refused: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(refused["code"], 3);
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_over_grpc_get_the_status_that_names_the_fault() {
    let world = World::new();
    let collector = collector(&world).await;
    let good = frame(0, &traces(vec![span(1)]).encode_to_vec());
    let bomb = frame(1, &gzip(&vec![0; 64 << 20]));
    let huge = [&[0][..], &u32::MAX.to_be_bytes(), b"abc"].concat();
    let logs = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    for (path, framed, expected) in [
        (EXPORT, frame(0, b"\xff\xff\xff"), "3"),
        (EXPORT, frame(1, b"no gzip"), "3"),
        (EXPORT, frame(7, b""), "3"),
        (EXPORT, Vec::new(), "3"),
        (EXPORT, good[..good.len() - 1].to_vec(), "3"),
        (EXPORT, huge, "8"),
        (EXPORT, bomb, "8"),
        (logs, good.clone(), "12"),
        (EXPORT, good.clone(), "0"),
    ] {
        let (status, _) = grpc(collector.grpc(), path, framed.clone()).await;
        assert_eq!(status, expected, "{path} {framed:?}");
    }
    let unnamed = StreamAccessLogsMessage::default().encode_to_vec();
    for (framed, expected) in [
        (frame(0, b"\xff\xff"), "3"),
        (frame(0, &unnamed), "3"),
        (Vec::new(), "0"),
    ] {
        let (status, _) = grpc(collector.als(), ALS, framed).await;
        assert_eq!(status, expected);
    }
    let (status, _) = grpc(collector.als(), EXPORT, good).await;
    assert_eq!(status, "12");
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_for_now_and_takes_again_when_it_is_delivered() {
    let world = World::new();
    let mut config = config(&world, "127.0.0.1:0");
    config.foreign_spool_bytes_max = 1 << 20;
    let collector = world.collector_with(config).await;
    let many = traces((1..200).map(span).collect()).encode_to_vec();
    let send = || async {
        post(collector.http(), "/v1/traces", PROTOBUF, &many)
            .await
            .0
    };
    let mut taken = 0;
    let full = loop {
        match send().await {
            200 => taken += 1,
            refused => break refused,
        }
        assert!(taken < 1_000, "it never fills");
    };
    assert_eq!(full, 503);
    let (status, _) = grpc(collector.grpc(), EXPORT, frame(0, &many)).await;
    assert_eq!(status, "14");
    let until = clock::mono_ns() + 40_000_000_000;
    while send().await != 200 {
        assert!(clock::mono_ns() < until, "it is never emptied");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    collector.stop().await;
    let rows = world.rows(TableId::Spans);
    assert_eq!(
        rows.sorted().len(),
        (taken + 1) * 199,
        "refused is not written"
    );
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_peers_are_cut_off_and_others_do_not_wait() {
    let world = World::new();
    let collector = collector(&world).await;
    let silent = TcpStream::connect(collector.http()).await.unwrap();
    let half = TcpStream::connect(collector.grpc()).await.unwrap();
    let mut slow = TcpStream::connect(collector.http()).await.unwrap();
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: otlp\r\n{PROTOBUF}\r\ncontent-length: 1000\r\n\r\nabc"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut half_sent = half;
    half_sent.write_all(b"PRI * HTT").await.unwrap();
    let good = traces(vec![span(1)]).encode_to_vec();
    let (status, _) = post(collector.http(), "/v1/traces", PROTOBUF, &good).await;
    assert_eq!(status, 200);
    let ends = async {
        let (status, _) = answer(slow).await;
        assert_eq!(status, 408);
        assert_eq!(answer(silent).await.0, 0);
        assert_eq!(answer(half_sent).await.0, 0);
    };
    tokio::time::timeout(Duration::from_secs(25), ends)
        .await
        .unwrap();
    collector.stop().await;
}

fn access_log(node: Option<Node>, request: &str) -> Vec<u8> {
    let message = StreamAccessLogsMessage {
        identifier: node.map(|node| Identifier {
            node: Some(node),
            log_name: "books".to_owned(),
        }),
        log_entries: Some(LogEntries::HttpLogs(HttpAccessLogEntries {
            log_entry: vec![HttpAccessLogEntry {
                common_properties: Some(AccessLogCommon {
                    start_time: Some(Timestamp {
                        seconds: 1_700_000_000,
                        nanos: 0,
                    }),
                    stream_id: request.to_owned(),
                    ..AccessLogCommon::default()
                }),
                ..HttpAccessLogEntry::default()
            }],
        })),
    };
    frame(0, &message.encode_to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn access_logs_become_entries_of_best_effort_and_repeats_do_not() {
    let world = World::new();
    let collector = collector(&world).await;
    let node = || {
        Some(Node {
            id: "envoy-1".to_owned(),
            cluster: "edge".to_owned(),
            ..Node::default()
        })
    };
    let mut stream = access_log(node(), "a");
    stream.extend(access_log(None, "b"));
    stream.extend(access_log(None, "a"));
    let (status, _) = grpc(collector.als(), ALS, stream.clone()).await;
    assert_eq!(status, "0");
    let (status, _) = grpc(collector.als(), ALS, stream).await;
    assert_eq!(status, "0");
    collector.stop().await;
    let words = provenance(&world, TableId::Entries);
    assert_eq!(words, vec![pair("best_effort", "als"); 2]);
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn off_loopback_only_workloads_of_the_trust_domain_are_heard() {
    let world = World::new();
    let collector = world.collector_with(config(&world, "0.0.0.0:0")).await;
    let at = |address: SocketAddr| SocketAddr::from(([127, 0, 0, 1], address.port()));
    let good = traces(vec![span(1)]).encode_to_vec();
    let (status, _) = post(at(collector.http()), "/v1/traces", PROTOBUF, &good).await;
    assert_eq!(status, 0, "plain HTTP must not be answered");
    let tls = client_config(&world.identity(SHOP), Expect::AnyInDomain, &[b"h2"]);
    let stream = TcpStream::connect(at(collector.grpc())).await.unwrap();
    let stream = TlsConnector::from(tls).connect(server_name(), stream).await;
    let (status, _) = call(stream.unwrap(), EXPORT, frame(0, &good)).await;
    assert_eq!(status, "0");
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_cannot_call_its_own_entries_foreign() {
    let world = World::new();
    let collector = collector(&world).await;
    let shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    for (stream, expected) in [
        ("entries/ops_90d/65001", "not_the_writer"),
        ("entries/ops_90d/65002", "not_the_writer"),
        ("entries/ops_90d/65003", "malformed"),
        ("spans/ops_90d/0", "malformed"),
    ] {
        let (mut record, mut body) = (Vec::new(), Vec::new());
        let header = HeaderRef {
            writer: shop.name.as_str(),
            epoch: shop.epoch,
            stream,
            seq: 0,
        };
        Entry::new(Side::Client, Kind::Http, Time::from_ns(1)).encode(&header, &mut record);
        push_record(&mut body, &record);
        let (status, refused) = shop.post(&collector, "/v1/batch", body).await;
        let is_refused = refused["reason"] == expected || refused["reason"] == "not_the_writer";
        assert!(status >= 400 && is_refused, "{stream}: {refused}");
    }
    collector.stop().await;
}

//! What becomes of a span's attributes, and which spans are not taken.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;

use super::span::{SpanRows, rows};
use super::{Format, decode};
use crate::foreign::trouble::Trouble;

fn value(value: any_value::Value) -> Option<AnyValue> {
    Some(AnyValue { value: Some(value) })
}

fn text(key: &str, text: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: value(any_value::Value::StringValue(text.to_owned())),
        ..KeyValue::default()
    }
}

fn number(key: &str, number: i64) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: value(any_value::Value::IntValue(number)),
        ..KeyValue::default()
    }
}

fn span() -> Span {
    Span {
        trace_id: vec![7; 16],
        span_id: vec![8; 8],
        parent_span_id: Vec::new(),
        name: "GET /accounts/{id}".to_owned(),
        kind: 2,
        start_time_unix_nano: 1_700_000_000_000_000_000,
        end_time_unix_nano: 1_700_000_000_000_000_900,
        ..Span::default()
    }
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![
                    text("service.name", "accounts"),
                    text("host.ip", "10.0.0.9"),
                ],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: "flask".to_owned(),
                    ..InstrumentationScope::default()
                }),
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

fn taken(spans: Vec<Span>) -> SpanRows {
    rows(request(spans))
}

#[test]
fn only_the_listed_attributes_are_kept() {
    let secret = "secret-4711";
    let span = Span {
        attributes: vec![
            text("http.request.method", "GET"),
            text("http.route", "/accounts/{id}?key=secret-4711"),
            number("http.response.status_code", 503),
            text(
                "url.full",
                "https://bank.test/accounts/secret-4711?token=secret-4711",
            ),
            text("url.query", secret),
            text("url.path", secret),
            text("http.target", secret),
            text("http.request.header.authorization", secret),
            text("enduser.id", secret),
            text("db.query.text", secret),
            text("error.type", "timeout"),
            number("server.port", 8443),
        ],
        status: Some(Status {
            code: 2,
            message: secret.to_owned(),
        }),
        trace_state: secret.to_owned(),
        ..span()
    };
    let rows = taken(vec![span]);
    let [row] = rows.taken.as_slice() else {
        panic!("{rows:?}")
    };
    assert!(!format!("{row:?}").contains(secret), "{row:?}");
    assert!(!format!("{row:?}").contains("10.0.0.9"), "{row:?}");
    assert_eq!(row.method.as_deref(), Some("GET"));
    assert_eq!(row.route.as_deref(), Some("/accounts/{id}"));
    assert_eq!((row.status_code, row.server_port), (Some(503), Some(8443)));
    assert_eq!((row.kind, row.status), ("server", "error"));
    assert_eq!(row.duration_ns, 900);
    assert_eq!(row.service.as_deref(), Some("accounts"));
    assert_eq!(row.scope.as_deref(), Some("flask"));
    assert_eq!(row.error_type.as_deref(), Some("timeout"));
}

#[test]
fn a_name_keeps_its_template_and_loses_a_raw_path() {
    let named = |name: &str, route: Option<&str>| {
        let attributes = route.map(|route| text("http.route", route));
        let span = Span {
            name: name.to_owned(),
            attributes: attributes.into_iter().collect(),
            ..span()
        };
        taken(vec![span]).taken.remove(0).name
    };
    let route = Some("/accounts/{id}");
    assert_eq!(named("GET /accounts/{id}", route), "GET /accounts/{id}");
    assert_eq!(named("GET /accounts/DE02", route), "GET");
    assert_eq!(named("GET /accounts/DE02", None), "GET");
    assert_eq!(named("https://bank.test/x", None), "");
    assert_eq!(named("find?name=Anna", None), "");
    assert_eq!(named("shop.Payments/Pay", None), "shop.Payments/Pay");
    let long = "\u{fc}".repeat(500);
    assert_eq!(named(&long, None), "\u{fc}".repeat(128));
}

#[test]
fn a_span_without_ids_or_times_is_refused_alone() {
    let broken = [
        Span {
            trace_id: vec![0; 16],
            ..span()
        },
        Span {
            trace_id: vec![1; 15],
            ..span()
        },
        Span {
            span_id: Vec::new(),
            ..span()
        },
        Span {
            parent_span_id: vec![1],
            ..span()
        },
        Span {
            start_time_unix_nano: 0,
            ..span()
        },
        Span {
            end_time_unix_nano: u64::MAX,
            ..span()
        },
        Span {
            end_time_unix_nano: 1,
            ..span()
        },
    ];
    let count = broken.len();
    let rows = taken(broken.into_iter().chain([span()]).collect());
    assert_eq!((rows.taken.len(), rows.refused), (1, count));
    assert_eq!(rows.why, Some("its trace id is not 16 bytes, or zero"));
}

#[test]
fn json_and_protobuf_say_the_same() {
    let request = request(vec![span()]);
    let protobuf = decode(Format::Protobuf, &request.encode_to_vec()).unwrap();
    let json = decode(Format::Json, &serde_json::to_vec(&request).unwrap()).unwrap();
    assert_eq!(rows(protobuf).taken, rows(json).taken);
}

#[test]
fn json_as_the_specification_shows_it_is_read() {
    let json = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"my.service"}}]},
      "scopeSpans":[{"scope":{"name":"my.library","version":"1.0.0"},"spans":[{"traceId":"5B8EFFF798038103D269B633813FC60C",
      "spanId":"EEE19B7EC3C1B174","parentSpanId":"EEE19B7EC3C1B173","name":"I'm a server span",
      "startTimeUnixNano":"1544712660000000000","endTimeUnixNano":"1544712661000000000","kind":2,
      "attributes":[{"key":"my.span.attr","value":{"stringValue":"some value"}}]}]}]}]}"#;
    let rows = rows(decode(Format::Json, json.as_bytes()).unwrap());
    let row = &rows.taken[0];
    assert_eq!(row.service.as_deref(), Some("my.service"));
    assert_eq!(row.duration_ns, 1_000_000_000);
    assert_eq!(row.parent_span_id.unwrap().bytes()[0], 0xee);
}

#[test]
fn what_cannot_be_decoded_is_refused_without_quoting_it() {
    let Err(Trouble::Malformed(why)) = decode(Format::Json, br#"{"resourceSpans": "secret"}"#)
    else {
        panic!()
    };
    assert!(why.contains("line 1") && !why.contains("secret"), "{why}");
    assert!(matches!(
        decode(Format::Protobuf, b"\xff\xff\xff"),
        Err(Trouble::Malformed(_))
    ));
    // Two bytes a span: far too many of them, in very few bytes.
    let mut spans = Vec::new();
    for _ in 0..20_000 {
        spans.extend([0x12, 0x00]);
    }
    let nested = |inner: &[u8], tag: u8| {
        let mut out = vec![tag];
        prost::encoding::encode_varint(inner.len() as u64, &mut out);
        out.extend_from_slice(inner);
        out
    };
    let bomb = nested(&nested(&spans, 0x12), 0x0a);
    assert_eq!(
        decode(Format::Protobuf, &bomb),
        Err(Trouble::TooLarge("16384 spans"))
    );
}

//! Entries that exercise every field: nulls, empty texts, lists, extremes.

use std::sync::Arc;

use counterfoil_entry::entry::Entry;
use counterfoil_entry::id::{Epoch, RetentionClass, SpanId, Stream, TraceId, Writer};
use counterfoil_entry::record::Header;
use counterfoil_entry::table::TableId;
use counterfoil_entry::word::{Decision, Durability, Kind, Outcome, Phase, Side};
use counterfoil_entry::{Hash, Time};

pub(crate) fn header(seq: u64) -> Header {
    Header {
        writer: Writer::parse("spiffe://bank.test/workload/payments#p-1").unwrap(),
        epoch: Epoch(1_661_140_339_210_020_096),
        stream: Stream::new(
            TableId::Entries,
            RetentionClass::parse("sox_7y").unwrap(),
            0,
        ),
        seq,
    }
}

pub(crate) fn full() -> Entry {
    let text = |text: &str| Some(Arc::from(text));
    Entry {
        trace_id: TraceId::new([0x11; 16]),
        span_id: SpanId::new([0x22; 8]),
        parent_span_id: SpanId::new([0x33; 8]),
        end_time: Some(Time::from_ns(1_700_000_000_004_000_000)),
        duration_ns: Some(4_000_000),
        upstream_ns: Some(3_500_000),
        overhead_ns: Some(400_000),
        authz_ns: Some(51),
        queue_ns: Some(7),
        connect_ns: Some(60_000),
        handshake_ns: Some(700_000),
        first_byte_ns: Some(3_400_000),
        clock_offset_ns: Some(-1_234),
        clock_error_ns: Some(5_678),
        source: text("spiffe://bank.test/workload/shop"),
        destination: text("spiffe://bank.test/workload/payments"),
        source_app: text("shop"),
        source_team: text("retail"),
        destination_app: text("payments"),
        destination_team: text("money"),
        site: text("zrh"),
        zone: text("zrh-a"),
        peer_address: text("127.0.0.1"),
        peer_port: Some(49_152),
        upstream_address: text("127.0.0.1:8080"),
        api: text("payments"),
        api_version: text("1.0.0"),
        operation: text("createPayment"),
        method: text("POST"),
        route: text("/payments/{id}"),
        scopes: Arc::from([Arc::from("sox"), Arc::from("pci")]),
        status: Some(201),
        grpc_status: Some(0),
        outcome: Some(Outcome::Ok),
        error_type: text("none"),
        request_bytes: Some(512),
        response_bytes: Some(1_024),
        attempt: 1,
        mtls: true,
        tls_version: text("TLSv1_3"),
        tls_cipher: text("TLS13_AES_256_GCM_SHA384"),
        source_cert_sha256: Some(Hash([0xaa; 32])),
        destination_cert_sha256: Some(Hash([0xbb; 32])),
        decision: Decision::Allow,
        reason: Arc::from("granted"),
        grant_id: text("g-1"),
        shadow_decision: text("deny"),
        shadow_reason: text("grant_expired"),
        bundle_sha256: Some(Hash([0xcc; 32])),
        bundle_version: Some(42),
        policy_stale_ms: Some(900),
        token_issuer: text("https://control.bank.test"),
        token_id: text("jti-1"),
        token_key: text("kid-1"),
        subject: Some([0xdd; 16]),
        on_behalf_of: Some(vec![Arc::from("alice"), Arc::from("bob")]),
        config_sha256: Hash([0xee; 32]),
        build: Arc::from("0.1.0"),
        downstream_ns: Some(100_000),
        retried: true,
        ..Entry::new(
            Side::Server,
            Kind::Http,
            Time::from_ns(1_700_000_000_000_000_000),
        )
    }
}

/// Every case of the vector file: a name, the place and the entry.
#[expect(clippy::too_many_lines, reason = "a list, one case a line")]
pub(crate) fn all() -> Vec<(String, Header, Entry)> {
    let bare = || Entry::new(Side::Client, Kind::Http, Time::from_ns(0));
    let mut cases: Vec<(String, Entry)> = vec![
        ("every nullable field null".to_owned(), bare()),
        ("every field present".to_owned(), full()),
    ];
    let mut case = |name: &str, change: &dyn Fn(&mut Entry)| {
        let mut entry = full();
        change(&mut entry);
        cases.push((name.to_owned(), entry));
    };
    case("empty operation is not null", &|e| {
        e.operation = Some(Arc::from(""))
    });
    case("null operation", &|e| e.operation = None);
    case("empty reason", &|e| e.reason = Arc::from(""));
    case("no scopes", &|e| e.scopes = Arc::from([]));
    case("one empty scope", &|e| {
        e.scopes = Arc::from([Arc::from("")])
    });
    case("many scopes", &|e| {
        e.scopes = (0..100).map(|i| Arc::from(format!("s{i}"))).collect()
    });
    case("empty delegation chain", &|e| {
        e.on_behalf_of = Some(Vec::new())
    });
    case("null delegation chain", &|e| e.on_behalf_of = None);
    case("largest durations", &|e| {
        e.duration_ns = Some(u64::MAX);
        e.upstream_ns = Some(u64::MAX);
        e.downstream_ns = Some(u64::MAX);
        e.overhead_ns = Some(u64::MAX);
    });
    case("zero durations", &|e| {
        e.duration_ns = Some(0);
        e.overhead_ns = Some(0);
    });
    case("earliest time", &|e| e.start_time = Time::from_ns(i64::MIN));
    case("latest time", &|e| {
        e.end_time = Some(Time::from_ns(i64::MAX))
    });
    case("time before 1970", &|e| e.start_time = Time::from_ns(-1));
    case("lowest clock offset", &|e| {
        e.clock_offset_ns = Some(i64::MIN)
    });
    case("highest clock offset", &|e| {
        e.clock_offset_ns = Some(i64::MAX)
    });
    case("highest 16-bit values", &|e| {
        e.status = Some(u16::MAX);
        e.grpc_status = Some(u16::MAX);
        e.peer_port = Some(u16::MAX);
        e.attempt = u16::MAX;
    });
    case("text beyond ASCII", &|e| {
        e.operation = Some(Arc::from("Zahlung\u{e4}ndern \u{1f4b6} \u{10ffff}"))
    });
    case("text with control characters", &|e| {
        e.error_type = Some(Arc::from("a\0b\r\n\t\u{7f}"))
    });
    case("long text", &|e| {
        e.route = Some(Arc::from("x".repeat(2_000)))
    });
    case("operation that looks like a path", &|e| {
        e.operation = Some(Arc::from("/hipstershop.EmailService/SendOrderConfirmation"));
    });
    case("a trace id with leading zeros", &|e| {
        e.trace_id = TraceId::new([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    });
    case("a hash of zeros", &|e| {
        e.bundle_sha256 = Some(Hash::default())
    });
    case("not mutual TLS", &|e| e.mtls = false);
    case("not retried", &|e| e.retried = false);
    for side in Side::ALL {
        case(&format!("side {}", side.as_str()), &|e| e.side = *side);
    }
    for kind in Kind::ALL {
        case(&format!("kind {}", kind.as_str()), &|e| e.kind = *kind);
    }
    for phase in Phase::ALL {
        case(&format!("phase {}", phase.as_str()), &|e| e.phase = *phase);
    }
    for outcome in Outcome::ALL {
        case(&format!("outcome {}", outcome.as_str()), &|e| {
            e.outcome = Some(*outcome)
        });
    }
    for decision in Decision::ALL {
        case(&format!("decision {}", decision.as_str()), &|e| {
            e.decision = *decision
        });
    }
    for durability in Durability::ALL {
        case(&format!("durability {}", durability.as_str()), &|e| {
            e.durability = *durability
        });
    }
    cases
        .into_iter()
        .zip(0..)
        .map(|((name, entry), seq)| (name, header(seq), entry))
        .chain([("the last seq".to_owned(), header(u64::MAX), bare())])
        .collect()
}

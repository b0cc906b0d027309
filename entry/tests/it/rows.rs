//! Rows of governance, certificates, health and conformance: every field, nulls and extremes.

use counterfoil_entry::id::{Epoch, RetentionClass, SpanId, Stream, TraceId};
use counterfoil_entry::record::{HeaderRef, RecordView};
use counterfoil_entry::rows::{
    AlertRow, ApiRow, BundleAckRow, BundleRow, CertRotationRow, ConformanceRow, ControlHealthRow,
    GovernanceEventRow, GrantRow, LegalHoldRow, ObjectiveRow, OperationRow, RetentionActionRow,
    SpanRow,
};
use counterfoil_entry::table::TableId;
use counterfoil_entry::{Hash, Time};

/// The tables whose rows have vectors here.
const TABLES: [TableId; 14] = [
    TableId::CertRotations,
    TableId::GovernanceEvents,
    TableId::Grants,
    TableId::Bundles,
    TableId::BundleAcks,
    TableId::Apis,
    TableId::Operations,
    TableId::ControlHealth,
    TableId::Objectives,
    TableId::Alerts,
    TableId::ConformanceResults,
    TableId::RetentionActions,
    TableId::LegalHolds,
    TableId::Spans,
];

const EARLIEST: Time = Time::from_ns(i64::MIN);
const LATEST: Time = Time::from_ns(i64::MAX);

fn at(ms: i64) -> Time {
    Time::from_ns(1_700_000_000_000_000_000 + ms * 1_000_000)
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Gives each row's encoder a header of its table.
struct Cases(Vec<(String, Vec<u8>)>);

impl Cases {
    fn add(
        &mut self,
        table: TableId,
        name: &str,
        encode: impl FnOnce(&HeaderRef<'_>, &mut Vec<u8>),
    ) {
        let stream = Stream::new(table, RetentionClass::parse("permanent").unwrap(), 3).to_string();
        let header = HeaderRef {
            writer: "spiffe://bank.test/counterfoil/control#c-1",
            epoch: Epoch(1_661_140_339_210_020_096),
            stream: &stream,
            seq: self.0.len() as u64,
        };
        let mut out = Vec::new();
        encode(&header, &mut out);
        self.0.push((format!("{}: {name}", table.name()), out));
    }
}

/// Every case: a name and R.
pub(crate) fn all() -> Vec<(String, Vec<u8>)> {
    let mut cases = Cases(Vec::new());
    governance_events(&mut cases);
    grants(&mut cases);
    bundles(&mut cases);
    apis(&mut cases);
    operations(&mut cases);
    cert_rotations(&mut cases);
    control_health(&mut cases);
    conformance_results(&mut cases);
    objectives(&mut cases);
    alerts(&mut cases);
    retention_actions(&mut cases);
    legal_holds(&mut cases);
    spans(&mut cases);
    cases.0
}

fn governance_events(cases: &mut Cases) {
    let full = GovernanceEventRow {
        event_id: "ev-1".to_owned(),
        occurred_at: at(0),
        actor: "alice".to_owned(),
        action: "grant.approved".to_owned(),
        object_kind: "grant".to_owned(),
        object_id: "g-1".to_owned(),
        object_revision: Some(2),
        before_sha256: Some(Hash([0x11; 32])),
        after_sha256: Some(Hash([0x22; 32])),
        ticket: text("CHG-4711"),
        comment: text("für den Abschluss \u{1f4b6}"),
        outcome: "refused".to_owned(),
        reason: text("four_eyes"),
        peer_address: text("127.0.0.1"),
    };
    let nulls = GovernanceEventRow {
        object_revision: None,
        before_sha256: None,
        after_sha256: None,
        ticket: None,
        comment: None,
        reason: None,
        peer_address: None,
        ..full.clone()
    };
    let extremes = GovernanceEventRow {
        occurred_at: EARLIEST,
        actor: String::new(),
        object_revision: Some(u64::MAX),
        after_sha256: Some(Hash::default()),
        comment: text(""),
        ..full.clone()
    };
    for (name, row) in [
        ("every field", full),
        ("nulls", nulls),
        ("extremes", extremes),
    ] {
        cases.add(TableId::GovernanceEvents, name, |h, out| row.encode(h, out));
    }
}

fn grants(cases: &mut Cases) {
    let full = GrantRow {
        grant_id: "g-1".to_owned(),
        revision: 4,
        state: "revoked".to_owned(),
        consumer: "spiffe://bank.test/workload/shop".to_owned(),
        consumer_app: text("shop"),
        api: "payments".to_owned(),
        operations: vec!["createPayment".to_owned(), "shop.Cart/Get".to_owned()],
        purpose: "checkout".to_owned(),
        ticket: "CHG-4711".to_owned(),
        requested_by: "alice".to_owned(),
        requested_at: at(0),
        decided_by: text("bob"),
        decided_at: Some(at(1)),
        not_before: Some(at(2)),
        expires: at(3),
        reviewed_by: text("carol"),
        reviewed_at: Some(at(4)),
        review_due_at: Some(at(5)),
        revoked_by: text("dave"),
        revoked_at: Some(at(6)),
        recorded_at: at(7),
        event_id: "ev-4".to_owned(),
        owner_team: text("money"),
    };
    let nulls = GrantRow {
        revision: 1,
        state: "requested".to_owned(),
        consumer_app: None,
        decided_by: None,
        decided_at: None,
        not_before: None,
        reviewed_by: None,
        reviewed_at: None,
        review_due_at: None,
        revoked_by: None,
        revoked_at: None,
        owner_team: None,
        ..full.clone()
    };
    let extremes = GrantRow {
        revision: u64::MAX,
        operations: Vec::new(),
        not_before: Some(EARLIEST),
        expires: LATEST,
        owner_team: text(""),
        ..full.clone()
    };
    for (name, row) in [
        ("every field", full),
        ("nulls", nulls),
        ("extremes", extremes),
    ] {
        cases.add(TableId::Grants, name, |h, out| row.encode(h, out));
    }
}

fn bundles(cases: &mut Cases) {
    let full = BundleRow {
        audience: "spiffe://bank.test/workload/payments".to_owned(),
        rights_version: 42,
        endpoints_version: 7,
        sha256: Hash([0x33; 32]),
        rights_sha256: Hash([0x44; 32]),
        published_at: at(0),
        event_id: text("ev-4"),
        author: text("bob"),
        grants: 12,
    };
    let nulls = BundleRow {
        event_id: None,
        author: None,
        ..full.clone()
    };
    let extremes = BundleRow {
        rights_version: u64::MAX,
        endpoints_version: 0,
        sha256: Hash([0xff; 32]),
        rights_sha256: Hash::default(),
        grants: u64::MAX,
        ..full.clone()
    };
    for (name, row) in [
        ("every field", full),
        ("nulls", nulls),
        ("extremes", extremes),
    ] {
        cases.add(TableId::Bundles, name, |h, out| row.encode(h, out));
    }
    let full = BundleAckRow {
        audience: "spiffe://bank.test/workload/payments".to_owned(),
        sha256: Hash([0x33; 32]),
        rights_version: Some(41),
        outcome: "refused".to_owned(),
        reason: text("older"),
        acked_at: at(1),
        origin_kind: "control".to_owned(),
    };
    let nulls = BundleAckRow {
        rights_version: None,
        reason: None,
        ..full.clone()
    };
    let extremes = BundleAckRow {
        rights_version: Some(u64::MAX),
        acked_at: LATEST,
        origin_kind: "disk".to_owned(),
        ..full.clone()
    };
    for (name, row) in [
        ("every field", full),
        ("nulls", nulls),
        ("extremes", extremes),
    ] {
        cases.add(TableId::BundleAcks, name, |h, out| row.encode(h, out));
    }
}

fn apis(cases: &mut Cases) {
    let full = ApiRow {
        api: "payments".to_owned(),
        api_version: "1.0.0".to_owned(),
        revision: 3,
        status: "deprecated".to_owned(),
        owner_team: "money".to_owned(),
        server: text("spiffe://bank.test/workload/payments"),
        access: "both".to_owned(),
        openapi: "3.1.0".to_owned(),
        document_sha256: Hash([0x55; 32]),
        operations: 17,
        scopes: vec!["sox".to_owned(), "pci".to_owned()],
        class: "sox_7y".to_owned(),
        recorded_at: at(0),
        event_id: "ev-2".to_owned(),
    };
    let nulls = ApiRow {
        server: None,
        ..full.clone()
    };
    let extremes = ApiRow {
        revision: u64::MAX,
        operations: 0,
        scopes: Vec::new(),
        api_version: String::new(),
        ..full.clone()
    };
    for (name, row) in [
        ("every field", full),
        ("nulls", nulls),
        ("extremes", extremes),
    ] {
        cases.add(TableId::Apis, name, |h, out| row.encode(h, out));
    }
}

fn operations(cases: &mut Cases) {
    let full = OperationRow {
        api: "payments".to_owned(),
        api_version: "1.0.0".to_owned(),
        revision: 3,
        operation: "createPayment".to_owned(),
        method: "POST".to_owned(),
        route: "/payments/{id}".to_owned(),
        scopes: vec!["sox".to_owned()],
        class: "sox_7y".to_owned(),
        open: false,
        recorded_at: at(0),
        event_id: "ev-2".to_owned(),
    };
    let extremes = OperationRow {
        revision: u64::MAX,
        operation: "Zahlung \u{e4}ndern".to_owned(),
        scopes: vec![String::new(); 3],
        open: true,
        recorded_at: EARLIEST,
        ..full.clone()
    };
    for (name, row) in [("every field", full), ("extremes", extremes)] {
        cases.add(TableId::Operations, name, |h, out| row.encode(h, out));
    }
}

fn cert_rotations(cases: &mut Cases) {
    let full = CertRotationRow {
        attempt_id: "ro-1".to_owned(),
        workload: "spiffe://bank.test/workload/payments".to_owned(),
        cycle: "0a1b2c".to_owned(),
        attempt: 2,
        trigger: "retry".to_owned(),
        old_serial: text("0a1b2c"),
        old_not_after: Some(at(10)),
        new_serial: text("0d0e0f"),
        new_not_after: Some(at(20)),
        started_at: at(1),
        ended_at: at(2),
        outcome: "failed".to_owned(),
        error_class: text("swap_failed"),
    };
    let nulls = CertRotationRow {
        cycle: "first".to_owned(),
        attempt: 1,
        trigger: "first".to_owned(),
        old_serial: None,
        old_not_after: None,
        new_serial: None,
        new_not_after: None,
        error_class: None,
        ..full.clone()
    };
    let extremes = CertRotationRow {
        attempt: u64::MAX,
        old_not_after: Some(EARLIEST),
        new_not_after: Some(LATEST),
        new_serial: text(""),
        ..full.clone()
    };
    for (name, row) in [
        ("every field", full),
        ("nulls", nulls),
        ("extremes", extremes),
    ] {
        cases.add(TableId::CertRotations, name, |h, out| row.encode(h, out));
    }
}

fn control_health(cases: &mut Cases) {
    let full = ControlHealthRow {
        component: "control".to_owned(),
        reporter: "prober".to_owned(),
        slot_start: at(0),
        slots: 6,
        ok: 59,
        failed: 1,
        up: true,
        latency_max_ns: Some(1_234_567),
        error_class: text("timeout"),
    };
    let nulls = ControlHealthRow {
        latency_max_ns: None,
        error_class: None,
        ..full.clone()
    };
    let extremes = ControlHealthRow {
        slot_start: Time::from_ns(-10_000_000_000),
        slots: 1,
        ok: 0,
        failed: u64::MAX,
        up: false,
        latency_max_ns: Some(u64::MAX),
        ..full.clone()
    };
    for (name, row) in [
        ("every field", full),
        ("nulls", nulls),
        ("extremes", extremes),
    ] {
        cases.add(TableId::ControlHealth, name, |h, out| row.encode(h, out));
    }
}

fn conformance_results(cases: &mut Cases) {
    let full = ConformanceRow {
        run_id: "run-1".to_owned(),
        check: "J13".to_owned(),
        target: "127.0.0.1:15006".to_owned(),
        title: "a token bound to another certificate is denied".to_owned(),
        severity: "critical".to_owned(),
        outcome: "pass".to_owned(),
        evidence: text("HTTP/1.1 403\r\nx-counterfoil-reason: token_cnf_mismatch\r\n"),
        checked_at: at(0),
        build: "counterfoil 0.1.0".to_owned(),
    };
    let nulls = ConformanceRow {
        evidence: None,
        ..full.clone()
    };
    let extremes = ConformanceRow {
        evidence: Some("x".repeat(2_000)),
        checked_at: LATEST,
        build: String::new(),
        ..full.clone()
    };
    for (name, row) in [
        ("every field", full),
        ("nulls", nulls),
        ("extremes", extremes),
    ] {
        cases.add(TableId::ConformanceResults, name, |h, out| {
            row.encode(h, out)
        });
    }
}

fn objectives(cases: &mut Cases) {
    let full = ObjectiveRow {
        objective: "latency".to_owned(),
        ordinal: 1,
        revision: 3,
        state: "in_force".to_owned(),
        service: text("payments"),
        operation: text("createPayment"),
        threshold_ns: Some(500_000_000),
        target: "0.999".to_owned(),
        time_window: "1M from 2026-01-01T00:00:00 Europe/Amsterdam".to_owned(),
        events_min: 100,
        sha256: Hash([0x33; 32]),
        recorded_at: at(5),
    };
    let nulls = ObjectiveRow {
        service: None,
        operation: None,
        threshold_ns: None,
        ..full.clone()
    };
    let extremes = ObjectiveRow {
        ordinal: u64::MAX,
        revision: 0,
        threshold_ns: Some(u64::MAX),
        recorded_at: EARLIEST,
        ..full.clone()
    };
    for (name, row) in [
        ("every field", full),
        ("nulls", nulls),
        ("extremes", extremes),
    ] {
        cases.add(TableId::Objectives, name, |h, out| row.encode(h, out));
    }
}

fn alerts(cases: &mut Cases) {
    let full = AlertRow {
        alert_id: "0123456789abcdef".to_owned(),
        revision: 7,
        alertname: "SloBurnRate".to_owned(),
        severity: "page".to_owned(),
        state: "resolved".to_owned(),
        service: text("payments"),
        objective: text("latency"),
        operation: text("createPayment"),
        window: text("1h/5m"),
        active_since: at(0),
        changed_at: at(1),
        evaluated_until: at(2),
        value: text("15.25"),
        threshold: text("14.4"),
        target: text("0.999"),
        labels: "alertname=SloBurnRate,service=payments".to_owned(),
        summary: "payments burns its error budget".to_owned(),
        reason: text("recovered"),
    };
    let nulls = AlertRow {
        service: None,
        objective: None,
        operation: None,
        window: None,
        value: None,
        threshold: None,
        target: None,
        reason: None,
        ..full.clone()
    };
    let extremes = AlertRow {
        revision: u64::MAX,
        changed_at: LATEST,
        evaluated_until: EARLIEST,
        summary: String::new(),
        ..full.clone()
    };
    for (name, row) in [
        ("every field", full),
        ("nulls", nulls),
        ("extremes", extremes),
    ] {
        cases.add(TableId::Alerts, name, |h, out| row.encode(h, out));
    }
}

fn retention_actions(cases: &mut Cases) {
    let full = RetentionActionRow {
        action_id: "a-1".to_owned(),
        step: "approved".to_owned(),
        occurred_at: at(0),
        actor: text("rita"),
        plan_sha256: Some(Hash([0x33; 32])),
        outcome: "refused".to_owned(),
        reason: text("four_eyes"),
        detail: text("rita made the plan"),
        segments: Some(3),
        records: Some(1_000),
        bytes: Some(4_096),
        oldest: Some(at(-5)),
        newest: Some(at(5)),
        classes_sha256: Some(Hash([0x44; 32])),
        log_origin: text("bank.test/collector-1"),
        manifest: Some(9),
    };
    let nulls = RetentionActionRow {
        actor: None,
        plan_sha256: None,
        reason: None,
        detail: None,
        segments: None,
        records: None,
        bytes: None,
        oldest: None,
        newest: None,
        classes_sha256: None,
        log_origin: None,
        manifest: None,
        ..full.clone()
    };
    let extremes = RetentionActionRow {
        occurred_at: EARLIEST,
        records: Some(u64::MAX),
        oldest: Some(EARLIEST),
        newest: Some(LATEST),
        detail: text(""),
        ..full.clone()
    };
    for (name, row) in [
        ("every field", full),
        ("nulls", nulls),
        ("extremes", extremes),
    ] {
        let mut record = Vec::new();
        cases.add(TableId::RetentionActions, name, |h, out| {
            row.encode(h, out);
            record.clone_from(out);
        });
        assert_eq!(RetentionActionRow::decode(&record).unwrap().1, row);
    }
}

fn legal_holds(cases: &mut Cases) {
    let full = LegalHoldRow {
        hold_id: "h-1".to_owned(),
        revision: 1,
        state: "placed".to_owned(),
        matter: "2026/17 Müller".to_owned(),
        service: text("payments"),
        operation: text("createPayment"),
        trace_id: "0af7651916cd43dd8448eb211c80319c".parse().ok(),
        from_time: Some(at(0)),
        until_time: Some(at(9)),
        actor: "lea".to_owned(),
        reason: "court order".to_owned(),
        occurred_at: at(1),
    };
    let nulls = LegalHoldRow {
        service: None,
        operation: None,
        trace_id: None,
        from_time: None,
        until_time: None,
        ..full.clone()
    };
    let extremes = LegalHoldRow {
        revision: u64::MAX,
        from_time: Some(EARLIEST),
        until_time: Some(LATEST),
        reason: String::new(),
        ..full.clone()
    };
    for (name, row) in [
        ("every field", full),
        ("nulls", nulls),
        ("extremes", extremes),
    ] {
        let mut record = Vec::new();
        cases.add(TableId::LegalHolds, name, |h, out| {
            row.encode(h, out);
            record.clone_from(out);
        });
        assert_eq!(LegalHoldRow::decode(&record).unwrap().1, row);
    }
}

fn spans(cases: &mut Cases) {
    let full = SpanRow {
        trace_id: TraceId::new([0x4b; 16]).unwrap(),
        span_id: SpanId::new([0x0a; 8]).unwrap(),
        parent_span_id: SpanId::new([0x0b; 8]),
        name: "POST /payments/{id}".to_owned(),
        kind: "server",
        start_time: at(0),
        end_time: at(12),
        duration_ns: 12_000_000,
        status: "error",
        service: text("payments"),
        service_namespace: text("shop"),
        service_instance: text("payments-7"),
        scope: text("opentelemetry.instrumentation.flask"),
        method: text("POST"),
        route: text("/payments/{id}"),
        status_code: Some(503),
        rpc_system: text("grpc"),
        rpc_service: text("shop.Payments"),
        rpc_method: text("Pay"),
        grpc_status: Some(14),
        server_address: text("payments.bank.test"),
        server_port: Some(8443),
        peer_service: text("ledger"),
        error_type: text("503"),
    };
    let nulls = SpanRow {
        parent_span_id: None,
        service: None,
        service_namespace: None,
        service_instance: None,
        scope: None,
        method: None,
        route: None,
        status_code: None,
        rpc_system: None,
        rpc_service: None,
        rpc_method: None,
        grpc_status: None,
        server_address: None,
        server_port: None,
        peer_service: None,
        error_type: None,
        ..full.clone()
    };
    let extremes = SpanRow {
        name: String::new(),
        start_time: EARLIEST,
        end_time: LATEST,
        duration_ns: u64::MAX,
        status_code: Some(u16::MAX),
        server_port: Some(0),
        ..full.clone()
    };
    for (name, row) in [
        ("every field", full),
        ("nulls", nulls),
        ("extremes", extremes),
    ] {
        cases.add(TableId::Spans, name, |h, out| row.encode(h, out));
    }
}

fn ids(record: &[u8]) -> Vec<u16> {
    let view = RecordView::parse(record).unwrap();
    view.decoder().map(|field| field.unwrap().0).collect()
}

#[test]
fn a_row_holds_each_column_of_its_table_and_without_nulls_the_mandatory_ones() {
    let cases = all();
    for table in TABLES {
        let record = |name: &str| {
            let name = format!("{}: {name}", table.name());
            let found = cases.iter().find(|(case, _)| *case == name);
            found.map(|(_, record)| record)
        };
        let columns = table.table().columns;
        let every: Vec<u16> = columns.iter().map(|column| column.id).collect();
        assert_eq!(ids(record("every field").unwrap()), every, "{table:?}");
        let mandatory: Vec<u16> = columns
            .iter()
            .filter(|column| !column.nullable)
            .map(|column| column.id)
            .collect();
        match record("nulls") {
            Some(record) => assert_eq!(ids(record), mandatory, "{table:?}"),
            None => assert_eq!(every, mandatory, "{table:?} has nullable columns"),
        }
        let view = RecordView::parse(record("extremes").unwrap()).unwrap();
        assert_eq!(view.table, table.number());
    }
}

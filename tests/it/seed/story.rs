//! An hour of a small bank: web calls cart and pay, rogue is denied, and a few things go wrong. Every
//! number is known.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use counterfoil_entry::entry::Entry;
use counterfoil_entry::id::{SpanId, TraceId};
use counterfoil_entry::rows::{
    AlertRow, BundleAckRow, CertRotationRow, ConflictRow, ConformanceRow, ControlHealthRow, GapRow,
    GovernanceEventRow, GrantRow, IssuanceRow, LegalHoldRow, QueryLogRow, RetentionActionRow,
};
use counterfoil_entry::table::TableId;
use counterfoil_entry::word::{Decision, Kind, Outcome, Side};
use counterfoil_entry::{Hash, Time, clock};

use super::{BUILD, CLASS, DOMAIN, Proxy, Seed};

const MS: i64 = 1_000_000;
const S: i64 = 1_000 * MS;
const MINUTE: i64 = 60 * S;
const DAY: i64 = 86_400 * S;
const MINUTES: i64 = 60;

/// The estate, its books, and when it all happened.
pub(crate) struct Story {
    seed: Seed,
    calls: u64,
    /// First instant of the hour, a full minute.
    pub(crate) from: Time,
    /// First instant after it.
    pub(crate) until: Time,
    web: Proxy,
    cart: Proxy,
    pay: Proxy,
    rogue: Proxy,
    control: Proxy,
    collector: Proxy,
    query: Proxy,
}

impl Story {
    /// Writes and seals the hour, which ended about a minute ago.
    pub(crate) fn told() -> Self {
        let now = clock::wall();
        let until = now.plus_ns(-now.as_ns().rem_euclid(MINUTE) - MINUTE);
        let mut story = Self {
            seed: Seed::init(),
            calls: 0,
            from: until.plus_ns(-MINUTES * MINUTE),
            until,
            web: Proxy::new("workload/web"),
            cart: Proxy::new("workload/cart"),
            pay: Proxy::new("workload/pay"),
            rogue: Proxy::new("workload/rogue"),
            control: Proxy::new("counterfoil/control"),
            collector: Proxy::new("counterfoil/collector"),
            query: Proxy::new("counterfoil/query"),
        };
        for minute in 0..MINUTES {
            story.minute(minute);
        }
        story.refusals();
        story.rights();
        story.certificates();
        story.control_plane();
        story.evidence();
        story.questions();
        story.alerts();
        story.retention();
        story.state(story.until);
        story.seed.seal();
        story
    }

    pub(crate) fn data(&self) -> &Path {
        &self.seed.data
    }

    pub(crate) fn password(&self) -> &str {
        &self.seed.password
    }

    /// A folder that goes with the story.
    pub(crate) fn folder(&self) -> PathBuf {
        self.seed.folder.path().to_owned()
    }

    fn at(&self, minute: i64, second: i64) -> Time {
        self.from.plus_ns(minute * MINUTE + second * S)
    }

    /// Ten calls of cart, one of which is slow, and two of pay. In minute 30 five of cart fail; one call of
    /// minute 20 has no other half; seven of minute 40 would be denied by the proposed rights.
    fn minute(&mut self, minute: i64) {
        for nth in 0..10 {
            let (mut client, mut server) = self.halves("cart", "GetCart", self.at(minute, nth * 6));
            let took_ms = if nth == 9 { 40 } else { 4 };
            lasting(&mut client, &mut server, took_ms);
            if minute == 30 && nth < 5 {
                for half in [&mut client, &mut server] {
                    half.outcome = Some(Outcome::ServerError);
                    half.status = Some(500);
                    half.error_type = Some("status_500".into());
                }
            }
            if minute == 40 && nth < 7 {
                server.shadow_decision = Some("deny".into());
                server.shadow_reason = Some("grant_none".into());
            }
            self.seed.write(&mut self.web, &client);
            self.seed.write(&mut self.cart, &server);
        }
        for nth in 0..2 {
            let (mut client, mut server) = self.halves("pay", "Charge", self.at(minute, nth * 20));
            lasting(&mut client, &mut server, 12);
            if minute == 50 && nth == 0 {
                // Not over the mesh: such a call has no counterpart that is due.
                (client.mtls, server.mtls) = (false, false);
            }
            self.seed.write(&mut self.web, &client);
            self.seed.write(&mut self.pay, &server);
        }
        if minute == 20 {
            let (mut client, mut server) = self.halves("cart", "GetCart", self.at(minute, 59));
            lasting(&mut client, &mut server, 4);
            self.seed.write(&mut self.web, &client);
            Seed::lose(&mut self.cart);
        }
        if minute % 10 == 9 {
            self.state(self.at(minute, 59));
        }
    }

    /// Both halves of a call from web, without how long they took.
    fn halves(&mut self, to: &str, operation: &str, at: Time) -> (Entry, Entry) {
        self.calls += 1;
        let id = self.calls.to_be_bytes();
        let mut trace = [1; 16];
        trace[8..].copy_from_slice(&id);
        let half = |side| {
            let mut entry = Entry::new(side, Kind::Http, at);
            entry.trace_id = TraceId::new(trace);
            entry.source = Some(format!("spiffe://{DOMAIN}/workload/web").into());
            entry.destination = Some(format!("spiffe://{DOMAIN}/workload/{to}").into());
            entry.source_app = Some("web".into());
            entry.destination_app = Some(to.into());
            entry.api = Some(to.into());
            entry.operation = Some(operation.into());
            entry.method = Some("GET".into());
            entry.route = Some(format!("/{operation}").into());
            entry.status = Some(200);
            entry.outcome = Some(Outcome::Ok);
            entry.request_bytes = Some(10);
            entry.response_bytes = Some(20);
            entry.mtls = true;
            entry.decision = Decision::Allow;
            entry.reason = "granted".into();
            entry.build = BUILD.into();
            entry
        };
        let (mut client, mut server) = (half(Side::Client), half(Side::Server));
        client.span_id = SpanId::new(id);
        client.decision = Decision::NotRequired;
        client.reason = "callee_decides".into();
        server.span_id = SpanId::new((self.calls | 1 << 40).to_be_bytes());
        server.parent_span_id = SpanId::new(id);
        server.grant_id = Some(format!("g-{to}").into());
        (client, server)
    }

    /// Four denials of rogue without a grant, one for its token, and three refused handshakes.
    fn refusals(&mut self) {
        for nth in 0..5 {
            let (mut client, mut server) = self.halves("pay", "Charge", self.at(10, nth));
            lasting(&mut client, &mut server, 1);
            for half in [&mut client, &mut server] {
                half.source = Some(Arc::from(self.rogue.id()));
                half.source_app = Some("rogue".into());
                half.outcome = Some(Outcome::Denied);
                half.status = Some(403);
            }
            server.decision = Decision::Deny;
            server.grant_id = None;
            server.reason = if nth < 4 {
                "grant_none"
            } else {
                "token_expired"
            }
            .into();
            self.seed.write(&mut self.rogue, &client);
            self.seed.write(&mut self.pay, &server);
        }
        for nth in 0..3 {
            let mut entry = Entry::new(Side::Server, Kind::TlsFailure, self.at(12, nth));
            entry.end_time = Some(entry.start_time);
            entry.destination = Some(Arc::from(self.pay.id()));
            entry.peer_address = Some("127.0.0.9".into());
            entry.decision = Decision::Deny;
            entry.reason = "tls_no_client_cert".into();
            entry.build = BUILD.into();
            self.seed.write(&mut self.pay, &entry);
        }
    }

    /// web may call cart and pay; a grant of rogue was approved and revoked within the hour.
    fn rights(&mut self) {
        let opened = self.from.plus_ns(-DAY);
        for (name, consumer, api, at) in [
            ("g-cart", "web", "cart", opened),
            ("g-pay", "web", "pay", opened),
            ("g-rogue", "rogue", "pay", self.at(1, 0)),
        ] {
            let mut row = grant(name, consumer, api, at);
            self.grant(&row);
            row.revision = 2;
            row.state = "approved".into();
            row.decided_by = Some("bob".into());
            row.decided_at = Some(at);
            row.recorded_at = at;
            self.grant(&row);
            if name == "g-rogue" {
                row.revision = 3;
                row.state = "revoked".into();
                row.revoked_by = Some("bob".into());
                row.revoked_at = Some(self.at(5, 0));
                row.recorded_at = self.at(5, 0);
                self.grant(&row);
            }
        }
        for (minute, action, outcome) in [
            (1, "grant.approved", "done"),
            (5, "grant.revoked", "done"),
            (6, "grant.approved", "refused"),
        ] {
            let row = GovernanceEventRow {
                event_id: format!("v-{minute}"),
                occurred_at: self.at(minute, 0),
                actor: "bob".into(),
                action: action.into(),
                object_kind: "grant".into(),
                object_id: "g-rogue".into(),
                object_revision: Some(2),
                before_sha256: None,
                after_sha256: None,
                ticket: Some("T-1".into()),
                comment: None,
                outcome: outcome.into(),
                reason: (outcome == "refused").then(|| "four_eyes".into()),
                peer_address: None,
            };
            let table = (TableId::GovernanceEvents, "permanent");
            self.seed.put(&mut self.control, table, |header, out| {
                row.encode(header, out)
            });
        }
        for (minute, outcome) in [(1, "applied"), (5, "applied"), (7, "refused")] {
            let row = BundleAckRow {
                audience: self.pay.id().to_owned(),
                sha256: Hash([1; 32]),
                rights_version: Some(u64::try_from(minute).unwrap()),
                outcome: outcome.into(),
                reason: (outcome == "refused").then(|| "signature".into()),
                acked_at: self.at(minute, 1),
                origin_kind: "control".into(),
            };
            let table = (TableId::BundleAcks, "audit_7y");
            self.seed
                .put(&mut self.pay, table, |header, out| row.encode(header, out));
        }
    }

    fn grant(&mut self, row: &GrantRow) {
        let table = (TableId::Grants, "permanent");
        self.seed.put(&mut self.control, table, |header, out| {
            row.encode(header, out)
        });
    }

    /// Nine of ten attempts to renew succeed; each workload has a certificate for another day.
    fn certificates(&mut self) {
        for attempt in 1..=10 {
            let good = attempt != 4;
            let at = self.at(5 * i64::try_from(attempt).unwrap(), 0);
            let row = CertRotationRow {
                attempt_id: format!("r-{attempt}"),
                workload: self.web.id().to_owned(),
                cycle: format!("{attempt:02}"),
                attempt,
                trigger: "scheduled".into(),
                old_serial: Some(format!("{attempt:02}")),
                old_not_after: Some(self.until.plus_ns(DAY)),
                new_serial: good.then(|| format!("{:02}", attempt + 1)),
                new_not_after: good.then(|| self.until.plus_ns(DAY)),
                started_at: at,
                ended_at: at.plus_ns(20 * MS),
                outcome: if good { "success" } else { "failed" }.into(),
                error_class: (!good).then(|| "ca_unreachable".into()),
            };
            let table = (TableId::CertRotations, "audit_7y");
            self.seed
                .put(&mut self.web, table, |header, out| row.encode(header, out));
        }
        for (nth, name) in (1_u8..).zip(["web", "cart", "pay"]) {
            let row = IssuanceRow {
                kind: "svid".into(),
                serial: Some(format!("{nth:02x}")),
                spiffe_id: format!("spiffe://{DOMAIN}/workload/{name}"),
                not_before: Some(self.from),
                not_after: Some(self.until.plus_ns(DAY)),
                cert_sha256: Some(Hash([nth; 32])),
                spki_sha256: None,
                issued_at: self.from,
                method: Some("renewal".into()),
                subject_epoch: None,
                peer_address: None,
            };
            let table = (TableId::Issuance, "permanent");
            self.seed.put(&mut self.control, table, |header, out| {
                row.encode(header, out)
            });
        }
    }

    /// The prober found control in each slot, but for the twelve of minutes 33 and 34.
    fn control_plane(&mut self) {
        for minute in 0..MINUTES {
            let up = !(33..35).contains(&minute);
            let row = ControlHealthRow {
                component: "control".into(),
                reporter: "prober".into(),
                slot_start: self.at(minute, 0),
                slots: 6,
                ok: if up { 60 } else { 0 },
                failed: if up { 0 } else { 60 },
                up,
                latency_max_ns: None,
                error_class: (!up).then(|| "unreachable".into()),
            };
            let table = (TableId::ControlHealth, "ops_13m");
            self.seed.put(&mut self.query, table, |header, out| {
                row.encode(header, out)
            });
        }
    }

    /// A gap that is closed and one that is open, a conflict, and two conformance checks.
    fn evidence(&mut self) {
        for (revision, gap, closed) in [(1, "a", false), (2, "a", true), (1, "b", false)] {
            let row = GapRow {
                gap_id: gap.into(),
                revision,
                subject_writer: self.cart.writer.to_string(),
                subject_epoch: 1,
                subject_stream: Some(format!("entries/{CLASS}/0")),
                from_seq: Some(210),
                until_seq: Some(211),
                from_statement: None,
                until_statement: None,
                not_before: None,
                not_after: None,
                cause: "sequence_skipped".into(),
                detected_by: "sequence".into(),
                opened_at: self.at(21, 0),
                closed_at: closed.then(|| self.at(22, 0)),
                explanation: closed.then(|| "found".into()),
                ticket: None,
            };
            let table = (TableId::Gaps, "permanent");
            self.seed.put(&mut self.collector, table, |header, out| {
                row.encode(header, out)
            });
        }
        let row = ConflictRow {
            subject_writer: self.rogue.writer.to_string(),
            subject_epoch: 1,
            number: 3,
            kept_sha256: Hash([1; 32]),
            other_sha256: Hash([2; 32]),
            other_statement: vec![1],
            other_signature: vec![2],
            detected_at: self.at(23, 0),
        };
        let table = (TableId::Conflicts, "permanent");
        self.seed.put(&mut self.collector, table, |header, out| {
            row.encode(header, out)
        });
        for (check, outcome) in [("T01", "pass"), ("T02", "fail")] {
            let row = ConformanceRow {
                run_id: "c-1".into(),
                check: check.into(),
                target: "pay".into(),
                title: "A certificate is demanded".into(),
                severity: "critical".into(),
                outcome: outcome.into(),
                evidence: None,
                checked_at: self.at(2, 0),
                build: BUILD.into(),
            };
            let table = (TableId::ConformanceResults, "audit_7y");
            self.seed.put(&mut self.control, table, |header, out| {
                row.encode(header, out)
            });
        }
    }

    /// Six statements that were answered and one that was refused.
    fn questions(&mut self) {
        for nth in 0..7 {
            let refused = nth == 6;
            let row = QueryLogRow {
                query_id: format!("q-{nth}"),
                phase: if refused { "refused" } else { "end" }.into(),
                endpoint: "postgres".into(),
                principal: "ann".into(),
                role: "auditor".into(),
                purpose: None,
                sql: "select 1".into(),
                parameters: Vec::new(),
                tables: Vec::new(),
                start_time: self.at(15, nth),
                end_time: Some(self.at(15, nth)),
                rows: (!refused).then_some(5),
                bytes: (!refused).then_some(50),
                checkpoint: None,
                result_sha256: None,
                outcome: Some(if refused { "refused" } else { "ok" }.into()),
                sqlstate: refused.then(|| "25006".into()),
                peer_address: None,
            };
            let table = (TableId::QueryLog, "sox_7y");
            self.seed.put(&mut self.query, table, |header, out| {
                row.encode(header, out)
            });
        }
    }

    /// One alert that stands, and one that was resolved.
    fn alerts(&mut self) {
        for (alert, service, states) in [
            ("a", "pay", &["firing"][..]),
            ("b", "cart", &["firing", "resolved"]),
        ] {
            for (revision, state) in (0_u64..).zip(states) {
                let row = AlertRow {
                    alert_id: alert.into(),
                    revision,
                    alertname: "SloBurnRate".into(),
                    severity: "page".into(),
                    state: (*state).into(),
                    service: Some(service.into()),
                    objective: Some("answered".into()),
                    operation: None,
                    window: Some("1h/5m".into()),
                    active_since: self.at(30, 0),
                    changed_at: self.at(30, i64::try_from(revision).unwrap()),
                    evaluated_until: self.at(30, 0),
                    value: Some("20.5".into()),
                    threshold: Some("14.4".into()),
                    target: Some("0.999".into()),
                    labels: format!("alertname=SloBurnRate,service={service}"),
                    summary: format!("{service} burns its budget"),
                    reason: (*state == "resolved").then(|| "recovered".into()),
                };
                let table = (TableId::Alerts, "audit_7y");
                self.seed.put(&mut self.query, table, |header, out| {
                    row.encode(header, out)
                });
            }
        }
    }

    /// A hold, and a plan that it refused.
    fn retention(&mut self) {
        let hold = LegalHoldRow {
            hold_id: "h-1".into(),
            revision: 1,
            state: "placed".into(),
            matter: "2026/17".into(),
            service: Some("pay".into()),
            operation: None,
            trace_id: None,
            from_time: None,
            until_time: None,
            actor: "lea".into(),
            reason: "court order".into(),
            occurred_at: self.at(31, 0),
        };
        let refused = RetentionActionRow {
            action_id: "p-1".into(),
            step: "executed".into(),
            occurred_at: self.at(32, 0),
            actor: Some("rita".into()),
            plan_sha256: Some(Hash([9; 32])),
            outcome: "refused".into(),
            reason: Some("held".into()),
            detail: None,
            segments: Some(3),
            records: Some(7),
            bytes: Some(4_096),
            oldest: None,
            newest: None,
            classes_sha256: None,
            log_origin: None,
            manifest: None,
        };
        let table = (TableId::LegalHolds, "permanent");
        self.seed.put(&mut self.control, table, |header, out| {
            hold.encode(header, out)
        });
        let table = (TableId::RetentionActions, "permanent");
        self.seed.put(&mut self.control, table, |header, out| {
            refused.encode(header, out)
        });
    }

    /// Everybody states what was written.
    fn state(&mut self, time: Time) {
        for proxy in [
            &mut self.web,
            &mut self.cart,
            &mut self.pay,
            &mut self.rogue,
            &mut self.control,
            &mut self.collector,
            &mut self.query,
        ] {
            self.seed.state(proxy, time);
        }
    }
}

/// Both halves took that long by the caller's clock; the proxies cost 0.2 and 0.1 ms of it.
fn lasting(client: &mut Entry, server: &mut Entry, ms: i64) {
    let ns = u64::try_from(ms * MS).unwrap();
    for half in [&mut *client, &mut *server] {
        half.end_time = Some(half.start_time.plus_ns(ms * MS));
    }
    client.duration_ns = Some(ns);
    client.overhead_ns = Some(200_000);
    client.upstream_ns = Some(ns - 200_000);
    client.connect_ns = Some(300_000);
    server.duration_ns = Some(ns - 300_000);
    server.overhead_ns = Some(100_000);
    server.upstream_ns = Some(ns - 400_000);
    server.authz_ns = Some(5_000);
}

fn grant(id: &str, consumer: &str, api: &str, at: Time) -> GrantRow {
    let operation = if api == "cart" { "GetCart" } else { "Charge" };
    GrantRow {
        grant_id: id.into(),
        revision: 1,
        state: "requested".into(),
        consumer: format!("spiffe://{DOMAIN}/workload/{consumer}"),
        consumer_app: Some(consumer.into()),
        api: api.into(),
        operations: vec![operation.into()],
        purpose: "checkout".into(),
        ticket: "T-1".into(),
        requested_by: "ann".into(),
        requested_at: at.plus_ns(-MINUTE),
        decided_by: None,
        decided_at: None,
        not_before: None,
        expires: at.plus_ns(365 * DAY),
        reviewed_by: None,
        reviewed_at: None,
        review_due_at: None,
        revoked_by: None,
        revoked_at: None,
        recorded_at: at.plus_ns(-MINUTE),
        event_id: format!("e-{id}"),
        owner_team: Some("carts".into()),
    }
}

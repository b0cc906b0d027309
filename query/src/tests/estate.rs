//! A small estate whose books are clean: a catalogue, grants, bundles, certificates and calls.

use std::sync::Arc;

use counterfoil_entry::entry::Entry;
use counterfoil_entry::rows::{
    ApiRow, BundleAckRow, BundleRow, CertRotationRow, ControlHealthRow, GrantRow, IssuanceRow,
    OperationRow, QueryLogRow,
};
use counterfoil_entry::statement::StatementKind;
use counterfoil_entry::table::TableId;
use counterfoil_entry::{Hash, Time, clock};
use serde_json::Value;

use super::shop::{Proxy, Shop};
use crate::offline;

pub(super) const MS: i64 = 1_000_000;
pub(super) const S: i64 = 1_000 * MS;
pub(super) const DAY: i64 = 86_400 * S;
pub(super) const WEB: &str = "spiffe://shop.test/workload/web";
pub(super) const CART: &str = "spiffe://shop.test/workload/cart";
/// The grant of web on `GetCart` and `PutCart` of the API `cart`.
pub(super) const GRANT: &str = "g-1";

/// web calls cart, and control decides.
pub(super) struct Estate {
    pub(super) shop: Shop,
    pub(super) control: Proxy,
    pub(super) web: Proxy,
    pub(super) cart: Proxy,
    /// When everything was set up; two hours ago.
    pub(super) opened: Time,
    revisions: u64,
}

impl Estate {
    pub(super) fn open() -> Self {
        let mut shop = Shop::open();
        let opened = clock::wall().plus_ns(-7_200 * S);
        shop.now = opened;
        let (control, web, cart) = (shop.proxy("control"), shop.proxy("web"), shop.proxy("cart"));
        let mut estate = Self {
            shop,
            control,
            web,
            cart,
            opened,
            revisions: 0,
        };
        estate.publish_api(opened, &["Ping"]);
        for (id, hash) in [(WEB, 1), (CART, 2)] {
            estate.svid(id, hash);
        }
        estate
    }

    /// An estate that did all that it should: nothing of it is a finding.
    pub(super) fn clean() -> Self {
        let mut estate = Self::open();
        let opened = estate.opened;
        estate.approve(GRANT, &["GetCart", "PutCart"], opened);
        estate.bundle(1, opened, "e-1");
        estate.ack(1, opened.plus_ns(400 * MS));
        for nth in 1..=10 {
            estate.call("GetCart", opened.plus_ns(nth * S), |_| {});
        }
        estate.call("Ping", opened.plus_ns(S), |entry| {
            entry.reason = Arc::from("open_operation");
            entry.grant_id = None;
        });
        estate.rotation(1, "success", |_| {});
        for minute in 0..2 {
            let slot = Time::from_ns((opened.as_ns() / (60 * S) + minute) * 60 * S);
            estate.health("prober", slot, 6, true);
        }
        for phase in ["start", "end"] {
            estate.question("q-1", phase, opened, |_| {});
        }
        estate
    }

    /// A row of `query_log`: ann asked for entries at `at`, and got three.
    pub(super) fn question(
        &mut self,
        query_id: &str,
        phase: &str,
        at: Time,
        edit: impl FnOnce(&mut QueryLogRow),
    ) {
        let ended = phase == "end";
        let mut row = QueryLogRow {
            query_id: query_id.into(),
            phase: phase.into(),
            endpoint: "postgres".into(),
            principal: "ann".into(),
            role: "auditor".into(),
            purpose: Some("review 7".into()),
            sql: "select * from entries".into(),
            parameters: Vec::new(),
            tables: vec!["entries".into()],
            start_time: at,
            end_time: ended.then(|| at.plus_ns(S)),
            rows: ended.then_some(3),
            bytes: ended.then_some(99),
            checkpoint: None,
            result_sha256: None,
            outcome: ended.then(|| "ok".into()),
            sqlstate: None,
            peer_address: Some("127.0.0.1".into()),
        };
        edit(&mut row);
        self.row(TableId::QueryLog, |header, out| row.encode(header, out));
    }

    pub(super) fn row(
        &mut self,
        table: TableId,
        encode: impl FnOnce(&counterfoil_entry::record::HeaderRef<'_>, &mut Vec<u8>),
    ) {
        self.shop
            .put(&mut self.control, (table, "permanent"), encode);
    }

    /// A revision of the API `cart`, in which `open` operations need no grant.
    pub(super) fn publish_api(&mut self, at: Time, open: &[&str]) {
        self.revisions += 1;
        let revision = self.revisions;
        for operation in ["GetCart", "PutCart", "Ping"] {
            let row = OperationRow {
                api: "cart".into(),
                api_version: "1".into(),
                revision,
                operation: operation.into(),
                method: "GET".into(),
                route: format!("/{operation}"),
                scopes: Vec::new(),
                class: "ops_90d".into(),
                open: open.contains(&operation),
                recorded_at: at,
                event_id: format!("a-{revision}"),
            };
            self.row(TableId::Operations, |header, out| row.encode(header, out));
        }
        let row = ApiRow {
            api: "cart".into(),
            api_version: "1".into(),
            revision,
            status: "published".into(),
            owner_team: "carts".into(),
            server: Some(CART.into()),
            access: "bundle".into(),
            openapi: "3.1.0".into(),
            document_sha256: Hash([3; 32]),
            operations: 3,
            scopes: Vec::new(),
            class: "ops_90d".into(),
            recorded_at: at,
            event_id: format!("a-{revision}"),
        };
        self.row(TableId::Apis, |header, out| row.encode(header, out));
    }

    /// A grant of web that ann asked for and bob approved at `at`, for a year.
    pub(super) fn asked(id: &str, operations: &[&str], at: Time) -> GrantRow {
        GrantRow {
            grant_id: id.into(),
            revision: 1,
            state: "requested".into(),
            consumer: WEB.into(),
            consumer_app: Some("web".into()),
            api: "cart".into(),
            operations: operations.iter().map(|name| (*name).to_owned()).collect(),
            purpose: "checkout".into(),
            ticket: "T-1".into(),
            requested_by: "ann".into(),
            requested_at: at.plus_ns(-60 * S),
            decided_by: None,
            decided_at: None,
            not_before: None,
            expires: at.plus_ns(365 * DAY),
            reviewed_by: None,
            reviewed_at: None,
            review_due_at: None,
            revoked_by: None,
            revoked_at: None,
            recorded_at: at.plus_ns(-60 * S),
            event_id: format!("e-{id}-1"),
            owner_team: Some("carts".into()),
        }
    }

    pub(super) fn put_grant(&mut self, row: &GrantRow) {
        self.row(TableId::Grants, |header, out| row.encode(header, out));
    }

    /// Writes both revisions of such a grant, and returns the second.
    pub(super) fn approve(&mut self, id: &str, operations: &[&str], at: Time) -> GrantRow {
        let asked = Self::asked(id, operations, at);
        self.put_grant(&asked);
        let approved = Self::approved(asked, at);
        self.put_grant(&approved);
        approved
    }

    pub(super) fn approved(asked: GrantRow, at: Time) -> GrantRow {
        GrantRow {
            revision: 2,
            state: "approved".into(),
            decided_by: Some("bob".into()),
            decided_at: Some(at),
            review_due_at: Some(at.plus_ns(90 * DAY)),
            recorded_at: at,
            event_id: format!("e-{}-2", asked.grant_id),
            ..asked
        }
    }

    /// `grant` is revoked at `at`.
    pub(super) fn revoke(&mut self, grant: &GrantRow, at: Time) {
        let row = GrantRow {
            revision: grant.revision + 1,
            state: "revoked".into(),
            revoked_by: Some("bob".into()),
            revoked_at: Some(at),
            recorded_at: at,
            event_id: format!("e-{}-revoked", grant.grant_id),
            ..grant.clone()
        };
        self.put_grant(&row);
    }

    /// Version `version` of cart's bundle is published because of `event_id`.
    pub(super) fn bundle(&mut self, version: u8, at: Time, event_id: &str) {
        let row = BundleRow {
            audience: CART.into(),
            rights_version: version.into(),
            endpoints_version: 1,
            sha256: Hash([version; 32]),
            rights_sha256: Hash([version; 32]),
            published_at: at,
            event_id: Some(event_id.into()),
            author: Some("bob".into()),
            grants: 2,
        };
        self.row(TableId::Bundles, |header, out| row.encode(header, out));
    }

    /// cart puts that version in force.
    pub(super) fn ack(&mut self, version: u8, at: Time) {
        let row = BundleAckRow {
            audience: CART.into(),
            sha256: Hash([version; 32]),
            rights_version: Some(version.into()),
            outcome: "applied".into(),
            reason: None,
            acked_at: at,
            origin_kind: "control".into(),
        };
        let table = (TableId::BundleAcks, "audit_7y");
        self.shop
            .put(&mut self.cart, table, |header, out| row.encode(header, out));
    }

    pub(super) fn svid(&mut self, id: &str, hash: u8) {
        let row = IssuanceRow {
            kind: "svid".into(),
            serial: Some(format!("{hash:02x}")),
            spiffe_id: id.into(),
            not_before: Some(self.opened),
            not_after: Some(self.opened.plus_ns(DAY)),
            cert_sha256: Some(Hash([hash; 32])),
            spki_sha256: None,
            issued_at: self.opened,
            method: Some("join_token".into()),
            subject_epoch: None,
            peer_address: None,
        };
        self.row(TableId::Issuance, |header, out| row.encode(header, out));
    }

    /// A token for `subject`, valid for ten minutes.
    pub(super) fn token(&mut self, jti: &str, subject: &str, at: Time) {
        let row = IssuanceRow {
            kind: "token".into(),
            serial: Some(jti.into()),
            spiffe_id: subject.into(),
            not_before: Some(at),
            not_after: Some(at.plus_ns(600 * S)),
            cert_sha256: Some(Hash([1; 32])),
            spki_sha256: None,
            issued_at: at,
            method: Some("client_credentials".into()),
            subject_epoch: None,
            peer_address: None,
        };
        self.row(TableId::Issuance, |header, out| row.encode(header, out));
    }

    /// web calls an operation of cart at `at`, under [`GRANT`]; `edit` changes what cart's proxy says.
    pub(super) fn call(&mut self, operation: &str, at: Time, edit: impl FnOnce(&mut Entry)) {
        self.call_with(operation, at, |_| {}, edit);
    }

    pub(super) fn call_with(
        &mut self,
        operation: &str,
        at: Time,
        edit_client: impl FnOnce(&mut Entry),
        edit: impl FnOnce(&mut Entry),
    ) {
        let (mut client, mut server) = self.shop.call(&self.web, &self.cart, operation);
        for half in [&mut client, &mut server] {
            half.start_time = at;
            half.end_time = Some(at.plus_ns(5 * MS));
            half.api = Some(Arc::from("cart"));
            half.api_version = Some(Arc::from("1"));
            half.route = Some(Arc::from(format!("/{operation}")));
            half.source_cert_sha256 = Some(Hash([1; 32]));
            half.destination_cert_sha256 = Some(Hash([2; 32]));
        }
        client.decision = counterfoil_entry::word::Decision::NotRequired;
        client.reason = Arc::from("callee_decides");
        server.grant_id = Some(Arc::from(GRANT));
        server.bundle_sha256 = Some(Hash([1; 32]));
        server.bundle_version = Some(1);
        edit_client(&mut client);
        edit(&mut server);
        self.shop.write(&mut self.web, &client);
        self.shop.write(&mut self.cart, &server);
    }

    /// An attempt of web to renew its certificate, of a cycle that ends in an hour.
    pub(super) fn rotation(
        &mut self,
        attempt: u64,
        outcome: &str,
        edit: impl FnOnce(&mut CertRotationRow),
    ) {
        let started_at = self.opened.plus_ns(i64::try_from(attempt).unwrap() * S);
        let failed = outcome != "success";
        let mut row = CertRotationRow {
            attempt_id: format!("{attempt}-{outcome}"),
            workload: WEB.into(),
            cycle: "01".into(),
            attempt,
            trigger: if attempt == 1 { "scheduled" } else { "retry" }.into(),
            old_serial: Some("01".into()),
            old_not_after: Some(self.opened.plus_ns(3_600 * S)),
            new_serial: (!failed).then(|| "03".into()),
            new_not_after: (!failed).then(|| self.opened.plus_ns(DAY)),
            started_at,
            ended_at: started_at.plus_ns(20 * MS),
            outcome: outcome.into(),
            error_class: failed.then(|| "ca_unreachable".into()),
        };
        edit(&mut row);
        let table = (TableId::CertRotations, "audit_7y");
        self.shop
            .put(&mut self.web, table, |header, out| row.encode(header, out));
    }

    /// web's prober (or proxy) tells of `slots` slots.
    pub(super) fn health(&mut self, reporter: &str, slot_start: Time, slots: u64, up: bool) {
        let row = health(reporter, slot_start, slots, up);
        let table = (TableId::ControlHealth, "ops_13m");
        self.shop
            .put(&mut self.web, table, |header, out| row.encode(header, out));
    }

    /// Everybody states what was written, at `at`.
    pub(super) fn state(&mut self, at: Time) {
        self.shop.now = at;
        for proxy in [&mut self.control, &mut self.web, &mut self.cart] {
            self.shop.state(proxy, StatementKind::Regular, 0);
        }
    }

    pub(super) async fn ask(&self, sql: &str) -> Value {
        ask(&self.shop, sql).await
    }

    /// The values of one column, as texts.
    pub(super) async fn column(&self, sql: &str) -> Vec<String> {
        let rows = self.ask(sql).await;
        let first = |row: &Value| match row.as_object().unwrap().values().next() {
            Some(Value::String(text)) => text.clone(),
            other => other.unwrap().to_string(),
        };
        rows.as_array().unwrap().iter().map(first).collect()
    }
}

pub(super) fn health(reporter: &str, slot_start: Time, slots: u64, up: bool) -> ControlHealthRow {
    ControlHealthRow {
        component: "control".into(),
        reporter: reporter.into(),
        slot_start,
        slots,
        ok: u64::from(up),
        failed: u64::from(!up),
        up,
        latency_max_ns: None,
        error_class: (!up).then(|| "unreachable".into()),
    }
}

pub(super) async fn ask(shop: &Shop, sql: &str) -> Value {
    let (schema, batches) = offline::query(shop.path(), None, sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let rows = batches
        .iter()
        .flat_map(|batch| crate::json::rows(&schema, batch).unwrap());
    Value::Array(rows.collect())
}

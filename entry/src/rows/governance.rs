//! Rows of the governance plane: what was decided, by whom, and what followed from it.

use crate::record::{self, HeaderRef};
use crate::table::TableId;
use crate::{Hash, Time};

use super::hash;

/// One row of `governance_events`: a change of catalogue or rights, or an attempt that was refused.
/// Field names are the column names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GovernanceEventRow {
    /// The event; rows that it caused in other tables name it.
    pub event_id: String,
    /// When it happened, by control's wall clock.
    pub occurred_at: Time,
    /// Who did it: a person's name, or a SPIFFE id.
    pub actor: String,
    /// What was done, as in `grant.approved`.
    pub action: String,
    /// `api`, `grant`, `workload` or `key`.
    pub object_kind: String,
    /// Which one.
    pub object_id: String,
    /// Its revision after the event.
    pub object_revision: Option<u64>,
    /// SHA-256 of the object before; null when there was none.
    pub before_sha256: Option<Hash>,
    /// SHA-256 of the object after; null when there is none any more.
    pub after_sha256: Option<Hash>,
    /// Ticket of the change.
    pub ticket: Option<String>,
    /// What the actor said of it.
    pub comment: Option<String>,
    /// `done` or `refused`.
    pub outcome: String,
    /// Stable word of a refusal.
    pub reason: Option<String>,
    /// Network peer.
    pub peer_address: Option<String>,
}

impl GovernanceEventRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::GovernanceEvents, header, out);
        w.text(5, &self.event_id)
            .time(6, self.occurred_at)
            .text(7, &self.actor);
        w.text(8, &self.action)
            .text(9, &self.object_kind)
            .text(10, &self.object_id);
        w.u64_opt(11, self.object_revision)
            .bytes_opt(12, hash(&self.before_sha256))
            .bytes_opt(13, hash(&self.after_sha256));
        w.text_opt(14, self.ticket.as_deref())
            .text_opt(15, self.comment.as_deref())
            .text(16, &self.outcome);
        w.text_opt(17, self.reason.as_deref())
            .text_opt(18, self.peer_address.as_deref());
    }
}

/// One row of `grants`: one revision of a grant. Field names are the column names.
///
/// A grant is in force in `[max(decided_at, not_before), min(expires, revoked_at))`, when a revision
/// with state `approved` exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRow {
    /// The grant; its revisions share it.
    pub grant_id: String,
    /// 1 when requested, then 2, 3 ..
    pub revision: u64,
    /// `requested`, `approved`, `rejected`, `revoked` or `expired`.
    pub state: String,
    /// SPIFFE id of who may call.
    pub consumer: String,
    /// Its application, at that time.
    pub consumer_app: Option<String>,
    /// The API.
    pub api: String,
    /// The operations, all of that API.
    pub operations: Vec<String>,
    /// What for.
    pub purpose: String,
    /// Ticket of the request.
    pub ticket: String,
    /// Who asked.
    pub requested_by: String,
    /// When.
    pub requested_at: Time,
    /// Who approved or rejected it.
    pub decided_by: Option<String>,
    /// When.
    pub decided_at: Option<Time>,
    /// From when on; from the decision on when null.
    pub not_before: Option<Time>,
    /// Until when, exclusive.
    pub expires: Time,
    /// Who reviewed it last.
    pub reviewed_by: Option<String>,
    /// When.
    pub reviewed_at: Option<Time>,
    /// When the next review is due.
    pub review_due_at: Option<Time>,
    /// Who took it away.
    pub revoked_by: Option<String>,
    /// When.
    pub revoked_at: Option<Time>,
    /// When this revision was recorded.
    pub recorded_at: Time,
    /// The event that made this revision.
    pub event_id: String,
    /// The team that owns the API, at that time.
    pub owner_team: Option<String>,
}

impl GrantRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::Grants, header, out);
        w.text(5, &self.grant_id)
            .u64(6, self.revision)
            .text(7, &self.state);
        w.text(8, &self.consumer)
            .text_opt(9, self.consumer_app.as_deref())
            .text(10, &self.api)
            .texts(11, &self.operations);
        w.text(12, &self.purpose)
            .text(13, &self.ticket)
            .text(14, &self.requested_by)
            .time(15, self.requested_at);
        w.text_opt(16, self.decided_by.as_deref())
            .time_opt(17, self.decided_at);
        w.time_opt(18, self.not_before).time(19, self.expires);
        w.text_opt(20, self.reviewed_by.as_deref())
            .time_opt(21, self.reviewed_at)
            .time_opt(22, self.review_due_at);
        w.text_opt(23, self.revoked_by.as_deref())
            .time_opt(24, self.revoked_at);
        w.time(25, self.recorded_at)
            .text(26, &self.event_id)
            .text_opt(27, self.owner_team.as_deref());
    }
}

/// One row of `bundles`: what control published for one workload. Field names are the column names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleRow {
    /// SPIFFE id of the workload.
    pub audience: String,
    /// Version of its rights; entries name it as `bundle_version`.
    pub rights_version: u64,
    /// Version of its endpoints.
    pub endpoints_version: u64,
    /// SHA-256 of the whole body; entries name it as `bundle_sha256`.
    pub sha256: Hash,
    /// SHA-256 of the signed rights.
    pub rights_sha256: Hash,
    /// When it was published.
    pub published_at: Time,
    /// The governance event that caused it; null for the first one and for moved endpoints.
    pub event_id: Option<String>,
    /// Who did what caused it.
    pub author: Option<String>,
    /// Grants in it.
    pub grants: u64,
}

impl BundleRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::Bundles, header, out);
        w.text(5, &self.audience)
            .u64(6, self.rights_version)
            .u64(7, self.endpoints_version);
        w.bytes(8, &self.sha256.0).bytes(9, &self.rights_sha256.0);
        w.time(10, self.published_at)
            .text_opt(11, self.event_id.as_deref())
            .text_opt(12, self.author.as_deref())
            .u64(13, self.grants);
    }
}

/// One row of `bundle_acks`: a proxy put a bundle in force, or refused it. Field names are the column
/// names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleAckRow {
    /// SPIFFE id of the proxy's workload.
    pub audience: String,
    /// SHA-256 of the body.
    pub sha256: Hash,
    /// Version of its rights, when they could be read.
    pub rights_version: Option<u64>,
    /// `applied` or `refused`.
    pub outcome: String,
    /// Stable word of a refusal: `too_large`, `malformed`, `signature`, `audience`, `older`, `policy`.
    pub reason: Option<String>,
    /// When.
    pub acked_at: Time,
    /// `control` or `disk`.
    pub origin_kind: String,
}

impl BundleAckRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::BundleAcks, header, out);
        w.text(5, &self.audience)
            .bytes(6, &self.sha256.0)
            .u64_opt(7, self.rights_version);
        w.text(8, &self.outcome)
            .text_opt(9, self.reason.as_deref())
            .time(10, self.acked_at)
            .text(11, &self.origin_kind);
    }
}

/// One row of `apis`: one revision of an API's version. Field names are the column names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiRow {
    /// Name of the API.
    pub api: String,
    /// Its version.
    pub api_version: String,
    /// 1, 2 .. in each API.
    pub revision: u64,
    /// `published`, `deprecated` or `retired`.
    pub status: String,
    /// The team that answers for it.
    pub owner_team: String,
    /// SPIFFE id of the workload that serves it.
    pub server: Option<String>,
    /// `bundle`, `token` or `both`.
    pub access: String,
    /// OpenAPI version of the document.
    pub openapi: String,
    /// SHA-256 of the document.
    pub document_sha256: Hash,
    /// Operations in it.
    pub operations: u64,
    /// Scopes of evidence of the whole API.
    pub scopes: Vec<String>,
    /// Retention class of operations that name none.
    pub class: String,
    /// When this revision was recorded.
    pub recorded_at: Time,
    /// The event that made this revision.
    pub event_id: String,
}

impl ApiRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::Apis, header, out);
        w.text(5, &self.api)
            .text(6, &self.api_version)
            .u64(7, self.revision)
            .text(8, &self.status);
        w.text(9, &self.owner_team)
            .text_opt(10, self.server.as_deref())
            .text(11, &self.access)
            .text(12, &self.openapi);
        w.bytes(13, &self.document_sha256.0)
            .u64(14, self.operations)
            .texts(15, &self.scopes)
            .text(16, &self.class);
        w.time(17, self.recorded_at).text(18, &self.event_id);
    }
}

/// One row of `operations`: one operation in one revision of its API. Field names are the column
/// names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRow {
    /// Name of the API.
    pub api: String,
    /// Its version.
    pub api_version: String,
    /// Revision of the API.
    pub revision: u64,
    /// Name of the operation.
    pub operation: String,
    /// HTTP method.
    pub method: String,
    /// Path template.
    pub route: String,
    /// Scopes of evidence.
    pub scopes: Vec<String>,
    /// Retention class of its entries.
    pub class: String,
    /// Whether it needs no grant.
    pub open: bool,
    /// When this revision was recorded.
    pub recorded_at: Time,
    /// The event that made this revision.
    pub event_id: String,
}

impl OperationRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::Operations, header, out);
        w.text(5, &self.api)
            .text(6, &self.api_version)
            .u64(7, self.revision)
            .text(8, &self.operation);
        w.text(9, &self.method)
            .text(10, &self.route)
            .texts(11, &self.scopes)
            .text(12, &self.class);
        w.bool(13, self.open)
            .time(14, self.recorded_at)
            .text(15, &self.event_id);
    }
}

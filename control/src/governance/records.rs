//! What the governance plane keeps: APIs, workloads, grants and events, one value a revision.

use std::fmt;

use counterfoil_entry::{Hash, Time, tree};
use counterfoil_trust::SpiffeId;
use counterfoil_trust::bundle::{Access, ApiRights, OperationRights};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::moment;

/// One revision of an API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ApiRecord {
    /// Name: the title of its document.
    pub(crate) api: String,
    /// Version of its document.
    pub(crate) api_version: String,
    /// 1, 2 .. in each API.
    pub(crate) revision: u64,
    /// Whether it can be called.
    pub(crate) status: ApiStatus,
    /// The team that answers for it, and decides on grants.
    pub(crate) owner_team: String,
    /// The workload that serves it; null until one is named.
    #[schema(value_type = Option<String>)]
    pub(crate) server: Option<SpiffeId>,
    /// What callers have to show: `bundle`, `token` or `both`.
    #[schema(value_type = String)]
    pub(crate) access: Access,
    /// What the instances speak when it is not plain HTTP, as in `grpc`.
    pub(crate) protocol: Option<String>,
    /// OpenAPI version of the document.
    pub(crate) openapi: String,
    /// SHA-256 of the document.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String)]
    pub(crate) document_sha256: Hash,
    /// How many operations it has.
    #[serde(serialize_with = "count")]
    #[schema(value_type = u64)]
    pub(crate) operations: Vec<OperationRights>,
    /// Scopes of evidence of operations that name none.
    pub(crate) scopes: Vec<String>,
    /// Retention class of operations that name none.
    pub(crate) retention_class: String,
    /// When this revision was recorded.
    #[serde(with = "moment")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) recorded_at: Time,
    /// The event that made this revision.
    pub(crate) event_id: String,
}

impl ApiRecord {
    /// The API as bundles hold it.
    pub(crate) fn rights(&self) -> ApiRights {
        ApiRights {
            api: self.api.clone(),
            api_version: self.api_version.clone(),
            protocol: self.protocol.clone(),
            access: self.access,
            operations: self.operations.clone(),
        }
    }

    /// Whether it has an operation of this name.
    pub(crate) fn has(&self, operation: &str) -> bool {
        self.operations.iter().any(|o| o.operation == operation)
    }
}

/// Whether an API can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ApiStatus {
    /// It can.
    Published,
    /// It can, and should not be asked for any more.
    Deprecated,
    /// It cannot.
    Retired,
}

impl ApiStatus {
    /// The word in books and answers.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Deprecated => "deprecated",
            Self::Retired => "retired",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        [Self::Published, Self::Deprecated, Self::Retired]
            .into_iter()
            .find(|status| status.as_str() == word)
    }
}

/// One operation, as its API's owner shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct OperationView {
    /// Its name.
    pub(crate) operation: String,
    /// HTTP method.
    pub(crate) method: String,
    /// Path template.
    pub(crate) route: String,
    /// Scopes of evidence.
    pub(crate) scopes: Vec<String>,
    /// Retention class of its entries.
    pub(crate) retention_class: String,
    /// Whether it needs no grant.
    pub(crate) open: bool,
}

/// An API with its operations written out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ApiDetail {
    /// The API.
    #[serde(flatten)]
    pub(crate) api: ApiRecord,
    /// Its operations, in the order of the document.
    pub(crate) operation_list: Vec<OperationView>,
}

impl From<&ApiRecord> for ApiDetail {
    fn from(api: &ApiRecord) -> Self {
        let view = |o: &OperationRights| OperationView {
            operation: o.operation.clone(),
            method: o.method.clone(),
            route: o.route.clone(),
            scopes: o.scopes.clone(),
            retention_class: o.retention_class.clone(),
            open: o.open,
        };
        Self {
            operation_list: api.operations.iter().map(view).collect(),
            api: api.clone(),
        }
    }
}

/// One workload, as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct WorkloadView {
    /// Who it is.
    #[schema(value_type = String)]
    pub(crate) spiffe_id: SpiffeId,
    /// The host name by which applications call it.
    pub(crate) name: String,
    /// Its application.
    pub(crate) app: String,
    /// The team that runs it.
    pub(crate) team: String,
    /// The site where it runs.
    pub(crate) site: Option<String>,
    /// The zone inside the site.
    pub(crate) zone: Option<String>,
    /// `host:port` of its inbound listeners.
    pub(crate) addresses: Vec<String>,
}

/// One revision of a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct GrantRecord {
    /// The grant; its revisions share it.
    pub(crate) grant_id: String,
    /// 1 when requested, then 2, 3 ..
    pub(crate) revision: u64,
    /// Where it stands.
    pub(crate) state: State,
    /// Who may call.
    #[schema(value_type = String)]
    pub(crate) consumer: SpiffeId,
    /// Its application, at that time.
    pub(crate) consumer_app: Option<String>,
    /// The API.
    pub(crate) api: String,
    /// The operations, all of that API.
    pub(crate) operations: Vec<String>,
    /// What for.
    pub(crate) purpose: String,
    /// Ticket of the request.
    pub(crate) ticket: String,
    /// Who asked.
    pub(crate) requested_by: String,
    /// When.
    #[serde(with = "moment")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) requested_at: Time,
    /// Who approved or rejected it.
    pub(crate) decided_by: Option<String>,
    /// When.
    #[serde(with = "moment::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) decided_at: Option<Time>,
    /// From when on; from the decision on when null.
    #[serde(with = "moment::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) not_before: Option<Time>,
    /// Until when, exclusive.
    #[serde(with = "moment")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) expires: Time,
    /// Who reviewed it last.
    pub(crate) reviewed_by: Option<String>,
    /// When.
    #[serde(with = "moment::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) reviewed_at: Option<Time>,
    /// When the next review is due.
    #[serde(with = "moment::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) review_due_at: Option<Time>,
    /// Who took it away.
    pub(crate) revoked_by: Option<String>,
    /// When.
    #[serde(with = "moment::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) revoked_at: Option<Time>,
    /// Who proposed to take it away, while that is open.
    pub(crate) revocation_proposed_by: Option<String>,
    /// When this revision was recorded.
    #[serde(with = "moment")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) recorded_at: Time,
    /// The event that made this revision.
    pub(crate) event_id: String,
    /// The team that owns the API, at that time.
    pub(crate) owner_team: Option<String>,
}

impl GrantRecord {
    /// Whether it gives a right now or will give one: what must not lose its operations.
    pub(crate) fn holds(&self, now: Time) -> bool {
        self.state == State::Approved && now < self.expires
    }
}

/// Where a grant stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = GrantState)]
pub(crate) enum State {
    /// Asked for, and not decided.
    Requested,
    /// In force within its dates.
    Approved,
    /// Turned down.
    Rejected,
    /// Taken away.
    Revoked,
    /// Its time is over.
    Expired,
}

impl State {
    /// Every value.
    pub(crate) const ALL: &[Self] = &[
        Self::Requested,
        Self::Approved,
        Self::Rejected,
        Self::Revoked,
        Self::Expired,
    ];

    /// The word in books and answers.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|state| state.as_str() == word)
    }
}

/// One thing that was done or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct EventRecord {
    /// The event; what it made names it.
    pub(crate) event_id: String,
    /// When.
    #[serde(with = "moment")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) occurred_at: Time,
    /// Who did it: a person's name, or a SPIFFE id.
    pub(crate) actor: String,
    /// What was done, as in `grant.approved`.
    pub(crate) action: String,
    /// `api`, `grant`, `workload` or `person`.
    pub(crate) object_kind: String,
    /// Which one.
    pub(crate) object_id: String,
    /// Its revision after the event.
    pub(crate) object_revision: Option<u64>,
    /// SHA-256 of the object before; null when there was none.
    #[serde(serialize_with = "as_text_opt")]
    #[schema(value_type = Option<String>)]
    pub(crate) before_sha256: Option<Hash>,
    /// SHA-256 of the object after; null when nothing was changed.
    #[serde(serialize_with = "as_text_opt")]
    #[schema(value_type = Option<String>)]
    pub(crate) after_sha256: Option<Hash>,
    /// Ticket of the change.
    pub(crate) ticket: Option<String>,
    /// What the actor said of it.
    pub(crate) comment: Option<String>,
    /// `done` or `refused`.
    pub(crate) outcome: String,
    /// Stable word of a refusal.
    pub(crate) reason: Option<String>,
    /// Network peer.
    pub(crate) peer_address: Option<String>,
}

/// SHA-256 of an object's JSON as answers show it: what events hold of before and after.
pub(crate) fn object_sha256<T: Serialize>(object: &T) -> Hash {
    // These types have no map with other keys than texts and no failing serializer: it cannot fail.
    tree::sha256(&serde_json::to_vec(object).unwrap_or_default())
}

fn as_text<T: fmt::Display, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(value)
}

fn as_text_opt<T: fmt::Display, S: Serializer>(value: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => s.collect_str(value),
        None => s.serialize_none(),
    }
}

fn count<T, S: Serializer>(list: &[T], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(u64::try_from(list.len()).unwrap_or(u64::MAX))
}

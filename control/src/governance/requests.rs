//! What people ask for, as it comes in, and the checks of single values.

use counterfoil_entry::Time;
use counterfoil_trust::bundle::Access;
use serde::Deserialize;
use utoipa::ToSchema;

use super::moment;
use super::refusal::Refusal;

/// Names of teams, people, tickets, sites and zones.
pub(crate) const NAME_BYTES_MAX: usize = 200;
/// Purposes and comments.
const TEXT_BYTES_MAX: usize = 2_000;
/// A grant's operations must fit into one entry of the books.
const OPERATIONS_BYTES_MAX: usize = 256 << 10;
const ADDRESSES_MAX: usize = 256;

/// Asks for leave to call operations of an API.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantRequest {
    /// Who shall call: a SPIFFE id or the name of a workload.
    #[schema(min_length = 1, max_length = 2048)]
    pub(crate) consumer: String,
    /// The API.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) api: String,
    /// Its operations; `["*"]` for all that it has now.
    #[schema(min_items = 1)]
    pub(crate) operations: Vec<String>,
    /// What for.
    #[schema(min_length = 1, max_length = 2000)]
    pub(crate) purpose: String,
    /// Ticket of the request.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) ticket: String,
    /// Until when, exclusive.
    #[serde(with = "moment")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) expires: Time,
    /// From when on; from the approval on when absent.
    #[serde(default, with = "moment::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) not_before: Option<Time>,
}

/// What a person says of a decision.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Note {
    /// Why.
    #[schema(min_length = 1, max_length = 2000)]
    pub(crate) comment: Option<String>,
    /// Ticket of the decision.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) ticket: Option<String>,
}

/// Brings in an OpenAPI document.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiImport {
    /// Its text, YAML or JSON, up to 8 MiB.
    pub(crate) document: String,
    /// Its file name; the ending decides between YAML and JSON.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) file: String,
    /// The team that answers for it, when the document does not name one.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) owner_team: Option<String>,
    /// The workload that serves it, by SPIFFE id or name, when the document does not name one.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 2048)]
    pub(crate) server: Option<String>,
    /// What callers have to show, when the document does not say so.
    #[serde(default)]
    #[schema(value_type = Option<AccessWord>)]
    pub(crate) access: Option<Access>,
    /// Ticket of the change.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) ticket: Option<String>,
    /// Why.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 2000)]
    pub(crate) comment: Option<String>,
}

/// What callers of an API have to show.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(
    dead_code,
    reason = "the served OpenAPI document describes the foreign type by it"
)]
pub(crate) enum AccessWord {
    Bundle,
    Token,
    Both,
}

/// Changes whether an API can be called.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StatusChange {
    /// What it becomes.
    pub(crate) status: NewStatus,
    /// Why.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 2000)]
    pub(crate) comment: Option<String>,
    /// Ticket of the change.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) ticket: Option<String>,
}

/// What an API may become. An import publishes it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NewStatus {
    /// It can be called, and should not be asked for any more.
    Deprecated,
    /// It cannot be called.
    Retired,
}

/// Registers a workload, or changes what is known of it.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkloadRequest {
    /// Who it is.
    #[schema(min_length = 1, max_length = 2048)]
    pub(crate) spiffe_id: String,
    /// The host name by which applications call it.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) name: String,
    /// Its application.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) app: String,
    /// The team that runs it.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) team: String,
    /// The site where it runs.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) site: Option<String>,
    /// The zone inside the site.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) zone: Option<String>,
    /// `host:port` of its inbound listeners.
    #[serde(default)]
    #[schema(max_items = 256)]
    pub(crate) addresses: Vec<String>,
    /// Whether a new join token is made; the answer holds it, once.
    #[serde(default)]
    pub(crate) join_token: bool,
    /// SHA-256 of a join token that the sender has made, 64 hex digits.
    #[serde(default)]
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub(crate) join_token_sha256: Option<String>,
}

/// Brings in a whole estate in one transaction.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EstateImport {
    /// Workloads, first.
    #[serde(default)]
    pub(crate) workloads: Vec<WorkloadRequest>,
    /// Then APIs.
    #[serde(default)]
    pub(crate) apis: Vec<ApiImport>,
    /// Then grants.
    #[serde(default)]
    pub(crate) grants: Vec<GrantImport>,
}

/// A grant of an older system, with the two people who made it there.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantImport {
    /// Its id there; a new one when absent.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64)]
    pub(crate) grant_id: Option<String>,
    /// Who may call: a SPIFFE id or the name of a workload.
    #[schema(min_length = 1, max_length = 2048)]
    pub(crate) consumer: String,
    /// The API.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) api: String,
    /// Its operations; `["*"]` for all that it has now.
    #[schema(min_items = 1)]
    pub(crate) operations: Vec<String>,
    /// What for.
    #[schema(min_length = 1, max_length = 2000)]
    pub(crate) purpose: String,
    /// Ticket of the request.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) ticket: String,
    /// Until when, exclusive.
    #[serde(with = "moment")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) expires: Time,
    /// From when on; from the import on when absent.
    #[serde(default, with = "moment::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) not_before: Option<Time>,
    /// Who asked.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) requested_by: String,
    /// Who approved it, somebody else.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) approved_by: String,
}

/// A name: one line, not empty, spaces around it taken off.
pub(crate) fn name(field: &str, value: &str) -> Result<String, Refusal> {
    let value = value.trim();
    if value.is_empty() {
        return Err(Refusal::value(field, "it must not be empty"));
    }
    if value.len() > NAME_BYTES_MAX {
        let detail = format!("it has more than {NAME_BYTES_MAX} bytes");
        return Err(Refusal::value(field, detail));
    }
    if value.contains(char::is_control) {
        return Err(Refusal::value(field, "it holds control characters"));
    }
    Ok(value.to_owned())
}

/// A name that may be absent.
pub(crate) fn name_opt(field: &str, value: Option<&str>) -> Result<Option<String>, Refusal> {
    value.map(|value| name(field, value)).transpose()
}

/// A longer text, which may have lines.
pub(crate) fn text(field: &str, value: &str) -> Result<String, Refusal> {
    let value = value.trim();
    if value.is_empty() {
        return Err(Refusal::value(field, "it must not be empty"));
    }
    if value.len() > TEXT_BYTES_MAX {
        let detail = format!("it has more than {TEXT_BYTES_MAX} bytes");
        return Err(Refusal::value(field, detail));
    }
    if value.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
        return Err(Refusal::value(field, "it holds control characters"));
    }
    Ok(value.to_owned())
}

/// A longer text that may be absent.
pub(crate) fn text_opt(field: &str, value: Option<&str>) -> Result<Option<String>, Refusal> {
    value.map(|value| text(field, value)).transpose()
}

/// Names of operations, each once, few enough for one entry of the books.
pub(crate) fn operations(field: &str, names: &[String]) -> Result<(), Refusal> {
    if names.is_empty() {
        return Err(Refusal::value(field, "it must not be empty"));
    }
    if names.iter().map(String::len).sum::<usize>() > OPERATIONS_BYTES_MAX {
        let detail = format!("they have more than {OPERATIONS_BYTES_MAX} bytes");
        return Err(Refusal::value(field, detail));
    }
    let mut seen = std::collections::BTreeSet::new();
    match names.iter().find(|name| !seen.insert(*name)) {
        Some(name) => Err(Refusal::value(field, format!("{name} stands there twice"))),
        None => Ok(()),
    }
}

/// Addresses of inbound listeners.
pub(crate) fn addresses(field: &str, addresses: &[String]) -> Result<(), Refusal> {
    if addresses.len() > ADDRESSES_MAX {
        let detail = format!("there are more than {ADDRESSES_MAX}");
        return Err(Refusal::value(field, detail));
    }
    for (index, address) in addresses.iter().enumerate() {
        if address.len() > NAME_BYTES_MAX || !crate::config::is_host_port(address) {
            let field = format!("{field}[{index}]");
            return Err(Refusal::value(&field, "it is not host:port"));
        }
    }
    Ok(())
}

//! `grants.toml`: who may call what, for which purpose, asked by one person and approved by another.

use std::collections::HashSet;
use std::path::Path;

use counterfoil_entry::Time;
use counterfoil_trust::SpiffeId;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use toml::Spanned;

use super::{Catalogue, CatalogueError, GrantState, line_at, toml_error};

/// One grant, with its operations written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GrantRule {
    pub(crate) id: String,
    pub(crate) consumer: SpiffeId,
    pub(crate) api: String,
    pub(crate) operations: Vec<String>,
    pub(crate) not_before: Option<Time>,
    pub(crate) expires: Time,
    pub(crate) state: GrantState,
    /// Whether the candidate rights are without it.
    pub(crate) revocation_proposed: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    grant: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: Spanned<String>,
    consumer: String,
    api: String,
    operations: Vec<String>,
    purpose: String,
    ticket: String,
    requested_by: String,
    approved_by: String,
    #[serde(default)]
    not_before: Option<toml::Value>,
    expires: toml::Value,
}

/// Reads the file; one bad grant refuses it whole.
pub(super) fn parse(
    file: &Path,
    text: &str,
    catalogue: &Catalogue,
) -> Result<Vec<GrantRule>, CatalogueError> {
    let rows: File = toml::from_str(text).map_err(|e| toml_error(file, text, &e))?;
    let mut seen = HashSet::new();
    let mut grants = Vec::with_capacity(rows.grant.len());
    for row in rows.grant {
        let line = line_at(text, row.id.span().start);
        let id = row.id.get_ref().clone();
        let grant = if seen.insert(id.clone()) {
            check(row, catalogue)
        } else {
            Err("the id stands in the file twice".to_owned())
        };
        grants.push(grant.map_err(|reason| CatalogueError::new(file, reason).at(line, id))?);
    }
    Ok(grants)
}

fn check(row: Row, catalogue: &Catalogue) -> Result<GrantRule, String> {
    let id = row.id.into_inner();
    let texts = [
        ("id", &id),
        ("purpose", &row.purpose),
        ("ticket", &row.ticket),
        ("requested_by", &row.requested_by),
        ("approved_by", &row.approved_by),
    ];
    if let Some((key, _)) = texts.iter().find(|(_, text)| text.trim().is_empty()) {
        return Err(format!("{key} must not be empty"));
    }
    if is_same_person(&row.requested_by, &row.approved_by) {
        return Err("approved_by is requested_by; another person must approve".to_owned());
    }
    let consumer = SpiffeId::parse(&row.consumer).map_err(|e| format!("consumer: {e}"))?;
    if !catalogue.workloads.contains_key(&consumer) {
        return Err(format!("consumer {consumer} is no workload"));
    }
    let api = catalogue
        .apis
        .get(&row.api)
        .ok_or_else(|| format!("there is no API {}", row.api))?;
    let declared = || api.rights.operations.iter().map(|o| &o.operation);
    let operations = match row.operations.as_slice() {
        [] => return Err("operations must not be empty".to_owned()),
        [all] if all == "*" => declared().cloned().collect(),
        names => {
            if let Some(name) = names.iter().find(|name| !declared().any(|o| o == *name)) {
                return Err(format!("the API {} has no operation {name}", row.api));
            }
            names.to_vec()
        }
    };
    let not_before = row
        .not_before
        .map(|v| point("not_before", &v))
        .transpose()?;
    let expires = point("expires", &row.expires)?;
    if not_before.is_some_and(|from| from >= expires) {
        return Err("expires must be later than not_before".to_owned());
    }
    Ok(GrantRule {
        id,
        consumer,
        api: row.api,
        operations,
        not_before,
        expires,
        state: GrantState::Approved,
        revocation_proposed: false,
    })
}

/// Names of people are compared as people would: a space or a capital letter makes no other person.
fn is_same_person(one: &str, other: &str) -> bool {
    one.trim().to_lowercase() == other.trim().to_lowercase()
}

/// A point in time, as an RFC 3339 text or a TOML date-time with offset.
fn point(key: &str, value: &toml::Value) -> Result<Time, String> {
    let text = match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Datetime(at) => at.to_string(),
        _ => return Err(format!("{key} is an RFC 3339 point in time")),
    };
    OffsetDateTime::parse(&text, &Rfc3339)
        .ok()
        .and_then(|at| i64::try_from(at.unix_timestamp_nanos()).ok())
        .map(Time::from_ns)
        .ok_or_else(|| format!("{key} = {text} is no RFC 3339 point in time with offset"))
}

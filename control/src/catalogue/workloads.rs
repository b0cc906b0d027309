//! `workloads.toml`: who is part of the estate, where it listens and how it joins.

use std::collections::HashSet;
use std::path::Path;

use counterfoil_entry::Hash;
use counterfoil_trust::SpiffeId;
use serde::Deserialize;
use toml::Spanned;

use super::{CatalogueError, line_at, toml_error};
use crate::config::is_host_port;

/// One workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkloadRule {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) name: String,
    pub(crate) app: String,
    pub(crate) team: String,
    pub(crate) site: Option<String>,
    pub(crate) zone: Option<String>,
    pub(crate) addresses: Vec<String>,
    pub(crate) join_token_sha256: Option<Hash>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    workload: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    spiffe_id: Spanned<String>,
    name: String,
    app: String,
    team: String,
    #[serde(default)]
    site: Option<String>,
    #[serde(default)]
    zone: Option<String>,
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    join_token_sha256: Option<String>,
    #[serde(default)]
    apis: Vec<String>,
}

/// Reads the file; one bad workload refuses it whole.
pub(super) fn parse(
    file: &Path,
    text: &str,
    trust_domain: &str,
) -> Result<Vec<(WorkloadRule, Vec<String>)>, CatalogueError> {
    let rows: File = toml::from_str(text).map_err(|e| toml_error(file, text, &e))?;
    let mut seen = HashSet::new();
    let mut workloads = Vec::with_capacity(rows.workload.len());
    for row in rows.workload {
        let line = line_at(text, row.spiffe_id.span().start);
        let place = row.name.clone();
        let apis = row.apis.clone();
        let workload = check(row, trust_domain)
            .map_err(|reason| CatalogueError::new(file, reason).at(line, place.as_str()))?;
        // Names are host names, which do not tell letter cases apart.
        for key in [
            workload.spiffe_id.to_string(),
            workload.name.to_ascii_lowercase(),
        ] {
            if seen.contains(&key) {
                let reason = format!("{key} stands in the file twice");
                return Err(CatalogueError::new(file, reason).at(line, place));
            }
            seen.insert(key);
        }
        workloads.push((workload, apis));
    }
    Ok(workloads)
}

fn check(row: Row, trust_domain: &str) -> Result<WorkloadRule, String> {
    let spiffe_id = SpiffeId::parse(row.spiffe_id.get_ref()).map_err(|e| e.to_string())?;
    if spiffe_id.trust_domain() != trust_domain {
        return Err(format!(
            "{spiffe_id} is not of the trust domain {trust_domain}"
        ));
    }
    if !is_host_name(&row.name) {
        return Err("a name is one or more of a-z A-Z 0-9 . - _".to_owned());
    }
    if row.app.is_empty() || row.team.is_empty() {
        return Err("app and team must not be empty".to_owned());
    }
    if let Some(address) = row.addresses.iter().find(|a| !is_host_port(a)) {
        return Err(format!("address {address} is not host:port"));
    }
    let join_token_sha256 = match row.join_token_sha256 {
        None => None,
        Some(hex) => Some(
            hex.parse::<Hash>()
                .map_err(|_| "join_token_sha256 is 64 hex digits")?,
        ),
    };
    Ok(WorkloadRule {
        spiffe_id,
        name: row.name,
        app: row.app,
        team: row.team,
        site: row.site,
        zone: row.zone,
        addresses: row.addresses,
        join_token_sha256,
    })
}

fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

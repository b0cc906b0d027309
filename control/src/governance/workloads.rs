//! Workloads: who is part of the estate, where it listens and how it joins.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use counterfoil_entry::{Hash, Time, tree};
use counterfoil_trust::SpiffeId;
use rand::Rng as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::attempt::{Actor, Attempt};
use super::estate::{Change, Estate};
use super::grants::shown;
use super::records::{WorkloadView, object_sha256};
use super::refusal::Refusal;
use super::requests::{self, WorkloadRequest};
use crate::catalogue::WorkloadRule;

/// What a registration did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct WorkloadRegistered {
    /// The workload as it is now.
    #[serde(flatten)]
    pub(crate) workload: WorkloadView,
    /// The new join token, when one was asked for. It is shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) join_token: Option<String>,
}

impl From<&WorkloadRule> for WorkloadView {
    fn from(workload: &WorkloadRule) -> Self {
        Self {
            spiffe_id: workload.spiffe_id.clone(),
            name: workload.name.clone(),
            app: workload.app.clone(),
            team: workload.team.clone(),
            site: workload.site.clone(),
            zone: workload.zone.clone(),
            addresses: workload.addresses.clone(),
        }
    }
}

/// Registers a workload or changes it. Administrators may.
pub(crate) fn register(
    estate: &Estate,
    asked: &WorkloadRequest,
    trust_domain: &str,
    actor: &Actor,
    now: Time,
) -> Result<(Change, WorkloadRegistered), Refusal> {
    let (mut new, old) = checked(estate, asked, trust_domain)?;
    let action = match old {
        None => "workload.registered",
        Some(_) => "workload.updated",
    };
    let attempt = Attempt::new(actor, now, action, "workload", new.spiffe_id.as_str());
    check_admin(actor, &attempt)?;
    let join_token = asked.join_token.then(new_token);
    if let Some(token) = &join_token {
        new.join_token_sha256 = Some(tree::sha256(token.as_bytes()));
    }
    let registered = WorkloadRegistered {
        workload: WorkloadView::from(&new),
        join_token,
    };
    if old.is_some_and(|old| **old == new) {
        return Ok((Change::default(), registered));
    }
    new.revision = old.map_or(1, |old| old.revision + 1);
    let before = old.map(|old| sha256(old));
    let event_id = attempt.event_id();
    let change = Change {
        events: vec![attempt.done(new.revision, before, Some(sha256(&new)))],
        workloads: vec![(Arc::new(new), event_id)],
        ..Change::default()
    };
    Ok((change, registered))
}

/// Only administrators do this.
pub(crate) fn check_admin(actor: &Actor, attempt: &Attempt) -> Result<(), Refusal> {
    if actor.admin {
        return Ok(());
    }
    let detail = format!("{} is no administrator", actor.name);
    Err(attempt.refused("not_admin", detail))
}

/// What events hold of a workload: what people see, and which join token counts.
fn sha256(workload: &WorkloadRule) -> Hash {
    let token = workload.join_token_sha256.map(|hash| hash.to_string());
    object_sha256(&(WorkloadView::from(workload), token))
}

fn checked<'a>(
    estate: &'a Estate,
    asked: &WorkloadRequest,
    trust_domain: &str,
) -> Result<(WorkloadRule, Option<&'a Arc<WorkloadRule>>), Refusal> {
    let field = "spiffe_id";
    let spiffe_id =
        SpiffeId::parse(&asked.spiffe_id).map_err(|e| Refusal::value(field, e.to_string()))?;
    if spiffe_id.trust_domain() != trust_domain {
        let detail = format!("it is not of the trust domain {trust_domain}");
        return Err(Refusal::value(field, detail));
    }
    if spiffe_id.path() == crate::config::CONTROL_PATH {
        return Err(Refusal::value(field, "it is control's own"));
    }
    let name = requests::name("name", &asked.name)?;
    if !is_host_name(&name) {
        let detail = "a name is one or more of a-z A-Z 0-9 . - _";
        return Err(Refusal::value("name", detail));
    }
    let other = estate.workload(&name);
    if let Some(other) = other.filter(|other| other.spiffe_id != spiffe_id) {
        let detail = format!("{} has the name {}", other.spiffe_id, shown(&name));
        let mut refusal = Refusal::conflict("name_taken", detail);
        refusal.field = Some("name".to_owned());
        return Err(refusal);
    }
    requests::addresses("addresses", &asked.addresses)?;
    let old = estate.catalogue.workloads.get(&spiffe_id);
    let join_token_sha256 = match &asked.join_token_sha256 {
        None => old.and_then(|old| old.join_token_sha256),
        Some(_) if asked.join_token => {
            let detail = "give it or join_token, not both";
            return Err(Refusal::value("join_token_sha256", detail));
        }
        Some(hex) => Some(
            hex.parse::<Hash>()
                .map_err(|_| Refusal::value("join_token_sha256", "it is 64 hex digits"))?,
        ),
    };
    let workload = WorkloadRule {
        spiffe_id,
        name,
        app: requests::name("app", &asked.app)?,
        team: requests::name("team", &asked.team)?,
        site: requests::name_opt("site", asked.site.as_deref())?,
        zone: requests::name_opt("zone", asked.zone.as_deref())?,
        addresses: asked.addresses.clone(),
        join_token_sha256,
        revision: old.map_or(1, |old| old.revision),
    };
    Ok((workload, old))
}

fn is_host_name(name: &str) -> bool {
    name.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// 256 random bits.
fn new_token() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    URL_SAFE_NO_PAD.encode(bytes)
}

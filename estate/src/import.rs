//! An estate as the body of `POST /v1/import`.

use counterfoil_entry::Time;
use serde_json::{Value, json};

use crate::{Api, Estate, Grant, Size, Workload};

const DAY_NS: i64 = 86_400 * 1_000_000_000;

/// The body of `POST /v1/import` for a bank of so many workloads, whose grants are in force at `now`.
///
/// None of its workloads can join: there are no join tokens.
#[must_use]
pub fn import_body(workloads: usize, seed: u64, trust_domain: &str, now: Time) -> Value {
    Estate::generate(&Size::of_workloads(workloads), seed, trust_domain).import(now, |_| None)
}

impl Estate {
    /// The body of `POST /v1/import`: `workloads`, `apis` and `grants`, the latter in force at `now`.
    ///
    /// `join_token_sha256` gives the hash, in hexadecimal digits, of the token by which a workload may join.
    #[must_use]
    pub fn import(
        &self,
        now: Time,
        mut join_token_sha256: impl FnMut(&Workload) -> Option<String>,
    ) -> Value {
        let workloads = self
            .workloads
            .iter()
            .map(|w| workload(w, join_token_sha256(w)));
        json!({
            "workloads": workloads.collect::<Vec<_>>(),
            "apis": self.apis.iter().map(api).collect::<Vec<_>>(),
            "grants": self.grants.iter().map(|g| grant(g, now)).collect::<Vec<_>>(),
        })
    }
}

fn workload(workload: &Workload, token_sha256: Option<String>) -> Value {
    let mut value = json!({
        "spiffe_id": workload.spiffe_id,
        "name": workload.name,
        "app": workload.app,
        "team": workload.team,
        "site": workload.site,
        "zone": workload.zone,
        "addresses": [workload.address],
    });
    if let (Some(hash), Some(value)) = (token_sha256, value.as_object_mut()) {
        value.insert("join_token_sha256".to_owned(), Value::String(hash));
    }
    value
}

fn api(api: &Api) -> Value {
    json!({
        "document": api.document().to_string(),
        "file": format!("{}.json", api.name),
        "owner_team": api.team,
        "server": api.server,
    })
}

fn grant(grant: &Grant, now: Time) -> Value {
    json!({
        "consumer": grant.consumer,
        "api": grant.api,
        "operations": grant.operations,
        "purpose": grant.purpose,
        "ticket": grant.ticket,
        "not_before": now.plus_ns(-DAY_NS * i64::from(grant.age_days)).to_string(),
        "expires": now.plus_ns(DAY_NS * i64::from(grant.left_days)).to_string(),
        "requested_by": grant.requested_by,
        "approved_by": grant.approved_by,
    })
}

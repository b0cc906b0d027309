//! Slices: what one workload has to know of the whole catalogue, and no more.

use std::collections::{BTreeMap, BTreeSet};

use counterfoil_entry::Time;
use counterfoil_trust::SpiffeId;
use counterfoil_trust::bundle::{
    ApiRights, Consumer, Endpoints, Grant, Instances, PeerRights, Rights, TokenRules, Workload,
};

use crate::catalogue::{Catalogue, GrantRule, GrantState, WorkloadRule};

/// The slice of `workload`, of version 0 and time 0: whoever publishes it numbers and dates it.
///
/// `tokens` is asked for when the workload serves an API that wants them.
pub(crate) fn cut(
    catalogue: &Catalogue,
    workload: &WorkloadRule,
    default_class: &str,
    tokens: impl FnOnce() -> TokenRules,
) -> (Rights, Endpoints) {
    let audience = &workload.spiffe_id;
    let apis: Vec<_> = catalogue.apis_of(audience).cloned().collect();
    let rules: Vec<_> = apis
        .iter()
        .flat_map(|api| catalogue.grants_on(&api.api))
        .map(|rule| &**rule)
        .collect();
    let candidate = rules
        .iter()
        .any(|rule| is_in_force(rule) != is_candidate(rule))
        .then(|| grants(&rules, is_candidate));
    let grants = grants(&rules, is_in_force);
    let wants_tokens = apis.iter().any(|api| api.access.wants_token());
    let peers = peers(catalogue, audience);
    let instances = peers
        .iter()
        .filter_map(|peer| catalogue.workloads.get(&peer.spiffe_id))
        .map(|peer| Instances {
            name: peer.name.clone(),
            spiffe_id: peer.spiffe_id.clone(),
            addresses: peer.addresses.clone(),
        })
        .collect();
    let rights = Rights {
        version: 0,
        audience: audience.clone(),
        issued_at: Time::from_ns(0),
        workload: Workload {
            app: workload.app.clone(),
            team: workload.team.clone(),
            site: workload.site.clone(),
            zone: workload.zone.clone(),
        },
        consumers: consumers(catalogue, grants.iter().chain(candidate.iter().flatten())),
        apis,
        grants,
        candidate,
        tokens: wants_tokens.then(tokens),
        peers,
        default_class: default_class.to_owned(),
    };
    (
        rights,
        Endpoints {
            version: 0,
            audience: audience.clone(),
            instances,
        },
    )
}

/// Whether proxies allow what the grant says, within its dates.
fn is_in_force(rule: &GrantRule) -> bool {
    rule.state == GrantState::Approved
}

/// Whether they would if every open proposal were decided.
fn is_candidate(rule: &GrantRule) -> bool {
    rule.state != GrantState::Ended && !rule.revocation_proposed
}

/// The grants that `holds` takes, one for each operation.
fn grants(rules: &[&GrantRule], holds: fn(&GrantRule) -> bool) -> Vec<Grant> {
    let mut grants = Vec::new();
    for rule in rules.iter().filter(|rule| holds(rule)) {
        grants.extend(rule.operations.iter().map(|operation| Grant {
            grant_id: rule.id.clone(),
            consumer: rule.consumer.clone(),
            api: rule.api.clone(),
            operation: operation.clone(),
            not_before: rule.not_before,
            expires: Some(rule.expires),
        }));
    }
    grants
}

fn consumers<'a>(catalogue: &Catalogue, grants: impl Iterator<Item = &'a Grant>) -> Vec<Consumer> {
    let held: BTreeSet<&SpiffeId> = grants.map(|grant| &grant.consumer).collect();
    held.into_iter()
        .filter_map(|id| catalogue.workloads.get(id))
        .map(|w| Consumer {
            spiffe_id: w.spiffe_id.clone(),
            app: w.app.clone(),
            team: w.team.clone(),
        })
        .collect()
}

/// The declared dependencies: the servers of the APIs for which `consumer` holds a grant, has asked for
/// one, or had one, so that it can call as soon as that is approved, and is denied by the callee before
/// and after. All operations of such an API are named, so that a denied call is still written down by its name.
fn peers(catalogue: &Catalogue, consumer: &SpiffeId) -> Vec<PeerRights> {
    let held: BTreeSet<&str> = catalogue
        .grants_of(consumer)
        .map(|grant| grant.api.as_str())
        .collect();
    let mut by_server: BTreeMap<&SpiffeId, Vec<ApiRights>> = BTreeMap::new();
    for api in held.into_iter().filter_map(|api| catalogue.apis.get(api)) {
        if let Some(server) = &api.server {
            by_server
                .entry(server)
                .or_default()
                .push(api.rights.clone());
        }
    }
    let peer = |(server, apis)| {
        let workload = catalogue.workloads.get(server)?;
        Some(PeerRights {
            name: workload.name.clone(),
            spiffe_id: workload.spiffe_id.clone(),
            app: workload.app.clone(),
            team: workload.team.clone(),
            apis,
        })
    };
    by_server.into_iter().filter_map(peer).collect()
}

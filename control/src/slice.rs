//! Slices: what one workload has to know of the whole catalogue, and no more.

use std::collections::{BTreeMap, BTreeSet};

use counterfoil_entry::Time;
use counterfoil_trust::SpiffeId;
use counterfoil_trust::bundle::{
    ApiRights, Consumer, Endpoints, Grant, Instances, PeerRights, Rights, Workload,
};

use crate::catalogue::{Catalogue, GrantState, WorkloadRule};

/// The slice of `workload`, of version 0 and time 0: whoever publishes it numbers and dates it.
pub(crate) fn cut(
    catalogue: &Catalogue,
    workload: &WorkloadRule,
    default_class: &str,
) -> (Rights, Endpoints) {
    let audience = &workload.spiffe_id;
    let grants = inbound_grants(catalogue, audience);
    let consumers = consumers(catalogue, &grants);
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
        apis: catalogue.apis_of(audience).cloned().collect(),
        grants,
        candidate: None,
        tokens: None,
        consumers,
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

/// The grants on the operations that `server` serves, one for each operation.
fn inbound_grants(catalogue: &Catalogue, server: &SpiffeId) -> Vec<Grant> {
    let mut grants = Vec::new();
    let rules = catalogue
        .apis_of(server)
        .flat_map(|api| catalogue.grants_on(&api.api));
    for rule in rules.filter(|rule| rule.state == GrantState::Approved) {
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

fn consumers(catalogue: &Catalogue, grants: &[Grant]) -> Vec<Consumer> {
    let held: BTreeSet<&SpiffeId> = grants.iter().map(|grant| &grant.consumer).collect();
    held.into_iter()
        .filter_map(|id| catalogue.workloads.get(id))
        .map(|w| Consumer {
            spiffe_id: w.spiffe_id.clone(),
            app: w.app.clone(),
            team: w.team.clone(),
        })
        .collect()
}

/// The declared dependencies: the servers of the APIs for which `consumer` holds a grant. All
/// operations of such an API are named, so that a denied call is still written down by its name.
fn peers(catalogue: &Catalogue, consumer: &SpiffeId) -> Vec<PeerRights> {
    let held = catalogue.grants_of(consumer);
    let held: BTreeSet<&str> = held.map(|grant| grant.api.as_str()).collect();
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

//! The estate as it stands: the newest revision of everything, and the catalogue that follows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use counterfoil_entry::Time;
use counterfoil_trust::SpiffeId;

use super::records::{ApiRecord, ApiStatus, EventRecord, GrantRecord, State};
use crate::catalogue::{Api, Catalogue, GrantRule, GrantState, WorkloadRule};

/// Calls under a grant that expired are denied as `grant_expired` for that long, then as `grant_none`; a
/// consumer whose last grant on a server is over knows the server for that long.
const EXPIRED_KEPT_NS: i64 = 30 * 86_400 * 1_000_000_000;

/// The newest revision of everything. Clones share their elements.
#[derive(Clone, Debug, Default)]
pub(crate) struct Estate {
    pub(crate) apis: BTreeMap<String, Arc<ApiRecord>>,
    pub(crate) grants: BTreeMap<String, Arc<GrantRecord>>,
    pub(crate) catalogue: Arc<Catalogue>,
    /// Workloads by their names in small letters: host names do not tell letter cases apart.
    names: HashMap<String, SpiffeId>,
}

/// What is to be recorded, in one transaction, and what follows.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) events: Vec<EventRecord>,
    pub(crate) apis: Vec<(Arc<ApiRecord>, Option<Document>)>,
    /// With the event that made each.
    pub(crate) workloads: Vec<(Arc<WorkloadRule>, String)>,
    pub(crate) grants: Vec<Arc<GrantRecord>>,
    /// Workloads whose slices may change.
    pub(crate) touched: BTreeSet<SpiffeId>,
    /// Whether a right is taken away.
    pub(crate) urgent: bool,
}

/// A document as it came.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) file: String,
    pub(crate) text: String,
}

impl Change {
    /// Whether there is nothing to record.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Takes in what came after.
    pub(crate) fn append(&mut self, mut later: Self) {
        self.events.append(&mut later.events);
        self.apis.append(&mut later.apis);
        self.workloads.append(&mut later.workloads);
        self.grants.append(&mut later.grants);
        self.touched.append(&mut later.touched);
        self.urgent |= later.urgent;
    }
}

impl Estate {
    /// The workload of a SPIFFE id or a name.
    pub(crate) fn workload(&self, named: &str) -> Option<&Arc<WorkloadRule>> {
        let by_name = self.names.get(&named.to_lowercase());
        match by_name {
            Some(id) => self.catalogue.workloads.get(id),
            None => self.catalogue.workloads.get(&SpiffeId::parse(named).ok()?),
        }
    }

    /// Makes `change` be how things stand, and notes in it whose slices that may change.
    pub(crate) fn apply(&mut self, change: &mut Change, now: Time) {
        for (workload, _) in &change.workloads {
            let before = self.catalogue.around_workload(&workload.spiffe_id);
            self.put_workload(workload);
            change.touched.extend(before);
        }
        for (api, _) in &change.apis {
            let before = self.catalogue.around_api(&api.api);
            self.put_api(api, now);
            change.touched.extend(before);
            change.touched.extend(self.catalogue.around_api(&api.api));
        }
        for grant in &change.grants {
            self.put_grant(grant, now);
            let server = self.catalogue.apis.get(&grant.api);
            let server = server.and_then(|api| api.server.clone());
            change.touched.extend(server);
            change.touched.insert(grant.consumer.clone());
        }
    }

    pub(crate) fn put_workload(&mut self, workload: &Arc<WorkloadRule>) {
        if let Some(old) = self.catalogue.workloads.get(&workload.spiffe_id) {
            self.names.remove(&old.name.to_lowercase());
        }
        self.names
            .insert(workload.name.to_lowercase(), workload.spiffe_id.clone());
        Arc::make_mut(&mut self.catalogue).put_workload(Arc::clone(workload));
    }

    pub(crate) fn put_api(&mut self, api: &Arc<ApiRecord>, now: Time) {
        self.apis.insert(api.api.clone(), Arc::clone(api));
        if api.status == ApiStatus::Retired {
            Arc::make_mut(&mut self.catalogue).take_api(&api.api);
        } else {
            Arc::make_mut(&mut self.catalogue).put_api(Api {
                rights: api.rights(),
                server: api.server.clone(),
            });
        }
        // What grants mean depends on the operations that the API has now.
        let on_api: Vec<_> = self
            .grants
            .values()
            .filter(|grant| grant.api == api.api)
            .cloned()
            .collect();
        for grant in on_api {
            self.put_grant(&grant, now);
        }
    }

    pub(crate) fn put_grant(&mut self, grant: &Arc<GrantRecord>, now: Time) {
        self.grants
            .insert(grant.grant_id.clone(), Arc::clone(grant));
        match self.rule(grant, now) {
            Some(rule) => Arc::make_mut(&mut self.catalogue).put_grant(rule),
            None => Arc::make_mut(&mut self.catalogue).take_grant(&grant.grant_id),
        }
    }

    /// What a grant means for bundles, if it means anything.
    fn rule(&self, grant: &GrantRecord, now: Time) -> Option<GrantRule> {
        let state = match grant.state {
            State::Requested => GrantState::Requested,
            State::Approved | State::Expired if grant.decided_by.is_some() => GrantState::Approved,
            State::Rejected | State::Revoked => GrantState::Ended,
            State::Approved | State::Expired => return None,
        };
        if now.since_ns(grant.expires) > EXPIRED_KEPT_NS {
            return None;
        }
        let api = self.apis.get(&grant.api)?;
        if api.status == ApiStatus::Retired {
            return None;
        }
        // A proxy refuses rights whole that name an operation which is not there any more.
        let there = grant.operations.iter().filter(|o| api.has(o));
        let operations: Vec<_> = there.cloned().collect();
        (!operations.is_empty()).then(|| GrantRule {
            id: grant.grant_id.clone(),
            consumer: grant.consumer.clone(),
            api: grant.api.clone(),
            operations,
            not_before: grant.not_before,
            expires: grant.expires,
            state,
            revocation_proposed: grant.revocation_proposed_by.is_some(),
        })
    }
}

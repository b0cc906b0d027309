//! The catalogue: what governs the estate at one moment, as slices are cut from it.

pub(crate) mod openapi;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use counterfoil_entry::{Hash, Time};
use counterfoil_trust::SpiffeId;
use counterfoil_trust::bundle::ApiRights;

pub(crate) use openapi::DocumentError;

/// Everything that governs the estate. Clones share their elements.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue {
    pub(crate) apis: BTreeMap<String, Arc<Api>>,
    pub(crate) workloads: BTreeMap<SpiffeId, Arc<WorkloadRule>>,
    pub(crate) grants: BTreeMap<String, Arc<GrantRule>>,
    served: BTreeMap<SpiffeId, BTreeSet<String>>,
    by_api: BTreeMap<String, BTreeSet<String>>,
    by_consumer: BTreeMap<SpiffeId, BTreeSet<String>>,
}

/// One API and the workload that serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Api {
    pub(crate) rights: ApiRights,
    pub(crate) server: Option<SpiffeId>,
}

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
    /// 1, 2 .. in each workload.
    pub(crate) revision: u64,
}

/// What a grant means for bundles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrantState {
    /// In force within its dates.
    Approved,
    /// Asked for: only the candidate rights hold it.
    Requested,
    /// Turned down or taken away: no rights hold it, and its consumer still knows the server, which
    /// denies.
    Ended,
}

/// One grant, with its operations written out. All of them are operations of the API as it is now.
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

impl Catalogue {
    /// The APIs that a workload serves.
    pub(crate) fn apis_of<'a>(
        &'a self,
        server: &SpiffeId,
    ) -> impl Iterator<Item = &'a ApiRights> + use<'a> {
        let names = self.served.get(server).into_iter().flatten();
        names
            .filter_map(|name| self.apis.get(name))
            .map(|api| &api.rights)
    }

    /// The grants on an API.
    pub(crate) fn grants_on<'a>(
        &'a self,
        api: &str,
    ) -> impl Iterator<Item = &'a Arc<GrantRule>> + use<'a> {
        let ids = self.by_api.get(api).into_iter().flatten();
        ids.filter_map(|id| self.grants.get(id))
    }

    /// The grants of a consumer.
    pub(crate) fn grants_of<'a>(
        &'a self,
        consumer: &SpiffeId,
    ) -> impl Iterator<Item = &'a Arc<GrantRule>> + use<'a> {
        let ids = self.by_consumer.get(consumer).into_iter().flatten();
        ids.filter_map(|id| self.grants.get(id))
    }

    /// Takes an API in, instead of the one of its name.
    pub(crate) fn put_api(&mut self, api: Api) {
        let name = api.rights.api.clone();
        self.take_api(&name);
        if let Some(server) = &api.server {
            let served = self.served.entry(server.clone()).or_default();
            served.insert(name.clone());
        }
        self.apis.insert(name, Arc::new(api));
    }

    /// Takes an API out.
    pub(crate) fn take_api(&mut self, name: &str) {
        let old = self.apis.remove(name);
        if let Some(server) = old.as_ref().and_then(|api| api.server.as_ref()) {
            remove(&mut self.served, server, name);
        }
    }

    /// Takes a workload in, instead of the one of its SPIFFE id.
    pub(crate) fn put_workload(&mut self, workload: Arc<WorkloadRule>) {
        self.workloads.insert(workload.spiffe_id.clone(), workload);
    }

    /// Takes a grant in, instead of the one of its id.
    pub(crate) fn put_grant(&mut self, grant: GrantRule) {
        self.take_grant(&grant.id);
        let id = grant.id.clone();
        let on_api = self.by_api.entry(grant.api.clone()).or_default();
        on_api.insert(id.clone());
        let held = self.by_consumer.entry(grant.consumer.clone()).or_default();
        held.insert(id.clone());
        self.grants.insert(id, Arc::new(grant));
    }

    /// Takes a grant out.
    pub(crate) fn take_grant(&mut self, id: &str) {
        if let Some(old) = self.grants.remove(id) {
            remove(&mut self.by_api, &old.api, id);
            remove(&mut self.by_consumer, &old.consumer, id);
        }
    }

    /// The workloads whose slices an API stands in: its server and who holds a grant on it.
    pub(crate) fn around_api(&self, name: &str) -> BTreeSet<SpiffeId> {
        let server = self.apis.get(name).and_then(|api| api.server.clone());
        let consumers = self.grants_on(name).map(|grant| grant.consumer.clone());
        consumers.chain(server).collect()
    }

    /// The workloads whose slices a workload stands in: its own, those of its consumers and of the
    /// servers that it holds grants on.
    pub(crate) fn around_workload(&self, spiffe_id: &SpiffeId) -> BTreeSet<SpiffeId> {
        let served = self.served.get(spiffe_id).into_iter().flatten();
        let called = self.grants_of(spiffe_id).map(|grant| &grant.api);
        let mut around: BTreeSet<_> = served
            .chain(called)
            .flat_map(|api| self.around_api(api))
            .collect();
        around.insert(spiffe_id.clone());
        around
    }
}

fn remove<K: Ord>(index: &mut BTreeMap<K, BTreeSet<String>>, key: &K, id: &str) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

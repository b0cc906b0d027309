//! The governance plane: people decide who may call what, and every decision is recorded.
//!
//! [`Governance`] works on a data directory while no control runs on it. Control itself keeps one
//! open behind its door for people.

mod apis;
mod attempt;
pub(crate) mod desk;
pub(crate) mod estate;
pub(crate) mod explain;
pub(crate) mod grants;
mod moment;
pub(crate) mod records;
mod refusal;
pub(crate) mod requests;
mod workloads;

use std::path::Path;
use std::sync::Arc;

use counterfoil_entry::{Time, clock};

use crate::store::Store;
pub use crate::store::StoreError;
pub use apis::{ApiImported, ImportOutcome};
pub use attempt::Actor;
pub(crate) use attempt::Attempt;
use estate::{Change, Estate};
pub use explain::{Explanation, Nearest};
pub use records::{
    ApiDetail, ApiRecord, ApiStatus, EventRecord, GrantRecord, OperationView, State, WorkloadView,
};
pub use refusal::{Refusal, RefusalKind};
pub use requests::{
    ApiImport, EstateImport, GrantImport, GrantRequest, NewStatus, Note, StatusChange,
    WorkloadRequest,
};
pub use workloads::WorkloadRegistered;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum GovernanceError {
    /// It was refused. Nothing was changed.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The state cannot be read or written. Nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The books cannot be written now. What was asked for is recorded when `recorded` holds, and
    /// takes effect when they can.
    #[error("the books cannot be written now")]
    Books {
        /// Whether the change is recorded.
        recorded: bool,
    },
}

impl From<Refusal> for GovernanceError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// Which grants are meant; all when nothing is given.
#[derive(Clone, Debug, Default)]
pub struct GrantFilter {
    /// Those in this state.
    pub state: Option<State>,
    /// Those of this consumer: a SPIFFE id or the name of a workload.
    pub consumer: Option<String>,
    /// Those on this API.
    pub api: Option<String>,
}

/// The governance state of one data directory, open in this process alone.
///
/// What is recorded here reaches the books when control starts.
#[derive(Debug)]
pub struct Governance {
    store: Store,
    estate: Estate,
    trust_domain: String,
    default_class: String,
}

impl Governance {
    /// Opens the state below `data_dir`, made when there is none. `default_class` is the retention
    /// class of operations that name none, as control is configured.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while control runs on it, and other [`StoreError`]s.
    pub fn open(data_dir: &Path, default_class: &str) -> Result<Self, StoreError> {
        Self::of(Store::open(&data_dir.join("control"))?, "", default_class)
    }

    /// Opens the state below `data_dir` to read it.
    ///
    /// # Errors
    /// [`StoreError::Absent`] when there is none, else as [`Governance::open`].
    pub fn open_existing(data_dir: &Path, default_class: &str) -> Result<Self, StoreError> {
        let store = Store::open_existing(&data_dir.join("control"))?;
        Self::of(store, "", default_class)
    }

    pub(crate) fn of(
        store: Store,
        trust_domain: &str,
        default_class: &str,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            estate: store.estate(clock::wall())?,
            store,
            trust_domain: trust_domain.to_owned(),
            default_class: default_class.to_owned(),
        })
    }

    /// All APIs by name.
    #[must_use]
    pub fn apis(&self) -> Vec<ApiRecord> {
        apis_of(&self.estate)
    }

    /// One API with its operations.
    ///
    /// # Errors
    /// [`Refusal`] when there is none of this name.
    pub fn api(&self, name: &str) -> Result<ApiDetail, Refusal> {
        Ok(ApiDetail::from(&**apis::find(&self.estate, name)?))
    }

    /// All workloads by SPIFFE id.
    #[must_use]
    pub fn workloads(&self) -> Vec<WorkloadView> {
        workloads_of(&self.estate)
    }

    /// The grants that `filter` means, oldest first.
    ///
    /// # Errors
    /// [`Refusal`] when the consumer is no workload.
    pub fn grants(&self, filter: &GrantFilter) -> Result<Vec<GrantRecord>, Refusal> {
        grants_of(&self.estate, filter)
    }

    /// One grant.
    ///
    /// # Errors
    /// [`Refusal`] when there is none of this id.
    pub fn grant(&self, grant_id: &str) -> Result<GrantRecord, Refusal> {
        Ok(GrantRecord::clone(grants::find(&self.estate, grant_id)?))
    }

    /// Brings an OpenAPI document in.
    ///
    /// # Errors
    /// [`GovernanceError`]; nothing was changed then.
    pub fn import_api(
        &mut self,
        given: &ApiImport,
        actor: &Actor,
    ) -> Result<ApiImported, GovernanceError> {
        let class = self.default_class.clone();
        self.alone(|estate, now| apis::import(estate, given, &class, actor, now))
    }

    /// Asks for a grant.
    ///
    /// # Errors
    /// [`GovernanceError`]; nothing was changed then.
    pub fn request_grant(
        &mut self,
        asked: &GrantRequest,
        actor: &Actor,
    ) -> Result<GrantRecord, GovernanceError> {
        self.alone(|estate, now| grants::request(estate, asked, actor, now))
            .map(Arc::unwrap_or_clone)
    }

    /// Which callee decides what on a call, and why.
    ///
    /// # Errors
    /// [`Refusal`] names the field that cannot be understood.
    pub fn explain(
        &self,
        caller: &str,
        call: &str,
        to: Option<&str>,
    ) -> Result<Explanation, Refusal> {
        explain::explain(&self.estate, &self.default_class, caller, call, to, clock::wall())
    }

    fn alone<R>(
        &mut self,
        decide: impl FnOnce(&Estate, Time) -> Result<(Change, R), Refusal>,
    ) -> Result<R, GovernanceError> {
        let now = clock::wall();
        match decide(&self.estate, now) {
            Ok((change, result)) => {
                self.record(change, now)?;
                Ok(result)
            }
            Err(refusal) => {
                self.record_refused(&refusal, now)?;
                Err(refusal.into())
            }
        }
    }

    /// Records a change, then lets it be how things stand.
    fn record(&mut self, mut change: Change, now: Time) -> Result<Change, StoreError> {
        if !change.is_empty() {
            self.store.record(&change)?;
            self.estate.apply(&mut change, now);
        }
        Ok(change)
    }

    /// Records that somebody tried what is forbidden.
    fn record_refused(&mut self, refusal: &Refusal, now: Time) -> Result<(), StoreError> {
        let change = Change {
            events: refusal.event.iter().map(|e| EventRecord::clone(e)).collect(),
            ..Change::default()
        };
        self.record(change, now).map(drop)
    }
}

pub(crate) fn apis_of(estate: &Estate) -> Vec<ApiRecord> {
    let apis = estate.apis.values();
    apis.map(|api| ApiRecord::clone(api)).collect()
}

pub(crate) fn workloads_of(estate: &Estate) -> Vec<WorkloadView> {
    let workloads = estate.catalogue.workloads.values();
    workloads.map(|w| WorkloadView::from(&**w)).collect()
}

pub(crate) fn grants_of(
    estate: &Estate,
    filter: &GrantFilter,
) -> Result<Vec<GrantRecord>, Refusal> {
    let consumer = match filter.consumer.as_deref() {
        None => None,
        Some(named) => {
            let missing = || {
                let detail = format!("{} is no workload", grants::shown(named));
                Refusal::value("consumer", detail)
            };
            Some(&estate.workload(named.trim()).ok_or_else(missing)?.spiffe_id)
        }
    };
    let wanted = |grant: &&Arc<GrantRecord>| {
        filter.state.is_none_or(|state| grant.state == state)
            && consumer.is_none_or(|id| grant.consumer == *id)
            && filter.api.as_ref().is_none_or(|api| grant.api == *api)
    };
    let mut found: Vec<_> = estate
        .grants
        .values()
        .filter(wanted)
        .map(|grant| GrantRecord::clone(grant))
        .collect();
    found.sort_by(|a, b| (a.requested_at, &a.grant_id).cmp(&(b.requested_at, &b.grant_id)));
    Ok(found)
}

#[cfg(test)]
mod tests;

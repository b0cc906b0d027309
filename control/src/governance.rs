//! The governance plane: people decide who may call what, and every decision is recorded.

pub(crate) mod apis;
mod attempt;
pub(crate) mod desk;
pub(crate) mod estate;
pub(crate) mod explain;
pub(crate) mod grants;
mod moment;
pub(crate) mod records;
mod refusal;
pub(crate) mod requests;
pub(crate) mod workloads;

use counterfoil_entry::{Time, clock};

use crate::store::{Store, StoreError};
pub(crate) use attempt::Actor;
use estate::{Change, Estate};
use records::EventRecord;
pub(crate) use refusal::{Refusal, RefusalKind};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GovernanceError {
    /// It was refused. Nothing was changed.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The state cannot be read or written. Nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The books cannot be written now. What was asked for is recorded when `recorded` holds, and
    /// takes effect when they can.
    #[error("the books cannot be written now")]
    Books { recorded: bool },
}

impl From<Refusal> for GovernanceError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// How things stand, on disk and in memory.
#[derive(Debug)]
pub(crate) struct Governance {
    store: Store,
    estate: Estate,
    trust_domain: String,
    default_class: String,
}

impl Governance {
    /// Takes over an open state. `default_class` is the retention class of operations that name none.
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
        let event = refusal.event.iter().map(|event| EventRecord::clone(event));
        let change = Change {
            events: event.collect(),
            ..Change::default()
        };
        self.record(change, now).map(drop)
    }
}

#[cfg(test)]
mod tests;

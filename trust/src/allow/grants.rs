//! Who holds which grant, in force and proposed.

use std::collections::HashMap;
use std::sync::Arc;

use counterfoil_entry::Time;

use super::routes::Routes;
use super::{AllowError, Reason};
use crate::bundle::{Grant, Rights};

/// The grants of a workload's consumers.
#[derive(Debug)]
pub(super) struct Grants {
    by_consumer: HashMap<String, HashMap<usize, Held>>,
    none: Held,
    has_candidate: bool,
}

/// What one consumer holds on one operation.
#[derive(Debug, Default)]
pub(super) struct Held {
    in_force: Vec<Window>,
    candidate: Vec<Window>,
}

/// A grant's window, compiled.
#[derive(Debug)]
struct Window {
    grant_id: Arc<str>,
    not_before: Option<Time>,
    expires: Option<Time>,
}

/// What a consumer's grants on one operation say, and the grant that says it.
pub(super) type Ruling<'a> = (Reason, Option<&'a Arc<str>>);

impl Grants {
    pub(super) fn compile(rights: &Rights, routes: &Routes) -> Result<Self, AllowError> {
        let mut grants = Self {
            by_consumer: HashMap::new(),
            none: Held::default(),
            has_candidate: rights.candidate.is_some(),
        };
        for grant in &rights.grants {
            let held = grants.held_mut(grant, routes)?;
            held.in_force.push(Window::of(grant));
        }
        for grant in rights.candidate.iter().flatten() {
            let held = grants.held_mut(grant, routes)?;
            held.candidate.push(Window::of(grant));
        }
        Ok(grants)
    }

    fn held_mut(&mut self, grant: &Grant, routes: &Routes) -> Result<&mut Held, AllowError> {
        let index = routes
            .index_of(&grant.api, &grant.operation)
            .ok_or_else(|| AllowError::GrantStray {
                grant_id: grant.grant_id.clone(),
                operation: grant.operation.clone(),
            })?;
        let consumer = grant.consumer.as_str().to_owned();
        let of_consumer = self.by_consumer.entry(consumer).or_default();
        Ok(of_consumer.entry(index).or_default())
    }

    /// What `consumer` holds on the operation of this index.
    pub(super) fn held(&self, consumer: &str, index: usize) -> &Held {
        let of_consumer = self.by_consumer.get(consumer);
        of_consumer
            .and_then(|held| held.get(&index))
            .unwrap_or(&self.none)
    }

    /// Whether anything is proposed, so that there is a shadow verdict.
    pub(super) const fn has_candidate(&self) -> bool {
        self.has_candidate
    }
}

impl Held {
    pub(super) fn rule_in_force(&self, now: Time) -> Ruling<'_> {
        rule(&self.in_force, now)
    }

    pub(super) fn rule_candidate(&self, now: Time) -> Ruling<'_> {
        rule(&self.candidate, now)
    }
}

fn rule(windows: &[Window], now: Time) -> Ruling<'_> {
    if let Some(window) = windows.iter().find(|w| w.is_open(now)) {
        return (Reason::Granted, Some(&window.grant_id));
    }
    match windows
        .iter()
        .find(|w| w.has_expired(now))
        .or_else(|| windows.first())
    {
        Some(window) if window.has_expired(now) => (Reason::GrantExpired, Some(&window.grant_id)),
        Some(window) => (Reason::GrantNotStarted, Some(&window.grant_id)),
        None => (Reason::GrantNone, None),
    }
}

impl Window {
    fn of(grant: &Grant) -> Self {
        Self {
            grant_id: grant.grant_id.as_str().into(),
            not_before: grant.not_before,
            expires: grant.expires,
        }
    }

    fn is_open(&self, now: Time) -> bool {
        self.not_before.is_none_or(|from| from <= now) && !self.has_expired(now)
    }

    fn has_expired(&self, now: Time) -> bool {
        self.expires.is_some_and(|until| until <= now)
    }
}

//! The compiled allow-list: which consumer may call which operation, decided in nanoseconds.

mod gate;
mod peers;
mod routes;

use std::collections::HashMap;
use std::sync::Arc;

use counterfoil_entry::Time;
use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::word::Decision;

use crate::bundle::{ApiRights, Grant, Rights};
pub use gate::is_unambiguous;
pub use peers::{Peer, Peers};
use routes::{Found, Routes};

/// An operation that can be called, as entries name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The API.
    pub api: Arc<str>,
    /// Its version.
    pub api_version: Arc<str>,
    /// What the API's instances speak, as in `grpc`; `None` for plain HTTP.
    pub protocol: Option<Arc<str>>,
    /// Its name.
    pub operation: Arc<str>,
    /// HTTP method.
    pub method: Arc<str>,
    /// Path template.
    pub route: Arc<str>,
    /// Scopes of evidence.
    pub scopes: Arc<[Arc<str>]>,
    /// Retention class of its entries.
    pub class: RetentionClass,
    /// Whether it may be called without a grant.
    pub open: bool,
}

/// Why a call was decided as it was. The words are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// There is no bundle, so that nothing is allowed.
    BundleMissing,
    /// The grant has expired.
    GrantExpired,
    /// The consumer has no grant for the operation.
    GrantNone,
    /// The grant is not valid yet.
    GrantNotStarted,
    /// A grant allows it.
    Granted,
    /// Host and authority of the request disagree, or name another workload.
    HostMismatch,
    /// The path is declared, with other methods.
    MethodNotDeclared,
    /// The operation is open to every workload of the trust domain.
    OpenOperation,
    /// The path could be read in more than one way.
    PathAmbiguous,
    /// The request is malformed.
    ReqMalformed,
    /// No operation has this path.
    RouteUnknown,
}

impl Reason {
    /// The stable word, as entries hold it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BundleMissing => "bundle_missing",
            Self::GrantExpired => "grant_expired",
            Self::GrantNone => "grant_none",
            Self::GrantNotStarted => "grant_not_started",
            Self::Granted => "granted",
            Self::HostMismatch => "host_mismatch",
            Self::MethodNotDeclared => "method_not_declared",
            Self::OpenOperation => "open_operation",
            Self::PathAmbiguous => "path_ambiguous",
            Self::ReqMalformed => "req_malformed",
            Self::RouteUnknown => "route_unknown",
        }
    }
}

/// Leave to forward one request. Only [`decide`] and [`AllowList::decide`] give it out.
#[derive(Debug)]
#[must_use = "a permit is for one request that is forwarded"]
pub struct Permit(());

/// What was decided on one request.
#[derive(Debug)]
pub struct Verdict {
    /// `Allow` exactly when there is a permit.
    pub decision: Decision,
    /// Why.
    pub reason: Reason,
    /// The operation, as far as it was found: also for a denial.
    pub operation: Option<Arc<Operation>>,
    /// The grant that allowed it, or that has expired or not started.
    pub grant_id: Option<Arc<str>>,
    /// Leave to forward.
    pub permit: Option<Permit>,
}

impl Verdict {
    /// A denial before any operation was found.
    pub fn denied(reason: Reason) -> Self {
        Self {
            decision: Decision::Deny,
            reason,
            operation: None,
            grant_id: None,
            permit: None,
        }
    }

    fn of(reason: Reason, operation: &Arc<Operation>, grant_id: Option<&Arc<str>>) -> Self {
        let allowed = matches!(reason, Reason::Granted | Reason::OpenOperation);
        Self {
            decision: if allowed {
                Decision::Allow
            } else {
                Decision::Deny
            },
            reason,
            operation: Some(Arc::clone(operation)),
            grant_id: grant_id.cloned(),
            permit: allowed.then_some(Permit(())),
        }
    }
}

/// Why rights cannot be compiled. One bad element refuses them whole.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllowError {
    /// A path template that cannot be matched.
    #[error("the route {route} of operation {operation} cannot be matched: {why}")]
    Route {
        /// The operation.
        operation: String,
        /// Its path template.
        route: String,
        /// What is wrong with it.
        why: String,
    },
    /// Two operations of a workload answer the same method and path.
    #[error("operations {one} and {other} answer the same method and path")]
    Twice {
        /// The one.
        one: String,
        /// The other.
        other: String,
    },
    /// A grant names an operation that the bundle does not hold.
    #[error("grant {grant_id} names operation {operation}, which the bundle does not hold")]
    GrantStray {
        /// The grant.
        grant_id: String,
        /// What it names.
        operation: String,
    },
    /// A retention class that is none.
    #[error("operation {operation} has {class}, which is no retention class")]
    Class {
        /// The operation.
        operation: String,
        /// Its class.
        class: String,
    },
    /// Two declared dependencies have one name, or instances belong to none or to another identity.
    #[error("the declared dependency {0} is ambiguous")]
    Peer(String),
}

/// A grant's window, compiled.
#[derive(Debug)]
struct Window {
    grant_id: Arc<str>,
    not_before: Option<Time>,
    expires: Option<Time>,
}

/// By consumer, then by API and operation's index in the routes.
type Grants = HashMap<String, HashMap<usize, Vec<Window>>>;

/// One workload's own operations and who may call them.
#[derive(Debug)]
pub struct AllowList {
    routes: Routes,
    grants: Grants,
    consumers: HashMap<String, (Arc<str>, Arc<str>)>,
}

impl AllowList {
    /// Compiles the inbound side of `rights`.
    ///
    /// # Errors
    /// [`AllowError`] names the first element that is not good; nothing of the rest is used then.
    pub fn compile(rights: &Rights) -> Result<Self, AllowError> {
        let routes = Routes::compile(&rights.apis)?;
        let mut grants = Grants::new();
        for grant in &rights.grants {
            let index = routes
                .index_of(&grant.api, &grant.operation)
                .ok_or_else(|| AllowError::GrantStray {
                    grant_id: grant.grant_id.clone(),
                    operation: grant.operation.clone(),
                })?;
            grants
                .entry(grant.consumer.as_str().to_owned())
                .or_default()
                .entry(index)
                .or_default()
                .push(Window::of(grant));
        }
        let consumers = rights.consumers.iter().map(|c| {
            (
                c.spiffe_id.as_str().to_owned(),
                (c.app.as_str().into(), c.team.as_str().into()),
            )
        });
        Ok(Self {
            routes,
            grants,
            consumers: consumers.collect(),
        })
    }

    /// Decides whether `consumer`, a SPIFFE id that mutual TLS has proved, may make a request.
    ///
    /// `path` is the request target as it came; what follows a `?` is not looked at.
    pub fn decide(&self, consumer: &str, method: &str, path: &str, now: Time) -> Verdict {
        let (index, operation) = match self.routes.find(method, path) {
            Found::Operation(index, operation) => (index, operation),
            Found::Nothing(reason) => return Verdict::denied(reason),
        };
        let windows = self.grants.get(consumer).and_then(|held| held.get(&index));
        let windows = windows.map(Vec::as_slice).unwrap_or_default();
        if let Some(window) = windows.iter().find(|w| w.is_open(now)) {
            return Verdict::of(Reason::Granted, operation, Some(&window.grant_id));
        }
        if operation.open {
            return Verdict::of(Reason::OpenOperation, operation, None);
        }
        match windows
            .iter()
            .find(|w| w.has_expired(now))
            .or_else(|| windows.first())
        {
            Some(window) if window.has_expired(now) => {
                Verdict::of(Reason::GrantExpired, operation, Some(&window.grant_id))
            }
            Some(window) => Verdict::of(Reason::GrantNotStarted, operation, Some(&window.grant_id)),
            None => Verdict::of(Reason::GrantNone, operation, None),
        }
    }

    /// Application and team of a workload that holds grants.
    pub fn consumer(&self, spiffe_id: &str) -> Option<(&Arc<str>, &Arc<str>)> {
        self.consumers.get(spiffe_id).map(|(app, team)| (app, team))
    }
}

/// Decides with the allow-list in use, or denies when there is none.
pub fn decide(
    allow_list: Option<&AllowList>,
    consumer: &str,
    method: &str,
    path: &str,
    now: Time,
) -> Verdict {
    allow_list.map_or_else(
        || Verdict::denied(Reason::BundleMissing),
        |list| list.decide(consumer, method, path, now),
    )
}

/// Checks that the operations of `apis` can stand beside each other in one allow-list.
///
/// # Errors
/// [`AllowError`] names the first operation that is not good.
pub fn check_apis(apis: &[ApiRights]) -> Result<(), AllowError> {
    Routes::compile(apis).map(drop)
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

#[cfg(test)]
mod tests;

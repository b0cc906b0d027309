//! The compiled allow-list: which consumer may call which operation, decided in nanoseconds.

mod gate;
mod grants;
mod peers;
mod reason;
mod routes;

use std::collections::HashMap;
use std::sync::Arc;

use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::word::Decision;
use counterfoil_entry::{Hash, Time};

use crate::bundle::{Access, ApiRights, Rights};
use crate::token::{
    Authorization, Caller, Checked, Fault, Need, TokenCache, TokenCheck, TokenSeen,
};
pub use gate::is_unambiguous;
use grants::{Grants, Ruling};
pub use peers::{Peer, Peers};
pub use reason::Reason;
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
    /// What its API wants a caller to show.
    pub access: Access,
    /// Its name as a token's scope holds it.
    pub token_scope: Arc<str>,
}

impl Operation {
    /// Whether a call of it has to show a token: an open operation needs neither token nor grant.
    #[must_use]
    pub const fn wants_token(&self) -> bool {
        self.access.wants_token() && !self.open
    }
}

/// One request, as mutual TLS has proved its caller and its head shows the rest.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The SPIFFE id of the caller's certificate.
    pub consumer: &'a str,
    /// SHA-256 of that certificate.
    pub cert_sha256: Hash,
    /// HTTP method.
    pub method: &'a str,
    /// The request target as it came; what follows a `?` is not looked at.
    pub path: &'a str,
    /// Looked at only when the API wants a token.
    pub authorization: Authorization<'a>,
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
    /// What would be decided if every open proposal had been; absent when nothing is proposed. It
    /// changes nothing.
    pub shadow: Option<(Decision, Reason)>,
    /// The token that was shown, once its signature was found good: also for a denial.
    pub token: Option<TokenSeen>,
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
            shadow: None,
            token: None,
            permit: None,
        }
    }

    fn of(operation: &Arc<Operation>, (reason, grant_id): Ruling<'_>) -> Self {
        let decision = reason.decision();
        Self {
            decision,
            reason,
            operation: Some(Arc::clone(operation)),
            grant_id: grant_id.cloned(),
            shadow: None,
            token: None,
            permit: (decision == Decision::Allow).then_some(Permit(())),
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
    /// A key of tokens is no point on P-256, or two have one name.
    #[error("the token key {0} cannot be used")]
    TokenKey(String),
}

/// One workload's own operations and who may call them.
#[derive(Debug)]
pub struct AllowList {
    routes: Routes,
    grants: Grants,
    tokens: TokenCheck,
    consumers: HashMap<String, (Arc<str>, Arc<str>)>,
}

impl AllowList {
    /// Compiles the inbound side of `rights`.
    ///
    /// # Errors
    /// [`AllowError`] names the first element that is not good; nothing of the rest is used then.
    pub fn compile(rights: &Rights) -> Result<Self, AllowError> {
        let routes = Routes::compile(&rights.apis)?;
        let consumers = rights.consumers.iter().map(|c| {
            (
                c.spiffe_id.as_str().to_owned(),
                (c.app.as_str().into(), c.team.as_str().into()),
            )
        });
        Ok(Self {
            grants: Grants::compile(rights, &routes)?,
            routes,
            tokens: TokenCheck::compile(rights.tokens.as_ref()).map_err(AllowError::TokenKey)?,
            consumers: consumers.collect(),
        })
    }

    /// Decides whether `consumer`, a SPIFFE id that mutual TLS has proved, may make a request that
    /// shows no token.
    ///
    /// `path` is the request target as it came; what follows a `?` is not looked at.
    pub fn decide(&self, consumer: &str, method: &str, path: &str, now: Time) -> Verdict {
        let missing = |_: &Operation| Checked::bad(Fault::Missing, None);
        self.judge(consumer, (method, path), now, missing)
    }

    /// Decides on a request, whatever its API wants to be shown. `cache` is the calling thread's own.
    pub fn decide_asked(&self, asked: &Asked<'_>, cache: &mut TokenCache, now: Time) -> Verdict {
        let caller = Caller {
            spiffe_id: asked.consumer,
            cert_sha256: asked.cert_sha256,
        };
        let check = |operation: &Operation| {
            let need = Need {
                api: &operation.api,
                scope: &operation.token_scope,
                now,
            };
            self.tokens.check(asked.authorization, caller, need, cache)
        };
        self.judge(asked.consumer, (asked.method, asked.path), now, check)
    }

    fn judge(
        &self,
        consumer: &str,
        (method, path): (&str, &str),
        now: Time,
        check: impl FnOnce(&Operation) -> Checked,
    ) -> Verdict {
        let (index, operation) = match self.routes.find(method, path) {
            Found::Operation(index, operation) => (index, operation),
            Found::Nothing(reason) => {
                return Verdict {
                    shadow: self.shadow(|| reason),
                    ..Verdict::denied(reason)
                };
            }
        };
        let held = self.grants.held(consumer, index);
        let checked = operation.wants_token().then(|| check(operation));
        let fault = checked.as_ref().and_then(|checked| checked.fault);
        let ruling = weigh(operation, held.rule_in_force(now), fault);
        Verdict {
            shadow: self.shadow(|| weigh(operation, held.rule_candidate(now), fault).0),
            token: checked.and_then(|checked| checked.seen),
            ..Verdict::of(operation, ruling)
        }
    }

    fn shadow(&self, reason: impl FnOnce() -> Reason) -> Option<(Decision, Reason)> {
        self.grants.has_candidate().then(|| {
            let reason = reason();
            (reason.decision(), reason)
        })
    }

    /// Application and team of a workload that holds grants.
    pub fn consumer(&self, spiffe_id: &str) -> Option<(&Arc<str>, &Arc<str>)> {
        self.consumers.get(spiffe_id).map(|(app, team)| (app, team))
    }
}

/// What grants and token say together; `fault` is what is wrong with the token that the operation wants.
fn weigh<'a>(operation: &Operation, by_grant: Ruling<'a>, fault: Option<Fault>) -> Ruling<'a> {
    let is_granted = by_grant.0 == Reason::Granted;
    match (operation.access, fault) {
        _ if operation.open && !is_granted => (Reason::OpenOperation, None),
        _ if operation.open => by_grant,
        (Access::Bundle, _) => by_grant,
        // the grant on which it was issued, when the bundle still holds it
        (Access::Token, None) => (Reason::TokenGranted, by_grant.1.filter(|_| is_granted)),
        (Access::Token, Some(fault)) => (Reason::Token(fault), None),
        // a right that is missing comes before a token that does not show it, and after a token
        // that should not have been shown
        (Access::Both, Some(Fault::Missing | Fault::Scope) | None) if !is_granted => by_grant,
        (Access::Both, Some(fault)) => (Reason::Token(fault), None),
        (Access::Both, None) => by_grant,
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

#[cfg(test)]
mod tests;

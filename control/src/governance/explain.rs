//! Why a call is allowed or denied: decided as the callee's proxy decides, with the rule named.

use std::collections::BTreeSet;

use counterfoil_entry::word::Decision;
use counterfoil_entry::{Hash, Time};
use counterfoil_trust::SpiffeId;
use counterfoil_trust::allow::{AllowList, Asked, Reason, Verdict};
use counterfoil_trust::bundle::{Access, Rights, TokenRules};
use counterfoil_trust::token::{self, Authorization, Claims, Subject, TokenCache, TokenSigner};
use serde::Serialize;
use utoipa::ToSchema;

use super::estate::Estate;
use super::grants::shown;
use super::records::{GrantRecord, State};
use super::refusal::Refusal;
use crate::catalogue::{GrantRule, GrantState, WorkloadRule};
use crate::slice;

/// More would bury the one that helps.
const NEAREST_MAX: usize = 5;
const METHODS: [&str; 8] = [
    "GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE",
];
const CALL_BYTES_MAX: usize = 8 << 10;
/// Of the certificate that the caller would show: any, since the token is bound to the same.
const CERT_SHA256: Hash = Hash([0; 32]);
const HOUR_NS: i64 = 3_600 * 1_000_000_000;

/// What the callee's proxy decides on a call, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Explanation {
    /// `allow` or `deny`.
    pub(crate) decision: String,
    /// The stable reason that entries would hold.
    pub(crate) reason: String,
    /// Who would call.
    #[schema(value_type = String)]
    pub(crate) caller: SpiffeId,
    /// Who would decide.
    #[schema(value_type = Option<String>)]
    pub(crate) callee: Option<SpiffeId>,
    /// The API, when the call is one of its operations.
    pub(crate) api: Option<String>,
    /// The operation.
    pub(crate) operation: Option<String>,
    /// The grant that allows it, or that does not any more or not yet.
    pub(crate) grant_id: Option<String>,
    /// The rule, in a sentence.
    pub(crate) rule: String,
    /// What comes nearest to a grant that would allow it.
    pub(crate) nearest: Vec<Nearest>,
}

/// A grant that comes near.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Nearest {
    /// The grant.
    pub(crate) grant_id: String,
    /// What it says.
    pub(crate) what: String,
    /// What is missing in it.
    pub(crate) missing: String,
}

/// Explains the call `call`, as in `POST /payments`, of `caller` (a SPIFFE id or a workload's name)
/// to the workload or API `to`; to whoever has such an operation when that is not given.
pub(crate) fn explain(
    estate: &Estate,
    default_class: &str,
    caller: &str,
    call: &str,
    to: Option<&str>,
    now: Time,
) -> Result<Explanation, Refusal> {
    let caller = caller_of(estate, caller)?;
    let (method, path) = parse_call(call)?;
    let signer = TokenSigner::generate().map_err(|error| {
        Refusal::conflict("no_randomness", format!("cannot make a key: {error}"))
    })?;
    let question = Question {
        signer: &signer,
        estate,
        default_class,
        caller: &caller,
        method,
        path,
        now,
    };
    let callee = match to {
        Some(named) => Some(question.named(named)?),
        None => question.found()?,
    };
    question.answer(callee)
}

fn caller_of(estate: &Estate, named: &str) -> Result<SpiffeId, Refusal> {
    if let Some(workload) = estate.workload(named.trim()) {
        return Ok(workload.spiffe_id.clone());
    }
    SpiffeId::parse(named.trim()).map_err(|_| {
        let detail = format!("{} is neither a workload nor a SPIFFE id", shown(named));
        Refusal::value("as", detail)
    })
}

fn parse_call(call: &str) -> Result<(&str, &str), Refusal> {
    let refuse = || Refusal::value("call", "it is a method and a path, as in POST /payments");
    let (method, path) = call.trim().split_once(' ').ok_or_else(refuse)?;
    let path = path.trim_start();
    let is_token = !method.is_empty() && method.bytes().all(|b| b.is_ascii_alphabetic());
    if is_token && path.starts_with('/') && call.len() <= CALL_BYTES_MAX {
        Ok((method, path))
    } else {
        Err(refuse())
    }
}

/// A call that is asked about.
struct Question<'a> {
    signer: &'a TokenSigner,
    estate: &'a Estate,
    default_class: &'a str,
    caller: &'a SpiffeId,
    method: &'a str,
    path: &'a str,
    now: Time,
}

/// Who decides: a workload, or nobody yet for an API without one.
enum Callee<'a> {
    Workload(&'a WorkloadRule),
    Unserved(&'a str),
}

impl<'a> Question<'a> {
    /// The callee that was named: a workload, or the server of an API.
    fn named(&self, named: &str) -> Result<Callee<'a>, Refusal> {
        let estate = self.estate;
        if let Some(workload) = estate.workload(named.trim()) {
            return Ok(Callee::Workload(workload));
        }
        match estate.catalogue.apis.get_key_value(named.trim()) {
            Some((name, api)) => {
                let server = api.server.as_ref();
                let server = server.and_then(|id| estate.catalogue.workloads.get(id));
                Ok(server.map_or(Callee::Unserved(name), |w| Callee::Workload(w)))
            }
            None => {
                let detail = format!("{} is neither a workload nor an API", shown(named));
                Err(Refusal::value("to", detail))
            }
        }
    }

    /// The one that has such an operation; of several the one on which the caller has a grant.
    fn found(&self) -> Result<Option<Callee<'a>>, Refusal> {
        let workloads = self.estate.catalogue.workloads.values();
        let mut answering: Vec<(&WorkloadRule, bool)> = Vec::new();
        for workload in workloads {
            let apis: Vec<_> = self.estate.catalogue.apis_of(&workload.spiffe_id).collect();
            if apis.is_empty() {
                continue;
            }
            if let Some(api) = self.verdict(workload)?.operation.map(|o| o.api.to_string()) {
                let mut of_caller = self.estate.catalogue.grants_of(self.caller);
                let holds = of_caller.any(|grant| grant.api == api);
                answering.push((workload, holds));
            }
        }
        if answering.len() > 1 && answering.iter().any(|(_, holds)| *holds) {
            answering.retain(|(_, holds)| *holds);
        }
        match answering.as_slice() {
            [] => Ok(None),
            [(one, _)] => Ok(Some(Callee::Workload(one))),
            several => {
                let names: Vec<_> = several
                    .iter()
                    .take(10)
                    .map(|(w, _)| w.name.as_str())
                    .collect();
                let detail = format!(
                    "{} workloads answer this call, name one: {}",
                    several.len(),
                    names.join(", ")
                );
                Err(Refusal::value("to", detail))
            }
        }
    }

    /// What the proxy of `workload` decides with its slice as it would be cut now.
    fn verdict(&self, workload: &WorkloadRule) -> Result<Verdict, Refusal> {
        self.decide(&self.rights(workload))
    }

    fn decide(&self, rights: &Rights) -> Result<Verdict, Refusal> {
        let list = AllowList::compile(rights).map_err(|error| {
            let detail = format!("the proxy refuses its rights: {error}");
            Refusal::conflict("rights_unusable", detail)
        })?;
        let bare = list.decide(self.caller.as_str(), self.method, self.path, self.now);
        let wants_token = bare.operation.as_deref().filter(|o| o.wants_token());
        let Some(token) = wants_token.and_then(|operation| self.token(&operation.api)) else {
            return Ok(bare);
        };
        let value = format!("Bearer {token}");
        let asked = Asked {
            consumer: self.caller.as_str(),
            cert_sha256: CERT_SHA256,
            method: self.method,
            path: self.path,
            authorization: Authorization::of(std::iter::once(value.as_bytes())),
        };
        Ok(list.decide_asked(&asked, &mut TokenCache::default(), self.now))
    }

    /// The token that control would give the caller now, for what it is granted of `api`; none when
    /// that is nothing. The key that signs it counts in this question alone.
    fn token(&self, api: &str) -> Option<String> {
        let is_open = |grant: &GrantRule| {
            grant.api == api
                && grant.state == GrantState::Approved
                && grant.not_before.is_none_or(|from| from <= self.now)
                && self.now < grant.expires
        };
        let grants = self.estate.catalogue.grants_of(self.caller);
        let operations: BTreeSet<&str> = grants
            .filter(|grant| is_open(grant))
            .flat_map(|grant| &grant.operations)
            .map(String::as_str)
            .collect();
        let operations: Vec<_> = operations.into_iter().collect();
        if operations.is_empty() {
            return None;
        }
        let subject = Subject {
            caller: self.caller,
            cert_sha256: CERT_SHA256,
            cert_not_after: self.now.plus_ns(HOUR_NS),
            api,
            operations: &operations,
        };
        let claims = Claims::new(&subject, "explained".to_owned(), self.now);
        self.signer.sign(&claims).ok()
    }

    /// The slice of a workload as it would be cut now, with the key of this question.
    fn rights(&self, workload: &WorkloadRule) -> Rights {
        let rules = || TokenRules {
            issuer: token::issuer(self.caller.trust_domain()),
            keys: vec![self.signer.public().clone()],
            revoked: Vec::new(),
        };
        slice::cut(&self.estate.catalogue, workload, self.default_class, rules).0
    }

    fn answer(&self, callee: Option<Callee<'_>>) -> Result<Explanation, Refusal> {
        let workload = match callee {
            Some(Callee::Workload(workload)) => workload,
            Some(Callee::Unserved(api)) => {
                let rule = format!("no workload serves the API {api} yet: there is nobody to call");
                return Ok(self.denied(Reason::BundleMissing, rule));
            }
            None => {
                let call = format!("{} {}", self.method, shown(self.path));
                let rule = format!("no API that is served has the operation {call}");
                return Ok(self.denied(Reason::RouteUnknown, rule));
            }
        };
        let verdict = self.verdict(workload)?;
        let operation = verdict.operation.as_deref();
        let mut explanation = Explanation {
            decision: match verdict.decision {
                Decision::Allow => "allow".to_owned(),
                _ => "deny".to_owned(),
            },
            reason: verdict.reason.as_str().to_owned(),
            caller: self.caller.clone(),
            callee: Some(workload.spiffe_id.clone()),
            api: operation.map(|o| o.api.to_string()),
            operation: operation.map(|o| o.operation.to_string()),
            grant_id: verdict.grant_id.as_deref().map(str::to_owned),
            rule: self.rule(workload, &verdict)?,
            nearest: Vec::new(),
        };
        if let Some(operation) = operation
            && verdict.decision != Decision::Allow
        {
            explanation.nearest = self.nearest(&operation.api, &operation.operation);
        }
        Ok(explanation)
    }

    fn denied(&self, reason: Reason, rule: String) -> Explanation {
        Explanation {
            decision: "deny".to_owned(),
            reason: reason.as_str().to_owned(),
            caller: self.caller.clone(),
            callee: None,
            api: None,
            operation: None,
            grant_id: None,
            rule,
            nearest: Vec::new(),
        }
    }

    fn rule(&self, callee: &WorkloadRule, verdict: &Verdict) -> Result<String, Refusal> {
        let grant = verdict.grant_id.as_deref();
        let grant = grant.and_then(|id| self.estate.grants.get(id));
        let (caller, name) = (self.name_of(self.caller), &callee.name);
        let Some(operation) = verdict.operation.as_deref() else {
            let path = shown(self.path);
            return Ok(match verdict.reason {
                Reason::MethodNotDeclared => {
                    let methods = self.methods(callee)?.join(", ");
                    format!("{name} declares {path} with other methods only: {methods}")
                }
                Reason::PathAmbiguous => {
                    format!(
                        "{path} could be read in more than one way, and is refused before any grant is looked at"
                    )
                }
                _ => format!("no operation of {name} has the path {path}"),
            });
        };
        let call = format!("{} of {}", operation.operation, operation.api);
        let rule = match (verdict.reason, grant) {
            (Reason::Granted | Reason::TokenGranted, Some(grant)) => format!(
                "grant {} lets {caller} call {call} until {}, asked for by {}, approved by {}",
                grant.grant_id,
                grant.expires,
                grant.requested_by,
                grant.decided_by.as_deref().unwrap_or("nobody"),
            ),
            (Reason::OpenOperation, _) => {
                format!("{call} is open to every workload of the trust domain")
            }
            (Reason::GrantExpired, Some(grant)) => format!(
                "grant {} let {caller} call {call} until {}",
                grant.grant_id, grant.expires
            ),
            (Reason::GrantNotStarted, Some(grant)) => {
                let from = grant.not_before.map(|at| at.to_string());
                format!(
                    "grant {} lets {caller} call {call} from {} on",
                    grant.grant_id,
                    from.unwrap_or_default()
                )
            }
            (Reason::GrantNone, _) => format!("no grant in force lets {caller} call {call}"),
            (reason, _) => format!("{name} decides {} on {call}", reason.as_str()),
        };
        Ok(self.with_token(rule, &operation.api, &operation.operation))
    }

    fn with_token(&self, rule: String, api: &str, operation: &str) -> String {
        let access = self.estate.apis.get(api).map(|api| api.access);
        match access {
            Some(Access::Token | Access::Both) => format!(
                "{rule}; besides, the call must carry a token of control whose scope names {operation}"
            ),
            _ => rule,
        }
    }

    /// The methods with which `callee` declares the path.
    fn methods(&self, callee: &WorkloadRule) -> Result<Vec<&'static str>, Refusal> {
        let rights = self.rights(callee);
        let mut declared = Vec::new();
        for method in METHODS {
            let question = Question { method, ..*self };
            if question.decide(&rights)?.operation.is_some() {
                declared.push(method);
            }
        }
        Ok(declared)
    }

    fn name_of<'n>(&'n self, id: &'n SpiffeId) -> &'n str {
        let workload = self.estate.catalogue.workloads.get(id);
        workload.map_or(id.as_str(), |workload| &workload.name)
    }

    /// The grants that come nearest: the caller's on the operation, then its others on the API, then
    /// other callers' on the operation.
    fn nearest(&self, api: &str, operation: &str) -> Vec<Nearest> {
        let names_it = |grant: &GrantRecord| grant.operations.iter().any(|o| o == operation);
        let rank = |grant: &GrantRecord| match (grant.consumer == *self.caller, names_it(grant)) {
            (true, true) => Some(0),
            (true, false) => Some(1),
            (false, true) if grant.holds(self.now) => Some(2),
            (false, _) => None,
        };
        let on_api = self.estate.grants.values().filter(|g| g.api == api);
        let mut ranked: Vec<_> = on_api
            .filter_map(|grant| Some((rank(grant)?, std::cmp::Reverse(grant.recorded_at), grant)))
            .collect();
        ranked.sort_by(|a, b| (a.0, a.1, &a.2.grant_id).cmp(&(b.0, b.1, &b.2.grant_id)));
        let near = |(rank, _, grant): (i32, _, &std::sync::Arc<GrantRecord>)| Nearest {
            grant_id: grant.grant_id.clone(),
            what: self.what(grant),
            missing: self.missing(grant, rank, operation),
        };
        ranked.into_iter().take(NEAREST_MAX).map(near).collect()
    }

    fn what(&self, grant: &GrantRecord) -> String {
        let shown_operations: Vec<_> = grant
            .operations
            .iter()
            .take(3)
            .map(String::as_str)
            .collect();
        let more = grant.operations.len().saturating_sub(3);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        format!(
            "{}: {} may call {}{more} of {} until {}",
            grant.state.as_str(),
            self.name_of(&grant.consumer),
            shown_operations.join(", "),
            grant.api,
            grant.expires,
        )
    }

    fn missing(&self, grant: &GrantRecord, rank: i32, operation: &str) -> String {
        let team = self.estate.apis.get(&grant.api);
        let team = team.map_or("the owning team", |api| &api.owner_team);
        let state = match grant.state {
            State::Requested => format!(
                "an approval by somebody of {team} other than {}",
                grant.requested_by
            ),
            State::Rejected => format!(
                "{} rejected it; ask again",
                grant.decided_by.as_deref().unwrap_or("somebody")
            ),
            State::Revoked => format!(
                "{} revoked it; ask for a new one",
                grant.revoked_by.as_deref().unwrap_or("somebody")
            ),
            _ if grant.expires <= self.now => "it has expired; ask for a new one".to_owned(),
            _ => match grant.not_before.filter(|from| *from > self.now) {
                Some(from) => format!("it begins at {from}"),
                None => String::new(),
            },
        };
        let gap = match rank {
            1 => format!("the operation {operation} is not in it"),
            2 => format!(
                "it is for another caller than {}",
                self.name_of(self.caller)
            ),
            _ => String::new(),
        };
        match (gap.is_empty(), state.is_empty()) {
            (false, false) => format!("{gap}, and {state}"),
            (false, true) => gap,
            _ => state,
        }
    }
}

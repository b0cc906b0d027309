//! One simulated proxy: what it has been given, and which decisions are right.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicI64, Ordering},
};

use counterfoil_entry::{Time, clock, word::Decision};
use counterfoil_estate::{Api, Estate, Grant};
use counterfoil_proxy::PolicyCell;

/// Calls of each that are tried in turn: so many that must be allowed, besides those that must be denied.
const ALLOWED_MAX: usize = 4;

/// A call on a workload, decided by its policy.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    policy: PolicyCell,
    call: Call,
}

/// A call, and what must come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    consumer: String,
    method: &'static str,
    path: String,
    /// The decision's reason.
    expected: &'static str,
}

impl Call {
    /// The call that a grant is for; none when its API has nothing that needs one.
    pub(super) fn of_grant(api: &Api, grant: &Grant) -> Option<Self> {
        let named = |name: &String| grant.operations.iter().any(|one| one == name || one == "*");
        let operation = api.operations.iter().find(|o| !o.open && named(&o.name))?;
        Some(Self {
            consumer: grant.consumer.clone(),
            method: operation.method,
            path: operation.path(),
            expected: "granted",
        })
    }

    /// A call on the same operation by somebody who holds no grant.
    fn of_nobody(api: &Api, trust_domain: &str) -> Option<Self> {
        let operation = api.operations.iter().find(|operation| !operation.open)?;
        Some(Self {
            consumer: format!("spiffe://{trust_domain}/workload/nobody"),
            method: operation.method,
            path: operation.path(),
            expected: "grant_none",
        })
    }
}

impl Probe {
    /// Whether the call would be allowed now.
    pub(super) fn is_allowed(&self) -> bool {
        let Call {
            consumer,
            method,
            path,
            ..
        } = &self.call;
        let verdict = self.policy.decide(consumer, method, path, clock::wall());
        verdict.decision == Decision::Allow
    }
}

/// A simulated proxy.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) spiffe_id: String,
    pub(super) name: String,
    pub(super) policy: PolicyCell,
    calls: Vec<Call>,
    /// When control last answered a poll (ns).
    polled_ns: AtomicI64,
    /// When the last bundle was put in force (ns).
    taken_ns: AtomicI64,
}

impl Member {
    /// A proxy of a workload that serves `apis` under `grants`, none of which will be revoked.
    pub(super) fn new(
        spiffe_id: &str,
        name: &str,
        trust_domain: &str,
        served: &[(&Api, Vec<&Grant>)],
    ) -> Self {
        let mut calls: Vec<Call> = served
            .iter()
            .flat_map(|(api, grants)| grants.iter().filter_map(|grant| Call::of_grant(api, grant)))
            .take(ALLOWED_MAX)
            .collect();
        calls.extend(
            served
                .iter()
                .find_map(|(api, _)| Call::of_nobody(api, trust_domain)),
        );
        calls.push(Call {
            consumer: format!("spiffe://{trust_domain}/workload/nobody"),
            method: "GET",
            path: "/nothing/of/this".to_owned(),
            expected: "route_unknown",
        });
        Self {
            spiffe_id: spiffe_id.to_owned(),
            name: name.to_owned(),
            policy: PolicyCell::default(),
            calls,
            polled_ns: AtomicI64::new(i64::MIN),
            taken_ns: AtomicI64::new(i64::MIN),
        }
    }

    /// Decides the `turn`-th call; what is wrong with the decision, if anything.
    pub(super) fn decide(&self, turn: usize) -> Result<(), String> {
        let Some(call) = self.calls.get(turn % self.calls.len().max(1)) else {
            return Ok(());
        };
        let Call {
            consumer,
            method,
            path,
            expected,
        } = call;
        let verdict = self.policy.decide(consumer, method, path, clock::wall());
        let reason = verdict.reason.as_str();
        if reason == *expected {
            return Ok(());
        }
        Err(format!(
            "{method} {path} of {} by {consumer} was decided with {reason}, not with {expected}",
            self.name
        ))
    }

    /// A call that is decided by this proxy.
    pub(super) fn probe(&self, call: Call) -> Probe {
        Probe {
            policy: self.policy.clone(),
            call,
        }
    }

    pub(super) fn polled(&self, at: Time) {
        self.polled_ns.store(at.as_ns(), Ordering::Relaxed);
    }

    pub(super) fn taken(&self, at: Time) {
        self.taken_ns.store(at.as_ns(), Ordering::Relaxed);
    }

    /// Whether control has answered a poll since `from`.
    pub(super) fn has_polled_since(&self, from: Time) -> bool {
        self.polled_ns.load(Ordering::Relaxed) >= from.as_ns()
    }

    /// How long after `from` a bundle was put in force (ns), when one was.
    pub(super) fn taken_after(&self, from: Time) -> Option<i64> {
        let taken = self.taken_ns.load(Ordering::Relaxed);
        (taken >= from.as_ns()).then(|| taken - from.as_ns())
    }
}

/// The grants on each API that stay: all but those that are `doomed`.
pub(super) fn grants_by_api<'a>(
    estate: &'a Estate,
    doomed: &[&Grant],
) -> HashMap<&'a str, Vec<&'a Grant>> {
    let doomed: HashSet<_> = doomed.iter().map(|g| (&g.consumer, &g.api)).collect();
    let mut by_api = HashMap::<&str, Vec<&Grant>>::new();
    for grant in &estate.grants {
        if !doomed.contains(&(&grant.consumer, &grant.api)) {
            by_api.entry(&grant.api).or_default().push(grant);
        }
    }
    by_api
}

#[cfg(test)]
mod tests {
    use counterfoil_estate::Size;

    use super::*;

    #[test]
    fn without_a_policy_every_decision_fails() {
        let estate = Estate::generate(&Size::of_workloads(40), 1, "sim.test");
        let api = &estate.apis[0];
        let grants = grants_by_api(&estate, &[])[api.name.as_str()].clone();
        let member = Member::new(&api.server, "one", "sim.test", &[(api, grants)]);
        assert!(member.calls.len() >= 3);
        for turn in 0..member.calls.len() {
            let said = member.decide(turn).unwrap_err();
            assert!(said.contains("bundle_missing"), "{said}");
        }
    }

    #[test]
    fn a_doomed_grant_is_expected_of_nobody() {
        let estate = Estate::generate(&Size::of_workloads(40), 1, "sim.test");
        let grant = &estate.grants[0];
        let all: usize = grants_by_api(&estate, &[]).values().map(Vec::len).sum();
        assert_eq!(all, estate.grants.len());
        let rest = grants_by_api(&estate, &[grant]);
        assert_eq!(rest.values().map(Vec::len).sum::<usize>(), all - 1);
        assert!(rest.values().all(|grants| !grants.contains(&grant)));
    }

    #[test]
    fn times_are_those_of_the_last_event() {
        let member = Member::new("spiffe://sim.test/workload/a", "a", "sim.test", &[]);
        let (early, late) = (Time::from_ns(5), Time::from_ns(9));
        assert_eq!(member.taken_after(early), None);
        member.taken(late);
        assert_eq!(member.taken_after(early), Some(4));
        member.polled(early);
        assert!(member.has_polled_since(early) && !member.has_polled_since(late));
    }
}

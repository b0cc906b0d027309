//! Access modes, tokens and the shadow verdict, beside the plain rules.

use super::*;
use crate::bundle::TokenRules;
use crate::token::{Claims, Subject, TokenSigner, issuer};

const CERT: Hash = Hash([7; 32]);
const NOW: Time = Time::from_ns(1_000_000 * 1_000_000_000);

fn signer() -> &'static TokenSigner {
    static SIGNER: std::sync::OnceLock<TokenSigner> = std::sync::OnceLock::new();
    SIGNER.get_or_init(|| TokenSigner::generate().unwrap())
}

fn token_rules() -> TokenRules {
    TokenRules {
        issuer: issuer("bank.test"),
        keys: vec![signer().public().clone()],
        revoked: vec![],
    }
}

/// A token of `consumer` for these operations of the API `accounts`.
fn token(consumer: &str, operations: &[&str]) -> Vec<u8> {
    let subject = Subject {
        caller: &id(consumer),
        cert_sha256: CERT,
        cert_not_after: Time::from_ns(i64::MAX),
        api: "accounts",
        operations,
    };
    let claims = Claims::new(&subject, "j-1".to_owned(), NOW);
    format!("Bearer {}", signer().sign(&claims).unwrap()).into_bytes()
}

fn bank(access: Access) -> Rights {
    let mut health = operation("health", "GET", "/health");
    health.open = true;
    let mut rights = rights(
        vec![
            operation("list", "GET", "/accounts"),
            operation("read", "GET", "/accounts/{id}"),
            health,
        ],
        vec![grant("g-list", "portal", "list", [None, None])],
    );
    rights.apis[0].access = access;
    rights.tokens = Some(token_rules());
    rights
}

fn ask(list: &AllowList, consumer: &str, path: &str, shown: Option<&[u8]>) -> Verdict {
    let consumer = id(consumer);
    let asked = Asked {
        consumer: consumer.as_str(),
        cert_sha256: CERT,
        method: "GET",
        path,
        authorization: Authorization::of(shown.into_iter()),
    };
    let verdict = list.decide_asked(&asked, &mut TokenCache::default(), NOW);
    assert_eq!(
        verdict.permit.is_some(),
        verdict.decision == Decision::Allow
    );
    assert_eq!(verdict.decision, verdict.reason.decision());
    verdict
}

fn assert_reasons(access: Access, cases: &[(&str, &str, Option<&[u8]>, &str)]) {
    let list = AllowList::compile(&bank(access)).unwrap();
    for (consumer, path, shown, expected) in cases {
        let verdict = ask(&list, consumer, path, *shown);
        assert_eq!(verdict.reason.as_str(), *expected, "{consumer} {path}");
    }
}

const BROKEN: &[u8] = b"Bearer x.y.z";

#[test]
fn in_mode_bundle_grants_decide_and_no_token_is_looked_at() {
    let wide = token("portal", &["list", "read"]);
    assert_reasons(
        Access::Bundle,
        &[
            ("portal", "/accounts", None, "granted"),
            ("portal", "/accounts", Some(BROKEN), "granted"),
            ("portal", "/accounts/1", Some(&wide), "grant_none"),
        ],
    );
}

#[test]
fn in_mode_token_the_token_alone_decides() {
    let good = token("portal", &["list"]);
    let wide = token("portal", &["list", "read"]);
    let stranger = token("stranger", &["list"]);
    assert_reasons(
        Access::Token,
        &[
            ("portal", "/accounts", Some(&good), "token_granted"),
            ("portal", "/accounts/1", Some(&wide), "token_granted"),
            ("stranger", "/accounts", Some(&stranger), "token_granted"),
            ("portal", "/accounts/1", Some(&good), "token_scope"),
            ("portal", "/accounts", None, "token_missing"),
            ("portal", "/accounts", Some(BROKEN), "token_malformed"),
            ("portal", "/accounts", Some(&stranger), "token_sub_mismatch"),
            // who may call without a grant may call without a token
            ("stranger", "/health", None, "open_operation"),
            // and what is no operation needs neither
            ("portal", "/cards", None, "route_unknown"),
        ],
    );
}

#[test]
fn in_mode_both_grant_and_token_have_to_allow() {
    let good = token("portal", &["list"]);
    let wide = token("portal", &["list", "read"]);
    let stranger = token("stranger", &["list"]);
    assert_reasons(
        Access::Both,
        &[
            ("portal", "/accounts", Some(&good), "granted"),
            ("portal", "/accounts", None, "token_missing"),
            ("portal", "/accounts", Some(&stranger), "token_sub_mismatch"),
            ("portal", "/accounts/1", Some(&wide), "grant_none"),
            ("portal", "/accounts/1", Some(&good), "grant_none"),
            ("stranger", "/accounts", None, "grant_none"),
            ("stranger", "/accounts", Some(&good), "token_sub_mismatch"),
            ("stranger", "/health", Some(BROKEN), "open_operation"),
        ],
    );
}

#[test]
fn a_verdict_names_token_and_grant() {
    let list = AllowList::compile(&bank(Access::Token)).unwrap();
    let good = token("portal", &["list", "read"]);
    let verdict = ask(&list, "portal", "/accounts", Some(&good));
    assert_eq!(verdict.grant_id.as_deref(), Some("g-list"));
    let seen = verdict.token.unwrap();
    assert_eq!((&*seen.jti, &*seen.issuer), ("j-1", &*issuer("bank.test")));
    // the token alone decides: there need not be a grant in the callee's bundle
    let verdict = ask(&list, "portal", "/accounts/1", Some(&good));
    assert_eq!(
        (verdict.decision, verdict.grant_id),
        (Decision::Allow, None)
    );
    // a denial says whose token it was
    let verdict = ask(&list, "stranger", "/accounts", Some(&good));
    assert_eq!(verdict.decision, Decision::Deny);
    assert_eq!(&*verdict.token.unwrap().jti, "j-1");
    // a token that nobody looked at is not named
    let list = AllowList::compile(&bank(Access::Bundle)).unwrap();
    assert_eq!(ask(&list, "portal", "/accounts", Some(&good)).token, None);
}

#[test]
fn without_a_token_an_api_that_wants_one_denies() {
    for (access, expected) in [
        (Access::Token, "token_missing"),
        (Access::Both, "token_missing"),
    ] {
        let list = AllowList::compile(&bank(access)).unwrap();
        let verdict = list.decide(id("portal").as_str(), "GET", "/accounts", NOW);
        assert_eq!(verdict.reason.as_str(), expected);
    }
}

#[test]
fn a_key_of_tokens_that_is_none_refuses_the_whole() {
    let mut rights = bank(Access::Token);
    let mut key = signer().public().clone();
    key.x.clone_from(&key.y);
    rights.tokens = Some(TokenRules {
        keys: vec![key.clone()],
        ..token_rules()
    });
    assert_eq!(
        AllowList::compile(&rights).unwrap_err(),
        AllowError::TokenKey(key.kid)
    );
}

#[test]
fn the_shadow_verdict_is_of_the_proposed_grants_and_changes_nothing() {
    let good = token("portal", &["list", "read"]);
    // proposed: `list` is taken away, `read` is given
    let candidate = vec![grant("g-read", "portal", "read", [None, None])];
    for (access, path, enforced, shadow) in [
        (Access::Bundle, "/accounts", "granted", "grant_none"),
        (Access::Bundle, "/accounts/1", "grant_none", "granted"),
        (
            Access::Bundle,
            "/health",
            "open_operation",
            "open_operation",
        ),
        (Access::Bundle, "/cards", "route_unknown", "route_unknown"),
        (Access::Both, "/accounts", "granted", "grant_none"),
        (Access::Both, "/accounts/1", "grant_none", "granted"),
        // here the token decides, whatever is proposed
        (Access::Token, "/accounts", "token_granted", "token_granted"),
    ] {
        let mut rights = bank(access);
        rights.candidate = Some(candidate.clone());
        let verdict = ask(
            &AllowList::compile(&rights).unwrap(),
            "portal",
            path,
            Some(&good),
        );
        let (decision, reason) = verdict.shadow.unwrap();
        assert_eq!(
            (verdict.reason.as_str(), reason.as_str()),
            (enforced, shadow),
            "{access:?} {path}"
        );
        assert_eq!(decision, reason.decision());
    }
    let list = AllowList::compile(&bank(Access::Bundle)).unwrap();
    assert_eq!(ask(&list, "portal", "/accounts", None).shadow, None);
    // nothing left is a proposal, too
    let mut rights = bank(Access::Bundle);
    rights.candidate = Some(vec![]);
    let verdict = ask(
        &AllowList::compile(&rights).unwrap(),
        "portal",
        "/accounts",
        None,
    );
    assert_eq!(verdict.shadow, Some((Decision::Deny, Reason::GrantNone)));
}

#[test]
fn a_proposed_grant_on_what_is_not_there_refuses_the_whole() {
    let mut rights = bank(Access::Bundle);
    rights.candidate = Some(vec![grant("g", "portal", "gone", [None, None])]);
    let error = AllowList::compile(&rights).unwrap_err();
    assert!(matches!(error, AllowError::GrantStray { .. }));
}

/// What each token of the property below is good for, in the words of the plain rules.
fn naive_fault(shown: usize, consumer: &str, operation: &str) -> Option<Fault> {
    match shown {
        0 => Some(Fault::Missing),
        1 => Some(Fault::Malformed),
        _ if consumer != "p" => Some(Fault::SubMismatch),
        _ => (!["o0", "o1", "o2"].contains(&operation)).then_some(Fault::Scope),
    }
}

/// The access modes, written down as plainly as possible.
fn naive_access(access: Access, open: bool, grants: Reason, fault: Option<Fault>) -> Reason {
    let granted = grants == Reason::Granted;
    if access == Access::Bundle || open {
        return grants;
    }
    if access == Access::Token {
        return fault.map_or(Reason::TokenGranted, Reason::Token);
    }
    match fault {
        Some(Fault::Missing | Fault::Scope) if !granted => grants,
        Some(fault) => Reason::Token(fault),
        None => grants,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn enforced_and_shadow_verdict_are_those_of_the_plain_rules(
        rights in any_rights(),
        candidate in prop::option::of(prop::collection::vec((0_usize..12, prop_oneof![Just("p"), Just("q")]), 0..12)),
        access in prop::sample::select(Access::ALL),
        path in prop::collection::vec(prop_oneof![Just("a"), Just("ab"), Just("b")], 1..4),
        method in prop_oneof![Just("GET"), Just("POST")],
        consumer in prop_oneof![Just("p"), Just("q")],
        shown in 0_usize..3,
    ) {
        static TOKENS: std::sync::OnceLock<[Vec<u8>; 2]> = std::sync::OnceLock::new();
        let tokens = TOKENS.get_or_init(|| [b"Bearer x".to_vec(), token("p", &["o0", "o1", "o2"])]);
        let mut rights = rights;
        rights.apis[0].access = access;
        rights.tokens = Some(token_rules());
        let operations = rights.apis[0].operations.clone();
        rights.candidate = candidate.map(|grants| {
            let known = |(index, consumer): (usize, &str)| {
                let name = &operations.get(index)?.operation;
                Some(grant("c", consumer, name, [None, None]))
            };
            grants.into_iter().filter_map(known).collect()
        });
        let path = format!("/{}", path.join("/"));
        let list = AllowList::compile(&rights).unwrap();
        let shown_token = shown.checked_sub(1).map(|at| tokens[at].as_slice());
        let asked_by = id(consumer);
        let asked = Asked {
            consumer: asked_by.as_str(),
            cert_sha256: CERT,
            method,
            path: &path,
            authorization: Authorization::of(shown_token.into_iter()),
        };
        let verdict = list.decide_asked(&asked, &mut TokenCache::default(), NOW);

        let expected = |rights: &Rights| {
            let grants = naive(rights, asked_by.as_str(), method, &path, NOW);
            match &verdict.operation {
                Some(found) => {
                    let fault = naive_fault(shown, consumer, &found.operation);
                    naive_access(access, found.open, grants, fault)
                }
                None => grants,
            }
        };
        prop_assert_eq!(verdict.reason, expected(&rights));
        let proposed = rights.candidate.clone().map(|grants| Rights { grants, ..rights.clone() });
        let shadow = proposed.map(|rights| expected(&rights)).map(|r| (r.decision(), r));
        prop_assert_eq!(verdict.shadow, shadow);
    }
}

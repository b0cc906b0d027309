use serde_json::json;

use super::super::explain::{Explanation, explain};
use super::*;

impl Bank {
    fn explain(&self, caller: &str, call: &str, to: Option<&str>) -> Explanation {
        let estate = self.desk.estate();
        explain(&estate, "ops_90d", caller, call, to, clock::wall()).unwrap()
    }

    fn not_explained(&self, caller: &str, call: &str, to: Option<&str>) -> Refusal {
        let estate = self.desk.estate();
        explain(&estate, "ops_90d", caller, call, to, clock::wall()).unwrap_err()
    }
}

fn said(explanation: &Explanation) -> String {
    format!("{} {}", explanation.decision, explanation.reason)
}

fn nearest(explanation: &Explanation) -> Vec<String> {
    let nearest = explanation.nearest.iter();
    nearest
        .map(|n| format!("{}: {}", n.grant_id, n.missing))
        .collect()
}

#[test]
fn an_allowed_call_names_grant_and_people() {
    let bank = Bank::new();
    let explained = bank.explain("portal", "GET /accounts/4711?pin=1", None);
    assert_eq!(said(&explained), "allow granted");
    assert_eq!(explained.grant_id.as_deref(), Some("g-1"));
    assert_eq!(explained.operation.as_deref(), Some("GET /accounts/{id}"));
    assert_eq!(explained.callee.as_ref().unwrap().as_str(), LEDGER);
    assert_eq!(
        explained.rule,
        "grant g-1 lets portal call GET /accounts/{id} of accounts until \
         2100-01-01T00:00:00.000000000Z, asked for by ann, approved by bob"
    );
    assert!(explained.nearest.is_empty());
    let open = bank.explain("spiffe://bank.test/unregistered", "GET /health", None);
    assert_eq!(said(&open), "allow open_operation");
}

#[test]
fn a_denied_call_names_what_comes_nearest_and_what_is_missing() {
    let bank = Bank::new();
    let call = "DELETE /accounts/1";
    let explained = bank.explain(PORTAL, call, Some("accounts"));
    assert_eq!(said(&explained), "deny grant_none");
    assert_eq!(
        nearest(&explained),
        ["g-1: the operation closeAccount is not in it"]
    );
    assert_eq!(
        explained.nearest[0].what,
        "approved: portal may call listAccounts, GET /accounts/{id} of accounts until \
         2100-01-01T00:00:00.000000000Z"
    );

    let asked = bank.ask("ann", json!({})).unwrap().grant_id;
    let explained = bank.explain("portal", call, None);
    assert_eq!(said(&explained), "deny grant_none", "asking is not having");
    let missing = nearest(&explained);
    assert_eq!(
        missing[0],
        format!("{asked}: an approval by somebody of core other than ann")
    );

    let bob = person("bob", &["core"]);
    bank.step(&bob, &asked, Step::Approve).unwrap();
    assert_eq!(said(&bank.explain("portal", call, None)), "allow granted");
    bank.step(&bob, &asked, Step::Revoke).unwrap();
    let explained = bank.explain("portal", call, None);
    assert_eq!(said(&explained), "deny grant_none");
    assert_eq!(
        nearest(&explained)[0],
        format!("{asked}: bob revoked it; ask for a new one")
    );

    let other = bank.explain("ledger", "GET /accounts", None);
    assert_eq!(said(&other), "deny grant_none");
    assert_eq!(
        nearest(&other),
        ["g-1: it is for another caller than ledger"]
    );
}

#[test]
fn a_grant_that_begins_later_or_has_ended_is_told_apart() {
    let bank = Bank::new();
    let later = bank
        .ask("ann", json!({"not_before": "2099-01-01T00:00:00Z"}))
        .unwrap();
    bank.step(&person("bob", &["core"]), &later.grant_id, Step::Approve)
        .unwrap();
    let explained = bank.explain("portal", "DELETE /accounts/1", None);
    assert_eq!(said(&explained), "deny grant_not_started");
    assert_eq!(explained.grant_id.as_ref(), Some(&later.grant_id));
    assert!(nearest(&explained)[0].ends_with("it begins at 2099-01-01T00:00:00.000000000Z"));
    let estate = bank.desk.estate();
    let after = estate.grants["g-1"].expires;
    let explained = explain(&estate, "ops_90d", "portal", "GET /accounts", None, after).unwrap();
    assert_eq!(said(&explained), "deny grant_expired");
    assert_eq!(
        nearest(&explained)[0],
        "g-1: it has expired; ask for a new one"
    );
}

#[test]
fn paths_methods_and_callees_that_are_not_there_are_told_apart() {
    let bank = Bank::new();
    let nothing = bank.explain("portal", "GET /payments", None);
    assert_eq!(said(&nothing), "deny route_unknown");
    assert_eq!(nothing.callee, None);
    let nothing = bank.explain("portal", "GET /payments", Some("ledger"));
    assert_eq!(said(&nothing), "deny route_unknown");
    assert_eq!(
        nothing.rule,
        "no operation of ledger has the path /payments"
    );
    let method = bank.explain("portal", "PUT /accounts/1", Some("ledger"));
    assert_eq!(said(&method), "deny method_not_declared");
    assert!(
        method
            .rule
            .ends_with("with other methods only: GET, DELETE"),
        "{}",
        method.rule
    );
    let ambiguous = bank.explain("portal", "GET /accounts//1", Some("ledger"));
    assert_eq!(said(&ambiguous), "deny path_ambiguous");
    let plain = "openapi: 3.1.0\ninfo: {title: plain, version: '1'}\npaths: {/p: {get: {}}}\n";
    bank.import_with(&root(), plain, |given| {
        given.owner_team = Some("web".into())
    })
    .unwrap();
    let unserved = bank.explain("portal", "GET /p", Some("plain"));
    assert_eq!(said(&unserved), "deny bundle_missing");
    bank.import_with(
        &root(),
        &ACCOUNTS.replace("title: accounts", "title: mirror"),
        |given| {
            given.document = given.document.replace("service: ledger", "service: portal");
        },
    )
    .unwrap();
    let two = bank.not_explained("ledger", "GET /accounts", None);
    assert_eq!(two.field.as_deref(), Some("to"));
    assert!(
        two.detail.ends_with("name one: ledger, portal"),
        "{}",
        two.detail
    );
    let the_one_with_a_grant = bank.explain("portal", "GET /accounts", None);
    assert_eq!(said(&the_one_with_a_grant), "allow granted");
}

#[test]
fn what_cannot_be_understood_names_its_field() {
    let bank = Bank::new();
    for (caller, call, to, field) in [
        ("nobody", "GET /accounts", None, "as"),
        ("portal", "/accounts", None, "call"),
        ("portal", "GET accounts", None, "call"),
        ("portal", "G=T /accounts", None, "call"),
        ("portal", "GET /accounts", Some("nobody"), "to"),
    ] {
        let refused = bank.not_explained(caller, call, to);
        assert_eq!(refused.field.as_deref(), Some(field), "{call}");
    }
}

#[test]
fn an_api_that_wants_tokens_is_explained_with_the_token_that_control_would_give() {
    for access in ["token", "both"] {
        let mut content = fixture::bank();
        content["apis"][0]["access"] = json!(access);
        let bank = Bank::of(&content);
        let allowed = bank.explain("portal", "GET /accounts", None);
        let reason = if access == "token" {
            "token_granted"
        } else {
            "granted"
        };
        assert_eq!(said(&allowed), format!("allow {reason}"));
        assert_eq!(allowed.grant_id.as_deref(), Some("g-1"));
        assert!(
            allowed.rule.contains("must carry a token"),
            "{}",
            allowed.rule
        );
        let denied = bank.explain("portal", "DELETE /accounts/1", None);
        let reason = if access == "token" {
            "token_scope"
        } else {
            "grant_none"
        };
        assert_eq!(said(&denied), format!("deny {reason}"));
        assert_eq!(
            nearest(&denied),
            ["g-1: the operation closeAccount is not in it"]
        );
        let none = bank.explain("ledger", "GET /accounts", None);
        let reason = if access == "token" {
            "token_missing"
        } else {
            "grant_none"
        };
        assert_eq!(said(&none), format!("deny {reason}"));
    }
}

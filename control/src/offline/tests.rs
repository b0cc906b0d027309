use serde_json::json;

use super::*;
use crate::fixture::{ACCOUNTS, bank, seed};

#[tokio::test]
async fn an_empty_folder_takes_documents_and_says_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::open(dir.path(), "ann").unwrap();
    let plain = "openapi: 3.1.0\ninfo: {title: plain, version: '1'}\npaths: {/p: {get: {}}}\n";
    let import = json!({"document": plain, "file": "plain.yaml", "owner_team": "web"});
    let (status, body) = desk.ask(Method::POST, "/v1/apis", Some(import)).await;
    assert_eq!(
        (status, &body["operations"]),
        (StatusCode::CREATED, &json!(1)),
        "{body}"
    );
    let (status, body) = desk.ask(Method::GET, "/v1/apis", None).await;
    assert_eq!(
        (status, &body["apis"][0]["api"]),
        (StatusCode::OK, &json!("plain"))
    );
    drop(desk);
    let desk = Desk::open(dir.path(), "bob").unwrap();
    let (_, body) = desk.ask(Method::GET, "/v1/events", None).await;
    assert_eq!(body["events"][0]["actor"], "ann");
}

#[tokio::test]
async fn a_grant_may_be_asked_for_and_not_approved() {
    let dir = tempfile::tempdir().unwrap();
    seed(dir.path(), &bank());
    let desk = Desk::open(dir.path(), "ann").unwrap();
    let asked = json!({
        "consumer": "portal", "api": "accounts", "operations": ["*"], "purpose": "p",
        "ticket": "t", "expires": "2100-01-01T00:00:00Z",
    });
    let (status, grant) = desk.ask(Method::POST, "/v1/grants", Some(asked)).await;
    assert_eq!(status, StatusCode::CREATED, "{grant}");
    assert_eq!(grant["requested_by"], "ann");
    let path = format!("/v1/grants/{}/approve", grant["grant_id"].as_str().unwrap());
    for (method, path) in [
        (Method::POST, path.as_str()),
        (Method::POST, "/v1/apis/accounts/status"),
        (Method::DELETE, "/v1/apis"),
    ] {
        let (status, body) = desk.ask(method, path, Some(json!({}))).await;
        assert_eq!(
            (status, &body["reason"]),
            (StatusCode::FORBIDDEN, &json!("offline")),
            "{path}"
        );
    }
    let bad = json!({"document": ACCOUNTS.replace("3.0.3", "9"), "file": "a.yaml"});
    let (status, body) = desk.ask(Method::POST, "/v1/apis", Some(bad)).await;
    assert_eq!(
        (status, &body["line"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!(1))
    );
    for (path, status) in [
        ("/v1/policy/explain?as=portal&call=GET%20/accounts", 200),
        ("/v1/grants?state=requested", 200),
        ("/v1/grants/none", 404),
        ("/v1/nothing", 404),
        ("no path", 400),
    ] {
        assert_eq!(
            desk.ask(Method::GET, path, None).await.0.as_u16(),
            status,
            "{path}"
        );
    }
}

#[tokio::test]
async fn an_estate_begins_before_control_has_ever_run() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::begin(dir.path(), "ann", "bank.test").unwrap();
    let workload = |domain: &str| json!({"spiffe_id": format!("spiffe://{domain}/workload/shop"), "name": "shop", "app": "shop", "team": "web"});
    let own = Some(workload("bank.test"));
    let (status, body) = desk.ask(Method::POST, "/v1/workloads", own).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let foreign = Some(workload("other.test"));
    let (status, body) = desk.ask(Method::POST, "/v1/workloads", foreign).await;
    assert_eq!(
        (status, &body["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("spiffe_id")),
        "{body}"
    );
    drop(desk);
    let again = Desk::begin(dir.path(), "ann", "other.test").unwrap();
    let (_, body) = again.ask(Method::GET, "/v1/workloads", None).await;
    assert_eq!(body["workloads"][0]["name"], "shop", "what was there stays");
}

#[test]
fn a_folder_in_use_or_none_is_refused_in_plain_words() {
    let dir = tempfile::tempdir().unwrap();
    let running = crate::fixture::desk(dir.path());
    let error = Desk::open(dir.path(), "ann").unwrap_err().to_string();
    assert!(
        error.starts_with("control, or another command, works on"),
        "{error}"
    );
    drop(running);
    let error = Desk::open(&dir.path().join("none"), "ann")
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("is no data directory"), "{error}");
}

#[tokio::test]
async fn who_logs_in_to_a_directory_may_do_what_they_may_behind_the_door() {
    let dir = tempfile::tempdir().unwrap();
    let verifier = counterfoil_trust::scram::Verifier::of_password("secret").to_string();
    let people =
        format!("[[person]]\nname = \"eve\"\nverifier = \"{verifier}\"\nteams = [\"shop\"]\n");
    std::fs::write(dir.path().join("people.toml"), people).unwrap();
    for (name, password) in [("eve", "wrong"), ("ghost", "secret")] {
        let refused = Desk::log_in(dir.path(), name, password).unwrap_err();
        assert_eq!(refused.to_string(), "name or password is wrong", "{name}");
    }
    let eve = Desk::log_in(dir.path(), "eve", "secret").unwrap();
    let body = json!({
        "document": "openapi: 3.1.0\ninfo: {title: pay, version: '1'}\npaths: {/p: {get: {operationId: p}}}\n",
        "file": "pay.yaml",
        "owner_team": "pay",
    });
    let (status, answer) = eve.ask(Method::POST, "/v1/apis", Some(body)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    assert_eq!(answer["reason"], "not_owner");
}

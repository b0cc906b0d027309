//! Access tokens: whoever asks rightly gets one that everybody can check, and nobody else does.

use counterfoil_entry::Time;
use counterfoil_trust::allow::{AllowList, Asked};
use counterfoil_trust::bundle::Access;
use counterfoil_trust::token::{Authorization, Claims, Confirmation, TokenCache};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};

use super::*;
use crate::catalogue::GrantState;
use crate::published::estate::{api, grant, in_days, small};

const GOOD: &str = "grant_type=client_credentials&resource=accounts";
const FORM: &str = "application/x-www-form-urlencoded";

fn request(body: &str, content_type: &str) -> Request<Full<Bytes>> {
    Request::post("/v1/token")
        .header("content-type", content_type)
        .body(Full::from(body.to_owned()))
        .unwrap()
}

impl Running {
    async fn token(&self, as_whom: Option<&Identity>, body: &str) -> Answer {
        self.send(as_whom, request(body, FORM)).await
    }

    /// What everybody can do who knows the JWK set and neither our code nor our keys.
    async fn checked(&self, token: &str) -> Claims {
        let keys = Request::get("/v1/jwks").body(Full::default()).unwrap();
        let keys: JwkSet = serde_json::from_slice(&self.send(None, keys).await.body).unwrap();
        let header = decode_header(token).unwrap();
        assert_eq!(
            (header.typ.as_deref(), header.alg),
            (Some("at+jwt"), Algorithm::ES256)
        );
        let key = keys.find(&header.kid.unwrap()).unwrap();
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_audience(&["accounts"]);
        rules.set_issuer(&["https://bank.test/counterfoil/control"]);
        rules.set_required_spec_claims(&["aud", "exp", "iss", "nbf", "sub"]);
        rules.validate_nbf = true;
        let key = DecodingKey::from_jwk(key).unwrap();
        decode::<Claims>(token, &key, &rules).unwrap().claims
    }

    /// The word of the callee's proxy on a call with `token`, by the bundle that it is served now.
    async fn word(&self, callee: &Identity, caller: &Identity, token: &str) -> &'static str {
        let keys = BundleKeys {
            governance: self.init.governance_public,
            control: self.init.control_public,
        };
        let served = self.fetch(Some(callee), &[]).await;
        let bundle = SignedBundle::open(&served.body, &keys, &id(LEDGER)).unwrap();
        let list = AllowList::compile(&bundle.rights).unwrap();
        let value = format!("Bearer {token}");
        let asked = Asked {
            consumer: PORTAL,
            cert_sha256: caller.current().cert_sha256(),
            method: "GET",
            path: "/list",
            authorization: Authorization::of(std::iter::once(value.as_bytes())),
        };
        let mut cache = TokenCache::default();
        list.decide_asked(&asked, &mut cache, clock::wall())
            .reason
            .as_str()
    }
}

#[tokio::test]
async fn a_token_is_good_for_everybody_who_checks_it_until_its_grant_is_revoked() {
    let control = Running::start().await;
    control.publish(&small(Access::Token), false);
    let (portal, ledger) = (control.join(PORTAL).await, control.join(LEDGER).await);
    let before = clock::wall().as_ns() / 1_000_000_000;
    let answer = control.token(Some(&portal), GOOD).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let answer = answer.json();
    assert_eq!(
        (&answer["token_type"], &answer["scope"]),
        (&json!("Bearer"), &json!("GET%20%2Fshow list"))
    );
    let token = answer["access_token"].as_str().unwrap();
    let claims = control.checked(token).await;
    assert_eq!(
        (claims.sub.as_str(), claims.client_id.as_str()),
        (PORTAL, PORTAL)
    );
    assert_eq!(claims.cnf, Confirmation::of(portal.current().cert_sha256()));
    assert_eq!(claims.scope, answer["scope"]);
    assert!(claims.iat >= before && claims.nbf == claims.iat);
    // The certificate lives for an hour and is a moment old.
    let not_after = portal.current().not_after().as_ns() / 1_000_000_000;
    assert_eq!(claims.exp, not_after);
    assert_eq!(answer["expires_in"], claims.exp - claims.iat);

    let rows = control.rows();
    let row = rows.iter().find(|row| row.kind == "token").unwrap();
    assert_eq!(
        (row.serial.as_deref(), row.spiffe_id.as_str()),
        (Some(claims.jti.as_str()), PORTAL)
    );
    assert_eq!(row.cert_sha256, Some(portal.current().cert_sha256()));
    assert_eq!(
        row.not_after,
        Some(Time::from_ns(claims.exp * 1_000_000_000))
    );
    assert_eq!(row.peer_address.as_deref(), Some("127.0.0.1"));

    assert_eq!(control.word(&ledger, &portal, token).await, "token_granted");
    assert_eq!(
        control.word(&ledger, &ledger, token).await,
        "token_cnf_mismatch"
    );
    let mut catalogue = small(Access::Token);
    catalogue.take_grant("g-1");
    control.publish(&catalogue, true);
    assert_eq!(control.word(&ledger, &portal, token).await, "token_revoked");
    let refused = control.token(Some(&portal), GOOD).await;
    assert_eq!(refused.json()["error"], "invalid_target");
    control.kill();
}

#[tokio::test]
async fn each_refusal_has_its_oauth_error_and_gives_out_nothing() {
    let control = Running::start().await;
    let mut catalogue = small(Access::Both);
    let mut later = grant("g-2", PORTAL, "later", &["list"]);
    later.not_before = Some(in_days(2));
    let mut over = grant("g-3", PORTAL, "over", &["list"]);
    over.expires = in_days(-1);
    let mut asked = grant("g-4", PORTAL, "asked", &["list"]);
    asked.state = GrantState::Requested;
    for rule in [later, over, asked] {
        catalogue.put_api(api(&rule.api, LEDGER, Access::Bundle, &["list"]));
        catalogue.put_grant(rule);
    }
    control.publish(&catalogue, false);
    let portal = control.join(PORTAL).await;
    let with = |more: &str| format!("{GOOD}&{more}");
    let for_api = |api: &str| format!("grant_type=client_credentials&resource={api}");
    let bad = StatusCode::BAD_REQUEST;
    for (body, status, error) in [
        (String::new(), bad, "invalid_request"),
        ("resource=accounts".to_owned(), bad, "invalid_request"),
        (
            "grant_type=&resource=accounts".to_owned(),
            bad,
            "invalid_request",
        ),
        (
            "grant_type=password&resource=accounts".to_owned(),
            bad,
            "unsupported_grant_type",
        ),
        (
            "grant_type=client_credentials".to_owned(),
            bad,
            "invalid_target",
        ),
        (with("resource=accounts"), bad, "invalid_request"),
        (with("scope=list&scope=list"), bad, "invalid_request"),
        (for_api("nothing"), bad, "invalid_target"),
        (for_api("later"), bad, "invalid_target"),
        (for_api("over"), bad, "invalid_target"),
        (for_api("asked"), bad, "invalid_target"),
        (with("scope=close"), bad, "invalid_scope"),
        (with("scope=list+close"), bad, "invalid_scope"),
        (with("scope=GET+/show"), bad, "invalid_scope"),
        (
            with("client_id=ledger"),
            StatusCode::UNAUTHORIZED,
            "invalid_client",
        ),
        (
            with(&"x".repeat(20_000)),
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request",
        ),
    ] {
        let answer = control.token(Some(&portal), &body).await;
        let shown = body.get(..80).unwrap_or(&body);
        assert_eq!(answer.status, status, "{shown}");
        assert_eq!(answer.json()["error"], error, "{shown}");
        assert!(answer.json()["error_description"].is_string());
    }
    let json = control
        .send(Some(&portal), request(GOOD, "application/json"))
        .await;
    assert_eq!(
        (json.status, &json.json()["error"]),
        (bad, &json!("invalid_request"))
    );
    assert!(control.rows().iter().all(|row| row.kind != "token"));
    control.kill();
}

#[tokio::test]
async fn without_a_certificate_nothing_is_learned() {
    let control = Running::start().await;
    control.publish(&small(Access::Both), false);
    let mut answers = Vec::new();
    for body in [
        GOOD,
        "",
        "grant_type=password",
        "grant_type=client_credentials&resource=none",
    ] {
        let answer = control.token(None, body).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{body}");
        answers.push(answer.json());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "the same for all: {answers:?}");
    assert_eq!(answers[0]["error"], "invalid_client");
    let portal = control.join(PORTAL).await;
    let headers = control
        .line(Some(&portal))
        .await
        .sender
        .send_request(request(GOOD, FORM))
        .await;
    assert_eq!(headers.unwrap().headers()["cache-control"], "no-store");
    control.kill();
}

#[tokio::test]
async fn scope_narrows_and_the_end_of_a_grant_ends_its_tokens() {
    let control = Running::start().await;
    let mut catalogue = small(Access::Both);
    let now = clock::wall();
    let mut short = grant("g-2", PORTAL, "accounts", &["close"]);
    short.expires = now.plus_ns(600 * 1_000_000_000);
    catalogue.put_grant(short);
    control.publish(&catalogue, false);
    let portal = control.join(PORTAL).await;
    let ask = |scope: &str| format!("{GOOD}&scope={scope}&unknown=ignored");
    let narrow = control.token(Some(&portal), &ask("list")).await.json();
    let claims = control
        .checked(narrow["access_token"].as_str().unwrap())
        .await;
    assert_eq!(claims.scope, "list");
    assert!(claims.exp - claims.iat > 3_500);
    let encoded = control
        .token(Some(&portal), &ask("list+GET%2520%252Fshow"))
        .await
        .json();
    assert_eq!(encoded["scope"], "GET%20%2Fshow list");
    let all = control.token(Some(&portal), GOOD).await.json();
    assert_eq!(all["scope"], "GET%20%2Fshow close list");
    let left = all["expires_in"].as_i64().unwrap();
    assert!((590..=600).contains(&left), "{left}");
    control.kill();
}

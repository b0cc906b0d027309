use super::*;

const S: i64 = 1_000_000_000;

fn caller() -> SpiffeId {
    SpiffeId::parse("spiffe://bank.test/workload/portal").unwrap()
}

fn claims(not_after_s: i64) -> Claims {
    let subject = Subject {
        caller: &caller(),
        cert_sha256: Hash([7; 32]),
        cert_not_after: Time::from_ns(not_after_s * S),
        api: "accounts",
        operations: &["readAccount", "close account"],
    };
    Claims::new(&subject, "j-1".to_owned(), Time::from_ns(1_000 * S + 5))
}

#[test]
fn a_scope_names_every_operation_in_characters_that_a_scope_may_hold() {
    assert_eq!(scope([]), "");
    assert_eq!(
        scope([
            "readAccount",
            "shop.Cart/Get",
            "a b",
            "50%",
            "ä\"\\",
            "A-z_0.9~"
        ]),
        "readAccount shop.Cart%2FGet a%20b 50%25 %C3%A4%22%5C A-z_0.9~"
    );
}

#[test]
fn a_token_lives_an_hour_and_never_longer_than_its_certificate() {
    assert_eq!(claims(100_000).exp, 1_000 + 3_600);
    assert_eq!(claims(1_060).exp, 1_060);
    let claims = claims(1_060);
    assert_eq!((claims.iat, claims.nbf), (1_000, 1_000));
    assert_eq!(claims.iss, "https://bank.test/counterfoil/control");
    assert_eq!(
        (&*claims.sub, &*claims.client_id),
        (caller().as_str(), caller().as_str())
    );
    assert_eq!(claims.scope, "readAccount close%20account");
}

#[test]
fn a_signer_survives_its_file_under_the_same_name() {
    let signer = TokenSigner::generate().unwrap();
    let again = TokenSigner::from_pem(&signer.to_pem()).unwrap();
    assert_eq!(again.public(), signer.public());
    assert_ne!(
        TokenSigner::generate().unwrap().public().kid,
        signer.public().kid
    );
    assert!(matches!(TokenSigner::from_pem(""), Err(SignError::Private)));
    let seal = crate::keys::SealKey::generate().unwrap().to_pem().unwrap();
    assert!(matches!(
        TokenSigner::from_pem(&seal),
        Err(SignError::Private)
    ));
}

#[test]
fn a_key_is_named_by_its_thumbprint() {
    // computed with `openssl dgst -sha256 -binary | basenc --base64url`
    assert_eq!(
        thumbprint(
            "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"
        ),
        "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"
    );
}

#[test]
fn a_token_has_the_form_of_rfc_9068() {
    let signer = TokenSigner::generate().unwrap();
    let token = signer.sign(&claims(100_000)).unwrap();
    let part = |index: usize| -> serde_json::Value {
        let part = token.split('.').nth(index).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    assert_eq!(
        part(0),
        serde_json::json!({"typ": "at+jwt", "alg": "ES256", "kid": signer.public().kid})
    );
    assert_eq!(
        part(1),
        serde_json::json!({
            "iss": "https://bank.test/counterfoil/control",
            "sub": "spiffe://bank.test/workload/portal",
            "client_id": "spiffe://bank.test/workload/portal",
            "aud": "accounts",
            "exp": 4_600, "iat": 1_000, "nbf": 1_000,
            "jti": "j-1",
            "scope": "readAccount close%20account",
            "cnf": {"x5t#S256": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc"},
        })
    );
    assert_eq!(token.split('.').count(), 3);
}

#[test]
fn a_signer_shows_its_name_and_not_its_key() {
    let signer = TokenSigner::generate().unwrap();
    assert_eq!(
        format!("{signer:?}"),
        format!("TokenSigner({})", signer.public().kid)
    );
}

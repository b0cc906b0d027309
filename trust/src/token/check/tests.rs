use jsonwebtoken::EncodingKey;
use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::SpiffeId;
use crate::token::{Claims, Subject, TokenSigner};

const PORTAL: &str = "spiffe://bank.test/workload/portal";
const CERT: Hash = Hash([7; 32]);
const S: i64 = 1_000_000_000;
/// When the test's tokens are signed.
const IAT_S: i64 = 1_000_000;

/// A token with one thing wrong: header and claims may be changed before it is signed.
struct Forge {
    signer: TokenSigner,
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn signer() -> &'static TokenSigner {
    static SIGNER: std::sync::OnceLock<TokenSigner> = std::sync::OnceLock::new();
    SIGNER.get_or_init(|| TokenSigner::generate().unwrap())
}

fn good_claims() -> Claims {
    let subject = Subject {
        caller: &SpiffeId::parse(PORTAL).unwrap(),
        cert_sha256: CERT,
        cert_not_after: Time::from_ns(i64::MAX),
        api: "accounts",
        operations: &["readAccount", "shop.Cart/Get"],
    };
    Claims::new(&subject, "j-1".to_owned(), Time::from_ns(IAT_S * S))
}

impl Forge {
    fn new() -> Self {
        let signer = TokenSigner::from_pem(&signer().to_pem()).unwrap();
        Self {
            header: object(json!({"typ": "at+jwt", "alg": "ES256", "kid": signer.public().kid})),
            claims: object(serde_json::to_value(good_claims()).unwrap()),
            signer,
        }
    }

    fn header(mut self, name: &str, value: Value) -> Self {
        self.header.insert(name.to_owned(), value);
        self
    }

    fn without_header(mut self, name: &str) -> Self {
        self.header.remove(name);
        self
    }

    fn claim(mut self, name: &str, value: Value) -> Self {
        self.claims.insert(name.to_owned(), value);
        self
    }

    fn without_claim(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    fn message(&self) -> String {
        message(
            &serde_json::to_string(&self.header).unwrap(),
            &serde_json::to_string(&self.claims).unwrap(),
        )
    }

    fn sign(&self) -> String {
        sign_with(&self.signer, &self.message())
    }
}

fn message(header: &str, claims: &str) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}", encode(header), encode(claims))
}

fn sign_with(signer: &TokenSigner, message: &str) -> String {
    let signature = crypto::sign(message.as_bytes(), &signer.key, Algorithm::ES256).unwrap();
    format!("{message}.{signature}")
}

fn rules() -> TokenRules {
    TokenRules {
        issuer: "https://bank.test/counterfoil/control".to_owned(),
        keys: vec![signer().public().clone()],
        revoked: vec!["j-0".to_owned()],
    }
}

fn bearer(token: &str) -> Vec<u8> {
    format!("Bearer {token}").into_bytes()
}

const CALLER: Caller<'static> = Caller {
    spiffe_id: PORTAL,
    cert_sha256: CERT,
};

fn need(now_ns: i64) -> Need<'static> {
    Need {
        api: "accounts",
        scope: "readAccount",
        now: Time::from_ns(now_ns),
    }
}

fn check_at(token: &str, now_ns: i64) -> Checked {
    check_as(token, CALLER, need(now_ns))
}

fn check_as(token: &str, caller: Caller<'_>, need: Need<'_>) -> Checked {
    let check = TokenCheck::compile(Some(&rules())).unwrap();
    let value = bearer(token);
    let shown = Authorization::of([&*value].into_iter());
    let mut cache = TokenCache::default();
    let first = check.check(shown, caller, need, &mut cache);
    // what the cache answers is what the check answered
    let second = check.check(shown, caller, need, &mut cache);
    assert_eq!((first.fault, &first.seen), (second.fault, &second.seen));
    first
}

fn fault(forge: &Forge) -> Option<Fault> {
    check_at(&forge.sign(), (IAT_S + 60) * S).fault
}

#[test]
fn a_good_token_is_good_and_says_whose_it_is() {
    let checked = check_at(&Forge::new().sign(), (IAT_S + 60) * S);
    assert_eq!(checked.fault, None);
    let seen = checked.seen.unwrap();
    assert_eq!(&*seen.issuer, "https://bank.test/counterfoil/control");
    assert_eq!(&*seen.jti, "j-1");
    assert_eq!(*seen.kid, *signer().public().kid);
    for good in [
        Forge::new().header("typ", json!("application/at+jwt")),
        Forge::new().header("typ", json!("AT+JWT")),
        Forge::new().claim("aud", json!(["accounts"])),
        Forge::new().claim("roles", json!({"anything": [1.5, null]})),
    ] {
        assert_eq!(fault(&good), None, "{:?} {:?}", good.header, good.claims);
    }
}

/// The cases J01 to J15 of the conformance suite: each fault, and the reason that it has.
#[test]
fn each_fault_of_a_header_has_its_own_reason() {
    let other = TokenSigner::generate().unwrap();
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": other.public().x, "y": other.public().y});
    for (forge, expected) in [
        // J02, J03: the algorithm
        (Forge::new().header("alg", json!("none")), Fault::Alg),
        (Forge::new().header("alg", json!("None")), Fault::Alg),
        (Forge::new().header("alg", json!("es256")), Fault::Alg),
        (Forge::new().header("alg", json!("ES384")), Fault::Alg),
        (Forge::new().header("alg", json!("RS256")), Fault::Alg),
        (Forge::new().header("alg", json!("EdDSA")), Fault::Alg),
        (Forge::new().header("alg", json!(["ES256"])), Fault::Alg),
        (Forge::new().header("alg", Value::Null), Fault::Alg),
        (Forge::new().without_header("alg"), Fault::Alg),
        // J04: the key
        (
            Forge::new().header("kid", json!(other.public().kid)),
            Fault::KeyUnknown,
        ),
        (
            Forge::new().header("kid", json!("../../keys/hmac")),
            Fault::KeyUnknown,
        ),
        (Forge::new().header("kid", json!(7)), Fault::KeyUnknown),
        (Forge::new().without_header("kid"), Fault::KeyUnknown),
        // J05: a header brings no key
        (
            Forge::new().header("kid", json!("mine")).header("jwk", jwk),
            Fault::KeyUnknown,
        ),
        // what the token is
        (Forge::new().header("typ", json!("JWT")), Fault::Type),
        (Forge::new().header("typ", json!("at+jwt2")), Fault::Type),
        (Forge::new().header("typ", json!(1)), Fault::Type),
        (Forge::new().without_header("typ"), Fault::Type),
        (
            Forge::new().header("crit", json!(["b64"])),
            Fault::Malformed,
        ),
        (Forge::new().header("crit", json!([])), Fault::Malformed),
        (Forge::new().header("crit", Value::Null), Fault::Malformed),
    ] {
        assert_eq!(fault(&forge), Some(expected), "{:?}", forge.header);
    }
}

fn assert_faults(cases: Vec<(Forge, Fault)>) {
    for (forge, expected) in cases {
        assert_eq!(fault(&forge), Some(expected), "{:?}", forge.claims);
    }
}

#[test]
fn an_issuer_or_audience_that_is_not_ours_has_its_own_reason() {
    assert_faults(vec![
        // J06, J07
        (Forge::new().claim("aud", json!("cards")), Fault::Aud),
        (
            Forge::new().claim("aud", json!(["accounts", "cards"])),
            Fault::Aud,
        ),
        (Forge::new().claim("aud", json!([["accounts"]])), Fault::Aud),
        (Forge::new().claim("aud", json!([])), Fault::Aud),
        (
            Forge::new().claim("aud", json!({"accounts": 1})),
            Fault::Aud,
        ),
        (Forge::new().without_claim("aud"), Fault::Aud),
        (
            Forge::new().claim("iss", json!("https://bank.test/counterfoil/control/")),
            Fault::Iss,
        ),
        (
            Forge::new().claim("iss", json!(["https://bank.test/counterfoil/control"])),
            Fault::Iss,
        ),
        (Forge::new().without_claim("iss"), Fault::Iss),
    ]);
}

#[test]
fn untimely_tokens_have_their_own_reasons() {
    assert_faults(vec![
        // J08, J09
        (Forge::new().claim("exp", json!(IAT_S + 55)), Fault::Expired),
        (Forge::new().claim("nbf", json!(IAT_S + 66)), Fault::NotYet),
        (
            Forge::new()
                .claim("iat", json!(IAT_S + 66))
                .claim("nbf", json!(IAT_S)),
            Fault::NotYet,
        ),
    ]);
}

#[test]
fn a_time_that_is_missing_or_no_whole_number_is_refused() {
    assert_faults(vec![
        // J10 (CVE-2026-25537): what is no whole number is no time
        (
            Forge::new().claim("exp", json!((IAT_S + 100).to_string())),
            Fault::ExpInvalid,
        ),
        (Forge::new().claim("exp", json!(1e9)), Fault::ExpInvalid),
        (
            Forge::new().claim("exp", json!(u64::MAX)),
            Fault::ExpInvalid,
        ),
        (
            Forge::new().claim("exp", json!([IAT_S + 100])),
            Fault::ExpInvalid,
        ),
        (Forge::new().claim("exp", Value::Null), Fault::ExpInvalid),
        (Forge::new().without_claim("exp"), Fault::ExpInvalid),
        (
            Forge::new().claim("nbf", json!(IAT_S.to_string())),
            Fault::NbfInvalid,
        ),
        (Forge::new().claim("nbf", json!(true)), Fault::NbfInvalid),
        (Forge::new().claim("nbf", json!(1_000.5)), Fault::NbfInvalid),
        (Forge::new().claim("nbf", Value::Null), Fault::NbfInvalid),
        (Forge::new().without_claim("nbf"), Fault::NbfInvalid),
        (Forge::new().claim("nbf", json!(-1)), Fault::NbfInvalid),
        (
            Forge::new().claim("nbf", json!(IAT_S + 3_601)),
            Fault::NbfInvalid,
        ),
        (Forge::new().without_claim("iat"), Fault::Malformed),
        (Forge::new().claim("iat", json!("now")), Fault::Malformed),
        // longer than an hour, which control never signs
        (
            Forge::new().claim("exp", json!(IAT_S + 3_601)),
            Fault::ExpInvalid,
        ),
        (Forge::new().claim("iat", json!(0)), Fault::ExpInvalid),
    ]);
}

#[test]
fn a_scope_holder_or_name_that_is_wrong_has_its_own_reason() {
    assert_faults(vec![
        // J11, J12
        (Forge::new().claim("scope", json!("")), Fault::Scope),
        (
            Forge::new().claim("scope", json!("readAccounts readAccoun")),
            Fault::Scope,
        ),
        (
            Forge::new().claim("scope", json!(["readAccount"])),
            Fault::Scope,
        ),
        (Forge::new().claim("scope", json!("*")), Fault::Scope),
        (Forge::new().without_claim("scope"), Fault::Scope),
        // J13, J14
        (
            Forge::new().claim(
                "cnf",
                serde_json::to_value(crate::token::Confirmation::of(Hash([8; 32]))).unwrap(),
            ),
            Fault::CnfMismatch,
        ),
        (Forge::new().claim("cnf", json!({})), Fault::CnfMismatch),
        (
            Forge::new().claim("cnf", json!({"x5t#S256": 7})),
            Fault::CnfMismatch,
        ),
        (
            Forge::new().claim("cnf", json!({"x5t#S256": "Bw"})),
            Fault::CnfMismatch,
        ),
        (
            Forge::new().claim("cnf", json!({"x5t": "BwcHBwcHBwcHBwcHBwcHBwcHBwc"})),
            Fault::CnfMismatch,
        ),
        (Forge::new().without_claim("cnf"), Fault::CnfMismatch),
        // J15
        (
            Forge::new().claim("sub", json!("spiffe://bank.test/workload/other")),
            Fault::SubMismatch,
        ),
        (Forge::new().without_claim("sub"), Fault::SubMismatch),
        (
            Forge::new().claim("client_id", json!("portal")),
            Fault::SubMismatch,
        ),
        (Forge::new().without_claim("client_id"), Fault::SubMismatch),
        // J16
        (Forge::new().claim("jti", json!("j-0")), Fault::Revoked),
        (Forge::new().claim("jti", json!("")), Fault::Malformed),
        (
            Forge::new().claim("jti", json!("j".repeat(129))),
            Fault::Malformed,
        ),
        (Forge::new().claim("jti", json!(1)), Fault::Malformed),
        (Forge::new().without_claim("jti"), Fault::Malformed),
    ]);
}

#[test]
fn a_public_key_is_no_secret_with_which_to_sign() {
    let public = signer().public();
    let coordinate = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let point = [vec![4], coordinate(&public.x), coordinate(&public.y)].concat();
    for secret in [point, public.x.clone().into_bytes(), Vec::new()] {
        let key = EncodingKey::from_secret(&secret);
        for (alg, expected) in [("HS256", Fault::Alg), ("ES256", Fault::BadSig)] {
            let message = Forge::new().header("alg", json!(alg)).message();
            let mac = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
            let checked = check_at(&format!("{message}.{mac}"), IAT_S * S);
            assert_eq!(
                (checked.fault, checked.seen),
                (Some(expected), None),
                "{alg}"
            );
        }
    }
}

#[test]
fn a_key_that_a_header_brings_is_not_used() {
    let other = TokenSigner::generate().unwrap();
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": other.public().x, "y": other.public().y});
    for (name, value) in [
        ("jwk", jwk),
        ("jku", json!("https://127.0.0.1:1/keys")),
        ("x5u", json!("https://127.0.0.1:1/cert")),
        ("x5c", json!(["MIIB"])),
    ] {
        let forge = Forge::new().header(name, value);
        // the good key's name with another key's signature
        let checked = check_at(&sign_with(&other, &forge.message()), IAT_S * S);
        assert_eq!(checked.fault, Some(Fault::BadSig), "{name}");
        // beside a good signature it changes nothing
        assert_eq!(fault(&forge), None, "{name}");
    }
}

/// J17: `exp` and `nbf` are exact, with five seconds for clocks that stand apart.
#[test]
fn a_token_is_good_from_nbf_to_exp_with_five_seconds_on_either_side() {
    let token = Forge::new().claim("exp", json!(IAT_S + 30)).sign();
    for (now_ns, expected) in [
        ((IAT_S - 5) * S - 1, Some(Fault::NotYet)),
        ((IAT_S - 5) * S, None),
        (IAT_S * S, None),
        ((IAT_S + 35) * S - 1, None),
        ((IAT_S + 35) * S, Some(Fault::Expired)),
        (i64::MIN, Some(Fault::NotYet)),
        (i64::MAX, Some(Fault::Expired)),
    ] {
        assert_eq!(check_at(&token, now_ns).fault, expected, "{now_ns}");
    }
}

#[test]
fn a_stolen_token_names_itself_and_not_its_thief() {
    let thief = Caller {
        spiffe_id: "spiffe://bank.test/workload/pirate",
        cert_sha256: Hash([9; 32]),
    };
    let checked = check_as(&Forge::new().sign(), thief, need(IAT_S * S));
    assert_eq!(checked.fault, Some(Fault::CnfMismatch));
    assert_eq!(&*checked.seen.unwrap().jti, "j-1");
    // the certificate alone does not make its holder the subject
    let impostor = Caller {
        cert_sha256: CERT,
        ..thief
    };
    let checked = check_as(&Forge::new().sign(), impostor, need(IAT_S * S));
    assert_eq!(checked.fault, Some(Fault::SubMismatch));
}

#[test]
fn a_token_for_one_api_and_operation_is_for_no_other() {
    let token = Forge::new().sign();
    for (api, scope, expected) in [
        ("accounts", "shop.Cart%2FGet", None),
        ("accounts", "shop.Cart", Some(Fault::Scope)),
        ("accounts", "", Some(Fault::Scope)),
        ("Accounts", "readAccount", Some(Fault::Aud)),
        ("", "readAccount", Some(Fault::Aud)),
    ] {
        let need = Need {
            api,
            scope,
            now: Time::from_ns(IAT_S * S),
        };
        assert_eq!(
            check_as(&token, CALLER, need).fault,
            expected,
            "{api} {scope}"
        );
    }
}

/// J01 and J18: one header, one token, of some length at most.
#[test]
fn there_is_one_header_with_one_token() {
    let token = Forge::new().sign();
    let check = TokenCheck::compile(Some(&rules())).unwrap();
    let fault = |values: &[&[u8]]| {
        let shown = Authorization::of(values.iter().copied());
        check
            .check(shown, CALLER, need(IAT_S * S), &mut TokenCache::default())
            .fault
    };
    let text = |text: &str| text.replace('$', &token).into_bytes();
    for (value, expected) in [
        ("Bearer $", None),
        ("bearer  $ ", None),
        ("Bearer", Some(Fault::Malformed)),
        ("Bearer ", Some(Fault::Malformed)),
        ("", Some(Fault::Missing)),
        ("$", Some(Fault::Missing)),
        ("Basic cG9ydGFsOng=", Some(Fault::Missing)),
        ("Bearer $, Bearer $", Some(Fault::Malformed)),
        ("Bearer $ $", Some(Fault::Malformed)),
        ("Bearer\t$", Some(Fault::Missing)),
        ("Bearer $=", Some(Fault::Malformed)),
        ("Bearer .$", Some(Fault::Malformed)),
        ("Bearer $.", Some(Fault::Malformed)),
        ("Bearer ..", Some(Fault::Malformed)),
        ("Bearer a.b", Some(Fault::Malformed)),
    ] {
        assert_eq!(fault(&[&text(value)]), expected, "{value:?}");
    }
    assert_eq!(fault(&[]), Some(Fault::Missing));
    assert_eq!(
        fault(&[&text("Bearer $"), &text("Bearer $")]),
        Some(Fault::Malformed)
    );
    assert_eq!(
        fault(&[&text("Basic x"), &text("Bearer $")]),
        Some(Fault::Malformed)
    );
    assert_eq!(fault(&[b"Bearer \xff.\xff.\xff"]), Some(Fault::Malformed));
    let long = Forge::new().claim("more", json!("x".repeat(6_000))).sign();
    assert!(long.len() > TOKEN_BYTES_MAX);
    assert_eq!(fault(&[&bearer(&long)]), Some(Fault::Malformed));
    let fits = Forge::new().claim("more", json!("x".repeat(5_000))).sign();
    assert!(fits.len() < TOKEN_BYTES_MAX);
    assert_eq!(fault(&[&bearer(&fits)]), None);
}

#[test]
fn a_name_that_stands_twice_is_refused() {
    let forge = Forge::new();
    let header = serde_json::to_string(&forge.header).unwrap();
    let claims = serde_json::to_string(&forge.claims).unwrap();
    let twice = |json: &str, member: &str| json.replacen('{', &format!("{{{member},"), 1);
    for message in [
        message(&twice(&header, r#""alg":"none""#), &claims),
        message(&header, &twice(&claims, r#""exp":1"#)),
        message(&header, "[]"),
        message(&header, "{}x"),
        message("[]", &claims),
        message(&format!("{header}{header}"), &claims),
        message(&"[".repeat(3_000), &claims),
    ] {
        let token = sign_with(signer(), &message);
        assert_eq!(
            check_at(&token, IAT_S * S).fault,
            Some(Fault::Malformed),
            "{message}"
        );
    }
}

#[test]
fn any_changed_byte_of_a_token_is_refused() {
    let token = Forge::new().sign();
    let check = TokenCheck::compile(Some(&rules())).unwrap();
    let mut cache = TokenCache::default();
    let mut fault = |token: &[u8]| {
        let value = [b"Bearer ", token].concat();
        let shown = Authorization::of([&*value].into_iter());
        check
            .check(shown, CALLER, need(IAT_S * S), &mut cache)
            .fault
    };
    assert_eq!(fault(token.as_bytes()), None);
    for at in 0..token.len() {
        let original = token.as_bytes()[at];
        // the next letter of base64url changes the lowest bit, which the last letters leave unused
        for byte in [
            original ^ 1,
            original ^ 4,
            original ^ 32,
            b'A',
            b'B',
            b'.',
            b'=',
        ] {
            let mut changed = token.clone().into_bytes();
            changed[at] = byte;
            if byte != original {
                assert!(fault(&changed).is_some(), "byte {at} as {byte}");
            }
        }
        assert!(fault(&token.as_bytes()[..at]).is_some(), "cut at {at}");
    }
}

#[test]
fn the_cache_is_bounded_and_follows_the_keys() {
    let check = TokenCheck::compile(Some(&rules())).unwrap();
    let mut cache = TokenCache::default();
    let value = bearer(&Forge::new().sign());
    let shown = Authorization::of([&*value].into_iter());
    assert_eq!(
        check
            .check(shown, CALLER, need(IAT_S * S), &mut cache)
            .fault,
        None
    );
    assert_eq!(cache.len(), 1);
    // a verified token is refused as soon as it is revoked, though it is kept
    let mut revoking = rules();
    revoking.revoked.push("j-1".to_owned());
    let later = TokenCheck::compile(Some(&revoking)).unwrap();
    assert_eq!(
        later
            .check(shown, CALLER, need(IAT_S * S), &mut cache)
            .fault,
        Some(Fault::Revoked)
    );
    assert_eq!(cache.len(), 1);
    // and forgotten as soon as its key is no longer in the bundle
    let mut other = rules();
    other.keys = vec![TokenSigner::generate().unwrap().public().clone()];
    let later = TokenCheck::compile(Some(&other)).unwrap();
    assert_eq!(
        later
            .check(shown, CALLER, need(IAT_S * S), &mut cache)
            .fault,
        Some(Fault::KeyUnknown)
    );
    assert!(cache.is_empty());

    let held = Arc::new(check.open(&Forge::new().sign(), CALLER).unwrap());
    let key = |number: u64| Key {
        token: tree::sha256(&number.to_be_bytes()),
        cert: CERT,
    };
    for number in 0..20_000 {
        cache.keep(key(number), Arc::clone(&held));
        assert!(cache.len() <= 4_096);
        // who shows a token again and again keeps it
        assert!(cache.find(&key(0)).is_some(), "{number}");
    }
    assert!(cache.find(&key(1)).is_none());
}

#[test]
fn a_refused_token_is_not_kept() {
    let check = TokenCheck::compile(Some(&rules())).unwrap();
    let mut cache = TokenCache::default();
    let thief = Caller {
        cert_sha256: Hash([9; 32]),
        ..CALLER
    };
    let value = bearer(&Forge::new().sign());
    let shown = Authorization::of([&*value].into_iter());
    let _checked = check.check(shown, thief, need(IAT_S * S), &mut cache);
    assert!(cache.is_empty());
}

#[test]
fn without_rules_no_token_is_good_and_bad_rules_are_none() {
    let check = TokenCheck::compile(None).unwrap();
    let value = bearer(&Forge::new().sign());
    let shown = Authorization::of([&*value].into_iter());
    let fault = check
        .check(shown, CALLER, need(IAT_S * S), &mut TokenCache::default())
        .fault;
    assert_eq!(fault, Some(Fault::KeyUnknown));

    let good = signer().public().clone();
    let with = |keys: Vec<TokenKey>| TokenCheck::compile(Some(&TokenRules { keys, ..rules() }));
    let off_the_curve = TokenKey {
        y: good.x.clone(),
        ..good.clone()
    };
    let short = TokenKey {
        x: "AAAA".to_owned(),
        ..good.clone()
    };
    for bad in [off_the_curve, short] {
        assert_eq!(with(vec![bad]).err(), Some(good.kid.clone()));
    }
    assert_eq!(with(vec![good.clone(), good.clone()]).err(), Some(good.kid));
}

#[test]
fn no_token_is_ever_shown() {
    let value = bearer("secret.secret.secret");
    let shown = Authorization::of([&*value].into_iter());
    assert_eq!(format!("{shown:?}"), "Authorization(shown)");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_refused_and_never_panic(value in prop::collection::vec(any::<u8>(), 0..200)) {
        let check = TokenCheck::compile(Some(&rules())).unwrap();
        let bearing = [b"Bearer ", &*value].concat();
        for value in [&*value, &*bearing] {
            let shown = Authorization::of([value].into_iter());
            let checked = check.check(shown, CALLER, need(IAT_S * S), &mut TokenCache::default());
            prop_assert!(checked.fault.is_some());
        }
    }

    #[test]
    fn arbitrary_signed_json_never_panics(
        header in "\\PC{0,80}",
        claims in "\\PC{0,80}",
        exp in any::<i64>(),
        nbf in any::<i64>(),
        iat in any::<i64>(),
        now in any::<i64>(),
    ) {
        for message in [message(&header, &claims), message(&serde_json::to_string(&Forge::new().header).unwrap(), &claims)] {
            prop_assert!(check_at(&sign_with(signer(), &message), now).fault.is_some());
        }
        let times = Forge::new()
            .claim("exp", json!(exp))
            .claim("nbf", json!(nbf))
            .claim("iat", json!(iat));
        let checked = check_at(&times.sign(), now);
        let leeway = 5 * i128::from(S);
        let good = iat >= 0 && nbf >= 0 && nbf <= exp && iat <= exp && exp - iat <= 3_600
            && i128::from(now) < i128::from(exp) * i128::from(S) + leeway
            && i128::from(now) >= i128::from(nbf.max(iat)) * i128::from(S) - leeway;
        prop_assert_eq!(checked.fault.is_none(), good);
    }
}

use std::os::unix::fs::PermissionsExt as _;

use counterfoil_trust::{Purpose, verify_chain_for};
use rcgen::{CertificateSigningRequest, IsCa as Ca};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::*;

const HOUR: Duration = Duration::from_hours(1);

fn shop() -> SpiffeId {
    SpiffeId::parse("spiffe://bank.test/workload/shop").unwrap()
}

fn request(params: CertificateParams, key: &KeyPair) -> String {
    let csr: CertificateSigningRequest = params.serialize_request(key).unwrap();
    csr.pem().unwrap()
}

fn chain_of(issued: &Issued) -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap()]
}

#[test]
fn what_is_there_is_kept_and_secrets_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let first = init(dir.path(), "bank.test").unwrap();
    assert_eq!(init(dir.path(), "bank.test").unwrap(), first);
    assert_ne!(first.governance_public, first.control_public);
    for secret in ["ca.key", "governance.key", "control.key", "token.key"] {
        let meta = fs::metadata(dir.path().join("control").join(secret)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{secret}");
    }
}

#[test]
fn a_short_life_begins_shortly_before_now_and_a_long_one_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), "bank.test").unwrap();
    let key = KeyPair::generate().unwrap();
    for (life_s, skew_s) in [(10, 1), (20, 2), (600, 60), (86_400, 60)] {
        let now = clock::wall();
        let life = Duration::from_secs(life_s);
        let peer = authority.sign(&key, &shop(), life, now).unwrap().peer;
        let (from, until) = (peer.not_before, peer.not_after);
        let life_s = i64::try_from(life_s).unwrap();
        assert_eq!(until.since_ns(from), (life_s + skew_s) * 1_000_000_000);
        let middle = from.plus_ns(until.since_ns(from) / 2);
        assert!(
            middle > now,
            "whoever renews at half of it would do so at once"
        );
    }
}

#[test]
fn the_key_of_tokens_is_kept_and_known_by_its_thumbprint() {
    let dir = tempfile::tempdir().unwrap();
    let first = Authority::open(dir.path(), "bank.test").unwrap().jwks();
    let again = Authority::open(dir.path(), "bank.test").unwrap().jwks();
    assert_eq!(first, again);
    let key = &first["keys"][0];
    let member = |name: &str| key[name].as_str().unwrap();
    let (x, y) = (member("x"), member("y"));
    let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    let sha256 = counterfoil_entry::tree::sha256(jwk.as_bytes());
    let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let thumbprint = base64::Engine::encode(&url_safe, sha256.as_bytes());
    assert_eq!(member("kid"), thumbprint);
    fs::write(dir.path().join("token.key"), "no key").unwrap();
    let refused = Authority::open(dir.path(), "bank.test").unwrap_err();
    assert!(refused.to_string().contains("token.key"), "{refused}");
}

#[test]
fn another_trust_domain_a_lost_key_and_a_broken_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), "bank.test").unwrap();
    let refused = init(dir.path(), "other.test");
    assert!(matches!(refused, Err(AuthorityError::TrustDomain { .. })));
    let control = dir.path().join("control");
    fs::write(control.join("governance.key"), "no key").unwrap();
    assert!(matches!(
        init(dir.path(), "bank.test"),
        Err(AuthorityError::Content { .. })
    ));
    fs::remove_file(control.join("governance.key")).unwrap();
    fs::remove_file(control.join("ca.key")).unwrap();
    let refused = init(dir.path(), "bank.test").unwrap_err().to_string();
    assert!(refused.contains("ca.pem"), "{refused}");
}

#[test]
fn only_the_public_key_of_a_request_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), "bank.test").unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(
        "spiffe://bank.test/counterfoil/control".try_into().unwrap(),
    )];
    params.is_ca = Ca::Ca(BasicConstraints::Unconstrained);
    let now = clock::wall();
    let issued = authority
        .issue(&request(params, &key), &shop(), HOUR, now)
        .unwrap();
    let chain = chain_of(&issued);
    for purpose in [Purpose::Client, Purpose::Server] {
        let peer = verify_chain_for(&authority.roots, &chain, now, purpose).unwrap();
        assert_eq!(peer.spiffe_id, shop());
    }
    assert_eq!(issued.spki_der, key.subject_public_key_info());
    let late = now.plus_ns(3_601_000_000_000);
    assert!(verify_chain_for(&authority.roots, &chain, late, Purpose::Client).is_err());
}

#[test]
fn serials_differ() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), "bank.test").unwrap();
    let key = KeyPair::generate().unwrap();
    let issue = || {
        authority
            .sign(&key, &shop(), HOUR, clock::wall())
            .unwrap()
            .peer
            .serial
    };
    let (one, other) = (issue(), issue());
    assert_ne!(one, other);
    assert_eq!(one.len(), 32);
}

#[test]
fn a_request_without_proof_or_with_another_kind_of_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), "bank.test").unwrap();
    let issue = |csr: &str| authority.issue(csr, &shop(), HOUR, clock::wall());
    assert!(matches!(
        issue("no request"),
        Err(AuthorityError::Request(_))
    ));
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let csr = request(CertificateParams::default(), &other);
    assert!(matches!(issue(&csr), Err(AuthorityError::Request(_))));
    // A request whose signature is not of its own key proves nothing.
    let csr = request(CertificateParams::default(), &KeyPair::generate().unwrap());
    let mut der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(csr.as_bytes())
        .unwrap()
        .to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let forged =
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
    assert!(matches!(issue(&forged), Err(AuthorityError::Request(_))));
    assert!(issue(&csr).is_ok());
}

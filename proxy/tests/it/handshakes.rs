//! Handshakes that are refused, each with its reason in the books.

use std::sync::Arc;

use counterfoil_entry::word::{Decision, Kind, Outcome, Side};
use counterfoil_trust::{Expect, Identity, SpiffeId, Svid, client_config};
use rustls::ClientConfig;
use time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::app;
use crate::books::wait_for;
use crate::ca::{Ca, Leaf};
use crate::world::{CART, SHOP, World};

/// Connects with `config`, says something, and reads until the other side hangs up.
async fn knock(address: std::net::SocketAddr, config: Arc<ClientConfig>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = counterfoil_trust::server_name();
    if let Ok(mut stream) = TlsConnector::from(config).connect(name, stream).await {
        let _sent = stream
            .write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n")
            .await;
        let mut answer = Vec::new();
        let _alert = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
}

fn anyone() -> Expect {
    Expect::Id(SpiffeId::parse(CART).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refused_handshake_is_recorded_with_its_reason() {
    let world = World::start(app::start(|_| panic!("reached the app")).await);
    let (ca, foreign) = (&world.ca, Ca::new());
    let good = Leaf::good(SHOP);
    let hours = Duration::hours;
    let cases = [
        ("tls_untrusted", foreign.leaf(&good)),
        (
            "tls_expired",
            ca.leaf(&Leaf {
                from: hours(-3),
                until: hours(-2),
                ..good.clone()
            }),
        ),
        (
            "tls_not_yet_valid",
            ca.leaf(&Leaf {
                from: hours(2),
                until: hours(3),
                ..good.clone()
            }),
        ),
        (
            "tls_wrong_peer",
            ca.leaf(&Leaf::good("spiffe://other.test/workload/shop")),
        ),
    ];
    let mut count = 0;
    for (reason, (chain, key)) in cases {
        let identity = Identity::new(Svid::from_pem(&chain, &key).unwrap(), ca.roots());
        knock(
            world.cart.inbound,
            client_config(&identity, anyone(), &[b"h2"]),
        )
        .await;
        count += 1;
        expect_refusal(&world, count, reason).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_a_certificate_is_refused_and_recorded() {
    let world = World::start(app::start(|_| panic!("reached the app")).await);
    let expected = SpiffeId::parse(CART).unwrap();
    let config =
        counterfoil_trust::client_config_without_svid(&world.ca.roots(), expected, &[b"h2"]);
    knock(world.cart.inbound, config).await;
    expect_refusal(&world, 1, "tls_no_client_cert").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_without_exactly_one_identity_are_refused_and_recorded() {
    let world = World::start(app::start(|_| panic!("reached the app")).await);
    let good = Leaf::good(SHOP);
    for (count, uris) in [vec![], vec![SHOP, CART]].into_iter().enumerate() {
        let (chain, key) = world.ca.leaf(&Leaf {
            uris,
            ..good.clone()
        });
        knock(world.cart.inbound, raw_config(&chain, &key)).await;
        expect_refusal(&world, count + 1, "id_malformed").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_on_the_inbound_port_gets_no_answer_and_is_recorded() {
    let world = World::start(app::start(|_| panic!("reached the app")).await);
    let answer = crate::client::ask(world.cart.inbound, &crate::client::get("cart", "/")).await;
    assert!(!answer.contains("HTTP/"), "{answer}");
    expect_refusal(&world, 1, "tls_protocol").await;
}

async fn expect_refusal(world: &World, count: usize, reason: &str) {
    let entry = wait_for(&world.cart.books(), count).await.remove(count - 1);
    assert_eq!((entry.side, entry.kind), (Side::Server, Kind::TlsFailure));
    assert_eq!((entry.decision, &*entry.reason), (Decision::Deny, reason));
    assert_eq!(entry.outcome, Some(Outcome::Denied));
    assert_eq!((entry.trace_id, entry.span_id), (None, None));
    assert_eq!(entry.source, None);
    assert_eq!(entry.destination.as_deref(), Some(CART));
    assert_eq!(entry.peer_address.as_deref(), Some("127.0.0.1"));
    assert!(entry.duration_ns.is_some() && entry.overhead_ns.is_none());
    assert!(!entry.mtls);
}

/// A client that shows any certificate at all, and trusts anyone.
fn raw_config(chain: &str, key: &str) -> Arc<ClientConfig> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ClientConfig::builder_with_provider(counterfoil_trust::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_client_auth_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

#[derive(Debug)]
struct Gullible;

impl rustls::client::danger::ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &rustls::pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &rustls::pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

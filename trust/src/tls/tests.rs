use rcgen::{ExtendedKeyUsagePurpose as Eku, IsCa, KeyPair};
use rustls::{ClientConnection, ServerConnection};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::*;
use crate::fixture::{Ca, DAY_S, Leaf, uri};
use crate::{peer_of, refusal_of};

const CART: &str = "spiffe://bank.test/workload/cart";
const SHOP: &str = "spiffe://bank.test/workload/shop";

/// What each side ends with: the other side's SPIFFE id, or its refusal.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    client: Result<String, Refusal>,
    server: Result<Option<String>, Refusal>,
}

/// A whole handshake in memory, alerts included.
fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Ended {
    let mut client = ClientConnection::new(client, server_name()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut client_error, mut server_error) = (None, None);
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        feed(&bytes, |chunk| {
            server.read_tls(chunk).unwrap();
            let error = server.process_new_packets().err();
            server_error = server_error.take().or(error);
        });
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        feed(&bytes, |chunk| {
            client.read_tls(chunk).unwrap();
            let error = client.process_new_packets().err();
            client_error = client_error.take().or(error);
        });
    }
    let name = |certificates: Option<&[CertificateDer<'_>]>| {
        certificates.map(|c| peer_of(c).unwrap().spiffe_id.to_string())
    };
    Ended {
        client: match client_error {
            Some(error) => Err(refusal_of(&error)),
            None => Ok(name(client.peer_certificates()).unwrap()),
        },
        server: match server_error {
            Some(error) => Err(refusal_of(&error)),
            None => {
                assert!(!server.is_handshaking());
                Ok(name(server.peer_certificates()))
            }
        },
    }
}

fn feed(mut bytes: &[u8], mut read: impl FnMut(&mut &[u8])) {
    while !bytes.is_empty() {
        read(&mut bytes);
    }
}

fn server_of(identity: &Identity) -> Arc<ServerConfig> {
    server_config(identity, ClientAuth::Required, &[])
}

/// A client that shows any certificate at all, also one that is no SVID.
fn client_showing(ca: &Ca, shown: &Ca, leaf: Leaf) -> Arc<ClientConfig> {
    let (chain, key) = shown.issue_pem(leaf);
    let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerVerifier {
            roots: ca.roots(),
            rule: Rule::Id(SpiffeId::parse(CART).unwrap()),
            mandatory: true,
        }))
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.enable_sni = false;
    Arc::new(config)
}

/// A server that shows any certificate at all and asks for none.
fn server_showing(shown: &Ca, leaf: Leaf) -> Arc<ServerConfig> {
    let (chain, key) = shown.issue_pem(leaf);
    let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

#[test]
fn two_workloads_of_one_domain_learn_each_others_names() {
    let ca = Ca::new();
    for expect in [
        Expect::AnyInDomain,
        Expect::Id(SpiffeId::parse(CART).unwrap()),
    ] {
        let ended = handshake(
            client_config(&ca.identity(SHOP), expect, &[]),
            server_of(&ca.identity(CART)),
        );
        let both = Ended {
            client: Ok(CART.to_owned()),
            server: Ok(Some(SHOP.to_owned())),
        };
        assert_eq!(ended, both);
    }
}

/// Leaves of `name` that are bad in one way each, with the refusal that each must meet.
fn bad_leaves(name: &str, other_use: Eku) -> Vec<(&'static str, Leaf, Refusal)> {
    let but = |change: &dyn Fn(&mut Leaf)| {
        let mut leaf = Leaf::of(name);
        change(&mut leaf);
        leaf
    };
    let authority = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let foreign_name = name.replace("bank.test", "other.test");
    let path_names = Leaf::of("spiffe://bank.test//shop");
    let web_name = Leaf::of("https://bank.test/shop");
    vec![
        ("expired", but(&|l| l.until_s = -60), Refusal::Expired),
        (
            "not yet",
            but(&|l| l.from_s = DAY_S / 2),
            Refusal::NotYetValid,
        ),
        ("no name", but(&|l| l.names.clear()), Refusal::IdMalformed),
        (
            "two URIs",
            but(&|l| l.names.push(uri(name))),
            Refusal::IdMalformed,
        ),
        ("an empty segment", path_names, Refusal::IdMalformed),
        ("a web URI", web_name, Refusal::IdMalformed),
        (
            "another domain",
            Leaf::of(&foreign_name),
            Refusal::WrongPeer,
        ),
        (
            "other use",
            but(&|l| l.usage = vec![other_use.clone()]),
            Refusal::Untrusted,
        ),
        (
            "no use named",
            but(&|l| l.usage.clear()),
            Refusal::Untrusted,
        ),
        (
            "authority",
            but(&|l| l.is_ca = authority),
            Refusal::Untrusted,
        ),
    ]
}

#[test]
fn each_bad_client_is_refused_with_its_own_reason() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let server = || server_of(&ca.identity(CART));
    for (case, leaf, refusal) in bad_leaves(SHOP, Eku::ServerAuth) {
        let ended = handshake(client_showing(&ca, &ca, leaf), server());
        assert_eq!(ended.server, Err(refusal), "{case}");
        assert!(ended.client.is_err(), "{case}: the client learns of it");
    }
    let ended = handshake(client_showing(&ca, &foreign, Leaf::of(SHOP)), server());
    assert_eq!(ended.server, Err(Refusal::Untrusted));
    assert_eq!(ended.client, Err(Refusal::Untrusted));
    // The twin of them all: the same way with a good certificate succeeds.
    let ended = handshake(client_showing(&ca, &ca, Leaf::of(SHOP)), server());
    assert_eq!(ended.server, Ok(Some(SHOP.to_owned())));
}

#[test]
fn a_key_on_another_curve_is_refused() {
    let ca = Ca::new();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let leaf = Leaf {
        key,
        ..Leaf::of(SHOP)
    };
    let chain = ca.chain(leaf);
    let refused = crate::verify_chain(&ca.roots(), &chain, crate::fixture::now());
    assert_eq!(refused, Err(Refusal::Untrusted));
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let leaf = Leaf {
        key,
        ..Leaf::of(SHOP)
    };
    let ended = handshake(
        client_showing(&ca, &ca, leaf),
        server_of(&ca.identity(CART)),
    );
    assert!(ended.server.is_err());
}

#[test]
fn a_client_without_a_certificate_is_refused_unless_it_may_join() {
    let ca = Ca::new();
    let server = ca.identity(CART);
    let client = || client_config_without_svid(&ca.roots(), SpiffeId::parse(CART).unwrap(), &[]);
    let ended = handshake(client(), server_of(&server));
    assert_eq!(ended.server, Err(Refusal::NoClientCert));
    assert_eq!(ended.client, Err(Refusal::NoClientCert));
    let joining = server_config(&server, ClientAuth::Optional, &[]);
    let ended = handshake(client(), Arc::clone(&joining));
    assert_eq!(
        ended,
        Ended {
            client: Ok(CART.to_owned()),
            server: Ok(None)
        }
    );
    // Optional does not mean that a bad one passes.
    let expired = Leaf {
        until_s: -60,
        ..Leaf::of(SHOP)
    };
    let ended = handshake(client_showing(&ca, &ca, expired), joining);
    assert_eq!(ended.server, Err(Refusal::Expired));
}

#[test]
fn each_bad_server_is_refused_with_its_own_reason() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let client = || {
        let expect = Expect::Id(SpiffeId::parse(CART).unwrap());
        client_config(&ca.identity(SHOP), expect, &[])
    };
    for (case, leaf, refusal) in bad_leaves(CART, Eku::ClientAuth) {
        let ended = handshake(client(), server_showing(&ca, leaf));
        assert_eq!(ended.client, Err(refusal), "{case}");
    }
    let ended = handshake(client(), server_showing(&foreign, Leaf::of(CART)));
    assert_eq!(ended.client, Err(Refusal::Untrusted));
    let ended = handshake(client(), server_showing(&ca, Leaf::of(SHOP)));
    assert_eq!(ended.client, Err(Refusal::WrongPeer));
    let ended = handshake(client(), server_showing(&ca, Leaf::of(CART)));
    assert_eq!(ended.client, Ok(CART.to_owned()));
}

#[test]
fn nothing_older_than_tls_13_is_spoken() {
    let ca = Ca::new();
    let old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates((*ca.roots().store).clone())
        .with_no_client_auth();
    let ended = handshake(Arc::new(old), server_of(&ca.identity(CART)));
    assert_eq!(ended.server, Err(Refusal::Protocol));
    assert_eq!(ended.client, Err(Refusal::Protocol));
}

#[test]
fn a_replaced_svid_is_shown_in_the_next_handshake_on_both_sides() {
    let ca = Ca::new();
    let (shop, cart) = (ca.identity(SHOP), ca.identity(CART));
    let client = client_config(&shop, Expect::AnyInDomain, &[]);
    let server = server_of(&cart);
    handshake(Arc::clone(&client), Arc::clone(&server));
    shop.replace(ca.svid("spiffe://bank.test/workload/shop2"));
    cart.replace(ca.svid("spiffe://bank.test/workload/cart2"));
    let ended = handshake(client, server);
    assert_eq!(ended.client.unwrap(), "spiffe://bank.test/workload/cart2");
    assert_eq!(
        ended.server.unwrap().unwrap(),
        "spiffe://bank.test/workload/shop2"
    );
}

#[test]
fn no_ticket_is_sent_and_nothing_is_resumed() {
    let ca = Ca::new();
    let server = server_of(&ca.identity(CART));
    assert_eq!(server.send_tls13_tickets, 0);
    let client = client_config(&ca.identity(SHOP), Expect::AnyInDomain, &[]);
    for _ in 0..2 {
        let mut client = ClientConnection::new(Arc::clone(&client), server_name()).unwrap();
        let mut server = ServerConnection::new(Arc::clone(&server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            feed(&bytes, |chunk| {
                server.read_tls(chunk).unwrap();
                server.process_new_packets().unwrap();
            });
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).unwrap();
            feed(&bytes, |chunk| {
                client.read_tls(chunk).unwrap();
                client.process_new_packets().unwrap();
            });
        }
        assert_ne!(
            client.handshake_kind(),
            Some(rustls::HandshakeKind::Resumed)
        );
    }
}

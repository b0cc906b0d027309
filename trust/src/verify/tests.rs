use counterfoil_entry::id::{Epoch, Writer};

use super::*;
use crate::Svid;
use crate::fixture::{Ca, DAY_S, Leaf, now};

const CART: &str = "spiffe://bank.test/workload/cart";

fn announcement(svid: &Svid, writer: &str) -> Vec<u8> {
    Announcement {
        writer: Writer::parse(writer).unwrap(),
        epoch: Epoch(7),
        audit_key: [9; 32],
        time: now(),
        chain: svid.chain_der().iter().map(|der| der.to_vec()).collect(),
        build: "test".to_owned(),
    }
    .encode()
}

#[test]
fn a_chain_names_its_peer() {
    let ca = Ca::new();
    let chain = ca.chain(Leaf::of(CART));
    let peer = verify_chain(&ca.roots(), &chain, now()).unwrap();
    assert_eq!(peer.spiffe_id.as_str(), CART);
    assert_eq!(peer.cert_sha256, tree::sha256(&chain[0]));
    assert!(!peer.serial.is_empty() && peer.serial.bytes().all(|b| b.is_ascii_hexdigit()));
    assert!(peer.not_before < now() && now() < peer.not_after);
    assert_eq!(peer_of(&chain).unwrap(), peer);
}

#[test]
fn a_chain_is_checked_at_the_time_that_is_asked_for() {
    let ca = Ca::new();
    let chain = ca.chain(Leaf::of(CART));
    let day_ns = DAY_S * 1_000_000_000;
    let at = |days: i64| verify_chain(&ca.roots(), &chain, now().plus_ns(days * day_ns));
    assert_eq!(at(2), Err(Refusal::Expired));
    assert_eq!(at(-2), Err(Refusal::NotYetValid));
    assert!(at(0).is_ok());
}

#[test]
fn a_key_that_may_sign_certificates_is_no_svids() {
    use rcgen::KeyUsagePurpose as Use;
    let ca = Ca::new();
    for (key_usage, verdict) in [
        (vec![Use::DigitalSignature, Use::KeyAgreement], Ok(())),
        (
            vec![Use::DigitalSignature, Use::KeyCertSign],
            Err(Refusal::Untrusted),
        ),
        (
            vec![Use::DigitalSignature, Use::CrlSign],
            Err(Refusal::Untrusted),
        ),
        (vec![Use::KeyEncipherment], Err(Refusal::Untrusted)),
    ] {
        let chain = ca.chain(Leaf {
            key_usage: key_usage.clone(),
            ..Leaf::of(CART)
        });
        for purpose in [Purpose::Client, Purpose::Server] {
            let checked = verify_chain_for(&ca.roots(), &chain, now(), purpose);
            assert_eq!(checked.map(drop), verdict, "{key_usage:?}");
        }
    }
}

#[test]
fn an_empty_unreadable_or_endless_chain_is_refused() {
    let ca = Ca::new();
    assert_eq!(
        verify_chain(&ca.roots(), &[], now()),
        Err(Refusal::NoClientCert)
    );
    let garbage = [CertificateDer::from(&b"no certificate"[..])];
    assert_eq!(
        verify_chain(&ca.roots(), &garbage, now()),
        Err(Refusal::Untrusted)
    );
    let leaf = ca.chain(Leaf::of(CART));
    let endless: Vec<_> = std::iter::repeat_n(leaf[0].clone(), 9).collect();
    assert_eq!(
        verify_chain(&ca.roots(), &endless, now()),
        Err(Refusal::Untrusted)
    );
}

#[test]
fn an_announcement_is_taken_from_its_writer_only() {
    let ca = Ca::new();
    let svid = ca.svid(CART);
    let bytes = announcement(&svid, &format!("{CART}#a"));
    let signature = svid.sign_announcement(&bytes).unwrap();
    let (read, peer) = verify_announcement(&ca.roots(), &bytes, &signature, now()).unwrap();
    assert_eq!((read.epoch, peer.spiffe_id.as_str()), (Epoch(7), CART));

    let stolen = announcement(&svid, "spiffe://bank.test/workload/shop#a");
    let signed = svid.sign_announcement(&stolen).unwrap();
    let refused = verify_announcement(&ca.roots(), &stolen, &signed, now());
    assert_eq!(refused.unwrap_err(), Refusal::WrongPeer);

    let other_key = ca.svid(CART).sign_announcement(&bytes).unwrap();
    let refused = verify_announcement(&ca.roots(), &bytes, &other_key, now());
    assert_eq!(refused.unwrap_err(), Refusal::Protocol);

    let refused = verify_announcement(&Ca::new().roots(), &bytes, &signature, now());
    assert_eq!(refused.unwrap_err(), Refusal::Untrusted);

    let mut changed = bytes.clone();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    let refused = verify_announcement(&ca.roots(), &changed, &signature, now());
    assert_eq!(refused.unwrap_err(), Refusal::Protocol);
}

#[test]
fn an_svid_needs_its_own_key_and_a_spiffe_id() {
    let ca = Ca::new();
    let (chain, key) = ca.issue_pem(Leaf::of(CART));
    let (_, other_key) = ca.issue_pem(Leaf::of(CART));
    assert!(Svid::from_pem(&chain, &key).is_ok());
    assert!(matches!(
        Svid::from_pem(&chain, &other_key),
        Err(crate::SvidError::Key(_))
    ));
    assert!(matches!(
        Svid::from_pem("", &key),
        Err(crate::SvidError::Empty(_))
    ));
    let (nameless, key) = ca.issue_pem(Leaf {
        names: vec![],
        ..Leaf::of(CART)
    });
    let refused = Svid::from_pem(&nameless, &key);
    assert!(matches!(
        refused,
        Err(crate::SvidError::Leaf(Refusal::IdMalformed))
    ));
    assert!(TrustRoots::from_pem("no certificate here").is_err());
}

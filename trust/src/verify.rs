//! Checks of certificate chains and of what was signed with their keys.

use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use counterfoil_entry::announcement::{self, Announcement};
use counterfoil_entry::{Hash, Time, tree};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, KeyUsage};
use x509_parser::prelude::FromDer;

use crate::refusal::refusal_of;
use crate::{Refusal, SpiffeId, TrustRoots, tls};

const OID_EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const OID_P256: &str = "1.2.840.10045.3.1.7";
/// One chain holds a leaf and intermediates; more than this is refused unread.
const CHAIN_CERTIFICATES_MAX: usize = 8;

/// Whom a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The one SPIFFE id of the leaf.
    pub spiffe_id: SpiffeId,
    /// SHA-256 of the leaf in DER.
    pub cert_sha256: Hash,
    /// The leaf's serial number in lower-case hex.
    pub serial: String,
    /// When the leaf begins to be valid.
    pub not_before: Time,
    /// When the leaf expires.
    pub not_after: Time,
}

/// What a leaf is used for; its extended key usage must name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To open connections, and to sign a writer's announcement.
    Client,
    /// To accept connections.
    Server,
}

/// Whom `chain`, leaf first, names, after its check as a client's chain; see [`verify_chain_for`].
///
/// # Errors
/// [`Refusal`] says why the chain is not to be trusted.
pub fn verify_chain(
    roots: &TrustRoots,
    chain: &[CertificateDer<'_>],
    at: Time,
) -> Result<Peer, Refusal> {
    verify_chain_for(roots, chain, at, Purpose::Client)
}

/// Whom `chain`, leaf first, names, after its check against `roots` at the time `at`.
///
/// The leaf must not be a certificate authority nor its key one that signs certificates; it must hold an ECDSA P-256 key, exactly one URI SAN
/// that is a SPIFFE id, and an extended key usage that names `purpose`. The trust domain is not
/// compared here: whoever asks knows which one it expects.
///
/// # Errors
/// [`Refusal`] says why the chain is not to be trusted.
pub fn verify_chain_for(
    roots: &TrustRoots,
    chain: &[CertificateDer<'_>],
    at: Time,
    purpose: Purpose,
) -> Result<Peer, Refusal> {
    let (leaf, intermediates) = chain.split_first().ok_or(Refusal::NoClientCert)?;
    if chain.len() > CHAIN_CERTIFICATES_MAX {
        return Err(Refusal::Untrusted);
    }
    let seconds = u64::try_from(at.as_ns() / 1_000_000_000).map_err(|_| Refusal::NotYetValid)?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let path = match purpose {
        Purpose::Client => roots
            .client_path
            .verify_client_cert(leaf, intermediates, now)
            .map(|_| ()),
        Purpose::Server => ParsedCertificate::try_from(leaf).and_then(|parsed| {
            let algorithms = tls::provider().signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &roots.store,
                intermediates,
                now,
                algorithms,
            )
        }),
    };
    path.map_err(|e| refusal_of(&e))?;
    let parsed = parse(leaf)?;
    check_usage(&parsed, purpose)?;
    read_peer(leaf, &parsed)
}

/// Whom a chain, leaf first, names. Nothing is checked but the form of the leaf: this is for
/// certificates that a finished handshake has already verified.
///
/// # Errors
/// [`Refusal::NoClientCert`] when there is no certificate, [`Refusal::Untrusted`] when the leaf is
/// unreadable or its key is not ECDSA P-256, [`Refusal::IdMalformed`] when it does not hold exactly
/// one SPIFFE id.
pub fn peer_of(chain: &[CertificateDer<'_>]) -> Result<Peer, Refusal> {
    let leaf = chain.first().ok_or(Refusal::NoClientCert)?;
    read_peer(leaf, &parse(leaf)?)
}

/// Reads an announcement that its writer signed with the key of its SVID, and checks it: the chain
/// at the time `at`, that the SVID is the writer's, and the signature.
///
/// # Errors
/// [`Refusal::Protocol`] when the bytes are no announcement or the signature is wrong,
/// [`Refusal::WrongPeer`] when the chain is another workload's, else what [`verify_chain`] says.
pub fn verify_announcement(
    roots: &TrustRoots,
    bytes: &[u8],
    signature: &[u8],
    at: Time,
) -> Result<(Announcement, Peer), Refusal> {
    let announcement = Announcement::decode(bytes).map_err(|_| Refusal::Protocol)?;
    let chain: Vec<CertificateDer<'_>> = announcement
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let peer = verify_chain(roots, &chain, at)?;
    if announcement.writer.spiffe_id() != peer.spiffe_id.as_str() {
        return Err(Refusal::WrongPeer);
    }
    let leaf = chain.first().ok_or(Refusal::NoClientCert)?;
    let parsed = parse(leaf)?;
    let key = &parsed.tbs_certificate.subject_pki.subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.as_ref())
        .verify(&announcement::signing_bytes(bytes), signature)
        .map_err(|_| Refusal::Protocol)?;
    drop(chain);
    Ok((announcement, peer))
}

fn parse<'a>(leaf: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refusal> {
    match X509Certificate::from_der(leaf.as_ref()) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(Refusal::Untrusted),
    }
}

/// The TLS library takes a leaf without extended key usage for any use; an SVID must name its uses.
fn check_usage(leaf: &X509Certificate<'_>, purpose: Purpose) -> Result<(), Refusal> {
    let signs = leaf.key_usage().map_err(|_| Refusal::Untrusted)?;
    if leaf.is_ca() || signs.is_some_and(|keys| !signs_messages_only(keys.value)) {
        return Err(Refusal::Untrusted);
    }
    let usage = leaf
        .extended_key_usage()
        .ok()
        .flatten()
        .ok_or(Refusal::Untrusted)?;
    let named = match purpose {
        Purpose::Client => usage.value.client_auth,
        Purpose::Server => usage.value.server_auth,
    };
    if named {
        Ok(())
    } else {
        Err(Refusal::Untrusted)
    }
}

/// An SVID's key signs handshakes and announcements, never certificates (X509-SVID, section 4.3).
fn signs_messages_only(usage: &KeyUsage) -> bool {
    usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign()
}

fn read_peer(der: &CertificateDer<'_>, leaf: &X509Certificate<'_>) -> Result<Peer, Refusal> {
    let key = &leaf.tbs_certificate.subject_pki.algorithm;
    let curve = key.parameters.as_ref().and_then(|p| p.as_oid().ok());
    if key.algorithm.to_id_string() != OID_EC_PUBLIC_KEY
        || curve.is_none_or(|oid| oid.to_id_string() != OID_P256)
    {
        return Err(Refusal::Untrusted);
    }
    let validity = leaf.validity();
    Ok(Peer {
        spiffe_id: spiffe_id_of(leaf)?,
        cert_sha256: tree::sha256(der.as_ref()),
        serial: hex::encode(leaf.raw_serial()),
        not_before: time_of(validity.not_before.timestamp())?,
        not_after: time_of(validity.not_after.timestamp())?,
    })
}

fn spiffe_id_of(leaf: &X509Certificate<'_>) -> Result<SpiffeId, Refusal> {
    let names = leaf
        .subject_alternative_name()
        .ok()
        .flatten()
        .ok_or(Refusal::IdMalformed)?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => SpiffeId::parse(uri).map_err(|_| Refusal::IdMalformed),
        _ => Err(Refusal::IdMalformed),
    }
}

/// The SPIFFE names of a certificate of any kind; none when it cannot be read.
pub(crate) fn spiffe_names(der: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = parse(der) else {
        return Vec::new();
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with("spiffe://") => Some((*uri).to_owned()),
            _ => None,
        })
        .collect()
}

fn time_of(seconds: i64) -> Result<Time, Refusal> {
    seconds
        .checked_mul(1_000_000_000)
        .map(Time::from_ns)
        .ok_or(Refusal::Untrusted)
}

#[cfg(test)]
mod tests;

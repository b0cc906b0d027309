//! Mutual TLS 1.3 between SPIFFE ids, with certificates that are swapped while connections are made.

use std::fmt;
use std::sync::{Arc, LazyLock};

use counterfoil_entry::Time;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName, UnixTime};

use crate::verify::{Purpose, verify_chain_for};
use crate::{Identity, Refusal, SpiffeId, TrustRoots};

/// Whether a client may connect without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// A certificate that is shown must be good, but none need be shown: for joining.
    Optional,
    /// Nobody connects without a good certificate.
    Required,
}

/// Which server a client is willing to talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Any workload of the client's own trust domain.
    AnyInDomain,
    /// This workload only.
    Id(SpiffeId),
}

/// The one set of cryptographic algorithms that this project uses.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// The name to give a client handshake. Servers are known by their SPIFFE id, so that the name is
/// neither sent nor compared.
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([127, 0, 0, 1])))
}

/// What a server of `identity` accepts: TLS 1.3 only, clients of its own trust domain only, no
/// tickets and no resumption, so that every connection shows its certificate.
#[expect(
    clippy::expect_used,
    reason = "the provider is a constant that supports TLS 1.3"
)]
pub fn server_config(
    identity: &Identity,
    client_auth: ClientAuth,
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    let verifier = PeerVerifier {
        roots: identity.roots().clone(),
        rule: Rule::of(identity),
        mandatory: client_auth == ClientAuth::Required,
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is supported")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Resolver(identity.clone())));
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// How a client of `identity` connects: TLS 1.3 only, with its own SVID, to the server that it
/// expects, without resumption.
pub fn client_config(identity: &Identity, expect: Expect, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let rule = match expect {
        Expect::AnyInDomain => Rule::of(identity),
        Expect::Id(id) => Rule::Id(id),
    };
    build_client(
        identity.roots(),
        rule,
        Arc::new(Resolver(identity.clone())),
        alpn,
    )
}

/// How a workload connects that has no SVID yet: as [`client_config`], but showing no certificate.
pub fn client_config_without_svid(
    roots: &TrustRoots,
    expect: SpiffeId,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    build_client(roots, Rule::Id(expect), Arc::new(NoCertificate), alpn)
}

#[expect(
    clippy::expect_used,
    reason = "the provider is a constant that supports TLS 1.3"
)]
fn build_client(
    roots: &TrustRoots,
    rule: Rule,
    resolver: Arc<dyn ResolvesClientCert>,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    let verifier = PeerVerifier {
        roots: roots.clone(),
        rule,
        mandatory: true,
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is supported")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(resolver);
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// Which peers are the right ones once their chain is trusted.
#[derive(Debug)]
enum Rule {
    Domain(String),
    Id(SpiffeId),
}

impl Rule {
    fn of(identity: &Identity) -> Self {
        Self::Domain(identity.current().spiffe_id().trust_domain().to_owned())
    }

    fn allows(&self, peer: &SpiffeId) -> bool {
        match self {
            Self::Domain(domain) => peer.trust_domain() == domain,
            Self::Id(id) => peer == id,
        }
    }
}

/// The check of the other side's chain, for both sides.
#[derive(Debug)]
struct PeerVerifier {
    roots: TrustRoots,
    rule: Rule,
    mandatory: bool,
}

impl PeerVerifier {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        purpose: Purpose,
    ) -> Result<(), Error> {
        let mut chain = Vec::with_capacity(1 + intermediates.len());
        chain.push(leaf.clone());
        chain.extend_from_slice(intermediates);
        let at = i64::try_from(now.as_secs())
            .ok()
            .and_then(|seconds| seconds.checked_mul(1_000_000_000))
            .map(Time::from_ns)
            .ok_or(Refusal::Expired)?;
        let peer = verify_chain_for(&self.roots, &chain, at, purpose)?;
        if self.rule.allows(&peer.spiffe_id) {
            Ok(())
        } else {
            Err(Refusal::WrongPeer.into())
        }
    }

    fn check_signature(
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signed, algorithms)
    }
}

/// SVIDs hold P-256 keys, so that no other handshake signature is offered or taken.
fn schemes() -> Vec<SignatureScheme> {
    vec![SignatureScheme::ECDSA_NISTP256_SHA256]
}

fn no_tls12() -> Error {
    Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered)
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(leaf, intermediates, now, Purpose::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::check_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(leaf, intermediates, now, Purpose::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::check_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

/// Gives each handshake the SVID of its moment.
struct Resolver(Identity);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current().certified())
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current().certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resolver({})", self.0.current().spiffe_id())
    }
}

/// Shows no certificate.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;

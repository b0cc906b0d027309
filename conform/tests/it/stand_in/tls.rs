//! Who is let in by the stand-in.

use std::sync::Arc;

use counterfoil_entry::Time;
use counterfoil_trust::{ClientAuth, Identity, Refusal, provider, server_config, verify_chain};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache};
use rustls::version::{TLS12, TLS13};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::Flaws;

/// The TLS of the inbound listener.
pub(crate) fn server(identity: &Identity, flaws: &Flaws) -> Arc<ServerConfig> {
    let versions: &[&rustls::SupportedProtocolVersion] = if flaws.has("tls12") {
        &[&TLS13, &TLS12]
    } else {
        &[&TLS13]
    };
    let verifier = Verifier {
        identity: identity.clone(),
        flaws: flaws.clone(),
    };
    let sound = server_config(identity, ClientAuth::Required, &[]);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::clone(&sound.cert_resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if flaws.has("resumption") {
        config.send_tls13_tickets = 2;
        config.session_storage = ServerSessionMemoryCache::new(32);
    }
    if flaws.has("early_data") {
        config.max_early_data_size = 4_096;
    }
    Arc::new(config)
}

#[derive(Debug)]
struct Verifier {
    identity: Identity,
    flaws: Flaws,
}

impl Verifier {
    fn check(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Refusal> {
        let at = Time::from_ns(i64::try_from(now.as_secs()).unwrap() * 1_000_000_000);
        let peer = verify_chain(self.identity.roots(), chain, at)?;
        let own = self.identity.current();
        if peer.spiffe_id.trust_domain() == own.spiffe_id().trust_domain() {
            Ok(())
        } else {
            Err(Refusal::WrongPeer)
        }
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.flaws.has("tls_no_client_cert")
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
        let chain: Vec<_> = std::iter::once(leaf)
            .chain(intermediates)
            .cloned()
            .collect();
        if let Err(refusal) = self.check(&chain, now) {
            self.flaws
                .refuse(refusal.reason())
                .map_err(|_| Error::from(refusal))?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, leaf, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

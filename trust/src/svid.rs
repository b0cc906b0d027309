//! SVIDs: the certificates and keys by which this process is known, swapped while it runs.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use counterfoil_entry::{Hash, Time, announcement};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::verify::{Peer, peer_of, spiffe_names};
use crate::{SpiffeId, tls};

/// Why certificates or keys could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// The PEM text could not be read.
    #[error("cannot read {what} as PEM")]
    Pem {
        /// What was read, as in "the private key".
        what: &'static str,
        /// The cause.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The PEM text holds no certificate.
    #[error("{0} holds no certificate")]
    Empty(&'static str),
    /// A certificate of the trust roots cannot be one.
    #[error("a certificate of the trust roots is not usable as a root")]
    Root(#[source] rustls::Error),
    /// The leaf is not an SVID with an ECDSA P-256 key and exactly one SPIFFE id.
    #[error("the certificate is not an SVID: {0}")]
    Leaf(crate::Refusal),
    /// The private key is not an ECDSA P-256 key or not the leaf's.
    #[error("the private key is not the certificate's")]
    Key(#[source] rustls::Error),
    /// Something could not be signed.
    #[error("cannot sign with the SVID's key")]
    Sign(#[source] rustls::Error),
}

/// The SPIFFE roots of a trust domain.
#[derive(Clone)]
pub struct TrustRoots {
    der: Arc<[CertificateDer<'static>]>,
    pub(crate) store: Arc<RootCertStore>,
    pub(crate) client_path: Arc<dyn ClientCertVerifier>,
}

impl TrustRoots {
    /// Reads one or more PEM certificates.
    ///
    /// # Errors
    /// [`SvidError`] when the text is not PEM, holds no certificate or one that cannot be a root.
    pub fn from_pem(pem: &str) -> Result<Self, SvidError> {
        Self::from_der(certificates(pem, "the trust roots")?)
    }

    /// Takes one or more DER certificates.
    ///
    /// # Errors
    /// [`SvidError`] when there is none or one that cannot be a root.
    pub fn from_der(der: Vec<CertificateDer<'static>>) -> Result<Self, SvidError> {
        if der.is_empty() {
            return Err(SvidError::Empty("the trust roots"));
        }
        let mut store = RootCertStore::empty();
        for certificate in &der {
            store.add(certificate.clone()).map_err(SvidError::Root)?;
        }
        let store = Arc::new(store);
        let client_path =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), tls::provider())
                .build()
                .map_err(|e| SvidError::Root(rustls::Error::General(e.to_string())))?;
        Ok(Self {
            der: der.into(),
            store,
            client_path,
        })
    }

    /// Whether all of them name trust domains, as SPIFFE roots do, and none is `trust_domain`: then
    /// nobody of that domain is believed by them. A root that names none may be of any.
    pub fn are_foreign_to(&self, trust_domain: &str) -> bool {
        let own = format!("spiffe://{trust_domain}");
        self.der.iter().all(|der| {
            let names = spiffe_names(der);
            !names.is_empty() && !names.contains(&own)
        })
    }

    /// The roots in DER, in the order in which they were given.
    pub fn der(&self) -> &[CertificateDer<'static>] {
        &self.der
    }
}

impl fmt::Debug for TrustRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustRoots({})", self.der.len())
    }
}

/// A certificate chain of one SPIFFE id with its ECDSA P-256 private key.
pub struct Svid {
    certified: Arc<CertifiedKey>,
    peer: Peer,
}

impl Svid {
    /// Reads a chain, leaf first, and the leaf's private key.
    ///
    /// The chain is not checked against any root: the peer does that.
    ///
    /// # Errors
    /// [`SvidError`] when a text is not PEM, the leaf is no SVID or the key is not the leaf's.
    pub fn from_pem(chain_pem: &str, key_pem: &str) -> Result<Self, SvidError> {
        let chain = certificates(chain_pem, "the certificate chain")?;
        let peer = peer_of(&chain).map_err(SvidError::Leaf)?;
        let key =
            PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|source| SvidError::Pem {
                what: "the private key",
                source,
            })?;
        let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key).map_err(SvidError::Key)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(SvidError::Key)?;
        Ok(Self {
            certified: Arc::new(certified),
            peer,
        })
    }

    /// Whom this SVID names.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.peer.spiffe_id
    }

    /// When the leaf begins to be valid.
    pub fn not_before(&self) -> Time {
        self.peer.not_before
    }

    /// When the leaf expires.
    pub fn not_after(&self) -> Time {
        self.peer.not_after
    }

    /// The leaf's serial number in lower-case hex.
    pub fn serial(&self) -> &str {
        &self.peer.serial
    }

    /// SHA-256 of the leaf in DER.
    pub fn cert_sha256(&self) -> Hash {
        self.peer.cert_sha256
    }

    /// The chain in DER, leaf first.
    pub fn chain_der(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Signs an announcement's bytes: ECDSA P-256 with SHA-256, ASN.1 DER.
    ///
    /// # Errors
    /// [`SvidError::Sign`] when the key cannot sign.
    pub fn sign_announcement(&self, announcement: &[u8]) -> Result<Vec<u8>, SvidError> {
        let signer = self
            .certified
            .key
            .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
            .ok_or_else(|| SvidError::Sign(rustls::Error::General("no P-256 key".to_owned())))?;
        signer
            .sign(&announcement::signing_bytes(announcement))
            .map_err(SvidError::Sign)
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// A handle on this process's SVID and trust roots; clones see each replacement at once.
///
/// Open connections keep the SVID that they began with.
#[derive(Clone, Debug)]
pub struct Identity {
    svid: Arc<ArcSwap<Svid>>,
    roots: TrustRoots,
}

impl Identity {
    /// An identity that begins with `svid`.
    pub fn new(svid: Svid, roots: TrustRoots) -> Self {
        Self {
            svid: Arc::new(ArcSwap::from_pointee(svid)),
            roots,
        }
    }

    /// The SVID in use now.
    pub fn current(&self) -> Arc<Svid> {
        self.svid.load_full()
    }

    /// Uses `svid` for every handshake from now on.
    pub fn replace(&self, svid: impl Into<Arc<Svid>>) {
        self.svid.store(svid.into());
    }

    /// This identity with the SVID that is in use now, whatever replaces it: so that it is known by
    /// which certificate a connection was made.
    #[must_use]
    pub fn pinned(&self) -> Self {
        Self {
            svid: Arc::new(ArcSwap::new(self.current())),
            roots: self.roots.clone(),
        }
    }

    /// The roots against which peers are checked.
    pub fn roots(&self) -> &TrustRoots {
        &self.roots
    }
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, SvidError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| SvidError::Pem { what, source })?;
    if certificates.is_empty() {
        return Err(SvidError::Empty(what));
    }
    Ok(certificates)
}

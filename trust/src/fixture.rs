//! A throw-away certificate authority for tests.

use counterfoil_entry::{Time, clock};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose as Eku, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;

use crate::{Identity, Svid, TrustRoots};

pub(crate) const DAY_S: i64 = 86_400;

/// A root of one trust domain.
pub(crate) struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What to issue; [`Leaf::of`] gives a good SVID and each field makes it bad in one way.
pub(crate) struct Leaf {
    pub(crate) names: Vec<SanType>,
    pub(crate) usage: Vec<Eku>,
    pub(crate) key_usage: Vec<KeyUsagePurpose>,
    pub(crate) is_ca: IsCa,
    pub(crate) from_s: i64,
    pub(crate) until_s: i64,
    pub(crate) key: KeyPair,
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

impl Leaf {
    pub(crate) fn of(spiffe_id: &str) -> Self {
        Self {
            names: vec![uri(spiffe_id)],
            usage: vec![Eku::ClientAuth, Eku::ServerAuth],
            key_usage: vec![KeyUsagePurpose::DigitalSignature],
            is_ca: IsCa::NoCa,
            from_s: -DAY_S,
            until_s: DAY_S,
            key: KeyPair::generate().unwrap(),
        }
    }
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    pub(crate) fn roots(&self) -> TrustRoots {
        TrustRoots::from_pem(&self.pem).unwrap()
    }

    /// PEM of the certificate and of its key.
    pub(crate) fn issue_pem(&self, leaf: Leaf) -> (String, String) {
        let now = clock::wall().as_ns() / 1_000_000_000;
        let point = |s: i64| {
            std::time::SystemTime::UNIX_EPOCH
                + std::time::Duration::from_secs(u64::try_from(now + s).unwrap())
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = leaf.names;
        params.extended_key_usages = leaf.usage;
        params.key_usages = leaf.key_usage;
        params.is_ca = leaf.is_ca;
        params.not_before = point(leaf.from_s).into();
        params.not_after = point(leaf.until_s).into();
        let certificate = params.signed_by(&leaf.key, &self.issuer).unwrap();
        (certificate.pem(), leaf.key.serialize_pem())
    }

    pub(crate) fn chain(&self, leaf: Leaf) -> Vec<CertificateDer<'static>> {
        use rustls_pki_types::pem::PemObject;
        let (pem, _) = self.issue_pem(leaf);
        vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()]
    }

    pub(crate) fn svid(&self, spiffe_id: &str) -> Svid {
        let (chain, key) = self.issue_pem(Leaf::of(spiffe_id));
        Svid::from_pem(&chain, &key).unwrap()
    }

    pub(crate) fn identity(&self, spiffe_id: &str) -> Identity {
        Identity::new(self.svid(spiffe_id), self.roots())
    }
}

pub(crate) fn now() -> Time {
    clock::wall()
}

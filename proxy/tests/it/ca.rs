//! A throw-away certificate authority.

use counterfoil_trust::{Identity, Svid, TrustRoots};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

pub(crate) struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// How a leaf differs from a good one.
#[derive(Clone)]
pub(crate) struct Leaf<'a> {
    pub(crate) uris: Vec<&'a str>,
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

impl<'a> Leaf<'a> {
    pub(crate) fn good(id: &'a str) -> Self {
        Self {
            uris: vec![id],
            from: Duration::hours(-1),
            until: Duration::hours(1),
        }
    }
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn roots(&self) -> TrustRoots {
        TrustRoots::from_pem(&self.pem).unwrap()
    }

    fn params(leaf: &Leaf<'_>) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = leaf
            .uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.not_before = OffsetDateTime::now_utc() + leaf.from;
        params.not_after = OffsetDateTime::now_utc() + leaf.until;
        params
    }

    /// Chain and key in PEM.
    pub(crate) fn leaf(&self, leaf: &Leaf<'_>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = Self::params(leaf);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    pub(crate) fn roots_pem(&self) -> &str {
        &self.pem
    }

    /// Certifies the key of a certificate request for `id`, for `life` from now on.
    pub(crate) fn certify(&self, csr: &str, id: &str, life: std::time::Duration) -> String {
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params = Self::params(&Leaf {
            until: life.try_into().unwrap(),
            ..Leaf::good(id)
        });
        request.signed_by(&self.issuer).unwrap().pem()
    }

    pub(crate) fn identity(&self, id: &str) -> Identity {
        Identity::new(self.svid(&Leaf::good(id)), self.roots())
    }

    pub(crate) fn svid(&self, leaf: &Leaf<'_>) -> Svid {
        let (chain, key) = self.leaf(leaf);
        Svid::from_pem(&chain, &key).unwrap()
    }
}

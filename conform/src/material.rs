//! Certificates, good and bad, that the tool shows: minted with the trust domain's CA, or ready ones.

use std::collections::BTreeMap;

use counterfoil_entry::clock;
use counterfoil_trust::{Identity, SpiffeId, Svid, TrustRoots};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Eku, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

use crate::check::{Stop, Trouble};

/// A certificate that a good target refuses, by its name in profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bad {
    Foreign,
    SelfSigned,
    Expired,
    NotYetValid,
    WrongDomain,
    NoIdentity,
    TwoIdentities,
    ServerOnly,
    IsCa,
}

impl Bad {
    pub(crate) const ALL: &[Self] = &[
        Self::Foreign,
        Self::SelfSigned,
        Self::Expired,
        Self::NotYetValid,
        Self::WrongDomain,
        Self::NoIdentity,
        Self::TwoIdentities,
        Self::ServerOnly,
        Self::IsCa,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::SelfSigned => "self_signed",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongDomain => "wrong_domain",
            Self::NoIdentity => "no_identity",
            Self::TwoIdentities => "two_identities",
            Self::ServerOnly => "server_only",
            Self::IsCa => "is_ca",
        }
    }
}

/// A chain, leaf first, and the leaf's key.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// Chain and key in PEM.
#[derive(Clone)]
pub(crate) struct Pem {
    pub(crate) chain: String,
    pub(crate) key: String,
}

/// A certificate authority that can mint.
pub(crate) struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// A throw-away one.
    pub(crate) fn new() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "conform");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            pem,
            issuer: Issuer::new(params, key),
        })
    }

    /// The one of these PEM texts.
    pub(crate) fn read(certificate: &str, key: &str) -> Result<Self, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
        Ok(Self {
            pem: certificate.to_owned(),
            issuer,
        })
    }

    /// Its key in PKCS#8 PEM. It is a secret.
    pub(crate) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Certifies the key of a certificate request for `id`.
    pub(crate) fn certify(&self, csr: &str, id: &str) -> Result<String, rcgen::Error> {
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(csr)?;
        request.params = params(&Leaf::good(id)?)?;
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    fn mint(&self, leaf: &Leaf) -> Result<Pem, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = params(leaf)?.signed_by(&key, &self.issuer)?;
        Ok(Pem {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ca")
    }
}

/// How a leaf is made.
struct Leaf {
    names: Vec<SanType>,
    usage: Vec<Eku>,
    is_ca: bool,
    from: Duration,
    until: Duration,
}

impl Leaf {
    fn good(id: &str) -> Result<Self, rcgen::Error> {
        Ok(Self {
            names: vec![SanType::URI(id.try_into()?)],
            usage: vec![Eku::ClientAuth, Eku::ServerAuth],
            is_ca: false,
            from: Duration::minutes(-5),
            until: Duration::hours(1),
        })
    }
}

fn params(leaf: &Leaf) -> Result<CertificateParams, rcgen::Error> {
    let now = now();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names.clone_from(&leaf.names);
    params.extended_key_usages.clone_from(&leaf.usage);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::ExplicitNoCa;
    if leaf.is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    }
    params.serial_number = Some(SerialNumber::from(rand::random::<u64>() >> 1));
    params.not_before = now + leaf.from;
    params.not_after = now + leaf.until;
    Ok(params)
}

fn now() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::nanoseconds(clock::wall().as_ns())
}

/// What the tool can show as the caller that holds the grant.
pub(crate) struct Material {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) roots: TrustRoots,
    pub(crate) source: Source,
}

/// Where certificates come from.
pub(crate) enum Source {
    /// The tool mints them.
    Ca(Box<Ca>),
    /// They lie ready: the good one, and bad ones by name.
    Ready {
        good: Pem,
        bad: BTreeMap<String, Pem>,
    },
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material")
            .field("spiffe_id", &self.spiffe_id)
            .finish_non_exhaustive()
    }
}

impl Material {
    /// The good caller.
    pub(crate) fn identity(&self) -> Result<Identity, Stop> {
        let pem = match &self.source {
            Source::Ca(ca) => ca.mint(&Leaf::good(self.spiffe_id.as_str())?)?,
            Source::Ready { good, .. } => good.clone(),
        };
        let svid = Svid::from_pem(&pem.chain, &pem.key)?;
        Ok(Identity::new(svid, self.roots.clone()))
    }

    /// The good caller, as bytes.
    pub(crate) fn good(&self) -> Result<Shown, Stop> {
        match &self.source {
            Source::Ca(ca) => shown(&ca.mint(&Leaf::good(self.spiffe_id.as_str())?)?),
            Source::Ready { good, .. } => shown(good),
        }
    }

    /// The good caller, with a certificate that expires after `life`.
    pub(crate) fn short_lived(&self, life: Duration) -> Result<Shown, Stop> {
        let leaf = Leaf {
            until: life,
            ..Leaf::good(self.spiffe_id.as_str())?
        };
        shown(&self.ca("a certificate that soon expires")?.mint(&leaf)?)
    }

    /// Another workload of the same trust domain, trusted as a server.
    pub(crate) fn other(&self, name: &str) -> Result<Identity, Stop> {
        let id = format!("spiffe://{}/workload/{name}", self.spiffe_id.trust_domain());
        let pem = self
            .ca("a certificate of another workload")?
            .mint(&Leaf::good(&id)?)?;
        let svid = Svid::from_pem(&pem.chain, &pem.key)?;
        Ok(Identity::new(svid, self.roots.clone()))
    }

    /// A certificate that must be refused.
    pub(crate) fn bad(&self, bad: Bad) -> Result<Shown, Stop> {
        if let Source::Ready { bad: ready, .. } = &self.source
            && let Some(pem) = ready.get(bad.name())
        {
            return shown(pem);
        }
        let good = Leaf::good(self.spiffe_id.as_str())?;
        let what = format!("a certificate {:?}", bad.name());
        let pem = match bad {
            Bad::Foreign => Ca::new()?.mint(&good)?,
            Bad::SelfSigned => {
                let key = KeyPair::generate()?;
                Pem {
                    chain: params(&good)?.self_signed(&key)?.pem(),
                    key: key.serialize_pem(),
                }
            }
            _ => self.ca(&what)?.mint(&self.leaf(bad, good)?)?,
        };
        shown(&pem)
    }

    fn leaf(&self, bad: Bad, good: Leaf) -> Result<Leaf, rcgen::Error> {
        let uri = |text: &str| Ok::<_, rcgen::Error>(SanType::URI(text.try_into()?));
        let id = self.spiffe_id.as_str();
        Ok(match bad {
            Bad::Foreign | Bad::SelfSigned => good,
            Bad::Expired => Leaf {
                from: Duration::hours(-2),
                until: Duration::hours(-1),
                ..good
            },
            Bad::NotYetValid => Leaf {
                from: Duration::hours(1),
                until: Duration::hours(2),
                ..good
            },
            Bad::WrongDomain => {
                let domain = self.spiffe_id.trust_domain();
                let other = id.replacen(domain, &format!("not-{domain}"), 1);
                Leaf {
                    names: vec![uri(&other)?],
                    ..good
                }
            }
            Bad::NoIdentity => Leaf {
                names: vec![SanType::DnsName("localhost".try_into()?)],
                ..good
            },
            Bad::TwoIdentities => Leaf {
                names: vec![uri(id)?, uri(&format!("{id}/other"))?],
                ..good
            },
            Bad::ServerOnly => Leaf {
                usage: vec![Eku::ServerAuth],
                ..good
            },
            Bad::IsCa => Leaf {
                is_ca: true,
                ..good
            },
        })
    }

    fn ca(&self, what: &str) -> Result<&Ca, Stop> {
        match &self.source {
            Source::Ca(ca) => Ok(ca),
            Source::Ready { .. } => Err(Stop::skip(format!(
                "the profile has no CA to make {what} with"
            ))),
        }
    }
}

fn shown(pem: &Pem) -> Result<Shown, Stop> {
    let unusable = |source| {
        Trouble::Svid(counterfoil_trust::SvidError::Pem {
            what: "a certificate of the profile",
            source,
        })
    };
    let chain = CertificateDer::pem_slice_iter(pem.chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(unusable)?;
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).map_err(unusable)?;
    Ok(Shown { chain, key })
}

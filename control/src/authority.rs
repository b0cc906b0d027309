//! The embedded certificate authority, and the keys that sign bundles and access tokens.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use counterfoil_entry::{Time, clock};
use counterfoil_trust::keys::SealKey;
use counterfoil_trust::token::TokenSigner;
use counterfoil_trust::{SpiffeId, SvidError, TrustRoots};
use rand::Rng as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use serde_json::json;
use time::OffsetDateTime;

const ROOT_LIFE: Duration = Duration::from_hours(24 * 3650);
/// Clocks of one estate differ: a new SVID is valid from a minute ago, or from a tenth of its life
/// when that is less, so that the middle of its validity is yet to come.
const SKEW_MAX: Duration = Duration::from_secs(60);
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// What the rest of the estate is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Init {
    /// SPIFFE roots, PEM.
    pub roots_pem: String,
    /// Public governance key.
    pub governance_public: [u8; 32],
    /// Public control key.
    pub control_public: [u8; 32],
}

/// Why keys or certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("cannot use {file}")]
    File {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what its name says.
    #[error("{file} is not usable: {reason}")]
    Content {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The root certificate is of another trust domain.
    #[error("{file} is the root of another trust domain than {trust_domain}")]
    TrustDomain {
        /// The certificate.
        file: PathBuf,
        /// The one configured.
        trust_domain: String,
    },
    /// A certificate signing request is malformed, has a wrong signature or another kind of key.
    #[error("the certificate signing request is not usable: {0}")]
    Request(String),
    /// Something could not be generated or signed.
    #[error("cannot make a key or certificate")]
    Make(#[source] rcgen::Error),
    /// The certificate that was issued cannot be used.
    #[error("cannot use the new certificate")]
    Svid(#[from] SvidError),
}

/// A certificate as it was issued.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) pem: String,
    pub(crate) spki_der: Vec<u8>,
    pub(crate) peer: counterfoil_trust::Peer,
}

/// The certificate authority of one trust domain, with the keys that sign bundles and tokens.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) roots_pem: String,
    pub(crate) roots: TrustRoots,
    pub(crate) governance: SealKey,
    pub(crate) control: SealKey,
    pub(crate) token_signer: TokenSigner,
}

/// Makes what is missing of root certificate and keys under `<data_dir>/control/`, keeps what is
/// there, and returns what the rest of the estate must know.
///
/// # Errors
/// [`AuthorityError`] when a file cannot be read or written, or is of another trust domain.
pub fn init(data_dir: &Path, trust_domain: &str) -> Result<Init, AuthorityError> {
    let authority = Authority::open(&data_dir.join("control"), trust_domain)?;
    Ok(Init {
        roots_pem: authority.roots_pem,
        governance_public: authority.governance.public(),
        control_public: authority.control.public(),
    })
}

impl Authority {
    /// Opens the authority in `dir` and makes what is missing.
    pub(crate) fn open(dir: &Path, trust_domain: &str) -> Result<Self, AuthorityError> {
        fs::create_dir_all(dir).map_err(|source| file_error(dir, source))?;
        let key_file = dir.join("ca.key");
        let key_pem = read_or_make(&key_file, SECRET, || {
            Ok(KeyPair::generate()
                .map_err(AuthorityError::Make)?
                .serialize_pem())
        })?;
        let key = KeyPair::from_pem(&key_pem).map_err(|e| content_error(&key_file, e))?;
        let root_file = dir.join("ca.pem");
        let roots_pem = read_or_make(&root_file, PUBLIC, || {
            make_root(&key, trust_domain, clock::wall())
        })?;
        let roots = TrustRoots::from_pem(&roots_pem).map_err(|e| content_error(&root_file, e))?;
        check_root(&root_file, &roots, &key, trust_domain)?;
        let issuer =
            Issuer::from_ca_cert_pem(&roots_pem, key).map_err(|e| content_error(&root_file, e))?;
        let governance = seal_key(&dir.join("governance.key"))?;
        let control = seal_key(&dir.join("control.key"))?;
        Ok(Self {
            issuer,
            roots_pem,
            roots,
            governance,
            control,
            token_signer: token_signer(&dir.join("token.key"))?,
        })
    }

    /// The public keys of access tokens as a JWK set (RFC 7517).
    pub(crate) fn jwks(&self) -> serde_json::Value {
        let key = self.token_signer.public();
        json!({ "keys": [{
            "kty": "EC",
            "crv": "P-256",
            "use": "sig",
            "alg": "ES256",
            "kid": key.kid,
            "x": key.x,
            "y": key.y,
        }] })
    }

    /// Issues an SVID for the key of `csr_pem`. Nothing else of the request is taken.
    pub(crate) fn issue(
        &self,
        csr_pem: &str,
        spiffe_id: &SpiffeId,
        life: Duration,
        now: Time,
    ) -> Result<Issued, AuthorityError> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|e| AuthorityError::Request(e.to_string()))?;
        if request.public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(AuthorityError::Request(
                "the key is not ECDSA P-256".to_owned(),
            ));
        }
        self.sign(&request.public_key, spiffe_id, life, now)
    }

    /// Issues an SVID for a key of this process.
    pub(crate) fn sign(
        &self,
        key: &impl PublicKeyData,
        spiffe_id: &SpiffeId,
        life: Duration,
        now: Time,
    ) -> Result<Issued, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, spiffe_id.short_name());
        let name = spiffe_id
            .as_str()
            .try_into()
            .map_err(AuthorityError::Make)?;
        params.subject_alt_names = vec![SanType::URI(name)];
        params.serial_number = Some(new_serial());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let at = point(now)?;
        params.not_before = at - SKEW_MAX.min(life / 10);
        params.not_after = at + life;
        let certificate = params
            .signed_by(key, &self.issuer)
            .map_err(AuthorityError::Make)?;
        let peer = counterfoil_trust::peer_of(std::slice::from_ref(certificate.der()))
            .map_err(SvidError::Leaf)?;
        Ok(Issued {
            pem: certificate.pem(),
            spki_der: key.subject_public_key_info(),
            peer,
        })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

/// Sixteen random bytes, positive and not zero, as RFC 5280 wants them.
fn new_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::rng().random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn make_root(key: &KeyPair, trust_domain: &str, now: Time) -> Result<String, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{trust_domain} root"));
    let name = format!("spiffe://{trust_domain}");
    let name = name.as_str().try_into().map_err(AuthorityError::Make)?;
    params.subject_alt_names = vec![SanType::URI(name)];
    params.serial_number = Some(new_serial());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let at = point(now)?;
    params.not_before = at - SKEW_MAX;
    params.not_after = at + ROOT_LIFE;
    Ok(params.self_signed(key).map_err(AuthorityError::Make)?.pem())
}

fn point(at: Time) -> Result<OffsetDateTime, AuthorityError> {
    OffsetDateTime::from_unix_timestamp(at.as_ns() / 1_000_000_000)
        .map_err(|_| AuthorityError::Make(rcgen::Error::Time))
}

/// A root of another trust domain, or one whose key is lost, would issue SVIDs that nobody trusts.
fn check_root(
    file: &Path,
    roots: &TrustRoots,
    key: &KeyPair,
    trust_domain: &str,
) -> Result<(), AuthorityError> {
    let der = roots
        .der()
        .first()
        .ok_or_else(|| content_error(file, "no certificate"))?;
    let (_, root) = x509_parser::parse_x509_certificate(der).map_err(|e| content_error(file, e))?;
    if root.public_key().raw != key.subject_public_key_info() {
        return Err(content_error(
            file,
            "it is not the certificate of the key in ca.key",
        ));
    }
    let wanted = format!("spiffe://{trust_domain}");
    let names = root.subject_alternative_name().ok().flatten();
    let is_ours = names.is_some_and(|names| {
        names.value.general_names.iter().any(
            |name| matches!(name, x509_parser::extensions::GeneralName::URI(uri) if *uri == wanted),
        )
    });
    if is_ours {
        Ok(())
    } else {
        let trust_domain = trust_domain.to_owned();
        Err(AuthorityError::TrustDomain {
            file: file.to_owned(),
            trust_domain,
        })
    }
}

fn seal_key(file: &Path) -> Result<SealKey, AuthorityError> {
    let pem = read_or_make(file, SECRET, || {
        SealKey::generate()
            .and_then(|key| key.to_pem())
            .map_err(|e| content_error(file, e))
    })?;
    SealKey::from_pem(&pem).map_err(|e| content_error(file, e))
}

fn token_signer(file: &Path) -> Result<TokenSigner, AuthorityError> {
    let pem = read_or_make(file, SECRET, || {
        TokenSigner::generate()
            .map(|signer| signer.to_pem())
            .map_err(|e| content_error(file, e))
    })?;
    TokenSigner::from_pem(&pem).map_err(|e| content_error(file, e))
}

/// The text of `file`; made, synced and put in place whole when it is not there.
fn read_or_make(
    file: &Path,
    mode: u32,
    make: impl FnOnce() -> Result<String, AuthorityError>,
) -> Result<String, AuthorityError> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        read => return read.map_err(|source| file_error(file, source)),
    }
    let text = make()?;
    replace(file, text.as_bytes(), mode).map_err(|source| file_error(file, source))?;
    Ok(text)
}

/// Writes `file` so that it holds either its old bytes or all of the new ones.
pub(crate) fn replace(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let staged = file.with_extension("new");
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&staged)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&staged, file)?;
    file.parent()
        .map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

fn file_error(file: &Path, source: io::Error) -> AuthorityError {
    AuthorityError::File {
        file: file.to_owned(),
        source,
    }
}

fn content_error(file: &Path, reason: impl std::fmt::Display) -> AuthorityError {
    AuthorityError::Content {
        file: file.to_owned(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests;

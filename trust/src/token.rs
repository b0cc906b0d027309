//! Access tokens (RFC 9068) bound to the caller's certificate (RFC 8705): what control signs and
//! proxies check.

mod cache;
mod check;
mod claims;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use counterfoil_entry::{Hash, Time, tree};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::SpiffeId;
use crate::bundle::TokenKey;
use crate::keys::pkcs8_pem;
pub use cache::TokenCache;
pub use check::Authorization;
pub(crate) use check::{Caller, Need, TokenCheck};
pub(crate) use claims::Checked;

/// The header `typ` of every token (RFC 9068 2.1).
pub const TYPE: &str = "at+jwt";
/// Longest life of a token, in seconds.
pub const LIFE_S_MAX: i64 = 3_600;

const NS_PER_S: i64 = 1_000_000_000;

/// What is wrong with a request's token. The words are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// `alg` is not ES256.
    Alg,
    /// `aud` is not the one API that is called.
    Aud,
    /// The signature is not of the named key.
    BadSig,
    /// `cnf` is not the caller's certificate: the token was stolen, or is older than the certificate.
    CnfMismatch,
    /// `exp` is missing, no whole number, or further from `iat` than tokens live.
    ExpInvalid,
    /// `exp` is over.
    Expired,
    /// `iss` is not the estate's control.
    Iss,
    /// `kid` names no key of the bundle.
    KeyUnknown,
    /// More than one token, or what is no token: `exp`, `nbf` and `iat` that are missing, no whole
    /// numbers or do not fit together are such, too.
    Malformed,
    /// None was shown.
    Missing,
    /// `nbf` is missing, no whole number, or not between the epoch and `exp`.
    NbfInvalid,
    /// `nbf` or `iat` is to come.
    NotYet,
    /// `jti` was taken back.
    Revoked,
    /// `scope` does not name the operation.
    Scope,
    /// `sub` or `client_id` is not the caller.
    SubMismatch,
    /// `typ` is not that of an access token.
    Type,
}

impl Fault {
    /// Every value.
    pub const ALL: &[Self] = &[
        Self::Alg,
        Self::Aud,
        Self::BadSig,
        Self::CnfMismatch,
        Self::ExpInvalid,
        Self::Expired,
        Self::Iss,
        Self::KeyUnknown,
        Self::Malformed,
        Self::Missing,
        Self::NbfInvalid,
        Self::NotYet,
        Self::Revoked,
        Self::Scope,
        Self::SubMismatch,
        Self::Type,
    ];

    /// The stable word, as entries hold it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alg => "token_alg",
            Self::Aud => "token_aud",
            Self::BadSig => "token_bad_sig",
            Self::CnfMismatch => "token_cnf_mismatch",
            Self::ExpInvalid => "token_exp_invalid",
            Self::Expired => "token_expired",
            Self::Iss => "token_iss",
            Self::KeyUnknown => "token_key_unknown",
            Self::Malformed => "token_malformed",
            Self::Missing => "token_missing",
            Self::NbfInvalid => "token_nbf_invalid",
            Self::NotYet => "token_not_yet",
            Self::Revoked => "token_revoked",
            Self::Scope => "token_scope",
            Self::SubMismatch => "token_sub_mismatch",
            Self::Type => "token_type",
        }
    }
}

/// What entries say of a token whose signature is good: never the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSeen {
    /// `iss`.
    pub issuer: Arc<str>,
    /// `jti`.
    pub jti: Arc<str>,
    /// `kid`, the key that signed it.
    pub kid: Arc<str>,
}

/// The claim `iss` of a trust domain's tokens.
#[must_use]
pub fn issuer(trust_domain: &str) -> String {
    format!("https://{trust_domain}/counterfoil/control")
}

/// `operations` as the claim `scope`: separated by one space, each byte outside the unreserved
/// characters of RFC 3986 percent-encoded, since a scope may hold neither space, quote nor
/// backslash (RFC 6749 3.3).
pub fn scope<'a>(operations: impl IntoIterator<Item = &'a str>) -> String {
    let mut scope = String::new();
    for operation in operations {
        if !scope.is_empty() {
            scope.push(' ');
        }
        push_encoded(&mut scope, operation);
    }
    scope
}

fn push_encoded(scope: &mut String, operation: &str) {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    for byte in operation.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            scope.push(char::from(byte));
        } else {
            scope.push('%');
            for digit in [byte >> 4, byte & 15] {
                scope.extend(HEX.get(usize::from(digit)));
            }
        }
    }
}

/// What a token says (RFC 9068 2.2, RFC 8705 3.1). Times are whole seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who signed it.
    pub iss: String,
    /// The caller's SPIFFE id.
    pub sub: String,
    /// The same: workloads call for themselves.
    pub client_id: String,
    /// The API.
    pub aud: String,
    /// Until when it is good, exclusive.
    pub exp: i64,
    /// When it was signed.
    pub iat: i64,
    /// From when on it is good.
    pub nbf: i64,
    /// Its own name.
    pub jti: String,
    /// The operations, as [`scope`] writes them.
    pub scope: String,
    /// The certificate with which it must be shown.
    pub cnf: Confirmation,
}

/// The certificate to which a token is bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// SHA-256 of its DER form, base64url without padding.
    #[serde(rename = "x5t#S256")]
    pub x5t_s256: String,
}

impl Confirmation {
    /// The confirmation of a certificate with this SHA-256.
    #[must_use]
    pub fn of(cert_sha256: Hash) -> Self {
        Self {
            x5t_s256: URL_SAFE_NO_PAD.encode(cert_sha256.as_bytes()),
        }
    }
}

/// For whom and for what a token is made.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The caller, as its certificate names it.
    pub caller: &'a SpiffeId,
    /// SHA-256 of that certificate.
    pub cert_sha256: Hash,
    /// When the certificate expires.
    pub cert_not_after: Time,
    /// The API to call.
    pub api: &'a str,
    /// The operations to call.
    pub operations: &'a [&'a str],
}

impl Claims {
    /// The claims for `subject`, good from `now` for an hour or until the certificate expires,
    /// whichever comes first.
    #[must_use]
    pub fn new(subject: &Subject<'_>, jti: String, now: Time) -> Self {
        let iat = now.as_ns().div_euclid(NS_PER_S);
        let not_after = subject.cert_not_after.as_ns().div_euclid(NS_PER_S);
        let caller = subject.caller.as_str();
        Self {
            iss: issuer(subject.caller.trust_domain()),
            sub: caller.to_owned(),
            client_id: caller.to_owned(),
            aud: subject.api.to_owned(),
            exp: iat.saturating_add(LIFE_S_MAX).min(not_after),
            iat,
            nbf: iat,
            jti,
            scope: scope(subject.operations.iter().copied()),
            cnf: Confirmation::of(subject.cert_sha256),
        }
    }
}

/// Why a token or its key cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The operating system gave no randomness.
    #[error("cannot make a P-256 key")]
    Generate,
    /// The text is not PKCS#8 PEM of a P-256 key.
    #[error("the text is not a P-256 private key in PKCS#8 PEM")]
    Private,
    /// The token could not be signed.
    #[error("cannot sign a token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// A key that signs tokens with ES256.
pub struct TokenSigner {
    pkcs8: Vec<u8>,
    key: EncodingKey,
    public: TokenKey,
}

impl TokenSigner {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`SignError::Generate`] without randomness.
    pub fn generate() -> Result<Self, SignError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| SignError::Generate)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| SignError::Generate)?;
        Self::of(&pair, pkcs8.as_ref())
    }

    /// Reads a PKCS#8 PEM text.
    ///
    /// # Errors
    /// [`SignError::Private`] when it is none, or of another kind of key.
    pub fn from_pem(pem: &str) -> Result<Self, SignError> {
        let der =
            PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| SignError::Private)?;
        let pkcs8 = der.secret_pkcs8_der();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .map_err(|_| SignError::Private)?;
        Self::of(&pair, pkcs8)
    }

    fn of(pair: &EcdsaKeyPair, pkcs8: &[u8]) -> Result<Self, SignError> {
        // an uncompressed point: 04, x, y
        let point = pair.public_key().as_ref();
        let (Some([4]), Some(x), Some(y), 65) = (
            point.get(..1),
            point.get(1..33),
            point.get(33..),
            point.len(),
        ) else {
            return Err(SignError::Private);
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        Ok(Self {
            pkcs8: pkcs8.to_vec(),
            key: EncodingKey::from_ec_der(pkcs8),
            public: TokenKey {
                kid: thumbprint(&x, &y),
                x,
                y,
            },
        })
    }

    /// The key as PKCS#8 PEM. It is a secret.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pkcs8_pem(&self.pkcs8)
    }

    /// The public key, as bundles and `/v1/jwks` name it.
    #[must_use]
    pub fn public(&self) -> &TokenKey {
        &self.public
    }

    /// The signed token. It is a secret of its subject.
    ///
    /// # Errors
    /// [`SignError::Sign`] without randomness.
    pub fn sign(&self, claims: &Claims) -> Result<String, SignError> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(self.public.kid.clone());
        encode(&header, claims, &self.key).map_err(SignError::Sign)
    }
}

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenSigner({})", self.public.kid)
    }
}

/// RFC 7638: SHA-256 over the required members in the order of their names.
fn thumbprint(x: &str, y: &str) -> String {
    let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    URL_SAFE_NO_PAD.encode(tree::sha256(jwk.as_bytes()).as_bytes())
}

#[cfg(test)]
mod tests;

//! Access tokens, good and bad, signed with the key that the target trusts.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use counterfoil_entry::{Hash, clock};
use counterfoil_trust::SpiffeId;
use counterfoil_trust::token::{Confirmation, SignError, TokenSigner};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value, json};

use crate::check::Trouble;
use crate::rig::Call;

/// Header and claims of a token, before it is signed.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) header: Map<String, Value>,
    pub(crate) claims: Map<String, Value>,
}

impl Draft {
    /// With another value of a claim; a null takes it away.
    pub(crate) fn claim(mut self, name: &str, value: Value) -> Self {
        set(&mut self.claims, name, value);
        self
    }

    /// With another value in the header; a null takes it away.
    pub(crate) fn header(mut self, name: &str, value: Value) -> Self {
        set(&mut self.header, name, value);
        self
    }

    fn message(&self) -> String {
        let part = |map: &Map<String, Value>| {
            URL_SAFE_NO_PAD.encode(Value::Object(map.clone()).to_string())
        };
        format!("{}.{}", part(&self.header), part(&self.claims))
    }
}

fn set(map: &mut Map<String, Value>, name: &str, value: Value) {
    if value.is_null() {
        map.remove(name);
    } else {
        map.insert(name.to_owned(), value);
    }
}

/// An API of the target that wants tokens, and the key that it trusts.
pub(crate) struct Tokens {
    key: EncodingKey,
    kid: String,
    /// The public key as a JWK's members `x` and `y`, and as PEM.
    public: (String, String),
    pub(crate) public_pem: String,
    pub(crate) issuer: String,
    /// The API, as `aud` names it.
    pub(crate) api: String,
    /// The operation, as a scope names it.
    pub(crate) scope: String,
    /// A call of that operation.
    pub(crate) call: Call,
    /// A token's name that the target was told to refuse.
    pub(crate) revoked: Option<String>,
    /// How far clocks may stand apart (s), where the target promises a figure.
    pub(crate) leeway_s: Option<i64>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("kid", &self.kid)
            .field("api", &self.api)
            .finish_non_exhaustive()
    }
}

/// What a [`Tokens`] is made from, besides the key.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) kid: Option<String>,
    pub(crate) issuer: String,
    pub(crate) api: String,
    pub(crate) scope: String,
    pub(crate) call: Call,
    pub(crate) revoked: Option<String>,
    pub(crate) leeway_s: Option<i64>,
}

impl Tokens {
    /// Reads the key, PKCS#8 PEM of a P-256 key.
    pub(crate) fn new(key_pem: &str, terms: Terms) -> Result<Self, SignError> {
        let signer = TokenSigner::from_pem(key_pem)?;
        let public = signer.public();
        let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| SignError::Private)?;
        Ok(Self {
            key: EncodingKey::from_ec_der(der.secret_pkcs8_der()),
            kid: terms.kid.unwrap_or_else(|| public.kid.clone()),
            public: (public.x.clone(), public.y.clone()),
            public_pem: public_pem(&public.x, &public.y).ok_or(SignError::Private)?,
            issuer: terms.issuer,
            api: terms.api,
            scope: terms.scope,
            call: terms.call,
            revoked: terms.revoked,
            leeway_s: terms.leeway_s,
        })
    }

    /// A good token for this caller and certificate, as RFC 9068 and RFC 8705 have it.
    pub(crate) fn good(&self, caller: &SpiffeId, certificate: Hash) -> Draft {
        let now = now_s();
        let jti: [u8; 12] = rand::random();
        let header = json!({ "typ": "at+jwt", "alg": "ES256", "kid": self.kid });
        let claims = json!({
            "iss": self.issuer,
            "sub": caller.as_str(),
            "client_id": caller.as_str(),
            "aud": self.api,
            "exp": now + 300,
            "iat": now,
            "nbf": now,
            "jti": hex::encode(jti),
            "scope": self.scope,
            "cnf": Confirmation::of(certificate),
        });
        Draft {
            header: header.as_object().cloned().unwrap_or_default(),
            claims: claims.as_object().cloned().unwrap_or_default(),
        }
    }

    /// Signed with the trusted key, whatever the header says.
    pub(crate) fn sign(&self, draft: &Draft) -> Result<String, Trouble> {
        sign(draft, &self.key, Algorithm::ES256)
    }

    /// The trusted public key as a JWK.
    pub(crate) fn jwk(&self) -> Value {
        let (x, y) = &self.public;
        json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": self.kid })
    }
}

/// A key of the tool's own, that nobody trusts, and its JWK.
pub(crate) fn strange_key() -> Result<(EncodingKey, Value), SignError> {
    let signer = TokenSigner::generate()?;
    let public = signer.public();
    let jwk = json!({
        "kty": "EC", "crv": "P-256", "x": public.x, "y": public.y, "kid": public.kid
    });
    let der = PrivatePkcs8KeyDer::from_pem_slice(signer.to_pem().as_bytes())
        .map_err(|_| SignError::Private)?;
    Ok((EncodingKey::from_ec_der(der.secret_pkcs8_der()), jwk))
}

/// Signs with any key and algorithm.
pub(crate) fn sign(draft: &Draft, key: &EncodingKey, by: Algorithm) -> Result<String, Trouble> {
    let message = draft.message();
    let signature = crypto::sign(message.as_bytes(), key, by)?;
    Ok(format!("{message}.{signature}"))
}

/// With no signature at all.
pub(crate) fn unsigned(draft: &Draft) -> String {
    format!("{}.", draft.message())
}

pub(crate) fn now_s() -> i64 {
    clock::wall().as_ns().div_euclid(1_000_000_000)
}

/// A P-256 public key as SubjectPublicKeyInfo in PEM (RFC 5480).
fn public_pem(x: &str, y: &str) -> Option<String> {
    const HEAD: [u8; 27] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
    ];
    let decode = |text| URL_SAFE_NO_PAD.decode(text).ok();
    let der = [&HEAD[..], &decode(x)?, &decode(y)?].concat();
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let (first, second) = body.split_at_checked(64)?;
    Some(format!(
        "-----BEGIN PUBLIC KEY-----\n{first}\n{second}\n-----END PUBLIC KEY-----\n"
    ))
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::SubjectPublicKeyInfoDer;
    use x509_parser::prelude::FromDer;
    use x509_parser::x509::SubjectPublicKeyInfo;

    use super::*;

    #[test]
    fn the_public_key_is_written_as_others_read_it() {
        let signer = TokenSigner::generate().unwrap();
        let pem = public_pem(&signer.public().x, &signer.public().y).unwrap();
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (rest, key) = SubjectPublicKeyInfo::from_der(&der).unwrap();
        assert!(rest.is_empty());
        assert_eq!(key.subject_public_key.data.len(), 65);
    }
}

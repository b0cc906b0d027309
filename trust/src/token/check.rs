//! The checks that an access token has to pass, each with a reason of its own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use counterfoil_entry::{Hash, Time, tree};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde_json::Value;

use super::cache::{Key, TokenCache};
use super::claims::{Checked, Held, Members, audience, confirmation, jti, text, times};
use super::{Fault, TYPE, TokenSeen};
use crate::bundle::{TokenKey, TokenRules};

/// Longest token that is looked at; ours take less than 1 KiB and a scope of some hundred names 8.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// `typ` as RFC 9068 2.1 allows it besides [`TYPE`].
const MEDIA_TYPE: &str = "application/at+jwt";

/// The `Authorization` headers of a request.
#[derive(Clone, Copy, Default)]
pub struct Authorization<'a> {
    value: Option<&'a [u8]>,
    is_repeated: bool,
}

impl std::fmt::Debug for Authorization<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // never the value
        let shown = if self.value.is_some() {
            "shown"
        } else {
            "absent"
        };
        write!(f, "Authorization({shown})")
    }
}

impl<'a> Authorization<'a> {
    /// From the header's values, one a line.
    pub fn of(mut values: impl Iterator<Item = &'a [u8]>) -> Self {
        Self {
            value: values.next(),
            is_repeated: values.next().is_some(),
        }
    }

    /// The one token (RFC 6750 2.1). Credentials of another scheme are none.
    fn bearer(self) -> Result<&'a str, Fault> {
        let value = self.value.ok_or(Fault::Missing)?;
        if self.is_repeated {
            return Err(Fault::Malformed);
        }
        let (scheme, rest) = match value.iter().position(|byte| *byte == b' ') {
            Some(at) => value.split_at(at),
            None => (value, &[][..]),
        };
        if !scheme.eq_ignore_ascii_case(b"Bearer") {
            return Err(Fault::Missing);
        }
        let token = rest.trim_ascii();
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !token.iter().all(is_plain) {
            return Err(Fault::Malformed);
        }
        std::str::from_utf8(token).map_err(|_not_ascii| Fault::Malformed)
    }
}

/// The caller, as its certificate names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) spiffe_id: &'a str,
    pub(crate) cert_sha256: Hash,
}

/// What a token has to be good for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need<'a> {
    pub(crate) api: &'a str,
    /// The operation, as a scope names it.
    pub(crate) scope: &'a str,
    pub(crate) now: Time,
}

/// [`TokenRules`], compiled.
#[derive(Debug)]
pub(crate) struct TokenCheck {
    issuer: Arc<str>,
    keys: HashMap<Arc<str>, DecodingKey>,
    revoked: HashSet<String>,
    /// Tells whether a verified token would be verified again: issuer and keys, not what is revoked.
    rules: Hash,
}

impl TokenCheck {
    /// Without rules no token is good. The error is the `kid` of the first key that is none.
    pub(crate) fn compile(rules: Option<&TokenRules>) -> Result<Self, String> {
        let mut keys = HashMap::new();
        let listed = rules.map(|rules| rules.keys.as_slice()).unwrap_or_default();
        for key in listed {
            let compiled = compile_key(key).ok_or_else(|| key.kid.clone())?;
            if keys.insert(Arc::from(key.kid.as_str()), compiled).is_some() {
                return Err(key.kid.clone());
            }
        }
        let issuer = rules.map(|rules| rules.issuer.as_str()).unwrap_or_default();
        Ok(Self {
            issuer: Arc::from(issuer),
            keys,
            revoked: rules
                .map(|rules| rules.revoked.iter().cloned().collect())
                .unwrap_or_default(),
            rules: fingerprint(issuer, listed),
        })
    }

    /// Checks the token of one request.
    pub(crate) fn check(
        &self,
        authorization: Authorization<'_>,
        caller: Caller<'_>,
        need: Need<'_>,
        cache: &mut TokenCache,
    ) -> Checked {
        let token = match authorization.bearer() {
            Ok(token) => token,
            Err(fault) => return Checked::bad(fault, None),
        };
        let key = Key {
            token: tree::sha256(token.as_bytes()),
            cert: caller.cert_sha256,
        };
        cache.follow(self.rules);
        if let Some(held) = cache.find(&key) {
            return self.judge(held, need);
        }
        match self.open(token, caller) {
            Ok(held) => {
                let held = Arc::new(held);
                let checked = self.judge(&held, need);
                cache.keep(key, held);
                checked
            }
            Err(bad) => bad,
        }
    }

    /// What can change between two requests that show the same token.
    fn judge(&self, held: &Held, need: Need<'_>) -> Checked {
        let fault = if !held.is_for(need.api) {
            Some(Fault::Aud)
        } else if self.revoked.contains(&*held.seen.jti) {
            Some(Fault::Revoked)
        } else if let Some(untimely) = held.times.fault_at(need.now) {
            Some(untimely)
        } else if !held.names(need.scope) {
            Some(Fault::Scope)
        } else {
            None
        };
        Checked {
            fault,
            seen: Some(held.seen.clone()),
        }
    }

    /// What does not change: signature, form, issuer, and whose token it is.
    fn open(&self, token: &str, caller: Caller<'_>) -> Result<Held, Checked> {
        let unread = |fault| Checked::bad(fault, None);
        let (kid, payload) = self.verified(token).map_err(unread)?;
        let claims = Members::parse(payload).ok_or_else(|| unread(Fault::Malformed))?;
        // from here on the signer's own words are known, and a refusal may quote them
        let jti = jti(&claims).ok_or_else(|| unread(Fault::Malformed))?;
        let seen = TokenSeen {
            issuer: Arc::clone(&self.issuer),
            jti: Arc::from(jti),
            kid: Arc::clone(kid),
        };
        match self.held(&claims, &seen, caller) {
            Ok(held) => Ok(held),
            // another issuer's name is not ours to write down as this one's
            Err(Fault::Iss) => Err(unread(Fault::Iss)),
            Err(fault) => Err(Checked::bad(fault, Some(seen))),
        }
    }

    fn held(&self, claims: &Members, seen: &TokenSeen, caller: Caller<'_>) -> Result<Held, Fault> {
        if text(claims, "iss") != Some(&self.issuer) {
            return Err(Fault::Iss);
        }
        let times = times(claims)?;
        let audience = audience(claims).ok_or(Fault::Aud)?;
        // before the subject: a stolen token fails both, and this is what gives the thief away
        if confirmation(claims) != Some(caller.cert_sha256) {
            return Err(Fault::CnfMismatch);
        }
        let is_caller = |name| text(claims, name) == Some(caller.spiffe_id);
        if !is_caller("sub") || !is_caller("client_id") {
            return Err(Fault::SubMismatch);
        }
        let scope = text(claims, "scope").ok_or(Fault::Scope)?;
        Ok(Held::new(seen.clone(), audience, times, scope))
    }

    /// The name of the key that signed `token`, and the payload, once header and signature are good.
    fn verified(&self, token: &str) -> Result<(&Arc<str>, Vec<u8>), Fault> {
        let (message, signature) = token.rsplit_once('.').ok_or(Fault::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(Fault::Malformed)?;
        if payload.contains('.') {
            return Err(Fault::Malformed);
        }
        let decode = |part| URL_SAFE_NO_PAD.decode(part).ok();
        let header = decode(header)
            .and_then(Members::parse)
            .ok_or(Fault::Malformed)?;
        // compared before a key is looked for: no header may choose how it is verified
        if header.get("alg").and_then(Value::as_str) != Some("ES256") {
            return Err(Fault::Alg);
        }
        // extensions that have to be understood (RFC 7515 4.1.11): none is
        if header.get("crit").is_some() {
            return Err(Fault::Malformed);
        }
        let is_type =
            |typ: &str| typ.eq_ignore_ascii_case(TYPE) || typ.eq_ignore_ascii_case(MEDIA_TYPE);
        if !header
            .get("typ")
            .and_then(Value::as_str)
            .is_some_and(is_type)
        {
            return Err(Fault::Type);
        }
        // keys come from the signed bundle alone: `jku`, `jwk`, `x5u` and `x5c` are not looked at
        let kid = header
            .get("kid")
            .and_then(Value::as_str)
            .ok_or(Fault::KeyUnknown)?;
        let (kid, key) = self.keys.get_key_value(kid).ok_or(Fault::KeyUnknown)?;
        match crypto::verify(signature, message.as_bytes(), key, Algorithm::ES256) {
            Ok(true) => Ok((kid, decode(payload).ok_or(Fault::Malformed)?)),
            Ok(false) | Err(_) => Err(Fault::BadSig),
        }
    }
}

/// `None` when the coordinates are no point of the curve.
fn compile_key(key: &TokenKey) -> Option<DecodingKey> {
    let coordinate = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        <[u8; 32]>::try_from(bytes).ok()
    };
    let point = [&[4], &coordinate(&key.x)?[..], &coordinate(&key.y)?[..]].concat();
    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()?;
    DecodingKey::from_ec_components(&key.x, &key.y).ok()
}

fn fingerprint(issuer: &str, keys: &[TokenKey]) -> Hash {
    let mut texts = vec![issuer];
    for key in keys {
        texts.extend([key.kid.as_str(), key.x.as_str(), key.y.as_str()]);
    }
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend(text.len().to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    tree::sha256(&bytes)
}

#[cfg(test)]
mod tests;

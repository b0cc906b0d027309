//! The claims of a token, read strictly: nothing has a default, and no type is guessed.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use counterfoil_entry::{Hash, Time};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

use super::{Fault, LIFE_S_MAX, NS_PER_S, TokenSeen};

/// How far the clocks of two machines may stand apart (RFC 7519 4.1.4).
const LEEWAY_NS: i64 = 5 * NS_PER_S;
/// Longest name of a token; entries hold it.
const JTI_BYTES_MAX: usize = 128;

/// The members of a JSON object, none of them twice: two readers could take different ones.
pub(super) struct Members(HashMap<String, Value>);

impl Members {
    /// `None` for anything but one JSON object with each name once.
    pub(super) fn parse(json: Vec<u8>) -> Option<Self> {
        serde_json::from_slice(&json).ok()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = HashMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name stands twice"));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A claim that is a text.
pub(super) fn text<'a>(claims: &'a Members, name: &str) -> Option<&'a str> {
    claims.get(name)?.as_str()
}

/// The name of the token.
pub(super) fn jti(claims: &Members) -> Option<&str> {
    text(claims, "jti").filter(|jti| !jti.is_empty() && jti.len() <= JTI_BYTES_MAX)
}

/// The one audience: a text, or a list that holds one (RFC 7519 4.1.3).
pub(super) fn audience(claims: &Members) -> Option<&str> {
    match claims.get("aud")? {
        Value::String(audience) => Some(audience),
        Value::Array(audiences) => match audiences.as_slice() {
            [Value::String(audience)] => Some(audience),
            _ => None,
        },
        _ => None,
    }
}

/// SHA-256 of the certificate to which the token is bound.
pub(super) fn confirmation(claims: &Members) -> Option<Hash> {
    let thumbprint = claims.get("cnf")?.as_object()?.get("x5t#S256")?.as_str()?;
    Hash::from_slice(&URL_SAFE_NO_PAD.decode(thumbprint).ok()?)
}

/// From when until when a token is good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    from: Time,
    until: Time,
}

/// The times, when `exp`, `nbf` and `iat` are whole numbers that fit together. A missing or ill-typed
/// one must not count as "always" (CVE-2026-25537).
pub(super) fn times(claims: &Members) -> Result<Times, Fault> {
    // a number with a fraction or an exponent is none of these
    let seconds = |name| claims.get(name).and_then(Value::as_i64);
    let exp = seconds("exp").ok_or(Fault::ExpInvalid)?;
    let nbf = seconds("nbf").ok_or(Fault::NbfInvalid)?;
    let iat = seconds("iat").filter(|iat| *iat >= 0);
    let iat = iat.ok_or(Fault::Malformed)?;
    if !(0..=LIFE_S_MAX).contains(&exp.saturating_sub(iat)) {
        return Err(Fault::ExpInvalid);
    }
    if !(0..=exp).contains(&nbf) {
        return Err(Fault::NbfInvalid);
    }
    Ok(Times {
        from: Time::from_ns(nbf.max(iat).saturating_mul(NS_PER_S)),
        until: Time::from_ns(exp.saturating_mul(NS_PER_S)),
    })
}

impl Times {
    pub(super) fn fault_at(self, now: Time) -> Option<Fault> {
        if now >= self.until.plus_ns(LEEWAY_NS) {
            Some(Fault::Expired)
        } else if now < self.from.plus_ns(-LEEWAY_NS) {
            Some(Fault::NotYet)
        } else {
            None
        }
    }
}

/// A token whose signature, issuer and holder have been verified; not the verdict of a moment or an
/// operation.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) seen: TokenSeen,
    pub(super) times: Times,
    audience: Box<str>,
    /// Sorted.
    scopes: Box<[Box<str>]>,
}

impl Held {
    pub(super) fn new(seen: TokenSeen, audience: &str, times: Times, scope: &str) -> Self {
        let mut scopes: Vec<Box<str>> = scope.split(' ').map(Box::from).collect();
        scopes.sort_unstable();
        Self {
            seen,
            times,
            audience: Box::from(audience),
            scopes: scopes.into(),
        }
    }

    pub(super) fn is_for(&self, api: &str) -> bool {
        *self.audience == *api
    }

    /// Whether the scope holds `operation`, written as a scope writes it.
    pub(super) fn names(&self, operation: &str) -> bool {
        let found = self.scopes.binary_search_by(|held| (**held).cmp(operation));
        !operation.is_empty() && found.is_ok()
    }
}

/// What was found out about a request's token.
#[derive(Debug)]
pub(crate) struct Checked {
    /// What is wrong with it; `None` for a good one.
    pub(crate) fault: Option<Fault>,
    /// Whose it is, once its signature has been verified.
    pub(crate) seen: Option<TokenSeen>,
}

impl Checked {
    pub(crate) const fn bad(fault: Fault, seen: Option<TokenSeen>) -> Self {
        Self {
            fault: Some(fault),
            seen,
        }
    }
}

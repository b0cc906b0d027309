//! SPIFFE ids: the names by which workloads know each other.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID specification, section 2.3: a whole id is at most 2048 bytes long.
const ID_BYTES_MAX: usize = 2048;
/// SPIFFE-ID specification, section 2.1: a trust domain name is at most 255 bytes long.
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// Name of one workload: `spiffe://<trust domain>/<path>`, checked as the SPIFFE-ID specification says.
///
/// The path has at least one segment: the id of a trust domain itself names no workload.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: String,
    path_at: usize,
}

/// Why a text is not a workload's SPIFFE id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// The text does not begin with `spiffe://`.
    #[error("a SPIFFE id begins with spiffe://")]
    Scheme,
    /// The whole id or its trust domain is too long.
    #[error("a SPIFFE id has at most 2048 bytes and its trust domain at most 255")]
    TooLong,
    /// The trust domain is empty or holds a byte outside `a-z0-9.-_`.
    #[error("the trust domain of a SPIFFE id is one or more of a-z 0-9 . - _")]
    TrustDomain,
    /// There is no path, or it has an empty segment, as a trailing slash makes one.
    #[error("the path of a SPIFFE id has at least one segment and no empty one")]
    EmptySegment,
    /// A path segment is `.` or `..`.
    #[error("no path segment of a SPIFFE id is . or ..")]
    DotSegment,
    /// A path segment holds a byte outside `a-zA-Z0-9.-_`.
    #[error("a path segment of a SPIFFE id is one or more of a-z A-Z 0-9 . - _")]
    Path,
}

impl SpiffeId {
    /// Reads an id, letter for letter: nothing is folded or decoded.
    ///
    /// # Errors
    /// [`SpiffeIdError`] names the rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > ID_BYTES_MAX {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        if domain.len() > TRUST_DOMAIN_BYTES_MAX {
            return Err(SpiffeIdError::TooLong);
        }
        if !is_trust_domain(domain) {
            return Err(SpiffeIdError::TrustDomain);
        }
        for segment in path.split('/') {
            check_segment(segment)?;
        }
        Ok(Self {
            text: text.to_owned(),
            path_at: SCHEME.len() + domain.len(),
        })
    }

    /// The trust domain, as in `demo.counterfoil.test`.
    pub fn trust_domain(&self) -> &str {
        self.text
            .get(SCHEME.len()..self.path_at)
            .unwrap_or_default()
    }

    /// The path with its leading slash, as in `/workload/cart`.
    pub fn path(&self) -> &str {
        self.text.get(self.path_at..).unwrap_or_default()
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The last path segment, as in `cart`.
    pub fn short_name(&self) -> &str {
        self.text.rsplit('/').next().unwrap_or_default()
    }
}

/// Whether `name` can be a trust domain's name, apart from its length.
fn is_trust_domain(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    match segment {
        "" => Err(SpiffeIdError::EmptySegment),
        "." | ".." => Err(SpiffeIdError::DotSegment),
        _ if segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) =>
        {
            Ok(())
        }
        _ => Err(SpiffeIdError::Path),
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_splits_into_trust_domain_path_and_short_name() {
        let id = SpiffeId::parse("spiffe://demo.counterfoil.test/workload/Cart_1.b-c").unwrap();
        assert_eq!(id.trust_domain(), "demo.counterfoil.test");
        assert_eq!(id.path(), "/workload/Cart_1.b-c");
        assert_eq!(id.short_name(), "Cart_1.b-c");
        assert_eq!(
            id.to_string(),
            "spiffe://demo.counterfoil.test/workload/Cart_1.b-c"
        );
    }

    #[test]
    fn each_broken_rule_is_named() {
        use SpiffeIdError as E;
        let long_domain = format!("spiffe://{}/a", "d".repeat(256));
        let long_id = format!("spiffe://d/{}", "a".repeat(2048));
        for (text, error) in [
            ("", E::Scheme),
            ("https://d/a", E::Scheme),
            ("SPIFFE://d/a", E::Scheme),
            ("spiffe:///a", E::TrustDomain),
            ("spiffe://D/a", E::TrustDomain),
            ("spiffe://d:443/a", E::TrustDomain),
            ("spiffe://user@d/a", E::TrustDomain),
            ("spiffe://d%61/a", E::TrustDomain),
            ("spiffe://d?x/a", E::TrustDomain),
            ("spiffe://d", E::EmptySegment),
            ("spiffe://d/", E::EmptySegment),
            ("spiffe://d/a/", E::EmptySegment),
            ("spiffe://d//a", E::EmptySegment),
            ("spiffe://d/./a", E::DotSegment),
            ("spiffe://d/a/..", E::DotSegment),
            ("spiffe://d/a%2fb", E::Path),
            ("spiffe://d/a?q", E::Path),
            ("spiffe://d/a#f", E::Path),
            ("spiffe://d/a b", E::Path),
            ("spiffe://d/ä", E::Path),
            ("spiffe://d/a\0", E::Path),
            (&long_domain, E::TooLong),
            (&long_id, E::TooLong),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_longest_allowed_id_is_taken() {
        let id = format!(
            "spiffe://{}/{}",
            "d".repeat(255),
            "a".repeat(2048 - 9 - 255 - 1)
        );
        assert_eq!(id.len(), 2048);
        assert!(SpiffeId::parse(&id).is_ok());
    }
}

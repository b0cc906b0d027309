//! What an auditor pins before verifying: origins, log keys, SPIFFE roots, freshness.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::note::{NoteError, VerifierKey};

const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const PEM_END: &str = "-----END CERTIFICATE-----";

/// A verification policy, `policy.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Keys of the logs that must be there, and no other; a key's name is its origin.
    pub log_keys: Vec<VerifierKey>,
    /// DER certificates of the SPIFFE roots.
    pub trust_roots: Vec<Vec<u8>>,
    /// The newest manifest may be no older than this, in seconds.
    pub freshness_s: Option<u64>,
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Not TOML, or a key is missing, unknown or ill-typed.
    #[error("reading the policy: {0}")]
    Toml(#[from] toml::de::Error),
    /// A log key is not a C2SP verifier key.
    #[error("reading log_keys of the policy, {text:?}: {source}")]
    LogKey {
        /// The text.
        text: String,
        /// The cause.
        source: NoteError,
    },
    /// `trust_roots` holds no certificate, or a damaged one.
    #[error("reading trust_roots of the policy: {0}")]
    Roots(&'static str),
    /// `origins` and `log_keys` do not fit each other.
    #[error("origin {0:?} of the policy needs exactly one log key of that name, and the reverse")]
    Origin(String),
    /// No origin is named.
    #[error("the policy names no origin")]
    Empty,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    origins: Vec<String>,
    log_keys: Vec<String>,
    trust_roots: String,
    freshness_s: Option<u64>,
}

impl Policy {
    /// Reads `policy.toml`. One bad element refuses it whole.
    ///
    /// # Errors
    /// Any [`PolicyError`].
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let file: File = toml::from_str(text)?;
        let log_keys = file
            .log_keys
            .into_iter()
            .map(|text| {
                VerifierKey::parse(&text).map_err(|source| PolicyError::LogKey { text, source })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let origins: BTreeSet<&str> = file.origins.iter().map(String::as_str).collect();
        let named: BTreeSet<&str> = log_keys.iter().map(VerifierKey::name).collect();
        if let Some(odd) = origins.symmetric_difference(&named).next() {
            return Err(PolicyError::Origin((*odd).to_owned()));
        }
        if let Some(origin) = file
            .origins
            .first()
            .filter(|_| origins.len() != file.origins.len() || named.len() != log_keys.len())
        {
            return Err(PolicyError::Origin(origin.clone()));
        }
        if log_keys.is_empty() {
            return Err(PolicyError::Empty);
        }
        let trust_roots = certificates(&file.trust_roots)?;
        Ok(Self {
            log_keys,
            trust_roots,
            freshness_s: file.freshness_s,
        })
    }

    /// The policy as `policy.toml`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let list = |items: Vec<String>| -> String {
            // Debug of a text is a TOML basic string for the characters that names and keys have.
            items
                .iter()
                .map(|item| format!("{item:?}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let origins = list(
            self.log_keys
                .iter()
                .map(|key| key.name().to_owned())
                .collect(),
        );
        let keys = list(self.log_keys.iter().map(ToString::to_string).collect());
        let mut text =
            format!("origins = [{origins}]\nlog_keys = [{keys}]\ntrust_roots = \"\"\"\n");
        for root in &self.trust_roots {
            text.push_str(&pem(root));
        }
        text.push_str("\"\"\"\n");
        if let Some(freshness_s) = self.freshness_s {
            // Writing into a String cannot fail.
            writeln!(text, "freshness_s = {freshness_s}").unwrap_or_default();
        }
        text
    }

    /// The key of the log `origin`.
    #[must_use]
    pub fn key(&self, origin: &str) -> Option<&VerifierKey> {
        self.log_keys.iter().find(|key| key.name() == origin)
    }
}

fn certificates(pem: &str) -> Result<Vec<Vec<u8>>, PolicyError> {
    let mut roots = Vec::new();
    let mut rest = pem;
    while let Some((before, tail)) = rest.split_once(PEM_BEGIN) {
        let (body, after) = tail
            .split_once(PEM_END)
            .ok_or(PolicyError::Roots("a PEM block does not end"))?;
        if !before.trim().is_empty() {
            return Err(PolicyError::Roots("text stands between the PEM blocks"));
        }
        let body: String = body.split_whitespace().collect();
        let der = STANDARD
            .decode(body)
            .map_err(|_| PolicyError::Roots("a PEM block is damaged"))?;
        roots.push(der);
        rest = after;
    }
    if roots.is_empty() {
        return Err(PolicyError::Roots("no PEM block CERTIFICATE"));
    }
    if rest.trim().is_empty() {
        Ok(roots)
    } else {
        Err(PolicyError::Roots("text stands after the PEM blocks"))
    }
}

fn pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("{PEM_BEGIN}\n");
    for (at, letter) in body.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    format!("{text}\n{PEM_END}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::LogKey;

    fn policy() -> Policy {
        let key = |origin| LogKey::generate(origin).unwrap().verifier().clone();
        Policy {
            log_keys: vec![key("bank.test/collector-1"), key("bank.test/collector-2")],
            trust_roots: vec![vec![7; 100], vec![8; 48]],
            freshness_s: Some(86_400),
        }
    }

    #[test]
    fn a_policy_comes_back_from_its_file() {
        for policy in [
            policy(),
            Policy {
                freshness_s: None,
                ..policy()
            },
        ] {
            assert_eq!(Policy::parse(&policy.to_toml()).unwrap(), policy);
        }
    }

    #[test]
    fn a_policy_with_one_bad_element_is_refused_whole() {
        let good = policy().to_toml();
        let bad = [
            good.replacen("collector-1", "collector-3", 1),
            good.replacen("\"bank.test/collector-1\", ", "", 1),
            good.replacen(
                "collector-2\"",
                "collector-2\", \"bank.test/collector-2\"",
                1,
            ),
            good.replacen("+", "+0", 1),
            good.replacen("origins", "origin", 1),
            good.replace("BEGIN CERT", "BEGIN PRIVATE"),
            good.replacen("BwcH", "Bw!H", 1),
            good.replacen("-----END", "-----ENT", 1),
            format!("{good}unknown = 1\n"),
            "origins = []\nlog_keys = []\ntrust_roots = \"\"\n".to_owned(),
        ];
        for (at, text) in bad.iter().enumerate() {
            assert_ne!(*text, good, "{at}");
            assert!(Policy::parse(text).is_err(), "{at}: {text}");
        }
    }
}

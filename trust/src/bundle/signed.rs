//! The body that control serves: two payloads, each with the signature of its own key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use counterfoil_entry::{clock, tree};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Bundle, Endpoints, Rights};
use crate::SpiffeId;
use crate::keys::{self, SealKey};

const RIGHTS_DOMAIN: &[u8] = b"counterfoil/rights/v1\0";
const ENDPOINTS_DOMAIN: &[u8] = b"counterfoil/endpoints/v1\0";
/// A slice of one workload takes tens of kilobytes; 16 MiB is a thousand times that.
const BODY_BYTES_MAX: usize = 16 << 20;

/// The public keys that a proxy is configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleKeys {
    /// Signs [`Rights`].
    pub governance: [u8; 32],
    /// Signs [`Endpoints`].
    pub control: [u8; 32],
}

/// Why a served body is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The body is larger than 16 MiB.
    #[error("the bundle is larger than {BODY_BYTES_MAX} bytes")]
    TooLarge,
    /// The body or one of its parts is not of the expected form.
    #[error("cannot read {part} of the bundle")]
    Malformed {
        /// Which part.
        part: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A signature is not of the configured key.
    #[error("the signature of the bundle's {0} is not of the configured key")]
    Signature(&'static str),
    /// The bundle was made for another workload.
    #[error("the bundle is for {found}, not for {expected}")]
    Audience {
        /// Who opens it.
        expected: SpiffeId,
        /// For whom it was made.
        found: SpiffeId,
    },
    /// The bundle is older than the one in use.
    #[error("the bundle's {part} are of version {found}, older than version {in_use} in use")]
    Older {
        /// Which part.
        part: &'static str,
        /// Version in use.
        in_use: u64,
        /// Version of the refused bundle.
        found: u64,
    },
}

/// The body that control serves: JSON with the two payloads and their signatures in base64.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBundle {
    rights: String,
    rights_signature: String,
    endpoints: String,
    endpoints_signature: String,
}

impl SignedBundle {
    /// The body for `rights` and `endpoints`. The same parts and keys give the same bytes.
    ///
    /// # Errors
    /// [`BundleError::Malformed`] when a part cannot be written as JSON.
    pub fn seal(
        rights: &Rights,
        endpoints: &Endpoints,
        governance: &SealKey,
        control: &SealKey,
    ) -> Result<Vec<u8>, BundleError> {
        let rights = to_json("rights", rights)?;
        let endpoints = to_json("endpoints", endpoints)?;
        let signed = Self {
            rights_signature: sign(governance, RIGHTS_DOMAIN, &rights),
            endpoints_signature: sign(control, ENDPOINTS_DOMAIN, &endpoints),
            rights: STANDARD.encode(rights),
            endpoints: STANDARD.encode(endpoints),
        };
        to_json("body", &signed)
    }

    /// Opens a served body for `audience`: size, signatures, form and audience are checked, and
    /// nothing of it is used when one of them is wrong.
    ///
    /// # Errors
    /// [`BundleError`] says what is wrong.
    pub fn open(
        body: &[u8],
        bundle_keys: &BundleKeys,
        audience: &SpiffeId,
    ) -> Result<Bundle, BundleError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(BundleError::TooLarge);
        }
        let signed: Self = from_json("body", body)?;
        let rights: Rights = open_part(
            "rights",
            (&signed.rights, &signed.rights_signature),
            RIGHTS_DOMAIN,
            &bundle_keys.governance,
        )?;
        let endpoints: Endpoints = open_part(
            "endpoints",
            (&signed.endpoints, &signed.endpoints_signature),
            ENDPOINTS_DOMAIN,
            &bundle_keys.control,
        )?;
        for found in [&rights.audience, &endpoints.audience] {
            if found != audience {
                return Err(BundleError::Audience {
                    expected: audience.clone(),
                    found: found.clone(),
                });
            }
        }
        Ok(Bundle {
            rights,
            endpoints,
            sha256: tree::sha256(body),
            fetched_at: clock::wall(),
        })
    }
}

impl Bundle {
    /// Whether this bundle may replace `in_use`: neither part may be of an older version, so that
    /// nobody can bring back a grant that was taken away.
    ///
    /// # Errors
    /// [`BundleError::Older`] names the part.
    pub fn check_follows(&self, in_use: &Self) -> Result<(), BundleError> {
        for (part, found, in_use) in [
            ("rights", self.rights.version, in_use.rights.version),
            (
                "endpoints",
                self.endpoints.version,
                in_use.endpoints.version,
            ),
        ] {
            if found < in_use {
                return Err(BundleError::Older {
                    part,
                    in_use,
                    found,
                });
            }
        }
        Ok(())
    }
}

fn to_json<T: Serialize>(part: &'static str, value: &T) -> Result<Vec<u8>, BundleError> {
    serde_json::to_vec(value).map_err(|source| malformed(part, source))
}

fn from_json<T: DeserializeOwned>(part: &'static str, bytes: &[u8]) -> Result<T, BundleError> {
    serde_json::from_slice(bytes).map_err(|source| malformed(part, source))
}

fn malformed(
    part: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> BundleError {
    BundleError::Malformed {
        part,
        source: Box::new(source),
    }
}

fn sign(key: &SealKey, domain: &[u8], payload: &[u8]) -> String {
    STANDARD.encode(key.sign(&[domain, payload].concat()))
}

/// The signature is checked before the payload is parsed.
fn open_part<T: DeserializeOwned>(
    part: &'static str,
    (payload, signature): (&str, &str),
    domain: &[u8],
    key: &[u8; 32],
) -> Result<T, BundleError> {
    let payload = STANDARD
        .decode(payload)
        .map_err(|source| malformed(part, source))?;
    let signature = STANDARD
        .decode(signature)
        .map_err(|source| malformed(part, source))?;
    if !keys::verify(key, &[domain, &payload].concat(), &signature) {
        return Err(BundleError::Signature(part));
    }
    from_json(part, &payload)
}

#[cfg(test)]
mod tests;

//! Bundles: what one workload may do and whom it may reach, signed by two keys and pulled by its proxy.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use counterfoil_entry::{Hash, Time, clock, tree};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::SpiffeId;
use crate::keys::{self, SealKey};

const RIGHTS_DOMAIN: &[u8] = b"counterfoil/rights/v1\0";
const ENDPOINTS_DOMAIN: &[u8] = b"counterfoil/endpoints/v1\0";
/// A slice of one workload takes tens of kilobytes; 16 MiB is a thousand times that.
const BODY_BYTES_MAX: usize = 16 << 20;

/// A bundle whose signatures, audience and form have been checked.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Who may call what, signed by the governance key.
    pub rights: Rights,
    /// Where instances are, signed by the control key.
    pub endpoints: Endpoints,
    /// SHA-256 of the whole body as it was served.
    pub sha256: Hash,
    /// When it was opened, by the wall clock.
    pub fetched_at: Time,
}

/// Who may call what: the part that only the governance key can sign.
///
/// A field that the reader does not know refuses the whole bundle: it could be a condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rights {
    /// Grows with every change.
    pub version: u64,
    /// The workload for which this slice was cut.
    pub audience: SpiffeId,
    /// When it was signed.
    #[serde(rename = "issued_at_ns", with = "time_ns")]
    pub issued_at: Time,
    /// What entries say of the workload itself.
    pub workload: Workload,
    /// The APIs that the workload serves.
    pub apis: Vec<ApiRights>,
    /// Who may call the workload's operations.
    pub grants: Vec<Grant>,
    /// What entries say of the workloads that hold grants.
    pub consumers: Vec<Consumer>,
    /// The declared dependencies: whom the workload may call.
    pub peers: Vec<PeerRights>,
    /// Retention class of entries that no operation classifies.
    pub default_class: String,
}

/// What entries say of a workload itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Name of the application.
    pub app: String,
    /// The team that answers for it.
    pub team: String,
    /// The site where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// The zone inside the site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// One API of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiRights {
    /// Name of the API.
    pub api: String,
    /// Its version.
    pub api_version: String,
    /// What the instances speak, as in `grpc`; absent for plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Everything that can be called.
    pub operations: Vec<OperationRights>,
}

/// One operation of an API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationRights {
    /// Its name, any text, unique in its API.
    pub operation: String,
    /// HTTP method in upper case.
    pub method: String,
    /// Path template, as in `/accounts/{id}`.
    pub route: String,
    /// Scopes of evidence, as in `sox`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Retention class of its entries.
    pub retention_class: String,
    /// Whether every workload of the trust domain may call it without a grant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
}

/// Leave for one consumer to call one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Name of the grant in the governance plane.
    pub grant_id: String,
    /// Who may call.
    pub consumer: SpiffeId,
    /// The API of the operation.
    pub api: String,
    /// The operation.
    pub operation: String,
    /// From when on; always when absent.
    #[serde(
        rename = "not_before_ns",
        default,
        skip_serializing_if = "Option::is_none",
        with = "time_ns_opt"
    )]
    pub not_before: Option<Time>,
    /// Until when, exclusive; for ever when absent.
    #[serde(
        rename = "expires_ns",
        default,
        skip_serializing_if = "Option::is_none",
        with = "time_ns_opt"
    )]
    pub expires: Option<Time>,
}

/// What entries say of a workload that holds grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consumer {
    /// The workload.
    pub spiffe_id: SpiffeId,
    /// Its application.
    pub app: String,
    /// Its team.
    pub team: String,
}

/// A declared dependency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerRights {
    /// The host name by which applications call it.
    pub name: String,
    /// Whom its instances must prove to be.
    pub spiffe_id: SpiffeId,
    /// Its application.
    pub app: String,
    /// Its team.
    pub team: String,
    /// The APIs that it serves.
    pub apis: Vec<ApiRights>,
}

/// Where instances are: the part that the control key signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// Grows with every change.
    pub version: u64,
    /// The workload for which this slice was cut.
    pub audience: SpiffeId,
    /// The inbound listeners of the declared dependencies.
    pub instances: Vec<Instances>,
}

/// The inbound listeners of one dependency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instances {
    /// Its name in [`PeerRights`].
    pub name: String,
    /// Whom each of them must prove to be.
    pub spiffe_id: SpiffeId,
    /// `host:port` of each.
    pub addresses: Vec<String>,
}

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

mod time_ns {
    use counterfoil_entry::Time;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Time, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_i64(time.as_ns())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Time, D::Error> {
        i64::deserialize(d).map(Time::from_ns)
    }
}

mod time_ns_opt {
    use counterfoil_entry::Time;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Option<Time>, s: S) -> Result<S::Ok, S::Error> {
        time.map(Time::as_ns).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Time>, D::Error> {
        Option::<i64>::deserialize(d).map(|ns| ns.map(Time::from_ns))
    }
}

#[cfg(test)]
mod tests;

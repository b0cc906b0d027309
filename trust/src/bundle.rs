//! Bundles: what one workload may do and whom it may reach, signed by two keys and pulled by its proxy.

mod signed;

use counterfoil_entry::{Hash, Time};
use serde::{Deserialize, Serialize};

use crate::SpiffeId;
pub use signed::{BundleError, BundleKeys, SignedBundle};

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
    /// The grants as they would be if every open proposal were decided: what is asked for is added,
    /// what is proposed for revocation is taken out. Only the shadow verdict looks at them. Absent
    /// when nothing is proposed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Vec<Grant>>,
    /// Whose access tokens the workload accepts; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenRules>,
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
    /// What a caller has to show.
    #[serde(default, skip_serializing_if = "Access::is_default")]
    pub access: Access,
    /// Everything that can be called.
    pub operations: Vec<OperationRights>,
}

/// What decides on the calls of an API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// The grants of the callee's bundle.
    #[default]
    Bundle,
    /// A token whose scope names the operation.
    Token,
    /// Grant and token: both must allow.
    Both,
}

impl Access {
    /// Every value.
    pub const ALL: &[Self] = &[Self::Bundle, Self::Token, Self::Both];

    /// The word in bundles and books.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Token => "token",
            Self::Both => "both",
        }
    }

    /// The value of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|value| value.as_str() == word)
    }

    /// Whether a caller has to show a token.
    #[must_use]
    pub const fn wants_token(self) -> bool {
        matches!(self, Self::Token | Self::Both)
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Whose access tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRules {
    /// The claim `iss` of every good token.
    pub issuer: String,
    /// The keys that sign tokens, one of them named by the header `kid`.
    pub keys: Vec<TokenKey>,
    /// The claim `jti` of each token that was taken back before it expired.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<String>,
}

/// A public key on P-256 that signs tokens: the changing members of its JWK (RFC 7517, 7518 6.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenKey {
    /// Its name: the JWK thumbprint of RFC 7638.
    pub kid: String,
    /// The x coordinate, base64url without padding.
    pub x: String,
    /// The y coordinate.
    pub y: String,
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

//! How a process comes by its SVID, keeps it fresh, and asks for its bundle: a light client of
//! control.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use counterfoil_trust::{Identity, SpiffeId, SpiffeIdError, SvidError};
use serde::Deserialize;
use tokio::time::sleep;

use crate::Lane;
use crate::backoff::Backoff;
use crate::client::{ClientError, Reply};

mod bundle;
mod check;
mod issue;
mod kept;
mod rotation;

pub use bundle::{BundleLink, BundleQuery, FetchedBundle};
pub use check::UnusableIdentity;
pub use kept::load as load_kept;
pub use rotation::renew_loop;

use rotation::Rotations;

const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Who this process is, and where it gets its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// Own SPIFFE id.
    pub spiffe_id: String,
    /// `host:port` of control.
    pub control: String,
    /// Control's SPIFFE id; by default `/counterfoil/control` of the own trust domain.
    #[serde(default)]
    pub control_spiffe_id: Option<String>,
    /// File with the trust domain's roots in PEM, by which control is believed.
    pub roots_pem_file: PathBuf,
    /// File with the join token; needed until the first SVID is there, and again when one expired.
    #[serde(default)]
    pub join_token_file: Option<PathBuf>,
    /// Folder in which key and certificates are kept, readable by the owner only.
    pub state_dir: PathBuf,
}

impl IdentityConfig {
    fn own_id(&self) -> Result<SpiffeId, SpiffeIdError> {
        SpiffeId::parse(&self.spiffe_id)
    }

    pub(crate) fn control_id(&self) -> Result<SpiffeId, SpiffeIdError> {
        match &self.control_spiffe_id {
            Some(id) => SpiffeId::parse(id),
            None => default_control_id(&self.own_id()?),
        }
    }
}

/// Why no SVID or bundle could be had.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// An id in the configuration is malformed.
    #[error("cannot use a SPIFFE id of the configuration")]
    Id(#[from] SpiffeIdError),
    /// A file could not be read or written.
    #[error("cannot read or write {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Roots, certificate or key cannot be used.
    #[error("cannot use the certificates in {place}")]
    Svid {
        /// Where they come from.
        place: String,
        /// The cause.
        #[source]
        source: SvidError,
    },
    /// No certificate request could be made.
    #[error("cannot make a certificate request")]
    Request(#[from] rcgen::Error),
    /// Control could not be reached or broke off.
    #[error("cannot talk to control at {control}: {cause}")]
    Unreachable {
        /// Its address.
        control: String,
        /// The cause, as text.
        cause: String,
    },
    /// Control let the time pass.
    #[error("control at {control} gives no answer in time")]
    Timeout {
        /// Its address.
        control: String,
    },
    /// Control says no, and would say so again.
    #[error("control refuses {path} with status {status}: {detail}")]
    Refused {
        /// What was asked for.
        path: &'static str,
        /// HTTP status.
        status: u16,
        /// Control's own words.
        detail: String,
    },
    /// By the own clock the new SVID is not valid now, so that using it would end every call.
    #[error("the new SVID is not valid by the clock of this host")]
    Clock,
    /// Control did not see the new SVID in a handshake that was made with it.
    #[error("control at {control} does not confirm the new SVID {serial}: {cause}")]
    Unproven {
        /// Its address.
        control: String,
        /// The new serial.
        serial: String,
        /// What was seen instead, as text.
        cause: String,
    },
    /// There is neither a usable SVID nor a token to get one with.
    #[error("no usable SVID is kept in {0}, and no join_token_file is configured")]
    NoToken(PathBuf),
}

impl JoinError {
    /// Whether trying again may help.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Clock
            | Self::Unproven { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }

    /// The class of a failed attempt, as rows of `cert_rotations` hold it.
    const fn class(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => "ca_unreachable",
            // control answers 400 when it cannot use the certificate request
            Self::Request(_) | Self::Refused { status: 400, .. } => "csr_invalid",
            Self::Refused { .. } | Self::Svid { .. } => "ca_rejected",
            Self::Id(_) | Self::File { .. } | Self::NoToken(_) => "io",
            Self::Clock => "clock",
            Self::Unproven { .. } => "swap_failed",
        }
    }

    pub(crate) fn of_client(control: &str, error: &ClientError) -> Self {
        let control = control.to_owned();
        match error {
            ClientError::Timeout => Self::Timeout { control },
            error => Self::Unreachable {
                control,
                cause: with_causes(error),
            },
        }
    }
}

/// Gets an identity: the one kept in `state_dir` when it is still good, so that a restart does not
/// need control; else a new one by the join token. Tries until control answers, and has seen the
/// new SVID in a handshake. Each attempt becomes a row of `cert_rotations` on `lane`.
///
/// Cancel safe: an attempt that is broken off leaves no row.
///
/// # Errors
/// [`JoinError`] when control refuses for good or a file cannot be used.
pub async fn join(config: &IdentityConfig, lane: &mut Lane) -> Result<Identity, JoinError> {
    if let Some(identity) = kept::load(config)? {
        return Ok(identity);
    }
    let mut rotations = Rotations::first(config);
    let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
    loop {
        match rotations.join(lane).await {
            Ok(identity) => return Ok(identity),
            Err(error) if error.is_passing() => {
                let roots = config.roots_pem_file.display();
                tracing::warn!(%error, %roots, "waits for control to get an SVID");
                sleep(backoff.next()).await;
            }
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn default_control_id(own: &SpiffeId) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::parse(&format!(
        "spiffe://{}/counterfoil/control",
        own.trust_domain()
    ))
}

pub(crate) fn accepted(path: &'static str, reply: Reply) -> Result<Reply, JoinError> {
    if reply.status.is_success() {
        return Ok(reply);
    }
    let detail: String = String::from_utf8_lossy(&reply.body)
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect();
    Err(JoinError::Refused {
        path,
        status: reply.status.as_u16(),
        detail,
    })
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

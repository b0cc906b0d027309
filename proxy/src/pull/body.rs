//! What becomes of a served body: opened, checked, compiled and put in force off the threads that
//! carry calls, then kept on disk; or refused, and the one before stays.

use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use counterfoil_entry::rows::BundleAckRow;
use counterfoil_entry::{Hash, Time, clock, tree};
use counterfoil_trust::SpiffeId;
use counterfoil_trust::bundle::{BundleError, BundleKeys, SignedBundle};
use tokio::task::spawn_blocking;

use crate::policy::{Policy, PolicyCell, PolicyError};

/// Where a body came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Control,
    Disk,
}

impl Origin {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Disk => "disk",
        }
    }
}

/// What became of a body.
#[derive(Debug)]
pub(super) struct Taken {
    /// What to tell of it; nothing when it was told of before.
    pub(super) acked: Option<BundleAckRow>,
    /// It need not be fetched again: it is in force and kept, or refused.
    pub(super) is_done: bool,
}

/// A body that was not put in force; the one before stays.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("checking the bundle")]
    Bundle(#[from] BundleError),
    #[error("compiling the bundle")]
    Policy(#[from] PolicyError),
}

impl Refused {
    const fn reason(&self) -> &'static str {
        match self {
            Self::Bundle(BundleError::TooLarge) => "too_large",
            Self::Bundle(BundleError::Malformed { .. }) => "malformed",
            Self::Bundle(BundleError::Signature(_)) => "signature",
            Self::Bundle(BundleError::Audience { .. }) => "audience",
            Self::Bundle(BundleError::Older { .. }) => "older",
            Self::Policy(_) => "policy",
        }
    }
}

/// Takes bodies for one workload.
#[derive(Debug)]
pub(super) struct Receiver {
    opener: Opener,
    file: Option<PathBuf>,
    /// The body that lies in `file`.
    kept: Option<Hash>,
    /// The last body that was refused, of which it was told.
    refused: Option<Hash>,
}

/// What it takes to open a body; goes along to the thread on which that is done.
#[derive(Debug, Clone)]
struct Opener {
    keys: BundleKeys,
    audience: SpiffeId,
    policy: PolicyCell,
}

impl Receiver {
    pub(super) const fn new(
        keys: BundleKeys,
        audience: SpiffeId,
        file: Option<PathBuf>,
        policy: PolicyCell,
    ) -> Self {
        Self {
            opener: Opener {
                keys,
                audience,
                policy,
            },
            file,
            kept: None,
            refused: None,
        }
    }

    /// Puts the kept body in force.
    pub(super) fn begin_from_disk(&mut self) -> Option<BundleAckRow> {
        let file = self.file.clone()?;
        let shown = file.display();
        let body = match std::fs::read(&file) {
            Ok(body) => body,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(%error, file = %shown, "reading the kept bundle");
                return None;
            }
        };
        let sha256 = tree::sha256(&body);
        let acked = self.opener.open(&body, sha256, Origin::Disk);
        if acked.outcome == APPLIED {
            tracing::info!("the kept bundle is in force");
            self.kept = Some(sha256);
            if let (Some(policy), Some(kept)) = (self.opener.policy.current(), modified(&file)) {
                policy.confirm(kept);
            }
        } else {
            tracing::error!(file = %shown, "the kept bundle is refused");
            self.refused = Some(sha256);
        }
        Some(acked)
    }

    /// Takes a body from control. Opening, compiling and writing are done on a thread that may
    /// block. Not cancel safe: a body that is broken off may be in force already, untold.
    pub(super) async fn take(&mut self, body: Bytes, sha256: Hash, origin: Origin) -> Taken {
        let acked = if self.is_in_force(sha256) {
            self.confirm(Some(sha256));
            None
        } else {
            let (opener, body) = (self.opener.clone(), body.clone());
            match spawn_blocking(move || opener.open(&body, sha256, origin)).await {
                Ok(acked) => Some(acked),
                Err(error) => {
                    tracing::error!(%error, "opening a bundle ended unexpectedly");
                    None
                }
            }
        };
        if !self.is_in_force(sha256) {
            let is_known = self.refused.replace(sha256) == Some(sha256);
            return Taken {
                acked: acked.filter(|_| !is_known),
                is_done: true,
            };
        }
        let is_done = self.kept == Some(sha256) || self.keep(body, sha256).await;
        Taken { acked, is_done }
    }

    /// Control stands behind `served`: when that is in force, it is as fresh as can be.
    pub(super) fn confirm(&self, served: Option<Hash>) {
        if let Some(policy) = self.opener.policy.current()
            && Some(policy.sha256) == served
        {
            policy.confirm(clock::wall());
        }
    }

    fn is_in_force(&self, sha256: Hash) -> bool {
        let policy = self.opener.policy.current();
        policy.is_some_and(|policy| policy.sha256 == sha256)
    }

    async fn keep(&mut self, body: Bytes, sha256: Hash) -> bool {
        let Some(file) = self.file.clone() else {
            return true;
        };
        let shown = file.display().to_string();
        let written = spawn_blocking(move || write_whole(&file, &body)).await;
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => {
                self.kept = Some(sha256);
                true
            }
            Err(error) => {
                tracing::error!(%error, file = shown, "the bundle in force is not kept");
                false
            }
        }
    }
}

const APPLIED: &str = "applied";
const REFUSED: &str = "refused";

impl Opener {
    /// Puts a body in force or refuses it whole.
    fn open(&self, body: &[u8], sha256: Hash, origin: Origin) -> BundleAckRow {
        let mut version = None;
        let applied = self.apply(body, &mut version);
        let acked_at = clock::wall();
        if let Err(error) = &applied {
            tracing::error!(
                error = %Chain(error), reason = error.reason(), %sha256, origin = origin.as_str(),
                "a bundle is refused, the one in force stays"
            );
        }
        BundleAckRow {
            audience: self.audience.as_str().to_owned(),
            sha256,
            rights_version: version,
            outcome: if applied.is_ok() { APPLIED } else { REFUSED }.to_owned(),
            reason: applied.err().map(|error| error.reason().to_owned()),
            acked_at,
            origin_kind: origin.as_str().to_owned(),
        }
    }

    fn apply(&self, body: &[u8], version: &mut Option<u64>) -> Result<(), Refused> {
        let bundle = SignedBundle::open(body, &self.keys, &self.audience)?;
        *version = Some(bundle.rights.version);
        if let Some(in_force) = self.policy.current() {
            bundle.check_follows(&in_force.bundle)?;
        }
        let policy = Policy::compile(bundle)?;
        tracing::info!(version = policy.version, sha256 = %policy.sha256, "a bundle is in force");
        self.policy.put(policy);
        Ok(())
    }
}

/// Written beside and renamed, so that a half-written bundle is never read.
fn write_whole(file: &Path, body: &[u8]) -> io::Result<()> {
    let beside = file.with_extension("new");
    std::fs::write(&beside, body)?;
    std::fs::File::open(&beside)?.sync_all()?;
    std::fs::rename(&beside, file)
}

fn modified(file: &Path) -> Option<Time> {
    let modified = std::fs::metadata(file)
        .and_then(|metadata| metadata.modified())
        .ok()?;
    let since = modified.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_nanos()).ok().map(Time::from_ns)
}

/// An error with its causes, on one line.
pub(super) struct Chain<'a>(pub(super) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

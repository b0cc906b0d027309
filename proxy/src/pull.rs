//! Bundles pulled from control: checked, put in force, kept on disk for a start without control.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use counterfoil_entry::clock;
use counterfoil_spool::Gauges;
use counterfoil_spool::join::{self, Fetched};
use counterfoil_trust::bundle::{BundleError, BundleKeys, SignedBundle};
use counterfoil_trust::{Identity, SpiffeId};
use std::net::SocketAddr;
use tokio::time::sleep;

use crate::counters::Counters;
use crate::policy::{Policy, PolicyCell, PolicyError};

/// Time between two polls, give or take a fifth, so that a fleet does not poll in step.
const POLL: Duration = Duration::from_secs(3);
/// First and longest wait after a failed poll; the wait is a random part of it.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Keeps the policy fresh.
#[derive(Debug)]
pub(crate) struct Pull {
    pub(crate) identity: Identity,
    pub(crate) control: SocketAddr,
    pub(crate) keys: BundleKeys,
    pub(crate) audience: SpiffeId,
    /// The last good bundle.
    pub(crate) file: PathBuf,
    pub(crate) policy: PolicyCell,
    pub(crate) gauges: Arc<Gauges>,
}

/// A bundle that was not put in force; the one before stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    #[error("checking the bundle")]
    Bundle(#[from] BundleError),
    #[error("compiling the bundle")]
    Policy(#[from] PolicyError),
    #[error("keeping the bundle in {}", file.display())]
    Keep { file: PathBuf, source: io::Error },
}

impl Pull {
    /// Puts the bundle from disk in force, when there is one. Its age counts from when it was kept.
    pub(crate) fn begin_from_disk(&self) {
        let body = match std::fs::read(&self.file) {
            Ok(body) => body,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::error!(%error, file = %self.file.display(), "reading the kept bundle");
                return;
            }
        };
        match self.apply(&body) {
            Ok(()) => tracing::info!("the kept bundle is in force"),
            Err(error) => {
                tracing::error!(error = %Chain(&error), file = %self.file.display(), "the kept bundle is refused");
            }
        }
    }

    /// Polls for ever. Cancel safe.
    pub(crate) async fn run(&self, counters: &Counters) {
        let mut failures = 0;
        loop {
            match self.poll(counters).await {
                Ok(()) => {
                    failures = 0;
                    sleep(POLL.mul_f64(rand::random_range(0.8..1.2))).await;
                }
                Err(error) => {
                    counters.bundle_poll_failed();
                    if failures == 0 {
                        tracing::warn!(error = %Chain(&error), "control is away: the bundle in force stays");
                    }
                    let most = RETRY_FIRST
                        .saturating_mul(1 << failures.min(5))
                        .min(RETRY_MAX);
                    failures += 1;
                    sleep(most.mul_f64(rand::random_range(0.05..1.0))).await;
                }
            }
        }
    }

    async fn poll(&self, counters: &Counters) -> Result<(), join::JoinError> {
        let in_force = self.policy.current();
        let etag = in_force.as_ref().map(|policy| policy.sha256.to_string());
        match join::fetch_bundle(&self.identity, self.control, etag.as_deref()).await? {
            Some(body) => match self.apply(&body).and_then(|()| self.keep(&body)) {
                Ok(()) => counters.bundle_applied(),
                Err(error) => {
                    counters.bundle_refused();
                    tracing::error!(error = %Chain(&error), "a bundle is refused, the one before stays");
                }
            },
            None => {
                if let Some(policy) = in_force {
                    policy.confirm(clock::wall());
                }
            }
        }
        Ok(())
    }

    fn apply(&self, body: &[u8]) -> Result<(), PullError> {
        let bundle = SignedBundle::open(body, &self.keys, &self.audience)?;
        if let Some(in_force) = self.policy.current() {
            bundle.check_follows(&in_force.bundle)?;
        }
        let policy = Policy::compile(bundle)?;
        tracing::info!(version = policy.version, sha256 = %policy.sha256, "a bundle is in force");
        self.gauges.set_bundle_sha256(Some(policy.sha256));
        self.policy.put(policy);
        Ok(())
    }

    /// Written beside and renamed, so that a half-written bundle is never read.
    fn keep(&self, body: &[u8]) -> Result<(), PullError> {
        write_whole(&self.file, body).map_err(|source| PullError::Keep {
            file: self.file.clone(),
            source,
        })
    }
}

fn write_whole(file: &Path, body: &[u8]) -> io::Result<()> {
    let beside = file.with_extension("new");
    std::fs::write(&beside, body)?;
    std::fs::File::open(&beside)?.sync_all()?;
    std::fs::rename(&beside, file)
}

/// An error with its causes, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

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

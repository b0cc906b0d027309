//! Bundles pulled from control: checked, put in force, kept on disk for a start without control.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use counterfoil_entry::id::Epoch;
use counterfoil_entry::{Time, clock};
use counterfoil_spool::Gauges;
use counterfoil_spool::join::{BundleQuery, JoinError, fetch_bundle};
use counterfoil_trust::bundle::{BundleError, BundleKeys, SignedBundle};
use counterfoil_trust::{Identity, SpiffeId};
use tokio::time::sleep;

use crate::counters::Counters;
use crate::policy::{Policy, PolicyCell, PolicyError};
use crate::proxy::BUILD;

/// Time between two polls, give or take a fifth, so that a fleet does not poll in step.
const POLL: Duration = Duration::from_secs(3);
/// First and longest wait after a failed poll; the wait is a random part of it.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Keeps the policy fresh.
#[derive(Debug)]
pub(crate) struct Pull {
    pub(crate) identity: Identity,
    pub(crate) control: String,
    pub(crate) epoch: Epoch,
    pub(crate) keys: BundleKeys,
    pub(crate) audience: SpiffeId,
    /// The last good bundle.
    pub(crate) file: PathBuf,
    pub(crate) policy: PolicyCell,
    pub(crate) gauges: Arc<Gauges>,
}

/// What control served last, so that the same is not fetched twice.
#[derive(Debug, Default)]
struct Served {
    etag: Option<String>,
    in_force: bool,
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
        let file = self.file.display();
        match std::fs::read(&self.file) {
            Ok(body) => match self.apply(&body) {
                Ok(()) => tracing::info!("the kept bundle is in force"),
                Err(error) => {
                    tracing::error!(error = %Chain(&error), %file, "the kept bundle is refused");
                    return;
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::error!(%error, %file, "reading the kept bundle");
                return;
            }
        }
        if let (Some(policy), Some(kept)) = (self.policy.current(), modified(&self.file)) {
            policy.confirm(kept);
        }
    }

    /// Polls for ever. Cancel safe.
    pub(crate) async fn run(&self, counters: &Counters) {
        let mut served = Served::default();
        let mut failures = 0;
        loop {
            match self.poll(&mut served, counters).await {
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

    async fn poll(&self, served: &mut Served, counters: &Counters) -> Result<(), JoinError> {
        let query = BundleQuery {
            etag: served.etag.clone(),
            epoch: self.epoch.0,
            applied: self.policy.current().map(|policy| policy.sha256),
            build: BUILD.to_owned(),
        };
        let Some(fetched) = fetch_bundle(&self.identity, &self.control, None, &query).await? else {
            if let Some(policy) = self.policy.current().filter(|_| served.in_force) {
                policy.confirm(clock::wall());
            }
            return Ok(());
        };
        let applied = self.apply(&fetched.body);
        let in_force = applied.is_ok();
        let kept = applied.and_then(|()| self.keep(&fetched.body));
        // what is in force and not kept is fetched again: a restart would bring the one before back
        let done = kept.is_ok() || !in_force;
        *served = Served {
            etag: fetched.etag.filter(|_| done),
            in_force,
        };
        match kept {
            Ok(()) => counters.bundle_applied(),
            Err(error) => {
                counters.bundle_refused();
                tracing::error!(error = %Chain(&error), "a bundle is not taken, or not kept");
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

fn modified(file: &Path) -> Option<Time> {
    let modified = std::fs::metadata(file)
        .and_then(|metadata| metadata.modified())
        .ok()?;
    let since = modified.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_nanos()).ok().map(Time::from_ns)
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

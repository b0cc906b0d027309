//! The bundle in force, compiled, and the cell through which all workers see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwapOption;
use counterfoil_entry::id::{IdError, RetentionClass};
use counterfoil_entry::{Hash, Time};
use counterfoil_trust::allow::{self, AllowError, AllowList, Peers, Verdict};
use counterfoil_trust::bundle::Bundle;

/// A bundle, compiled for both directions.
#[derive(Debug)]
pub struct Policy {
    pub(crate) bundle: Bundle,
    pub(crate) sha256: Hash,
    pub(crate) version: u64,
    pub(crate) allow: AllowList,
    pub(crate) peers: Peers,
    pub(crate) app: Arc<str>,
    pub(crate) team: Arc<str>,
    pub(crate) site: Option<Arc<str>>,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) default_class: RetentionClass,
    confirmed_ns: AtomicI64,
}

/// A bundle that cannot be compiled. Nothing of it is used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// An operation, a grant or a dependency is not good.
    #[error("compiling the bundle")]
    Allow(#[from] AllowError),
    /// The class of unclassified entries is none.
    #[error("reading the bundle's default retention class")]
    Class(#[from] IdError),
}

impl Policy {
    /// Compiles an opened bundle.
    ///
    /// # Errors
    /// [`PolicyError`] names the first element that is not good.
    pub fn compile(bundle: Bundle) -> Result<Self, PolicyError> {
        let workload = &bundle.rights.workload;
        Ok(Self {
            sha256: bundle.sha256,
            version: bundle.rights.version,
            allow: AllowList::compile(&bundle.rights)?,
            peers: Peers::compile(&bundle)?,
            app: Arc::from(workload.app.as_str()),
            team: Arc::from(workload.team.as_str()),
            site: workload.site.as_deref().map(Arc::from),
            zone: workload.zone.as_deref().map(Arc::from),
            default_class: RetentionClass::parse(&bundle.rights.default_class)?,
            confirmed_ns: AtomicI64::new(bundle.fetched_at.as_ns()),
            bundle,
        })
    }

    /// Version of the rights in it.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// SHA-256 of the body that it came in.
    #[must_use]
    pub const fn sha256(&self) -> Hash {
        self.sha256
    }

    /// Control has said at `now` that this bundle is still the newest.
    pub(crate) fn confirm(&self, now: Time) {
        self.confirmed_ns.store(now.as_ns(), Ordering::Relaxed);
    }

    /// Milliseconds since control last stood behind this bundle.
    pub(crate) fn stale_ms(&self, now: Time) -> u64 {
        let confirmed = Time::from_ns(self.confirmed_ns.load(Ordering::Relaxed));
        u64::try_from(now.since_ns(confirmed) / 1_000_000).unwrap_or(0)
    }
}

/// The policy in force; empty until the first bundle. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct PolicyCell(Arc<ArcSwapOption<Policy>>);

impl PolicyCell {
    /// Puts `policy` in force for every call that begins from now on.
    pub fn put(&self, policy: Policy) {
        self.0.store(Some(Arc::new(policy)));
    }

    /// Decides as the inbound side does on a request that shows no token: `consumer` is the caller's
    /// SPIFFE id, `path` the request target. Without a policy everything is denied with
    /// `bundle_missing`.
    pub fn decide(&self, consumer: &str, method: &str, path: &str, now: Time) -> Verdict {
        let policy = self.0.load();
        let list = policy.as_ref().map(|policy| &policy.allow);
        allow::decide(list, consumer, method, path, now)
    }

    /// The policy in force.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Policy>> {
        self.0.load_full()
    }
}

//! The simulated proxies of a whole estate in one process.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use counterfoil_entry::{
    Hash, Time, clock,
    id::{Epoch, Writer},
};
use counterfoil_estate::{Estate, Grant};
use counterfoil_proxy::pull::{Pull, PullConfig, Seen};
use counterfoil_spool::{
    Lane, Spool, SpoolConfig,
    join::{IdentityConfig, join},
};
use counterfoil_trust::bundle::BundleKeys;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    member::{Call, Member, Probe, grants_by_api},
    provision::{Place, TRUST_DOMAIN},
    traffic::Traffic,
};
use crate::console::chain;

/// Proxies that join at the same time: as many as an orchestrator starts.
const JOINING_MAX: u16 = 64;
/// How often a proxy decides a call.
const DECIDE_EVERY: Duration = Duration::from_secs(1);
/// Rows of joins and renewals, which nobody delivers; more are dropped and counted.
const SPOOL_BYTES_MAX: u64 = 8 << 20;

/// All simulated proxies.
#[derive(Debug)]
pub(super) struct Fleet {
    members: Vec<Arc<Member>>,
    shared: Arc<Shared>,
    /// How each member joins; taken at the start.
    identities: Vec<IdentityConfig>,
    tasks: TaskTracker,
}

/// What the tasks of the proxies have in common.
#[derive(Debug)]
struct Shared {
    control: String,
    keys: BundleKeys,
    epoch: Epoch,
    traffic: Traffic,
    decisions: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
    join_error: Mutex<Option<String>>,
    /// Lanes for those that join, and as many permits.
    lanes: Mutex<Vec<Lane>>,
    joining: Semaphore,
    stop: CancellationToken,
}

impl Fleet {
    /// The proxies of the first `proxies` workloads; nothing runs yet.
    ///
    /// # Errors
    /// When the spool cannot be opened.
    pub(super) fn new(
        place: &Place,
        estate: &Estate,
        proxies: usize,
        doomed: &[&Grant],
    ) -> anyhow::Result<Self> {
        let workloads = || estate.workloads.iter().take(proxies);
        let identities = workloads()
            .map(|w| place.identity(&w.spiffe_id, &w.name))
            .collect();
        let mut served: HashMap<&str, Vec<_>> = HashMap::new();
        let mut by_api = grants_by_api(estate, doomed);
        for api in &estate.apis {
            let grants = by_api.remove(api.name.as_str()).unwrap_or_default();
            served.entry(&api.server).or_default().push((api, grants));
        }
        let none = Vec::new();
        let member = |spiffe_id: &str, name: &str| {
            let served = served.get(spiffe_id).unwrap_or(&none);
            Arc::new(Member::new(spiffe_id, name, TRUST_DOMAIN, served))
        };
        Ok(Self {
            members: workloads().map(|w| member(&w.spiffe_id, &w.name)).collect(),
            shared: Arc::new(Shared::new(place)?),
            identities,
            tasks: TaskTracker::new(),
        })
    }

    /// Starts every proxy.
    pub(super) fn start(&mut self) {
        for (member, identity) in self.members.iter().zip(self.identities.drain(..)) {
            let (member, shared) = (Arc::clone(member), Arc::clone(&self.shared));
            self.tasks.spawn(live(member, identity, shared));
        }
        self.tasks.close();
    }

    /// Ends every proxy.
    pub(super) async fn stop(&self) {
        self.shared.stop.cancel();
        self.tasks.wait().await;
    }

    /// How many have a bundle in force.
    pub(super) fn ready(&self) -> usize {
        let ready = self.members.iter().filter(|m| m.policy.current().is_some());
        ready.count()
    }

    /// Decisions made, and how many of them were wrong.
    pub(super) fn decisions(&self) -> (u64, u64) {
        (
            self.shared.decisions.load(Ordering::Relaxed),
            self.shared.failed.load(Ordering::Relaxed),
        )
    }

    /// The first wrong decision.
    pub(super) fn first_failure(&self) -> Option<String> {
        text_of(&self.shared.first_failure)
    }

    /// Why a proxy could not join.
    pub(super) fn join_error(&self) -> Option<String> {
        text_of(&self.shared.join_error)
    }

    /// The requests to control.
    pub(super) fn traffic(&self) -> &Traffic {
        &self.shared.traffic
    }

    /// How many were answered by control since `from`.
    pub(super) fn polled_since(&self, from: Time) -> usize {
        let polled = self.members.iter().filter(|m| m.has_polled_since(from));
        polled.count()
    }

    /// The proxies of the workloads that may call what `server` serves.
    pub(super) fn callers_of(&self, estate: &Estate, server: &str) -> Vec<Arc<Member>> {
        let apis: HashSet<&str> = estate
            .apis
            .iter()
            .filter(|api| api.server == server)
            .map(|api| api.name.as_str())
            .collect();
        let callers: HashSet<&str> = estate
            .grants
            .iter()
            .filter(|grant| apis.contains(grant.api.as_str()))
            .map(|grant| grant.consumer.as_str())
            .collect();
        let called = |member: &&Arc<Member>| callers.contains(member.spiffe_id.as_str());
        self.members.iter().filter(called).cloned().collect()
    }

    /// How long after `from` those of them that did took a bundle (ns).
    pub(super) fn taken_since(&self, members: &[Arc<Member>], from: Time) -> Vec<i64> {
        members.iter().filter_map(|m| m.taken_after(from)).collect()
    }

    /// The call that a grant is for, at the proxy that decides it.
    pub(super) fn probe_of(&self, estate: &Estate, grant: &Grant) -> Option<Probe> {
        let api = estate.api(&grant.api)?;
        let member = self.members.iter().find(|m| m.spiffe_id == api.server)?;
        Some(member.probe(Call::of_grant(api, grant)?))
    }
}

impl Shared {
    fn new(place: &Place) -> anyhow::Result<Self> {
        let opening = "opening the spool of the fleet";
        let writer = format!("spiffe://{TRUST_DOMAIN}/counterfoil/sim#fleet");
        let directory: PathBuf = place.fleet_spool();
        let spool = Spool::open(SpoolConfig {
            directory,
            writer: Writer::parse(&writer).context(opening)?,
            size_max: SPOOL_BYTES_MAX,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            config_sha256: Hash([0; 32]),
        })
        .context(opening)?;
        let now = clock::wall();
        Ok(Self {
            control: place.control_address(),
            keys: place.keys(),
            epoch: spool.epoch(),
            traffic: Traffic::new(now),
            decisions: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            first_failure: Mutex::new(None),
            join_error: Mutex::new(None),
            lanes: Mutex::new((0..JOINING_MAX).map(|lane| spool.lane(lane)).collect()),
            joining: Semaphore::new(usize::from(JOINING_MAX)),
            stop: CancellationToken::new(),
        })
    }
}

/// The life of one proxy: it joins, and then pulls and decides until the end.
async fn live(member: Arc<Member>, identity: IdentityConfig, shared: Arc<Shared>) {
    let joined = shared
        .stop
        .run_until_cancelled(joined(&identity, &shared))
        .await;
    let identity = match joined {
        Some(Ok(identity)) => identity,
        Some(Err(error)) => {
            let error = format!("{}: {}", member.name, chain(&error));
            keep_first(&shared.join_error, error);
            return;
        }
        None => return,
    };
    let config = PullConfig {
        identity,
        control: shared.control.clone(),
        control_id: None,
        epoch: shared.epoch,
        keys: shared.keys,
        file: None,
    };
    let pull = match Pull::new(config, member.policy.clone()) {
        Ok(pull) => pull,
        Err(error) => {
            let error = format!("{}: {}", member.name, chain(&error.into()));
            keep_first(&shared.join_error, error);
            return;
        }
    };
    let seen = |seen: Seen| match seen {
        Seen::Polled(polled) => {
            let took = i64::try_from(polled.took.as_nanos()).unwrap_or(0);
            shared.traffic.sent(polled.at.plus_ns(-took));
            if polled.answer.is_ok() {
                member.polled(polled.at);
            }
        }
        Seen::Acked(row) if row.reason.is_none() => member.taken(row.acked_at),
        Seen::Acked(row) => {
            let reason = row.reason.unwrap_or_default();
            keep_first(
                &shared.first_failure,
                format!("{} refused a bundle with {reason}", member.name),
            );
        }
        Seen::Health(_) => {}
    };
    tokio::join!(
        pull.run(shared.stop.clone(), seen),
        decide(&member, &shared)
    );
}

/// Gets an SVID, when it is this proxy's turn.
async fn joined(
    config: &IdentityConfig,
    shared: &Shared,
) -> anyhow::Result<counterfoil_trust::Identity> {
    let _turn = shared.joining.acquire().await.context("waiting to join")?;
    let lane = lock(&shared.lanes).pop();
    let mut lane = lane.context("there is no lane left")?;
    let joined = join(config, &mut lane).await;
    lock(&shared.lanes).push(lane);
    Ok(joined?)
}

/// Decides a call now and then, from the first bundle on.
async fn decide(member: &Member, shared: &Shared) {
    let mut turn = 0;
    // So that the fleet does not decide in step.
    let mut pause = DECIDE_EVERY.mul_f64(rand::random_range(0.0..1.0));
    while shared
        .stop
        .run_until_cancelled(tokio::time::sleep(pause))
        .await
        .is_some()
    {
        pause = DECIDE_EVERY;
        if turn == 0 && member.policy.current().is_none() {
            continue;
        }
        shared.decisions.fetch_add(1, Ordering::Relaxed);
        if let Err(wrong) = member.decide(turn) {
            shared.failed.fetch_add(1, Ordering::Relaxed);
            keep_first(&shared.first_failure, wrong);
        }
        turn += 1;
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep_first(of: &Mutex<Option<String>>, text: String) {
    lock(of).get_or_insert(text);
}

fn text_of(of: &Mutex<Option<String>>) -> Option<String> {
    lock(of).clone()
}

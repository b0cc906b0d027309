//! Delivery: states what the lanes wrote and brings it to the collector.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use counterfoil_entry::announcement::Announcement;
use counterfoil_entry::clock;
use counterfoil_entry::id::Epoch;
use counterfoil_entry::statement::{AuditKey, NoKey, Signed};
use counterfoil_trust::{Identity, SpiffeId, SvidError};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::courier::Courier;
use crate::lock;
use crate::old::OldEpoch;
use crate::protocol::Acknowledged;
use crate::space::{Space, Spool, Start};
use crate::state::StateFile;
use crate::stating::{Stater, Step};
use crate::stats::DeliveryStats;

/// How often a final statement is tried when the disk refuses it.
const FINAL_TRIES: usize = 10;
const FINAL_PAUSE: Duration = Duration::from_millis(200);
/// How long the end waits to hear the collector before it states an old epoch's tail without it.
const HEARING: Duration = Duration::from_secs(1);

/// How to deliver.
#[derive(Debug, Clone)]
pub struct DeliveryConfig {
    /// `host:port` of the collector's native receiver.
    pub collector: String,
    /// The collector's SPIFFE id; without it any workload of the own trust domain is believed.
    pub collector_id: Option<SpiffeId>,
    /// Longest time that an entry waits before it leaves.
    pub batch_interval: Duration,
    /// Time between two statements.
    pub statement_interval: Duration,
    /// How long the end waits for the collector's last acknowledgement.
    pub end_deadline: Duration,
}

impl DeliveryConfig {
    /// The usual times: batches within 500 ms, a statement every 10 s, 10 s for the end.
    #[must_use]
    pub const fn new(collector: String, collector_id: Option<SpiffeId>) -> Self {
        Self {
            collector,
            collector_id,
            batch_interval: Duration::from_millis(500),
            statement_interval: Duration::from_secs(10),
            end_deadline: Duration::from_secs(10),
        }
    }
}

/// Why a delivery could not be made or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// There is one already.
    #[error("the spool has its delivery already")]
    Taken,
    /// The writer's name and the SVID do not belong together.
    #[error("the SVID is of {svid}, and the spool of the writer {writer}")]
    NotTheWriter {
        /// Whom the SVID names.
        svid: String,
        /// Who writes.
        writer: String,
    },
    /// The epoch could not be announced.
    #[error("cannot write the epoch's announcement to the spool")]
    Announce(#[source] io::Error),
    /// The announcement could not be signed.
    #[error("cannot sign the epoch's announcement")]
    Sign(#[from] SvidError),
    /// The system gave no randomness.
    #[error("cannot make a key for an epoch that was never announced")]
    Key(#[from] NoKey),
    /// The final statement could not be written: the next start states what is left.
    #[error("cannot write the final statement to the spool")]
    Final(#[source] io::Error),
    /// A task of the delivery died.
    #[error("a task of the delivery died")]
    Task(#[from] JoinError),
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Ending {
    /// The collector has everything; the epoch's directory is gone.
    Acknowledged,
    /// Something was not acknowledged and stays on the disk: the next start delivers it.
    Kept,
}

/// The delivery of one spool. Runs on any tokio runtime; reading, hashing and syncing happen on its
/// blocking threads.
#[derive(Debug)]
pub struct Delivery {
    config: DeliveryConfig,
    stats: Arc<DeliveryStats>,
    stater: Stater,
    courier: Courier,
    greeting: watch::Receiver<Option<Acknowledged>>,
    work: Arc<Notify>,
}

impl Delivery {
    /// Announces the epoch in the spool and takes over the writer's old epochs. Blocks on the disk
    /// for some milliseconds; call it before the first entry is written.
    ///
    /// # Errors
    /// [`DeliveryError`], but for its last two variants.
    pub fn new(
        spool: &Spool,
        identity: Identity,
        config: DeliveryConfig,
    ) -> Result<Self, DeliveryError> {
        let (svid, writer) = (identity.current(), spool.writer());
        if svid.spiffe_id().as_str() != writer.spiffe_id() {
            let svid = svid.spiffe_id().as_str().to_owned();
            return Err(DeliveryError::NotTheWriter {
                svid,
                writer: writer.as_str().to_owned(),
            });
        }
        let Start {
            key,
            mut state,
            old,
        } = spool.take_start().ok_or(DeliveryError::Taken)?;
        let space = spool.space();
        announce(space, &identity, space.epoch(), &key, &mut state)?;
        let mut kept = Vec::new();
        let mut crashed = Vec::new();
        for mut epoch in old {
            if epoch.state.announcement().is_none() {
                // Its process died before it came to that; its key went with it.
                let key = AuditKey::generate()?;
                announce(space, &identity, epoch.epoch, &key, &mut epoch.state)?;
            }
            kept.push(Arc::new(Mutex::new(epoch)));
        }
        let recovered = Recovered::of(&kept);
        kept.retain(|old| !recovered.finish(space, old));
        for old in &kept {
            let epoch = lock(old);
            if !epoch.state.has_final() && !recovered.is_stated(epoch.epoch) {
                crashed.push(Arc::clone(old));
            }
        }
        let stats = Arc::new(DeliveryStats::default());
        let state = Arc::new(Mutex::new(state));
        let interval_ns = u64::try_from(config.statement_interval.as_nanos()).unwrap_or(u64::MAX);
        let stater = Stater::new(
            Arc::clone(space),
            key,
            Arc::clone(&state),
            Arc::clone(&stats),
            interval_ns,
            crashed,
        );
        let work = Arc::new(Notify::new());
        let (heard, greeting) = watch::channel(None);
        let courier = Courier::new(&config, identity, Arc::clone(space), state, kept).reporting(
            Arc::clone(&stater.answer),
            Arc::clone(&stats),
            heard,
            Arc::clone(&work),
        );
        Ok(Self {
            config,
            stats,
            stater,
            courier,
            greeting,
            work,
        })
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Arc<DeliveryStats> {
        Arc::clone(&self.stats)
    }

    /// Delivers until `shutdown`; then closes the spool, makes the final statement and waits for
    /// its acknowledgement up to the deadline. Lanes that append after that are refused: stop what
    /// appends before.
    ///
    /// Dropping the future is like a crash: the next start recovers.
    ///
    /// # Errors
    /// [`DeliveryError::Final`] and [`DeliveryError::Task`]; a collector that is away is no error.
    pub async fn run(self, shutdown: CancellationToken) -> Result<Ending, DeliveryError> {
        let Self {
            config,
            stater,
            courier,
            greeting,
            work,
            ..
        } = self;
        let sending = Box::pin(courier.run(shutdown.clone()));
        tokio::pin!(sending);
        let stating = state(stater, &config, &shutdown, greeting, &work);
        tokio::select! {
            stated = stating => stated?,
            ending = &mut sending => return ending,
        }
        timeout(config.end_deadline, sending)
            .await
            .unwrap_or(Ok(Ending::Kept))
    }
}

/// Makes statements until the final one is made.
async fn state(
    mut stater: Stater,
    config: &DeliveryConfig,
    shutdown: &CancellationToken,
    mut greeting: watch::Receiver<Option<Acknowledged>>,
    work: &Notify,
) -> Result<(), DeliveryError> {
    let mut ticks = interval(config.batch_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tries = 0;
    loop {
        let is_end = tokio::select! {
            biased;
            () = shutdown.cancelled() => true,
            Ok(()) = greeting.changed() => false,
            _ = ticks.tick() => false,
        };
        if is_end && stater.waits_to_hear() && greeting.borrow().is_none() {
            let heard = timeout(HEARING, greeting.changed()).await;
            tracing::debug!(in_time = heard.is_ok(), "the end waited for the collector");
        }
        let step = Step {
            greeting: greeting.borrow_and_update().clone(),
            is_end,
        };
        let stepped = spawn_blocking(move || {
            let result = stater.step(&step);
            (stater, result)
        });
        let (back, result) = stepped.await?;
        stater = back;
        work.notify_one();
        match result {
            Ok(()) if is_end => return Ok(()),
            Ok(()) => {}
            Err(error) => {
                tracing::error!(%error, "cannot state what was written; it is tried again");
                tries += usize::from(is_end);
                if tries == FINAL_TRIES {
                    return Err(DeliveryError::Final(error));
                }
                if is_end {
                    sleep(FINAL_PAUSE).await;
                }
            }
        }
    }
}

fn announce(
    space: &Space,
    identity: &Identity,
    epoch: Epoch,
    key: &AuditKey,
    state: &mut StateFile,
) -> Result<(), DeliveryError> {
    let svid = identity.current();
    let bytes = Announcement {
        writer: space.config().writer.clone(),
        epoch,
        audit_key: key.public(),
        time: clock::wall(),
        chain: svid
            .chain_der()
            .iter()
            .map(|certificate| certificate.to_vec())
            .collect(),
        build: space.config().build.clone(),
    }
    .encode();
    let signature = svid.sign_announcement(&bytes)?;
    state
        .announce(&Signed { bytes, signature })
        .map_err(DeliveryError::Announce)
}

/// Which old epochs a later old epoch has recovered already: the epoch, and whether the collector
/// acknowledged that.
struct Recovered(Vec<(Epoch, bool)>);

impl Recovered {
    fn of(old: &[Arc<Mutex<OldEpoch>>]) -> Self {
        let mut found = Vec::new();
        for old in old {
            let state = &lock(old).state;
            let valid = |number| !state.is_quarantined(number);
            for stated in state
                .statements()
                .iter()
                .filter(|stated| valid(stated.number))
            {
                let settled = state.is_settled(stated.number);
                found.extend(stated.recovers.map(|epoch| (epoch, settled)));
            }
        }
        Self(found)
    }

    fn is_stated(&self, epoch: Epoch) -> bool {
        self.0.iter().any(|(recovered, _)| *recovered == epoch)
    }

    /// Removes an epoch that was delivered whole before the last process died; whether it was.
    fn finish(&self, space: &Space, old: &Mutex<OldEpoch>) -> bool {
        let old = lock(old);
        let settled = old.state.next_unsettled().is_none();
        if !settled || !(old.state.has_final() || self.0.contains(&(old.epoch, true))) {
            return false;
        }
        let clean = old.state.quarantined().is_empty();
        let ended = if clean {
            old.directory.remove()
        } else {
            old.directory.set_aside()
        };
        if let Err(error) = ended {
            tracing::warn!(%error, epoch = %old.epoch, "cannot remove a delivered epoch");
        }
        space.gauges().release(old.bytes);
        true
    }
}

//! Bundles pulled from control: checked, put in force, kept on disk for a start without control.
//!
//! A [`Pull`] is one proxy's: it holds a poll open on one kept connection (ADR 10), and tells its
//! caller of each poll, of each bundle that it took or refused, and in slots of ten seconds how it
//! found control. It needs no listener, spool or worker, so that another program can run thousands:
//!
//! ```no_run
//! # use counterfoil_proxy::{PolicyCell, pull::{Pull, PullConfig, Seen}};
//! # async fn of(config: PullConfig, stop: tokio_util::sync::CancellationToken) -> Option<()> {
//! let policy = PolicyCell::default();
//! let pull = Pull::new(config, policy.clone()).ok()?;
//! tokio::spawn(pull.run(stop, |seen| match seen {
//!     Seen::Polled(polled) => println!("{:?} in {:?}", polled.answer, polled.took),
//!     Seen::Acked(row) => println!("version {:?} {}", row.rights_version, row.outcome),
//!     Seen::Health(row) => println!("control is up: {}", row.up),
//! }));
//! let now = counterfoil_entry::clock::wall();
//! let verdict = policy.decide("spiffe://bank.example/workload/shop", "GET", "/carts/1", now);
//! # let _ = verdict; Some(()) }
//! ```

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use counterfoil_entry::id::Epoch;
use counterfoil_entry::rows::{BundleAckRow, ControlHealthRow};
use counterfoil_entry::{Hash, Time, clock, tree};
use counterfoil_spool::join::{BundleLink, BundleQuery, FetchedBundle, JoinError};
use counterfoil_spool::slots::Slots;
use counterfoil_trust::bundle::BundleKeys;
use counterfoil_trust::{Identity, SpiffeId};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::policy::PolicyCell;
use crate::proxy::BUILD;
use body::{Chain, Origin, Receiver, Taken};
use pace::{Ended, Pace};

mod body;
mod pace;

/// What a pull is made of.
#[derive(Debug, Clone)]
pub struct PullConfig {
    /// Whose bundle is pulled. A renewed SVID is shown from the next poll on.
    pub identity: Identity,
    /// `host:port` of control.
    pub control: String,
    /// Control's SPIFFE id; by default `/counterfoil/control` of the own trust domain.
    pub control_id: Option<SpiffeId>,
    /// Epoch of the process, which control writes down.
    pub epoch: Epoch,
    /// The keys by which bundles are believed.
    pub keys: BundleKeys,
    /// Where the last good bundle is kept; `None` keeps none.
    pub file: Option<PathBuf>,
}

/// What happened, in the order in which it did.
#[derive(Debug)]
pub enum Seen {
    /// A poll ended.
    Polled(Polled),
    /// A body was put in force or refused; told once for each.
    Acked(BundleAckRow),
    /// How control was found in one or more slots that are over.
    Health(ControlHealthRow),
}

/// The end of one poll.
#[derive(Debug)]
pub struct Polled {
    /// When it ended.
    pub at: Time,
    /// How long it took, the time for which control held it included.
    pub took: Duration,
    /// What came, or the class of the failure: `unreachable`, `refused` or `timeout`.
    pub answer: Result<Answer, &'static str>,
}

/// What control answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A body.
    Bundle,
    /// The bundle in force is the newest.
    Unchanged,
}

/// Keeps one workload's policy fresh.
#[derive(Debug)]
pub struct Pull {
    identity: Identity,
    epoch: Epoch,
    policy: PolicyCell,
    link: BundleLink,
    receiver: Receiver,
    pace: Pace,
    slots: Slots,
    /// `ETag` of the body that came last, so that the same is not fetched twice.
    etag: Option<String>,
    /// The body that came last.
    served: Option<Hash>,
}

impl Pull {
    /// A pull of which each good bundle is put into `policy`. Nothing is asked before [`Pull::run`].
    ///
    /// # Errors
    /// [`JoinError::Id`] when control's default id cannot be made.
    pub fn new(config: PullConfig, policy: PolicyCell) -> Result<Self, JoinError> {
        let PullConfig {
            identity,
            control,
            control_id,
            epoch,
            keys,
            file,
        } = config;
        let audience = identity.current().spiffe_id().clone();
        Ok(Self {
            link: BundleLink::new(identity.clone(), control, control_id)?,
            receiver: Receiver::new(keys, audience, file, policy.clone()),
            identity,
            epoch,
            policy,
            pace: Pace::default(),
            slots: Slots::of_control("proxy"),
            etag: None,
            served: None,
        })
    }

    /// Puts the bundle from disk in force, when there is a good one. Its age counts from when it
    /// was kept. Blocks on the disk.
    pub fn begin_from_disk(&mut self, mut seen: impl FnMut(Seen)) {
        if let Some(acked) = self.receiver.begin_from_disk() {
            seen(Seen::Acked(acked));
        }
    }

    /// Polls until `stop`, then tells of the slot that was open.
    ///
    /// While control is away the policy stays as it is. Cancel safe, but for that last slot and for
    /// a body that is being put in force.
    pub async fn run(mut self, stop: CancellationToken, mut seen: impl FnMut(Seen) + Send) {
        loop {
            let asking = Box::pin(self.ask(&mut seen));
            let Some((answer, was_held)) = stop.run_until_cancelled(asking).await else {
                break;
            };
            let ended = self.judge(answer, was_held, &mut seen).await;
            let pause = sleep(self.pace.pause(ended));
            let pausing = meanwhile(&mut self.slots, &mut seen, pause);
            if stop.run_until_cancelled(pausing).await.is_none() {
                break;
            }
        }
        self.slots.end(&mut |row| seen(Seen::Health(row)));
    }

    /// Polls once. `true` when control held the answer as long as it was asked to.
    async fn ask(&mut self, seen: &mut (impl FnMut(Seen) + Send)) -> (Asked, bool) {
        let wait_s = self.pace.wait_s(self.identity.current().not_after());
        let query = BundleQuery {
            etag: self.etag.clone(),
            epoch: self.epoch.0,
            applied: self.policy.current().map(|policy| policy.sha256),
            build: BUILD.to_owned(),
            wait_s,
        };
        let began_ns = clock::mono_ns();
        let answer = meanwhile(&mut self.slots, seen, self.link.poll(&query)).await;
        let took = Duration::from_nanos(clock::mono_ns().saturating_sub(began_ns));
        let polled = Polled {
            at: clock::wall(),
            took,
            answer: match &answer {
                Ok(Some(_)) => Ok(Answer::Bundle),
                Ok(None) => Ok(Answer::Unchanged),
                Err(error) => Err(class(error)),
            },
        };
        let was_held = took >= Duration::from_secs(wait_s).mul_f64(HELD);
        // the time for which control held an answer says nothing of how fast it is; nobody knows
        // how long it held one that it gave because something changed
        let latency = match polled.answer {
            Ok(Answer::Bundle) if wait_s > 0 && query.etag.is_some() => None,
            _ if was_held => Some(took.saturating_sub(Duration::from_secs(wait_s))),
            _ => Some(took),
        };
        let mut tell = |row| seen(Seen::Health(row));
        let found = polled.answer.map(|_| latency);
        self.slots.note(polled.at, found, &mut tell);
        seen(Seen::Polled(polled));
        (answer, was_held)
    }

    async fn judge(
        &mut self,
        answer: Asked,
        was_held: bool,
        seen: &mut (impl FnMut(Seen) + Send),
    ) -> Ended {
        match answer {
            Ok(Some(fetched)) => self.take(fetched, seen).await,
            Ok(None) => {
                self.receiver.confirm(self.served);
                if was_held { Ended::Held } else { Ended::Early }
            }
            Err(error) => {
                if self.pace.is_first_failure() {
                    tracing::warn!(error = %Chain(&error), "control is away: the bundle in force stays");
                }
                Ended::Failed
            }
        }
    }

    async fn take(
        &mut self,
        fetched: FetchedBundle,
        seen: &mut (impl FnMut(Seen) + Send),
    ) -> Ended {
        let FetchedBundle { body, etag } = fetched;
        let sha256 = tree::sha256(&body);
        let is_new = self.served.replace(sha256) != Some(sha256);
        let Taken { acked, is_done } = self.receiver.take(body, sha256, Origin::Control).await;
        // what is in force and not kept is fetched again: a restart would bring the one before back
        self.etag = etag.filter(|_| is_done);
        if let Some(acked) = acked {
            seen(Seen::Acked(acked));
        }
        if is_new { Ended::New } else { Ended::Early }
    }
}

type Asked = Result<Option<FetchedBundle>, JoinError>;

/// Share of the asked time after which an answer counts as held.
const HELD: f64 = 0.9;

/// Awaits `work`, and meanwhile tells of each slot as soon as it is over.
async fn meanwhile<F: Future>(
    slots: &mut Slots,
    seen: &mut (impl FnMut(Seen) + Send),
    work: F,
) -> F::Output {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = sleep(slots.until_over(clock::wall())) => {
                slots.close(clock::wall(), &mut |row| seen(Seen::Health(row)));
            }
        }
    }
}

fn class(error: &JoinError) -> &'static str {
    match error {
        JoinError::Refused { .. } => "refused",
        JoinError::Timeout { .. } => "timeout",
        _ => "unreachable",
    }
}

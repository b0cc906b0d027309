//! Brings entries and statements to the collector, epoch by epoch, and takes its answers.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use counterfoil_entry::Hash;
use counterfoil_entry::id::Epoch;
use counterfoil_trust::{Expect, Identity, SpiffeId, client_config};
use http::{HeaderMap, StatusCode};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::client::{ALPN, Ask, ClientError, Connection};
use crate::delivery::{DeliveryConfig, DeliveryError, Ending};
use crate::lock;
use crate::old::OldEpoch;
use crate::protocol::{Acknowledged, Answer, Refusal};
use crate::sending::{EpochSender, Source, Work};
use crate::space::Space;
use crate::state::{StateFile, Stated};
use crate::stating::LastAnswer;
use crate::stats::DeliveryStats;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

type Sender = Arc<Mutex<EpochSender>>;

/// An old epoch on its way.
#[derive(Debug, Clone)]
struct Old {
    epoch: Epoch,
    sender: Sender,
    /// Everything but the recovery, which the current epoch sends.
    is_sent: bool,
}

/// The sending half of a delivery.
#[derive(Debug)]
pub(crate) struct Courier {
    collector: String,
    collector_id: Option<SpiffeId>,
    batch_interval: Duration,
    identity: Identity,
    space: Arc<Space>,
    old: Vec<Old>,
    current: Sender,
    answer: Arc<Mutex<LastAnswer>>,
    stats: Arc<DeliveryStats>,
    greeting: watch::Sender<Option<Acknowledged>>,
    work: Arc<Notify>,
    backoff: Backoff,
    /// The recovery for which its old epoch was sent a second time.
    recovery_resent: Option<Hash>,
}

/// Why the connection was given up; it is made anew.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("the collector refuses {path}{}: {reason}: {detail}", if *permanent { " for good" } else { "" })]
    Refused {
        path: &'static str,
        reason: String,
        detail: String,
        permanent: bool,
    },
    #[error("the collector's answer is not understood: status {0}")]
    Answer(StatusCode),
    #[error("cannot read the spool")]
    Disk(#[from] io::Error),
    #[error("a task of the delivery died")]
    Task(#[from] JoinError),
}

/// Why a round of sending ended.
enum Round {
    Done,
    /// The SVID was renewed: show it in a new connection.
    Renewed,
}

impl Courier {
    pub(crate) fn new(
        config: &DeliveryConfig,
        identity: Identity,
        space: Arc<Space>,
        state: Arc<Mutex<StateFile>>,
        old: Vec<Arc<Mutex<OldEpoch>>>,
    ) -> Self {
        let sender = |source| Arc::new(Mutex::new(EpochSender::new(source)));
        let old = old
            .into_iter()
            .map(|old| {
                let epoch = lock(&old).epoch;
                Old {
                    epoch,
                    sender: sender(Source::Old(old)),
                    is_sent: false,
                }
            })
            .collect();
        Self {
            collector: config.collector.clone(),
            collector_id: config.collector_id.clone(),
            batch_interval: config.batch_interval,
            identity,
            old,
            current: sender(Source::Current(Arc::clone(&space), state)),
            space,
            answer: Arc::default(),
            stats: Arc::default(),
            greeting: watch::Sender::new(None),
            work: Arc::default(),
            backoff: Backoff::new(BACKOFF_FIRST, BACKOFF_MAX),
            recovery_resent: None,
        }
    }

    /// Where to report what happens, and what wakes the courier.
    pub(crate) fn reporting(
        self,
        answer: Arc<Mutex<LastAnswer>>,
        stats: Arc<DeliveryStats>,
        greeting: watch::Sender<Option<Acknowledged>>,
        work: Arc<Notify>,
    ) -> Self {
        Self {
            answer,
            stats,
            greeting,
            work,
            ..self
        }
    }

    /// Delivers until the final statement is acknowledged.
    pub(crate) async fn run(
        mut self,
        shutdown: CancellationToken,
    ) -> Result<Ending, DeliveryError> {
        loop {
            let trouble = match Box::pin(self.connect_and_deliver()).await {
                Ok(Round::Done) => return Ok(self.finish_current().await),
                Ok(Round::Renewed) => continue,
                Err(trouble) => trouble,
            };
            self.stats.set_connected(false);
            self.stats.count_failure();
            let wait = self.backoff.next();
            let cause = std::error::Error::source(&trouble).map(ToString::to_string);
            tracing::warn!(
                collector = %self.collector, error = %trouble, cause, wait_ms = wait.as_millis(),
                "entries stay in the spool until the collector takes them"
            );
            if shutdown.is_cancelled() {
                sleep(wait).await;
            } else {
                tokio::select! {
                    () = sleep(wait) => {}
                    // The end does not wait for a long pause; but it does not hammer either.
                    () = shutdown.cancelled() => sleep(BACKOFF_FIRST).await,
                }
            }
        }
    }

    async fn connect_and_deliver(&mut self) -> Result<Round, Trouble> {
        let shown = self.identity.current().cert_sha256();
        let expect = self
            .collector_id
            .clone()
            .map_or(Expect::AnyInDomain, Expect::Id);
        let tls = client_config(&self.identity, expect, ALPN);
        let mut connection = Connection::open(&self.collector, tls).await?;
        let current = Arc::clone(&self.current);
        let greeting = self.hello(&mut connection, &current).await?;
        self.greeting.send_replace(Some(greeting));
        self.stats.set_connected(true);
        while let Some(old) = self.old.iter().find(|old| !old.is_sent).cloned() {
            match self.deliver_old(&mut connection, &old, shown).await {
                Ok(Round::Renewed) => return Ok(Round::Renewed),
                Ok(Round::Done) => {}
                // It stays on the disk, and must not keep the current epoch from its way.
                Err(trouble) if trouble.is_permanent() => {
                    self.stats.count_quarantined();
                    tracing::error!(epoch = %old.epoch, error = %trouble, "an earlier epoch cannot be delivered");
                    self.mark_sent(old.epoch);
                    continue;
                }
                Err(trouble) => return Err(trouble),
            }
            self.mark_sent(old.epoch);
            if on(&old.sender, |sender| sender.has_final()).await? {
                self.finish_old(old.epoch).await?;
            }
        }
        self.deliver(&mut connection, &current, shown).await
    }

    /// Delivers what an old epoch left behind. Its entries may come without its announcement: the
    /// recovery proves them.
    async fn deliver_old(
        &mut self,
        connection: &mut Connection,
        old: &Old,
        shown: Hash,
    ) -> Result<Round, Trouble> {
        match self.hello(connection, &old.sender).await {
            Err(trouble) if trouble.is_permanent() => {
                tracing::error!(epoch = %old.epoch, error = %trouble, "an earlier epoch is not announced");
            }
            greeted => _ = greeted?,
        }
        self.deliver(connection, &old.sender, shown).await
    }

    fn mark_sent(&mut self, epoch: Epoch) {
        let old = self.old.iter_mut().find(|old| old.epoch == epoch);
        old.into_iter().for_each(|old| old.is_sent = true);
    }

    /// Announces an epoch, and skips what the collector has of it.
    async fn hello(
        &self,
        connection: &mut Connection,
        sender: &Sender,
    ) -> Result<Acknowledged, Trouble> {
        let announcement = on(sender, |sender| sender.announcement()).await?;
        let path = "/v1/hello";
        match post(connection, path, announcement.unwrap_or_default()).await? {
            Answer::Taken(greeting) => {
                lock(&self.answer).take(&greeting);
                let known = greeting.clone();
                on(sender, move |sender| {
                    if let Some(known) = known.epoch(sender.epoch()) {
                        sender.skip_known(known);
                    }
                })
                .await?;
                Ok(greeting)
            }
            Answer::Refused(refusal) => Err(Trouble::refused(path, refusal)),
        }
    }

    async fn deliver(
        &mut self,
        connection: &mut Connection,
        sender: &Sender,
        shown: Hash,
    ) -> Result<Round, Trouble> {
        // An answer of `not_announced` is met once with an announcement; then it is trouble.
        let mut is_greeted_again = false;
        loop {
            if self.identity.current().cert_sha256() != shown {
                return Ok(Round::Renewed);
            }
            let refusal = match on(sender, EpochSender::next).await?? {
                Work::Done => return Ok(Round::Done),
                Work::Idle => {
                    // Woken by the stater's tick; the time only guards against a lost one.
                    tokio::select! {
                        () = self.work.notified() => {}
                        () = sleep(self.batch_interval) => {}
                    }
                    None
                }
                Work::Batch(bytes, entries) => {
                    self.send_batch(connection, sender, bytes, entries).await?
                }
                Work::Statement(stated, wire) => {
                    self.send_statement(connection, sender, *stated, wire)
                        .await?
                }
            };
            match refusal {
                None => {}
                Some((_, refusal)) if refusal.reason == "not_announced" && !is_greeted_again => {
                    is_greeted_again = true;
                    self.hello(connection, sender).await?;
                }
                Some((path, refusal)) => return Err(Trouble::refused(path, refusal)),
            }
        }
    }

    async fn send_batch(
        &mut self,
        connection: &mut Connection,
        sender: &Sender,
        bytes: Vec<u8>,
        entries: usize,
    ) -> Result<Option<(&'static str, Refusal)>, Trouble> {
        let path = "/v1/batch";
        match post(connection, path, bytes).await? {
            Answer::Taken(answer) => {
                lock(&self.answer).take(&answer);
                on(sender, EpochSender::taken).await?;
                self.stats.count_batch(entries);
                self.backoff.reset();
                Ok(None)
            }
            Answer::Refused(refusal) if refusal.permanent => {
                tracing::error!(
                    reason = refusal.reason,
                    detail = refusal.detail,
                    entries,
                    "the collector refuses entries for good"
                );
                if entries == 1 {
                    self.stats.count_quarantined();
                }
                on(sender, move |sender| sender.refused(entries)).await?;
                Ok(None)
            }
            Answer::Refused(refusal) => Ok(Some((path, refusal))),
        }
    }

    async fn send_statement(
        &mut self,
        connection: &mut Connection,
        sender: &Sender,
        stated: Stated,
        wire: Vec<u8>,
    ) -> Result<Option<(&'static str, Refusal)>, Trouble> {
        let path = "/v1/statement";
        let refusal = match post(connection, path, wire).await? {
            Answer::Taken(answer) => {
                self.statement_taken(sender, &stated, &answer).await?;
                return Ok(None);
            }
            Answer::Refused(refusal) => refusal,
        };
        if refusal.permanent {
            self.quarantine(sender, stated, refusal).await?;
            return Ok(None);
        }
        if refusal.reason != "entries_missing" {
            return Ok(Some((path, refusal)));
        }
        let (is_resent, is_undeliverable) = {
            let stated = stated.clone();
            on(sender, move |sender| {
                (sender.resend(&stated), sender.is_undeliverable(&stated))
            })
            .await?
        };
        if is_resent {
            return Ok(None);
        }
        let is_hopeless = stated.recovers.is_some() && self.recovery_resent == Some(stated.hash);
        if is_undeliverable || is_hopeless {
            self.quarantine(sender, stated, refusal).await?;
            return Ok(None);
        }
        if let Some(epoch) = stated.recovers {
            self.recovery_resent = Some(stated.hash);
            self.send_again(epoch).await?;
        }
        Ok(Some((path, refusal)))
    }

    async fn statement_taken(
        &mut self,
        sender: &Sender,
        stated: &Stated,
        answer: &Acknowledged,
    ) -> Result<(), Trouble> {
        let (number, hash) = (stated.number, stated.hash);
        on(sender, move |sender| sender.acknowledge(number, hash)).await??;
        {
            let mut last = lock(&self.answer);
            last.take(answer);
            if Arc::ptr_eq(sender, &self.current) {
                last.acked = Some((number, hash));
            }
        }
        self.stats.count_acknowledged();
        self.backoff.reset();
        if let Some(epoch) = stated.recovers {
            self.finish_old(epoch).await?;
        }
        Ok(())
    }

    async fn quarantine(
        &self,
        sender: &Sender,
        stated: Stated,
        refusal: Refusal,
    ) -> Result<(), Trouble> {
        tracing::error!(
            number = stated.number,
            reason = refusal.reason,
            detail = refusal.detail,
            "the collector refuses a statement for good; the next one says so"
        );
        self.stats.count_quarantined();
        Ok(on(sender, move |sender| sender.quarantine(&stated)).await??)
    }

    /// The collector lost entries of an old epoch: everything of it goes out again.
    async fn send_again(&mut self, epoch: Epoch) -> Result<(), Trouble> {
        if let Some(old) = self.old.iter_mut().find(|old| old.epoch == epoch) {
            old.is_sent = false;
            on(&old.sender, EpochSender::restart).await?;
        }
        Ok(())
    }

    async fn finish_old(&mut self, epoch: Epoch) -> Result<(), Trouble> {
        let Some(at) = self.old.iter().position(|old| old.epoch == epoch) else {
            return Ok(());
        };
        let old = self.old.remove(at);
        let (bytes, clean) =
            on(&old.sender, |sender| (sender.old_bytes(), sender.finish())).await?;
        self.space.gauges().release(bytes);
        let clean = clean?;
        tracing::info!(%epoch, clean, "an earlier epoch is delivered");
        Ok(())
    }

    async fn finish_current(&mut self) -> Ending {
        match on(&self.current, |sender| sender.finish()).await {
            Ok(Ok(true)) if self.old.is_empty() => Ending::Acknowledged,
            Ok(Ok(_)) => Ending::Kept,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot remove the delivered epoch");
                Ending::Acknowledged
            }
            Err(error) => {
                tracing::error!(%error, "cannot remove the delivered epoch");
                Ending::Kept
            }
        }
    }
}

impl Trouble {
    const fn is_permanent(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                permanent: true,
                ..
            }
        )
    }

    fn refused(path: &'static str, refusal: Refusal) -> Self {
        Self::Refused {
            path,
            reason: refusal.reason,
            detail: refusal.detail,
            permanent: refusal.permanent,
        }
    }
}

/// Runs `act`, which blocks on the disk, off the runtime's threads.
async fn on<T: Send + 'static>(
    sender: &Sender,
    act: impl FnOnce(&mut EpochSender) -> T + Send + 'static,
) -> Result<T, JoinError> {
    let sender = Arc::clone(sender);
    spawn_blocking(move || act(&mut lock(&sender))).await
}

async fn post(
    connection: &mut Connection,
    path: &'static str,
    body: Vec<u8>,
) -> Result<Answer, Trouble> {
    let ask = Ask {
        method: "POST",
        path,
        headers: HeaderMap::new(),
        body: Bytes::from(body),
    };
    let reply = connection.ask(ask).await?;
    let not_understood = |_| Trouble::Answer(reply.status);
    if reply.status.is_success() {
        return serde_json::from_slice(&reply.body)
            .map(Answer::Taken)
            .map_err(not_understood);
    }
    let mut refusal: Refusal = serde_json::from_slice(&reply.body).map_err(not_understood)?;
    // Only the collector itself may refuse for good, not something on the way to it.
    refusal.permanent &= reply.status.is_client_error();
    Ok(Answer::Refused(refusal))
}

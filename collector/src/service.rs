//! Starting and stopping: which thread and task runs when, and what ends before what.

mod error;
mod own_files;

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use counterfoil_columns::DataDirectory;
use counterfoil_entry::clock;
use counterfoil_entry::id::Writer;
use counterfoil_entry::tree::sha256;
use counterfoil_ledger::log::{Genesis, Log};
use counterfoil_ledger::note::LogKey;
use counterfoil_spool::{
    Delivery, DeliveryConfig, DeliveryError, Ending, Lane, Spool, SpoolConfig,
};
use counterfoil_trust::{Identity, SpiffeId};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use self::error::CollectorError;
pub(crate) use self::own_files::lock;
use self::own_files::{check_log_key, control_id, log_key, query_id, retention_id};
use crate::admin::Meters;
use crate::bookkeeper::{Bookkeeper, BookkeeperError, Pace, Request, SealerLine};
use crate::config::{CollectorConfig, ConfigError};
use crate::foreign::{Foreign, ForeignCounters, PreparedForeign};
use crate::intake::Desks;
use crate::journal::Journal;
use crate::own::OwnWriter;
use crate::rebuild::{Rebuilt, rebuild};
use crate::receiver::{BODIES_KIB_MAX, Receiver};
use crate::rollup;
use crate::seal::Sealer;

/// Build named in manifests and the collector's own statements.
const BUILD: &str = concat!("counterfoil ", env!("CARGO_PKG_VERSION"));
/// Time that the collector's own final statement gets at shutdown.
const OWN_FINAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that the roll-ups of the last seals get at shutdown.
const ROLLUP_END_TIMEOUT: Duration = Duration::from_secs(3);

/// A collector whose configuration, data directory, lock, port and spool are in order.
#[derive(Debug)]
pub struct Prepared {
    config: CollectorConfig,
    data: DataDirectory,
    listener: TcpListener,
    /// Held by the threads that write, until the last one ends.
    lock: Arc<File>,
    spool: Spool,
    foreign: Option<PreparedForeign>,
    admin: Option<TcpListener>,
}

/// A collector that has recovered and is ready to serve.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    listener: TcpListener,
    receiver: Receiver,
    delivery: Delivery,
    /// The collector's own; its lock is held until the end.
    spool: Spool,
    threads: Threads,
    foreign: Option<Foreign>,
    admin: Option<TcpListener>,
}

/// The threads that keep the books.
#[derive(Debug)]
struct Threads {
    keeper: Thread,
    sealer: JoinHandle<()>,
    roller: JoinHandle<()>,
    /// Ends the roller between two manifests.
    stop_roller: Arc<AtomicBool>,
}

/// A running bookkeeper.
#[derive(Debug)]
struct Thread {
    requests: SyncSender<Request>,
    outcome: oneshot::Receiver<Result<(), BookkeeperError>>,
}

impl Prepared {
    /// Checks the configuration, opens the data directory, locks it, and opens the port and the
    /// collector's own spool.
    ///
    /// # Errors
    /// [`CollectorError`]; nothing is left behind but empty folders.
    pub async fn open(config: CollectorConfig) -> Result<Self, CollectorError> {
        config.check()?;
        let data = DataDirectory::create(&config.data_dir)?;
        check_log_key(&config, &data)?;
        let lock = Arc::new(lock(&data.journal(&config.origin))?);
        let writer = writer(&config)?;
        let address = config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| CollectorError::Listen { address, source })?;
        let admin = match config.admin_listen {
            None => None,
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(|source| CollectorError::ListenAdmin { address, source })?,
            ),
        };
        let config_sha256 = sha256(format!("{config:?}").as_bytes());
        let spool = Spool::open(SpoolConfig {
            directory: data.spool(),
            writer,
            size_max: config.spool_bytes_max,
            build: BUILD.to_owned(),
            config_sha256,
        })?;
        let foreign = PreparedForeign::open(&config, &data, (BUILD, config_sha256)).await?;
        Ok(Self {
            config,
            data,
            listener,
            lock,
            spool,
            foreign,
            admin,
        })
    }

    /// The lane of the collector's own rows that are not the bookkeeper's, as of its certificates.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.spool.lane(1)
    }

    /// C2SP verifier key of the log, for a policy that pins it; the key is made at the first start.
    ///
    /// # Errors
    /// [`CollectorError::File`] when the key cannot be read or made.
    pub fn verifier_key(&self) -> Result<String, CollectorError> {
        log_key(&self.config).map(|key| key.verifier().to_string())
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &CollectorConfig {
        &self.config
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// [`CollectorError::Listen`] when the system does not tell.
    pub fn address(&self) -> Result<SocketAddr, CollectorError> {
        let address = self.config.listen;
        self.listener
            .local_addr()
            .map_err(|source| CollectorError::Listen { address, source })
    }

    /// The addresses on which foreign systems are listened for, OTLP/gRPC, OTLP/HTTP and the access-log
    /// service in this order; those that are off left out.
    #[must_use]
    pub fn foreign_addresses(&self) -> Vec<SocketAddr> {
        let foreign = self.foreign.as_ref();
        foreign.map_or_else(Vec::new, PreparedForeign::addresses)
    }

    /// What the foreign receivers count; `None` when there are none.
    #[must_use]
    pub fn foreign_counters(&self) -> Option<Arc<ForeignCounters>> {
        self.foreign.as_ref().map(PreparedForeign::counters)
    }

    /// Recovers from books and journal, and starts the bookkeeper and the sealer.
    ///
    /// # Errors
    /// [`CollectorError`]; nothing acknowledged is lost.
    pub async fn start(self, identity: Identity) -> Result<Collector, CollectorError> {
        let address = self.address()?;
        let Self {
            config,
            data,
            listener,
            lock,
            spool,
            foreign,
            admin,
        } = self;
        let key = log_key(&config)?;
        let svid = identity.current();
        let desks = Desks {
            collector: svid.spiffe_id().as_str().to_owned(),
            control: control_id(&config.identity),
            query: query_id(&config),
            retention: retention_id(svid.spiffe_id()),
        };
        let roots = identity
            .roots()
            .der()
            .iter()
            .map(|der| der.to_vec())
            .collect();
        let (log, rebuilt) = recover(data.clone(), key, roots).await?;
        let own = OwnWriter::new(spool.lane(0));
        let collector = Some(svid.spiffe_id().clone());
        let delivery = DeliveryConfig::new(address.to_string(), collector);
        let counters = foreign.as_ref().map(PreparedForeign::counters);
        let foreign = foreign
            .map(|foreign| foreign.start(&identity, delivery.clone()))
            .transpose()?;
        let delivery = Delivery::new(&spool, identity.clone(), delivery)?;
        let threads = start_threads(&config, &data, log, rebuilt, own, lock)?;
        let receiver = Receiver {
            identity,
            desks,
            requests: threads.keeper.requests.clone(),
            is_closing: Arc::new(AtomicBool::new(false)),
            room: Arc::new(Semaphore::new(BODIES_KIB_MAX)),
            meters: Meters::default().with_foreign(counters),
        };
        Ok(Collector {
            address,
            listener,
            receiver,
            delivery,
            spool,
            threads,
            foreign,
            admin,
        })
    }
}

fn writer(config: &CollectorConfig) -> Result<Writer, ConfigError> {
    SpiffeId::parse(&config.identity.spiffe_id).map_err(|_| ConfigError::Value {
        key: "identity.spiffe_id",
        value: config.identity.spiffe_id.clone(),
        expected: "a SPIFFE id, as in spiffe://bank.example/counterfoil/collector",
    })?;
    let name = format!("{}#{}", config.identity.spiffe_id, config.instance);
    Writer::parse(&name).map_err(|_| ConfigError::Value {
        key: "instance",
        value: config.instance.clone(),
        expected: "1 to 64 characters of A-Z, a-z, 0-9, dot, underscore and minus",
    })
}

impl Collector {
    /// The address of the native receiver.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then stops in this order: other writers, the collector's own final
    /// statement, connections, the last seal, which covers everything that statements cover.
    ///
    /// Dropping the future abandons everything at once, as a crash would.
    ///
    /// # Errors
    /// [`CollectorError::Books`] when journal or books refused a write.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), CollectorError> {
        let Self {
            listener,
            receiver,
            delivery,
            spool,
            threads,
            foreign,
            admin,
            ..
        } = self;
        let _admin = admin.map(|admin| receiver.meters.clone().spawn(admin));
        let Threads {
            keeper,
            sealer,
            roller,
            stop_roller,
        } = threads;
        let Thread {
            requests,
            mut outcome,
        } = keeper;
        let (stop_own, stop_receiver) = (CancellationToken::new(), CancellationToken::new());
        let _abandoned = (
            stop_own.clone().drop_guard(),
            stop_receiver.clone().drop_guard(),
        );
        let is_closing = Arc::clone(&receiver.is_closing);
        let mut receiving = tokio::spawn(receiver.serve(listener, stop_receiver.clone()));
        let (mut delivering, mut hosting) = (JoinSet::new(), JoinSet::new());
        let stop = stop_own.clone();
        delivering.spawn(async move { delivery.run(stop).await });
        if let Some(foreign) = foreign {
            hosting.spawn(foreign.serve(stop_own.clone()));
        }
        let early = tokio::select! {
            () = shutdown.cancelled() => None,
            outcome = &mut outcome => Some(outcome),
        };
        is_closing.store(true, Ordering::Release);
        stop_own.cancel();
        if early.is_none() {
            let hosted = async { while hosting.join_next().await.is_some() {} };
            tokio::join!(own_end(&mut delivering), hosted);
        }
        drop((delivering, hosting));
        stop_receiver.cancel();
        if let Err(error) = (&mut receiving).await {
            tracing::error!(%error, "the receiver ended early");
        }
        let outcome = match early {
            Some(outcome) => outcome,
            None => {
                let closing =
                    tokio::task::spawn_blocking(move || requests.send(Request::Close).is_ok());
                drop(closing.await);
                outcome.await
            }
        };
        let sealed = tokio::task::spawn_blocking(move || sealer.join()).await;
        end_roller(roller, &stop_roller).await;
        drop(spool);
        outcome
            .map_err(|_| CollectorError::Thread("bookkeeper"))?
            .map_err(|error| CollectorError::Books(Box::new(error)))?;
        match sealed {
            Ok(Ok(())) => Ok(()),
            _ => Err(CollectorError::Thread("sealer")),
        }
    }
}

/// Waits for the final statement of a writer of the collector's own, but not for long.
pub(crate) async fn own_end(delivering: &mut JoinSet<Result<Ending, DeliveryError>>) {
    match timeout(OWN_FINAL_TIMEOUT, delivering.join_next()).await {
        Ok(None | Some(Ok(Ok(Ending::Acknowledged)))) => {}
        Ok(Some(Ok(Ok(Ending::Kept)))) => {
            tracing::warn!("the collector's own last rows stay in its spool until it starts again");
        }
        Ok(Some(Ok(Err(error)))) => tracing::error!(%error, "delivering the collector's own rows"),
        Ok(Some(Err(error))) => tracing::error!(%error, "delivering the collector's own rows"),
        Err(_) => tracing::error!("the collector's own final statement did not arrive"),
    }
}

/// Opens the log, which finishes what a crash cut short, and reads what it and the journal say.
async fn recover(
    data: DataDirectory,
    key: LogKey,
    trust_roots: Vec<Vec<u8>>,
) -> Result<(Log, Rebuilt), CollectorError> {
    let genesis = Genesis {
        trust_roots,
        build: BUILD.to_owned(),
        at: clock::wall(),
    };
    let recovering = tokio::task::spawn_blocking(move || {
        let staging = data.staging(key.verifier().name());
        let log = Log::open(&data.books(), &staging, key, &genesis)
            .map_err(|error| CollectorError::Recover(Box::new(error)))?;
        let rebuilt =
            rebuild(&data, &log).map_err(|error| CollectorError::Recover(Box::new(error)))?;
        Ok((log, rebuilt))
    });
    recovering
        .await
        .map_err(|_| CollectorError::Thread("recovery"))?
}

fn start_threads(
    config: &CollectorConfig,
    data: &DataDirectory,
    log: Log,
    rebuilt: Rebuilt,
    own: OwnWriter,
    lock: Arc<File>,
) -> Result<Threads, CollectorError> {
    let Rebuilt {
        mut state,
        mut files,
        next_file,
    } = rebuilt;
    let directory = data.journal(&config.origin);
    let journal = Journal::begin(&directory, next_file, state.unstated_mut(), &mut files)
        .map_err(|error| CollectorError::Recover(Box::new(error)))?;
    let (requests, queue) = sync_channel(config.queue_depth);
    let (jobs, jobs_queue) = sync_channel(1);
    let (done, outcomes) = sync_channel(1);
    let pace = Pace {
        origin: config.origin.clone(),
        seal_interval_ns: config.seal_interval_s.saturating_mul(1_000_000_000),
        seal_rows_max: config.seal_rows_max,
        silence_ns: config.silence_s.saturating_mul(1_000_000_000),
    };
    let checkpoint = Arc::from(log.checkpoint());
    let sealed_until = log.until();
    let line = SealerLine {
        jobs,
        done: outcomes,
    };
    let kept = (state, journal, files);
    let keeper = Bookkeeper::new(pace, kept, own, line, checkpoint, sealed_until);
    let (ended, outcome) = oneshot::channel();
    let (sealer_lock, roller_lock) = (Arc::clone(&lock), Arc::clone(&lock));
    let (sealed, seals) = sync_channel(1);
    let stop_roller = Arc::new(AtomicBool::new(false));
    let roller = spawn("roll-ups", {
        let (data, origin, stop) = (
            data.clone(),
            config.origin.clone(),
            Arc::clone(&stop_roller),
        );
        move || {
            rollup::run(&data, &origin, &seals, &stop);
            drop(roller_lock);
        }
    })?;
    let sealer = spawn("sealer", move || {
        Sealer {
            log,
            sealed,
            build: BUILD.to_owned(),
        }
        .run(&jobs_queue, &done);
        drop(sealer_lock);
    })?;
    spawn("bookkeeper", move || {
        let outcome = keeper.run(&queue);
        drop(lock);
        drop(ended.send(outcome));
    })?;
    Ok(Threads {
        keeper: Thread { requests, outcome },
        sealer,
        roller,
        stop_roller,
    })
}

/// Lets the last seals be folded, but not for long: what is left the next start folds.
async fn end_roller(roller: JoinHandle<()>, stop: &AtomicBool) {
    let joined = tokio::task::spawn_blocking(move || roller.join());
    tokio::pin!(joined);
    let ended = match timeout(ROLLUP_END_TIMEOUT, &mut joined).await {
        Ok(ended) => ended,
        Err(_) => {
            stop.store(true, Ordering::Relaxed);
            joined.await
        }
    };
    if !matches!(ended, Ok(Ok(()))) {
        tracing::error!("the thread of the roll-ups died");
    }
}

fn spawn(
    name: &'static str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, CollectorError> {
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body);
    thread.map_err(|_| CollectorError::Thread(name))
}

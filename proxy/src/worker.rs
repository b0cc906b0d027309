//! One worker: a thread with its own runtime, listeners, connections and lane of the spool.

use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use counterfoil_spool::Lane;
use counterfoil_trust::token::TokenCache;
use counterfoil_trust::{ClientAuth, Identity, Svid, server_config};
use tokio::runtime;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::config::Config;
use crate::counters::Counters;
use crate::open_calls::OpenCalls;
use crate::peers::PeerLinks;
use crate::policy::PolicyCell;
use crate::scribe::{Facts, Scribe};
use crate::serve::{Direction, accept};
use crate::tokens::Tokens;

/// What the calls of one worker share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) scribe: Arc<Scribe>,
    pub(crate) policy: PolicyCell,
    pub(crate) identity: Identity,
    pub(crate) tls: Tls,
    pub(crate) peers: PeerLinks,
    /// Tokens of this workload, for the APIs that it calls. All workers share them.
    pub(crate) tokens: Arc<Tokens>,
    /// Tokens of callers that this worker has verified. Used by its thread alone, so that the lock is
    /// always free.
    pub(crate) verified: Mutex<TokenCache>,
    pub(crate) app: Arc<App>,
    pub(crate) request_timeout: Duration,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// The inbound side's TLS: the SVID in use, and what shows it and no later one.
pub(crate) struct Tls(Mutex<(Arc<Svid>, TlsAcceptor)>);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    fn new(identity: &Identity) -> Self {
        Self(Mutex::new(showing(identity)))
    }

    /// The SVID of this moment, and what accepts a connection with it: each handshake shows the
    /// newest, and knows which.
    pub(crate) fn acceptor(&self, identity: &Identity) -> (Arc<Svid>, TlsAcceptor) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&shown.0, &identity.current()) {
            *shown = showing(identity);
        }
        shown.clone()
    }
}

fn showing(identity: &Identity) -> (Arc<Svid>, TlsAcceptor) {
    let pinned = identity.pinned();
    let config = server_config(&pinned, ClientAuth::Required, &[b"h2", b"http/1.1"]);
    (pinned.current(), TlsAcceptor::from(config))
}

/// What a worker thread begins with.
pub(crate) struct Seed {
    pub(crate) number: u16,
    pub(crate) outbound: TcpListener,
    pub(crate) inbound: TcpListener,
    pub(crate) lane: Lane,
    pub(crate) open: Arc<OpenCalls>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) facts: Facts,
    pub(crate) identity: Identity,
    pub(crate) policy: PolicyCell,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) stop: CancellationToken,
}

/// Starts a worker thread. It ends after `seed.stop`, when its calls have ended or the time to
/// drain is up.
pub(crate) fn start(seed: Seed, config: &Config) -> io::Result<JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let number = seed.number;
    let drain = config.drain();
    let worker = Arc::new(Worker {
        scribe: Arc::new(Scribe::new(seed.lane, seed.facts, seed.open, seed.counters)),
        policy: seed.policy,
        tls: Tls::new(&seed.identity),
        peers: PeerLinks::new(seed.identity.clone()),
        tokens: seed.tokens,
        verified: Mutex::default(),
        identity: seed.identity,
        app: Arc::new(App::new(config.app_address)),
        request_timeout: config.request_timeout(),
        stop: seed.stop,
        tasks: TaskTracker::new(),
    });
    let (outbound, inbound) = {
        let _inside = runtime.enter();
        (
            tokio::net::TcpListener::from_std(seed.outbound)?,
            tokio::net::TcpListener::from_std(seed.inbound)?,
        )
    };
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            runtime.block_on(run(&worker, outbound, inbound, drain));
            // what is left is dropped here, and each open call writes its entry as it goes
            worker.scribe.set_stopping();
            drop(runtime);
        })
}

async fn run(
    worker: &Arc<Worker>,
    outbound: tokio::net::TcpListener,
    inbound: tokio::net::TcpListener,
    drain: Duration,
) {
    tokio::join!(
        accept(Arc::clone(worker), outbound, Direction::Outbound),
        accept(Arc::clone(worker), inbound, Direction::Inbound),
    );
    worker.tasks.close();
    if timeout(drain, worker.tasks.wait()).await.is_err() {
        tracing::warn!(
            connections = worker.tasks.len(),
            "drain time is up: connections are cut"
        );
    }
}

//! The proxy's data path as one thing: its listeners, and the workers behind them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use counterfoil_entry::Time;
use counterfoil_spool::Spool;
use counterfoil_trust::Identity;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::counters::Counters;
use crate::listen::{ListenError, bind};
use crate::open_calls::{self, OpenCalls};
use crate::policy::PolicyCell;
use crate::scribe::Facts;
use crate::tokens::Tokens;
use crate::worker::{self, Seed};

/// What this program calls itself in entries and statements.
pub const BUILD: &str = concat!("counterfoil-proxy ", env!("CARGO_PKG_VERSION"));

/// The sockets of all workers, bound and not yet served.
#[derive(Debug)]
pub struct Listeners {
    outbound: Vec<TcpListener>,
    inbound: Vec<TcpListener>,
    /// Where the application's calls come in.
    pub outbound_address: SocketAddr,
    /// Where other proxies' calls come in.
    pub inbound_address: SocketAddr,
}

impl Listeners {
    /// Binds what `config` names.
    ///
    /// # Errors
    /// [`ListenError`] names the key and the address that is taken.
    pub fn bind(config: &Config) -> Result<Self, ListenError> {
        let outbound = bind("outbound_listen", config.outbound_listen, config.workers)?;
        let inbound = bind("inbound_listen", config.inbound_listen, config.workers)?;
        Ok(Self {
            outbound_address: bound(&outbound).unwrap_or(config.outbound_listen),
            inbound_address: bound(&inbound).unwrap_or(config.inbound_listen),
            outbound,
            inbound,
        })
    }
}

fn bound(listeners: &[TcpListener]) -> Option<SocketAddr> {
    listeners.first()?.local_addr().ok()
}

/// The running workers. They stop when [`Proxy::stop`] is called, not when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    figures: Figures,
}

/// What can be asked of the workers while they run.
#[derive(Debug, Clone)]
pub struct Figures {
    pub(crate) counters: Arc<Counters>,
    open: Vec<Arc<OpenCalls>>,
}

impl Figures {
    /// How many calls are open, and when the oldest began.
    #[must_use]
    pub fn open_calls(&self) -> (u64, Option<Time>) {
        open_calls::summary(self.open.iter().map(|calls| &**calls))
    }
}

impl Proxy {
    /// Starts one thread for each listener pair. Each takes the lane of its number.
    ///
    /// Calls are denied with `bundle_missing` while `policy` is empty.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(
        config: &Config,
        listeners: Listeners,
        identity: &Identity,
        spool: &Spool,
        policy: &PolicyCell,
    ) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let counters = Arc::new(Counters::default());
        let mut proxy = Self {
            threads: Vec::new(),
            stop: stop.clone(),
            figures: Figures {
                counters: Arc::clone(&counters),
                open: Vec::new(),
            },
        };
        let facts = Facts {
            spiffe_id: Arc::from(config.spiffe_id.as_str()),
            site: config.site.as_deref().map(Arc::from),
            zone: config.zone.as_deref().map(Arc::from),
            config_sha256: config.sha256,
            build: Arc::from(BUILD),
        };
        let tokens = Arc::new(Tokens::new(identity.clone(), config.control.clone()));
        let pairs = listeners.outbound.into_iter().zip(listeners.inbound);
        for (number, (outbound, inbound)) in (0..).zip(pairs) {
            let open = Arc::new(OpenCalls::default());
            proxy.figures.open.push(Arc::clone(&open));
            let seed = Seed {
                number,
                outbound,
                inbound,
                lane: spool.lane(number),
                open,
                counters: Arc::clone(&counters),
                facts: facts.clone(),
                identity: identity.clone(),
                policy: policy.clone(),
                tokens: Arc::clone(&tokens),
                stop: stop.clone(),
            };
            proxy.threads.push(worker::start(seed, config)?);
        }
        Ok(proxy)
    }

    /// A handle on the workers' figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.figures.clone()
    }

    /// Begins to drain: no further connection and no further request is taken.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Blocks until every worker has ended: all calls are over, or the time to drain was up.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

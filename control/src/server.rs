//! The process: checks everything, binds, serves and stops in order.

mod api;
mod poll;
mod token;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use counterfoil_entry::clock;
use counterfoil_entry::id::{IdError, Writer};
use counterfoil_spool::{
    AppendError, Delivery, DeliveryConfig, DeliveryError, Spool, SpoolConfig, SpoolError,
};
use counterfoil_trust::{ClientAuth, Identity, SpiffeId, Svid, SvidError, refusal_of_io};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rcgen::KeyPair;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::authority::{Authority, AuthorityError};
use crate::config::{ConfigError, ControlConfig};
use crate::governance::desk::{self, Books, Desk};
use crate::governance::{Actor, Governance};
use crate::issuance::{Issuance, Method};
use crate::people::{self, Door, Listening, Login, People, PeopleError, PeopleListenError};
use crate::published::{PublishError, Publisher};
use crate::store::{Settings, Store, StoreError};
use api::{App, Caller};

const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
/// 2,000 proxies keep one connection each, and open a second one for a moment when they renew their
/// certificate or ask for a token; the rest is room for those that join.
const CONNECTIONS_MAX: usize = 8_192;
/// A proxy waits with one request of a connection; what else it asks does not wait.
const STREAMS_MAX: u32 = 16;
/// A peer that is gone without a word is noticed by its silence.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_secs(1);
/// Rows of the governance plane have a lane of their own, apart from issuance.
const GOVERNANCE_LANE: u16 = 1;
const DRAIN: Duration = Duration::from_secs(5);

/// Why control stopped or did not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The configuration is not good. No port was bound.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nobody can be let in by the door for people. No port was bound.
    #[error("using what people_file names")]
    People(#[from] PeopleError),
    /// The governance state cannot be used. No port was bound.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The door for people cannot be opened.
    #[error(transparent)]
    PeopleListen(#[from] PeopleListenError),
    /// Keys or the root certificate cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Control's own SVID cannot be used.
    #[error("cannot make control's own identity")]
    Identity(#[from] SvidError),
    /// The bundles cannot be numbered or signed.
    #[error("cannot publish the catalogue: {0}")]
    Publish(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: free it, or choose another with the key listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The writer's name is malformed.
    #[error("cannot name this writer")]
    Writer(#[from] IdError),
    /// The spool cannot be opened.
    #[error("cannot open the spool")]
    Spool(#[from] SpoolError),
    /// A row of `issuance` cannot be written.
    #[error("cannot write to the books")]
    Append(#[from] AppendError),
    /// Delivery to the collector ended in an error.
    #[error("delivery to the collector failed")]
    Delivery(#[from] DeliveryError),
}

impl ControlError {
    /// Whether the configuration, the people's file, keys and certificates are wrong, or a newer build
    /// wrote the state, so that a restart alone cannot help.
    pub fn is_config(&self) -> bool {
        matches!(
            self,
            Self::Config(_)
                | Self::People(_)
                | Self::Authority(_)
                | Self::Store(StoreError::Newer { .. })
                | Self::PeopleListen(PeopleListenError::Tls { .. })
        )
    }
}

impl From<PublishError> for ControlError {
    fn from(error: PublishError) -> Self {
        Self::Publish(error.to_string())
    }
}

/// Runs control until `shutdown` is cancelled, then stops: listener, connections, delivery.
///
/// # Errors
/// [`ControlError`]; one for which [`ControlError::is_config`] holds came before any port was bound.
pub async fn run(config: ControlConfig, shutdown: CancellationToken) -> Result<(), ControlError> {
    Control::bind(config).await?.serve(shutdown).await
}

/// Control with its port bound, and nothing answered yet.
#[derive(Debug)]
pub struct Control {
    app: Arc<App>,
    identity: Identity,
    listener: TcpListener,
    address: SocketAddr,
    delivery: Delivery,
    desk: Arc<Desk>,
    people: Option<Listening>,
}

impl Control {
    /// Checks the configuration, opens keys, governance state and spool, and binds.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn bind(config: ControlConfig) -> Result<Self, ControlError> {
        config.check()?;
        let spiffe_id = config.spiffe_id()?;
        let people = config.people_file.as_deref().map(People::load);
        let people = people.transpose()?;
        let people_tls = people_tls(&config)?;
        let writer = Writer::parse(&format!("{spiffe_id}#{}", config.instance))?;
        let governance = governance(&config)?;
        let authority = Authority::open(&config.control_dir(), &config.trust_domain)?;
        let authority = Arc::new(authority);
        let life = Duration::from_secs(config.svid_ttl_s);
        let (svid, issued) = own_svid(&authority, &spiffe_id, life)?;
        let identity = Identity::new(svid, authority.roots.clone());
        let address = config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ControlError::Listen { address, source })?;
        let address = listener
            .local_addr()
            .map_err(|source| ControlError::Listen { address, source })?;
        let people = match people {
            None => None,
            Some(people) => Some(listen_for_people(&config, people, people_tls).await?),
        };
        let spool = Spool::open(SpoolConfig {
            directory: config.spool_dir.clone(),
            writer,
            size_max: config.spool_bytes_max,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            config_sha256: config.sha256(),
        })?;
        let delivery = Delivery::new(&spool, identity.clone(), delivery_config(&config))?;
        let publisher = Publisher::open(
            &config.control_dir(),
            &config.default_class,
            Arc::clone(&authority),
            spool.lane(0),
        )?;
        let publisher = Arc::new(publisher);
        let desk = open_desk(governance, &spool, &publisher, &spiffe_id)?;
        let mut issuance = Issuance::new(spool.lane(0));
        issuance.issued(&issued, Method::Own, None, clock::wall())?;
        let app = Arc::new(App {
            authority,
            publisher,
            issuance: Mutex::new(issuance),
            spiffe_id,
            life,
            requests: people.as_ref().map(Listening::requests).unwrap_or_default(),
        });
        Ok(Self {
            app,
            identity,
            listener,
            address,
            delivery,
            desk,
            people,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where people come in, when they may.
    pub fn people_address(&self) -> Option<SocketAddr> {
        self.people.as_ref().map(Listening::address)
    }

    /// Serves until `shutdown` is cancelled, then stops: listener, connections, delivery.
    ///
    /// # Errors
    /// [`ControlError::Delivery`] when delivery failed for good.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), ControlError> {
        let Self {
            app,
            identity,
            listener,
            address,
            delivery,
            desk,
            people,
        } = self;
        info!(%address, workloads = app.publisher.shelf().len(), "control serves");
        // Delivery ends after everything that may still write a row.
        let delivery_shutdown = CancellationToken::new();
        let delivery = tokio::spawn(delivery.run(delivery_shutdown.clone()));
        let tasks = TaskTracker::new();
        tasks.spawn(desk::tend(Arc::clone(&desk), shutdown.clone()));
        if let Some(people) = people {
            let door = Arc::new(Door::new(desk, app.authority.jwks()));
            tasks.spawn(people.serve(door, tasks.clone(), shutdown.clone()));
        }
        tasks.spawn(catch_up(Arc::clone(&app), shutdown.clone()));
        tasks.spawn(renew(Arc::clone(&app), identity.clone(), shutdown.clone()));
        accept(&listener, &app, &identity, &tasks, &shutdown).await;
        drop(listener);
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            warn!("connections were still open after {DRAIN:?} and are cut");
        }
        delivery_shutdown.cancel();
        match delivery.await {
            Ok(ended) => Ok(ended.map(drop)?),
            Err(panic) => {
                error!(%panic, "delivery ended unexpectedly");
                Ok(())
            }
        }
    }
}

fn delivery_config(config: &ControlConfig) -> DeliveryConfig {
    DeliveryConfig::new(config.collector.clone(), config.collector_spiffe_id.clone())
}

fn governance(config: &ControlConfig) -> Result<Governance, StoreError> {
    let mut store = Store::open(&config.control_dir())?;
    store.keep_settings(&Settings {
        trust_domain: config.trust_domain.clone(),
        default_class: config.default_class.clone(),
    })?;
    Governance::of(store, &config.trust_domain, &config.default_class)
}

fn people_tls(config: &ControlConfig) -> Result<Option<Arc<ServerConfig>>, PeopleListenError> {
    let files = config
        .people_cert_file
        .as_deref()
        .zip(config.people_key_file.as_deref());
    files
        .map(|(chain, key)| people::server_config(chain, key))
        .transpose()
}

async fn listen_for_people(
    config: &ControlConfig,
    people: People,
    tls: Option<Arc<ServerConfig>>,
) -> Result<Listening, PeopleListenError> {
    let file = config.people_file.clone().unwrap_or_default();
    Listening::bind(config.people_listen, tls, Login::new(people, file)).await
}

/// Opens the desk, brings the books up to what commands recorded meanwhile, and publishes.
fn open_desk(
    governance: Governance,
    spool: &Spool,
    publisher: &Arc<Publisher>,
    own: &SpiffeId,
) -> Result<Arc<Desk>, ControlError> {
    let own = Actor {
        name: own.to_string(),
        teams: Vec::new(),
        admin: false,
        peer_address: None,
    };
    let books = Books {
        lane: spool.lane(GOVERNANCE_LANE),
        epoch: spool.epoch().0,
        publisher: Arc::clone(publisher),
    };
    let desk = Desk::new(governance, own, Some(books));
    if let Err(error) = desk.tend() {
        error!(%error, "the books are not up to the governance state yet");
    }
    publisher.publish_first(Arc::clone(&desk.estate().catalogue))?;
    Ok(Arc::new(desk))
}

/// A new SVID for control itself. Its key lives in memory only.
fn own_svid(
    authority: &Authority,
    spiffe_id: &SpiffeId,
    life: Duration,
) -> Result<(Svid, crate::authority::Issued), ControlError> {
    let key = KeyPair::generate().map_err(AuthorityError::Make)?;
    let issued = authority.sign(&key, spiffe_id, life, clock::wall())?;
    let svid = Svid::from_pem(&issued.pem, &key.serialize_pem())?;
    Ok((svid, issued))
}

/// Publishes what could not be published because the books or the disk were full.
async fn catch_up(app: Arc<App>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(POLL) => {}
        }
        if !app.publisher.is_behind() {
            continue;
        }
        let publisher = Arc::clone(&app.publisher);
        match tokio::task::spawn_blocking(move || publisher.catch_up()).await {
            Ok(Ok(work)) => info!(changed = work.changed, "what was due is published"),
            Ok(Err(error)) => error!(%error, "bundles are due and cannot be published"),
            Err(panic) => error!(%panic, "publishing ended unexpectedly"),
        }
    }
}

/// Renews control's own SVID at half of its life, and tries again soon when that fails.
async fn renew(app: Arc<App>, identity: Identity, shutdown: CancellationToken) {
    let mut pause = app.life / 2;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = app.life / 10;
        let renewed = own_svid(&app.authority, &app.spiffe_id, app.life);
        let written = renewed.and_then(|(svid, issued)| {
            app.issuance()
                .issued(&issued, Method::Own, None, clock::wall())?;
            Ok(svid)
        });
        match written {
            Ok(svid) => {
                identity.replace(svid);
                pause = app.life / 2;
            }
            Err(error) => error!(%error, "cannot renew control's own SVID"),
        }
    }
}

async fn accept(
    listener: &TcpListener,
    app: &Arc<App>,
    identity: &Identity,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let tls = counterfoil_trust::server_config(identity, ClientAuth::Optional, ALPN);
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = tokio::select! {
            () = shutdown.cancelled() => return,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let Ok(slot) = slot else { return };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let (acceptor, app, shutdown) =
                    (acceptor.clone(), Arc::clone(app), shutdown.clone());
                tasks.spawn(async move {
                    serve_connection(stream, address, acceptor, app, shutdown).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of file descriptors: what is open must close before more can be accepted.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    app: Arc<App>,
    shutdown: CancellationToken,
) {
    let tls = match tokio::time::timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            let reason = refusal_of_io(&error).map_or("io", |refusal| refusal.reason());
            warn!(%address, reason, "a handshake failed");
            return;
        }
        Err(_) => return,
    };
    let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = counterfoil_trust::peer_of(certificates).ok();
    let caller = Caller {
        peer,
        address,
        closing: shutdown.clone(),
    };
    let service = TowerToHyperService::new(api::router(app, caller));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .max_concurrent_streams(STREAMS_MAX);
    let connection = builder.serve_connection(TokioIo::new(tls), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests;

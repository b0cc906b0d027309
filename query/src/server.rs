//! The query role as a whole: configuration in, two ports open, everything stopped in order.

use std::io::BufReader;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::ConnectInfo;
use counterfoil_columns::directory::DirectoryError;
use counterfoil_entry::id::{RetentionClass, Writer};
use counterfoil_entry::tree::sha256;
use counterfoil_spool::join::{join, renew_loop};
use counterfoil_spool::probe::HealthProbe;
use counterfoil_spool::{Delivery, DeliveryConfig, Spool, SpoolConfig, SpoolError};
use counterfoil_trust::{Identity, SpiffeId};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder as HttpBuilder;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::alerts::{AlertsError, Evaluator};
use crate::books::{Books, BooksError};
use crate::config::{ConfigError, QueryConfig};
use crate::engine::Engine;
use crate::error::SqlError;
use crate::log::QueryLog;
use crate::metrics::Metrics;
use crate::objectives::{self, ObjectiveError};
use crate::users::{Users, UsersError};
use crate::{http, pg, prober, template};

/// How long the start waits for a collector to make the data directory.
const DIRECTORY_WAIT: Duration = Duration::from_secs(30);
const DIRECTORY_POLL: Duration = Duration::from_millis(100);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long running statements may go on after a stop.
const DRAIN: Duration = Duration::from_secs(3);
/// Connections at a time on each port.
const CONNECTIONS_MAX: usize = 1024;
/// What each port speaks over TLS; a connection meant for one is no connection to the other.
const POSTGRES_ALPN: &[&[u8]] = &[b"postgresql"];
const HTTP_ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
/// Lanes of this process: 0 is the query log's, 1 that of the certificate's renewals.
const PROBER_LANE: u16 = 2;
const ALERTS_LANE: u16 = 3;
const BUILD: &str = concat!("counterfoil-query ", env!("CARGO_PKG_VERSION"));

/// Why the query role did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The users file was refused.
    #[error("using what users_file names")]
    Users(#[from] UsersError),
    /// The objectives were refused.
    #[error("using what objectives_dir names")]
    Objectives(#[from] ObjectiveError),
    /// Certificate or key cannot be used.
    #[error("{key} = {file}: {detail}")]
    Tls {
        /// Configuration key.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A port cannot be bound.
    #[error("listening on {address}: free it, or choose another with the key {key}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Configuration key.
        key: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The books cannot be opened.
    #[error(transparent)]
    Books(#[from] BooksError),
    /// The spool cannot be opened.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The engine cannot be made.
    #[error("making the query engine: {0}")]
    Engine(#[from] SqlError),
    /// The evaluator of alerts cannot begin.
    #[error("beginning to evaluate alerts")]
    Alerts(#[from] AlertsError),
    /// The threads for statements cannot be started.
    #[error("starting the threads for statements")]
    Threads(#[source] std::io::Error),
}

impl RunError {
    /// Whether the configuration, or a file that it names, is at fault: exit code 64.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Config(_)
                | Self::Alerts(AlertsError::Config(_) | AlertsError::Store(_))
                | Self::Users(_)
                | Self::Objectives(_)
                | Self::Tls { .. }
                | Self::Books(BooksError::Directory(_))
        )
    }
}

/// Runs the query role until `shutdown`; then statements get a moment, and the query log its end.
///
/// Everything is read and checked before a port is bound. Dropping the future is like a crash.
///
/// # Errors
/// [`RunError`] when it cannot start.
pub async fn run(config: QueryConfig, shutdown: CancellationToken) -> Result<(), RunError> {
    config.check()?;
    config.identity.check().map_err(ConfigError::Identity)?;
    let users = Arc::new(Users::load(&config.users_file)?);
    let objectives = match &config.objectives_dir {
        Some(directory) => objectives::load(directory)?,
        None => Vec::new(),
    };
    let writer = writer(&config)?;
    let collector_id = spiffe_id("collector_spiffe_id", config.collector_spiffe_id.as_deref())?;
    let (postgres_tls, web_tls) = (tls(&config, POSTGRES_ALPN)?, tls(&config, HTTP_ALPN)?);
    let Some(books) = open_books(&config.data_dir, &shutdown).await? else {
        return Ok(());
    };
    let postgres = listen(config.postgres_listen, "postgres_listen").await?;
    let web = listen(config.http_listen, "http_listen").await?;
    let spool = Spool::open(SpoolConfig {
        directory: config.spool_dir.clone(),
        writer,
        size_max: config.spool_bytes_max,
        build: BUILD.to_owned(),
        config_sha256: sha256(format!("{config:?}").as_bytes()),
    })?;
    let log = QueryLog::new(spool.lane(0), class(&config)?);
    let statements = log.statements();
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let cpu = Cpu::start(cores)?;
    let template = template::template(config.memory_bytes_max, cores)
        .map_err(|error| SqlError::from(&error))?;
    let turns = config.statements_max;
    let engine = Engine::new(books, template, objectives, cpu.handle(), turns, Some(log))?;
    let engine = engine.with_users(&users);
    let evaluator = Evaluator::open(&config, &engine)?;
    let metrics = Metrics::new(&statements, &evaluator.gauges());
    let evaluating = tokio::spawn(evaluator.run(spool.lane(ALERTS_LANE), shutdown.clone()));
    let delivered = CancellationToken::new();
    let delivering = deliver(
        spool,
        config,
        collector_id,
        shutdown.clone(),
        delivered.clone(),
    );
    let delivery = tokio::spawn(delivering);
    let engine = Arc::new(engine);
    let server = pg::Server::new(
        Arc::clone(&engine),
        Arc::clone(&users),
        postgres_tls.is_some(),
    );
    let doors = Doors {
        postgres,
        postgres_tls,
        server: Arc::new(server),
        web,
        web_tls,
        router: http::router(engine, users, metrics),
    };
    tracing::info!("query serves");
    doors.serve(&shutdown).await;
    told("the evaluator of alerts", evaluating.await);
    delivered.cancel();
    told("the delivery of the query log", delivery.await);
    drop(cpu);
    Ok(())
}

fn told(what: &str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::warn!(%error, "{what} ended early");
    }
}

/// Both ports with all that answers on them.
struct Doors {
    postgres: TcpListener,
    postgres_tls: Option<TlsAcceptor>,
    server: Arc<pg::Server>,
    web: TcpListener,
    web_tls: Option<TlsAcceptor>,
    router: axum::Router,
}

impl Doors {
    async fn serve(self, shutdown: &CancellationToken) {
        tokio::join!(
            accept(self.postgres, shutdown, |stream, _| {
                let (server, tls) = (Arc::clone(&self.server), self.postgres_tls.clone());
                async move { server.serve(stream, tls).await }
            }),
            accept(self.web, shutdown, |stream, peer| serve_http(
                stream,
                peer,
                self.router.clone(),
                self.web_tls.clone()
            )),
        );
    }
}

/// Stack of a thread that parses or plans statements (bytes): their trees are as deep as their longest
/// chain. Memory is taken only where a stack is used.
pub const STACK_BYTES: usize = 64 << 20;

/// The threads on which statements are planned and run: between two awaits a plan burns CPU, and on
/// the network's threads it would starve them.
struct Cpu(Option<Runtime>);

impl Cpu {
    fn start(threads: usize) -> Result<Self, RunError> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let builder = builder
            .worker_threads(threads)
            .thread_name("query-cpu")
            .thread_stack_size(STACK_BYTES)
            .enable_all();
        builder
            .build()
            .map(|runtime| Self(Some(runtime)))
            .map_err(RunError::Threads)
    }

    fn handle(&self) -> Handle {
        self.0
            .as_ref()
            .map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        // A plan that does not yield must not hold up the end of the process.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn class(config: &QueryConfig) -> Result<RetentionClass, ConfigError> {
    RetentionClass::parse(&config.query_log_class).map_err(|_| ConfigError::Value {
        key: "query_log_class",
        value: config.query_log_class.clone(),
        accepted: "permanent, or a name that ends in _<n>d, _<n>m or _<n>y",
    })
}

fn writer(config: &QueryConfig) -> Result<Writer, ConfigError> {
    let text = format!("{}#{}", config.identity.spiffe_id, config.instance);
    Writer::parse(&text).map_err(|_| ConfigError::Value {
        key: "identity.spiffe_id",
        value: text,
        accepted: "a SPIFFE id, and an instance of letters, digits, dots and dashes",
    })
}

fn spiffe_id(key: &'static str, text: Option<&str>) -> Result<Option<SpiffeId>, ConfigError> {
    text.map(SpiffeId::parse)
        .transpose()
        .map_err(|_| ConfigError::Value {
            key,
            value: text.unwrap_or_default().to_owned(),
            accepted: "a SPIFFE id such as spiffe://bank.test/counterfoil/collector",
        })
}

/// The books; `None` when the role is stopped before a collector made them.
async fn open_books(
    data_dir: &Path,
    shutdown: &CancellationToken,
) -> Result<Option<Books>, BooksError> {
    let deadline = tokio::time::Instant::now() + DIRECTORY_WAIT;
    loop {
        match Books::open(data_dir) {
            Err(BooksError::Directory(DirectoryError::NotOne(_)))
                if tokio::time::Instant::now() < deadline =>
            {
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(None),
                    () = tokio::time::sleep(DIRECTORY_POLL) => {}
                }
            }
            opened => return opened.map(Some),
        }
    }
}

async fn listen(address: SocketAddr, key: &'static str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| RunError::Listen {
            address,
            key,
            source,
        })
}

fn tls(config: &QueryConfig, alpn: &[&[u8]]) -> Result<Option<TlsAcceptor>, RunError> {
    let (Some(cert), Some(key)) = (&config.tls_cert_file, &config.tls_key_file) else {
        return Ok(None);
    };
    let fail = |file: &Path, detail: String| RunError::Tls {
        key: if file == key {
            "tls_key_file"
        } else {
            "tls_cert_file"
        },
        file: file.to_owned(),
        detail,
    };
    let open = |file: &Path| {
        std::fs::File::open(file)
            .map(BufReader::new)
            .map_err(|error| fail(file, error.to_string()))
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_reader_iter(open(cert)?)
        .collect::<Result<_, _>>()
        .map_err(|error| fail(cert, error.to_string()))?;
    let private =
        PrivateKeyDer::from_pem_reader(open(key)?).map_err(|error| fail(key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fail(cert, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| fail(cert, error.to_string()))?;
    server.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

/// Delivers the query log, and probes control until `shutdown`; the ports do not wait for control or
/// collector.
async fn deliver(
    spool: Spool,
    config: QueryConfig,
    collector_id: Option<SpiffeId>,
    shutdown: CancellationToken,
    stop: CancellationToken,
) {
    let mut lane = spool.lane(1);
    let joined = tokio::select! {
        joined = join(&config.identity, &mut lane) => joined,
        () = stop.cancelled() => return,
    };
    let identity = match joined {
        Ok(identity) => identity,
        Err(error) => {
            tracing::error!(%error, "no identity: the query log stays in the spool");
            return;
        }
    };
    let probing = probing(&spool, &identity, &config, shutdown);
    // The delivery's end seals the spool, so that the prober ends before it.
    let sealing = CancellationToken::new();
    let end = sealing.clone();
    let ending = tokio::spawn(async move {
        stop.cancelled().await;
        probing.await;
        end.cancel();
    });
    let stop = sealing;
    let renewing = renew_loop(identity.clone(), config.identity, lane, stop.clone());
    let renewal = tokio::spawn(renewing);
    let delivery = DeliveryConfig::new(config.collector, collector_id);
    match Delivery::new(&spool, identity, delivery) {
        Ok(delivery) => match delivery.run(stop).await {
            Ok(ending) => tracing::info!(?ending, "the query log is delivered"),
            Err(error) => tracing::error!(%error, "delivering the query log failed"),
        },
        Err(error) => tracing::error!(%error, "the query log stays in the spool"),
    }
    renewal.abort();
    ending.abort();
}

/// Starts the prober, unless it is switched off; the future ends when the prober has.
fn probing(
    spool: &Spool,
    identity: &Identity,
    config: &QueryConfig,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let probe = config
        .probe_control
        .then(|| HealthProbe::new(identity.clone(), &config.identity));
    let probing = match probe {
        None => None,
        Some(Ok(probe)) => {
            let lane = spool.lane(PROBER_LANE);
            Some(tokio::spawn(prober::run(probe, lane, shutdown)))
        }
        Some(Err(error)) => {
            tracing::error!(%error, "control is not probed");
            None
        }
    };
    async move {
        if let Some(probing) = probing
            && let Err(error) = probing.await
        {
            tracing::warn!(%error, "the prober ended early");
        }
    }
}

/// Accepts connections until `shutdown`, then gives those that run a moment.
async fn accept<S, F>(listener: TcpListener, shutdown: &CancellationToken, serve: S)
where
    S: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_ended) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let serving = serve(stream, peer);
                connections.spawn(async move {
                    if let Err(error) = serving.await {
                        tracing::debug!(%error, %peer, "a connection ended with an error");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(DIRECTORY_POLL).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::info!("open connections are closed");
    }
    connections.shutdown().await;
}

async fn serve_http(
    stream: TcpStream,
    peer: SocketAddr,
    router: axum::Router,
    tls: Option<TlsAcceptor>,
) -> std::io::Result<()> {
    let service = TowerToHyperService::new(router.layer(Extension(ConnectInfo(peer))));
    let mut builder = HttpBuilder::new(TokioExecutor::new());
    // With a timer, a client that does not send its headers is let go after 30 s.
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    let served = match tls {
        None => {
            builder
                .serve_connection(TokioIo::new(stream), service)
                .await
        }
        Some(tls) => {
            let stream = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await??;
            builder
                .serve_connection(TokioIo::new(stream), service)
                .await
        }
    };
    served.map_err(std::io::Error::other)
}

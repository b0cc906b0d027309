//! The listener of the door for people: plain on loopback, TLS when a certificate is configured.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::login::Login;
use super::routes::{self, Door};
use crate::metrics::Requests;

/// People and their scripts.
const CONNECTIONS_MAX: usize = 256;
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);

/// Why the door for people cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum PeopleListenError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen for people on {address}: free it, or choose another with the key people_listen"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("{key} = {file}: cannot use it: {reason}")]
    Tls {
        /// The configuration key.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The open port, and nobody answered yet.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    login: Arc<Login>,
    requests: Requests,
}

impl Listening {
    /// Binds `address`; plain when there is no `tls`.
    pub(crate) async fn bind(
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        login: Login,
    ) -> Result<Self, PeopleListenError> {
        let listen = |source| PeopleListenError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        Ok(Self {
            address: listener.local_addr().map_err(listen)?,
            listener,
            tls,
            login: Arc::new(login),
            requests: Requests::default(),
        })
    }

    /// What both doors count.
    pub(crate) fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is cancelled; connections are spawned on `tasks`.
    pub(crate) async fn serve(
        self,
        door: Arc<Door>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) {
        info!(address = %self.address, tls = self.tls.is_some(), "the door for people is open");
        tasks.spawn(Arc::clone(&self.login).watch(shutdown.clone()));
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let slot = tokio::select! {
                () = shutdown.cancelled() => return,
                slot = Arc::clone(&slots).acquire_owned() => slot,
            };
            let Ok(slot) = slot else { return };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors: what is open must close before more can be accepted.
                    warn!(%error, "cannot accept a connection of people");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (door, login) = (Arc::clone(&door), Arc::clone(&self.login));
            let router = routes::router(door, login, address, self.requests.clone());
            let (tls, shutdown) = (self.tls.clone(), shutdown.clone());
            tasks.spawn(async move {
                match tls {
                    None => answer(stream, router, shutdown).await,
                    Some(tls) => over_tls(stream, tls.into(), router, shutdown).await,
                }
                drop(slot);
            });
        }
    }
}

async fn over_tls(
    stream: TcpStream,
    tls: TlsAcceptor,
    router: axum::Router,
    shutdown: CancellationToken,
) {
    match tokio::time::timeout(HANDSHAKE_TIME_MAX, tls.accept(stream)).await {
        Ok(Ok(stream)) => answer(stream, router, shutdown).await,
        Ok(Err(error)) => debug!(%error, "a handshake with people failed"),
        Err(_) => {}
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    router: axum::Router,
    shutdown: CancellationToken,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX);
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection of people ended early");
    }
}

/// TLS with the chain and key in these files.
pub(crate) fn server_config(
    chain_file: &Path,
    key_file: &Path,
) -> Result<Arc<ServerConfig>, PeopleListenError> {
    let fail = |file: &Path, reason: String| PeopleListenError::Tls {
        key: if file == key_file {
            "people_key_file"
        } else {
            "people_cert_file"
        },
        file: file.to_owned(),
        reason,
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(chain_file)
        .and_then(Iterator::collect)
        .map_err(|error| fail(chain_file, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|error| fail(key_file, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(counterfoil_trust::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| fail(chain_file, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| fail(chain_file, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

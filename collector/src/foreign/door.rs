//! Ports for foreign systems: plain on loopback, mutual TLS anywhere else; bounded in connections,
//! streams and time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use counterfoil_trust::{ClientAuth, Identity, server_config};
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::counters::Count;
use super::house::House;
use super::{als, otlp};

/// Body of an answer.
pub(crate) type Answer = BoxBody<Bytes, Infallible>;

/// Connections of one port at a time; one more waits in the kernel.
const CONNECTIONS_MAX: usize = 512;
/// Requests of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 16;
/// Time for a handshake, for the first request of a connection, and for a message that began.
pub(crate) const PEER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a request, or without a sign of life, after which a connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that connections get to end at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What is spoken behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    OtlpGrpc,
    OtlpHttp,
    Als,
}

/// A port, opened.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) speech: Speech,
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Door {
    /// Serves until `shutdown`; then lets connections end for a short time.
    pub(crate) async fn serve(
        self,
        house: Arc<House>,
        identity: Identity,
        shutdown: CancellationToken,
    ) {
        let tls = (!self.address.ip().is_loopback()).then(|| {
            let config = server_config(&identity, ClientAuth::Required, &[b"h2", b"http/1.1"]);
            TlsAcceptor::from(config)
        });
        let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        loop {
            let permit = tokio::select! {
                () = shutdown.cancelled() => break,
                permit = Arc::clone(&free).acquire_owned() => permit,
            };
            let stream = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            while connections.try_join_next().is_some() {}
            let stream = match stream {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, address = %self.address, "accepting a connection");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let visit = Visit {
                house: Arc::clone(&house),
                speech: self.speech,
                shutdown: shutdown.clone(),
            };
            let (tls, watcher) = (tls.clone(), graceful.watcher());
            connections.spawn(async move {
                visit.connection(stream, tls, watcher).await;
                drop(permit);
            });
        }
        drop(self.listener);
        if timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
            tracing::debug!(address = %self.address, "connections were still open at the end");
        }
        connections.shutdown().await;
    }
}

/// One connection, and what its requests need.
#[derive(Debug, Clone)]
struct Visit {
    house: Arc<House>,
    speech: Speech,
    shutdown: CancellationToken,
}

impl Visit {
    async fn connection(self, stream: TcpStream, tls: Option<TlsAcceptor>, watcher: Watcher) {
        let Some(acceptor) = tls else {
            return self.serve(stream, watcher).await;
        };
        match timeout(PEER_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream, watcher).await,
            Ok(Err(error)) => {
                self.house.counters.add(Count::ConnectionsRefused, 1);
                tracing::info!(%error, "refused a connection of a foreign system");
            }
            Err(_) => self.house.counters.add(Count::ConnectionsRefused, 1),
        }
    }

    async fn serve<S>(self, stream: S, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let counters = Arc::clone(&self.house.counters);
        let has_asked = Arc::new(AtomicBool::new(false));
        let service = service_fn({
            let has_asked = Arc::clone(&has_asked);
            move |request| {
                has_asked.store(true, Ordering::Relaxed);
                let visit = self.clone();
                async move { Ok::<_, Infallible>(visit.respond(request).await) }
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(IDLE_TIMEOUT)
            .max_concurrent_streams(STREAMS_MAX);
        let connection = builder
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        let mut connection = std::pin::pin!(watcher.watch(connection));
        // Who connects and says nothing must not hold a place: no timer of the protocols covers that.
        tokio::select! {
            _ended = &mut connection => return,
            () = sleep(PEER_TIMEOUT) => {}
        }
        if !has_asked.load(Ordering::Relaxed) {
            counters.add(Count::RequestsSlow, 1);
            return;
        }
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection of a foreign system ended early");
        }
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Answer> {
        let house = &self.house;
        match self.speech {
            Speech::OtlpGrpc => otlp::grpc(house, request).await,
            Speech::OtlpHttp => otlp::http(house, request).await,
            Speech::Als => als::stream(house, request, &self.shutdown).await,
        }
    }
}

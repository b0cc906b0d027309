//! The native receiver: HTTP over mutual TLS, one workload a connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use bytes::Bytes;
use counterfoil_entry::clock;
use counterfoil_trust::{
    ClientAuth, Identity, Peer, Refusal, peer_of, refusal_of_io, server_config,
};
use http::{HeaderValue, Method, Request as HttpRequest, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::admin::Meters;
use crate::answer::{Answer, Reason, Refused};
use crate::bookkeeper::Request;
use crate::intake::{BATCH_BYTES_MAX, Desks, read_batch, read_hello, read_statement};

/// Connections at a time; one more waits in the kernel.
const CONNECTIONS_MAX: usize = 4096;
/// Bytes of a statement or an announcement at most: a row that keeps it fits into every spool.
const SIGNED_BYTES_MAX: usize = 512 << 10;
/// KiB of bodies that are read or wait for their answer at a time; who comes then is to try again.
pub(crate) const BODIES_KIB_MAX: usize = 256 << 10;
/// Time for a handshake, and for the body of a request.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a request after which a connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Time that connections get to end at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// What every connection needs.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    pub(crate) identity: Identity,
    pub(crate) desks: Desks,
    pub(crate) requests: SyncSender<Request>,
    /// From then on only the collector itself is served.
    pub(crate) is_closing: Arc<AtomicBool>,
    /// Room for bodies, in KiB.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) meters: Meters,
}

impl Receiver {
    /// Serves `listener` until `shutdown`; then lets connections end for a short time.
    pub(crate) async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let tls = server_config(&self.identity, ClientAuth::Required, &[b"h2", b"http/1.1"]);
        let acceptor = TlsAcceptor::from(tls);
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
                accepted = listener.accept() => accepted,
            };
            while connections.try_join_next().is_some() {}
            let stream = match stream {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (receiver, acceptor) = (self.clone(), acceptor.clone());
            let watcher = graceful.watcher();
            connections.spawn(async move {
                receiver.connection(stream, acceptor, watcher).await;
                drop(permit);
            });
        }
        drop(listener);
        let drained = timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
        if drained.is_err() {
            tracing::warn!("connections were still open at the end: closing them");
        }
        connections.shutdown().await;
    }

    async fn connection(self, stream: TcpStream, acceptor: TlsAcceptor, watcher: Watcher) {
        let from = stream
            .peer_addr()
            .map_or_else(|_| "unknown".to_owned(), |a| a.to_string());
        let peer = match timeout(PEER_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(tls)) => peer_of(tls.get_ref().1.peer_certificates().unwrap_or_default())
                .map(|peer| (tls, peer)),
            Ok(Err(error)) => Err(refusal_of_io(&error).unwrap_or(Refusal::Protocol)),
            Err(_) => Err(Refusal::Protocol),
        };
        let (tls, peer) = match peer {
            Ok(both) => both,
            Err(refusal) => {
                tracing::warn!(
                    from,
                    reason = refusal.reason(),
                    "refused a connection: {refusal}"
                );
                return;
            }
        };
        let peer = Arc::new(peer);
        let service = service_fn(move |request| {
            let (receiver, peer) = (self.clone(), Arc::clone(&peer));
            async move { Ok::<_, Infallible>(receiver.respond(request, &peer).await) }
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
            .max_concurrent_streams(16);
        let connection = builder
            .serve_connection(TokioIo::new(tls), service)
            .into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(from, %error, "a connection ended early");
        }
    }

    async fn respond(&self, request: HttpRequest<Incoming>, peer: &Peer) -> Response<Full<Bytes>> {
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED);
        }
        let is_own = peer.spiffe_id.as_str() == self.desks.collector;
        if self.is_closing.load(Ordering::Acquire) && !is_own {
            return render(Err(overload("the collector is stopping")));
        }
        let path = request.uri().path().to_owned();
        if !matches!(path.as_str(), "/v1/hello" | "/v1/batch" | "/v1/statement") {
            return plain(StatusCode::NOT_FOUND);
        }
        let limit = if path == "/v1/batch" {
            BATCH_BYTES_MAX
        } else {
            SIGNED_BYTES_MAX
        };
        // What a request says of its length is not exceeded; one that says nothing may take the limit.
        let length = request.body().size_hint().upper();
        let length = length.map_or(limit, |length| {
            limit.min(usize::try_from(length).unwrap_or(limit))
        });
        let length_kib = u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX);
        let Ok(_room) = self.room.try_acquire_many(length_kib) else {
            return render(Err(overload("too many bodies are on their way")));
        };
        let body = match read_body(request, limit).await {
            Ok(body) => body,
            Err(refused) => return render(Err(refused)),
        };
        let (began_ns, bytes) = (clock::mono_ns(), body.len());
        let answer = self.answer(&path, body, peer).await;
        let word = answer
            .as_ref()
            .err()
            .map_or("taken", |refused| refused.reason.word());
        let took = Duration::from_nanos(clock::mono_ns().saturating_sub(began_ns));
        self.meters.answered(&path, word, bytes, took);
        render(answer)
    }

    /// Reads a request's body and waits for the bookkeeper's answer.
    pub(crate) async fn answer(&self, path: &str, body: Bytes, peer: &Peer) -> Answer {
        let id = peer.spiffe_id.as_str();
        let (to, answer) = oneshot::channel();
        let request = match path {
            "/v1/hello" => {
                let roots = self.identity.roots();
                let hello = read_hello(&body, id, roots, clock::wall())?;
                Request::Hello(Box::new(hello), to)
            }
            "/v1/batch" => Request::Batch(read_batch(body, id, &self.desks)?, to),
            _ => Request::Statement(Box::new(read_statement(&body, id)?), to),
        };
        match self.requests.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(overload("the queue is full")),
            Err(TrySendError::Disconnected(_)) => {
                return Err(overload("the collector is stopping"));
            }
        }
        answer
            .await
            .unwrap_or_else(|_| Err(overload("the collector is stopping")))
    }
}

fn overload(detail: &str) -> Refused {
    Refused::new(Reason::Overload, detail)
}

async fn read_body(request: HttpRequest<Incoming>, limit: usize) -> Result<Bytes, Refused> {
    let body = Limited::new(request.into_body(), limit);
    match timeout(PEER_TIMEOUT, body.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let detail = format!("the body is longer than {limit} bytes");
            Err(Refused::new(Reason::TooLarge, detail))
        }
        Ok(Err(_)) | Err(_) => Err(overload("the body did not come in time")),
    }
}

fn render(answer: Answer) -> Response<Full<Bytes>> {
    let (status, body) = match answer {
        Ok(acknowledged) => match serde_json::to_string(&acknowledged) {
            Ok(body) => (StatusCode::OK, body),
            Err(_) => return plain(StatusCode::INTERNAL_SERVER_ERROR),
        },
        Err(refused) => {
            tracing::info!(
                reason = refused.reason.word(),
                detail = refused.detail,
                "refused"
            );
            (refused.reason.status(), refused.body())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    response
}

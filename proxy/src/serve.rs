//! Accepting connections and serving HTTP on them, within limits, until the worker stops.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use counterfoil_entry::entry::Entry;
use counterfoil_entry::word::Side;
use counterfoil_entry::{Time, clock};
use counterfoil_trust::{peer_of, refusal_of_io};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use crate::body::ResponseBody;
use crate::heads::{Framing, StrictHeads};
use crate::inbound::{self, FromPeer};
use crate::link::HEADER_BYTES_MAX;
use crate::outbound::{self, FromApp};
use crate::relay;
use crate::transport::HANDSHAKE_TIMEOUT;
use crate::worker::Worker;

/// Open connections of one worker and direction; more wait in the kernel.
const CONNECTIONS_MAX: usize = 4_096;
/// Calls at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 1_024;
/// Longest time for one request's headers; also how long an idle connection of another proxy that
/// speaks HTTP/1.1 is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// The same towards the application. Usual client pools drop an idle connection after 90 s, and
/// whoever closes first must be the client, or its next request meets a closing connection.
const APP_HEADER_TIMEOUT: Duration = Duration::from_secs(120);
/// Pings to a caller with open calls, so that a dead one is noticed.
const PING_EVERY: Duration = Duration::from_secs(15);
/// Pause after the kernel refused a connection, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Which way a listener's calls go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

/// Accepts connections until the worker stops.
pub(crate) async fn accept(worker: Arc<Worker>, listener: TcpListener, direction: Direction) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = worker.stop.cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, address)) => {
                let connection = connection(Arc::clone(&worker), stream, address, direction, place);
                worker.tasks.spawn(connection);
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    worker: Arc<Worker>,
    stream: TcpStream,
    address: SocketAddr,
    direction: Direction,
    _place: Option<OwnedSemaphorePermit>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "setting nodelay");
    }
    worker.scribe.counters().connected();
    match direction {
        Direction::Outbound => from_app(&worker, stream, address).await,
        Direction::Inbound => from_peer(&worker, stream, address).await,
    }
    worker.scribe.counters().disconnected();
}

async fn from_app(worker: &Arc<Worker>, stream: TcpStream, address: SocketAddr) {
    let entry = worker.scribe.entry_of_connection(Side::Client, address);
    let from = Arc::new(FromApp {
        worker: Arc::clone(worker),
        entry,
    });
    let mut server = server();
    server.http1().header_read_timeout(APP_HEADER_TIMEOUT);
    let service = |request| outbound::serve(Arc::clone(&from), request);
    let over = std::future::pending();
    serve(worker, &from.entry, &server, stream, service, over).await;
}

async fn from_peer(worker: &Arc<Worker>, stream: TcpStream, address: SocketAddr) {
    let Some(accepted) = handshake(worker, stream, address).await else {
        return;
    };
    let Accepted {
        stream,
        from,
        open_for,
    } = accepted;
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let from = Arc::new(from);
    let over = sleep(open_for);
    if is_h2 {
        let service = |request| inbound::serve(Arc::clone(&from), request);
        let server = server().http2_only();
        serve(worker, &from.entry, &server, stream, service, over).await;
        return;
    }
    let framing = Framing::new();
    let stream = StrictHeads::new(stream, framing.clone());
    let service = |request: Request<Incoming>| {
        framing.tell(request.body());
        inbound::serve(Arc::clone(&from), request)
    };
    let server = server().http1_only();
    serve(worker, &from.entry, &server, stream, service, over).await;
}

/// Most time between the end of taking requests and the end of a certificate.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);

/// How long a connection takes requests that is good until `not_after`: until a tenth of the time is
/// left, at most [`EXPIRY_MARGIN`]. A caller has long since made another one by then, and if it
/// could not, it makes one that is good for a shorter time.
fn open_for(not_after: Time, now: Time) -> Duration {
    let left = Duration::from_nanos(u64::try_from(not_after.since_ns(now)).unwrap_or(0));
    left.saturating_sub((left / 10).min(EXPIRY_MARGIN))
}

/// A caller whose certificate has been verified.
struct Accepted {
    stream: TlsStream<TcpStream>,
    from: FromPeer,
    /// How long to take requests on this connection.
    open_for: Duration,
}

/// Mutual TLS with a caller. A refusal is written into the books.
async fn handshake(
    worker: &Arc<Worker>,
    stream: TcpStream,
    address: SocketAddr,
) -> Option<Accepted> {
    let began_ns = clock::mono_ns();
    let mut entry = worker.scribe.entry_of_connection(Side::Server, address);
    entry.start_time = clock::wall();
    let (own, acceptor) = worker.tls.acceptor(&worker.identity);
    entry.destination_cert_sha256 = Some(own.cert_sha256());
    let accepted = tokio::select! {
        () = worker.stop.cancelled() => return None,
        accepted = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)) => accepted,
    };
    let refused = match accepted {
        Ok(Ok(stream)) => {
            let (_, session) = stream.get_ref();
            match peer_of(session.peer_certificates().unwrap_or_default()) {
                Ok(peer) => {
                    let cipher = session
                        .negotiated_cipher_suite()
                        .and_then(|suite| suite.suite().as_str());
                    let spiffe_id: Arc<str> = Arc::from(peer.spiffe_id.as_str());
                    entry.source = Some(Arc::clone(&spiffe_id));
                    entry.source_cert_sha256 = Some(peer.cert_sha256);
                    entry.mtls = true;
                    entry.tls_version = Some(Arc::clone(&worker.scribe.words.tls13));
                    entry.tls_cipher = cipher.map(Arc::from);
                    let worker = Arc::clone(worker);
                    let (not_after, cert_sha256) = (peer.not_after, peer.cert_sha256);
                    return Some(Accepted {
                        stream,
                        open_for: open_for(not_after.min(own.not_after()), clock::wall()),
                        from: FromPeer {
                            worker,
                            entry,
                            spiffe_id,
                            cert_sha256,
                            not_after,
                        },
                    });
                }
                Err(refusal) => refusal.reason(),
            }
        }
        Ok(Err(error)) => match refusal_of_io(&error) {
            Some(refusal) => refusal.reason(),
            // the caller hung up or was cut off: nothing was refused
            None => return None,
        },
        Err(_elapsed) => "tls_timeout",
    };
    tracing::info!(peer = %address, reason = refused, "refused a handshake");
    worker.scribe.refused_handshake(entry, began_ns, refused);
    None
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX as usize);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING_EVERY);
    server
}

/// Serves a connection to its end; `entry` is the common part of its entries. When the worker stops,
/// or at `over`, it takes no further request: HTTP/2 says GOAWAY, HTTP/1.1 `connection: close`. What
/// is under way ends in peace.
async fn serve<T, S, F>(
    worker: &Worker,
    entry: &Entry,
    server: &auto::Builder<TokioExecutor>,
    stream: T,
    service: S,
    over: impl Future<Output = ()> + Send,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Incoming>) -> F + Send + Sync,
    F: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    let service = service_fn(|request| {
        let response = service(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    let no_more = worker.stop.run_until_cancelled(over);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _stopped = no_more => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a caller's connection ended");
        if let Some(error_type) = error.downcast_ref().and_then(unreadable) {
            let policy = worker.policy.current();
            relay::unreadable(&worker.scribe, entry, policy.as_ref(), error_type);
        }
    }
}

/// What was wrong with the head of a request that no service got to see.
fn unreadable(error: &hyper::Error) -> Option<&'static str> {
    if error.is_parse_too_large() {
        Some("head_too_large")
    } else if error.is_parse() {
        Some("head_unreadable")
    } else {
        None
    }
}

//! TCP to a next hop, mutual TLS on it, and a wrapper that notes why the other side hung up.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use counterfoil_entry::clock;
use counterfoil_trust::{Refusal, Svid, peer_of, refusal_of_io, server_name};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::link::{CONNECT_TIMEOUT, Dialled, FarEnd, Link, Secured};

/// Longest wait for a TLS handshake.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to `address`, `host:port`.
pub(crate) async fn connect(address: &str) -> Result<(TcpStream, u64), Failure> {
    let began_ns = clock::mono_ns();
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_elapsed| Failure::CONNECT_TIMEOUT)?
        .map_err(|error| Failure::of_connect(&error))?;
    // small frames must not wait for each other; a socket without the option still works
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %address, "setting nodelay");
    }
    Ok((stream, clock::mono_ns().saturating_sub(began_ns)))
}

/// Connects to another proxy: TCP, mutual TLS 1.3, HTTP/2. `tls` shows `own`.
pub(crate) async fn connect_to_proxy(
    address: &str,
    tls: Arc<ClientConfig>,
    own: &Svid,
) -> Result<(Link, Dialled), Failure> {
    let (stream, connect_ns) = connect(address).await?;
    let began_ns = clock::mono_ns();
    let handshake = TlsConnector::from(tls).connect(server_name(), stream);
    let stream = timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_elapsed| Failure::CONNECT_TIMEOUT)?
        .map_err(|error| Failure::of_handshake(&error))?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(b"h2") {
        return Err(Failure::PROTOCOL);
    }
    let peer =
        peer_of(session.peer_certificates().unwrap_or_default()).map_err(Failure::refused)?;
    let cipher = session
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str());
    let refusal = Arc::new(OnceLock::new());
    let settled = CancellationToken::new();
    let not_after = peer.not_after.min(own.not_after());
    let far_end = Arc::new(FarEnd {
        address: Arc::from(address),
        secured: Some(Secured {
            spiffe_id: Arc::from(peer.spiffe_id.as_str()),
            peer_cert: peer.cert_sha256,
            own_cert: own.cert_sha256(),
            cipher: cipher.map(Arc::from),
            not_after,
            renew_at: Secured::renewal(clock::wall(), not_after),
            settled: settled.clone(),
        }),
        refusal: Arc::clone(&refusal),
    });
    let handshake_ns = Some(clock::mono_ns().saturating_sub(began_ns));
    let link = Link::open(
        Noting {
            stream,
            refusal,
            unsettled: Some(settled),
            write_failed: None,
        },
        far_end,
    )
    .await?;
    Ok((
        link,
        Dialled {
            connect_ns,
            handshake_ns,
        },
    ))
}

/// A transport that notes the alert by which the other side refused us, as HTTP/2 above it keeps
/// only the kind of an error, and the first bytes, by which it accepted us.
#[derive(Debug)]
struct Noting<T> {
    stream: T,
    refusal: Arc<OnceLock<Refusal>>,
    /// Until something has come.
    unsettled: Option<CancellationToken>,
    /// A write that failed, held back until the alert behind it has been looked for.
    write_failed: Option<io::Error>,
}

impl<T> Noting<T> {
    fn noted<V>(&self, polled: Poll<io::Result<V>>) -> Poll<io::Result<V>> {
        if let Poll::Ready(Err(error)) = &polled
            && let Some(refusal) = refusal_of_io(error)
        {
            // the first alert is the cause, later ones are its consequence
            let _first = self.refusal.set(refusal);
        }
        polled
    }
}

impl<T: AsyncRead + Unpin> Noting<T> {
    /// Holds a failed write back until what came before the failure has been read. Whoever refuses
    /// sends an alert and hangs up at once, and writing may fail before the alert is seen.
    fn written<V>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<V>>,
    ) -> Poll<io::Result<V>> {
        match polled {
            Poll::Ready(Err(error)) if self.refusal.get().is_none() => {
                self.write_failed = Some(error);
                self.read_the_rest(cx)
            }
            polled => self.noted(polled),
        }
    }

    /// Reads to the end that a broken connection has, and then gives the write's error.
    fn read_the_rest<V>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<V>> {
        let mut space = [0; 512];
        for _ in 0..UNREAD_LOOKS {
            let mut unread = ReadBuf::new(&mut space);
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut unread);
            if read.is_pending() {
                return Poll::Pending;
            }
            let more = matches!(read, Poll::Ready(Ok(()))) && !unread.filled().is_empty();
            let _noted = self.noted(read);
            if !more {
                break;
            }
        }
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        Poll::Ready(Err(self.write_failed.take().unwrap_or_else(broken)))
    }
}

/// Blocks of 512 bytes that are passed over in search of an alert.
const UNREAD_LOOKS: usize = 8;

impl<T: AsyncRead + Unpin> AsyncRead for Noting<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if self.unsettled.is_some() && !buffer.filled().is_empty() {
            self.unsettled
                .take()
                .into_iter()
                .for_each(|unsettled| unsettled.cancel());
        }
        self.noted(polled)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Noting<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.write_failed.is_some() {
            return self.read_the_rest(cx);
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.write_failed.is_some() {
            return self.read_the_rest(cx);
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_failed.is_some() {
            return self.read_the_rest(cx);
        }
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! One multiplexed HTTP/2 connection to a next hop, shared by all calls of a worker.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use counterfoil_entry::{Hash, Time, clock};
use counterfoil_trust::Refusal;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::body::RequestBody;
use crate::failure::Failure;

/// Longest wait for a TCP connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Pings on a connection with open calls, so that a dead next hop is noticed.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest block of response headers.
pub(crate) const HEADER_BYTES_MAX: u32 = 64 << 10;

/// An open connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    sender: http2::SendRequest<RequestBody>,
    pub(crate) far_end: Arc<FarEnd>,
}

/// What is known of the other end of a connection.
#[derive(Debug)]
pub(crate) struct FarEnd {
    /// `address:port`.
    pub(crate) address: Arc<str>,
    /// Set when the connection is mutual TLS.
    pub(crate) secured: Option<Secured>,
    /// Noted by the transport when the other side refused our certificate after all.
    pub(crate) refusal: Arc<OnceLock<Refusal>>,
}

/// The TLS session below a connection.
#[derive(Debug)]
pub(crate) struct Secured {
    pub(crate) spiffe_id: Arc<str>,
    pub(crate) peer_cert: Hash,
    pub(crate) own_cert: Hash,
    pub(crate) cipher: Option<Arc<str>>,
    /// When the first of the two certificates expires.
    pub(crate) not_after: Time,
}

/// How long a call waited for the connection that it made (ns).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Dialled {
    pub(crate) connect_ns: u64,
    pub(crate) handshake_ns: Option<u64>,
}

impl Link {
    /// Speaks HTTP/2 over an open transport.
    pub(crate) async fn open<T>(transport: T, far_end: Arc<FarEnd>) -> Result<Self, Failure>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_header_list_size(HEADER_BYTES_MAX)
            .handshake(TokioIo::new(transport))
            .await
            .map_err(|error| Failure::of_send(&error, far_end.refusal.get().copied()))?;
        let address = Arc::clone(&far_end.address);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, %address, "a connection to a next hop ended");
            }
        });
        Ok(Self { sender, far_end })
    }

    pub(crate) const fn sender(&mut self) -> &mut http2::SendRequest<RequestBody> {
        &mut self.sender
    }

    /// SHA-256 of the client certificate under which it was made.
    pub(crate) fn own_cert(&self) -> Option<Hash> {
        self.far_end.secured.as_ref().map(|tls| tls.own_cert)
    }

    fn is_usable(&self) -> bool {
        let expired = |tls: &Secured| tls.not_after <= clock::wall();
        !self.sender.is_closed() && !self.far_end.secured.as_ref().is_some_and(expired)
    }
}

/// The place of one link: dialled by the first call that needs it, and again when it has closed.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    open: Mutex<Option<Link>>,
    dialling: tokio::sync::Mutex<LastFailure>,
}

/// When the last dial failed and why, for those that were waiting for it.
#[derive(Debug, Default)]
struct LastFailure(Option<(u64, Failure)>);

impl Slot {
    /// The open link, or a new one made by `dial`: also when the open one is not under the client
    /// certificate `only`. Callers that arrive during a dial share its result, good or bad. Cancel
    /// safe: the next caller dials.
    pub(crate) async fn link<D, F>(
        &self,
        only: Option<Hash>,
        dial: D,
    ) -> Result<(Link, Option<Dialled>), Failure>
    where
        D: FnOnce() -> F + Send,
        F: Future<Output = Result<(Link, Dialled), Failure>> + Send,
    {
        if let Some(link) = self.usable(only) {
            return Ok((link, None));
        }
        let asked_ns = clock::mono_ns();
        let mut last = self.dialling.lock().await;
        if let Some(link) = self.usable(only) {
            return Ok((link, None));
        }
        if let Some((_, failure)) = last.0.filter(|(failed_ns, _)| *failed_ns >= asked_ns) {
            return Err(failure);
        }
        // dialling is rare and its future is large: calls do not carry its size
        match Box::pin(dial()).await {
            Ok((link, dialled)) => {
                *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(link.clone());
                Ok((link, Some(dialled)))
            }
            Err(failure) => {
                last.0 = Some((clock::mono_ns(), failure));
                Err(failure)
            }
        }
    }

    fn usable(&self, only: Option<Hash>) -> Option<Link> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = |link: &Link| only.is_some_and(|cert| link.own_cert() != Some(cert));
        // calls on a link that is left here keep it until they have ended
        if open
            .as_ref()
            .is_some_and(|link| !link.is_usable() || is_other(link))
        {
            *open = None;
        }
        open.clone()
    }
}

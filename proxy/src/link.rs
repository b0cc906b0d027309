//! One multiplexed HTTP/2 connection to a next hop, shared by all calls of a worker.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use counterfoil_entry::{Hash, Time, clock};
use counterfoil_trust::Refusal;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::body::RequestBody;
use crate::failure::Failure;
use crate::transport::HANDSHAKE_TIMEOUT;

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
    /// When a new connection is to take the place of this one, in case the other side has a new
    /// certificate by then.
    pub(crate) renew_at: Time,
    /// Cancelled when the other side has said something, or the connection has ended. In TLS 1.3 a
    /// client's handshake is over before the other side has looked at its certificate.
    pub(crate) settled: CancellationToken,
}

impl Secured {
    /// When to renew a connection that is made at `now` and is good until `not_after`: when 60 to
    /// 70 % of that time are over. Certificates are renewed before, at 45 to 55 % of their life.
    pub(crate) fn renewal(now: Time, not_after: Time) -> Time {
        let left_ns = u64::try_from(not_after.since_ns(now)).unwrap_or(0);
        let wait = Duration::from_nanos(left_ns).mul_f64(rand::random_range(0.6..0.7));
        now.plus_ns(i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX))
    }
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
        let secured = far_end.secured.as_ref();
        let settled = secured.map(|tls| tls.settled.clone());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, %address, "a connection to a next hop ended");
            }
            settled.into_iter().for_each(|settled| settled.cancel());
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

    /// Waits until the other side has accepted the connection, certificate and all.
    async fn accepted(&self) -> Result<(), Failure> {
        if let Some(tls) = &self.far_end.secured {
            timeout(HANDSHAKE_TIMEOUT, tls.settled.cancelled())
                .await
                .map_err(|_elapsed| Failure::CONNECT_TIMEOUT)?;
        }
        match self.far_end.refusal.get() {
            Some(refusal) => Err(Failure::refused(*refusal)),
            None if self.sender.is_closed() => Err(Failure::RESET),
            None => Ok(()),
        }
    }

    /// Whether another connection should take its place: `own_cert` has followed the certificate
    /// that it was made with, or the other side's has probably been followed.
    fn is_due(&self, own_cert: Hash) -> bool {
        let due = |tls: &Secured| tls.own_cert != own_cert || tls.renew_at <= clock::wall();
        self.far_end.secured.as_ref().is_some_and(due)
    }
}

/// The place of one link: dialled by the first call that needs it, and again when it has closed.
///
/// A link whose certificates have been followed by new ones is renewed beside the calls: they go on
/// over the old one until the new one is there, so that none waits or fails for it. What is under
/// way on the old one ends there; then nobody holds it any more, and it closes.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    open: Mutex<Option<Link>>,
    dialling: tokio::sync::Mutex<LastFailure>,
    renewal: Mutex<Renewal>,
}

/// The renewal of a link that is still good.
#[derive(Debug, Default)]
struct Renewal {
    is_running: bool,
    /// Not before this, by the monotonic clock.
    again_ns: u64,
}

/// Pause after a renewal, good or not: a busy link must not dial with every call.
const RENEWAL_PAUSE: Duration = Duration::from_millis(250);

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

    /// Whether the caller is to renew `link`, which came from this place, now that `own_cert` is in
    /// use; then [`Slot::renew`] must follow.
    pub(crate) fn begins_renewal(&self, link: &Link, own_cert: Hash) -> bool {
        if !link.is_due(own_cert) {
            return false;
        }
        let mut renewal = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = !renewal.is_running && renewal.again_ns <= clock::mono_ns();
        renewal.is_running |= begins;
        begins
    }

    /// Puts the link that `dial` makes into the place of the open one, which stays when it makes
    /// none. Not cancel safe: it would not be renewed again.
    pub(crate) async fn renew<F>(&self, dial: F)
    where
        F: Future<Output = Result<(Link, Dialled), Failure>> + Send,
    {
        let made = async {
            let (link, _) = dial.await?;
            link.accepted().await.map(|()| link)
        };
        match made.await {
            Ok(link) => {
                *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(link);
            }
            Err(failure) => {
                tracing::warn!(
                    error = failure.error_type,
                    "a connection with the new certificate is not there yet: the old one is used"
                );
            }
        }
        let pause_ns = u64::try_from(RENEWAL_PAUSE.as_nanos()).unwrap_or(0);
        *self.renewal.lock().unwrap_or_else(PoisonError::into_inner) = Renewal {
            is_running: false,
            again_ns: clock::mono_ns().saturating_add(pause_ns),
        };
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

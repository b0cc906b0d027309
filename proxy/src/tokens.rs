//! Access tokens for the APIs that want one: fetched from control when a call needs it, kept with the
//! certificate to which they are bound, and renewed beside the calls.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use counterfoil_entry::{Hash, clock};
use counterfoil_spool::join::JoinError;
use counterfoil_spool::token::{AccessToken, fetch_token};
use counterfoil_trust::Identity;
use http::{HeaderValue, StatusCode};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::failure::Failure;

/// First and longest bound of the wait after control gave no token; the wait is a random part of it.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// The tokens of one process. Reading them takes no lock.
#[derive(Debug)]
pub(crate) struct Tokens {
    identity: Identity,
    control: String,
    /// One place for each API that was called: no more than the bundles have named.
    places: ArcSwap<HashMap<Arc<str>, Arc<Place>>>,
}

/// A token and where it may be shown.
#[derive(Debug)]
pub(crate) struct Token {
    /// Marked as sensitive.
    pub(crate) authorization: HeaderValue,
    /// SHA-256 of the client certificate to which it is bound.
    pub(crate) cert: Hash,
    /// By the monotonic clock.
    renew_ns: u64,
    until_ns: u64,
    /// A callee has refused it: there may be a better one.
    doubted: AtomicBool,
}

/// The place of one API's token.
#[derive(Debug)]
struct Place {
    api: Arc<str>,
    kept: ArcSwapOption<Token>,
    /// Held by the one that asks control.
    asking: Arc<Mutex<Asking>>,
}

/// What the next one that asks control has to know.
#[derive(Debug, Default)]
struct Asking {
    /// After control gave no token.
    pause: Pause,
    /// Control has answered that there is none for this workload.
    is_refused: bool,
    /// After a callee refused a token, which the next one may do as well.
    doubts: Pause,
}

/// How long control is left alone.
#[derive(Debug, Default)]
struct Pause {
    until_ns: u64,
    times: u32,
}

impl Tokens {
    pub(crate) fn new(identity: Identity, control: String) -> Self {
        Self {
            identity,
            control,
            places: ArcSwap::default(),
        }
    }

    /// A good token for `api`, as far as may be one that is bound to `cert`; `None` when control
    /// gives this workload none, and the callee will say why.
    ///
    /// A call waits only when there is no good one. Cancel safe: the next call asks.
    ///
    /// # Errors
    /// [`Failure::TOKEN_UNAVAILABLE`] when control cannot be asked now.
    pub(crate) async fn token(
        self: &Arc<Self>,
        api: &Arc<str>,
        cert: Option<Hash>,
    ) -> Result<Option<Arc<Token>>, Failure> {
        let place = self.place(api);
        if let Some(token) = place.good(cert) {
            if !token.doubted.load(Ordering::Relaxed) {
                self.renew_beside(&place, &token);
                return Ok(Some(token));
            }
            return Ok(Some(self.better(&place, token).await));
        }
        // asking is rare and its future is large: calls do not carry its size
        Box::pin(self.wait_for(&place, cert)).await
    }

    /// Calls that wait together share one answer.
    async fn wait_for(
        &self,
        place: &Place,
        cert: Option<Hash>,
    ) -> Result<Option<Arc<Token>>, Failure> {
        let asking = Arc::clone(&place.asking).lock_owned().await;
        if let Some(token) = place.good(cert) {
            return Ok(Some(token));
        }
        match (asking.pause.is_over(), asking.is_refused) {
            (true, _) => self.ask(place, asking).await,
            (false, true) => Ok(None),
            (false, false) => Err(Failure::TOKEN_UNAVAILABLE),
        }
    }

    /// Asks for a better token than one that a callee has refused: one call does, and not too often.
    /// The others go on with what there is.
    async fn better(&self, place: &Place, refused: Arc<Token>) -> Arc<Token> {
        let Ok(mut asking) = Arc::clone(&place.asking).try_lock_owned() else {
            return refused;
        };
        if !asking.pause.is_over() || !asking.doubts.is_over() {
            return refused;
        }
        asking.doubts.begin();
        let asked = Box::pin(self.ask(place, asking)).await;
        asked.ok().flatten().unwrap_or(refused)
    }

    /// A callee has refused `token`: it was revoked, or does not name what was granted since. The
    /// next call looks for a better one.
    pub(crate) fn doubt(token: &Token) {
        token.doubted.store(true, Ordering::Relaxed);
    }

    fn place(&self, api: &Arc<str>) -> Arc<Place> {
        if let Some(place) = self.places.load().get(api) {
            return Arc::clone(place);
        }
        let new = Arc::new(Place {
            api: Arc::clone(api),
            kept: ArcSwapOption::empty(),
            asking: Arc::default(),
        });
        self.places.rcu(|places| {
            let mut places = HashMap::clone(places);
            places
                .entry(Arc::clone(api))
                .or_insert_with(|| Arc::clone(&new));
            places
        });
        self.places.load().get(api).map_or(new, Arc::clone)
    }

    /// Renews a token that is near its end, or bound to a certificate that has been renewed. Calls go
    /// on with `token` meanwhile.
    fn renew_beside(self: &Arc<Self>, place: &Arc<Place>, token: &Token) {
        let is_due = token.renew_ns <= clock::mono_ns()
            || token.cert != self.identity.current().cert_sha256();
        if !is_due {
            return;
        }
        let Ok(asking) = Arc::clone(&place.asking).try_lock_owned() else {
            return;
        };
        if asking.pause.is_over() {
            let (tokens, place) = (Arc::clone(self), Arc::clone(place));
            // nobody waits for it: what comes is found in its place
            tokio::spawn(async move { tokens.ask(&place, asking).await.is_ok() });
        }
    }

    /// Asks control, whose answer is kept.
    async fn ask(
        &self,
        place: &Place,
        mut asking: OwnedMutexGuard<Asking>,
    ) -> Result<Option<Arc<Token>>, Failure> {
        let identity = self.identity.pinned();
        let asked_ns = clock::mono_ns();
        let error = match fetch_token(&identity, &self.control, None, &place.api).await {
            Ok(token) => {
                let token = Arc::new(Token::new(token, &identity, asked_ns));
                place.kept.store(Some(Arc::clone(&token)));
                asking.pause = Pause::default();
                return Ok(Some(token));
            }
            Err(error) => error,
        };
        if asking.pause.times == 0 {
            let api = &*place.api;
            tracing::warn!(%error, api, "control gives no token; it is asked again");
        }
        asking.pause.begin();
        asking.is_refused = is_refusal(&error);
        if !asking.is_refused {
            return Err(Failure::TOKEN_UNAVAILABLE);
        }
        // the right is gone, and so has the token that shows it
        place.kept.store(None);
        Ok(None)
    }
}

/// Whether control answered that there is no token for this workload and API (RFC 6749 5.2).
fn is_refusal(error: &JoinError) -> bool {
    let bad_request = StatusCode::BAD_REQUEST.as_u16();
    matches!(error, JoinError::Refused { status, .. } if *status == bad_request)
}

impl Token {
    fn new(token: AccessToken, identity: &Identity, asked_ns: u64) -> Self {
        let svid = identity.current();
        let left_ns = svid.not_after().since_ns(clock::wall());
        let left = Duration::from_nanos(u64::try_from(left_ns).unwrap_or(0));
        let life = token.expires_in.min(left);
        let after = |share: u32| {
            let life_ns = u64::try_from((life * share / 100).as_nanos()).unwrap_or(u64::MAX);
            asked_ns.saturating_add(life_ns)
        };
        Self {
            authorization: token.authorization,
            cert: svid.cert_sha256(),
            renew_ns: after(75),
            until_ns: after(100),
            doubted: AtomicBool::new(false),
        }
    }
}

impl Place {
    fn good(&self, cert: Option<Hash>) -> Option<Arc<Token>> {
        let token = self.kept.load_full()?;
        let is_bound = cert.is_none_or(|cert| token.cert == cert);
        (is_bound && clock::mono_ns() < token.until_ns).then_some(token)
    }
}

impl Pause {
    fn is_over(&self) -> bool {
        self.until_ns <= clock::mono_ns()
    }

    fn begin(&mut self) {
        let most = PAUSE_FIRST
            .saturating_mul(1 << self.times.min(5))
            .min(PAUSE_MAX);
        let wait = most.mul_f64(rand::random_range(0.0..1.0));
        let wait_ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.until_ns = clock::mono_ns().saturating_add(wait_ns);
        self.times = self.times.saturating_add(1);
    }
}

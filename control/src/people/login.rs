//! Basic authentication against the people's verifiers. Passwords are checked off the network's
//! threads, a few at a time, and a log-in that succeeded is remembered for a while.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::extract::{Extension, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use counterfoil_entry::{Hash, clock, tree};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use rand::Rng as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::answer::Problem;
use super::registry::People;
use super::routes::Door;
use crate::governance::Actor;

/// Checking costs some milliseconds of a core each; guessing must leave cores to the others.
const CHECKS_MAX: usize = 2;
/// Who waits longer for a check is one of too many.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Time between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// People and their scripts of one estate.
const REMEMBERED_MAX: usize = 256;
const REMEMBERED_NS: u64 = 300 * 1_000_000_000;
const MINUTE_NS: u64 = 60 * 1_000_000_000;
/// Refused log-ins that become rows, in a minute; the next row tells how many did not.
const RECORDED_MAX: u32 = 10;
const CHALLENGE: &str = "Basic realm=\"counterfoil\", charset=\"UTF-8\"";

/// Who may come in, and who did lately.
#[derive(Debug)]
pub(crate) struct Login {
    people: ArcSwap<People>,
    file: PathBuf,
    checks: Semaphore,
    /// Of this process only, so that what is remembered fits no list of hashes.
    key: [u8; 32],
    /// Hashes of names and passwords that were right, and when.
    remembered: Mutex<HashMap<Hash, u64>>,
    refused: AtomicU64,
    told: Mutex<Told>,
}

/// Refused log-ins of the minute.
#[derive(Debug, Default)]
struct Told {
    begun_ns: u64,
    recorded: u32,
    untold: u64,
}

impl Login {
    /// `file` is where `people` were read from.
    pub(crate) fn new(people: People, file: PathBuf) -> Self {
        Self {
            people: ArcSwap::from_pointee(people),
            file,
            checks: Semaphore::new(CHECKS_MAX),
            key: rand::rng().random(),
            remembered: Mutex::default(),
            refused: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }

    /// Takes changes of the file until `shutdown`. One that is refused changes nothing.
    pub(crate) async fn watch(self: Arc<Self>, shutdown: CancellationToken) {
        let mut seen = self.stamp();
        let pause = || tokio::time::sleep(LOOK_EVERY);
        while shutdown.run_until_cancelled(pause()).await.is_some() {
            let now = self.stamp();
            if now == seen {
                continue;
            }
            seen = now;
            match People::load(&self.file) {
                Ok(people) => {
                    info!(?people, "the changed people are in force");
                    self.people.store(Arc::new(people));
                    // Who was let in may have another password now, or none.
                    self.forget();
                }
                Err(error) => error!(%error, "the changed people are not used"),
            }
        }
    }

    fn stamp(&self) -> Option<(u64, SystemTime)> {
        let meta = std::fs::metadata(&self.file).ok()?;
        Some((meta.len(), meta.modified().ok()?))
    }

    fn forget(&self) {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        remembered.clear();
    }

    /// Whether one more refused log-in is to be recorded, and how many before it were not: guessing must
    /// not fill the books.
    fn is_recorded(&self) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::mono_ns();
        if now.saturating_sub(told.begun_ns) > MINUTE_NS {
            told.begun_ns = now;
            told.recorded = 0;
        }
        if told.recorded >= RECORDED_MAX {
            told.untold += 1;
            return None;
        }
        told.recorded += 1;
        Some(std::mem::take(&mut told.untold))
    }

    /// Who comes with these headers.
    async fn admit(
        self: &Arc<Self>,
        headers: &HeaderMap,
        address: SocketAddr,
    ) -> Result<Actor, Problem> {
        let Some((name, password)) = credentials(headers) else {
            let detail = "log in with name and password (Basic)";
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "login_needed",
                detail,
            ));
        };
        let hash = self.hash(&name, &password);
        if !self.remembers(&hash) {
            self.check(&name, password).await?;
            self.remember(hash);
        }
        let people = self.people.load();
        let person = people.find(&name).ok_or_else(wrong)?;
        Ok(Actor {
            name: person.name.clone(),
            teams: person.teams.clone(),
            admin: person.admin,
            peer_address: Some(address.ip().to_string()),
        })
    }

    async fn check(self: &Arc<Self>, name: &str, password: String) -> Result<(), Problem> {
        let slot = tokio::time::timeout(WAIT_MAX, self.checks.acquire()).await;
        let Ok(Ok(_slot)) = slot else {
            let detail = "too many log-ins are being checked; try again";
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", detail));
        };
        let (login, whom) = (Arc::clone(self), name.to_owned());
        let fits =
            tokio::task::spawn_blocking(move || login.people.load().fits(&whom, &password)).await;
        if matches!(fits, Ok(true)) {
            return Ok(());
        }
        let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        warn!(refused, "a log-in was refused");
        Err(wrong())
    }

    /// Keyed, and with lengths, so that no two pairs of name and password give one.
    fn hash(&self, name: &str, password: &str) -> Hash {
        let mut bytes = self.key.to_vec();
        bytes.extend(name.len().to_be_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(password.as_bytes());
        tree::sha256(&bytes)
    }

    fn remembers(&self, hash: &Hash) -> bool {
        let remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = clock::mono_ns();
        remembered
            .get(hash)
            .is_some_and(|at| now.saturating_sub(*at) < REMEMBERED_NS)
    }

    fn remember(&self, hash: Hash) {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = clock::mono_ns();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, at| now.saturating_sub(*at) < REMEMBERED_NS);
        }
        if remembered.len() >= REMEMBERED_MAX {
            let oldest = remembered.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(hash, _)| *hash) {
                remembered.remove(&oldest);
            }
        }
        remembered.insert(hash, now);
    }
}

/// Lets a request pass with the person who makes it.
pub(super) async fn log_in(
    State((login, door)): State<(Arc<Login>, Arc<Door>)>,
    Extension(address): Extension<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    match login.admit(request.headers(), address).await {
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(problem) => {
            let mut response = problem.into_response();
            if response.status() == StatusCode::UNAUTHORIZED {
                if let Some((name, _)) = credentials(request.headers()) {
                    record(&login, door, name, address).await;
                }
                let challenge = HeaderValue::from_static(CHALLENGE);
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            response
        }
    }
}

/// The books keep who was refused; the answer is the same when they cannot.
async fn record(login: &Login, door: Arc<Door>, name: String, address: SocketAddr) {
    let Some(untold) = login.is_recorded() else {
        return;
    };
    let (desk, peer_address) = (door.desk(), address.ip().to_string());
    let recording =
        tokio::task::spawn_blocking(move || desk.refuse_login(&name, peer_address, untold));
    if let Ok(Err(error)) = recording.await {
        error!(%error, "a refused log-in is in this log alone");
    }
}

fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

fn wrong() -> Problem {
    let detail = "name and password do not belong together";
    Problem::new(StatusCode::UNAUTHORIZED, "login_failed", detail)
}

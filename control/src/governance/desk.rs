//! Where decisions are taken while control runs: one after another, each in the books and published
//! before its author is answered.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use counterfoil_entry::{Time, clock};
use counterfoil_spool::Lane;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::apis::{self, ApiImported};
use super::attempt::{Actor, Attempt};
use super::estate::{Change, Estate};
use super::grants::{self, Step};
use super::records::{ApiRecord, EventRecord, GrantRecord};
use super::refusal::Refusal;
use super::requests::{ApiImport, EstateImport, GrantRequest, Note, StatusChange, WorkloadRequest};
use super::workloads::{self, WorkloadRegistered};
use super::{Governance, GovernanceError};
use crate::published::{Cause, Publisher};
use crate::store::Store;

/// Of a name that nobody has, that much is kept.
const NAME_CHARS_MAX: usize = 64;
/// A grant that ran out is recorded within that time; proxies need nobody to tell them.
const LOOK: Duration = Duration::from_secs(1);
/// So many rows reach the disk together.
const BATCH: u32 = 1_000;

/// The one place that changes the governance state while control runs.
pub(crate) struct Desk {
    seat: Mutex<Seat>,
    estate: ArcSwap<Estate>,
    /// When the next grant runs out, ns; the largest number when none does.
    next_expiry_ns: AtomicI64,
    /// Whether books or bundles lag behind what is recorded.
    behind: AtomicBool,
    trust_domain: String,
    default_class: String,
    own: Actor,
}

/// What only one can use at a time.
struct Seat {
    governance: Governance,
    /// Absent while control does not run: what is owed waits for it.
    books: Option<Books>,
    unpublished: Option<Cause>,
}

/// What follows on a change, in this order.
#[derive(Debug)]
pub(crate) struct Books {
    /// The desk's own.
    pub(crate) lane: Lane,
    /// The epoch of the lane's spool.
    pub(crate) epoch: u64,
    /// Makes bundles of the catalogue as it is then.
    pub(crate) publisher: Arc<Publisher>,
}

/// How much an import of an estate changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub(crate) struct EstateImported {
    /// Workloads registered or updated.
    pub(crate) workloads: u64,
    /// APIs created or revised.
    pub(crate) apis: u64,
    /// Grants taken in.
    pub(crate) grants: u64,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

/// Tends the desk until `shutdown` is cancelled.
pub(crate) async fn tend(desk: Arc<Desk>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        if desk.needs_tending(clock::wall()) {
            let desk = Arc::clone(&desk);
            // What fails is said in the log by the desk itself, and tried again.
            let _tended = tokio::task::spawn_blocking(move || desk.tend()).await;
        }
    }
}

impl Desk {
    /// Takes over an open state. `own` is control itself, which lets grants run out.
    pub(crate) fn new(governance: Governance, own: Actor, books: Option<Books>) -> Self {
        let desk = Self {
            estate: ArcSwap::from_pointee(governance.estate.clone()),
            next_expiry_ns: AtomicI64::new(i64::MAX),
            // What commands recorded while control was away is owed to the books.
            behind: AtomicBool::new(true),
            trust_domain: governance.trust_domain.clone(),
            default_class: governance.default_class.clone(),
            own,
            seat: Mutex::new(Seat {
                governance,
                books,
                unpublished: None,
            }),
        };
        desk.note(&desk.seat());
        desk
    }

    /// How things stand.
    pub(crate) fn estate(&self) -> Arc<Estate> {
        self.estate.load_full()
    }

    /// Retention class of operations that name none.
    pub(crate) fn default_class(&self) -> &str {
        &self.default_class
    }

    /// Whether [`Desk::tend`] has something to do.
    pub(crate) fn needs_tending(&self, now: Time) -> bool {
        self.behind.load(Ordering::Relaxed)
            || self.next_expiry_ns.load(Ordering::Relaxed) <= now.as_ns()
    }

    /// Lets grants run out, and brings books and bundles up to what is recorded. Blocks on the disk.
    pub(crate) fn tend(&self) -> Result<(), GovernanceError> {
        let now = clock::wall();
        self.change(
            |estate| Ok((grants::expire(estate, &self.own, now), ())),
            now,
        )
    }

    pub(crate) fn import_api(
        &self,
        given: &ApiImport,
        actor: &Actor,
    ) -> Result<ApiImported, GovernanceError> {
        let now = clock::wall();
        self.change(
            |estate| apis::import(estate, given, &self.default_class, actor, now),
            now,
        )
    }

    pub(crate) fn set_status(
        &self,
        name: &str,
        asked: &StatusChange,
        actor: &Actor,
    ) -> Result<ApiRecord, GovernanceError> {
        let now = clock::wall();
        self.change(
            |estate| apis::set_status(estate, name, asked, actor, now),
            now,
        )
    }

    pub(crate) fn register_workload(
        &self,
        asked: &WorkloadRequest,
        actor: &Actor,
    ) -> Result<WorkloadRegistered, GovernanceError> {
        let now = clock::wall();
        let trust_domain = &self.trust_domain;
        self.change(
            |estate| workloads::register(estate, asked, trust_domain, actor, now),
            now,
        )
    }

    pub(crate) fn request_grant(
        &self,
        asked: &GrantRequest,
        actor: &Actor,
    ) -> Result<GrantRecord, GovernanceError> {
        let now = clock::wall();
        self.change(|estate| grants::request(estate, asked, actor, now), now)
    }

    pub(crate) fn take_step(
        &self,
        grant_id: &str,
        step: Step,
        note: &Note,
        actor: &Actor,
    ) -> Result<GrantRecord, GovernanceError> {
        let now = clock::wall();
        self.change(
            |estate| grants::take(estate, grant_id, step, note, actor, now),
            now,
        )
    }

    /// Takes a whole estate in, or nothing of it.
    pub(crate) fn import_estate(
        &self,
        given: &EstateImport,
        actor: &Actor,
    ) -> Result<EstateImported, GovernanceError> {
        let now = clock::wall();
        let (trust_domain, class) = (self.trust_domain.as_str(), self.default_class.as_str());
        self.change(
            |estate| import_estate(estate, given, (trust_domain, class), actor, now),
            now,
        )
    }

    /// Records that somebody who may not do it tried to bring an estate in.
    pub(crate) fn refuse_import(&self, actor: &Actor) -> Result<(), GovernanceError> {
        let now = clock::wall();
        self.change(|_| Ok((Change::default(), may_import(actor, now)?)), now)
    }

    /// Records that somebody was not let in. `untold` log-ins before it were refused and not recorded.
    pub(crate) fn refuse_login(
        &self,
        name: &str,
        peer_address: String,
        untold: u64,
    ) -> Result<(), GovernanceError> {
        let now = clock::wall();
        let name: String = name.chars().take(NAME_CHARS_MAX).collect();
        let actor = Actor {
            name: name.clone(),
            teams: Vec::new(),
            admin: false,
            peer_address: Some(peer_address),
        };
        let before = (untold > 0).then(|| format!("{untold} more were refused before it"));
        let attempt = Attempt::new(&actor, now, "person.login", "person", &name).comment(before);
        let refused = attempt.refused("login_failed", "name and password do not belong together");
        match self.change(|_| Err::<(Change, ()), _>(refused), now) {
            Err(GovernanceError::Refused(_)) => Ok(()),
            other => other,
        }
    }

    /// The next events after the one named, oldest first.
    pub(crate) fn events(
        &self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<EventRecord>, GovernanceError> {
        let events = self.seat().governance.store.events(after, limit)?;
        events.ok_or_else(|| Refusal::value("after", "there is no such event").into())
    }

    /// Decides, records, writes into the books and publishes, in this order.
    fn change<R>(
        &self,
        decide: impl FnOnce(&Estate) -> Result<(Change, R), Refusal>,
        now: Time,
    ) -> Result<R, GovernanceError> {
        let mut seat = self.seat();
        // What is owed from before goes first; while it cannot, nothing new is taken on.
        if let Err(error) = self.settle(&mut seat) {
            error!(error, "nothing is decided: the books or bundles lag behind");
            return Err(GovernanceError::Books { recorded: false });
        }
        let result = match decide(&seat.governance.estate) {
            Ok((change, result)) => {
                if change.is_empty() {
                    return Ok(result);
                }
                let change = seat.governance.record(change, now)?;
                seat.unpublished = cause_of(&change);
                self.estate.store(Arc::new(seat.governance.estate.clone()));
                Ok(result)
            }
            Err(refusal) => {
                seat.governance.record_refused(&refusal, now)?;
                Err(refusal)
            }
        };
        let settled = self.settle(&mut seat);
        self.note(&seat);
        drop(seat);
        if let Err(error) = &settled {
            error!(
                error,
                "what is recorded takes effect when the books can be written"
            );
        }
        match (result, settled) {
            (Err(refusal), _) => Err(refusal.into()),
            (Ok(result), Ok(())) => Ok(result),
            (Ok(_), Err(_)) => Err(GovernanceError::Books { recorded: true }),
        }
    }

    /// Brings the books up to what is recorded, syncs them, then publishes.
    fn settle(&self, seat: &mut Seat) -> Result<(), String> {
        let Some(books) = &mut seat.books else {
            return Ok(());
        };
        self.behind.store(true, Ordering::Relaxed);
        drain(&mut seat.governance.store, books)?;
        self.behind.store(false, Ordering::Relaxed);
        let published = match seat.unpublished.take() {
            // What the publisher cannot do now it does later by itself.
            Some(cause) => {
                let catalogue = Arc::clone(&seat.governance.estate.catalogue);
                books.publisher.publish(catalogue, &cause)
            }
            None if books.publisher.is_behind() => books.publisher.catch_up(),
            None => return Ok(()),
        };
        published.map(drop).map_err(|e| e.to_string())
    }

    fn note(&self, seat: &Seat) {
        let next = grants::next_expiry(&seat.governance.estate);
        let next = next.map_or(i64::MAX, Time::as_ns);
        self.next_expiry_ns.store(next, Ordering::Relaxed);
    }

    /// A panic elsewhere must not end deciding: each change is whole in the database or not there.
    fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves what is owed into the spool: appended in order, synced, then marked. A kill in between
/// repeats rows, which readers tell by event and revision.
fn drain(store: &mut Store, books: &mut Books) -> Result<(), String> {
    loop {
        let owed = store.owed(BATCH).map_err(|e| e.to_string())?;
        if owed.is_empty() {
            return Ok(());
        }
        let mut written = Vec::with_capacity(owed.len());
        for one in &owed {
            let place = one.append(&mut books.lane, books.epoch);
            written.push(place.map_err(|e| e.to_string())?);
        }
        books.lane.sync().map_err(|e| e.to_string())?;
        store.mark(&written).map_err(|e| e.to_string())?;
    }
}

fn cause_of(change: &Change) -> Option<Cause> {
    let event = change.events.first()?;
    Some(Cause {
        event_id: event.event_id.clone(),
        author: event.actor.clone(),
        urgent: change.urgent,
        touched: Some(change.touched.clone()),
    })
}

fn may_import(actor: &Actor, now: Time) -> Result<(), Refusal> {
    let attempt = Attempt::new(actor, now, "estate.imported", "estate", "estate");
    workloads::check_admin(actor, &attempt)
}

fn import_estate(
    estate: &Estate,
    given: &EstateImport,
    (trust_domain, class): (&str, &str),
    actor: &Actor,
    now: Time,
) -> Result<(Change, EstateImported), Refusal> {
    may_import(actor, now)?;
    let mut draft = estate.clone();
    let mut all = Change::default();
    let mut take = |mut change: Change, draft: &mut Estate, count: &mut u64| {
        if !change.is_empty() {
            draft.apply(&mut change, now);
            all.append(change);
            *count += 1;
        }
    };
    let mut counts = EstateImported::default();
    for (index, workload) in given.workloads.iter().enumerate() {
        let place = format!("workloads[{index}]");
        if workload.join_token {
            let refusal = Refusal::value("join_token", "an estate brings hashes of its own tokens");
            return Err(refusal.inside(&place));
        }
        let (change, _) = workloads::register(&draft, workload, trust_domain, actor, now)
            .map_err(|refusal| refusal.inside(&place))?;
        take(change, &mut draft, &mut counts.workloads);
    }
    for (index, api) in given.apis.iter().enumerate() {
        let (change, _) = apis::import(&draft, api, class, actor, now)
            .map_err(|refusal| refusal.inside(&format!("apis[{index}]")))?;
        take(change, &mut draft, &mut counts.apis);
    }
    for (index, grant) in given.grants.iter().enumerate() {
        let change = grants::import(&draft, grant, actor, now)
            .map_err(|refusal| refusal.inside(&format!("grants[{index}]")))?;
        take(change, &mut draft, &mut counts.grants);
    }
    Ok((all, counts))
}

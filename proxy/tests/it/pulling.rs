//! A pull alone, as a simulation of a fleet uses it: what it puts in force and what it tells.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use counterfoil_entry::id::Epoch;
use counterfoil_entry::rows::{BundleAckRow, ControlHealthRow, SLOT_S};
use counterfoil_entry::{clock, tree};
use counterfoil_proxy::PolicyCell;
use counterfoil_proxy::pull::{Pull, PullConfig, Seen};
use counterfoil_trust::Identity;
use counterfoil_trust::allow::Reason;
use counterfoil_trust::bundle::Bundle;
use counterfoil_trust::keys::SealKey;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::books::until;
use crate::ca::{Ca, Leaf};
use crate::control::Control;
use crate::world::{CART, SHOP, cart_bundle};

#[derive(Default)]
struct Told {
    acks: Vec<BundleAckRow>,
    health: Vec<ControlHealthRow>,
    polls: Vec<Result<Duration, &'static str>>,
}

impl Told {
    fn note(&mut self, seen: Seen) {
        match seen {
            Seen::Acked(row) => self.acks.push(row),
            Seen::Health(row) => self.health.push(row),
            Seen::Polled(polled) => self.polls.push(polled.answer.map(|_| polled.took)),
        }
    }
}

/// A running pull of the cart's bundle, and what it told.
struct Pulling {
    /// What was decided before the first poll.
    at_start: Reason,
    identity: Identity,
    policy: PolicyCell,
    told: Arc<Mutex<Told>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Pulling {
    fn start(control: &Control, ca: &Ca, file: Option<PathBuf>) -> Self {
        let identity = ca.identity(CART);
        let config = PullConfig {
            identity: identity.clone(),
            control: control.address.to_string(),
            control_id: None,
            epoch: Epoch(1),
            keys: control.keys(),
            file,
        };
        let policy = PolicyCell::default();
        let told: Arc<Mutex<Told>> = Arc::default();
        let mut pull = Pull::new(config, policy.clone()).unwrap();
        pull.begin_from_disk(|seen| told.lock().unwrap().note(seen));
        let at_start = reason(&policy);
        let stop = CancellationToken::new();
        let telling = Arc::clone(&told);
        let running = pull.run(stop.clone(), move |seen| telling.lock().unwrap().note(seen));
        Self {
            at_start,
            identity,
            policy,
            told,
            stop,
            task: tokio::spawn(running),
        }
    }

    /// Outcome, reason, version and origin of each body that was told of.
    fn acks(&self) -> Vec<(String, String, Option<u64>, String)> {
        let told = self.told.lock().unwrap();
        let shown = |row: &BundleAckRow| {
            assert_eq!(row.audience, CART);
            (
                row.outcome.clone(),
                row.reason.clone().unwrap_or_default(),
                row.rights_version,
                row.origin_kind.clone(),
            )
        };
        told.acks.iter().map(shown).collect()
    }

    fn version(&self) -> Option<u64> {
        self.policy.current().map(|policy| policy.version())
    }

    fn reason(&self) -> Reason {
        reason(&self.policy)
    }

    async fn until_version(&self, version: u64) {
        let what = format!("version {version}");
        until(&what, || self.version() == Some(version)).await;
    }

    async fn end(self) -> Arc<Mutex<Told>> {
        self.stop.cancel();
        self.task.await.unwrap();
        self.told
    }
}

fn reason(policy: &PolicyCell) -> Reason {
    let now = clock::wall();
    policy.decide(SHOP, "GET", "/carts/1", now).reason
}

fn ack(
    outcome: &str,
    reason: &str,
    version: Option<u64>,
    origin: &str,
) -> (String, String, Option<u64>, String) {
    (
        outcome.to_owned(),
        reason.to_owned(),
        version,
        origin.to_owned(),
    )
}

fn version(version: u64) -> Bundle {
    let mut bundle = cart_bundle();
    bundle.rights.version = version;
    bundle
}

async fn until_held(control: &Control) {
    until("a held poll", || {
        control.seen.held.load(Ordering::Relaxed) == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_in_force_within_a_fraction_of_a_second() {
    let ca = Arc::new(Ca::new());
    let control = Control::start(&ca, &version(3)).await;
    let pulling = Pulling::start(&control, &ca, None);
    assert_eq!(pulling.at_start, Reason::BundleMissing);
    pulling.until_version(3).await;
    assert_eq!(pulling.reason(), Reason::Granted);
    for next in 4..8 {
        until_held(&control).await;
        let mut bundle = version(next);
        if next == 7 {
            bundle.rights.grants.clear();
        }
        let began_ns = clock::mono_ns();
        control.publish(control.sealed(&bundle));
        pulling.until_version(next).await;
        let took = Duration::from_nanos(clock::mono_ns() - began_ns);
        assert!(took < Duration::from_millis(700), "{took:?}");
    }
    assert_eq!(pulling.reason(), Reason::GrantNone);
    until("five acks", || pulling.acks().len() == 5).await;
    let expected: Vec<_> = (3..8)
        .map(|version| ack("applied", "", Some(version), "control"))
        .collect();
    assert_eq!(pulling.acks(), expected);
    let told = pulling.end().await;
    let told = told.lock().unwrap();
    // what is open is told of at the end, and a held poll is not a slow one
    let slowest = told.health.last().unwrap().latency_max_ns.unwrap();
    assert!(slowest < 700_000_000, "{:?}", told.health);
    assert!(told.health.iter().all(|row| row.up && row.failed == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_that_holds_nothing_is_not_hammered() {
    let ca = Arc::new(Ca::new());
    let control = Control::start(&ca, &version(3)).await;
    control.hold_nothing();
    let pulling = Pulling::start(&control, &ca, None);
    let began_ns = clock::mono_ns();
    until("five polls", || {
        control.seen.not_modified.load(Ordering::Relaxed) >= 5
    })
    .await;
    let took = Duration::from_nanos(clock::mono_ns() - began_ns);
    // 250 ms, 500 ms, 1 s and 2 s, less a fifth
    assert!(took > Duration::from_secs(3), "{took:?}");
    control.publish(control.sealed(&version(4)));
    pulling.until_version(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_that_is_not_good_is_refused_once_and_the_one_before_stays() {
    let ca = Arc::new(Ca::new());
    let control = Control::start(&ca, &version(3)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bundle");
    let pulling = Pulling::start(&control, &ca, Some(file.clone()));
    pulling.until_version(3).await;
    until("the kept bundle", || file.exists()).await;
    let kept = std::fs::read(&file).unwrap();
    assert_eq!(
        tree::sha256(&kept),
        pulling.policy.current().unwrap().sha256()
    );

    let good = control.sealed(&version(4));
    let mut of_others = version(4);
    of_others.rights.audience = counterfoil_trust::SpiffeId::parse(SHOP).unwrap();
    let mut stray = version(4);
    stray.rights.grants[0].operation = "nothing".to_owned();
    let (stranger, own) = (SealKey::generate().unwrap(), &control.control);
    let foreign = counterfoil_trust::bundle::SignedBundle::seal(
        &version(4).rights,
        &version(4).endpoints,
        &stranger,
        own,
    );
    let bad = [
        (good.slice(..good.len() / 2), "malformed", None),
        (Bytes::from(foreign.unwrap()), "signature", None),
        (control.sealed(&of_others), "audience", None),
        (control.sealed(&version(2)), "older", Some(2)),
        (control.sealed(&stray), "policy", Some(4)),
        (Bytes::from(vec![b' '; (16 << 20) - 100]), "malformed", None),
    ];
    let mut expected = vec![ack("applied", "", Some(3), "control")];
    for (body, reason, version) in bad {
        until_held(&control).await;
        control.publish(body);
        expected.push(ack("refused", reason, version, "control"));
        until(reason, || pulling.acks().len() == expected.len()).await;
        assert_eq!(pulling.acks(), expected);
        assert_eq!(pulling.version(), Some(3));
        assert_eq!(pulling.reason(), Reason::Granted);
        assert_eq!(std::fs::read(&file).unwrap(), kept);
    }
    // the same again, under another ETag, is not told of again
    let again = control.sealed(&version(2));
    for _ in 0..2 {
        until_held(&control).await;
        let served = control.seen.bundles.load(Ordering::Relaxed);
        control.publish(again.clone());
        until("the body is fetched", || {
            control.seen.bundles.load(Ordering::Relaxed) > served
        })
        .await;
    }
    until_held(&control).await;
    expected.push(ack("refused", "older", Some(2), "control"));
    assert_eq!(pulling.acks(), expected);
    control.publish(good);
    pulling.until_version(4).await;
    until("it is kept", || std::fs::read(&file).unwrap() != kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_control_begins_with_the_kept_bundle_or_denies() {
    let ca = Arc::new(Ca::new());
    let mut control = Control::start(&ca, &version(3)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bundle");
    let first = Pulling::start(&control, &ca, Some(file.clone()));
    until("the kept bundle", || file.exists()).await;
    first.end().await;
    control.kill().await;

    let second = Pulling::start(&control, &ca, Some(file.clone()));
    assert_eq!(second.acks(), [ack("applied", "", Some(3), "disk")]);
    assert_eq!(second.at_start, Reason::Granted);
    // the same body from control is not news
    control.start_again().await;
    until_held(&control).await;
    assert_eq!(second.acks().len(), 1);
    second.end().await;
    control.kill().await;

    let half = std::fs::read(&file).unwrap();
    std::fs::write(&file, &half[..half.len() / 2]).unwrap();
    let third = Pulling::start(&control, &ca, Some(file.clone()));
    assert_eq!(third.acks(), [ack("refused", "malformed", None, "disk")]);
    assert_eq!(third.at_start, Reason::BundleMissing);
    control.start_again().await;
    third.until_version(3).await;
    until("it is kept whole", || std::fs::read(&file).unwrap() == half).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_from_the_next_poll_on() {
    let ca = Arc::new(Ca::new());
    let control = Control::start(&ca, &version(3)).await;
    let pulling = Pulling::start(&control, &ca, None);
    until_held(&control).await;
    pulling.identity.replace(ca.svid(&Leaf::good(CART)));
    let second = pulling.identity.current();
    control.publish(control.sealed(&version(4)));
    pulling.until_version(4).await;
    let serials = || control.seen.serials.lock().unwrap().clone();
    until("the new serial", || {
        serials()
            .last()
            .is_some_and(|serial| serial == second.serial())
    })
    .await;
    assert!(serials().iter().any(|serial| serial != second.serial()));
}

/// The beginning of the slot after `now`, in nanoseconds.
fn next_slot() -> i64 {
    let slot_ns = i64::try_from(SLOT_S).unwrap() * 1_000_000_000;
    (clock::wall().as_ns() / slot_ns + 1) * slot_ns
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_control_was_away_and_came_back_is_told_of_in_slots() {
    let ca = Arc::new(Ca::new());
    let mut control = Control::start(&ca, &version(3)).await;
    let pulling = Pulling::start(&control, &ca, None);
    pulling.until_version(3).await;
    let health = || pulling.told.lock().unwrap().health.clone();
    let polls = || pulling.told.lock().unwrap().polls.len();
    // the slot that has begun is up, and told of as soon as it is over
    until("a row", || !health().is_empty()).await;
    control.kill().await;
    let seen = polls();
    until("failed polls", || polls() > seen + 2).await;
    assert_eq!(pulling.reason(), Reason::Granted, "it serves on");
    let away_until = next_slot();
    until("the next slot", || clock::wall().as_ns() > away_until).await;
    until("the row of the slot before", || health().len() > 1).await;
    let good = || {
        let told = pulling.told.lock().unwrap();
        told.polls.iter().filter(|poll| poll.is_ok()).count()
    };
    let seen = good();
    control.start_again().await;
    until_held(&control).await;
    assert!(good() > seen, "a poll ends before one is held again");
    let told = pulling.end().await;
    let told = told.lock().unwrap();
    let rows = &told.health;
    assert!(rows[0].up && rows[0].failed == 0, "{rows:#?}");
    assert!(!rows[1].up && rows[1].failed > 0, "{rows:#?}");
    assert_eq!(rows[1].error_class.as_deref(), Some("unreachable"));
    assert_eq!(rows[1].slot_start.as_ns(), away_until - 10_000_000_000);
    let last = rows.last().unwrap();
    assert!(last.ok > 0, "{rows:#?}");
}

//! What the collector says no to.

use counterfoil_entry::announcement::Announcement;
use counterfoil_entry::frame::records;
use counterfoil_entry::record::RecordView;
use counterfoil_entry::statement::{Signed, Statement};

use super::receiver::Records;
use super::world::{Running, World, append_n, until};
use crate::Ending;

fn statement_of(path: &str, body: &[u8]) -> Option<Statement> {
    (path == "/v1/statement")
        .then(|| Statement::decode(&Signed::from_wire(body).unwrap().bytes).unwrap())
}

#[tokio::test]
async fn a_statement_refused_for_good_is_quarantined_and_the_next_one_says_so() {
    let world = World::new().await;
    world.receiver.refuse(|path, body| {
        let number = statement_of(path, body)?.number;
        (number == 1).then_some((400, "root", true))
    });
    let spool = world.spool();
    let epoch = spool.epoch().0;
    let delivery = world.delivery(&spool);
    let stats = delivery.stats();
    let running = Running::start(delivery);
    let mut lane = spool.lane(0);
    for _ in 0..3 {
        append_n(&mut lane, "sox_7y", 10);
        let acknowledged = stats.snapshot().statements_acknowledged;
        until("a statement", || {
            stats.snapshot().statements_acknowledged > acknowledged
        })
        .await;
    }
    assert_eq!(running.end().await, Ending::Kept);
    let statements = world.receiver.statements(epoch);
    assert!(statements.iter().all(|statement| statement.number != 1));
    let told: Vec<_> = statements.iter().flat_map(|s| &s.quarantined).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, 1);
    let second = statements
        .iter()
        .find(|statement| statement.number == 2)
        .unwrap();
    assert_eq!(second.previous, Some(told[0].1));
    assert_eq!(stats.snapshot().quarantined, 1);
    assert_eq!(world.left(), [format!("{epoch}.quarantined")]);
    // It is for a person now: the next start leaves it alone.
    assert!(world.spool().take_start().unwrap().old.is_empty());
}

#[tokio::test]
async fn one_entry_refused_for_good_does_not_hold_the_others_back() {
    let world = World::new().await;
    let poison = |record: &[u8]| RecordView::parse(record).unwrap().header().unwrap().seq == 13;
    world.receiver.refuse(move |path, body| {
        let is_bad = path == "/v1/batch" && records(body).any(|record| poison(record.unwrap()));
        is_bad.then_some((400, "malformed", true))
    });
    let spool = world.spool();
    let epoch = spool.epoch().0;
    append_n(&mut spool.lane(0), "sox_7y", 40);
    let delivery = world.delivery(&spool);
    let stats = delivery.stats();
    let running = Running::start(delivery);
    // The entry, and the statement that covers it.
    until("two refusals", || stats.snapshot().quarantined == 2).await;
    assert_eq!(world.receiver.entries(epoch), 39);
    append_n(&mut spool.lane(0), "sox_7y", 5);
    assert_eq!(running.end().await, Ending::Kept);
    assert_eq!(world.receiver.entries(epoch), 44);
    world.receiver.books(|books| {
        let kept: &Records = &books.epochs[&epoch].streams["entries/sox_7y/0"];
        assert!(!kept.contains_key(&13));
        assert_eq!(books.flaws, Vec::<String>::new());
    });
    let statements = world.receiver.statements(epoch);
    assert_eq!(
        statements
            .iter()
            .map(|s| s.quarantined.len())
            .sum::<usize>(),
        1
    );
}

#[tokio::test]
async fn entries_that_the_collector_lost_are_sent_again() {
    let world = World::new().await;
    let spool = world.spool();
    let epoch = spool.epoch().0;
    world
        .receiver
        .refuse(|path, _| (path == "/v1/statement").then_some((503, "overload", false)));
    append_n(&mut spool.lane(0), "sox_7y", 30);
    let running = world.deliver(&spool);
    until("the entries", || world.receiver.entries(epoch) == 30).await;
    // Its journal lost them, and so does its memory of what it has.
    world
        .receiver
        .books(|books| books.epochs.get_mut(&epoch).unwrap().streams.clear());
    world.receiver.refuse_nothing();
    until("them again", || world.receiver.entries(epoch) == 30).await;
    assert_eq!(running.end().await, Ending::Acknowledged);
    world.receiver.assert_sound(epoch);
}

#[tokio::test]
async fn a_collector_that_forgot_the_epoch_is_told_again() {
    let world = World::new().await;
    let spool = world.spool();
    let epoch = spool.epoch().0;
    let running = world.deliver(&spool);
    until("a hello", || {
        world.receiver.books(|books| books.hellos) == 1
    })
    .await;
    world.receiver.books(|books| {
        if let Some(known) = books.epochs.get_mut(&epoch) {
            known.key = None;
        }
    });
    append_n(&mut spool.lane(0), "sox_7y", 3);
    until("the entries", || world.receiver.entries(epoch) == 3).await;
    assert_eq!(running.end().await, Ending::Acknowledged);
    world.receiver.assert_sound(epoch);
}

#[tokio::test]
async fn an_old_epoch_that_is_refused_for_good_does_not_hold_the_current_one_back() {
    let world = World::new().await;
    let spool = world.spool();
    let old = spool.epoch().0;
    append_n(&mut spool.lane(0), "sox_7y", 7);
    let delivery = world.delivery(&spool);
    drop((delivery, spool));
    world.receiver.refuse(move |path, body| {
        let is_old = path == "/v1/hello" && {
            let signed = Signed::from_wire(body).unwrap();
            Announcement::decode(&signed.bytes).unwrap().epoch.0 == old
        };
        is_old.then_some((400, "signature", true))
    });
    let spool = world.spool();
    let epoch = spool.epoch().0;
    let running = world.deliver(&spool);
    append_n(&mut spool.lane(0), "sox_7y", 3);
    until("the entries", || world.receiver.entries(epoch) == 3).await;
    assert_eq!(running.end().await, Ending::Kept);
    assert!(world.receiver.books(|books| books.epochs[&epoch].is_closed));
    let left = world.left();
    assert!(left.contains(&old.to_string()), "{left:?}");
}

#[test]
fn what_could_not_be_synced_is_tried_again() {
    let root = tempfile::tempdir().unwrap();
    let config = crate::SpoolConfig {
        directory: root.path().to_owned(),
        writer: World::writer(),
        size_max: 1 << 20,
        build: String::new(),
        config_sha256: counterfoil_entry::Hash::default(),
    };
    let spool = crate::Spool::open(config).unwrap();
    let mut lane = spool.lane(0);
    append_n(&mut lane, "sox_7y", 1);
    let (path, away) = (spool.space().path().to_owned(), root.path().join("away"));
    std::fs::rename(&path, &away).unwrap();
    assert!(lane.sync().is_err());
    assert!(
        lane.sync().is_err(),
        "the new file's name is still not synced"
    );
    std::fs::rename(&away, &path).unwrap();
    lane.sync().unwrap();
}

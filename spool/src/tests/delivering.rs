//! A life without accidents, and a collector that is away for a while.

use std::time::Duration;

use counterfoil_entry::statement::StatementKind;
use counterfoil_entry::{Hash, Time};
use counterfoil_trust::SpiffeId;

use super::world::Running;
use super::world::{WRITER, World, append, append_n, until};
use crate::{AppendError, Delivery, DeliveryConfig, DeliveryError, Ending, Spool};

#[tokio::test]
async fn everything_arrives_once_and_a_clean_end_leaves_nothing() {
    let world = World::new().await;
    let spool = world.spool();
    let epoch = spool.epoch().0;
    let delivery = world.delivery(&spool);
    let stats = delivery.stats();
    let running = Running::start(delivery);
    let (mut one, mut two) = (spool.lane(0), spool.lane(1));
    append_n(&mut one, "sox_7y", 300);
    append_n(&mut two, "sox_7y", 200);
    append_n(&mut two, "ops_90d", 100);
    until("the first statement", || {
        !world.receiver.statements(epoch).is_empty()
    })
    .await;
    append_n(&mut one, "sox_7y", 50);
    assert_eq!(running.end().await, Ending::Acknowledged);

    world.receiver.assert_sound(epoch);
    assert_eq!(world.receiver.entries(epoch), 650);
    let statements = world.receiver.statements(epoch);
    assert!(matches!(
        statements.last().unwrap().kind,
        StatementKind::Final
    ));
    let finals = statements
        .iter()
        .filter(|s| s.kind == StatementKind::Final)
        .count();
    assert_eq!(finals, 1);
    world.receiver.books(|books| {
        assert_eq!(books.duplicates, 0);
        assert!(books.peers.iter().all(|peer| peer == WRITER));
    });
    assert_eq!(world.left(), Vec::<String>::new());
    assert_eq!(stats.snapshot().entries, 650);
    assert_eq!(
        stats.snapshot().statements_acknowledged,
        statements.len() as u64
    );
    assert!(matches!(
        append(&mut one, "sox_7y", "/late"),
        Err(AppendError::Closed)
    ));
}

#[tokio::test]
async fn an_idle_writer_states_that_it_is_there() {
    let world = World::new().await;
    let spool = world.spool();
    let epoch = spool.epoch().0;
    let gauges = spool.gauges();
    gauges.set_calls_open(3);
    gauges.set_oldest_call_start(Some(Time::from_ns(99)));
    gauges.set_bundle_sha256(Some(Hash([9; 32])));
    let running = world.deliver(&spool);
    until("three statements", || {
        world.receiver.statements(epoch).len() >= 3
    })
    .await;
    assert_eq!(running.end().await, Ending::Acknowledged);
    let statements = world.receiver.statements(epoch);
    let third = &statements[2];
    assert_eq!(
        (third.calls_open, third.oldest_call_start),
        (3, Some(Time::from_ns(99)))
    );
    assert_eq!(third.bundle_sha256, Some(Hash([9; 32])));
    assert_eq!(third.origin.as_deref(), Some("test/1"));
    assert_eq!(third.checkpoint.as_deref(), Some("checkpoint 1"));
    assert!(third.streams.is_empty());
    // It tells the statement that the last answer acknowledged.
    let acked = statements
        .iter()
        .filter_map(|s| s.acked)
        .next_back()
        .unwrap();
    let told = &statements[usize::try_from(acked.0).unwrap() + 1];
    assert_eq!(told.previous, Some(acked.1));
}

#[tokio::test]
async fn entries_leave_before_they_are_stated() {
    let world = World::new().await;
    let spool = world.spool();
    let config = DeliveryConfig {
        statement_interval: Duration::from_secs(3600),
        ..world.delivery_config()
    };
    let identity = world.authority.identity(WRITER);
    let running = Running::start(Delivery::new(&spool, identity, config).unwrap());
    append_n(&mut spool.lane(0), "sox_7y", 5);
    until("the entries", || {
        world.receiver.entries(spool.epoch().0) == 5
    })
    .await;
    assert!(world.receiver.statements(spool.epoch().0).is_empty());
    assert_eq!(running.end().await, Ending::Acknowledged);
    world.receiver.assert_sound(spool.epoch().0);
}

#[tokio::test]
async fn acknowledged_entries_leave_the_spool_and_make_room() {
    let world = World::new().await;
    let spool = Spool::open(world.config(64 << 10)).unwrap();
    let mut lane = spool.lane(0);
    let mut taken = 0;
    while append(&mut lane, "sox_7y", "/a").is_ok() {
        taken += 1;
    }
    let running = world.deliver(&spool);
    until("room", || spool.gauges().spool_bytes() == 0).await;
    assert_eq!(
        crate::directory::entry_files(spool.space().path())
            .unwrap()
            .len(),
        0
    );
    assert_eq!(append(&mut lane, "sox_7y", "/a").unwrap(), taken);
    assert_eq!(running.end().await, Ending::Acknowledged);
    world.receiver.assert_sound(spool.epoch().0);
    let last = world.receiver.statements(spool.epoch().0).pop().unwrap();
    assert_eq!(last.drops.len(), 1);
    assert_eq!(
        (last.drops[0].reason.as_str(), last.drops[0].dropped),
        ("spool_full", 1)
    );
}

#[tokio::test]
async fn statements_go_on_while_the_collector_is_away() {
    let world = World::new().await;
    world.receiver.refuse(|_, _| Some((503, "overload", false)));
    let spool = world.spool();
    let epoch = spool.epoch().0;
    let delivery = world.delivery(&spool);
    let stats = delivery.stats();
    let running = Running::start(delivery);
    let mut lane = spool.lane(0);
    for _ in 0..4 {
        append_n(&mut lane, "sox_7y", 10);
        let made = stats.snapshot().statements_made;
        until("a statement", || stats.snapshot().statements_made > made).await;
    }
    assert!(!stats.snapshot().is_connected);
    world.receiver.refuse_nothing();
    until("all of it", || world.receiver.statements(epoch).len() > 4).await;
    assert_eq!(running.end().await, Ending::Acknowledged);
    world.receiver.assert_sound(epoch);
    assert_eq!(world.receiver.entries(epoch), 40);
}

#[tokio::test]
async fn what_was_taken_but_not_answered_comes_again_and_counts_once() {
    let world = World::new().await;
    let spool = world.spool();
    world.receiver.swallow(3);
    append_n(&mut spool.lane(0), "sox_7y", 20);
    let running = world.deliver(&spool);
    until("a statement", || {
        world.receiver.statements(spool.epoch().0).len() > 2
    })
    .await;
    assert_eq!(running.end().await, Ending::Acknowledged);
    world.receiver.assert_sound(spool.epoch().0);
    assert_eq!(world.receiver.entries(spool.epoch().0), 20);
    assert!(
        world.receiver.books(|books| books.hellos) >= 4,
        "each failure connects anew"
    );
}

#[tokio::test]
async fn a_spool_whose_collector_was_away_at_the_end_is_delivered_by_the_next_start() {
    let world = World::new().await;
    world.receiver.refuse(|_, _| Some((503, "overload", false)));
    let first = world.spool();
    append_n(&mut first.lane(0), "sox_7y", 30);
    let config = DeliveryConfig {
        end_deadline: Duration::from_millis(200),
        ..world.delivery_config()
    };
    let identity = world.authority.identity(WRITER);
    let running = Running::start(Delivery::new(&first, identity, config).unwrap());
    assert_eq!(running.end().await, Ending::Kept);
    let old = first.epoch().0;
    drop(first);

    world.receiver.refuse_nothing();
    let second = world.spool();
    let running = world.deliver(&second);
    assert_eq!(running.end().await, Ending::Acknowledged);
    world.receiver.assert_sound(old);
    assert_eq!(world.receiver.entries(old), 30);
    assert_eq!(
        world.receiver.statements(old).pop().unwrap().kind,
        StatementKind::Final
    );
    let kinds = world.receiver.statements(second.epoch().0);
    assert!(
        kinds
            .iter()
            .all(|s| !matches!(s.kind, StatementKind::Recovery(_)))
    );
    assert_eq!(world.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_renewed_svid_is_shown_in_a_new_connection() {
    let world = World::new().await;
    let spool = world.spool();
    let identity = world.authority.identity(WRITER);
    let delivery = Delivery::new(&spool, identity.clone(), world.delivery_config()).unwrap();
    let running = Running::start(delivery);
    until("a connection", || {
        world.receiver.books(|books| books.peers.len()) == 1
    })
    .await;
    identity.replace(world.authority.svid(WRITER));
    until("another", || {
        world.receiver.books(|books| books.peers.len()) == 2
    })
    .await;
    assert_eq!(running.end().await, Ending::Acknowledged);
    world.receiver.assert_sound(spool.epoch().0);
}

#[tokio::test]
async fn a_server_that_is_not_the_collector_gets_nothing() {
    let world = World::new().await;
    let spool = world.spool();
    append_n(&mut spool.lane(0), "sox_7y", 3);
    let config = DeliveryConfig {
        collector_id: Some(SpiffeId::parse("spiffe://bank.test/counterfoil/other").unwrap()),
        end_deadline: Duration::from_millis(300),
        ..world.delivery_config()
    };
    let identity = world.authority.identity(WRITER);
    let delivery = Delivery::new(&spool, identity, config).unwrap();
    let stats = delivery.stats();
    let running = Running::start(delivery);
    until("a failure", || stats.snapshot().failures > 0).await;
    assert_eq!(running.end().await, Ending::Kept);
    assert_eq!(world.receiver.books(|books| books.hellos), 0);
}

#[tokio::test]
async fn a_spool_is_delivered_once_and_under_the_name_of_its_writer() {
    let world = World::new().await;
    let spool = world.spool();
    let other = world.authority.identity("spiffe://bank.test/workload/cart");
    let refused = Delivery::new(&spool, other, world.delivery_config());
    assert!(matches!(
        refused.unwrap_err(),
        DeliveryError::NotTheWriter { .. }
    ));
    let _first = world.delivery(&spool);
    let identity = world.authority.identity(WRITER);
    let second = Delivery::new(&spool, identity, world.delivery_config());
    assert!(matches!(second.unwrap_err(), DeliveryError::Taken));
}

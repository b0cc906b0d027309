//! Epochs that ended without a final statement.

use std::path::PathBuf;
use std::time::Duration;

use counterfoil_entry::statement::{Recovery, Statement, StatementKind};
use tokio::task::yield_now;

use super::world::{Running, World, append_n, until};
use crate::Spool;
use crate::directory::EpochDirectory;
use crate::{DeliveryConfig, Ending};
use counterfoil_entry::id::Epoch;

fn recoveries(statements: &[Statement]) -> Vec<&Recovery> {
    statements
        .iter()
        .filter_map(|statement| match &statement.kind {
            StatementKind::Recovery(recovery) => Some(recovery),
            _ => None,
        })
        .collect()
}

/// Waits until nothing holds the epoch's lock: the dead process's last work is over.
async fn wait_for_lock(path: PathBuf) {
    while EpochDirectory::open_old(path.clone()).unwrap().is_none() {
        yield_now().await;
    }
}

async fn crash(spool: Spool, running: Running) -> (u64, PathBuf) {
    let (epoch, path) = (spool.epoch().0, spool.space().path().to_owned());
    running.crash().await;
    drop(spool);
    wait_for_lock(path.clone()).await;
    (epoch, path)
}

/// An epoch that stated `stated` entries and crashed with `tail` more in the spool.
async fn crashed(world: &World, stated: usize, tail: usize) -> (u64, PathBuf) {
    let spool = world.spool();
    let config = DeliveryConfig {
        statement_interval: Duration::from_secs(if stated == 0 { 3600 } else { 0 }),
        ..world.delivery_config()
    };
    let identity = world.authority.identity(super::world::WRITER);
    let delivery = crate::Delivery::new(&spool, identity, config).unwrap();
    let running = Running::start(delivery);
    append_n(&mut spool.lane(0), "sox_7y", stated);
    if stated > 0 {
        let epoch = spool.epoch().0;
        until("the statements", || {
            let all = world.receiver.statements(epoch);
            all.iter()
                .flat_map(|s| &s.streams)
                .map(|r| r.count)
                .sum::<u64>()
                == stated as u64
        })
        .await;
    }
    let dead = spool.clone();
    let (epoch, path) = (dead.epoch().0, dead.space().path().to_owned());
    running.crash().await;
    // The task is gone, and the lanes still write: the entries of the last moment.
    append_n(&mut spool.lane(1), "sox_7y", tail);
    drop((spool, dead));
    wait_for_lock(path.clone()).await;
    (epoch, path)
}

#[tokio::test]
async fn the_tail_of_a_crash_is_stated_by_the_next_start() {
    let world = World::new().await;
    let (old, _) = crashed(&world, 40, 25).await;
    let stated = world.receiver.statements(old);
    let spool = world.spool();
    let running = world.deliver(&spool);
    append_n(&mut spool.lane(0), "sox_7y", 5);
    assert_eq!(running.end().await, Ending::Acknowledged);

    let statements = world.receiver.statements(spool.epoch().0);
    assert_eq!(statements[0].number, 0);
    let found = recoveries(&statements);
    assert_eq!(found.len(), 1);
    assert!(
        matches!(statements[0].kind, StatementKind::Recovery(_)),
        "it is the first"
    );
    assert_eq!(found[0].old_epoch, Epoch(old));
    let last = found[0].last.unwrap();
    assert!(last.0 + 1 >= stated.len() as u64);
    assert_eq!(found[0].tail.len(), 1);
    assert_eq!(
        (found[0].tail[0].first_seq, found[0].tail[0].count),
        (0, 25)
    );
    world.receiver.assert_sound(old);
    world.receiver.assert_sound(spool.epoch().0);
    assert_eq!(world.receiver.entries(old), 65);
    assert_eq!(world.left(), Vec::<String>::new());
}

#[tokio::test]
async fn an_empty_tail_is_stated_too() {
    let world = World::new().await;
    let (old, _) = crashed(&world, 10, 0).await;
    let spool = world.spool();
    let running = world.deliver(&spool);
    assert_eq!(running.end().await, Ending::Acknowledged);
    let statements = world.receiver.statements(spool.epoch().0);
    let found = recoveries(&statements);
    assert_eq!(
        (found.len(), found[0].old_epoch, found[0].tail.len()),
        (1, Epoch(old), 0)
    );
    assert!(world.receiver.books(|books| books.epochs[&old].is_closed));
    world.receiver.assert_sound(old);
}

#[tokio::test]
async fn two_old_epochs_are_recovered_in_their_order() {
    let world = World::new().await;
    world.receiver.refuse(|_, _| Some((503, "overload", false)));
    let (first, _) = crashed(&world, 0, 7).await;
    // The second dies while it still waits to hear the collector about the first.
    let (second, _) = crashed(&world, 0, 9).await;
    world.receiver.refuse_nothing();
    let spool = world.spool();
    let running = world.deliver(&spool);
    assert_eq!(running.end().await, Ending::Acknowledged);
    let statements = world.receiver.statements(spool.epoch().0);
    let found = recoveries(&statements);
    let epochs: Vec<_> = found.iter().map(|recovery| recovery.old_epoch.0).collect();
    assert_eq!(epochs, [first, second]);
    assert!(
        found.iter().all(|recovery| recovery.last.is_none()),
        "they made no statement"
    );
    for (epoch, entries) in [(first, 7), (second, 9)] {
        world.receiver.assert_sound(epoch);
        assert_eq!(world.receiver.entries(epoch), entries);
    }
    assert_eq!(world.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_recovery_that_was_not_delivered_is_not_made_twice() {
    let world = World::new().await;
    let (first, _) = crashed(&world, 4, 7).await;
    // The second start makes its recovery, and the collector takes no statement of it.
    world
        .receiver
        .refuse(|path, _| (path == "/v1/statement").then_some((503, "overload", false)));
    let spool = world.spool();
    let delivery = world.delivery(&spool);
    let stats = delivery.stats();
    let running = Running::start(delivery);
    until("a recovery", || stats.snapshot().statements_made > 1).await;
    let (second, _) = crash(spool, running).await;

    world.receiver.refuse_nothing();
    let third = world.spool();
    let running = world.deliver(&third);
    assert_eq!(running.end().await, Ending::Acknowledged);
    let (of_second, of_third) = (
        world.receiver.statements(second),
        world.receiver.statements(third.epoch().0),
    );
    let found: Vec<_> = recoveries(&of_second)
        .iter()
        .map(|r| r.old_epoch.0)
        .collect();
    assert_eq!(found, [first]);
    let found: Vec<_> = recoveries(&of_third)
        .iter()
        .map(|r| r.old_epoch.0)
        .collect();
    assert_eq!(found, [second]);
    world.receiver.assert_sound(first);
    world.receiver.assert_sound(second);
    assert_eq!(world.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_cut_file_is_read_up_to_its_last_whole_entry() {
    let world = World::new().await;
    let (old, path) = crashed(&world, 0, 20).await;
    let file = crate::directory::entry_files(&path).unwrap().remove(0);
    let file_path = path.join(crate::directory::file_name(&file.stream, file.first_seq));
    std::fs::File::options()
        .write(true)
        .open(file_path)
        .unwrap()
        .set_len(file.bytes - 3)
        .unwrap();
    let spool = world.spool();
    assert_eq!(world.deliver(&spool).end().await, Ending::Acknowledged);
    assert_eq!(world.receiver.entries(old), 19);
    world.receiver.assert_sound(old);
}

#[tokio::test]
async fn a_collector_that_knows_less_gets_the_old_statements_again() {
    let world = World::new().await;
    world
        .receiver
        .refuse(|path, _| (path == "/v1/statement").then_some((503, "overload", false)));
    let spool = world.spool();
    let delivery = world.delivery(&spool);
    let stats = delivery.stats();
    let running = Running::start(delivery);
    append_n(&mut spool.lane(0), "sox_7y", 12);
    until("statements", || stats.snapshot().statements_made > 2).await;
    let (old, _) = crash(spool, running).await;
    world.receiver.books(|books| books.epochs.clear());
    world.receiver.refuse_nothing();
    let spool = world.spool();
    assert_eq!(world.deliver(&spool).end().await, Ending::Acknowledged);
    let of_old = world.receiver.statements(old);
    assert!(of_old.len() > 2);
    let statements = world.receiver.statements(spool.epoch().0);
    let last = recoveries(&statements)[0].last.unwrap();
    assert_eq!(last.0, of_old.last().unwrap().number);
    world.receiver.assert_sound(old);
}

#[tokio::test]
async fn a_collector_that_knows_more_is_believed_about_the_last_statement() {
    let world = World::new().await;
    let (old, path) = crashed(&world, 30, 4).await;
    // A damaged disk: the statements are lost but for the announcement.
    let statements = path.join("statements");
    let bytes = std::fs::read(&statements).unwrap();
    let announced = 8 + counterfoil_entry::frame::FrameReader::new(&bytes[8..])
        .next()
        .unwrap()
        .end;
    std::fs::write(&statements, &bytes[..announced]).unwrap();
    let of_old = world.receiver.statements(old);
    let spool = world.spool();
    assert_eq!(world.deliver(&spool).end().await, Ending::Acknowledged);
    let statements = world.receiver.statements(spool.epoch().0);
    let recovery = recoveries(&statements)[0];
    assert_eq!(recovery.last.unwrap().0, of_old.last().unwrap().number);
    assert_eq!(recovery.tail[0].stream.lane, 1);
    assert_eq!(recovery.tail[0].count, 4);
    world.receiver.assert_sound(old);
}

#[tokio::test]
async fn an_epoch_that_died_before_it_was_announced_is_delivered() {
    let world = World::new().await;
    let spool = world.spool();
    append_n(&mut spool.lane(0), "sox_7y", 6);
    let (old, path) = (spool.epoch().0, spool.space().path().to_owned());
    drop(spool);
    wait_for_lock(path).await;
    let spool = world.spool();
    assert_eq!(world.deliver(&spool).end().await, Ending::Acknowledged);
    assert_eq!(world.receiver.entries(old), 6);
    world.receiver.assert_sound(old);
}

#[tokio::test]
async fn an_end_without_the_collector_states_the_old_tail_from_the_spool() {
    let world = World::new().await;
    let (old, _) = crashed(&world, 3, 8).await;
    world.receiver.refuse(|_, _| Some((503, "overload", false)));
    let spool = world.spool();
    let config = DeliveryConfig {
        end_deadline: Duration::from_millis(50),
        ..world.delivery_config()
    };
    let identity = world.authority.identity(super::world::WRITER);
    let delivery = crate::Delivery::new(&spool, identity, config).unwrap();
    assert_eq!(Running::start(delivery).end().await, Ending::Kept);
    let (second, path) = (spool.epoch().0, spool.space().path().to_owned());
    drop(spool);
    wait_for_lock(path).await;

    world.receiver.refuse_nothing();
    let third = world.spool();
    assert_eq!(world.deliver(&third).end().await, Ending::Acknowledged);
    let of_second = world.receiver.statements(second);
    assert_eq!(recoveries(&of_second)[0].old_epoch, Epoch(old));
    assert_eq!(of_second.last().unwrap().kind, StatementKind::Final);
    assert!(recoveries(&world.receiver.statements(third.epoch().0)).is_empty());
    world.receiver.assert_sound(old);
    assert_eq!(world.left(), Vec::<String>::new());
}

#[tokio::test]
async fn entries_behind_a_damaged_file_are_set_aside() {
    let world = World::new().await;
    // A small spool begins new files soon.
    let spool = crate::Spool::open(world.config(1 << 20)).unwrap();
    let (old, path) = (spool.epoch().0, spool.space().path().to_owned());
    append_n(&mut spool.lane(0), "sox_7y", 1500);
    drop(spool);
    let files = crate::directory::entry_files(&path).unwrap();
    assert!(files.len() > 2, "{files:?}");
    let first = path.join(crate::directory::file_name(&files[0].stream, 0));
    let mut bytes = std::fs::read(&first).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&first, bytes).unwrap();
    let spool = world.spool();
    assert_eq!(world.deliver(&spool).end().await, Ending::Acknowledged);
    let delivered = world.receiver.entries(old);
    assert!(delivered > 0 && (delivered as u64) < files[1].first_seq);
    world.receiver.assert_sound(old);
    assert_eq!(world.left(), [format!("{old}.quarantined")]);
}

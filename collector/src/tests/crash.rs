//! `kill -9` at each step between an acknowledgement and a trimmed journal.

use std::fs;
use std::io::Write;

use counterfoil_columns::journal::{self, file_path};
use counterfoil_entry::clock;
use counterfoil_entry::statement::StatementKind::{Final, Regular};
use counterfoil_entry::table::TableId;
use counterfoil_ledger::log::{Genesis, Log, read_checkpoint};
use counterfoil_ledger::note::LogKey;

use super::world::{COLLECTOR, ORIGIN, SHOP, TestWriter, World, eventually};
use crate::Prepared;
use crate::journal::Journal;
use crate::rebuild::{Rebuilt, rebuild};
use crate::seal::{SealJob, Sealer};

/// Ends the writer's epoch and the collector, and looks for each entry exactly once, proved.
async fn all_is_there_once(world: &World, mut shop: TestWriter) {
    let collector = world.collector().await;
    shop.hello(&collector).await;
    shop.work(&collector, 5).await;
    let last = shop.state(Final);
    assert_eq!(shop.submit(&collector, &last).await.0, 200);
    collector.stop().await;
    let rows = world.rows(TableId::Entries);
    assert!(rows.journaled.is_empty());
    let mut sent = shop.records.clone();
    sent.sort();
    assert_eq!(rows.sorted(), sent);
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
    assert!(world.gaps().is_empty(), "{:?}", world.gaps());
}

/// A killed collector that acknowledged three statements and two entries more.
async fn killed(world: &World) -> TestWriter {
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    for count in [3, 1, 6] {
        shop.work(&collector, count).await;
    }
    shop.write(2);
    assert_eq!(shop.send(&collector, 10..12).await.0, 200);
    collector.kill().await;
    shop
}

/// What the next start of a collector says to books and journal.
async fn recovered(world: &World) -> Result<(), String> {
    let refused = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    };
    let prepared = Prepared::open(world.config()).await.unwrap();
    match prepared.start(world.identity(COLLECTOR)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(refused(&error)),
    }
}

/// What the next start of a collector does before it serves, step by step.
async fn taken_over(world: &World) -> (Sealer, SealJob) {
    let data = world.data();
    let lock = data.journal(ORIGIN).join("lock");
    eventually("the killed collector lets go", || {
        fs::File::open(&lock).unwrap().try_lock().is_ok()
    })
    .await;
    let pem = fs::read_to_string(world.config().log_key_path()).unwrap();
    let key = LogKey::from_pem(ORIGIN, &pem).unwrap();
    let genesis = Genesis {
        trust_roots: Vec::new(),
        build: "test".to_owned(),
        at: clock::wall(),
    };
    let log = Log::open(&data.books(), &data.staging(ORIGIN), key, &genesis).unwrap();
    let Rebuilt {
        mut state,
        mut files,
        next_file,
    } = rebuild(&data, &log).unwrap();
    let directory = data.journal(ORIGIN);
    Journal::begin(&directory, next_file, state.unstated_mut(), &mut files).unwrap();
    let job = SealJob {
        covered: std::mem::take(&mut state.sealable),
        unsealed: std::mem::take(&mut state.unsealed),
        journal_file: next_file,
        journal_directory: directory,
        files,
    };
    (
        Sealer {
            log,
            sealed: std::sync::mpsc::sync_channel(1).0,
            build: "test".to_owned(),
        },
        job,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_any_seal() {
    let world = World::new();
    let shop = killed(&world).await;
    let found = world.rows(TableId::Entries);
    assert_eq!(
        (found.sealed.len(), found.journaled),
        (0, shop.records.clone())
    );
    all_is_there_once(&world, shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_journal_was_rotated() {
    let world = World::new();
    let shop = killed(&world).await;
    drop(taken_over(&world).await);
    assert_eq!(
        world.rows(TableId::Entries).sorted().len(),
        12,
        "carried rows count once"
    );
    all_is_there_once(&world, shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_carried_entries_were_written() {
    let world = World::new();
    let shop = killed(&world).await;
    drop(taken_over(&world).await);
    let directory = world.data().journal(ORIGIN);
    let last = *journal::files(&directory).unwrap().last().unwrap();
    let path = file_path(&directory, last);
    let len = fs::metadata(&path).unwrap().len();
    assert!(len > 100);
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(len / 2)
        .unwrap();
    all_is_there_once(&world, shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_segments_were_staged() {
    let world = World::new();
    let shop = killed(&world).await;
    let (sealer, job) = taken_over(&world).await;
    let (segments, coverage) = sealer.stage(&job, clock::wall()).unwrap();
    assert!(
        segments.len() >= 2 && coverage.len() == 3,
        "{segments:?} {coverage:?}"
    );
    drop((sealer, job));
    let staged = || fs::read_dir(world.data().staging(ORIGIN)).unwrap().count();
    assert!(staged() >= 2);
    all_is_there_once(&world, shop).await;
    assert_eq!(staged(), 0, "what was staged in vain is cleared away");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_commit_and_before_the_journal_was_trimmed() {
    let world = World::new();
    let shop = killed(&world).await;
    let (mut sealer, job) = taken_over(&world).await;
    sealer.seal(&job).unwrap();
    let rows = world.rows(TableId::Entries);
    assert_eq!((rows.sealed.len(), rows.journaled.len()), (10, 2));
    assert_eq!(rows.sorted().len(), 12);
    drop((sealer, job));
    let directory = world.data().journal(ORIGIN);
    assert_eq!(journal::files(&directory).unwrap().len(), 2);
    all_is_there_once(&world, shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_journal_tail_is_cut_to_the_last_whole_frame() {
    let world = World::new();
    let mut shop = killed(&world).await;
    let directory = world.data().journal(ORIGIN);
    let last = *journal::files(&directory).unwrap().last().unwrap();
    let path = file_path(&directory, last);
    // The last frame held seqs 10 and 11; half of it reached the disk, so it was not acknowledged.
    let whole = fs::metadata(&path).unwrap().len();
    drop(taken_over(&world).await);
    fs::remove_file(file_path(&directory, last + 1)).unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(whole - 1)
        .unwrap();
    let collector = world.collector().await;
    let (_, greeting) = shop.hello(&collector).await;
    assert_eq!(greeting["epochs"][0]["streams"]["entries/ops_90d/0"], 10);
    assert_eq!(shop.send(&collector, 10..12).await.0, 200);
    let statement = shop.state(Regular);
    assert_eq!(shop.submit(&collector, &statement).await.0, 200);
    collector.kill().await;
    all_is_there_once(&world, shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_after_the_last_frame_is_cut_off() {
    let world = World::new();
    let shop = killed(&world).await;
    let directory = world.data().journal(ORIGIN);
    let last = *journal::files(&directory).unwrap().last().unwrap();
    let mut file = fs::File::options()
        .append(true)
        .open(file_path(&directory, last))
        .unwrap();
    file.write_all(&[0xff; 77]).unwrap();
    all_is_there_once(&world, shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_writer_is_closed_by_the_recovery_of_its_next_epoch() {
    let world = World::new();
    let collector = world.collector().await;
    let mut old = world.writer(SHOP, 7);
    old.hello(&collector).await;
    old.work(&collector, 4).await;
    old.write(6);
    assert_eq!(old.send(&collector, 4..7).await.0, 200);
    let mut new = world.writer(SHOP, 9);
    let (_, greeting) = new.hello(&collector).await;
    assert_eq!(greeting["epochs"][0]["streams"]["entries/ops_90d/0"], 7);
    assert_eq!(
        old.send(&collector, 4..10).await.0,
        200,
        "the tail comes again"
    );
    let recovery = new.recover(&old);
    assert_eq!(new.submit(&collector, &recovery).await.0, 200);
    new.work(&collector, 2).await;
    let last = new.state(Final);
    assert_eq!(new.submit(&collector, &last).await.0, 200);
    let (_, greeting) = new.hello(&collector).await;
    assert_eq!(
        greeting["epochs"],
        serde_json::json!([]),
        "both epochs are closed"
    );
    collector.kill().await;
    let collector = world.collector().await;
    let (_, greeting) = new.hello(&collector).await;
    assert_eq!(
        greeting["epochs"],
        serde_json::json!([]),
        "also after a crash"
    );
    collector.stop().await;
    assert_eq!(world.rows(TableId::Entries).sealed.len(), 12);
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
    assert!(world.gaps().is_empty(), "{:?}", world.gaps());
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_and_streams_are_known_after_a_restart_from_the_books_alone() {
    let world = World::new();
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.work(&collector, 4).await;
    let first = shop.previous;
    collector.stop().await;
    let size = read_checkpoint(&world.data().books(), ORIGIN)
        .unwrap()
        .unwrap()
        .size;
    assert!(size >= 2);
    let collector = world.collector().await;
    let (_, greeting) = shop.hello(&collector).await;
    let known = &greeting["epochs"][0];
    assert_eq!(
        (known["number"].as_u64(), known["sha256"].as_str()),
        (Some(0), Some(first.unwrap().to_string().as_str()))
    );
    assert_eq!(
        shop.send(&collector, 0..4).await.0,
        200,
        "a duplicate of sealed entries"
    );
    shop.work(&collector, 1).await;
    collector.stop().await;
    assert_eq!(world.rows(TableId::Entries).sealed.len(), 5);
    let statements = world.rows(TableId::Statements).sealed;
    let mut distinct = statements.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(
        statements.len(),
        distinct.len(),
        "the announcement is sealed once"
    );
    assert!(world.verify().is_proved());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_middle_of_the_journal_is_kept_aside_and_shows_as_gaps() {
    let world = World::new();
    let mut shop = killed(&world).await;
    let directory = world.data().journal(ORIGIN);
    drop(taken_over(&world).await);
    let numbers = journal::files(&directory).unwrap();
    let [first, second] = numbers[..] else {
        panic!("{numbers:?}")
    };
    let path = file_path(&directory, first);
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    // It was synced whole before the next file began.
    let refused = recovered(&world).await.unwrap_err();
    assert!(refused.contains("is damaged behind byte"), "{refused}");
    fs::rename(&path, directory.join("away")).unwrap();
    let refused = recovered(&world).await.unwrap_err();
    assert!(refused.contains("it is missing"), "{refused}");
    fs::rename(directory.join("away"), &path).unwrap();
    fs::remove_file(file_path(&directory, second)).unwrap();
    // In the newest file what cannot be read is cut, and kept.
    let collector = world.collector().await;
    let aside = fs::read_dir(&directory).unwrap().find_map(|item| {
        let path = item.unwrap().path();
        path.to_string_lossy().contains(".damaged-").then_some(path)
    });
    let aside = fs::read(aside.expect("it is kept aside")).unwrap();
    assert!(bytes.ends_with(&aside) && aside.len() > 100);
    shop.hello(&collector).await;
    let last = shop.records.len();
    shop.write(1);
    assert_eq!(shop.send(&collector, last..last + 1).await.0, 200);
    eventually("what is lost is a gap", || !world.gaps().is_empty()).await;
    collector.stop().await;
}

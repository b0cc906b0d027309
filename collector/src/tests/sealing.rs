//! Seals: what they hold, when they come, and that a real writer's rows arrive in them.

use std::time::Duration;

use counterfoil_columns::directory::origin_slug;
use counterfoil_entry::entry::Entry;
use counterfoil_entry::id::{RetentionClass, Writer};
use counterfoil_entry::table::TableId;
use counterfoil_entry::word::{Kind, Side};
use counterfoil_entry::{Hash, Time, clock};
use counterfoil_ledger::log::{Genesis, Log, read_checkpoint, read_manifest};
use counterfoil_ledger::manifest::Body;
use counterfoil_ledger::note::LogKey;
use counterfoil_spool::{Delivery, DeliveryConfig, Ending, Spool, SpoolConfig};
use tokio_util::sync::CancellationToken;

use super::world::{ORIGIN, SHOP, World, eventually};
use crate::{CollectorError, Prepared};

#[tokio::test(flavor = "multi_thread")]
async fn every_interval_is_sealed_also_an_empty_one_and_manifest_0_is_the_key() {
    let world = World::new();
    let mut config = world.config();
    config.seal_interval_s = 1;
    let collector = world.collector_with(config).await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.work(&collector, 20).await;
    let books = world.data().books();
    let size = || {
        read_checkpoint(&books, ORIGIN)
            .unwrap()
            .map_or(0, |head| head.size)
    };
    eventually("four manifests", || size() >= 4).await;
    shop.work(&collector, 20).await;
    collector.stop().await;
    let manifests: Vec<_> = (0..size())
        .map(|number| read_manifest(&books, ORIGIN, number).unwrap().0)
        .collect();
    assert!(matches!(&manifests[0].body, Body::Key { trust_roots, .. } if trust_roots.len() == 1));
    let mut empty = 0;
    for pair in manifests.windows(2) {
        assert_eq!(pair[0].until, pair[1].from);
        let Body::Seal { segments, .. } = &pair[1].body else {
            panic!("{pair:?}")
        };
        empty += usize::from(segments.is_empty());
    }
    assert!(empty > 0, "an interval without entries is sealed too");
    let rows = world.rows(TableId::Entries);
    assert_eq!((rows.sealed.len(), rows.journaled.len()), (40, 0));
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seal_that_became_due_before_the_start_is_made_at_once() {
    let world = World::new();
    let config = world.config();
    let books = world.data().books();
    // a log that was begun longer ago than the interval
    let key = LogKey::generate(ORIGIN).unwrap();
    let path = config.log_key_path();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, key.to_pem().unwrap()).unwrap();
    let ago_ns = i64::try_from(config.seal_interval_s).unwrap() * 1_000_000_000;
    let genesis = Genesis {
        trust_roots: world.roots().der().iter().map(|der| der.to_vec()).collect(),
        build: "test".to_owned(),
        at: clock::wall().plus_ns(-ago_ns),
    };
    drop(Log::open(&books, &world.data().staging(ORIGIN), key, &genesis).unwrap());
    let collector = world.collector_with(config.clone()).await;
    let size = || read_checkpoint(&books, ORIGIN).unwrap().unwrap().size;
    eventually("a seal", || size() == 2).await;
    // the next one has its whole interval before it
    collector.kill().await;
    let collector = world.collector_with(config).await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.work(&collector, 20).await;
    assert_eq!(size(), 2);
    collector.stop().await;
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_stated_waits_in_the_next_journal_file() {
    let world = World::new();
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.work(&collector, 3).await;
    shop.write(2);
    assert_eq!(shop.send(&collector, 3..5).await.0, 200);
    collector.stop().await;
    let rows = world.rows(TableId::Entries);
    assert_eq!((rows.sealed.len(), rows.journaled.len()), (3, 2));
    assert!(world.verify().is_proved());
    let collector = world.collector().await;
    let (_, greeting) = shop.hello(&collector).await;
    assert_eq!(greeting["epochs"][0]["streams"]["entries/ops_90d/0"], 5);
    let statement = shop.state(counterfoil_entry::statement::StatementKind::Final);
    assert_eq!(shop.submit(&collector, &statement).await.0, 200);
    collector.stop().await;
    let rows = world.rows(TableId::Entries);
    assert_eq!((rows.sealed.len(), rows.journaled.len()), (5, 0));
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
    let journal = world.data().journal(ORIGIN);
    assert_eq!(
        counterfoil_columns::journal::files(&journal).unwrap().len(),
        1,
        "it is trimmed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_spool_delivers_and_its_rows_are_sealed_once() {
    let world = World::new();
    let mut config = world.config();
    config.seal_interval_s = 1;
    let collector = world.collector_with(config).await;
    let spool = Spool::open(SpoolConfig {
        directory: world.folder.path().join("spool"),
        writer: Writer::parse(&format!("{SHOP}#1")).unwrap(),
        size_max: 64 << 20,
        build: "test".to_owned(),
        config_sha256: Hash::default(),
    })
    .unwrap();
    let mut lane = spool.lane(0);
    let mut delivery = DeliveryConfig::new(collector.address.to_string(), None);
    delivery.batch_interval = Duration::from_millis(50);
    delivery.statement_interval = Duration::from_millis(300);
    let delivery = Delivery::new(&spool, world.identity(SHOP), delivery).unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(delivery.run(stop.clone()));
    let class = RetentionClass::parse("sox_7y").unwrap();
    for at in 0..500 {
        let entry = Entry::new(Side::Server, Kind::Grpc, Time::from_ns(at));
        lane.append(TableId::Entries, &class, |header, out| {
            entry.encode(header, out)
        })
        .unwrap();
        if at % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
    stop.cancel();
    assert_eq!(running.await.unwrap().unwrap(), Ending::Acknowledged);
    collector.stop().await;
    let rows = world.rows(TableId::Entries);
    assert_eq!((rows.sealed.len(), rows.journaled.len()), (500, 0));
    let mut distinct = rows.sorted();
    distinct.dedup();
    assert_eq!(distinct.len(), 500);
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_collector_on_the_same_books_is_refused() {
    let world = World::new();
    let collector = world.collector().await;
    let error = Prepared::open(world.config()).await.unwrap_err();
    assert!(
        matches!(&error, CollectorError::Locked(path) if path.ends_with(origin_slug(ORIGIN) + "/lock")),
        "{error}"
    );
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_data_directory_and_a_port_in_use_are_told_clearly() {
    let world = World::new();
    world.data();
    std::fs::write(
        world.folder.path().join("data/format"),
        "counterfoil-data 9\n",
    )
    .unwrap();
    let error = Prepared::open(world.config()).await.unwrap_err();
    assert!(matches!(error, CollectorError::Directory(_)), "{error}");
    let world = World::new();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = world.config();
    config.listen = taken.local_addr().unwrap();
    let error = Prepared::open(config).await.unwrap_err();
    assert!(matches!(error, CollectorError::Listen { .. }), "{error}");
    let mut config = world.config();
    config.seal_interval_s = 0;
    let error = Prepared::open(config).await.unwrap_err().to_string();
    assert_eq!(error, "seal_interval_s = 0: expected 1 to 3600");
}

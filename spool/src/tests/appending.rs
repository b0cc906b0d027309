//! Lanes and their files.

use counterfoil_entry::id::Writer;

use super::world::{World, append, append_n, class, stream};
use crate::cursor::{Cursor, Limit};
use crate::{AppendError, Spool, SpoolConfig};
use counterfoil_entry::table::TableId;

const ALL: Limit = Limit {
    until: u64::MAX,
    entries: usize::MAX,
    bytes: usize::MAX,
};

#[tokio::test]
async fn each_stream_counts_its_own_seqs_without_holes() {
    let world = World::new().await;
    let spool = world.spool();
    let (mut one, mut two) = (spool.lane(0), spool.lane(1));
    for seq in 0..3 {
        assert_eq!(append(&mut one, "sox_7y", "/a").unwrap(), seq);
        assert_eq!(append(&mut one, "ops_90d", "/b").unwrap(), seq);
        assert_eq!(append(&mut two, "sox_7y", "/c").unwrap(), seq);
    }
}

#[tokio::test]
async fn a_full_spool_drops_before_a_seq_is_given_and_counts() {
    let world = World::new().await;
    let spool = Spool::open(world.config(32 << 10)).unwrap();
    let mut lane = spool.lane(0);
    let mut taken = 0;
    while append(&mut lane, "sox_7y", "/a").is_ok() {
        taken += 1;
    }
    for _ in 0..4 {
        assert!(matches!(
            append(&mut lane, "sox_7y", "/a"),
            Err(AppendError::Full)
        ));
    }
    assert!(taken > 50, "{taken}");
    assert!(spool.gauges().spool_bytes() <= 32 << 10);
    assert_eq!(spool.gauges().dropped(), 5);
    let drops = spool.space().drops();
    assert_eq!(drops.len(), 1);
    assert_eq!(
        (drops[0].reason.as_str(), drops[0].dropped),
        ("spool_full", 5)
    );
    assert_eq!(drops[0].stream, stream("entries/sox_7y/0"));
}

#[tokio::test]
async fn a_disk_that_fails_is_an_error_and_costs_no_seq() {
    let world = World::new().await;
    let spool = world.spool();
    let mut lane = spool.lane(0);
    let path = spool.space().path().to_owned();
    let hidden = path.with_extension("hidden");
    std::fs::rename(&path, &hidden).unwrap();
    assert!(matches!(
        append(&mut lane, "sox_7y", "/a"),
        Err(AppendError::Io(_))
    ));
    assert_eq!(spool.space().drops()[0].reason, "spool_io");
    std::fs::rename(&hidden, &path).unwrap();
    assert_eq!(append(&mut lane, "sox_7y", "/a").unwrap(), 0);
}

#[tokio::test]
async fn an_entry_that_no_collector_takes_is_refused() {
    let world = World::new().await;
    let spool = world.spool();
    let mut lane = spool.lane(0);
    let huge = "x".repeat(1 << 20);
    assert!(matches!(
        append(&mut lane, "sox_7y", &huge),
        Err(AppendError::TooLarge)
    ));
    assert_eq!(append(&mut lane, "sox_7y", "/a").unwrap(), 0);
}

#[tokio::test]
async fn entries_read_back_from_any_seq_over_many_files() {
    let world = World::new().await;
    // 1/16 of this size begins a new file.
    let spool = Spool::open(world.config(16 * (64 << 10))).unwrap();
    let mut lane = spool.lane(3);
    append_n(&mut lane, "sox_7y", 1500);
    let files = crate::directory::entry_files(spool.space().path()).unwrap();
    assert!(files.len() > 3, "{files:?}");
    for from in [0, 1, 700, files[2].first_seq, 1499, 1500] {
        let mut cursor = Cursor::new(spool.space().path(), stream("entries/sox_7y/3"), from);
        let mut next = from;
        let mut check = |seq: u64, record: &[u8]| {
            let (_, entry) = counterfoil_entry::entry::Entry::decode(record).unwrap();
            assert_eq!(seq, next);
            assert_eq!(entry.route.as_deref(), Some(format!("/{seq}").as_str()));
            next += 1;
        };
        // In small portions, as batches are read.
        let some = Limit { entries: 97, ..ALL };
        while cursor.read(some, &mut Vec::new(), &mut check).unwrap() > 0 {}
        assert_eq!(next, 1500);
    }
}

#[tokio::test]
async fn writers_of_one_host_share_a_root_and_nothing_else() {
    let world = World::new().await;
    let one = world.spool();
    let other = Spool::open(SpoolConfig {
        writer: Writer::parse("spiffe://bank.test/workload/cart#p-1").unwrap(),
        ..world.config(1 << 20)
    })
    .unwrap();
    append_n(&mut one.lane(0), "sox_7y", 3);
    assert_eq!(append(&mut other.lane(0), "sox_7y", "/a").unwrap(), 0);
    assert_eq!(std::fs::read_dir(world.root.path()).unwrap().count(), 2);
    // A second process of the same writer leaves the living one alone.
    let again = world.spool();
    assert!(again.epoch() > one.epoch());
    assert!(again.take_start().unwrap().old.is_empty());
}

#[tokio::test]
async fn a_drop_that_the_process_decides_is_counted_under_its_reason() {
    let world = World::new().await;
    let spool = world.spool();
    spool
        .lane(2)
        .count_drop(TableId::Entries, &class("ops_90d"), "best_effort")
        .unwrap();
    let drops = spool.space().drops();
    assert_eq!(drops[0].stream, stream("entries/ops_90d/2"));
    assert_eq!(drops[0].reason, "best_effort");
}

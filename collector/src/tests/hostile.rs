//! Writers that sign what a verifier would never take, clocks that are wrong, and conflicts.

use std::time::Duration;

use counterfoil_entry::entry::Entry;
use counterfoil_entry::frame::push_record;
use counterfoil_entry::id::{Epoch, Stream};
use counterfoil_entry::record::HeaderRef;
use counterfoil_entry::rows::{GapRow, StatementRow};
use counterfoil_entry::statement::StatementKind::{self, Final, Regular};
use counterfoil_entry::statement::{Recovery, Signed, StreamRange};
use counterfoil_entry::table::TableId;
use counterfoil_entry::tree::{leaf_hash, root};
use counterfoil_entry::word::{Kind, Side};
use counterfoil_entry::{Time, clock};

use tokio::io::AsyncWriteExt;

use super::world::{Running, SHOP, STREAM, TestWriter, World, eventually};
use crate::gaps::{Notice, reconcile};
use crate::state::{EpochState, Kept, Place, State};

async fn refused(shop: &TestWriter, collector: &Running, signed: &Signed) {
    let (status, answer) = shop.submit(collector, signed).await;
    assert_eq!(
        (status, &answer["reason"], &answer["permanent"]),
        (400, &"malformed".into(), &true.into()),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_goes_on_from_the_other_of_two_statements_and_the_books_are_proved() {
    let world = World::new();
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.work(&collector, 3).await;
    (shop.number, shop.previous) = (0, None);
    let other = shop.state(Regular);
    assert_eq!(shop.submit(&collector, &other).await.0, 200);
    shop.work(&collector, 2).await;
    let last = shop.state(Final);
    assert_eq!(shop.submit(&collector, &last).await.0, 200);
    collector.stop().await;
    assert_eq!(world.rows(TableId::Conflicts).sealed.len(), 1);
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
    assert_eq!((report.counts.conflicts, report.is_complete), (1, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_that_cannot_be_kept_is_not_acknowledged() {
    let world = World::new();
    let mut config = world.config();
    config.spool_bytes_max = 1 << 20;
    let collector = world.collector_with(config).await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.work(&collector, 1).await;
    // The collector's own spool has room for two of these.
    shop.build = "b".repeat(400 << 10);
    let mut answers = Vec::new();
    for _ in 0..3 {
        (shop.number, shop.previous) = (0, None);
        let other = shop.state(Regular);
        answers.push(shop.submit(&collector, &other).await.0);
    }
    assert_eq!(answers, [200, 200, 503]);
    collector.stop().await;
    assert_eq!(world.rows(TableId::Conflicts).sorted().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_no_verifier_would_take_are_refused_for_good() {
    let world = World::new();
    let collector = world.collector().await;
    // After the end.
    let mut shop = world.writer(SHOP, 5);
    shop.hello(&collector).await;
    shop.work(&collector, 1).await;
    let last = shop.state(Final);
    assert_eq!(shop.submit(&collector, &last).await.0, 200);
    let late = shop.state(Regular);
    refused(&shop, &collector, &late).await;
    // Late, and not the one that its successor names.
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.work(&collector, 1).await;
    let (number, previous) = (shop.number, shop.previous);
    let skipped = shop.state(Regular);
    shop.work(&collector, 1).await;
    let after = (shop.number, shop.previous);
    (shop.number, shop.previous) = (number, previous);
    let other = shop.state(Regular);
    refused(&shop, &collector, &other).await;
    assert_eq!(shop.submit(&collector, &skipped).await.0, 200);
    // Final, and before another one.
    (shop.number, shop.previous) = (after.0 + 1, Some(leaf_hash(b"skipped")));
    shop.work(&collector, 1).await;
    (shop.number, shop.previous) = after;
    let early = shop.state(Final);
    refused(&shop, &collector, &early).await;
    // A recovery that gives the old epoch another end than it had.
    let mut next = world.writer(SHOP, 9);
    next.hello(&collector).await;
    for last in [
        None,
        Some((1, leaf_hash(b"other"))),
        Some((u64::MAX, leaf_hash(b"far"))),
    ] {
        let recovery = Recovery {
            old_epoch: Epoch(7),
            last,
            tail: Vec::new(),
        };
        (next.number, next.previous) = (0, None);
        let recovery = next.state_ranges(StatementKind::Recovery(recovery), Vec::new());
        refused(&next, &collector, &recovery).await;
    }
    collector.stop().await;
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_clock_is_far_off_is_kept_as_unverified() {
    let world = World::new();
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    let long_ago = Time::from_ns(1_000_000_000_000_000_000);
    let announcement = shop.announcement_of(&shop.identity.current(), long_ago);
    assert_eq!(
        shop.post(&collector, "/v1/hello", announcement).await.0,
        200
    );
    shop.work(&collector, 2).await;
    collector.stop().await;
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
    assert_eq!(report.counts.unverified, 1);
    let unverified = world
        .rows(TableId::Statements)
        .sealed
        .iter()
        .map(|record| StatementRow::parts(record).unwrap())
        .filter(|parts| parts.trust.as_str() == "unverified")
        .count();
    assert_eq!(unverified, 2, "the announcement and the statement");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_may_be_filled_after_a_restart() {
    for is_killed in [false, true] {
        let world = World::new();
        let collector = world.collector().await;
        let mut shop = world.writer(SHOP, 7);
        shop.hello(&collector).await;
        shop.write(10);
        assert_eq!(shop.send(&collector, 0..4).await.0, 200);
        assert_eq!(shop.send(&collector, 6..10).await.0, 200);
        let statement = shop.state(Regular);
        assert_eq!(shop.submit(&collector, &statement).await.0, 200);
        if is_killed {
            collector.kill().await;
        } else {
            collector.stop().await;
        }
        let collector = world.collector().await;
        shop.hello(&collector).await;
        assert_eq!(shop.send(&collector, 4..6).await.0, 200);
        let last = shop.state(Final);
        assert_eq!(shop.submit(&collector, &last).await.0, 200);
        eventually("all gaps are closed", || {
            let gaps = world.gaps();
            let is_closed = |gap: &GapRow| gap.closed_at.is_some();
            !gaps.is_empty() && gaps.iter().all(is_closed)
        })
        .await;
        collector.stop().await;
        let rows = world.rows(TableId::Entries);
        assert_eq!((rows.sealed.len(), rows.journaled.len()), (10, 0));
        let report = world.verify();
        assert!(report.is_proved(), "{report:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_kinds_of_streams_than_a_manifest_holds_are_put_off() {
    let world = World::new();
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    let (mut ranges, mut put_off) = (Vec::new(), 0);
    for class in 0..200 {
        let stream = format!("entries/{}{class}_1d/0", "c".repeat(50));
        let header = HeaderRef {
            writer: shop.name.as_str(),
            epoch: shop.epoch,
            stream: &stream,
            seq: 0,
        };
        let (mut record, mut body) = (Vec::new(), Vec::new());
        Entry::new(Side::Client, Kind::Http, clock::wall()).encode(&header, &mut record);
        push_record(&mut body, &record);
        match shop.post(&collector, "/v1/batch", body).await.0 {
            200 => ranges.push(StreamRange {
                stream: Stream::parse(&stream).unwrap(),
                first_seq: 0,
                count: 1,
                root: root(&[leaf_hash(&record)]),
            }),
            status => {
                assert_eq!(status, 503);
                put_off += 1;
            }
        }
    }
    let taken = ranges.len();
    assert!(taken >= 30 && put_off > 0, "{taken} {put_off}");
    for range in ranges {
        let statement = shop.state_ranges(Regular, vec![range]);
        assert_eq!(shop.submit(&collector, &statement).await.0, 200);
    }
    collector.stop().await;
    assert_eq!(world.rows(TableId::Entries).sealed.len(), taken);
    // What is sealed makes room.
    let collector = world.collector().await;
    shop.hello(&collector).await;
    shop.write(1);
    assert_eq!(shop.send(&collector, 0..1).await.0, 200);
    collector.stop().await;
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_announced_and_do_not_come_leave_the_collector_its_memory() {
    let world = World::new();
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.write(1);
    let head = b"POST /v1/batch HTTP/1.1\r\nhost: c\r\ncontent-length: 4194304\r\n\r\n";
    let mut slow = Vec::new();
    let mut answer = 200;
    // 64 fill the room; those that came while another request was in it were refused
    for opened in 0..300 {
        let mut tls = shop.connect(&collector).await;
        tls.write_all(head).await.unwrap();
        tls.flush().await.unwrap();
        slow.push(tls);
        if opened >= 63 {
            answer = shop.send(&collector, 0..1).await.0;
        }
        if answer == 503 {
            break;
        }
    }
    assert_eq!(answer, 503);
    drop(slow);
    while shop.send(&collector, 0..1).await.0 == 503 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shop.work(&collector, 1).await;
    collector.stop().await;
}

#[test]
fn many_holes_are_compared_with_their_gaps_in_no_time() {
    let writer = World::new().writer(SHOP, 7).name;
    let mut epoch = EpochState::default();
    let stream = epoch
        .streams
        .entry(Stream::parse(STREAM).unwrap())
        .or_default();
    (0..20_000).for_each(|seq| stream.seen.insert(2 * seq + 1, 2 * seq + 2));
    let notice = Notice {
        writer: &writer,
        epoch: Epoch(7),
        now: clock::wall(),
    };
    let began = clock::mono_ns();
    assert_eq!(reconcile(notice, &mut epoch).len(), 20_000);
    assert!(reconcile(notice, &mut epoch).is_empty());
    let took_ms = (clock::mono_ns() - began) / 1_000_000;
    assert!(took_ms < 10_000, "{took_ms} ms");
}

#[tokio::test]
async fn a_range_whose_entries_turn_out_wrong_is_hashed_once() {
    let mut shop = World::new().writer(SHOP, 7);
    shop.write(3);
    let mut range = shop.range(0..3);
    range.root.0[0] ^= 1;
    let wrong = shop.state_ranges(Regular, vec![range.clone()]);
    let statement = counterfoil_entry::statement::Statement::decode(&wrong.bytes).unwrap();
    let mut state = State::default();
    state.take_statement(&statement, &wrong, clock::wall());
    for (seq, record) in (0..).zip(&shop.records) {
        let place = Place {
            file: 1,
            offset: 0,
            len: 1,
        };
        let kept = Kept {
            leaf: leaf_hash(record),
            place,
            received_at: clock::wall(),
        };
        let epoch = (&shop.name, shop.epoch);
        assert!(state.take_entry(epoch, &range.stream, seq, 1, kept));
    }
    let stream = &state.find(&shop.name, shop.epoch).unwrap().streams[&range.stream];
    assert_eq!(stream.held.len(), 1, "nothing else may state it");
    assert_eq!(stream.held[0].root, None);
    assert!(state.sealable.is_empty());
}

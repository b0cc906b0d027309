//! Every case of what a writer may send, right and wrong.

use counterfoil_entry::Time;
use counterfoil_entry::rows::{GapRow, StatementRow};
use counterfoil_entry::statement::StatementKind::{Final, Regular};
use counterfoil_entry::table::TableId;

use crate::bookkeeper::Request;
use crate::intake::Desks;
use crate::receiver::Receiver;

use super::world::{COLLECTOR, ORIGIN, SHOP, STREAM, World, eventually};

fn open(gaps: &[GapRow]) -> Vec<&GapRow> {
    gaps.iter().filter(|gap| gap.closed_at.is_none()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_right_is_acknowledged_once_however_often_it_comes() {
    let world = World::new();
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    let (_, greeting) = shop.hello(&collector).await;
    assert_eq!(greeting["origin"], ORIGIN);
    assert!(greeting["checkpoint"].as_str().unwrap().starts_with(ORIGIN));
    assert_eq!(greeting["epochs"][0]["number"], serde_json::Value::Null);
    shop.write(5);
    for seqs in [0..3, 0..3, 1..5] {
        assert_eq!(shop.send(&collector, seqs).await.0, 200);
    }
    let statement = shop.state(Regular);
    for _ in 0..2 {
        let (status, answer) = shop.submit(&collector, &statement).await;
        assert_eq!((status, answer["origin"].as_str()), (200, Some(ORIGIN)));
        assert!(answer.get("epochs").is_none(), "{answer}");
    }
    let (_, greeting) = shop.hello(&collector).await;
    let known = &greeting["epochs"][0];
    assert_eq!(
        (known["epoch"].as_u64(), known["number"].as_u64()),
        (Some(7), Some(0))
    );
    assert_eq!(known["sha256"], shop.previous.unwrap().to_string());
    assert_eq!(known["streams"][STREAM], 5);
    assert_eq!(world.rows(TableId::Entries).journaled, shop.records);
    collector.stop().await;
    let mut sent = shop.records;
    sent.sort();
    let rows = world.rows(TableId::Entries);
    assert_eq!((rows.sorted(), rows.journaled.len()), (sent, 0));
    assert_eq!(
        world.rows(TableId::Statements).sealed.len(),
        2 + 2,
        "and the collector's own"
    );
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_statements_under_one_number_are_both_kept() {
    let world = World::new();
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.work(&collector, 3).await;
    let (number, previous) = (shop.number, shop.previous);
    (shop.number, shop.previous) = (0, None);
    let other = shop.state(Regular);
    (shop.number, shop.previous) = (number, previous);
    for _ in 0..2 {
        assert_eq!(shop.submit(&collector, &other).await.0, 200);
    }
    shop.work(&collector, 2).await;
    let kept = || world.rows(TableId::Conflicts).journaled.len();
    eventually("the conflict is a row", || kept() == 1).await;
    collector.stop().await;
    assert_eq!(world.rows(TableId::Conflicts).sealed.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_entries_open_a_gap_that_late_ones_close() {
    let world = World::new();
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.write(10);
    assert_eq!(shop.send(&collector, 0..4).await.0, 200);
    assert_eq!(
        shop.send(&collector, 6..10).await.0,
        200,
        "a skip is acknowledged"
    );
    let statement = shop.state(Regular);
    assert_eq!(shop.submit(&collector, &statement).await.0, 200);
    shop.work(&collector, 2).await;
    eventually("the gap is a row", || {
        let gaps = world.gaps();
        let skipped = |gap: &&GapRow| gap.cause == "sequence_skipped";
        open(&gaps)
            .into_iter()
            .any(|gap| skipped(&gap) && (gap.from_seq, gap.until_seq) == (Some(4), Some(6)))
    })
    .await;
    assert_eq!(shop.send(&collector, 4..6).await.0, 200);
    eventually("all gaps are closed", || {
        let gaps = world.gaps();
        !gaps.is_empty() && open(&gaps).is_empty()
    })
    .await;
    collector.stop().await;
    let mut sent = shop.records;
    sent.sort();
    assert_eq!(world.rows(TableId::Entries).sealed.len(), 12);
    assert_eq!(world.rows(TableId::Entries).sorted(), sent);
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_that_stays_open_is_recorded_for_the_verifier() {
    let world = World::new();
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.write(10);
    assert_eq!(shop.send(&collector, 0..4).await.0, 200);
    assert_eq!(shop.send(&collector, 6..10).await.0, 200);
    let statement = shop.state(Regular);
    assert_eq!(shop.submit(&collector, &statement).await.0, 200);
    shop.work(&collector, 2).await;
    eventually("the gaps are rows", || open(&world.gaps()).len() == 3).await;
    collector.stop().await;
    // What the gapped statement covers waits in the journal, the rest is sealed.
    let rows = world.rows(TableId::Entries);
    assert_eq!((rows.sealed.len(), rows.journaled.len()), (2, 8));
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
    assert!(!report.is_complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skipped_statement_opens_a_gap_that_the_late_one_closes() {
    let world = World::new();
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.work(&collector, 1).await;
    shop.write(2);
    assert_eq!(shop.send(&collector, 1..3).await.0, 200);
    let late = shop.state(Regular);
    shop.work(&collector, 3).await;
    eventually("the gap is a row", || {
        let gaps = world.gaps();
        open(&gaps).iter().any(|gap| {
            gap.cause == "statement_skipped"
                && (gap.from_statement, gap.until_statement) == (Some(1), Some(2))
        })
    })
    .await;
    assert_eq!(shop.submit(&collector, &late).await.0, 200);
    eventually("all gaps are closed", || open(&world.gaps()).is_empty()).await;
    collector.stop().await;
    assert_eq!(world.rows(TableId::Entries).sealed.len(), 6);
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_signature_or_root_is_refused_for_good_and_recorded() {
    let world = World::new();
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.write(4);
    assert_eq!(shop.send(&collector, 0..4).await.0, 200);
    let mut forged = shop.state(Regular);
    forged.signature[5] ^= 1;
    let (status, answer) = shop.submit(&collector, &forged).await;
    assert_eq!(
        (status, &answer["reason"], &answer["permanent"]),
        (400, &"signature".into(), &true.into())
    );
    let mut range = shop.range(0..4);
    range.root.0[0] ^= 1;
    let wrong = shop.state_ranges(Regular, vec![range]);
    let (status, answer) = shop.submit(&collector, &wrong).await;
    assert_eq!(
        (status, &answer["reason"], &answer["permanent"]),
        (400, &"root".into(), &true.into())
    );
    shop.work(&collector, 2).await;
    eventually("the gaps are rows", || {
        let gaps = world.gaps();
        let causes: Vec<_> = open(&gaps).iter().map(|gap| gap.cause.clone()).collect();
        ["signature", "root", "not_proved"]
            .iter()
            .all(|cause| causes.contains(&(*cause).to_owned()))
    })
    .await;
    collector.stop().await;
    let rows = world.rows(TableId::Entries);
    assert_eq!(
        (rows.sealed.len(), rows.journaled.len()),
        (2, 4),
        "nothing received is thrown away"
    );
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_before_its_entries_is_asked_for_again() {
    let world = World::new();
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    shop.write(3);
    let statement = shop.state(Regular);
    let (status, answer) = shop.submit(&collector, &statement).await;
    assert_eq!(
        (status, &answer["reason"], &answer["permanent"]),
        (409, &"not_announced".into(), &false.into())
    );
    assert_eq!(shop.send(&collector, 0..3).await.0, 409);
    shop.hello(&collector).await;
    let (status, answer) = shop.submit(&collector, &statement).await;
    assert_eq!(
        (status, &answer["reason"], &answer["permanent"]),
        (409, &"entries_missing".into(), &false.into())
    );
    assert_eq!(shop.send(&collector, 0..3).await.0, 200);
    assert_eq!(shop.submit(&collector, &statement).await.0, 200);
    collector.stop().await;
    assert_eq!(world.rows(TableId::Entries).sealed.len(), 3);
    assert!(world.gaps().is_empty(), "{:?}", world.gaps());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_for_another_and_nothing_malformed_gets_in() {
    let world = World::new();
    let collector = world.collector().await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.write(2);
    let statement = shop.state(Final);
    let thief = world.writer("spiffe://books.test/workload/thief", 7);
    let mut gap = shop.batch(0..1);
    gap.truncate(20);
    let long = vec![0; (4 << 20) + 1];
    for (path, body, status, reason) in [
        ("/v1/batch", shop.batch(0..2), 403, "not_the_writer"),
        ("/v1/statement", statement.to_wire(), 403, "not_the_writer"),
        ("/v1/hello", shop.announcement(), 403, "not_the_writer"),
        ("/v1/batch", gap, 400, "malformed"),
        ("/v1/batch", Vec::new(), 400, "malformed"),
        ("/v1/statement", vec![0; 9], 400, "malformed"),
        ("/v1/hello", vec![0, 0, 0, 9], 400, "malformed"),
        ("/v1/batch", long, 413, "too_large"),
        ("/v1/statement", vec![0; (512 << 10) + 1], 413, "too_large"),
    ] {
        let (found, answer) = thief.post(&collector, path, body).await;
        assert_eq!(
            (found, answer["reason"].as_str()),
            (status, Some(reason)),
            "{path}: {answer}"
        );
        assert_eq!(answer["permanent"], true);
    }
    assert_eq!(thief.post(&collector, "/v1/else", Vec::new()).await.0, 404);
    collector.stop().await;
    assert!(world.rows(TableId::Entries).sorted().is_empty());
}

#[tokio::test]
async fn a_full_queue_is_answered_with_try_again() {
    let world = World::new();
    let mut shop = world.writer(SHOP, 7);
    shop.write(1);
    let (requests, queue) = std::sync::mpsc::sync_channel(1);
    requests.send(Request::Close).unwrap();
    let receiver = Receiver {
        identity: world.identity(COLLECTOR),
        desks: Desks {
            collector: COLLECTOR.to_owned(),
            control: String::new(),
            query: String::new(),
            retention: String::new(),
        },
        meters: crate::admin::Meters::default(),
        requests,
        is_closing: std::sync::Arc::default(),
        room: std::sync::Arc::new(tokio::sync::Semaphore::new(1)),
    };
    let peer = counterfoil_trust::peer_of(shop.identity.current().chain_der()).unwrap();
    let batch = || shop.batch(0..1).into();
    let refused = receiver
        .answer("/v1/batch", batch(), &peer)
        .await
        .unwrap_err();
    assert_eq!(
        (refused.reason.word(), refused.reason.status().as_u16()),
        ("overload", 503)
    );
    assert!(!refused.reason.is_permanent());
    drop(queue);
    let refused = receiver
        .answer("/v1/batch", batch(), &peer)
        .await
        .unwrap_err();
    assert_eq!(
        refused.reason.word(),
        "overload",
        "a stopped bookkeeper answers nothing else"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_collector_writes_gaps_and_only_control_issuance() {
    use counterfoil_entry::frame::push_record;
    use counterfoil_entry::record::{HeaderRef, begin};
    let world = World::new();
    let collector = world.collector().await;
    let shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    for table in [TableId::Gaps, TableId::Conflicts, TableId::Issuance] {
        let stream = format!("{}/permanent/0", table.name());
        let (mut record, mut body) = (Vec::new(), Vec::new());
        let header = HeaderRef {
            writer: shop.name.as_str(),
            epoch: shop.epoch,
            stream: &stream,
            seq: 0,
        };
        begin(table, &header, &mut record);
        push_record(&mut body, &record);
        let (status, answer) = shop.post(&collector, "/v1/batch", body).await;
        assert_eq!(
            (status, answer["reason"].as_str()),
            (403, Some("not_the_writer")),
            "{stream}"
        );
    }
    assert_eq!(
        world.identity(COLLECTOR).current().spiffe_id().as_str(),
        COLLECTOR
    );
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_announced_under_an_expired_svid_is_kept_and_marked() {
    let world = World::new();
    let collector = world.collector().await;
    let expired = world.identity_until(SHOP, 2022).current();
    let then = Time::from_ns(1_600_000_000_000_000_000);
    let mut control = world.writer("spiffe://books.test/counterfoil/control", 3);
    control.hello(&collector).await;
    for (epoch, is_issued) in [(7, false), (8, true)] {
        if is_issued {
            let sent = control.send_issued(&collector, &expired).await;
            assert_eq!(sent.0, 200, "{sent:?}");
        }
        let mut shop = world.writer(SHOP, epoch);
        let announcement = shop.announcement_of(&expired, then);
        assert_eq!(
            shop.post(&collector, "/v1/hello", announcement).await.0,
            200
        );
        shop.work(&collector, 2).await;
        let last = shop.state(Final);
        assert_eq!(shop.submit(&collector, &last).await.0, 200);
    }
    collector.stop().await;
    let mut trust: Vec<_> = world
        .rows(TableId::Statements)
        .sealed
        .iter()
        .map(|record| StatementRow::parts(record).unwrap())
        .filter(|parts| parts.is_announcement)
        .map(|parts| parts.trust.as_str())
        .collect();
    trust.sort_unstable();
    assert_eq!(trust, ["late", "unverified", "verified", "verified"]);
    assert_eq!(world.rows(TableId::Entries).sealed.len(), 4);
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_or_missing_certificate_is_refused_before_any_request() {
    let world = World::new();
    let collector = world.collector().await;
    let stranger = World::new();
    let identity = stranger.identity(SHOP);
    let expect = counterfoil_trust::Expect::AnyInDomain;
    let roots = world.roots();
    // Its own roots let it believe the collector; the collector does not believe it.
    let svid = std::sync::Arc::into_inner(identity.current());
    assert!(svid.is_none(), "the identity still holds its SVID");
    let id = counterfoil_trust::SpiffeId::parse(COLLECTOR).unwrap();
    let bare = counterfoil_trust::client_config_without_svid(&roots, id, &[b"http/1.1"]);
    let foreign = counterfoil_trust::client_config(&identity, expect, &[b"http/1.1"]);
    for config in [bare, foreign] {
        let stream = tokio::net::TcpStream::connect(collector.address)
            .await
            .unwrap();
        let connector = tokio_rustls::TlsConnector::from(config);
        let refused = match connector
            .connect(counterfoil_trust::server_name(), stream)
            .await
        {
            Err(_) => true,
            Ok(mut tls) => {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let request = b"POST /v1/hello HTTP/1.1\r\nhost: c\r\ncontent-length: 0\r\n\r\n";
                let mut answer = Vec::new();
                tls.write_all(request).await.is_err()
                    || tls.read_to_end(&mut answer).await.is_err()
                    || answer.is_empty()
            }
        };
        assert!(refused);
    }
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_writer_is_a_gap_until_it_speaks_again() {
    let world = World::new();
    let mut config = world.config();
    config.silence_s = 1;
    let collector = world.collector_with(config).await;
    let mut shop = world.writer(SHOP, 7);
    shop.hello(&collector).await;
    shop.work(&collector, 1).await;
    eventually("silence is a row", || {
        open(&world.gaps())
            .iter()
            .any(|gap| gap.detected_by == "silence")
    })
    .await;
    shop.work(&collector, 1).await;
    let last = shop.state(Final);
    assert_eq!(shop.submit(&collector, &last).await.0, 200);
    eventually("silence is over", || open(&world.gaps()).is_empty()).await;
    collector.stop().await;
    let report = world.verify();
    assert!(report.is_proved(), "{report:#?}");
}

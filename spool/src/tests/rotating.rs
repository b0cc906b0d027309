//! Renewing an SVID: proven before it is used, tried until it succeeds, and each attempt on record.

use std::path::Path;
use std::time::Duration;

use counterfoil_entry::frame::FrameReader;
use counterfoil_entry::record::RecordView;
use counterfoil_entry::table::TableId;
use counterfoil_entry::tlv::Fields;
use tokio_util::sync::CancellationToken;

use super::joining::{CONTROL, Control, lane};
use super::world::{WRITER, until};
use crate::join::{join, renew_loop};
use crate::lock;

/// What a row of `cert_rotations` says that a test looks at.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    cycle: String,
    attempt: u64,
    trigger: String,
    old: Option<String>,
    new: Option<String>,
    outcome: String,
    error: Option<String>,
}

/// All rows in the spool of `folder`, in the order in which they were written.
fn rows(folder: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    for writer in std::fs::read_dir(folder.join("spool")).unwrap() {
        for epoch in std::fs::read_dir(writer.unwrap().path()).unwrap() {
            for file in std::fs::read_dir(epoch.unwrap().path()).unwrap() {
                let file = file.unwrap();
                if file
                    .file_name()
                    .to_string_lossy()
                    .starts_with("cert_rotations.audit_7y.")
                {
                    let bytes = std::fs::read(file.path()).unwrap();
                    let frames = FrameReader::new(bytes.get(8..).unwrap_or_default());
                    rows.extend(frames.map(|frame| row(frame.payload)));
                }
            }
        }
    }
    rows
}

fn row(record: &[u8]) -> Row {
    let view = RecordView::parse(record).unwrap();
    view.expect(TableId::CertRotations).unwrap();
    let fields = Fields::parse(view.body).unwrap();
    let optional = |id| fields.text_opt(id).unwrap().map(str::to_owned);
    assert_eq!(fields.text(5).unwrap().len(), 32, "an attempt has a name");
    assert_eq!(fields.text(6).unwrap(), WRITER);
    assert!(fields.time(14).unwrap() <= fields.time(15).unwrap());
    Row {
        cycle: fields.text(7).unwrap().to_owned(),
        attempt: fields.u64(8).unwrap(),
        trigger: fields.text(9).unwrap().to_owned(),
        old: optional(10),
        new: optional(12),
        outcome: fields.text(16).unwrap().to_owned(),
        error: optional(17),
    }
}

fn success(cycle: &str, attempt: u64, trigger: &str, new: &str) -> Row {
    Row {
        cycle: cycle.to_owned(),
        attempt,
        trigger: trigger.to_owned(),
        old: (cycle != "first").then(|| cycle.to_owned()),
        new: Some(new.to_owned()),
        outcome: "success".to_owned(),
        error: None,
    }
}

fn failed(cycle: &str, attempt: u64, trigger: &str, error: &str) -> Row {
    Row {
        new: None,
        outcome: "failed".to_owned(),
        error: Some(error.to_owned()),
        ..success(cycle, attempt, trigger, "")
    }
}

#[tokio::test]
async fn renewal_shows_the_svid_instead_of_the_token_and_each_cycle_is_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(CONTROL, Duration::from_secs(2)).await;
    let config = control.joins(folder.path());
    let (spool, mut writing) = lane(folder.path());
    let identity = join(&config, &mut writing).await.unwrap();
    let first = identity.current().serial().to_owned();
    assert_eq!(rows(folder.path()), [success("first", 1, "first", &first)]);

    let shutdown = CancellationToken::new();
    let renewing = renew_loop(identity.clone(), config, spool.lane(0), shutdown.clone());
    let renewing = tokio::spawn(renewing);
    until("a second row", || rows(folder.path()).len() > 1).await;
    let second = identity.current().serial().to_owned();
    until("a third row", || rows(folder.path()).len() > 2).await;
    shutdown.cancel();
    renewing.await.unwrap();

    let asked = control.asked("/v1/svid");
    assert_eq!(asked[1].peer.as_ref().unwrap().serial, first);
    assert!(!asked[1].headers.contains_key("authorization"));
    let rows = rows(folder.path());
    assert_eq!(rows[1], success(&first, 1, "scheduled", &second));
    assert_eq!((&*rows[2].cycle, &*rows[2].outcome), (&*second, "success"));
    // control saw the new serial in a handshake before it was used
    let proofs = control.asked("/v1/health");
    let seen: Vec<_> = proofs
        .iter()
        .map(|p| p.peer.clone().unwrap().serial)
        .collect();
    assert_eq!(seen[..2], [first, second]);
}

#[tokio::test]
async fn a_rotation_whose_proof_fails_is_recorded_as_failed_and_the_old_svid_stays() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(CONTROL, Duration::from_secs(6)).await;
    let config = control.joins(folder.path());
    let (spool, mut writing) = lane(folder.path());
    let identity = join(&config, &mut writing).await.unwrap();
    let first = identity.current().serial().to_owned();
    lock(&control.mood).sees = Some("0a");
    let kept = std::fs::read(config.state_dir.join("svid.json")).unwrap();
    let renewing = renew_loop(
        identity.clone(),
        config.clone(),
        spool.lane(0),
        CancellationToken::new(),
    );
    let renewing = tokio::spawn(renewing);
    until("two failures", || rows(folder.path()).len() > 2).await;
    assert_eq!(identity.current().serial(), first);
    assert_eq!(
        std::fs::read(config.state_dir.join("svid.json")).unwrap(),
        kept,
        "a restart begins with the old one, too"
    );
    lock(&control.mood).sees = None;
    until("a new serial", || identity.current().serial() != first).await;
    until("its row", || {
        rows(folder.path()).last().unwrap().outcome == "success"
    })
    .await;
    renewing.abort();

    let rows = rows(folder.path());
    for (at, trigger) in [(1, "scheduled"), (2, "retry")] {
        let unproven = rows[at].new.clone();
        assert!(unproven.is_some_and(|serial| serial != first));
        let expected = failed(&first, at as u64, trigger, "swap_failed");
        let row = Row {
            new: None,
            ..rows[at].clone()
        };
        assert_eq!(row, expected);
    }
    let last = rows.last().unwrap();
    assert_eq!(
        (&*last.cycle, last.attempt, &*last.trigger),
        (&*first, rows.len() as u64 - 1, "retry")
    );
}

#[tokio::test]
async fn renewal_is_tried_beyond_the_end_of_the_svid_and_then_costs_the_token_again() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(CONTROL, Duration::from_secs(2)).await;
    let config = control.joins(folder.path());
    let (spool, mut writing) = lane(folder.path());
    let identity = join(&config, &mut writing).await.unwrap();
    let first = identity.current();
    lock(&control.mood).is_busy = true;
    let renewing = renew_loop(
        identity.clone(),
        config,
        spool.lane(0),
        CancellationToken::new(),
    );
    let renewing = tokio::spawn(renewing);
    let is_over = || first.not_after() <= counterfoil_entry::clock::wall();
    until("the end of the SVID", is_over).await;
    let failures = rows(folder.path()).len();
    until("more failures", || rows(folder.path()).len() > failures + 1).await;
    lock(&control.mood).is_busy = false;
    until("a new serial", || {
        identity.current().serial() != first.serial()
    })
    .await;
    renewing.abort();
    let last = control.asked("/v1/svid").pop().unwrap();
    assert_eq!(last.peer, None);
    assert!(last.headers.contains_key("authorization"));
    let rows = rows(folder.path());
    assert_eq!(
        rows[1],
        failed(first.serial(), 1, "scheduled", "ca_rejected")
    );
    assert_eq!(rows[2], failed(first.serial(), 2, "retry", "ca_rejected"));
}

#[tokio::test]
async fn attempts_to_join_that_fail_are_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let mut control = Control::start(CONTROL, Duration::from_secs(3600)).await;
    drop(control.task.take());
    let config = control.joins(folder.path());
    let (_spool, mut writing) = lane(folder.path());
    let joining = tokio::spawn(async move { join(&config, &mut writing).await.map(drop) });
    until("two rows", || rows(folder.path()).len() > 1).await;
    joining.abort();
    let rows = rows(folder.path());
    assert_eq!(rows[0], failed("first", 1, "first", "ca_unreachable"));
    assert_eq!(rows[1], failed("first", 2, "retry", "ca_unreachable"));
}

#[tokio::test]
async fn a_renewed_svid_that_cannot_be_kept_is_used_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(CONTROL, Duration::from_secs(2)).await;
    let config = control.joins(folder.path());
    let (spool, mut writing) = lane(folder.path());
    let identity = join(&config, &mut writing).await.unwrap();
    let first = identity.current().serial().to_owned();
    // a folder where the file is to be written first
    std::fs::create_dir(config.state_dir.join("svid.new")).unwrap();
    let shutdown = CancellationToken::new();
    let renewing = renew_loop(identity.clone(), config, spool.lane(0), shutdown.clone());
    let renewing = tokio::spawn(renewing);
    until("a new serial", || identity.current().serial() != first).await;
    shutdown.cancel();
    renewing.await.unwrap();
}

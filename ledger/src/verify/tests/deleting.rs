//! Lawful deletion, and what only looks like it.

use std::fs;

use counterfoil_entry::rows::RetentionActionRow;

use super::super::*;
use super::world::{ENTRIES, Pen, START, World};
use crate::manifest::{
    ClassRule, DAY_NS, DeletedSegment, Deletion, Hold, HoldState, Predicate, SegmentRef,
    allowed_from,
};

const RETENTION: &str = "spiffe://bank.test/counterfoil/retention";

fn plan() -> Hash {
    counterfoil_entry::tree::sha256(b"plan")
}

fn action(step: &str, actor: &str) -> RetentionActionRow {
    RetentionActionRow {
        action_id: "a-1".to_owned(),
        step: step.to_owned(),
        occurred_at: START,
        actor: Some(actor.to_owned()),
        plan_sha256: Some(plan()),
        outcome: "done".to_owned(),
        reason: None,
        detail: None,
        segments: None,
        records: None,
        bytes: None,
        oldest: None,
        newest: None,
        classes_sha256: None,
        log_origin: None,
        manifest: None,
    }
}

/// Two segments of entries, one of which a plan of `people` (who planned, who approved) is to delete.
struct Disposition {
    world: World,
    segments: Vec<SegmentRef>,
    deletion: Deletion,
}

fn disposition(writer: &str, people: [&str; 3]) -> Disposition {
    let mut world = World::new();
    let (mut pay, mut retention) = (Pen::new("pay", 5), Pen::of_id(writer, 6));
    world.announce(&pay);
    world.announce(&retention);
    for _ in 0..2 {
        pay.write(ENTRIES, 3);
        world.take(&pay.state());
        world.seal();
    }
    retention.act(&action("planned", people[0]));
    let approvals = [1, 2].map(|at| retention.act(&action("approved", people[at])));
    world.take(&retention.end());
    world.take(&pay.end());
    world.seal();
    let segments = world.segments(TableId::Entries);
    let of = segments[0].clone();
    let sealed = START.plus_ns(1_000_000_000);
    let deletion = Deletion {
        plan_sha256: plan(),
        approvals,
        rules: vec![ClassRule {
            class: of.class.clone(),
            days: 7,
            reason: "as the policy says".to_owned(),
        }],
        segments: vec![DeletedSegment {
            segment: of.segment,
            table: of.table,
            class: of.class.clone(),
            count: of.count,
            root: of.root,
            bytes: of.bytes,
            rule: of.class.clone(),
            allowed_from: allowed_from(of.last_time, sealed, 7),
        }],
    };
    Disposition {
        world,
        segments: vec![of],
        deletion,
    }
}

fn lawful() -> Disposition {
    disposition(RETENTION, ["rita", "sam", "tom"])
}

fn failed(world: &World) -> &'static str {
    let report = world.verify_with(None, None, false);
    let first = report.failures.first();
    first
        .unwrap_or_else(|| panic!("proved: {}", report.verdict))
        .what
}

#[test]
fn what_was_deleted_lawfully_is_listed_and_the_rest_is_proved() {
    let Disposition {
        mut world,
        segments,
        deletion,
    } = lawful();
    let file = world.books().join(&segments[0].file);
    assert!(file.exists() && world.verify().is_proved());
    world.delete(deletion, &segments);
    assert!(!file.exists());
    let report = world.verify_with(None, None, true);
    assert!(report.is_proved(), "{}", report.verdict);
    let said = format!("deleted lawfully: 1 segments, 3 records, plan {}", plan());
    assert!(report.verdict.contains(&said), "{}", report.verdict);
    assert_eq!(report.to_json()["deleted"][0]["rows"], 3);
    // The log goes on, and is read again, with the segment gone.
    world.seal();
    let mut world = world.reopen();
    world.seal();
    assert!(world.verify_with(None, None, true).is_proved());
}

#[test]
fn the_same_file_gone_without_a_deletion_is_a_loss() {
    let Disposition {
        world, segments, ..
    } = lawful();
    fs::remove_file(world.books().join(&segments[0].file)).unwrap();
    assert_eq!(failed(&world), "missing");
}

#[test]
fn a_deletion_excuses_no_other_file() {
    let Disposition {
        mut world,
        segments,
        deletion,
    } = lawful();
    world.delete(deletion, &segments);
    let other = world.segments(TableId::Entries).swap_remove(1);
    fs::remove_file(world.books().join(other.file)).unwrap();
    assert_eq!(failed(&world), "missing");
}

#[test]
fn a_deletion_that_was_cut_short_is_told_and_finished_by_the_next_start() {
    let Disposition {
        mut world,
        segments,
        deletion,
    } = lawful();
    let file = world.books().join(&segments[0].file);
    let bytes = fs::read(&file).unwrap();
    world.delete(deletion, &segments);
    // As a crash between manifest and removal leaves it.
    fs::write(&file, bytes).unwrap();
    assert_eq!(failed(&world), "undeleted");
    let world = world.reopen();
    assert!(!file.exists());
    assert!(world.verify().is_proved());
}

#[test]
fn a_crash_before_the_checkpoint_is_finished_by_the_next_start() {
    let Disposition {
        mut world,
        segments,
        deletion,
    } = lawful();
    let before: Vec<_> = world
        .files()
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    world.delete(deletion, &segments);
    // Everything is as before, but for the manifest, which is on the disk.
    for (path, bytes) in before {
        fs::write(path, bytes).unwrap();
    }
    let world = world.reopen();
    assert!(!world.books().join(&segments[0].file).exists());
    let report = world.verify_with(None, None, false);
    assert!(report.is_proved(), "{}", report.verdict);
}

#[test]
fn three_different_people_must_have_planned_and_approved() {
    let cases = [
        (RETENTION, ["rita", "sam", "sam"]),
        (RETENTION, ["rita", "rita", "sam"]),
        (RETENTION, ["rita", "sam", "SAM"]),
        ("spiffe://bank.test/workload/shop", ["rita", "sam", "tom"]),
    ];
    for (writer, people) in cases {
        let Disposition {
            mut world,
            segments,
            deletion,
        } = disposition(writer, people);
        world.delete(deletion, &segments);
        assert_eq!(failed(&world), "approval", "{writer} {people:?}");
    }
}

/// What whoever holds the log's key could claim, and the check that finds it.
type Claim = (&'static str, fn(&mut Deletion));

const CLAIMS: &[Claim] = &[
    ("approval", |of| of.approvals[1] = Hash([9; 32])),
    ("approval", |of| of.plan_sha256 = Hash([9; 32])),
    ("deletion", |of| of.segments[0].root = Hash([9; 32])),
    ("deletion", |of| of.segments[0].count += 1),
    ("deletion", |of| of.rules[0].days = 8),
    ("deletion", |of| {
        let of = &mut of.segments[0];
        of.allowed_from = of.allowed_from.plus_ns(-DAY_NS);
    }),
];

#[test]
fn a_deletion_whose_claims_do_not_hold_is_found() {
    for (what, claim) in CLAIMS {
        let Disposition {
            mut world,
            segments,
            mut deletion,
        } = lawful();
        claim(&mut deletion);
        world.delete(deletion, &segments);
        assert_eq!(failed(&world), *what);
    }
}

#[test]
fn a_segment_cannot_be_deleted_twice() {
    let Disposition {
        mut world,
        segments,
        deletion,
    } = lawful();
    world.delete(deletion.clone(), &segments);
    world.delete(deletion, &segments);
    assert_eq!(failed(&world), "deletion");
}

#[test]
fn a_hold_of_times_forbids_a_deletion_until_it_is_released() {
    let hold = |state, revision| Hold {
        hold_id: "h-1".to_owned(),
        revision,
        state,
        matter: "2026/17".to_owned(),
        predicate: Predicate {
            from: Some(START),
            ..Predicate::default()
        },
    };
    for (is_released, expected) in [(false, Some("held")), (true, None)] {
        let Disposition {
            mut world,
            segments,
            deletion,
        } = lawful();
        world.hold(hold(HoldState::Placed, 1));
        if is_released {
            world.hold(hold(HoldState::Released, 3));
        }
        world.delete(deletion, &segments);
        let report = world.verify_with(None, None, false);
        assert_eq!(report.failures.first().map(|one| one.what), expected);
        assert_eq!(report.counts.holds_placed, u64::from(!is_released));
    }
}

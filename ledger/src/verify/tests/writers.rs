//! Writers and collectors: what they may do, and the misdeeds that verification finds.

use counterfoil_entry::id::Stream;
use counterfoil_entry::rows::{ConflictRow, GapRow, Trust};
use counterfoil_entry::statement::{Dropped, StatementKind, statement_hash};

use super::super::*;
use super::world::{self, ENTRIES, Pen, START, World};

/// A collector's misdeed (or a writer's) and the check that finds it. The writer `pay` has written
/// five entries that were not stated yet.
type Misdeed = (&'static str, fn(&mut World, &mut Pen));

const MISDEEDS: &[Misdeed] = &[
    ("hole", |world, pay| {
        let said = pay.state();
        world.take_statement(&said);
    }),
    ("unstated", |world, pay| {
        let said = pay.state();
        world.take_entries(&said);
    }),
    ("hole", |world, pay| {
        // A statement is left out, with its entries.
        pay.state();
        pay.write(ENTRIES, 1);
        world.take(&pay.state());
    }),
    ("statement_root", |world, pay| {
        let said = pay.state();
        world.take(&said);
        let rows = world
            .rows
            .values_mut()
            .find(|rows| rows.len() == 5)
            .unwrap();
        let at = rows[1].record.len() - 1;
        rows[1].record[at] ^= 1;
    }),
    ("coverage", |world, pay| {
        // A row is left out of the segment, coverage and count unchanged.
        world.take(&pay.state());
        world
            .rows
            .values_mut()
            .find(|rows| rows.len() == 5)
            .unwrap()
            .pop();
    }),
    ("coverage", |world, pay| {
        // A row stands twice instead of another.
        world.take(&pay.state());
        let rows = world
            .rows
            .values_mut()
            .find(|rows| rows.len() == 5)
            .unwrap();
        rows[0] = rows[1].clone();
    }),
    ("statement_range", |world, pay| {
        // The last row is left out, and coverage agrees.
        world.take(&pay.state());
        let rows = world
            .rows
            .values_mut()
            .find(|rows| rows.len() == 5)
            .unwrap();
        rows.remove(0);
        world.coverage[0].count -= 1;
    }),
    ("coverage", |world, pay| {
        world.take(&pay.state());
        world.coverage[0].statement += 1;
        world
            .rows
            .values_mut()
            .flatten()
            .filter(|row| row.statement.is_some())
            .for_each(|row| {
                row.statement = row.statement.map(|number| number + 1);
            });
    }),
    ("coverage", |world, pay| {
        world.take(&pay.state());
        world.coverage[0].delivery = "best_effort".to_owned();
    }),
    ("twice", |world, pay| {
        let said = pay.state();
        world.take(&said);
        world.seal();
        world.take_entries(&said);
    }),
    ("twice", |world, pay| {
        let said = pay.state();
        world.take(&said);
        world.seal();
        world.take_statement(&said);
    }),
    ("signature", |world, pay| {
        let mut said = pay.state();
        said.signed.signature[5] ^= 1;
        world.take(&said);
    }),
    ("statement_key", |world, pay| {
        // The collector signs in the writer's name, with a key of its own.
        pay.key = Pen::new("pay", 5).key;
        world.take(&pay.state());
    }),
    ("statement_chain", |world, pay| {
        pay.previous = Some(Hash([9; 32]));
        world.take(&pay.state());
    }),
    ("final", |world, pay| {
        world.take(&pay.end());
        pay.write(ENTRIES, 1);
        world.take(&pay.state());
    }),
    ("unannounced", |world, pay| {
        let mut ghost = Pen::new("ghost", 9);
        ghost.write(ENTRIES, 1);
        world.take(&ghost.state());
        world.take(&pay.state());
    }),
    ("announcement", |world, pay| {
        let mut forged = Pen::new("ghost", 9).announce();
        forged.signature[0] ^= 1;
        world.announce_as(&forged, Trust::Verified);
        world.take(&pay.state());
    }),
    ("announcement", |world, pay| {
        world.announce(pay);
        world.take(&pay.state());
    }),
    ("recovery", |world, pay| {
        // The collector kept a statement that the writer's recovery does not know.
        let (mut next, before) = (Pen::new("pay", 7), pay.previous);
        world.take(&pay.state());
        pay.previous = before;
        pay.number -= 1;
        world.announce(&next);
        world.take(&next.recover(pay));
    }),
    ("hole", |world, pay| {
        // The tail of a crashed epoch is left out.
        let mut next = Pen::new("pay", 7);
        world.announce(&next);
        let said = next.recover(pay);
        world.take_statement(&said);
    }),
    ("hole", |world, pay| {
        // The last statement of a crashed epoch is left out.
        let mut next = Pen::new("pay", 7);
        pay.state();
        world.announce(&next);
        world.take(&next.recover(pay));
    }),
    ("root", |world, pay| {
        world.take(&pay.state());
        world.bend = |seal| seal.segments[0].root = Hash([3; 32]);
    }),
    ("manifest", |world, pay| {
        world.take(&pay.state());
        world.bend = |seal| seal.segments[0].first_time = START.plus_ns(-1);
    }),
    ("changed", |world, pay| {
        world.take(&pay.state());
        world.bend = |seal| seal.segments[0].bytes += 1;
    }),
    ("coverage", |world, pay| {
        world.take(&pay.state());
        world.bend = |seal| seal.coverage.clear();
    }),
    ("coverage", |world, pay| {
        world.take(&pay.state());
        world.bend = |seal| seal.coverage[0].segment = 99;
    }),
    ("coverage", |world, pay| {
        world.take(&pay.state());
        world.bend = |seal| {
            let mut more = seal.coverage[0].clone();
            more.segment = 99;
            seal.coverage.push(more);
        };
    }),
    ("row", |world, pay| {
        // The row of a statement says something else than the statement.
        world.take(&pay.state());
        let rows = world
            .rows
            .iter_mut()
            .find(|(key, _)| key.0 == TableId::Statements)
            .unwrap()
            .1;
        let row = rows.last_mut().unwrap();
        let at = row
            .record
            .windows(8)
            .position(|word| word == b"verified")
            .unwrap();
        let text = b"unverified";
        row.record.splice(at..at + 8, text.iter().copied());
        row.record[at - 1] = 10;
        let at = row
            .record
            .windows(7)
            .position(|word| word == b"regular")
            .unwrap();
        row.record[at] ^= 1;
    }),
];

#[test]
fn every_misdeed_is_found() {
    for (at, (due, misdeed)) in MISDEEDS.iter().enumerate() {
        let mut world = World::new();
        let mut pay = Pen::new("pay", 5);
        world.announce(&pay);
        pay.write(ENTRIES, 2);
        world.take(&pay.state());
        world.seal();
        pay.write(ENTRIES, 5);
        misdeed(&mut world, &mut pay);
        world.seal();
        let (what, text) = world.first_failure();
        assert_eq!(what, *due, "misdeed {at}: {text}");
    }
}

#[test]
fn statements_may_be_sealed_before_or_after_their_entries() {
    for entries_first in [true, false] {
        let mut world = World::new();
        let mut pay = Pen::new("pay", 5);
        pay.write(ENTRIES, 2);
        let first = pay.state();
        pay.write(ENTRIES, 1);
        let second = pay.end();
        let takes: [fn(&mut World, &world::Said); 2] = if entries_first {
            [World::take_entries, World::take_statement]
        } else {
            [World::take_statement, World::take_entries]
        };
        for take in takes {
            take(&mut world, &second);
            world.seal();
            take(&mut world, &first);
            world.seal();
        }
        world.announce(&pay);
        world.seal();
        let report = world.verify();
        assert!(report.is_proved(), "{}", report.verdict);
    }
}

#[test]
fn the_tail_of_a_crashed_epoch_is_proved_by_its_recovery() {
    for (stated, tail) in [(0, 0), (0, 3), (2, 0), (2, 3)] {
        let mut world = World::new();
        let (mut old, mut new) = (Pen::new("pay", 5), Pen::new("pay", 7));
        world.announce(&old);
        if stated > 0 {
            old.write(ENTRIES, stated);
            world.take(&old.state());
        }
        old.write(ENTRIES, tail);
        world.announce(&new);
        new.write(ENTRIES, 1);
        world.take(&new.recover(&mut old));
        world.take(&new.end());
        world.seal();
        let report = world.verify_with(Some(&world.policy()), None, true);
        assert!(
            report.is_proved() && report.is_complete,
            "{stated}, {tail}: {}",
            report.verdict
        );
        assert_eq!(report.counts.epochs_open, 0);
    }
}

#[test]
fn a_tail_that_two_recoveries_state_is_no_failure() {
    let mut world = World::new();
    let (mut old, mut new, mut newest) =
        (Pen::new("pay", 5), Pen::new("pay", 7), Pen::new("pay", 8));
    for pen in [&old, &new, &newest] {
        world.announce(pen);
    }
    old.write(ENTRIES, 3);
    let said = new.recover(&mut old);
    world.take(&said);
    // The newest epoch finds both spools, and has not heard of that recovery.
    let of_new = newest.recover(&mut new);
    world.take(&of_new);
    let mut again = of_new.statement;
    again.number = newest.number;
    again.previous = newest.previous;
    again.kind = said.statement.kind.clone();
    world.take_statement(&newest.sign(again, Vec::new()));
    world.seal();
    let report = world.verify();
    assert!(report.is_proved(), "{}", report.verdict);
}

#[test]
fn a_recovery_may_state_again_what_was_stated_and_acknowledged_unheard() {
    for order in 0..6 {
        let mut world = World::new();
        let (mut old, mut new) = (Pen::new("pay", 5), Pen::new("pay", 7));
        world.announce(&old);
        world.announce(&new);
        old.write(ENTRIES, 3);
        let first = old.state();
        let mut again = new.recover(&mut old);
        let tail = first.statement.streams.clone();
        let mut statement = again.statement.clone();
        if let StatementKind::Recovery(recovery) = &mut statement.kind {
            recovery.tail = tail;
        }
        (new.number, new.previous) = (0, None);
        again = new.sign(statement, Vec::new());
        let parts: [&dyn Fn(&mut World); 3] = [
            &|world| world.take_statement(&first),
            &|world| world.take_entries(&first),
            &|world| world.take_statement(&again),
        ];
        for at in [
            order / 2,
            (order / 2 + 1 + order % 2) % 3,
            (order / 2 + 2 - order % 2) % 3,
        ] {
            parts[at](&mut world);
            world.seal();
        }
        let report = world.verify();
        assert!(report.is_proved(), "order {order}: {}", report.verdict);
    }
}

#[test]
fn a_writer_may_go_on_from_the_other_of_two_statements_in_conflict() {
    for bend in 0..3 {
        let mut world = World::new();
        let (mut pay, mut collector) = (Pen::new("pay", 5), Pen::new("collector", 6));
        world.announce(&pay);
        world.announce(&collector);
        let kept = pay.state();
        world.take(&kept);
        (pay.number, pay.previous) = (0, None);
        let mut other = kept.statement.clone();
        other.spool_bytes = 1;
        let mut other = pay.sign(other, Vec::new());
        world.take(&pay.end());
        if bend == 1 {
            // The collector made the other statement up.
            other.signed.signature[0] ^= 1;
        }
        collector.conflict(&ConflictRow {
            subject_writer: pay.writer.to_string(),
            subject_epoch: pay.epoch.0,
            number: u64::from(bend == 2),
            kept_sha256: statement_hash(&kept.signed.bytes),
            other_sha256: statement_hash(&other.signed.bytes),
            other_statement: other.signed.bytes,
            other_signature: other.signed.signature,
            detected_at: START,
        });
        world.take(&collector.end());
        world.seal();
        let report = world.verify();
        let due = [None, Some("statement_chain"), Some("row")][bend];
        assert_eq!(
            report.failures.first().map(|f| f.what),
            due,
            "{}",
            report.verdict
        );
        assert!(!report.is_complete && !world.verify_with(None, None, true).is_proved());
    }
}

fn gap(revision: u64, closed: bool) -> GapRow {
    GapRow {
        gap_id: "gap-1".to_owned(),
        revision,
        subject_writer: "spiffe://bank.test/workload/pay#1".to_owned(),
        subject_epoch: 5,
        subject_stream: Some(ENTRIES.to_owned()),
        from_seq: Some(2),
        until_seq: Some(5),
        from_statement: Some(1),
        until_statement: Some(2),
        not_before: None,
        not_after: None,
        cause: "lost".to_owned(),
        detected_by: "statement".to_owned(),
        opened_at: START,
        closed_at: closed.then_some(START),
        explanation: closed.then(|| "the disk of that host burnt".to_owned()),
        ticket: None,
    }
}

#[test]
fn a_recorded_hole_is_told_and_fails_only_when_completeness_is_asked_for() {
    for closed in [false, true] {
        let mut world = World::new();
        let (mut pay, mut collector) = (Pen::new("pay", 5), Pen::new("collector", 6));
        world.announce(&pay);
        world.announce(&collector);
        pay.write(ENTRIES, 2);
        world.take(&pay.state());
        pay.write(ENTRIES, 3);
        pay.state();
        pay.write(ENTRIES, 1);
        world.take(&pay.end());
        world.seal();
        assert_eq!(world.first_failure().0, "hole");
        if closed {
            collector.gap(&gap(1, true));
        }
        collector.gap(&gap(0, false));
        world.take(&collector.end());
        world.seal();
        let report = world.verify();
        assert!(
            report.is_proved() && report.is_complete == closed,
            "{}",
            report.verdict
        );
        assert_eq!(
            (report.counts.gaps, report.counts.gaps_open),
            (1, u64::from(!closed))
        );
        assert!(
            report
                .notes
                .iter()
                .any(|note| note.contains("3 entries are missing"))
        );
        let report = world.verify_with(Some(&world.policy()), None, true);
        assert_eq!(report.is_proved(), closed, "{}", report.verdict);
    }
}

#[test]
fn a_gap_explains_only_the_hole_that_it_names() {
    let bends: [fn(&mut GapRow); 6] = [
        // Closed because the entries came: then they must be there.
        |gap| gap.closed_at = Some(START),
        |gap| gap.subject_epoch = 6,
        |gap| gap.subject_writer = "spiffe://bank.test/workload/cart#1".to_owned(),
        |gap| gap.from_seq = Some(3),
        |gap| gap.until_seq = Some(4),
        |gap| gap.from_statement = None,
    ];
    for (at, bend) in bends.into_iter().enumerate() {
        let mut world = World::new();
        let (mut pay, mut collector) = (Pen::new("pay", 5), Pen::new("collector", 6));
        world.announce(&pay);
        world.announce(&collector);
        pay.write(ENTRIES, 2);
        world.take(&pay.state());
        pay.write(ENTRIES, 3);
        pay.state();
        pay.write(ENTRIES, 1);
        world.take(&pay.end());
        let mut other = gap(0, false);
        bend(&mut other);
        collector.gap(&other);
        world.take(&collector.end());
        world.seal();
        assert_eq!(world.first_failure().0, "hole", "bend {at}");
    }
}

#[test]
fn declared_drops_and_unverified_announcements_keep_the_books_from_being_complete() {
    let mut world = World::new();
    let mut pay = Pen::new("pay", 5);
    world.announce(&pay);
    pay.write(ENTRIES, 1);
    let said = pay.state();
    let mut statement = said.statement.clone();
    statement.drops = vec![Dropped {
        stream: Stream::parse(ENTRIES).unwrap(),
        reason: "spool_full".to_owned(),
        dropped: 4,
    }];
    (pay.number, pay.previous) = (0, None);
    world.take(&pay.sign(statement, said.covered));
    world.seal();
    let report = world.verify();
    assert!(
        report.is_proved() && !report.is_complete,
        "{}",
        report.verdict
    );
    assert_eq!(report.counts.dropped, 4);
    assert!(!world.verify_with(None, None, true).is_proved());

    let mut world = World::new();
    let mut stranger = Pen::new("pay", 5);
    let mut announcement = stranger.announce();
    announcement.signature.clear();
    world.announce_as(&announcement, Trust::Unverified);
    stranger.write(ENTRIES, 1);
    world.take(&stranger.end());
    world.seal();
    let report = world.verify();
    assert!(
        report.is_proved() && !report.is_complete,
        "{}",
        report.verdict
    );
    assert_eq!(report.counts.unverified, 1);
    assert!(!world.verify_with(None, None, true).is_proved());
}

#[test]
fn an_epoch_that_just_stops_keeps_the_books_from_being_complete() {
    let mut world = World::new();
    let (old, mut new) = (Pen::new("pay", 5), Pen::new("pay", 7));
    world.announce(&old);
    world.announce(&new);
    world.take(&new.end());
    world.seal();
    let report = world.verify();
    assert!(
        report.is_proved() && !report.is_complete,
        "{}",
        report.verdict
    );
    assert!(
        report.verdict.contains("1 epochs without an end"),
        "{}",
        report.verdict
    );
}

#[test]
fn an_epoch_that_control_saw_and_the_books_do_not_have_keeps_them_from_being_complete() {
    for (epoch, is_there) in [(5, true), (6, false)] {
        let mut world = World::new();
        let (mut pay, mut control) = (Pen::new("pay", 5), Pen::new("control", 4));
        world.announce(&pay);
        world.announce(&control);
        world.take(&pay.end());
        control.see("spiffe://bank.test/workload/pay", epoch);
        world.take(&control.end());
        world.seal();
        let report = world.verify();
        assert!(
            report.is_proved() && report.is_complete == is_there,
            "{}",
            report.verdict
        );
        assert_eq!(report.counts.epochs_absent, u64::from(!is_there));
    }
}

#[test]
fn numbers_at_the_end_of_their_range_are_a_failure_and_no_panic() {
    for is_own in [true, false] {
        let mut world = World::new();
        let (mut old, mut pay) = (Pen::new("pay", 4), Pen::new("pay", 5));
        world.announce(&old);
        world.announce(&pay);
        let mut said = pay.recover(&mut old);
        if is_own {
            said.statement.number = u64::MAX;
            said.statement.previous = Some(Hash::default());
        } else if let StatementKind::Recovery(recovery) = &mut said.statement.kind {
            recovery.last = Some((u64::MAX, Hash::default()));
        }
        said.signed = pay.key.sign_statement(said.statement.encode());
        world.take(&said);
        world.seal();
        assert_eq!(world.first_failure().0, "statement");
    }
}

#[test]
fn entries_of_a_newer_schema_version_are_proved_as_well() {
    let mut world = World::new();
    let mut pay = Pen::new("pay", 5);
    world.schema_version = 2;
    pay.schema_version = 2;
    pay.write(ENTRIES, 3);
    let said = pay.end();
    world.take_entries(&said);
    world.seal();
    world.schema_version = 1;
    world.announce(&pay);
    world.take_statement(&said);
    world.seal();
    let report = world.verify();
    assert!(report.is_proved(), "{}", report.verdict);
}

#[test]
fn a_count_that_no_file_can_hold_takes_no_memory() {
    let mut world = World::new();
    let mut pay = Pen::new("pay", 5);
    world.announce(&pay);
    pay.write(ENTRIES, 3);
    world.take(&pay.end());
    world.bend = |seal| {
        let segment = &mut seal.segments[0];
        segment.count = 1 << 50;
        let row = seal.coverage.iter_mut();
        row.filter(|row| row.segment == segment.segment)
            .for_each(|row| row.count = 1 << 50);
    };
    world.seal();
    let (what, detail) = world.first_failure();
    assert_eq!(what, "manifest", "{detail}");
}

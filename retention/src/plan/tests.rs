//! A plan is the bytes that were written, and nothing else.

use counterfoil_ledger::manifest::SegmentRef;
use proptest::prelude::*;

use super::*;
use crate::survey::Sealed;

fn due(segment: u64) -> Due {
    let class = RetentionClass::parse("ops_90d").unwrap();
    let at = Time::from_ns(1_661_140_339_210_020_096);
    let of = SegmentRef {
        table: TableId::Entries,
        class: class.clone(),
        schema_version: 1,
        count: 3,
        first_time: at,
        last_time: at.plus_ns(5),
        root: sha256(b"root"),
        file: paths::segment("bank.test/c", TableId::Entries, &class, at, segment, 7),
        bytes: 77,
        sha256: sha256(b"file"),
        segment,
    };
    Due {
        sealed: Sealed {
            manifest: segment,
            until: at.plus_ns(9),
            of,
        },
        rule: class,
        allowed_from: at.plus_ns(10),
    }
}

fn plan() -> Plan {
    let heading = Heading {
        action_id: "a1".to_owned(),
        origin: "bank.test/c",
        log: (5, sha256(b"log")),
        planned_by: "rita",
        planned_at: Time::from_ns(1_700_000_000_000_000_001),
        classes_sha256: sha256(b"classes"),
    };
    let rule = PlannedRule {
        class: "ops_90d".to_owned(),
        days: 90,
        reason: "operations".to_owned(),
        owner: "platform".to_owned(),
        shortened_because: None,
    };
    Plan::new(heading, vec![rule], &[due(1), due(4)])
}

#[test]
fn a_plan_comes_back_as_it_was_and_names_what_is_due() {
    let plan = plan();
    assert_eq!(Plan::read(&plan.to_bytes()), Ok(plan.clone()));
    assert_eq!((plan.records, plan.bytes), (6, 154));
    assert!(plan.segments[0].is_of(&due(1)) && !plan.segments[0].is_of(&due(4)));
    let deleted = plan.segments[1].deleted().unwrap();
    assert!(deleted.is_of(&due(4).sealed.of));
}

/// An edit of a plan's text.
type Edit = (&'static str, &'static str);

#[test]
fn an_edited_plan_is_refused_or_another_plan() {
    let text = String::from_utf8(plan().to_bytes()).unwrap();
    let refused: [Edit; 8] = [
        ("  \"origin\"", "\"origin\""),
        ("\"records\": 6", "\"records\": 7"),
        ("\"segment\": 4", "\"segment\": 0"),
        ("\"table\": \"entries\"", "\"table\": \"orders\""),
        ("entries/class=", "../entries/class="),
        ("counterfoil-plan 1", "counterfoil-plan 2"),
        ("\"days\": 90", "\"days\": 90,\n      \"more\": 1"),
        ("\"owner\": \"platform\"", "\"owner\": null"),
    ];
    for (from, to) in refused {
        let edited = text.replacen(from, to, 1);
        assert_ne!(edited, text, "{from}");
        assert!(Plan::read(edited.as_bytes()).is_err(), "{to}");
    }
    let other = text.replacen("\"planned_by\": \"rita\"", "\"planned_by\": \"sam\"", 1);
    assert_ne!(
        Plan::read(other.as_bytes()).unwrap().sha256(),
        plan().sha256()
    );
}

proptest! {
    #[test]
    fn a_changed_byte_never_gives_the_same_plan(at in 0_usize..10_000, bit in 0_u8..8) {
        let mut bytes = plan().to_bytes();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(read) = Plan::read(&bytes) {
            prop_assert_ne!(read.sha256(), plan().sha256());
        }
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Plan::read(&bytes).is_err());
    }
}

//! Manifests come back as they were, and nothing else is taken.

use super::*;
use proptest::prelude::*;

fn segment(segment: u64) -> SegmentRef {
    SegmentRef {
        table: TableId::Entries,
        class: RetentionClass::parse("ops_90d").unwrap(),
        schema_version: 1,
        count: 3,
        first_time: Time::from_ns(5),
        last_time: Time::from_ns(9),
        root: sha256(b"root"),
        file: "entries/class=ops_90d/date=2026-01-01/o-00000001-00000000.parquet".to_owned(),
        bytes: 77,
        sha256: sha256(b"file"),
        segment,
    }
}

fn seal(segments: Vec<SegmentRef>) -> Manifest {
    let coverage = (!segments.is_empty()).then(|| CoverageRef {
        sha256: sha256(b"coverage"),
        bytes: 12,
    });
    Manifest {
        origin: "bank.test/c".to_owned(),
        number: 4,
        previous: Some(sha256(b"3")),
        from: Time::from_ns(10),
        until: Time::from_ns(20),
        build: "0.1.0".to_owned(),
        cosigned: None,
        body: Body::Seal {
            journal_file: 2,
            segments,
            coverage,
        },
    }
}

fn key() -> Manifest {
    Manifest {
        number: 0,
        previous: None,
        body: Body::Key {
            log_key: "k".to_owned(),
            trust_roots: vec![vec![1, 2], vec![]],
        },
        ..seal(Vec::new())
    }
}

fn deleted(segment: u64) -> DeletedSegment {
    DeletedSegment {
        segment,
        table: TableId::Entries,
        class: RetentionClass::parse("ops_90d").unwrap(),
        count: 3,
        root: sha256(b"root"),
        bytes: 77,
        rule: RetentionClass::parse("pci_12m").unwrap(),
        allowed_from: Time::from_ns(7),
    }
}

fn deletion_body() -> Deletion {
    Deletion {
        plan_sha256: sha256(b"plan"),
        approvals: [sha256(b"one"), sha256(b"two")],
        rules: vec![ClassRule {
            class: RetentionClass::parse("pci_12m").unwrap(),
            days: 365,
            reason: "PCI DSS 10.5.1".to_owned(),
        }],
        segments: vec![deleted(1), deleted(4)],
    }
}

fn deletion() -> Manifest {
    Manifest {
        body: Body::Deletion(deletion_body()),
        ..seal(Vec::new())
    }
}

fn hold(state: HoldState) -> Manifest {
    let predicate = match state {
        HoldState::Released => Predicate::default(),
        HoldState::Placed => Predicate {
            service: Some("payments".to_owned()),
            operation: Some("createPayment".to_owned()),
            trace_id: "0af7651916cd43dd8448eb211c80319c".parse().ok(),
            from: Some(Time::from_ns(-3)),
            until: Some(Time::from_ns(3)),
        },
    };
    Manifest {
        body: Body::Hold(Hold {
            hold_id: "h-1".to_owned(),
            revision: 2,
            state,
            matter: "2026/17".to_owned(),
            predicate,
        }),
        ..seal(Vec::new())
    }
}

/// What a deletion may not say, one damage each.
const DAMAGES: &[fn(&mut Deletion)] = &[
    |of| of.approvals[1] = of.approvals[0],
    |of| of.segments.clear(),
    |of| of.segments.swap(0, 1),
    |of| of.segments[1] = of.segments[0].clone(),
    |of| of.rules.clear(),
    |of| of.rules.push(of.rules[0].clone()),
    |of| of.segments[0].rule = RetentionClass::permanent(),
    |of| of.segments[0].class = RetentionClass::permanent(),
    |of| of.segments[0].table = TableId::Statements,
    |of| of.segments[0].table = TableId::RetentionActions,
    |of| of.segments = (0..201).map(deleted).collect(),
    |of| {
        let class = RetentionClass::parse("sox_7y").unwrap();
        let unused = ClassRule {
            class,
            ..of.rules[0].clone()
        };
        of.rules.push(unused);
    },
];

#[test]
fn a_deletion_that_contradicts_itself_is_refused() {
    for damage in DAMAGES {
        let mut body = deletion_body();
        damage(&mut body);
        let manifest = Manifest {
            body: Body::Deletion(body),
            ..seal(Vec::new())
        };
        let read = Manifest::decode(&manifest.encode().unwrap());
        assert!(matches!(read, Err(ManifestError::Form(_))), "{read:?}");
    }
}

#[test]
fn the_longest_deletion_fits_a_leaf() {
    let long = RetentionClass::parse(&format!("{}_7y", "x".repeat(61))).unwrap();
    let segments: Vec<DeletedSegment> = (1..=200)
        .map(|at| DeletedSegment {
            class: long.clone(),
            rule: long.clone(),
            ..deleted(at)
        })
        .collect();
    let rules = vec![ClassRule {
        class: long,
        ..deletion_body().rules[0].clone()
    }];
    let body = Body::Deletion(Deletion {
        rules,
        segments,
        ..deletion_body()
    });
    let manifest = Manifest {
        body,
        ..seal(Vec::new())
    };
    assert_eq!(
        Manifest::decode(&manifest.encode().unwrap()),
        Ok(manifest.clone())
    );
}

#[test]
fn days_are_counted_from_the_later_of_event_and_sealing() {
    let (early, late) = (Time::from_ns(5), Time::from_ns(9));
    assert_eq!(allowed_from(early, late, 1).as_ns(), 9 + DAY_NS);
    assert_eq!(allowed_from(late, early, 0).as_ns(), 9);
    assert_eq!(allowed_from(early, late, u64::MAX).as_ns(), i64::MAX);
}

#[test]
fn manifests_come_back_as_they_were() {
    for manifest in [
        key(),
        seal(Vec::new()),
        seal(vec![segment(1), segment(2)]),
        deletion(),
        hold(HoldState::Placed),
        hold(HoldState::Released),
    ] {
        assert_eq!(Manifest::decode(&manifest.encode().unwrap()), Ok(manifest));
    }
}

#[test]
fn an_unknown_kind_or_field_is_refused() {
    let bytes = seal(Vec::new()).encode().unwrap();
    let mut other = bytes.clone();
    let at = bytes.windows(4).position(|w| w == b"seal").unwrap();
    other[at..at + 4].copy_from_slice(b"held");
    assert_eq!(
        Manifest::decode(&other),
        Err(ManifestError::Kind("held".to_owned()))
    );
    let mut more = bytes;
    Encoder::new(&mut more).u64(99, 1);
    assert_eq!(
        Manifest::decode(&more),
        Err(ManifestError::Field(TlvError::Unknown(99)))
    );
}

#[test]
fn fields_that_cannot_stand_together_are_refused() {
    let forms = [
        Manifest {
            previous: None,
            ..seal(Vec::new())
        },
        Manifest {
            number: 0,
            ..seal(Vec::new())
        },
        Manifest {
            until: Time::from_ns(9),
            ..seal(Vec::new())
        },
        Manifest {
            body: Body::Seal {
                journal_file: 0,
                segments: vec![segment(1)],
                coverage: None,
            },
            ..seal(Vec::new())
        },
    ];
    for manifest in forms {
        let read = Manifest::decode(&manifest.encode().unwrap());
        assert!(matches!(read, Err(ManifestError::Form(_))), "{read:?}");
    }
}

#[test]
fn a_manifest_of_64_kib_is_refused() {
    let long = seal((1..400).map(segment).collect());
    assert!(matches!(long.encode(), Err(ManifestError::TooLong(_))));
}

proptest! {
    #[test]
    fn no_changed_byte_gives_the_same_manifest(which in 0_usize..3, at in 0_usize..2000, bit in 0_u8..8) {
        let manifest = [seal(vec![segment(1)]), deletion(), hold(HoldState::Placed)][which].clone();
        let mut bytes = manifest.encode().unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert_ne!(Manifest::decode(&bytes), Ok(manifest));
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let with_domain = [DOMAIN, bytes.as_slice()].concat();
        prop_assert!(Manifest::decode(&bytes).is_err());
        if let Ok(manifest) = Manifest::decode(&with_domain) {
            prop_assert_eq!(manifest.encode(), Ok(with_domain));
        }
    }
}

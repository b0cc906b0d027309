//! Statements against an independent reading of the same entries.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use counterfoil_entry::Hash;
use counterfoil_entry::id::Writer;
use counterfoil_entry::record::begin;
use counterfoil_entry::statement::{AuditKey, Signed, Statement, StatementKind, verify_statement};
use counterfoil_entry::table::TableId;
use proptest::prelude::*;

use super::receiver::{root, sha256};
use super::world::{append_n, class};
use crate::state::StateFile;
use crate::stating::{Stater, Step};
use crate::stats::DeliveryStats;
use crate::{Spool, SpoolConfig, lock};

struct Bench {
    _root: tempfile::TempDir,
    spool: Spool,
    stater: Stater,
    public: [u8; 32],
}

impl Bench {
    fn new(build: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool::open(SpoolConfig {
            directory: root.path().to_owned(),
            writer: Writer::parse("spiffe://bank.test/workload/pay#p-1").unwrap(),
            size_max: 256 << 20,
            build: build.to_owned(),
            config_sha256: Hash([7; 32]),
        })
        .unwrap();
        let start = spool.take_start().unwrap();
        let public = start.key.public();
        let stater = stater(&spool, start.key, start.state);
        Self {
            _root: root,
            spool,
            stater,
            public,
        }
    }

    fn step(&mut self, is_end: bool) {
        self.stater
            .step(&Step {
                greeting: None,
                is_end,
            })
            .unwrap();
    }

    /// The statements on the disk, as a stranger reads them.
    fn statements(&self) -> Vec<Statement> {
        let state = StateFile::open(self.spool.space().path()).unwrap();
        let mut previous = None;
        state
            .statements()
            .iter()
            .map(|stated| {
                let signed = Signed::from_wire(&state.wire(stated).unwrap()).unwrap();
                assert!(verify_statement(&signed, &self.public));
                let statement = Statement::decode(&signed.bytes).unwrap();
                assert_eq!(statement.previous.map(|hash| hash.0), previous);
                previous = Some(sha256(&signed.bytes));
                statement
            })
            .collect()
    }
}

fn stater(spool: &Spool, key: AuditKey, state: StateFile) -> Stater {
    let stats = Arc::new(DeliveryStats::default());
    Stater::new(
        Arc::clone(spool.space()),
        key,
        Arc::new(Mutex::new(state)),
        stats,
        0,
        Vec::new(),
    )
}

#[test]
fn a_statement_covers_at_most_65536_entries() {
    let mut bench = Bench::new("test");
    bench.stater.interval_ns = u64::MAX;
    append_n(&mut bench.spool.lane(0), "sox_7y", 65_535);
    bench.step(false);
    assert_eq!(bench.statements().len(), 0);
    append_n(&mut bench.spool.lane(1), "sox_7y", 2);
    bench.step(false);
    bench.step(true);
    let counts: Vec<u64> = bench
        .statements()
        .iter()
        .map(|statement| statement.streams.iter().map(|range| range.count).sum())
        .collect();
    assert_eq!(counts, [65_536, 1]);
}

#[test]
fn settled_statements_leave_the_file_and_the_rest_can_still_be_read() {
    // Large statements fill the file soon.
    let mut bench = Bench::new(&"x".repeat(10_000));
    let mut lane = bench.spool.lane(0);
    // One lane stands still: its end must stay known.
    append_n(&mut bench.spool.lane(1), "sox_7y", 3);
    for _ in 0..400 {
        append_n(&mut lane, "sox_7y", 1);
        bench.step(false);
        let state = &bench.stater.state;
        let (number, hash) = lock(state).last().unwrap();
        if number < 390 {
            lock(state).acknowledge(number, hash).unwrap();
        }
    }
    let bytes = std::fs::metadata(bench.spool.space().path().join("statements"))
        .unwrap()
        .len();
    assert!(bytes < 2 << 20, "{bytes}");
    let state = StateFile::open(bench.spool.space().path()).unwrap();
    assert_eq!(state.last().unwrap().0, 399);
    assert_eq!(state.next_unsettled().unwrap().number, 390);
    assert_eq!(
        state.stated_end(&super::world::stream("entries/sox_7y/1")),
        3
    );
    assert_eq!(
        state.stated_end(&super::world::stream("entries/sox_7y/0")),
        400
    );
    assert_eq!(
        state.settled_end(&super::world::stream("entries/sox_7y/0")),
        390
    );
    let newest = Signed::from_wire(&state.wire(state.statements().last().unwrap()).unwrap());
    assert!(verify_statement(&newest.unwrap(), &bench.public));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn roots_are_those_of_an_independent_computation(
        rounds in proptest::collection::vec(
            proptest::collection::vec((0_u16..3, 0_usize..2, 1_usize..9), 0..12), 1..6),
    ) {
        let mut bench = Bench::new("test");
        let classes = [class("sox_7y"), class("ops_90d")];
        let mut written: BTreeMap<String, Vec<[u8; 32]>> = BTreeMap::new();
        for round in &rounds {
            for (lane, of, n) in round {
                let mut writing = bench.spool.lane(*lane);
                for at in 0..*n {
                    let mut kept = Vec::new();
                    let seq = writing.append(TableId::Entries, &classes[*of], |header, out| {
                        let before = out.len();
                        begin(TableId::Entries, header, out).text(5, "x".repeat(at).as_str());
                        kept = [&[0], &out[before..]].concat();
                    }).unwrap();
                    let leaves = written
                        .entry(format!("entries/{}/{lane}", classes[*of]))
                        .or_default();
                    prop_assert_eq!(seq, leaves.len() as u64);
                    leaves.push(sha256(&kept));
                }
            }
            bench.step(false);
        }
        bench.step(true);
        let statements = bench.statements();
        prop_assert_eq!(&statements.last().unwrap().kind, &StatementKind::Final);
        let mut stated: BTreeMap<String, usize> = BTreeMap::new();
        for (number, statement) in statements.iter().enumerate() {
            prop_assert_eq!(statement.number, number as u64);
            for range in &statement.streams {
                let name = range.stream.to_string();
                let next = stated.entry(name.clone()).or_default();
                prop_assert_eq!(range.first_seq, *next as u64);
                let until = *next + usize::try_from(range.count).unwrap();
                prop_assert_eq!(range.root.0, root(&written[&name][*next..until]));
                *next = until;
            }
        }
        let due: BTreeMap<String, usize> =
            written.iter().map(|(name, leaves)| (name.clone(), leaves.len())).collect();
        prop_assert_eq!(stated, due);
    }
}

use std::collections::BTreeSet;

use counterfoil_entry::clock;
use counterfoil_entry::id::Writer;
use counterfoil_entry::record::RecordView;
use counterfoil_entry::tlv::Fields;
use counterfoil_spool::{Spool, SpoolConfig};
use serde_json::json;

use super::*;
use crate::fixture::{self, PORTAL, bank, seed};
use crate::published::estate::spooled;

fn spool(dir: &Path, size_max: u64) -> Spool {
    Spool::open(SpoolConfig {
        directory: dir.join("spool"),
        writer: Writer::parse("spiffe://bank.test/counterfoil/control#a").unwrap(),
        size_max,
        build: "test".to_owned(),
        config_sha256: counterfoil_entry::Hash([0; 32]),
    })
    .unwrap()
}

/// Moves all that is owed into a spool of a new epoch; stops before the marks after `die_after` rows.
fn drain(dir: &Path, die_after: Option<usize>) {
    let mut store = Store::open(&dir.join("control")).unwrap();
    let spool = spool(dir, 16 << 20);
    let mut lane = spool.lane(0);
    let mut written = Vec::new();
    for (done, owed) in store.owed(1_000).unwrap().iter().enumerate() {
        if Some(done) == die_after {
            return;
        }
        written.push(owed.append(&mut lane, spool.epoch().0).unwrap());
    }
    lane.sync().unwrap();
    store.mark(&written).unwrap();
}

/// The first two columns of each row of a table in the spool.
fn rows(dir: &Path, table: &str) -> Vec<String> {
    let row = |bytes: &Vec<u8>| {
        let record = RecordView::parse(bytes).unwrap();
        let fields = Fields::parse(record.body).unwrap();
        let second = fields
            .u64(6)
            .map(|number| number.to_string())
            .or_else(|_| fields.text(6).map(str::to_owned));
        format!("{} {}", fields.text(5).unwrap(), second.unwrap_or_default())
    };
    spooled(&dir.join("spool"), table).iter().map(row).collect()
}

#[test]
fn what_is_recorded_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    seed(dir.path(), &bank());
    let before = fixture::estate(&bank());
    let store = Store::open(&dir.path().join("control")).unwrap();
    let after = store.estate(clock::wall()).unwrap();
    assert_eq!(
        after.apis["accounts"].operations,
        before.apis["accounts"].operations
    );
    assert_eq!(after.catalogue.workloads, before.catalogue.workloads);
    assert_eq!(after.catalogue.grants, before.catalogue.grants);
    assert_eq!(after.workload("PORTAL").unwrap().spiffe_id.as_str(), PORTAL);
    let events = store.events(None, 100).unwrap().unwrap();
    let actions: Vec<_> = events.iter().map(|e| e.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "workload.registered",
            "workload.registered",
            "api.imported",
            "grant.imported"
        ]
    );
    let rest = store
        .events(Some(&events[2].event_id), 100)
        .unwrap()
        .unwrap();
    assert_eq!(rest, events[3..]);
    assert_eq!(store.events(None, 1).unwrap().unwrap(), events[..1]);
    assert!(store.events(Some("e-0"), 1).unwrap().is_none());
}

#[test]
fn one_process_at_a_time_and_no_newer_state() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let second = Store::open(dir.path()).unwrap_err();
    assert!(matches!(second, StoreError::Locked { .. }), "{second}");
    store
        .connection
        .execute("INSERT INTO schema_version (version) VALUES (99)", [])
        .unwrap();
    drop(store);
    let newer = Store::open(dir.path()).unwrap_err().to_string();
    assert_eq!(
        newer,
        "the governance state has version 99, this build knows up to 1"
    );
}

#[test]
fn the_state_is_durable_and_consistent_by_its_own_rules() {
    let dir = tempfile::tempdir().unwrap();
    seed(dir.path(), &bank());
    let store = Store::open(&dir.path().join("control")).unwrap();
    let pragma = |name: &str| -> String {
        let value = store
            .connection
            .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
        format!("{:?}", value.unwrap())
    };
    assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
    assert_eq!(pragma("synchronous"), "Integer(2)");
    assert_eq!(pragma("foreign_keys"), "Integer(1)");
    let own_approval = store
        .connection
        .execute("UPDATE grants SET decided_by = requested_by", []);
    assert!(own_approval.is_err(), "four eyes hold in the database, too");
    let stray = store
        .connection
        .execute("UPDATE apis SET event_id = 'e-0'", []);
    assert!(stray.is_err(), "what no event made cannot be");
}

#[test]
fn a_change_that_fails_half_way_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    seed(dir.path(), &bank());
    let mut store = Store::open(&dir.path().join("control")).unwrap();
    let estate = store.estate(clock::wall()).unwrap();
    let grant = std::sync::Arc::clone(&estate.grants["g-1"]);
    let mut event = store.events(None, 1).unwrap().unwrap().remove(0);
    event.event_id = "e-new".to_owned();
    let twice = Change {
        events: vec![event],
        // This revision is there already.
        grants: vec![grant],
        ..Change::default()
    };
    let owed = store.owed(100).unwrap().len();
    store.record(&twice).unwrap_err();
    assert!(store.events(Some("e-new"), 1).unwrap().is_none());
    assert_eq!(store.owed(100).unwrap().len(), owed);
}

#[test]
fn what_is_owed_reaches_the_books_in_order_and_once() {
    let dir = tempfile::tempdir().unwrap();
    seed(dir.path(), &bank());
    drain(dir.path(), None);
    let events = rows(dir.path(), "governance_events");
    assert_eq!(events.len(), 4);
    assert_eq!(rows(dir.path(), "apis"), ["accounts 1.2"]);
    assert_eq!(rows(dir.path(), "operations").len(), 4);
    assert_eq!(rows(dir.path(), "grants"), ["g-1 1"]);
    let store = Store::open(&dir.path().join("control")).unwrap();
    assert!(store.owed(100).unwrap().is_empty());
    let marked: i64 = store
        .connection
        .query_row("SELECT count(*) FROM outbox WHERE epoch > 0", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(marked, 6);
    drop(store);
    drain(dir.path(), None);
    assert_eq!(rows(dir.path(), "governance_events"), events);
}

#[test]
fn a_death_between_append_and_mark_loses_nothing_and_repeats_what_readers_tell() {
    let dir = tempfile::tempdir().unwrap();
    seed(dir.path(), &bank());
    drain(dir.path(), Some(3));
    let before = rows(dir.path(), "governance_events");
    assert_eq!(before.len(), 3);
    drain(dir.path(), None);
    let events = rows(dir.path(), "governance_events");
    assert_eq!(events.len(), 7, "three of them again");
    let distinct: BTreeSet<_> = events.iter().collect();
    assert_eq!(distinct.len(), 4, "and none is missing");
}

/// Set for the process that is killed: the folder that it works on.
const VICTIM: &str = "COUNTERFOIL_TEST_STORE_VICTIM";

/// Asks for one grant after another until it is killed, and says so before and after each. Does
/// nothing unless the test below starts it.
#[test]
fn victim() {
    use std::io::Write as _;
    let Some(dir) = std::env::var_os(VICTIM) else {
        return;
    };
    let desk = fixture::desk(Path::new(&dir));
    let ask = json!({
        "consumer": "portal", "api": "accounts", "operations": ["closeAccount"],
        "purpose": "p", "ticket": "t", "expires": "2100-01-01T00:00:00Z",
    });
    let mut told = std::fs::File::create(Path::new(&dir).join("told")).unwrap();
    loop {
        let ask = serde_json::from_value(ask.clone()).unwrap();
        let grant = desk
            .request_grant(&ask, &fixture::person("ann", &[]))
            .unwrap();
        writeln!(told, "{}", grant.grant_id).unwrap();
    }
}

#[test]
fn what_was_answered_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    seed(dir.path(), &bank());
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["store::tests::victim", "--exact", "--nocapture"])
        .env(VICTIM, dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let told = || std::fs::read_to_string(dir.path().join("told")).unwrap_or_default();
    let deadline = clock::mono_ns() + 30_000_000_000;
    while told().lines().count() < 20 {
        assert!(clock::mono_ns() < deadline, "the child does not work");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut answered: BTreeSet<String> = told().lines().map(str::to_owned).collect();
    // The last line may have been cut short by the kill.
    answered.retain(|id| id.len() == 30);
    let store = Store::open(&dir.path().join("control")).unwrap();
    let estate = store.estate(clock::wall()).unwrap();
    assert!(answered.iter().all(|id| estate.grants.contains_key(id)));
    drop(store);
    drain(dir.path(), None);
    let in_books: BTreeSet<_> = rows(dir.path(), "grants").into_iter().collect();
    let recorded = estate.grants.values();
    let recorded: BTreeSet<_> = recorded
        .map(|g| format!("{} {}", g.grant_id, g.revision))
        .collect();
    assert_eq!(in_books, recorded);
    let events = rows(dir.path(), "governance_events");
    let distinct: BTreeSet<_> = events.iter().collect();
    assert_eq!(
        (events.len(), distinct.len()),
        (recorded.len() + 3, recorded.len() + 3)
    );
}

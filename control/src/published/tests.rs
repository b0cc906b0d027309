use counterfoil_entry::Hash;
use counterfoil_entry::id::Writer;
use counterfoil_entry::record::RecordView;
use counterfoil_entry::tlv::Fields;
use counterfoil_spool::{Spool, SpoolConfig};
use counterfoil_trust::allow::{AllowList, Peers};
use counterfoil_trust::bundle::{Access, Bundle, BundleKeys};

use super::estate::{api, bank, grant, id, in_days, number, small, spooled, workload};
use super::*;
use crate::catalogue::GrantState;
use crate::fixture::{LEDGER, PORTAL};
use crate::live::{Live, LiveError};

/// A publisher with its folder and spool.
struct Office {
    dir: tempfile::TempDir,
    authority: Arc<Authority>,
    publisher: Publisher,
}

/// What a test looks at of a row.
#[derive(Debug, PartialEq)]
struct Row {
    audience: String,
    sha256: Hash,
    event_id: Option<String>,
    author: Option<String>,
    grants: u64,
}

fn open(dir: &Path, authority: &Arc<Authority>, spool_bytes: u64) -> Publisher {
    let spool = Spool::open(SpoolConfig {
        directory: dir.join("spool"),
        writer: Writer::parse("spiffe://bank.test/counterfoil/control#a").unwrap(),
        size_max: spool_bytes,
        build: "test".to_owned(),
        config_sha256: Hash([0; 32]),
    })
    .unwrap();
    Publisher::open(dir, "ops_90d", Arc::clone(authority), spool.lane(0)).unwrap()
}

impl Office {
    fn new() -> Self {
        Self::with_spool_of(16 << 20)
    }

    fn with_spool_of(bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(dir.path(), "bank.test").unwrap());
        let publisher = open(dir.path(), &authority, bytes);
        Self {
            dir,
            authority,
            publisher,
        }
    }

    /// As after a restart of the process.
    fn reopened(self) -> Self {
        let Self { dir, authority, .. } = self;
        let publisher = open(dir.path(), &authority, 16 << 20);
        Self {
            dir,
            authority,
            publisher,
        }
    }

    fn first(&self, catalogue: &Catalogue) -> Work {
        let catalogue = Arc::new(catalogue.clone());
        self.publisher.publish_first(catalogue).unwrap()
    }

    fn change(&self, catalogue: &Catalogue, touched: &[&str]) -> Work {
        let touched = touched.iter().map(|touched| id(touched)).collect();
        let cause = cause(Some(touched));
        let catalogue = Arc::new(catalogue.clone());
        self.publisher.publish(catalogue, &cause).unwrap()
    }

    fn served(&self, audience: &str) -> Served {
        let mut place = self.publisher.shelf().find(&id(audience)).unwrap();
        place.borrow_and_update().clone()
    }

    fn bundle(&self, audience: &str) -> Bundle {
        let keys = BundleKeys {
            governance: self.authority.governance.public(),
            control: self.authority.control.public(),
        };
        SignedBundle::open(&self.served(audience).body, &keys, &id(audience)).unwrap()
    }

    fn rows(&self) -> Vec<Row> {
        let spooled = spooled(&self.dir.path().join("spool"), "bundles");
        let row = |bytes: &Vec<u8>| {
            let record = RecordView::parse(bytes).unwrap();
            let fields = Fields::parse(record.body).unwrap();
            Row {
                audience: fields.text(5).unwrap().to_owned(),
                sha256: fields.hash(8).unwrap(),
                event_id: fields.text_opt(11).unwrap().map(str::to_owned),
                author: fields.text_opt(12).unwrap().map(str::to_owned),
                grants: fields.u64(13).unwrap(),
            }
        };
        spooled.iter().map(row).collect()
    }

    /// A token is given out, as by its endpoint.
    fn give(&self, jti: &str, operations: &[&str], exp: Time) {
        let live = Live {
            jti: jti.to_owned(),
            caller: id(PORTAL),
            api: "accounts".to_owned(),
            operations: operations.iter().map(|o| (*o).to_owned()).collect(),
            exp_s: exp.as_ns() / 1_000_000_000,
        };
        let admitted = self
            .publisher
            .tokens()
            .admit(clock::wall(), || Ok::<_, LiveError>((live, ())));
        admitted.unwrap();
    }

    fn revoked(&self) -> Vec<String> {
        self.bundle(LEDGER).rights.tokens.unwrap().revoked
    }
}

fn cause(touched: Option<BTreeSet<SpiffeId>>) -> Cause {
    Cause {
        event_id: "e-1".to_owned(),
        author: "ann".to_owned(),
        urgent: false,
        touched,
    }
}

#[test]
fn each_workload_gets_its_own_slice_and_no_more() {
    let office = Office::new();
    office.first(&small(Access::Bundle));
    let ledger = office.bundle(LEDGER);
    assert_eq!(ledger.rights.workload.site.as_deref(), Some("fra1"));
    assert_eq!(ledger.rights.apis.len(), 1);
    assert!(ledger.rights.peers.is_empty() && ledger.endpoints.instances.is_empty());
    assert!(ledger.rights.tokens.is_none() && ledger.rights.candidate.is_none());
    let list = AllowList::compile(&ledger.rights).unwrap();
    let decide = |path| {
        let verdict = list.decide(PORTAL, "GET", path, clock::wall());
        verdict.reason.as_str()
    };
    assert_eq!(
        (decide("/list"), decide("/close")),
        ("granted", "grant_none")
    );

    let portal = office.bundle(PORTAL);
    assert!(portal.rights.apis.is_empty() && portal.rights.grants.is_empty());
    let peers = Peers::compile(&portal).unwrap();
    let peer = peers.find("ledger").unwrap();
    assert_eq!(&*peer.addresses[0], "127.0.0.1:17101");
    // Also an operation without a grant has a name in the caller's entries.
    let closing = peer.operation("GET", "/close").unwrap();
    assert_eq!(&*closing.operation, "close");
}

#[test]
fn an_unchanged_catalogue_keeps_its_bytes_over_a_restart_and_makes_no_rows() {
    let office = Office::new();
    let work = office.first(&small(Access::Both));
    assert_eq!((work.cut, work.signed, work.changed), (2, 2, 2));
    let before = [LEDGER, PORTAL].map(|audience| office.served(audience).body);
    let office = office.reopened();
    let work = office.first(&small(Access::Both));
    assert_eq!((work.cut, work.signed, work.changed), (2, 2, 0));
    assert_eq!(
        before,
        [LEDGER, PORTAL].map(|audience| office.served(audience).body)
    );
    assert_eq!(office.rows().len(), 2, "those of the first start");
}

#[test]
fn a_change_grows_the_version_of_what_it_concerns_only() {
    let office = Office::new();
    let mut catalogue = small(Access::Bundle);
    office.first(&catalogue);
    let (old, portal) = (office.bundle(LEDGER), office.served(PORTAL).etag);
    catalogue.put_grant(grant("g-1", PORTAL, "accounts", &["list"]));
    let work = office.change(&catalogue, &[LEDGER, PORTAL]);
    assert_eq!((work.cut, work.signed, work.changed), (2, 1, 1));
    let new = office.bundle(LEDGER);
    assert!(new.rights.version > old.rights.version);
    assert_eq!(new.endpoints.version, old.endpoints.version);
    assert!(new.check_follows(&old).is_ok() && old.check_follows(&new).is_err());
    assert_eq!(office.served(PORTAL).etag, portal);
    // Back to the old grants is a new version too: a version is never given twice.
    office.change(&small(Access::Bundle), &[LEDGER, PORTAL]);
    let back = office.bundle(LEDGER);
    assert!(back.rights.version > new.rights.version);
    // And so it is for a process that starts when its clock has gone back.
    let office = office.reopened();
    office.first(&catalogue);
    assert!(office.bundle(LEDGER).rights.version > back.rights.version);
}

#[test]
fn every_bundle_is_in_the_books_with_its_cause() {
    let office = Office::new();
    let mut catalogue = small(Access::Bundle);
    office.first(&catalogue);
    let rows = office.rows();
    assert!(
        rows.iter()
            .all(|row| row.event_id.is_none() && row.author.is_none())
    );
    catalogue.take_grant("g-1");
    office.change(&catalogue, &[LEDGER, PORTAL]);
    let rows = office.rows();
    let last = rows.iter().rfind(|row| row.audience == LEDGER).unwrap();
    let bundle = office.bundle(LEDGER);
    let expected = Row {
        audience: LEDGER.to_owned(),
        sha256: bundle.sha256,
        event_id: Some("e-1".to_owned()),
        author: Some("ann".to_owned()),
        grants: 0,
    };
    assert_eq!((rows.len(), last), (4, &expected));
    assert!(office.bundle(PORTAL).rights.peers.is_empty());
}

#[test]
fn one_change_in_a_bank_signs_what_changed_and_no_more() {
    let office = Office::with_spool_of(64 << 20);
    let mut catalogue = bank();
    let work = office.first(&catalogue);
    assert_eq!((work.cut, work.changed), (1_700, 1_700));
    let revoked = Arc::clone(&catalogue.grants["g-7-1"]);
    catalogue.take_grant("g-7-1");
    let server = catalogue.apis[&revoked.api].server.clone().unwrap();
    let work = office.change(&catalogue, &[server.as_str(), revoked.consumer.as_str()]);
    assert_eq!((work.cut, work.signed, work.changed), (2, 2, 2));
    let granted = &office.bundle(server.as_str()).rights.grants;
    assert!(granted.iter().all(|grant| grant.grant_id != "g-7-1"));
    assert_eq!(office.bundle(&number(7)).rights.peers.len(), 5);
    assert_eq!(office.rows().len(), 1_702);
    // Whoever cannot say who is concerned has all slices compared, and none signed for nothing.
    let same = office
        .publisher
        .publish(Arc::new(catalogue), &cause(None))
        .unwrap();
    assert_eq!((same.cut, same.signed), (1_700, 0));
}

#[test]
fn what_is_proposed_is_seen_by_the_shadow_only() {
    let office = Office::new();
    let mut catalogue = small(Access::Bundle);
    let mut asked = grant("g-2", PORTAL, "accounts", &["close"]);
    asked.state = GrantState::Requested;
    catalogue.put_grant(asked.clone());
    let mut ending = grant("g-1", PORTAL, "accounts", &["list"]);
    ending.revocation_proposed = true;
    catalogue.put_grant(ending);
    office.first(&catalogue);
    let rights = office.bundle(LEDGER).rights;
    let ids = |grants: &[counterfoil_trust::bundle::Grant]| {
        let ids = grants.iter().map(|grant| grant.grant_id.clone());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(ids(&rights.grants), ["g-1"]);
    assert_eq!(ids(rights.candidate.as_ref().unwrap()), ["g-2"]);
    assert_eq!(rights.consumers.len(), 1);
    let list = AllowList::compile(&rights).unwrap();
    let verdict = list.decide(PORTAL, "GET", "/close", clock::wall());
    let (shadow, _) = verdict.shadow.unwrap();
    assert_eq!(
        (verdict.reason.as_str(), shadow.as_str()),
        ("grant_none", "allow")
    );
    // Who asks for the first grant on an API can reach its server, to be denied there until then.
    let mut catalogue = small(Access::Bundle);
    catalogue.take_grant("g-1");
    catalogue.put_grant(asked.clone());
    office.change(&catalogue, &[LEDGER, PORTAL]);
    assert_eq!(office.bundle(PORTAL).rights.peers[0].name, "ledger");
    assert!(office.bundle(LEDGER).rights.grants.is_empty());
    // Who had one can, too, and is denied there; the shadow does not hold what is over.
    asked.state = GrantState::Ended;
    catalogue.put_grant(asked);
    office.change(&catalogue, &[LEDGER, PORTAL]);
    assert_eq!(office.bundle(PORTAL).rights.peers[0].name, "ledger");
    let rights = office.bundle(LEDGER).rights;
    assert!(rights.grants.is_empty() && rights.candidate.is_none());
}

#[test]
fn a_full_spool_publishes_nothing_and_catches_up_later() {
    // The first bundles fit, and then some more.
    let office = Office::with_spool_of(1 << 20);
    let mut catalogue = small(Access::Bundle);
    office.first(&catalogue);
    let grants = [["list"], ["close"]];
    let served = (0..20_000).find_map(|at| {
        let before = office.served(LEDGER).etag;
        catalogue.put_grant(grant("g-1", PORTAL, "accounts", &grants[at % 2]));
        let cause = cause(Some(BTreeSet::from([id(LEDGER)])));
        let published = office
            .publisher
            .publish(Arc::new(catalogue.clone()), &cause);
        let error = published.err()?;
        assert!(matches!(error, PublishError::Append(_)), "{error}");
        Some(before)
    });
    let served = served.expect("the spool fills up");
    assert_eq!(
        office.served(LEDGER).etag,
        served,
        "no bundle without its row"
    );
    assert!(office.publisher.is_behind());
    assert!(office.publisher.catch_up().is_err());
    assert!(office.publisher.is_behind());
    // The same publisher with room in its spool again.
    let more = tempfile::tempdir().unwrap();
    let roomy = open(more.path(), &office.authority, 16 << 20);
    let lane = roomy.press.into_inner().unwrap().lane;
    office.publisher.press().lane = lane;
    assert_eq!(office.publisher.catch_up().unwrap().changed, 1);
    assert!(!office.publisher.is_behind() && office.served(LEDGER).etag != served);
}

#[test]
fn a_workload_that_leaves_is_no_longer_served() {
    let office = Office::new();
    let mut catalogue = small(Access::Bundle);
    catalogue.put_workload(Arc::new(workload("spiffe://bank.test/workload/guest")));
    office.first(&catalogue);
    let guest = id("spiffe://bank.test/workload/guest");
    let mut place = office.publisher.shelf().find(&guest).unwrap();
    office.change(&small(Access::Bundle), &[guest.as_str()]);
    assert!(office.publisher.shelf().find(&guest).is_none());
    let waiting = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    place.mark_unchanged();
    assert!(
        waiting.block_on(place.changed()).is_err(),
        "who waits is told"
    );
}

#[test]
fn tokens_of_a_revoked_grant_are_named_to_the_callee_also_after_a_restart() {
    let office = Office::new();
    let mut catalogue = small(Access::Token);
    office.first(&catalogue);
    office.give("j-1", &["list"], in_days(2));
    office.give("j-2", &["list", "GET /show"], in_days(2));
    assert!(office.revoked().is_empty());
    let office = office.reopened();
    office.first(&catalogue);
    assert!(office.revoked().is_empty());
    catalogue.put_grant(grant("g-1", PORTAL, "accounts", &["list"]));
    office.change(&catalogue, &[LEDGER, PORTAL]);
    assert_eq!(office.revoked(), ["j-2"]);
    catalogue.take_grant("g-1");
    office.change(&catalogue, &[LEDGER, PORTAL]);
    assert_eq!(office.revoked(), ["j-1", "j-2"]);
    let office = office.reopened();
    office.first(&catalogue);
    assert_eq!(office.revoked(), ["j-1", "j-2"]);
}

#[test]
fn tokens_that_are_over_are_forgotten_and_one_caller_cannot_hold_any_number() {
    let office = Office::new();
    let mut catalogue = small(Access::Token);
    office.first(&catalogue);
    office.give("over", &["list"], in_days(-1));
    for at in 0..1_024 {
        office.give(&format!("j-{at}"), &["list"], in_days(2));
    }
    let live = Live {
        jti: "one more".to_owned(),
        caller: id(PORTAL),
        api: "accounts".to_owned(),
        operations: vec![],
        exp_s: i64::MAX,
    };
    let tokens = office.publisher.tokens();
    let refused = tokens.admit(clock::wall(), || Ok::<_, LiveError>((live, ())));
    assert!(matches!(refused, Err(LiveError::TooMany)));
    catalogue.take_grant("g-1");
    office.change(&catalogue, &[LEDGER, PORTAL]);
    let revoked = office.revoked();
    assert_eq!(revoked.len(), 1_024);
    assert!(!revoked.contains(&"over".to_owned()));
}

#[test]
fn an_api_that_wants_no_tokens_any_more_has_no_rules_for_them() {
    let office = Office::new();
    office.first(&small(Access::Both));
    let rules = office.bundle(LEDGER).rights.tokens.unwrap();
    assert_eq!(rules.issuer, "https://bank.test/counterfoil/control");
    assert_eq!(rules.keys, [office.authority.token_signer.public().clone()]);
    let mut catalogue = small(Access::Both);
    catalogue.put_api(api(
        "accounts",
        LEDGER,
        Access::Bundle,
        &["list", "GET /show"],
    ));
    office.change(&catalogue, &[LEDGER, PORTAL]);
    assert!(office.bundle(LEDGER).rights.tokens.is_none());
}

#[test]
fn versions_grow_even_when_their_file_was_lost() {
    let office = Office::new();
    office.first(&small(Access::Bundle));
    let first = office.bundle(LEDGER).rights.version;
    let file = office.dir.path().join("versions.jsonl");
    std::fs::remove_file(&file).unwrap();
    let office = office.reopened();
    office.first(&small(Access::Bundle));
    assert!(office.bundle(LEDGER).rights.version >= first);
    std::fs::write(&file, "{\n").unwrap();
    let broken = Numbering::open(office.dir.path());
    let error = broken.map(drop).unwrap_err();
    assert!(matches!(error, PublishError::Lines(_)), "{error}");
}

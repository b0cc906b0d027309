use counterfoil_entry::clock;
use counterfoil_trust::allow::{AllowList, Peers};
use counterfoil_trust::bundle::{Bundle, BundleKeys};

use super::*;
use crate::fixture::{LEDGER, PORTAL, bank, catalogue, grant};
use serde_json::{Value, json};

struct Bank {
    dir: tempfile::TempDir,
    content: Value,
    authority: Authority,
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

impl Bank {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), "bank.test").unwrap();
        Self {
            dir,
            content: bank(),
            authority,
        }
    }

    /// Publishes the bank as a process that has just started would.
    fn publish(&self) -> Published {
        let mut publisher = Publisher::open(self.dir.path(), "ops_90d").unwrap();
        publisher
            
            .publish(&catalogue(&self.content), &self.authority, clock::wall())
            .unwrap()
    }

    fn open(&self, published: &Published, audience: &str) -> Bundle {
        let keys = BundleKeys {
            governance: self.authority.governance.public(),
            control: self.authority.control.public(),
        };
        let body = &published.bundles[&id(audience)].body;
        SignedBundle::open(body, &keys, &id(audience)).unwrap()
    }
}

#[test]
fn each_workload_gets_its_own_slice_and_no_more() {
    let bank = Bank::new();
    let published = bank.publish();

    let ledger = bank.open(&published, LEDGER);
    assert_eq!(ledger.rights.workload.site.as_deref(), Some("fra1"));
    assert_eq!(ledger.rights.apis.len(), 1);
    assert!(ledger.rights.peers.is_empty() && ledger.endpoints.instances.is_empty());
    let list = AllowList::compile(&ledger.rights).unwrap();
    let decide = |method, path| {
        list.decide(PORTAL, method, path, clock::wall())
            .reason
            .as_str()
    };
    assert_eq!(decide("GET", "/accounts/4711"), "granted");
    assert_eq!(decide("DELETE", "/accounts/4711"), "grant_none");
    assert_eq!(decide("GET", "/health"), "open_operation");
    assert!(list.consumer(PORTAL).is_some());

    let portal = bank.open(&published, PORTAL);
    assert!(portal.rights.apis.is_empty() && portal.rights.grants.is_empty());
    let peers = Peers::compile(&portal).unwrap();
    let peer = peers.find("ledger").unwrap();
    assert_eq!(&*peer.addresses[0], "127.0.0.1:17101");
    // Also an operation without a grant has a name in the caller's entries.
    assert_eq!(
        &*peer.operation("DELETE", "/accounts/1").unwrap().operation,
        "closeAccount"
    );
}

#[test]
fn an_unchanged_catalogue_keeps_its_bytes_over_a_restart() {
    let bank = Bank::new();
    let (first, second) = (bank.publish(), bank.publish());
    for workload in [LEDGER, PORTAL] {
        let (first, second) = (
            &first.bundles[&id(workload)],
            &second.bundles[&id(workload)],
        );
        assert_eq!(first.body, second.body);
        assert_eq!(first.etag, second.etag);
    }
}

#[test]
fn a_change_grows_the_version_of_what_it_concerns_only() {
    let mut bank = Bank::new();
    let before = bank.publish();
    bank.content["grants"] = json!([grant(&["GET /accounts/{id}"])]);
    let after = bank.publish();
    let (old, new) = (bank.open(&before, LEDGER), bank.open(&after, LEDGER));
    assert!(new.rights.version > old.rights.version);
    assert_eq!(new.endpoints.version, old.endpoints.version);
    assert!(new.check_follows(&old).is_ok() && old.check_follows(&new).is_err());
    let portal = id(PORTAL);
    assert_eq!(before.bundles[&portal].etag, after.bundles[&portal].etag);
    // Back to the old grants is a new version too: a version is never given twice.
    bank.content = crate::fixture::bank();
    let back = bank.open(&bank.publish(), LEDGER);
    assert!(back.rights.version > new.rights.version);
}

#[test]
fn versions_grow_even_when_their_file_was_lost() {
    let bank = Bank::new();
    let first = bank.open(&bank.publish(), LEDGER).rights.version;
    fs::remove_file(bank.dir.path().join("versions.json")).unwrap();
    assert!(bank.open(&bank.publish(), LEDGER).rights.version >= first);
    fs::write(bank.dir.path().join("versions.json"), "{").unwrap();
    let broken = Publisher::open(bank.dir.path(), "ops_90d");
    assert!(matches!(broken, Err(PublishError::Content { .. })));
}

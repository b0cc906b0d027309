//! A small bank for tests: two workloads, one API, one grant.

use std::path::Path;
use std::sync::Arc;

use counterfoil_entry::tree;
use serde_json::{Value, json};

use crate::governance::desk::Desk;
use crate::governance::estate::Estate;
use crate::governance::{Actor, Governance};
use crate::store::Store;

pub(crate) const PORTAL: &str = "spiffe://bank.test/workload/portal";
pub(crate) const LEDGER: &str = "spiffe://bank.test/workload/ledger";
pub(crate) const TOKEN: &str = "join-me";

pub(crate) const ACCOUNTS: &str = r##"openapi: 3.0.3
info:
  title: accounts
  version: "1.2"
x-counterfoil:
  service: ledger
  owner_team: core
  class: sox_7y
  scopes: [sox]
paths:
  /accounts:
    get:
      operationId: listAccounts
      responses:
        "200": {description: all of them}
  /accounts/{id}:
    parameters:
      - $ref: "#/components/parameters/id"
    get:
      responses:
        "200": {description: one}
    delete:
      operationId: closeAccount
      x-counterfoil: {class: pci_1y, scopes: [sox, pci]}
      responses:
        "204": {description: closed}
  /health:
    get:
      operationId: health
      x-counterfoil: {open: true, class: ops_30d, scopes: []}
      responses:
        "200": {description: well}
components:
  parameters:
    id: {name: id, in: path, required: true, schema: {type: string}}
"##;

/// The small bank as `POST /v1/import` takes it.
pub(crate) fn bank() -> Value {
    let hash = tree::sha256(TOKEN.as_bytes()).to_string();
    json!({
        "workloads": [
            {
                "spiffe_id": LEDGER, "name": "ledger", "app": "core-ledger", "team": "core",
                "site": "fra1", "addresses": ["127.0.0.1:17101"], "join_token_sha256": hash,
            },
            {
                "spiffe_id": PORTAL, "name": "portal", "app": "portal", "team": "web",
                "addresses": ["127.0.0.1:17102"], "join_token_sha256": hash,
            },
        ],
        "apis": [{"document": ACCOUNTS, "file": "accounts.yaml"}],
        "grants": [grant(&["listAccounts", "GET /accounts/{id}"])],
    })
}

/// The small bank's grant, on other operations.
pub(crate) fn grant(operations: &[&str]) -> Value {
    json!({
        "grant_id": "g-1", "consumer": PORTAL, "api": "accounts", "operations": operations,
        "purpose": "show accounts to their owner", "ticket": "CHG-1", "requested_by": "ann",
        "approved_by": "bob", "expires": "2100-01-01T00:00:00Z",
    })
}

/// An administrator.
pub(crate) fn root() -> Actor {
    actor("root", &[], true)
}

/// Somebody of some teams.
pub(crate) fn person(name: &str, teams: &[&str]) -> Actor {
    actor(name, teams, false)
}

fn actor(name: &str, teams: &[&str], admin: bool) -> Actor {
    Actor {
        name: name.to_owned(),
        teams: teams.iter().map(|&team| team.to_owned()).collect(),
        admin,
        peer_address: None,
    }
}

/// A desk on `data_dir` as commands have one: without books.
pub(crate) fn desk(data_dir: &Path) -> Desk {
    let store = Store::open(&data_dir.join("control")).unwrap();
    let governance = Governance::of(store, "bank.test", "ops_90d").unwrap();
    Desk::new(governance, root(), None)
}

/// Puts the small bank, or another one, into `data_dir`.
pub(crate) fn seed(data_dir: &Path, bank: &Value) {
    let given = serde_json::from_value(bank.clone()).unwrap();
    desk(data_dir).import_estate(&given, &root()).unwrap();
}

/// How things stand after an import.
pub(crate) fn estate(bank: &Value) -> Arc<Estate> {
    let dir = tempfile::tempdir().unwrap();
    let given = serde_json::from_value(bank.clone()).unwrap();
    let desk = desk(dir.path());
    desk.import_estate(&given, &root()).unwrap();
    desk.estate()
}

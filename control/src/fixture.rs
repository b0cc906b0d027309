//! A small bank for tests: two workloads, one API, one grant.

use std::fs;
use std::path::{Path, PathBuf};

use counterfoil_entry::tree;

use crate::catalogue::{Catalogue, CatalogueError};

pub(crate) const PORTAL: &str = "spiffe://bank.test/workload/portal";
pub(crate) const LEDGER: &str = "spiffe://bank.test/workload/ledger";
pub(crate) const TOKEN: &str = "join-me";

pub(crate) const ACCOUNTS: &str = r##"openapi: 3.0.3
info:
  title: accounts
  version: "1.2"
x-counterfoil:
  service: ledger
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

pub(crate) const GRANTS: &str = r#"
[[grant]]
id = "g-1"
consumer = "spiffe://bank.test/workload/portal"
api = "accounts"
operations = ["listAccounts", "GET /accounts/{id}"]
purpose = "show accounts to their owner"
ticket = "CHG-1"
requested_by = "ann"
approved_by = "bob"
expires = "2100-01-01T00:00:00Z"
"#;

pub(crate) fn workloads() -> String {
    format!(
        r#"
[[workload]]
spiffe_id = "{LEDGER}"
name = "ledger"
app = "core-ledger"
team = "core"
site = "fra1"
addresses = ["127.0.0.1:17101"]
join_token_sha256 = "{hash}"

[[workload]]
spiffe_id = "{PORTAL}"
name = "portal"
app = "portal"
team = "web"
addresses = ["127.0.0.1:17102"]
join_token_sha256 = "{hash}"
"#,
        hash = tree::sha256(TOKEN.as_bytes())
    )
}

/// A catalogue's folder.
pub(crate) struct Folder(pub(crate) tempfile::TempDir);

impl Folder {
    /// The small bank as it stands above.
    pub(crate) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir(folder.path().join("apis")).unwrap();
        folder
            .with("apis/accounts.yaml", ACCOUNTS)
            .with("workloads.toml", &workloads())
            .with("grants.toml", GRANTS)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn with(self, file: &str, text: &str) -> Self {
        self.write(file, text);
        self
    }

    pub(crate) fn write(&self, file: &str, text: &str) -> PathBuf {
        let file = self.path().join(file);
        fs::write(&file, text).unwrap();
        file
    }

    pub(crate) fn load(&self) -> Result<Catalogue, CatalogueError> {
        Catalogue::load(self.path(), "bank.test", "ops_90d")
    }
}

//! People govern an estate by documented commands alone, against a real control and on its directory.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::world::{binary, eventually, text};

const DOCUMENT: &str = "openapi: 3.1.0
info:
  title: payments
  version: 1.2.0
x-counterfoil:
  class: sox_7y
  scopes: [sox]
paths:
  /payments:
    post:
      operationId: createPayment
      responses: {'201': {description: made}}
  /payments/{id}:
    parameters:
      - {name: id, in: path, required: true, schema: {type: string}}
    get:
      operationId: getPayment
      responses: {'200': {description: found}}
";

/// A control and the people who may come in.
struct Bank {
    folder: TempDir,
    port: u16,
    control: Option<Child>,
}

impl Bank {
    /// Sets an estate up from nothing.
    fn open() -> Self {
        let mut bank = Self {
            folder: tempfile::tempdir().unwrap(),
            port: free_port(),
            control: None,
        };
        let data = bank.path("data");
        std::fs::create_dir(&data).unwrap();
        let person = |name: &str, rest: &str| {
            let verifier = bank.well(name, "verifier");
            format!(
                "[[person]]\nname = \"{name}\"\nverifier = \"{}\"\n{rest}\n",
                verifier.trim()
            )
        };
        let people = [
            person("ada", "admin = true"),
            person("ines", "teams = [\"shop\"]"),
            person("pia", "teams = [\"payments\"]"),
            person("paul", "teams = [\"payments\"]"),
        ];
        std::fs::write(bank.path("people.toml"), people.concat()).unwrap();
        let config = format!(
            "trust_domain = \"bank.test\"\ndata_dir = \"{data}\"\nlisten = \"127.0.0.1:0\"\n\
             people_listen = \"127.0.0.1:{}\"\npeople_file = \"{}\"\ncollector = \"127.0.0.1:9\"\nspool_dir = \"{}\"\n",
            bank.port,
            bank.path("people.toml"),
            bank.path("spool"),
        );
        std::fs::write(bank.path("control.toml"), config).unwrap();
        bank.start();
        bank
    }

    fn start(&mut self) {
        let log = std::fs::File::create(self.path("control.log")).unwrap();
        let control = Command::new(binary("counterfoil"))
            .args(["control", "--config", &self.path("control.toml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.control = Some(control.unwrap());
        eventually("control answers", 60, || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    fn stop(&mut self) {
        if let Some(mut control) = self.control.take() {
            control.kill().unwrap();
            control.wait().unwrap();
        }
    }

    fn path(&self, below: &str) -> String {
        self.file(below).display().to_string()
    }

    fn file(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// A command of that person, whose password is the name. In `words` a tilde is a blank inside a word.
    fn command(&self, person: &str, words: &str) -> Command {
        let url = format!("http://127.0.0.1:{}", self.port);
        let mut command = Command::new(binary("counterfoil"));
        command
            .args(words.split_whitespace().map(|word| word.replace('~', " ")))
            .env("PGPASSWORD", person)
            .env("COUNTERFOIL_USER", person)
            .env("COUNTERFOIL_CONTROL_URL", url)
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// What is said on stdout by a command that must end well.
    fn well(&self, person: &str, words: &str) -> String {
        let output = self.command(person, words).output().unwrap();
        assert!(output.status.success(), "{words}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn json(&self, person: &str, words: &str) -> Value {
        let said = self.well(person, &format!("{words} -o json"));
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{words}: {error}: {said}"))
    }

    /// What is said on stderr by a command that must fail.
    fn refused(&self, person: &str, words: &str) -> String {
        let output = self.command(person, words).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words}: {said}");
        said
    }

    /// Registers two workloads, each with a token in a file.
    fn register(&self) {
        for name in ["payments", "shop"] {
            let said = self.well(
                "ada",
                &format!(
                    "workload add spiffe://bank.test/workload/{name} --team {name} \
                     --address 127.0.0.1:9 --token-file {name}.token"
                ),
            );
            let token = self.file(&format!("{name}.token"));
            let kept = std::fs::read_to_string(&token).unwrap();
            assert!(kept.len() >= 32 && !said.contains(&kept), "{said}");
            assert_eq!(mode(&token), 0o600);
        }
        let listed = self.json("ines", "workload list");
        assert_eq!(listed.as_array().unwrap().len(), 2);
    }

    /// Imports the API, beside a document that is refused.
    fn publish(&self) {
        std::fs::write(self.file("payments.yaml"), DOCUMENT).unwrap();
        let bad = DOCUMENT.replace("post:", "post: 7\n    port:");
        std::fs::write(self.file("bad.yaml"), bad).unwrap();
        let said = self.refused(
            "ada",
            "api import bad.yaml payments.yaml --owner-team payments --server payments",
        );
        assert!(said.contains("refused: bad.yaml:10: "), "{said}");
        assert!(said.contains("1 of 2 documents imported"), "{said}");
        let apis = self.json("ines", "api list");
        assert_eq!(apis[0]["api"], "payments");
        assert_eq!(apis[0]["operations"], 2);
    }
}

fn id_of(granted: &Value) -> String {
    granted[0]["grant_id"].as_str().unwrap().to_owned()
}

impl Drop for Bank {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn mode(file: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().unwrap().permissions().mode() & 0o777
}

const EXPLAIN: &str = "policy explain --as shop --call POST~/payments --to payments";
const REQUEST: &str = "grant request --consumer shop --api payments --operation createPayment \
                       --purpose pays~orders --ticket CHG-1 --expires 90d";

#[test]
fn from_nothing_to_a_grant_in_force_and_back() {
    let bank = Bank::open();
    bank.register();
    bank.publish();
    let before = bank.json("ines", EXPLAIN);
    assert_eq!(before["decision"], "deny");
    assert_eq!(before["reason"], "grant_none");

    let id = id_of(&bank.json("ines", REQUEST));
    let said = bank.well("ines", EXPLAIN);
    assert!(said.starts_with("deny: grant_none"), "{said}");
    assert!(said.contains(&id), "the nearest grant: {said}");
    bank.well("pia", &format!("grant approve {id} --comment as~agreed"));
    let said = bank.well("ines", EXPLAIN);
    assert!(said.starts_with("allow: granted"), "{said}");

    bank.well("paul", &format!("grant review {id} --comment needed"));
    bank.well("paul", &format!("grant revoke {id} --ticket INC-1"));
    let said = bank.well("ines", EXPLAIN);
    assert!(said.starts_with("deny: grant_none"), "{said}");
    let shown = bank.json("ines", &format!("grant show {id}"));
    assert_eq!(shown["state"], "revoked");
    assert_eq!(shown["decided_by"], "pia");
    assert_eq!(shown["revoked_by"], "paul");
    bank.well("pia", "api retire payments");
    let shown = bank.json("ines", "api show payments");
    assert_eq!(shown["status"], "retired");
}

#[test]
fn nobody_approves_what_he_asked_for_and_the_others_go_through() {
    let bank = Bank::open();
    bank.register();
    bank.publish();
    let (theirs, own) = (
        id_of(&bank.json("ines", REQUEST)),
        id_of(&bank.json("pia", &format!("{REQUEST} --not-before 1d"))),
    );
    let said = bank.refused("ines", &format!("grant approve {own}"));
    assert!(said.contains("reason not_owner"), "{said}");
    let said = bank.refused("pia", &format!("grant approve {own} {theirs}"));
    assert!(said.contains(&format!("refused: {own}: ")), "{said}");
    assert!(said.contains("reason four_eyes"), "{said}");
    let approved = bank.json("paul", "grant list --state approved --consumer shop");
    assert_eq!(id_of(&approved), theirs);
    assert_eq!(approved.as_array().unwrap().len(), 1);
    let csv = bank.well("ines", "grant list -o csv");
    assert_eq!(csv.lines().count(), 3, "{csv}");
}

#[test]
fn a_directory_is_worked_on_only_while_no_control_runs() {
    let mut bank = Bank::open();
    std::fs::write(bank.file("payments.yaml"), DOCUMENT).unwrap();
    let import = "api import payments.yaml --owner-team payments --data-dir data";
    let said = bank.refused("ada", import);
    assert!(
        said.contains("ask the running control by its URL"),
        "{said}"
    );
    let said = bank.refused("nobody", "api list");
    assert!(said.contains("PGPASSWORD"), "{said}");
    bank.stop();
    let said = bank.refused("ada", "api list");
    assert!(said.contains("is the server running?"), "{said}");
    bank.well("ada", import);
    let apis = bank.json("ada", "api list --data-dir data");
    assert_eq!(apis[0]["operations"], 2);
    bank.start();
    assert_eq!(bank.json("ines", "api list")[0]["api"], "payments");
}

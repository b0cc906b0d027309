//! People govern an estate by documented commands alone, against a real control and on its directory.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

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
        bank.well("", &["init", &data, "--trust-domain", "bank.test"]);
        let person = |name: &str, rest: &str| {
            let made = bank.command(name, &["verifier"]).output().unwrap();
            let verifier = text(&made.stdout);
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
            "trust_domain = \"bank.test\"\ndata_dir = \"{data}\"\nlisten = \"127.0.0.1:{}\"\n\
             people_listen = \"127.0.0.1:{}\"\npeople_file = \"{}\"\ncollector = \"127.0.0.1:9\"\nspool_dir = \"{}\"\n",
            free_port(),
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

    /// A command of that person, whose password is the name.
    fn command(&self, person: &str, words: &[&str]) -> Command {
        let mut command = Command::new(binary("counterfoil"));
        command
            .args(words)
            .env("PGPASSWORD", person)
            .env("COUNTERFOIL_USER", person)
            .env(
                "COUNTERFOIL_CONTROL_URL",
                format!("http://127.0.0.1:{}", self.port),
            )
            .stdin(Stdio::null());
        command
    }

    fn run(&self, person: &str, words: &[&str]) -> Output {
        self.command(person, words).output().unwrap()
    }

    /// What is said on stdout by a command that must end well.
    fn well(&self, person: &str, words: &[&str]) -> String {
        let output = self.run(person, words);
        assert!(
            output.status.success(),
            "{words:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    fn json(&self, person: &str, words: &[&str]) -> Value {
        let said = self.well(person, &[words, &["-o", "json"]].concat());
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{words:?}: {error}: {said}"))
    }

    /// What is said on stderr by a command that must fail.
    fn refused(&self, person: &str, words: &[&str]) -> String {
        let output = self.run(person, words);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{words:?}: {}",
            text(&output.stdout)
        );
        text(&output.stderr)
    }
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

#[test]
fn from_nothing_to_a_grant_in_force_and_back() {
    let bank = Bank::open();
    for (name, team) in [("payments", "payments"), ("shop", "shop")] {
        let id = format!("spiffe://bank.test/workload/{name}");
        let token = bank.path(&format!("{name}.token"));
        let words = [
            "workload",
            "add",
            &id,
            "--team",
            team,
            "--address",
            "127.0.0.1:9",
            "--token-file",
            &token,
        ];
        let said = bank.well("ada", &words);
        let kept = std::fs::read_to_string(&token).unwrap();
        assert!(kept.len() >= 32 && !said.contains(&kept), "{said}");
        assert_eq!(mode(Path::new(&token)), 0o600);
    }
    std::fs::write(bank.file("payments.yaml"), DOCUMENT).unwrap();
    std::fs::write(
        bank.file("bad.yaml"),
        DOCUMENT.replace("post:", "post: 7\n    port:"),
    )
    .unwrap();
    let (good, bad) = (bank.path("payments.yaml"), bank.path("bad.yaml"));
    let import = [
        "api",
        "import",
        &bad,
        &good,
        "--owner-team",
        "payments",
        "--server",
        "payments",
    ];
    let said = bank.refused("ada", &import);
    assert!(
        said.contains("bad.yaml:10") && said.contains("1 of 2 documents imported"),
        "{said}"
    );
    let apis = bank.json("ines", &["api", "list"]);
    assert_eq!(apis[0]["api"], "payments");
    assert_eq!(apis[0]["operations"], 2);

    let explain = [
        "policy",
        "explain",
        "--as",
        "shop",
        "--call",
        "POST /payments",
        "--to",
        "payments",
    ];
    let before = bank.json("ines", &explain);
    assert_eq!(
        (&before["decision"], &before["reason"]),
        (&"deny".into(), &"grant_none".into())
    );
    let request = [
        "grant",
        "request",
        "--consumer",
        "shop",
        "--api",
        "payments",
        "--operation",
        "createPayment",
        "--purpose",
        "pays orders",
        "--ticket",
        "CHG-1",
        "--expires",
        "90d",
    ];
    let id = bank.json("ines", &request)[0]["grant_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let said = bank.well("ines", &explain);
    assert!(
        said.contains("deny: grant_none") && said.contains(&id),
        "{said}"
    );
    let said = bank.refused("ines", &["grant", "approve", &id]);
    assert!(
        said.contains("reason four_eyes") || said.contains("reason not_owner"),
        "{said}"
    );
    let own = bank.json("pia", &[&request[..], &["--not-before", "1d"]].concat());
    let own = own[0]["grant_id"].as_str().unwrap().to_owned();
    let said = bank.refused("pia", &["grant", "approve", &own, &id]);
    assert!(
        said.contains(&format!("refused: {own}")) && said.contains("four_eyes"),
        "{said}"
    );
    let approved = bank.json(
        "paul",
        &["grant", "list", "--state", "approved", "--consumer", "shop"],
    );
    assert_eq!(approved[0]["grant_id"], id.as_str());
    assert_eq!(approved[0]["decided_by"], "pia");
    assert!(bank.well("ines", &explain).starts_with("allow: granted"));

    bank.well(
        "paul",
        &["grant", "review", &id, "--comment", "still needed"],
    );
    bank.well("paul", &["grant", "revoke", &id, "--ticket", "INC-1"]);
    assert!(bank.well("ines", &explain).starts_with("deny: grant_none"));
    let shown = bank.json("ines", &["grant", "show", &id]);
    assert_eq!(
        (&shown["state"], &shown["revoked_by"]),
        (&"revoked".into(), &"paul".into())
    );
    let csv = bank.well("ines", &["grant", "list", "-o", "csv"]);
    assert_eq!(csv.lines().count(), 3, "{csv}");
    bank.well("pia", &["api", "retire", "payments"]);
    assert_eq!(
        bank.json("ines", &["api", "show", "payments"])["status"],
        "retired"
    );
}

#[test]
fn a_directory_is_worked_on_only_while_no_control_runs() {
    let mut bank = Bank::open();
    std::fs::write(bank.file("payments.yaml"), DOCUMENT).unwrap();
    let (file, data) = (bank.path("payments.yaml"), bank.path("data"));
    let import = [
        "api",
        "import",
        &file,
        "--owner-team",
        "payments",
        "--data-dir",
        &data,
    ];
    let said = bank.refused("ada", &import);
    assert!(
        said.contains("ask the running control by its URL"),
        "{said}"
    );
    let said = bank.refused("nobody", &["api", "list"]);
    assert!(said.contains("PGPASSWORD"), "{said}");
    bank.stop();
    let said = bank.refused("ada", &["api", "list"]);
    assert!(said.contains("is the server running?"), "{said}");
    bank.well("ada", &import);
    assert_eq!(
        bank.json("ada", &["api", "list", "--data-dir", &data])[0]["operations"],
        2
    );
    bank.start();
    assert_eq!(bank.json("ines", &["api", "list"])[0]["api"], "payments");
}

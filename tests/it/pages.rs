//! The pages of `docs/` that promise commands: each command is run as it stands there, but for ports and ids.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::world::{binary, eventually, text};

/// Ports that the pages name, apart from those of the roles.
const PORTS: &[u16] = &[
    16001, 16002, 16003, 16011, 16012, 16013, 16021, 16022, 16023, 9001, 9002, 9003, 10000,
];

/// A shell in a folder of its own, with what the commands have told so far.
struct Reader {
    folder: TempDir,
    running: Vec<Child>,
    /// Passwords by person.
    passwords: BTreeMap<String, String>,
    environment: Vec<(String, String)>,
    ports: Vec<(String, String)>,
    grant: String,
    /// How long what the page promises next may take (s).
    patience_s: u64,
}

/// What was just started may not listen yet, on a busy machine least of all.
const PATIENCE_S: u64 = 60;
/// A revocation is promised to be obeyed within that.
const REVOCATION_S: u64 = 2;

impl Reader {
    fn new() -> Self {
        let held: Vec<_> = PORTS
            .iter()
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let free = held.iter().map(|port| port.local_addr().unwrap().port());
        let ports = PORTS.iter().zip(free);
        Self {
            folder: tempfile::tempdir().unwrap(),
            running: Vec::new(),
            passwords: BTreeMap::new(),
            environment: Vec::new(),
            ports: ports
                .map(|(page, free)| (page.to_string(), free.to_string()))
                .collect(),
            grant: String::new(),
            patience_s: PATIENCE_S,
        }
    }

    /// Runs the commands of those blocks of the page, in order.
    fn read(&mut self, page: &str, blocks: impl Iterator<Item = usize>) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let page = std::fs::read_to_string(root.join("docs").join(page)).unwrap();
        let all: Vec<_> = page
            .split("```sh\n")
            .skip(1)
            .map(|rest| rest.split("```").next().unwrap())
            .collect();
        for block in blocks {
            for command in commands(all[block]) {
                self.run(&command);
            }
        }
    }

    fn run(&mut self, command: &str) {
        let (command, promise) = match command.split_once("  # ") {
            Some((command, promise)) => (command.trim(), Some(promise)),
            None => (command.trim(), None),
        };
        let mut command = command.replace("GRANT", &self.grant);
        for (page, free) in &self.ports {
            command = command.replace(page, free);
        }
        if command.starts_with("counterfoil init") {
            command.push_str(" --ports auto");
        }
        if let Some(command) = command.strip_suffix('&') {
            let child = self.shell(&format!("exec {command}"));
            self.running.push(self.quiet(child).spawn().unwrap());
            return;
        }
        // What was just started may not listen yet, and proxies learn of a change with their next poll.
        let asked = format!("{command}  # {promise:?}");
        let output = eventually(&asked, self.patience_s, || {
            let output = self.shell(&command).output().unwrap();
            let said = text(&output.stdout);
            let is_kept = match promise {
                None => output.status.success(),
                Some(promise) => keeps(promise, &said),
            };
            if !is_kept {
                let waited = Command::new("sleep").arg("0.1").status();
                assert!(waited.unwrap().success());
            }
            is_kept.then_some(output)
        });
        let is_revoked = command.starts_with("counterfoil grant revoke");
        self.patience_s = if is_revoked { REVOCATION_S } else { PATIENCE_S };
        self.learn(&command, &output);
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("bash");
        let bin = binary("counterfoil");
        let path = std::env::var("PATH").unwrap();
        shell
            .args(["-c", command])
            .current_dir(self.folder.path())
            .env(
                "PATH",
                format!("{}:{path}", bin.parent().unwrap().display()),
            )
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        let user = command.split("--user ").nth(1);
        let user = user.and_then(|rest| rest.split_whitespace().next());
        if let Some(password) = user.and_then(|user| self.passwords.get(user)) {
            shell.env("PGPASSWORD", password);
        }
        shell
    }

    fn quiet(&self, mut child: Command) -> Command {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("background.log"))
            .unwrap();
        child.stdout(log.try_clone().unwrap()).stderr(log);
        child
    }

    /// Remembers what later commands of the page need.
    fn learn(&mut self, command: &str, output: &Output) {
        let said = text(&output.stdout);
        if command.starts_with("counterfoil init") {
            let words: Vec<_> = said.split_whitespace().collect();
            for pair in words.windows(3) {
                match pair {
                    ["door)", password, _] => self.know("admin", password),
                    ["auditor", "(SQL)", password] => self.know("auditor", password),
                    _ => {}
                }
            }
            let site = std::fs::read_to_string(self.folder.path().join("bank/site.toml")).unwrap();
            for (key, variable) in [
                ("people", "COUNTERFOIL_CONTROL_URL"),
                ("http", "COUNTERFOIL_URL"),
            ] {
                let start = format!("{key} = \"");
                let line = site.lines().find_map(|line| line.strip_prefix(&start));
                let address = line.unwrap().trim_end_matches('"');
                self.environment
                    .push((variable.to_owned(), format!("http://{address}")));
            }
            for (key, page) in [("otlp_grpc", "4317"), ("als", "15418")] {
                let start = format!("{key} = \"127.0.0.1:");
                let line = site.lines().find_map(|line| line.strip_prefix(&start));
                let port = line.unwrap().trim_end_matches('"');
                self.ports.push((page.to_owned(), port.to_owned()));
            }
        } else if let Some(rest) = command.strip_prefix("counterfoil people add ") {
            let name = rest.split_whitespace().next().unwrap().to_owned();
            self.know(&name, said.lines().last().unwrap());
        } else if command.starts_with("counterfoil grant request") {
            let id = said.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            let mut ids = id.filter(|word| word.starts_with("g-"));
            self.grant = ids.next().unwrap_or_else(|| panic!("{said}")).to_owned();
        } else if let Some((name, value)) = command.split_once("=$(") {
            let value = self.shell(value.trim_end_matches(')')).output().unwrap();
            let value = text(&value.stdout).trim().to_owned();
            assert!(!value.is_empty(), "{command}");
            self.environment.push((name.to_owned(), value));
        }
    }

    fn know(&mut self, person: &str, password: &str) {
        self.passwords
            .insert(person.to_owned(), password.to_owned());
    }

    fn ask(&self, sql: &str) -> String {
        let command = format!("counterfoil sql --user auditor -o csv \"{sql}\"");
        text(&self.shell(&command).output().unwrap().stdout)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        for child in &mut self.running {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The commands of a block: a line each, or a here-document with its lines.
fn commands(block: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut lines = block.lines();
    while let Some(line) = lines.next() {
        let mut command = line.to_owned();
        if let Some(end) = line
            .split("<<'")
            .nth(1)
            .and_then(|rest| rest.split('\'').next())
        {
            for line in lines.by_ref() {
                command.push('\n');
                command.push_str(line);
                if line == end {
                    break;
                }
            }
        }
        // What stands behind an `&` is for the reader.
        if let Some((started, _)) = command.split_once("&  ") {
            command = format!("{started}&");
        }
        commands.push(command);
    }
    commands
}

/// Whether an answer with its head is the one that the page promises: `403, reason` or `200, words`.
fn keeps(promise: &str, answer: &str) -> bool {
    let (status, reason) = promise.split_once(", ").unwrap();
    let has_status = answer.starts_with(&format!("HTTP/1.1 {status} "));
    has_status
        && (status == "200" || answer.contains(&format!("x-counterfoil-reason: {reason}\r\n")))
}

#[test]
fn the_page_of_the_first_call_holds() {
    let mut reader = Reader::new();
    reader.read("first-call.md", 0..5);
    eventually("the books hold the denial after the revocation", 10, || {
        let decisions = reader.ask("select decision, reason from calls order by start_time");
        let allowed = decisions.split("allow,granted").nth(1)?;
        allowed.contains("deny,grant_none").then_some(())
    });
}

#[test]
fn the_page_of_the_stolen_token_holds() {
    let mut reader = Reader::new();
    reader.read("first-call.md", 0..3);
    reader.read("stolen-token.md", 0..4);
    let stolen = "select source, count(*) > 0 as found from denials where reason = 'token_cnf_mismatch' group by 1";
    eventually("the books name who showed it", 10, || {
        let found = reader.ask(stolen).contains("/workload/adverts,true");
        found.then_some(())
    });
    let asked =
        "counterfoil token payments --config bank/config/proxy-shop.toml -o json --operation";
    let answer = reader.shell(&format!("{asked} listPayments")).output();
    let answer: serde_json::Value = serde_json::from_slice(&answer.unwrap().stdout).unwrap();
    assert_eq!(answer["scope"], "listPayments");
    assert_eq!(answer["token_type"], "Bearer");
    let refused = reader.shell(&format!("{asked} dropPayments")).output();
    let refused = refused.unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("invalid_scope"));
    assert_eq!(text(&refused.stdout), "");
    let token = &reader.environment.last().unwrap().1;
    let held = Command::new("grep")
        .args(["-rlF", token])
        .arg(reader.folder.path())
        .output()
        .unwrap();
    assert_eq!(text(&held.stdout), "", "files that hold the token");
}

#[test]
fn the_page_of_envoy_and_opentelemetry_holds() {
    let page = "connect/envoy-and-otlp.md";
    let mut reader = Reader::new();
    reader.read(page, 0..1);
    // The tests' own Python stands for the one that the page makes.
    let python = crate::foreign::python();
    let clients = python.parent().unwrap().parent().unwrap();
    std::os::unix::fs::symlink(clients, reader.folder.path().join("clients")).unwrap();
    let port = |page: &str| {
        let port = reader.ports.iter().find(|(of, _)| of == page).unwrap();
        format!("127.0.0.1:{}", port.1)
    };
    let grpc = port("4317");
    eventually("the exporter is listened for", 60, || {
        std::net::TcpStream::connect(&grpc).ok()
    });
    reader.read(page, 2..4);
    eventually("the books hold the span", 30, || {
        let spans = reader.ask("select name, service, route, attribution from spans");
        spans
            .contains("POST /payments,payments,/payments,otlp")
            .then_some(())
    });
    eventually("the books hold the call", 30, || {
        let calls =
            reader.ask("select destination, method, route, status, outcome, due from calls");
        calls
            .contains("payments,GET,/payments,200,ok,false")
            .then_some(())
    });
}

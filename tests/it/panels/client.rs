//! Real drivers, each in a small program that answers line by line. What they need is installed when it
//! is missing.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::debian::{install, tools};
use crate::python;
use crate::world::text;

/// Where Debian keeps Go libraries.
const GOPATH: &str = "/usr/share/gocode";

/// What a statement returned: names and types of the columns, and rows.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) columns: Vec<(String, String)>,
    pub(super) rows: Vec<Vec<Value>>,
}

impl Answer {
    pub(super) fn column(&self, name: &str) -> impl Iterator<Item = &Value> {
        let place = self.columns.iter().position(|(one, _)| one == name);
        let place = place.unwrap_or_else(|| panic!("no column {name} in {:?}", self.columns));
        self.rows.iter().map(move |row| &row[place])
    }

    /// A column of texts, by its place.
    pub(super) fn texts(&self, place: usize) -> Vec<&str> {
        self.rows
            .iter()
            .map(|row| row[place].as_str().unwrap_or("NULL"))
            .collect()
    }
}

impl PartialEq for Answer {
    /// The same types and values; one driver writes `1.0` where the other writes `1`.
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Value, &Value)| match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => a.to_bits() == b.to_bits(),
            _ => a == b,
        };
        self.columns == other.columns
            && self.rows.len() == other.rows.len()
            && self
                .rows
                .iter()
                .zip(&other.rows)
                .all(|(a, b)| a.iter().zip(b).all(same))
    }
}

/// A running driver with an open connection.
pub(super) struct Driver {
    pub(super) name: &'static str,
    child: Child,
    out: BufReader<ChildStdout>,
    // The built program stays while it runs.
    _folder: tempfile::TempDir,
}

impl Driver {
    /// lib/pq and psycopg, logged in as the auditor.
    pub(super) fn all(port: u16, password: &str) -> Vec<Self> {
        vec![Self::libpq(port, password), Self::psycopg(port, password)]
    }

    fn libpq(port: u16, password: &str) -> Self {
        install("go", "golang-go", || Path::new("/usr/bin/go").exists());
        let library = Path::new(GOPATH).join("src/github.com/lib/pq");
        install("lib/pq", "golang-github-lib-pq-dev", || library.exists());
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("probe");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/libpq");
        let built = Command::new("/usr/bin/go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(source)
            .env("GO111MODULE", "off")
            .env("GOPATH", GOPATH)
            .env("GOCACHE", tools().join("go"))
            .env("CGO_ENABLED", "0")
            .output()
            .unwrap();
        assert!(
            built.status.success(),
            "building the lib/pq client: {}",
            text(&built.stderr)
        );
        let url = format!("{} sslmode=disable", connection(port, password));
        let mut command = Command::new(program);
        command.arg(url);
        Self::start("lib/pq", command, folder)
    }

    fn psycopg(port: u16, password: &str) -> Self {
        let mut command = Command::new(python::with("psycopg", "psycopg[binary]"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/psycopg_probe.py");
        command.arg(script).arg(connection(port, password));
        Self::start("psycopg", command, tempfile::tempdir().unwrap())
    }

    fn start(name: &'static str, mut command: Command, folder: tempfile::TempDir) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("starting the client {name}: {error}"));
        let out = BufReader::new(child.stdout.take().unwrap());
        Self {
            name,
            child,
            out,
            _folder: folder,
        }
    }

    /// The answer over the simple protocol, or what the server said.
    pub(super) fn ask(&mut self, sql: &str) -> Result<Answer, String> {
        self.send(&json!({ "sql": sql }))
    }

    /// The answer over the extended protocol.
    pub(super) fn ask_with(&mut self, sql: &str, args: &[&str]) -> Result<Answer, String> {
        self.send(&json!({ "sql": sql, "args": args }))
    }

    /// Whether the connection is alive, as the driver finds out.
    pub(super) fn ping(&mut self) -> Result<Answer, String> {
        self.send(&json!({ "ping": true }))
    }

    fn send(&mut self, request: &Value) -> Result<Answer, String> {
        let pipe = self.child.stdin.as_mut().unwrap();
        writeln!(pipe, "{request}").unwrap();
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        let mut answer: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the client {} ended: {error}: {line:?}", self.name));
        if let Some(error) = answer["error"].as_str() {
            return Err(error.to_owned());
        }
        Ok(Answer {
            columns: serde_json::from_value(answer["columns"].take()).unwrap(),
            rows: serde_json::from_value(answer["rows"].take()).unwrap(),
        })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn connection(port: u16, password: &str) -> String {
    format!("host=127.0.0.1 port={port} user=auditor password={password} dbname=counterfoil")
}

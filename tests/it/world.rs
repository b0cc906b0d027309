//! Starts the real demo, talks to it as a user does, and looks into what it left.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use counterfoil_entry::clock;
use serde_json::{Map, Value};
use tempfile::TempDir;

/// Longest time that anything in these scenarios may take (s).
const PATIENCE_S: u64 = 120;

/// A binary of this workspace, beside the test's own.
pub(crate) fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join(name);
    assert!(
        path.is_file(),
        "{} is missing; run `cargo build --workspace` first",
        path.display()
    );
    path
}

pub(crate) fn counterfoil(args: &[&str]) -> Output {
    Command::new(binary("counterfoil"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A point in time after which waiting is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(u64);

impl Deadline {
    pub(crate) fn after_s(seconds: u64) -> Self {
        Self(clock::mono_ns() + seconds * 1_000_000_000)
    }

    pub(crate) fn left(self) -> Option<Duration> {
        self.0
            .checked_sub(clock::mono_ns())
            .filter(|ns| *ns > 0)
            .map(Duration::from_nanos)
    }
}

/// Asks again and again until there is an answer.
pub(crate) fn eventually<T>(what: &str, within_s: u64, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Deadline::after_s(within_s);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(deadline.left().is_some(), "not within {within_s} s: {what}");
    }
}

/// A running demo in a directory of its own.
#[derive(Debug)]
pub(crate) struct Demo {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    _folder: TempDir,
    data: PathBuf,
}

impl Demo {
    pub(crate) fn start(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let mut child = Command::new(binary("counterfoil"))
            .args(["demo", "--ports", "auto", "--data-dir"])
            .arg(&data)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = channel();
        let pipes: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for pipe in pipes {
            let send = send.clone();
            std::thread::spawn(move || {
                BufReader::new(pipe)
                    .lines()
                    .map_while(Result::ok)
                    .take_while(|line| send.send(line.clone()).is_ok())
                    .for_each(drop);
            });
        }
        Self {
            child,
            lines,
            seen: Vec::new(),
            _folder: folder,
            data,
        }
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn books(&self) -> PathBuf {
        self.data.join("books")
    }

    /// Waits for a line of output that `pick` takes.
    pub(crate) fn line<T>(&mut self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        if let Some(found) = self.seen.iter().find_map(|line| pick(line)) {
            return found;
        }
        let deadline = Deadline::after_s(PATIENCE_S);
        loop {
            let wait = deadline.left().unwrap_or_default();
            match self.lines.recv_timeout(wait) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if let Some(found) = pick(&line) {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!(
                        "the demo never said {what}; it said:\n{}",
                        self.seen.join("\n")
                    )
                }
            }
        }
    }

    /// Waits until the SQL endpoint is up.
    pub(crate) fn psql(&mut self) -> Psql {
        self.line("how to use psql", Psql::of_line)
    }

    /// The process id of the child whose command line holds all of `words`.
    pub(crate) fn child_id(&self, words: &[&str]) -> Option<i32> {
        self.child_ids(words).first().copied()
    }

    /// The process ids of all such children.
    pub(crate) fn child_ids(&self, words: &[&str]) -> Vec<i32> {
        let parent = self.child.id().to_string();
        let child = |process: std::fs::DirEntry| {
            let path = process.path();
            let status = std::fs::read_to_string(path.join("status")).ok()?;
            let of_us = status.lines().any(|line| {
                line.strip_prefix("PPid:")
                    .is_some_and(|id| id.trim() == parent)
            });
            let command = text(&std::fs::read(path.join("cmdline")).ok()?).replace('\0', " ");
            (of_us && words.iter().all(|word| command.contains(word)))
                .then(|| process.file_name().to_string_lossy().parse().ok())
                .flatten()
        };
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes.filter_map(child).collect()
    }

    /// `kill -9` of that child; gives its process id.
    pub(crate) fn kill(&self, words: &[&str]) -> i32 {
        let id = eventually("the child runs", 30, || self.child_id(words));
        signal(id, rustix::process::Signal::KILL);
        id
    }

    pub(crate) fn terminate(&self) {
        signal(
            i32::try_from(self.child.id()).unwrap(),
            rustix::process::Signal::TERM,
        );
    }

    /// `kill -9` of the demo itself; its children end with it.
    pub(crate) fn abandon(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while self.lines.recv_timeout(Duration::from_secs(30)).is_ok() {}
    }

    /// Waits for the end; gives how it ended and everything that was said.
    pub(crate) fn finish(&mut self) -> (ExitStatus, String) {
        let deadline = Deadline::after_s(PATIENCE_S);
        while let Ok(line) = self.lines.recv_timeout(deadline.left().unwrap_or_default()) {
            self.seen.push(line);
        }
        assert!(
            deadline.left().is_some(),
            "no end; it said:\n{}",
            self.seen.join("\n")
        );
        (self.child.wait().unwrap(), self.seen.join("\n"))
    }

    /// As [`Demo::finish`], and it must have ended well.
    pub(crate) fn finish_well(&mut self) -> String {
        let (status, said) = self.finish();
        assert!(status.success(), "{status}; it said:\n{said}");
        said
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Whether the process is there and does something yet.
pub(crate) fn is_running(id: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

fn signal(id: i32, signal: rustix::process::Signal) {
    let id = rustix::process::Pid::from_raw(id).unwrap();
    rustix::process::kill_process(id, signal).unwrap();
}

/// How to reach the SQL endpoint with psql.
#[derive(Debug, Clone)]
pub(crate) struct Psql {
    pub(crate) password: String,
    arguments: Vec<String>,
}

impl Psql {
    fn of_line(line: &str) -> Option<Self> {
        let from = line.find("PGPASSWORD=")?;
        let mut words = line.get(from..)?.split_whitespace();
        let password = words.next()?.strip_prefix("PGPASSWORD=")?.to_owned();
        (words.next()? == "psql").then_some(())?;
        Some(Self {
            password,
            arguments: words.map(str::to_owned).collect(),
        })
    }

    pub(crate) fn with_password(&self, password: &str) -> Self {
        Self {
            password: password.to_owned(),
            ..self.clone()
        }
    }

    pub(crate) fn run(&self, sql: &str) -> Output {
        Command::new("psql")
            .args(&self.arguments)
            .args([
                "-X",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-v",
                "VERBOSITY=verbose",
                "-c",
                sql,
            ])
            .env("PGPASSWORD", &self.password)
            .env("PGCONNECT_TIMEOUT", "10")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The answer, which must be one.
    pub(crate) fn ask(&self, sql: &str) -> String {
        let output = self.run(sql);
        assert!(output.status.success(), "{sql}: {}", text(&output.stderr));
        text(&output.stdout).trim_end().to_owned()
    }

    /// One number.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        let answer = self.ask(sql);
        answer
            .parse()
            .unwrap_or_else(|_| panic!("{sql}: no number: {answer:?}"))
    }

    /// What is said when it is refused, which it must be.
    pub(crate) fn refused(&self, sql: &str) -> String {
        let output = self.run(sql);
        assert!(
            !output.status.success(),
            "{sql} was not refused: {}",
            text(&output.stdout)
        );
        text(&output.stderr)
    }
}

/// Rows of a question asked straight on a data directory.
pub(crate) fn rows(data: &Path, sql: &str) -> Vec<Map<String, Value>> {
    let data = data.to_str().unwrap();
    let output = counterfoil(&["sql", "--data-dir", data, "-o", "json", sql]);
    assert!(output.status.success(), "{sql}: {}", text(&output.stderr));
    let rows: Vec<Map<String, Value>> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{sql}: {error}: {}", text(&output.stdout)));
    rows
}

/// One number asked straight on a data directory.
pub(crate) fn number(data: &Path, sql: &str) -> i64 {
    let rows = rows(data, sql);
    let value = rows.first().and_then(|row| row.values().next()).cloned();
    value
        .as_ref()
        .and_then(Value::as_i64)
        .unwrap_or_else(|| panic!("{sql}: {value:?}"))
}

/// Exit code and everything said of a verification.
pub(crate) fn verify(data: &Path, args: &[&str]) -> (i32, String) {
    let mut all = vec!["verify", data.to_str().unwrap()];
    all.extend(args);
    let output = counterfoil(&all);
    (
        output.status.code().unwrap(),
        text(&output.stdout) + &text(&output.stderr),
    )
}

/// Every file below a folder, in order of path.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                folders.push(path)
            } else {
                found.push(path)
            }
        }
    }
    found.sort();
    found
}

/// Copies a folder whole.
pub(crate) fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, &target).unwrap();
    }
}

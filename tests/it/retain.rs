//! Retention from the command line: what leaves the books, who must agree, what holds, and what proofs remain.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use crate::world::{Demo, binary, copy, counterfoil, files, number, rows, text, verify};

/// Control, collector and query of an estate, as `counterfoil up` runs them.
struct Up {
    child: Child,
    lines: Receiver<String>,
}

impl Up {
    fn start(data: &Path) -> Self {
        let mut child = Command::new(binary("counterfoil"))
            .arg("up")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (send, lines) = channel();
        let out = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            BufReader::new(out)
                .lines()
                .map_while(Result::ok)
                .for_each(|line| drop(send.send(line)));
        });
        let up = Self { child, lines };
        up.line("catalogue and grants");
        up
    }

    fn line(&self, expected: &str) {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(120)) {
            if line.contains(expected) {
                return;
            }
            seen.push(line);
        }
        panic!("`up` never said {expected:?}: {seen:?}");
    }

    /// Stops and seals.
    fn stop(mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.line("stopped; prove the books");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An estate with books, whose class `ops_90d` is kept for no time at all, and people of the team `records`.
struct Estate {
    demo: Demo,
    passwords: BTreeMap<String, String>,
}

impl Estate {
    fn make() -> Self {
        let mut demo = Demo::start(&["--for", "8s", "--rate", "5"]);
        demo.finish_well();
        let classes = demo.data().join("classes.toml");
        let text = std::fs::read_to_string(&classes).unwrap();
        let short = text.replace("days   = 90", "days = 0\nshortened_because = \"a drill\"");
        assert_ne!(short, text);
        std::fs::write(&classes, short).unwrap();
        let mut estate = Self {
            demo,
            passwords: BTreeMap::new(),
        };
        for (name, team) in [
            ("rita", "records"),
            ("sam", "records"),
            ("tom", "records"),
            ("dev", "shop"),
        ] {
            let data = estate.path().to_str().unwrap();
            let added = counterfoil(&["people", "add", name, "--team", team, "--data-dir", data]);
            let said = text_of(&added);
            let password = said.lines().last().unwrap().to_owned();
            estate.passwords.insert(name.to_owned(), password);
        }
        estate
    }

    fn path(&self) -> &Path {
        self.demo.data()
    }

    /// Exit code, and what was said on stdout and stderr.
    fn retain(&self, name: &str, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(binary("counterfoil"));
        command
            .arg("retain")
            .args(args)
            .args(["-o", "json", "--data-dir"])
            .arg(self.path())
            .env("RUST_LOG", "error")
            .stdin(Stdio::null());
        if let Some(password) = self.passwords.get(name) {
            command.args(["--user", name]).env("PGPASSWORD", password);
        }
        let output = command.output().unwrap();
        (
            output.status.code().unwrap(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    /// The rows of a command that must be done.
    fn done(&self, name: &str, args: &[&str]) -> Vec<Value> {
        let (code, out, said) = self.retain(name, args);
        assert_eq!(code, 0, "{args:?}: {out}{said}");
        if out.is_empty() {
            return Vec::new();
        }
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
    }

    /// Does what must be refused for that reason.
    fn refused(&self, name: &str, args: &[&str], reason: &str) {
        let (code, out, said) = self.retain(name, args);
        assert_eq!(code, 4, "{args:?}: {out}{said}");
        assert!(said.contains(&format!("refused ({reason})")), "{said}");
    }

    /// A plan of rita's: its file and hash.
    fn plan(&self) -> (String, String) {
        let plan = self.done("rita", &["plan"]).remove(0);
        let word = |name: &str| plan[name].as_str().unwrap().to_owned();
        (word("file"), word("plan_sha256"))
    }

    /// How many steps are recorded with that outcome and reason.
    fn steps(&self, step: &str, reason: Option<&str>) -> i64 {
        let reason = match reason {
            Some(reason) => format!("outcome = 'refused' and reason = '{reason}'"),
            None => "outcome = 'done'".to_owned(),
        };
        let sql =
            format!("select count(*) from retention_actions where step = '{step}' and {reason}");
        number(self.path(), &sql)
    }
}

fn text_of(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

const SHORT: &str = "select count(*) from entries where retention_class = 'ops_90d'";
const LONG: &str = "select count(*) from entries where retention_class = 'sox_7y'";

#[test]
fn what_three_people_agreed_to_leaves_the_books_and_the_rest_stays_proven() {
    let estate = Estate::make();
    let data = estate.path();
    let (short, long) = (number(data, SHORT), number(data, LONG));
    let calls = number(data, "select sum(n) from rollup_1m where side <> 'call'");
    assert!(short > 0 && long > 0, "{short} and {long}");

    let up = Up::start(data);
    let due = estate.done("", &["dry-run"]);
    assert!(
        due.iter()
            .all(|row| row["class"] == "ops_90d" && row["state"] == "due")
    );
    let sum = |name: &str| due.iter().filter_map(|row| row[name].as_i64()).sum::<i64>();
    assert_eq!(sum("records"), short);
    let later = estate.done("", &["simulate", "--as-of", "2099-01-01"]);
    assert!(later.iter().any(|row| row["class"] == "sox_7y"));

    estate.refused("dev", &["plan"], "not_records");
    let (plan, hash) = estate.plan();
    estate.refused("rita", &["approve", &plan], "four_eyes");
    estate.done("sam", &["approve", &plan]);
    estate.refused("sam", &["approve", &plan], "four_eyes");
    let (code, _, said) = estate.retain("rita", &["execute", &plan]);
    assert!(
        code == 1 && said.contains("another process holds"),
        "{said}"
    );
    up.stop();
    estate.refused("rita", &["execute", &plan], "not_approved");
    let up = Up::start(data);
    estate.done("tom", &["approve", &plan]);
    up.stop();

    let changed = data.join("changed.json");
    let edited = std::fs::read_to_string(&plan)
        .unwrap()
        .replace("\"planned_by\": \"rita\"", "\"planned_by\": \"dev\"");
    std::fs::write(&changed, edited).unwrap();
    estate.refused(
        "rita",
        &["execute", changed.to_str().unwrap()],
        "plan_changed",
    );
    assert_eq!(number(data, SHORT), short, "nothing has left");
    let (code, verdict) = verify(data, &[]);
    assert_eq!(code, 0, "{verdict}");

    let kept = tempfile::tempdir().unwrap();
    copy(&data.join("books"), kept.path());
    let executed = estate.done("rita", &["execute", &plan]).remove(0);
    assert_eq!(executed["records"].as_i64(), Some(short));
    assert_eq!(executed["segments"].as_i64(), i64::try_from(due.len()).ok());
    proven(&estate, &hash, (short, long, calls));
    lost_by_hand(&estate);
    cut_short(&estate, &plan, kept.path(), &due);

    let up = Up::start(data);
    estate.done("", &["deliver"]);
    up.stop();
    for (step, reason, times) in [
        ("dry_run", None, 1),
        ("planned", None, 1),
        ("planned", Some("not_records"), 1),
        ("approved", None, 2),
        ("approved", Some("four_eyes"), 2),
        ("executing", Some("not_approved"), 1),
        ("executing", Some("plan_changed"), 1),
        ("executed", None, 2),
    ] {
        assert_eq!(estate.steps(step, reason), times, "{step} {reason:?}");
    }
    proven(&estate, &hash, (short, long, calls));
}

/// The books after the execution: proved, without the deleted rows, and still counted.
fn proven(estate: &Estate, hash: &str, (short, long, calls): (i64, i64, i64)) {
    let data = estate.path();
    let policy = data.join("policy.toml");
    let (code, verdict) = verify(data, &["--policy", policy.to_str().unwrap()]);
    assert_eq!(code, 0, "{verdict}");
    let said = format!("{short} records, plan {hash}");
    assert!(
        verdict.contains("deleted lawfully: ") && verdict.contains(&said),
        "{verdict}"
    );
    assert_eq!((number(data, SHORT), number(data, LONG)), (0, long));
    let standing = rows(
        data,
        "select sum(missing) as missing, sum(deleted) as deleted from completeness",
    );
    assert_eq!(standing[0]["missing"], 0, "{standing:?}");
    assert_eq!(standing[0]["deleted"].as_i64(), Some(short));
    let gone = "select sum(rows) from segments where deleted_by is not null";
    assert_eq!(number(data, gone), short);
    let counted = number(data, "select sum(n) from rollup_1m where side <> 'call'");
    assert_eq!(counted, calls, "roll-ups outlive what they count");
    let rebuilt = counterfoil(&["rebuild", "rollups", "--data-dir", data.to_str().unwrap()]);
    assert!(text(&rebuilt.stderr).contains("were deleted lawfully"));
}

/// A file that nobody agreed to delete.
fn lost_by_hand(estate: &Estate) {
    let file = rows(
        estate.path(),
        "select file from segments where retention_class = 'sox_7y' and table_name = 'entries'",
    );
    let path = estate
        .path()
        .join("books")
        .join(file[0]["file"].as_str().unwrap());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (code, verdict) = verify(estate.path(), &[]);
    assert!(
        code == 3 && verdict.contains("the file is missing"),
        "{verdict}"
    );
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(verify(estate.path(), &[]).0, 0);
}

/// The states that a crash leaves: files there after the checkpoint, and a manifest that no checkpoint covers.
fn cut_short(estate: &Estate, plan: &str, before: &Path, due: &[Value]) {
    let books = estate.path().join("books");
    let deleted: Vec<PathBuf> = due
        .iter()
        .map(|row| PathBuf::from(row["file"].as_str().unwrap()))
        .collect();
    let put_back = || {
        for file in &deleted {
            std::fs::copy(before.join(file), books.join(file)).unwrap();
        }
        let (code, verdict) = verify(estate.path(), &[]);
        assert_eq!(code, 3, "{verdict}");
    };
    let is_gone = || deleted.iter().all(|file| !books.join(file).exists());
    put_back();
    let (_, verdict) = verify(estate.path(), &[]);
    assert!(
        verdict.contains("the log says that it was deleted"),
        "{verdict}"
    );
    let again = estate.done("rita", &["execute", plan]).remove(0);
    assert_eq!(again["segments"], 0);
    assert_eq!(again["deleted_before"].as_u64(), Some(deleted.len() as u64));
    assert!(is_gone() && verify(estate.path(), &[]).0 == 0);

    // Checkpoint and tiles as before, with the new manifests on the disk: the collector's next start finishes it.
    for file in files(&before.join("log")) {
        let file = file.strip_prefix(before).unwrap();
        std::fs::copy(before.join(file), books.join(file)).unwrap();
    }
    put_back();
    Up::start(estate.path()).stop();
    assert!(is_gone());
    let (code, verdict) = verify(estate.path(), &[]);
    assert_eq!(code, 0, "{verdict}");
}

#[test]
fn a_hold_stops_an_approved_plan_until_two_people_release_it() {
    let estate = Estate::make();
    let data = estate.path();
    let app = rows(
        data,
        "select destination_app from entries where retention_class = 'ops_90d' and destination_app is not null limit 1",
    );
    let app = app[0]["destination_app"].as_str().unwrap().to_owned();
    let up = Up::start(data);
    let (plan, _) = estate.plan();
    estate.done("sam", &["approve", &plan]);
    estate.done("tom", &["approve", &plan]);
    let hold = [
        "hold",
        "--matter",
        "2026/17",
        "--reason",
        "court order",
        "--service",
        &app,
    ];
    estate.refused("dev", &hold, "not_records");
    let placed = estate.done("sam", &hold).remove(0);
    let hold = placed["hold_id"].as_str().unwrap().to_owned();
    let held = estate.done("", &["dry-run"]);
    assert!(
        held.iter()
            .any(|row| row["state"] == "held" && row["holds"] == hold.as_str()),
        "{held:?}"
    );
    up.stop();
    estate.refused("rita", &["execute", &plan], "held");

    let up = Up::start(data);
    let release = ["release", &hold, "--reason", "case closed"];
    assert_eq!(estate.done("sam", &release)[0]["state"], "release_asked");
    estate.refused("sam", &release, "four_eyes");
    up.stop();
    estate.refused("rita", &["execute", &plan], "held");
    let up = Up::start(data);
    assert_eq!(estate.done("tom", &release)[0]["state"], "released");
    estate.refused("tom", &release, "no_hold");
    up.stop();
    let file = "select file from segments where table_name = 'entries' and retention_class = 'ops_90d' limit 1";
    let file = rows(data, file)[0]["file"].as_str().unwrap().to_owned();
    let file = data.join("books").join(file);
    let sealed = std::fs::read(&file).unwrap();
    let mut changed = sealed.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&file, changed).unwrap();
    estate.refused("rita", &["execute", &plan], "segments_changed");
    std::fs::write(&file, sealed).unwrap();
    estate.done("rita", &["execute", &plan]);
    assert_eq!(number(data, SHORT), 0);
    let (code, verdict) = verify(data, &[]);
    assert_eq!(code, 0, "{verdict}");

    let up = Up::start(data);
    estate.done("", &["deliver"]);
    up.stop();
    assert_eq!(estate.steps("executing", Some("held")), 2);
    // The demo that made these books placed a hold of its own.
    let states = "select state from legal_holds where matter = '2026/17' order by revision";
    let states: Vec<Value> = rows(data, states)
        .into_iter()
        .map(|mut row| row.remove("state").unwrap())
        .collect();
    assert_eq!(states, ["placed", "release_asked", "released"]);
    assert_eq!(
        number(data, "select count(*) from manifests where kind = 'hold'"),
        number(data, "select count(distinct hold_id) from legal_holds"),
        "the execution notes each hold that it knew of"
    );
    assert_eq!(verify(data, &[]).0, 0);
}

#[test]
fn what_cannot_be_used_is_told_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("bank");
    let root = data.to_str().unwrap();
    let made = counterfoil(&[
        "init",
        root,
        "--trust-domain",
        "bank.test",
        "--ports",
        "auto",
    ]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let said = |args: &[&str]| {
        let output = counterfoil(&[&["retain"], args].concat());
        (output.status.code().unwrap(), text(&output.stderr))
    };
    let cases: [(&[&str], i32, &str); 6] = [
        (&["dry-run"], 2, "--data-dir"),
        (&["plan", "--data-dir", root], 2, "--user"),
        (
            &["simulate", "--as-of", "soon", "--data-dir", root],
            2,
            "is no instant",
        ),
        (&["hold", "--data-dir", root], 2, "--matter"),
        (
            &["dry-run", "--config", "/nowhere.toml"],
            64,
            "/nowhere.toml",
        ),
        (
            &["simulate", "--as-of", "2033-01-01", "--data-dir", root],
            64,
            "there is no log",
        ),
    ];
    for (args, code, expected) in cases {
        let (found, text) = said(args);
        assert!(
            found == code && text.contains(expected),
            "{args:?}: {found}: {text}"
        );
    }
    let classes = data.join("classes.toml");
    let text = std::fs::read_to_string(&classes).unwrap();
    std::fs::write(&classes, text.replace("owner  = \"cards\"\n", "")).unwrap();
    let (code, text) = said(&["dry-run", "--data-dir", root]);
    assert!(
        code == 64 && text.contains("class.pci_12m.owner: it must be given"),
        "{code}: {text}"
    );
}

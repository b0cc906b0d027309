//! A planted breach, told to a real Alertmanager, over a restart of the evaluator and to its end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;
use tempfile::TempDir;

use crate::world::{Deadline, Demo, counterfoil, eventually, rows, text};

/// Who is paged: keeps what Alertmanager posts.
struct Pager {
    port: u16,
    pages: Receiver<Value>,
}

impl Pager {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (send, pages) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(stream);
                let mut length = 0;
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                    if line.trim().is_empty() {
                        break;
                    }
                    if let Some((name, value)) = line.split_once(':')
                        && name.eq_ignore_ascii_case("content-length")
                    {
                        length = value.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                reader.get_mut().write_all(answer).unwrap();
                if send.send(serde_json::from_slice(&body).unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { port, pages }
    }

    /// The next page of that status; what comes before it is kept in `before`.
    fn page(&self, status: &str, before: &mut Vec<Value>) -> Value {
        let deadline = Deadline::after_s(120);
        loop {
            let page = self
                .pages
                .recv_timeout(deadline.left().unwrap_or_default())
                .unwrap_or_else(|_| panic!("no page said {status}; there were {before:?}"));
            if page["status"] == status {
                return page;
            }
            before.push(page);
        }
    }
}

/// A real Alertmanager that pages at once.
struct Alertmanager {
    child: Child,
    url: String,
    _folder: TempDir,
}

impl Alertmanager {
    fn start(pager: &Pager) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("alertmanager.yml");
        let config = format!(
            "route:\n  receiver: nobody\n  routes:\n    - matchers: ['severity=\"page\"', 'service=\"currencyservice\"']\n      \
             receiver: pager\n      group_by: [alertname, service]\n      group_wait: 1s\n      group_interval: 1s\n      \
             repeat_interval: 4h\nreceivers:\n  - name: nobody\n  - name: pager\n    webhook_configs:\n      \
             - url: http://127.0.0.1:{}/\n        send_resolved: true\n",
            pager.port
        );
        std::fs::write(&file, config).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let child = Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus-alertmanager of Debian must be installed: scripts/test does it");
        eventually("Alertmanager listens", 60, || {
            std::net::TcpStream::connect(&address).ok()
        });
        Self {
            child,
            url: format!("http://{address}"),
            _folder: folder,
        }
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn labels(page: &Value) -> Vec<(&str, &str)> {
    let alerts = page["alerts"].as_array().unwrap();
    let of = |alert: &'static str| {
        let alerts = alerts.iter();
        alerts.map(move |one| (alert, one["labels"][alert].as_str().unwrap_or_default()))
    };
    of("alertname")
        .chain(of("objective"))
        .chain(of("service"))
        .collect()
}

#[test]
fn a_breach_pages_once_survives_a_restart_of_the_evaluator_and_resolves() {
    let pager = Pager::start();
    let alertmanager = Alertmanager::start(&pager);
    let mut demo = Demo::start(&[
        "--for",
        "60s",
        "--rate",
        "10",
        "--alertmanager",
        &alertmanager.url,
    ]);
    let mut others = Vec::new();
    let page = pager.page("firing", &mut others);
    assert_eq!(
        labels(&page),
        [
            ("alertname", "SloBurnRate"),
            ("objective", "currency-conversion"),
            ("service", "currencyservice")
        ],
    );
    let summary = page["alerts"][0]["annotations"]["summary"]
        .as_str()
        .unwrap();
    assert!(summary.contains("burns the error budget"), "{summary}");
    let killed = demo.kill(&["query"]);
    eventually("query runs again", 60, || {
        demo.child_id(&["query"]).filter(|id| *id != killed)
    });
    let resolved = pager.page("resolved", &mut others);
    assert_eq!(labels(&resolved), labels(&page));
    let first = |page: &Value| page["alerts"][0]["startsAt"].clone();
    assert_eq!(first(&resolved), first(&page), "it is the same episode");
    let said = demo.finish_well();
    assert!(
        others.is_empty() && pager.pages.try_recv().is_err(),
        "paged once and resolved once: {others:?}"
    );
    assert!(
        said.contains("alert         SloBurnRate (page) fired"),
        "{said}"
    );

    the_books_tell_it(&demo);
    a_check_fails_on_it(&demo);
}

/// Each change of the alert once, and one revision of its objective.
fn the_books_tell_it(demo: &Demo) {
    let told = "select state, reason, value, threshold, target from alerts where severity = 'page' \
                and service = 'currencyservice' order by revision";
    let told = rows(demo.data(), told);
    let states: Vec<_> = told
        .iter()
        .map(|row| row["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["firing", "resolved"]);
    assert!(
        told[0]["value"].as_f64() >= told[0]["threshold"].as_f64(),
        "{told:?}"
    );
    assert_eq!(told[0]["target"].as_f64(), Some(0.99));
    assert_eq!(told[1]["reason"], "recovered");

    let revisions = "select objective, revision, state from objective_revisions where objective = 'currency-conversion'";
    let revisions = rows(demo.data(), revisions);
    assert_eq!(
        revisions.len(),
        1,
        "a restart makes no revision: {revisions:?}"
    );
}

/// `sla check` ends with 4 where the objective is not kept.
fn a_check_fails_on_it(demo: &Demo) {
    let check = |fail_on: &str, from: &[&str]| {
        let data = demo.data().to_str().unwrap();
        let named = [
            "sla",
            "check",
            "--data-dir",
            data,
            "--service",
            "currencyservice",
        ];
        let all = [&named[..], &["--fail-on", fail_on, "-o", "json"], from].concat();
        let checked = counterfoil(&all);
        (checked.status.code(), text(&checked.stdout))
    };
    // Of all conversions more than one in a hundred was late, and nobody promised what lies before.
    assert_eq!(
        check("breach", &[]).0,
        Some(4),
        "{}",
        check("breach", &[]).1
    );
    assert_eq!(check("never", &[]).0, Some(0));
    let before = [
        "--from",
        "2020-01-01T00:00:00Z",
        "--until",
        "2020-02-01T00:00:00Z",
    ];
    assert_eq!(check("breach", &before).0, Some(0));
    assert_eq!(check("no-data", &before).0, Some(4));
}

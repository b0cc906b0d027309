//! The commands against a server that stands in for control: what is asked, what is said, how it ends.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex},
};

use clap::Parser as _;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::{
    args::{Cli, Command},
    exit::{FAILURE, OK, USAGE},
};

/// One request as it came.
#[derive(Debug, Clone)]
struct Asked {
    line: String,
    authorization: String,
    body: Value,
}

/// A server that answers as it is told to, and remembers what it was asked.
struct StandIn {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl StandIn {
    async fn start(answer: fn(&Asked) -> (u16, Value)) -> Self {
        Self::start_keeping(answer, true).await
    }

    /// Closes each connection after one answer unless `keep` is true.
    async fn start_keeping(answer: fn(&Asked) -> (u16, Value), keep: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let seen = Arc::clone(&seen);
                let service = service_fn(move |request| one(request, answer, Arc::clone(&seen)));
                let mut http = http1::Builder::new();
                http.keep_alive(keep);
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Runs a command against it as ines.
    async fn run(&self, words: &[&str]) -> Outcome {
        let url = format!("http://ines:p%40ss@{}", self.address);
        run(&[words, &["--url", &url]].concat()).await
    }
}

async fn run(words: &[&str]) -> Outcome {
    match Cli::try_parse_from([&["counterfoil"], words].concat())
        .unwrap()
        .command
    {
        Command::Api(args) => api::run(&args).await,
        Command::Workload(args) => workload::run(&args).await,
        Command::Grant(args) => grant::run(&args).await,
        Command::Policy(args) => explain::run(&args).await,
        other => panic!("{other:?} is not asked of control"),
    }
}

async fn one(
    request: Request<Incoming>,
    answer: fn(&Asked) -> (u16, Value),
    seen: Arc<Mutex<Vec<Asked>>>,
) -> Result<Response<Full<bytes::Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let header = head.headers.get(http::header::AUTHORIZATION);
    let asked = Asked {
        line: format!("{} {}", head.method, head.uri),
        authorization: header
            .map_or("", |value| value.to_str().unwrap())
            .to_owned(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    let (status, body) = answer(&asked);
    seen.lock().unwrap().push(asked);
    let mut response = Response::new(Full::new(body.to_string().into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    Ok(response)
}

fn refused(status: u16, detail: &str) -> (u16, Value) {
    (
        status,
        json!({"title": "Refused", "detail": detail, "reason": "r"}),
    )
}

#[tokio::test]
async fn a_bad_document_does_not_keep_the_good_ones_out() {
    let control = StandIn::start(|asked| {
        let document = asked.body["document"].as_str().unwrap();
        if document.contains("bad") {
            return refused(422, "b.yaml:3: paths: no operation");
        }
        (201, json!({"api": document, "operations": 2}))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (a, b, c) = (
        file("a.yaml", "one"),
        file("b.yaml", "bad"),
        file("c.json", "two"),
    );
    let missing = folder.path().join("missing.yaml").display().to_string();
    let words = [
        "api",
        "import",
        &a,
        &b,
        &missing,
        &c,
        "--owner-team",
        "pay",
        "--access",
        "both",
    ];
    assert_eq!(control.run(&words).await.unwrap(), FAILURE);
    let asked = control.asked();
    assert_eq!(asked.len(), 3, "all that could be read were sent");
    assert_eq!(asked[2].line, "POST /v1/apis");
    // ines:p@ss
    assert_eq!(asked[2].authorization, "Basic aW5lczpwQHNz");
    assert_eq!(
        asked[2].body,
        json!({"document": "two", "file": c, "owner_team": "pay", "access": "both"})
    );
    assert_eq!(control.run(&["api", "import", &a, &c]).await.unwrap(), OK);
}

#[tokio::test]
async fn an_unknown_person_ends_an_import_at_once() {
    let control = StandIn::start(|_| refused(401, "who asks?")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    std::fs::write(&file, "one").unwrap();
    let file = file.display().to_string();
    let failure = control
        .run(&["api", "import", &file, &file])
        .await
        .unwrap_err();
    assert_eq!(failure.code, FAILURE);
    assert!(failure.error.to_string().contains("who asks? (reason r)"));
    assert_eq!(control.asked().len(), 1);
}

#[tokio::test]
async fn one_refused_decision_does_not_keep_the_others_back() {
    let control = StandIn::start(|asked| {
        if asked.line.contains("G-2") {
            return refused(403, "you asked for it yourself");
        }
        (200, json!({"grant_id": "G", "state": "approved"}))
    })
    .await;
    let words = ["grant", "approve", "G-1", "G-2", "G/3", "--comment", "fine"];
    assert_eq!(control.run(&words).await.unwrap(), FAILURE);
    let asked = control.asked();
    let lines: Vec<_> = asked.iter().map(|asked| asked.line.as_str()).collect();
    assert_eq!(
        lines,
        [
            "POST /v1/grants/G-1/approve",
            "POST /v1/grants/G-2/approve",
            "POST /v1/grants/G%2F3/approve"
        ]
    );
    assert_eq!(asked[0].body, json!({"comment": "fine"}));
}

#[tokio::test]
async fn requests_and_questions_are_put_as_control_reads_them() {
    let control = StandIn::start(|asked| {
        let answer = if asked.line.starts_with("GET /v1/grants") {
            json!({"grants": []})
        } else {
            json!({"grant_id": "G-1", "decision": "deny", "reason": "grant_none"})
        };
        (200, answer)
    })
    .await;
    for words in [
        "grant request --consumer shop --api pay --operation a --operation b --purpose p --ticket T-1 \
         --expires 2027-06-30",
        "grant list --state requested --api a&b",
        "policy explain --as shop --call GET+/a -o json",
        "api retire pay --comment old",
        "grant propose-revocation G-1",
    ] {
        let words: Vec<_> = words.split(' ').filter(|word| !word.is_empty()).collect();
        assert_eq!(control.run(&words).await.unwrap(), OK, "{words:?}");
    }
    let asked = control.asked();
    let lines: Vec<_> = asked.iter().map(|asked| asked.line.as_str()).collect();
    assert_eq!(
        lines,
        [
            "POST /v1/grants",
            "GET /v1/grants?state=requested&api=a%26b",
            "GET /v1/policy/explain?as=shop&call=GET%2B%2Fa",
            "POST /v1/apis/pay/status",
            "POST /v1/grants/G-1/propose-revocation",
        ]
    );
    assert_eq!(
        asked[0].body,
        json!({
            "consumer": "shop", "api": "pay", "operations": ["a", "b"], "purpose": "p",
            "ticket": "T-1", "expires": "2027-06-30T00:00:00Z",
        })
    );
    assert_eq!(
        asked[3].body,
        json!({"status": "retired", "comment": "old"})
    );
}

#[tokio::test]
async fn a_join_token_goes_into_a_file_for_its_owner_alone() {
    let control = StandIn::start(|asked| {
        if asked.body["team"] == "nobody" {
            return refused(422, "there is no such team");
        }
        assert_eq!(asked.body["join_token"], true);
        (201, json!({"name": "shop", "join_token": "t0k3n"}))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.token");
    let file = path.display().to_string();
    let add = |team| {
        [
            "workload",
            "add",
            "spiffe://bank.test/workload/shop",
            "--team",
            team,
            "--token-file",
            &file,
        ]
        .map(ToOwned::to_owned)
    };
    let words = |team| add(team).to_vec();
    let refs = |words: &[String]| words.iter().map(String::clone).collect::<Vec<_>>();
    let run = async |team| {
        let words = refs(&words(team));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        control.run(&words).await
    };
    assert_eq!(run("nobody").await.unwrap_err().code, FAILURE);
    assert!(!path.exists(), "nothing is left of a refused one");
    assert_eq!(run("shop").await.unwrap(), OK);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "t0k3n");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(run("shop").await.unwrap_err().code, FAILURE);
    assert_eq!(
        control.asked().len(),
        2,
        "control was not asked for a token without a place"
    );
}

#[tokio::test]
async fn a_wrong_url_is_wrong_use_and_a_server_that_is_away_a_failure() {
    let failure = run(&["api", "list", "--url", "control:1"])
        .await
        .unwrap_err();
    assert_eq!(failure.code, USAGE);
    let failure = run(&["api", "list", "--url", "https://127.0.0.1:1"])
        .await
        .unwrap_err();
    assert_eq!(failure.code, USAGE, "https without a certificate");
    let failure = run(&["api", "list", "--url", "http://127.0.0.1:1"])
        .await
        .unwrap_err();
    assert_eq!(failure.code, FAILURE);
    assert!(failure.error.to_string().contains("is the server running?"));
}

const DOCUMENT: &str = "openapi: 3.1.0\ninfo: {title: pay, version: 1.0.0}\n\
    x-counterfoil: {owner_team: pay}\npaths:\n  /payments:\n    post:\n      operationId: create\n      \
    responses: {'200': {description: done}}\n";

#[tokio::test]
async fn a_directory_without_a_running_control_takes_documents_and_requests_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    counterfoil_control::init(&data, "bank.test").unwrap();
    let file = folder.path().join("pay.yaml");
    std::fs::write(&file, DOCUMENT).unwrap();
    let (data, file) = (data.display().to_string(), file.display().to_string());
    let import = ["api", "import", &file, "--data-dir", &data];
    let nameless = run(&import).await.unwrap_err();
    assert_eq!(nameless.code, USAGE, "{:#}", nameless.error);
    let named = [&import[..], &["--user", "ines"]].concat();
    assert_eq!(run(&named).await.unwrap(), OK);
    for read in [
        &["api", "list"][..],
        &["api", "show", "pay"],
        &["grant", "list"],
    ] {
        let words = [read, &["--data-dir", &data]].concat();
        assert_eq!(run(&words).await.unwrap(), OK, "{read:?}");
    }
    let retire = [
        "api",
        "retire",
        "pay",
        "--data-dir",
        &data,
        "--user",
        "ines",
    ];
    let refused = run(&retire).await.unwrap_err();
    assert_eq!(refused.code, FAILURE);
    assert!(
        refused.error.to_string().contains("reason offline"),
        "{:#}",
        refused.error
    );
    let nowhere = ["api", "list", "--data-dir", "/nowhere/at/all"];
    assert_eq!(run(&nowhere).await.unwrap_err().code, FAILURE);
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_made_anew() {
    let control = StandIn::start_keeping(|_| (200, json!({"grant_id": "G"})), false).await;
    let words = ["grant", "revoke", "G-1", "G-2", "G-3"];
    assert_eq!(control.run(&words).await.unwrap(), OK);
    assert_eq!(control.asked().len(), 3);
}

/// A real control whose door for people is encrypted, and the folder of its files.
async fn encrypted_control(stop: tokio_util::sync::CancellationToken) -> (tempfile::TempDir, u16) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let verifier = counterfoil_trust::scram::Verifier::of_password("p@ss");
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let config = format!(
        "trust_domain = \"bank.test\"\ndata_dir = \"{}\"\nlisten = \"127.0.0.1:0\"\n\
         people_listen = \"127.0.0.1:{port}\"\npeople_file = \"{}\"\npeople_cert_file = \"{}\"\n\
         people_key_file = \"{}\"\ncollector = \"127.0.0.1:9\"\nspool_dir = \"{}\"\n",
        path("data"),
        path("people.toml"),
        path("door.pem"),
        path("door.key"),
        path("spool"),
    );
    for (name, text) in [
        ("door.pem", made.cert.pem()),
        ("door.key", made.signing_key.serialize_pem()),
        ("other.pem", other.cert.pem()),
        (
            "people.toml",
            format!("[[person]]\nname = \"ines\"\nverifier = \"{verifier}\"\n"),
        ),
        ("control.toml", config),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let config = counterfoil_control::ControlConfig::load(&folder.path().join("control.toml"));
    let control = counterfoil_control::Control::bind(config.unwrap())
        .await
        .unwrap();
    tokio::spawn(async move { control.serve(stop).await.unwrap() });
    (folder, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_door_is_believed_by_its_certificate_alone() {
    let stop = tokio_util::sync::CancellationToken::new();
    let (folder, port) = encrypted_control(stop.clone()).await;
    let url = format!("https://ines:p%40ss@127.0.0.1:{port}");
    let listed = async |certificate: &str| {
        let file = folder.path().join(certificate).display().to_string();
        run(&["api", "list", "--url", &url, "--cacert", &file]).await
    };
    assert_eq!(listed("door.pem").await.unwrap(), OK);
    let failure = listed("other.pem").await.unwrap_err();
    assert_eq!(failure.code, FAILURE);
    let said = crate::console::chain(&failure.error);
    assert!(said.contains("certificate"), "{said}");
    let failure = listed("people.toml").await.unwrap_err();
    let said = crate::console::chain(&failure.error);
    assert!(said.contains("there is no certificate in it"), "{said}");
    stop.cancel();
}

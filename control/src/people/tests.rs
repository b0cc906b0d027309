use std::path::Path;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use counterfoil_entry::clock;
use counterfoil_trust::scram::Verifier;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::fixture::{self, ACCOUNTS, PORTAL, bank, seed};
use crate::published::estate::spooled;
use crate::store::Store;
use crate::{Control, ControlConfig, ControlError};

const PASSWORD: &str = "correct horse: battery";
const PEOPLE: [(&str, &str, bool); 4] = [
    ("ann", "web", false),
    ("bob", "core", false),
    ("dora", "core", false),
    ("root", "platform", true),
];

/// Control with the door for people open, until the test ends.
struct Running {
    data: tempfile::TempDir,
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), ControlError>>,
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// Checks that this is a problem, and gives its reason and field.
    #[track_caller]
    fn problem(&self, status: u16) -> (String, Option<String>) {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let body = self.json();
        assert_eq!(body["status"], status);
        let reason = body["reason"].as_str().unwrap();
        assert_eq!(body["type"], format!("urn:counterfoil:problem:{reason}"));
        for text in ["title", "detail"] {
            assert!(!body[text].as_str().unwrap().is_empty());
        }
        (reason.to_owned(), body["field"].as_str().map(str::to_owned))
    }
}

/// One verifier serves all people of all tests: making one takes milliseconds.
fn verifier() -> &'static str {
    static VERIFIER: OnceLock<String> = OnceLock::new();
    VERIFIER.get_or_init(|| Verifier::of_password(PASSWORD).to_string())
}

fn config(data: &Path) -> ControlConfig {
    let people = PEOPLE.map(|(name, team, admin)| {
        let verifier = verifier();
        format!("[[person]]\nname = \"{name}\"\nteams = [\"{team}\"]\nadmin = {admin}\nverifier = \"{verifier}\"\n")
    });
    let file = data.join("people.toml");
    std::fs::write(&file, people.concat()).unwrap();
    let text = format!(
        "trust_domain = \"bank.test\"\ndata_dir = {data:?}\ncollector = \"127.0.0.1:1\"\n\
         spool_dir = {:?}\nlisten = \"127.0.0.1:0\"\npeople_listen = \"127.0.0.1:0\"\n\
         people_file = {file:?}\nspool_bytes_max = 16777216\n",
        data.join("spool"),
    );
    let file = data.join("control.toml");
    std::fs::write(&file, text).unwrap();
    ControlConfig::load(&file).unwrap()
}

impl Running {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        seed(data.path(), &bank());
        Self::on(data).await
    }

    async fn on(data: tempfile::TempDir) -> Self {
        let config = config(data.path());
        Self::with(data, config).await
    }

    async fn with(data: tempfile::TempDir, config: ControlConfig) -> Self {
        let control = Control::bind(config).await.unwrap();
        let (address, shutdown) = (control.people_address().unwrap(), CancellationToken::new());
        let served = tokio::spawn(control.serve(shutdown.clone()));
        Self {
            data,
            address,
            shutdown,
            served,
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.unwrap();
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        connection.abort();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    async fn raw(&self, who: &str, method: Method, path: &str, body: &[u8]) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", basic(who, PASSWORD))
            .header("content-type", "application/json");
        self.send(request.body(Full::from(body.to_vec())).unwrap())
            .await
    }

    async fn get(&self, who: &str, path: &str) -> Answer {
        self.raw(who, Method::GET, path, b"").await
    }

    async fn post(&self, who: &str, path: &str, body: Value) -> Answer {
        self.raw(who, Method::POST, path, body.to_string().as_bytes())
            .await
    }

    /// The spool's rows of one table.
    fn rows(&self, table: &str) -> usize {
        spooled(&self.data.path().join("spool"), table).len()
    }

    /// Ends it without a last word to the collector, and gives its folder back.
    async fn kill(self) -> tempfile::TempDir {
        self.served.abort();
        self.shutdown.cancel();
        let deadline = clock::mono_ns() + 10_000_000_000;
        while Store::open(&self.data.path().join("control")).is_err() {
            assert!(clock::mono_ns() < deadline, "it does not end");
            tokio::task::yield_now().await;
        }
        self.data
    }
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

fn asked() -> Value {
    json!({
        "consumer": "portal", "api": "accounts", "operations": ["closeAccount"],
        "purpose": "close accounts", "ticket": "CHG-2", "expires": "2100-01-01T00:00:00Z",
    })
}

#[tokio::test]
async fn a_grant_is_asked_for_approved_and_revoked_and_each_step_is_in_the_books_at_once() {
    let control = Running::start().await;
    let (events, bundles) = (control.rows("governance_events"), control.rows("bundles"));
    assert_eq!(
        (events, control.rows("grants")),
        (4, 1),
        "what commands recorded before"
    );
    let created = control.post("ann", "/v1/grants", asked()).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    let grant = created.json();
    let id = grant["grant_id"].as_str().unwrap();
    assert_eq!(grant["state"], "requested");
    assert_eq!(grant["owner_team"], "core");
    assert_eq!(control.rows("governance_events"), events + 1);
    assert_eq!(control.rows("grants"), 2);

    let step = |step: &str| format!("/v1/grants/{id}/{step}");
    let own = control.post("ann", &step("approve"), json!({})).await;
    assert_eq!(own.problem(403).0, "four_eyes");
    assert_eq!(
        control.rows("governance_events"),
        events + 2,
        "the attempt is recorded"
    );
    let explained = "/v1/policy/explain?as=portal&call=DELETE%20/accounts/1";
    let before = control.get("ann", explained).await.json();
    assert_eq!(
        (before["decision"].as_str(), before["reason"].as_str()),
        (Some("deny"), Some("grant_none"))
    );
    assert_eq!(before["nearest"][0]["grant_id"], id);

    let note = json!({"comment": "fits", "ticket": "CHG-3"});
    let approved = control.post("bob", &step("approve"), note).await;
    assert_eq!(approved.status, StatusCode::OK, "{approved:?}");
    assert_eq!(approved.json()["decided_by"], "bob");
    assert!(
        control.rows("bundles") > bundles,
        "a new bundle is published"
    );
    assert_eq!(
        control.get("ann", explained).await.json()["decision"],
        "allow"
    );
    control.kill().await;
}

#[tokio::test]
async fn what_a_grant_went_through_is_shown_and_there_after_a_crash() {
    let control = Running::start().await;
    let grant = control.post("ann", "/v1/grants", asked()).await.json();
    let id = grant["grant_id"].as_str().unwrap();
    let step = |step: &str| format!("/v1/grants/{id}/{step}");
    control.post("ann", &step("approve"), json!({})).await;
    let note = json!({"comment": "fits", "ticket": "CHG-3"});
    control.post("bob", &step("approve"), note).await;
    for (name, state) in [
        ("review", "approved"),
        ("propose-revocation", "approved"),
        ("withdraw-proposal", "approved"),
        ("revoke", "revoked"),
    ] {
        // A body is not needed.
        let taken = control.raw("dora", Method::POST, &step(name), b"").await;
        assert_eq!(taken.json()["state"], state, "{name}: {taken:?}");
    }
    let again = control.post("dora", &step("reject"), json!({})).await;
    assert_eq!(again.problem(409).0, "grant_state");
    let shown = control.get("ann", &format!("/v1/grants/{id}")).await.json();
    assert_eq!(
        (shown["revision"].as_u64(), shown["revoked_by"].as_str()),
        (Some(6), Some("dora"))
    );
    let listed = control
        .get(
            "ann",
            "/v1/grants?state=revoked&consumer=portal&api=accounts",
        )
        .await;
    assert_eq!(listed.json()["grants"].as_array().unwrap().len(), 1);
    assert_eq!(
        control.get("ann", "/v1/grants?api=none").await.json(),
        json!({"grants": []})
    );
    assert_eq!(control.rows("grants"), 1 + 6);

    let page = control.get("ann", "/v1/events?limit=5").await.json();
    let page = page["events"].as_array().unwrap();
    assert_eq!(page.len(), 5);
    let last = page[4]["event_id"].as_str().unwrap();
    let rest = control
        .get("ann", &format!("/v1/events?after={last}"))
        .await
        .json();
    assert_eq!(rest["events"][0]["reason"], "four_eyes");
    assert_eq!(rest["events"][0]["peer_address"], "127.0.0.1");
    assert_eq!(rest["events"][1]["ticket"], "CHG-3");

    // After a crash all of it is there, and nothing is written twice.
    let rows = control.rows("governance_events");
    let control = Running::on(control.kill().await).await;
    let shown = control.get("ann", &format!("/v1/grants/{id}")).await.json();
    assert_eq!(shown["state"], "revoked");
    assert_eq!(control.rows("governance_events"), rows);
    control.kill().await;
}

#[tokio::test]
async fn a_grant_that_runs_out_is_recorded_by_control_itself() {
    let data = tempfile::tempdir().unwrap();
    let mut soon = bank();
    let in_a_moment = clock::wall().plus_ns(1_500_000_000);
    soon["grants"][0]["expires"] = json!(in_a_moment.to_string());
    seed(data.path(), &soon);
    let control = Running::on(data).await;
    let deadline = clock::mono_ns() + 20_000_000_000;
    loop {
        let grant = control.get("ann", "/v1/grants/g-1").await.json();
        if grant["state"] == "expired" {
            break;
        }
        assert!(clock::mono_ns() < deadline, "{grant}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let events = control.get("ann", "/v1/events").await.json();
    let last = events["events"].as_array().unwrap().last().unwrap();
    assert_eq!(last["action"], "grant.expired");
    assert_eq!(last["actor"], "spiffe://bank.test/counterfoil/control");
    let explained = "/v1/policy/explain?as=portal&call=GET%20/accounts";
    let explained = control.get("ann", explained).await.json();
    assert_eq!(explained["reason"], "grant_expired");
    control.kill().await;
}

#[tokio::test]
async fn documents_and_workloads_come_in_and_are_shown() {
    let control = Running::start().await;
    let document = "openapi: 3.1.0\ninfo: {title: a/b c, version: '1'}\npaths: {/p: {get: {}}}\n";
    let import =
        json!({"document": document, "file": "a.yaml", "owner_team": "core", "access": "token"});
    let created = control.post("bob", "/v1/apis", import.clone()).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    assert_eq!(created.json()["operations"], 1);
    assert_eq!(created.json()["added"], json!(["GET /p"]));
    let again = control.post("bob", "/v1/apis", import).await;
    assert_eq!(
        (again.status, again.json()["outcome"].as_str()),
        (StatusCode::OK, Some("unchanged"))
    );
    let listed = control.get("ann", "/v1/apis").await.json();
    let names: Vec<_> = listed["apis"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| &a["api"])
        .collect();
    assert_eq!(names, ["a/b c", "accounts"]);
    let shown = control.get("ann", "/v1/apis/a%2Fb%20c").await.json();
    assert_eq!(shown["operation_list"][0]["route"], "/p");
    assert_eq!(shown["access"], "token");
    let status = control
        .post(
            "bob",
            "/v1/apis/a%2Fb%20c/status",
            json!({"status": "deprecated"}),
        )
        .await;
    assert_eq!(status.json()["status"], "deprecated");
    let mut deprecated = asked();
    deprecated["api"] = json!("a/b c");
    let refused = control.post("ann", "/v1/grants", deprecated).await;
    assert_eq!(refused.problem(409).0, "api_deprecated");

    let workload = json!({
        "spiffe_id": "spiffe://bank.test/workload/new", "name": "new", "app": "new", "team": "web",
        "join_token": true,
    });
    let refused = control.post("bob", "/v1/workloads", workload.clone()).await;
    assert_eq!(refused.problem(403).0, "not_admin");
    let created = control.post("root", "/v1/workloads", workload).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    let token = created.json()["join_token"].as_str().unwrap().to_owned();
    assert!(token.len() > 40);
    let listed = control.get("ann", "/v1/workloads").await;
    assert_eq!(listed.json()["workloads"].as_array().unwrap().len(), 3);
    let hash = counterfoil_entry::tree::sha256(token.as_bytes()).to_string();
    for secret in [token.as_str(), hash.as_str()] {
        assert!(
            !String::from_utf8_lossy(&listed.body).contains(secret),
            "nobody reads it back"
        );
    }
    let refused = control.post("bob", "/v1/import", json!({})).await;
    assert_eq!(refused.problem(403).0, "not_admin");
    let imported = control.post("root", "/v1/import", bank()).await;
    assert_eq!(
        imported.json(),
        json!({"workloads": 0, "apis": 0, "grants": 0})
    );
    control.kill().await;
}

#[tokio::test]
async fn nobody_comes_in_without_name_and_password() {
    let control = Running::start().await;
    let send = async |path: &str, header: Option<String>| {
        let mut request = Request::get(path);
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        control.send(request.body(Full::default()).unwrap()).await
    };
    let wrong = [
        (None, "login_needed"),
        (Some("Bearer abc".to_owned()), "login_needed"),
        (Some("Basic %%%".to_owned()), "login_needed"),
        (
            Some(format!("Basic {}", STANDARD.encode("ann"))),
            "login_needed",
        ),
        (Some(basic("ann", "wrong")), "login_failed"),
        (Some(basic("ann", "")), "login_failed"),
        (Some(basic("Ann", PASSWORD)), "login_failed"),
        (Some(basic("nobody", PASSWORD)), "login_failed"),
    ];
    for (header, reason) in wrong {
        for path in ["/v1/apis", "/v1/nothing"] {
            let answer = send(path, header.clone()).await;
            assert_eq!(answer.problem(401).0, reason, "{header:?}");
            assert!(
                answer.headers["www-authenticate"]
                    .to_str()
                    .unwrap()
                    .starts_with("Basic ")
            );
        }
    }
    assert_eq!(
        control.rows("governance_events"),
        4 + 8,
        "each wrong password is in the books"
    );
    for _ in 0..4 {
        let answer = send("/v1/apis", Some(basic("nobody", "guessed"))).await;
        assert_eq!(answer.problem(401).0, "login_failed");
    }
    assert_eq!(
        control.rows("governance_events"),
        4 + 10,
        "guessing does not fill them"
    );
    for _ in 0..2 {
        assert_eq!(
            send("/v1/apis", Some(basic("ann", PASSWORD))).await.status,
            StatusCode::OK
        );
    }
    // A log-in that is remembered is that of this name and password alone.
    for (name, password) in [("bob", "x"), ("ann", "x"), ("an", "nx")] {
        let answer = send("/v1/apis", Some(basic(name, password))).await;
        assert_eq!(answer.problem(401).0, "login_failed");
    }
    for path in ["/v1/health", "/v1/jwks", "/v1/openapi.json"] {
        let answer = send(path, None).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert!(answer.json().is_object());
    }
    control.kill().await;
}

#[tokio::test]
async fn an_unknown_name_costs_as_much_as_a_wrong_password() {
    let people = super::registry::People::load(&{
        let dir = tempfile::tempdir().unwrap();
        config(dir.path());
        dir.keep().join("people.toml")
    })
    .unwrap();
    let time = |name: &str| {
        let begin = clock::mono_ns();
        for _ in 0..20 {
            assert!(!people.fits(name, "wrong"));
        }
        clock::mono_ns() - begin
    };
    time("ann");
    let (known, unknown) = (time("ann"), time("nobody"));
    assert!(
        unknown * 4 > known && known * 4 > unknown,
        "{known} ns, {unknown} ns"
    );
}

/// Where something wrong is sent, what, the status of the answer and the field that it names. What is
/// sent to `/v1/grants` changes a request that is good.
const WRONG: &[(&str, &str, u16, &str)] = &[
    ("/v1/grants", r#"{"consumer": 7}"#, 400, "consumer"),
    ("/v1/grants", r#"{"operations": "*"}"#, 400, "operations"),
    (
        "/v1/grants",
        r#"{"operations": ["a", 1]}"#,
        400,
        "operations[1]",
    ),
    ("/v1/grants", r#"{"expires": "tomorrow"}"#, 400, "expires"),
    ("/v1/grants", r#"{"expires": "2100-01-01"}"#, 400, "expires"),
    (
        "/v1/grants",
        r#"{"expires": "9999-01-01T00:00:00Z"}"#,
        400,
        "expires",
    ),
    ("/v1/grants", r#"{"not_before": 5}"#, 400, "not_before"),
    ("/v1/grants", r#"{"porpose": "x"}"#, 400, "porpose"),
    ("/v1/grants", r#"{"consumer": "nobody"}"#, 422, "consumer"),
    ("/v1/grants", r#"{"ticket": ""}"#, 422, "ticket"),
    (
        "/v1/grants/g-1/approve",
        r#"{"comment": 1}"#,
        400,
        "comment",
    ),
    (
        "/v1/grants/g-1/review",
        r#"{"comment": "\u0007"}"#,
        422,
        "comment",
    ),
    ("/v1/grants/g-1/revoke", r#"{"force": true}"#, 400, "force"),
    ("/v1/apis", r#"{"document": "x"}"#, 400, "file"),
    (
        "/v1/apis",
        r#"{"document": "x", "file": "a.yaml", "access": "all"}"#,
        400,
        "access",
    ),
    (
        "/v1/apis",
        r#"{"document": "openapi: 2", "file": "a.yaml"}"#,
        422,
        "document",
    ),
    (
        "/v1/apis/accounts/status",
        r#"{"status": "published"}"#,
        400,
        "status",
    ),
    (
        "/v1/workloads",
        r#"{"spiffe_id": "x", "name": "a", "app": "a"}"#,
        400,
        "team",
    ),
    (
        "/v1/workloads",
        r#"{"spiffe_id": "x", "name": "a", "app": "a", "team": "a"}"#,
        422,
        "spiffe_id",
    ),
    (
        "/v1/import",
        r#"{"grants": [{"consumer": "portal"}]}"#,
        400,
        "grants[0].api",
    ),
    (
        "/v1/import",
        r#"{"apis": [{"document": "x", "file": ""}]}"#,
        422,
        "apis[0].file",
    ),
    ("/v1/import", r#"{"apis": 1}"#, 400, "apis"),
];

#[tokio::test]
async fn every_wrong_body_is_a_problem_that_names_the_field() {
    let control = Running::start().await;
    for (path, body, status, field) in WRONG {
        let mut sent: Value = serde_json::from_str(body).unwrap();
        if *path == "/v1/grants" {
            let mut good = asked();
            good.as_object_mut()
                .unwrap()
                .append(sent.as_object_mut().unwrap());
            sent = good;
        }
        let answer = control.post("root", path, sent).await;
        assert_eq!(
            answer.problem(*status).1.as_deref(),
            Some(*field),
            "{path} {body}"
        );
    }
    let empty = control.post("root", "/v1/grants", json!({})).await;
    assert_eq!(empty.problem(400).1.as_deref(), Some("consumer"));
    let refused = json!({"document": ACCOUNTS.replace("3.0.3", "2.0"), "file": "a.yaml"});
    let refused = control.post("root", "/v1/apis", refused).await;
    assert_eq!(refused.problem(422).0, "document_refused");
    let body = refused.json();
    assert_eq!(
        (&body["file"], &body["line"], &body["place"]),
        (&json!("a.yaml"), &json!(1), &json!("openapi"))
    );
    for body in [
        &b""[..],
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"{}{}",
        b"{\"consumer\": \"a\", \"consumer\": \"b\"}",
    ] {
        let answer = control.raw("ann", Method::POST, "/v1/grants", body).await;
        assert_eq!(answer.problem(400).0, "req_malformed", "{body:?}");
    }
    let request = Request::post("/v1/grants")
        .header("authorization", basic("ann", PASSWORD))
        .header("content-type", "text/plain")
        .body(Full::from("{}"))
        .unwrap();
    assert_eq!(control.send(request).await.problem(415).0, "media_type");
    let large = vec![b' '; (16 << 20) + 1];
    let answer = control.raw("ann", Method::POST, "/v1/grants", &large).await;
    assert_eq!(answer.problem(413).0, "body_too_large");
    control.kill().await;
}

#[tokio::test]
async fn wrong_paths_queries_and_methods_are_problems_too() {
    let control = Running::start().await;
    let long = format!("/v1/grants/{}", "x".repeat(201));
    for (path, status, field) in [
        ("/v1/nothing", 404, None),
        ("/v1/grants/g-0", 404, None),
        ("/v1/apis/none", 404, None),
        ("/v1/apis/%ff", 400, Some("path")),
        ("/v1/grants/a%00b", 404, Some("path")),
        (long.as_str(), 404, Some("path")),
        ("/v1/apis?limit=1", 400, Some("limit")),
        ("/v1/grants?state=open", 400, Some("state")),
        ("/v1/grants?consumer=nobody", 422, Some("consumer")),
        ("/v1/grants?api=a&api=b", 400, Some("api")),
        ("/v1/events?limit=0", 400, Some("limit")),
        ("/v1/events?limit=1001", 400, Some("limit")),
        ("/v1/events?limit=x", 400, Some("limit")),
        ("/v1/events?after=e-0", 422, Some("after")),
        ("/v1/policy/explain", 400, Some("as")),
        ("/v1/policy/explain?as=portal", 400, Some("call")),
        ("/v1/policy/explain?as=portal&call=GET", 422, Some("call")),
        ("/v1/policy/explain?as=nobody&call=GET%20/", 422, Some("as")),
        (
            "/v1/policy/explain?as=portal&call=GET%20/&to=x",
            422,
            Some("to"),
        ),
        (
            "/v1/policy/explain?as=portal&call=GET%20/&verbose=1",
            400,
            Some("verbose"),
        ),
    ] {
        let answer = control.get("ann", path).await;
        assert_eq!(answer.problem(status).1.as_deref(), field, "{path}");
    }
    for (method, path, allow) in [
        (Method::DELETE, "/v1/apis", "GET,HEAD,POST"),
        (Method::PUT, "/v1/grants/g-1", "GET,HEAD"),
        (Method::GET, "/v1/import", "POST"),
        (Method::POST, "/v1/health", "GET,HEAD"),
        (Method::POST, "/v1/openapi.json", "GET,HEAD"),
    ] {
        let answer = control.raw("ann", method.clone(), path, b"").await;
        assert_eq!(answer.problem(405).0, "method_unknown", "{method} {path}");
        let mut known: Vec<_> = answer.headers["allow"]
            .to_str()
            .unwrap()
            .split(',')
            .collect();
        known.sort_unstable();
        assert_eq!(known.join(","), allow, "{path}");
    }
    control.kill().await;
}

#[tokio::test]
async fn every_route_is_described_and_no_route_is_missing() {
    let control = Running::start().await;
    let request = Request::get("/v1/openapi.json")
        .body(Full::default())
        .unwrap();
    let served = control.send(request).await;
    let document = served.json();
    let described: Vec<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let mut sorted = described.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [
            "GET /v1/apis",
            "GET /v1/apis/{api}",
            "GET /v1/events",
            "GET /v1/grants",
            "GET /v1/grants/{id}",
            "GET /v1/health",
            "GET /v1/jwks",
            "GET /v1/policy/explain",
            "GET /v1/workloads",
            "POST /v1/apis",
            "POST /v1/apis/{api}/status",
            "POST /v1/grants",
            "POST /v1/grants/{id}/approve",
            "POST /v1/grants/{id}/propose-revocation",
            "POST /v1/grants/{id}/reject",
            "POST /v1/grants/{id}/review",
            "POST /v1/grants/{id}/revoke",
            "POST /v1/grants/{id}/withdraw-proposal",
            "POST /v1/import",
            "POST /v1/workloads",
        ]
    );
    assert_eq!(
        document["components"]["securitySchemes"]["basic"]["scheme"],
        "basic"
    );
    // It is a document that the catalogue itself takes.
    let text = String::from_utf8(served.body.to_vec()).unwrap();
    let import = json!({"document": text, "file": "openapi.json", "owner_team": "platform"});
    let imported = control.post("root", "/v1/apis", import).await;
    assert_eq!(
        imported.json()["operations"],
        described.len(),
        "{imported:?}"
    );
    control.kill().await;
}

#[tokio::test]
async fn while_the_books_cannot_be_written_nothing_is_decided_and_nothing_recorded_is_lost() {
    let data = tempfile::tempdir().unwrap();
    seed(data.path(), &bank());
    let mut config = config(data.path());
    config.spool_bytes_max = 1 << 20;
    let control = Running::with(data, config).await;
    // Grants on this are 250 kB each.
    let paths: Vec<_> = (0..500)
        .map(|at| format!("  /{at}: {{get: {{operationId: o{at:0>499}}}}}\n"))
        .collect();
    let document = format!(
        "openapi: 3.1.0\ninfo: {{title: wide, version: '1'}}\npaths:\n{}",
        paths.concat()
    );
    let import = json!({"document": document, "file": "wide.yaml", "owner_team": "web"});
    let imported = control.post("root", "/v1/apis", import).await;
    assert_eq!(imported.status, StatusCode::CREATED, "{imported:?}");
    let mut long = asked();
    long["api"] = json!("wide");
    long["operations"] = json!(["*"]);
    let refused = loop {
        let answer = control.post("ann", "/v1/grants", long.clone()).await;
        if answer.status != StatusCode::CREATED {
            break answer;
        }
    };
    assert_eq!(refused.problem(503).0, "audit_unavailable");
    assert!(
        refused.json()["detail"]
            .as_str()
            .unwrap()
            .starts_with("it is recorded")
    );
    let recorded = control.get("ann", "/v1/grants").await.json();
    let recorded = recorded["grants"].as_array().unwrap().len();
    let refused = control.post("ann", "/v1/grants", asked()).await;
    assert!(
        refused.json()["detail"]
            .as_str()
            .unwrap()
            .starts_with("nothing is decided")
    );
    let still = control.get("ann", "/v1/grants").await.json();
    assert_eq!(still["grants"].as_array().unwrap().len(), recorded);
    let data = control.kill().await;
    // A larger spool stands for a collector that came back.
    let control = Running::on(data).await;
    let now = control.get("ann", "/v1/grants").await.json();
    assert_eq!(now["grants"].as_array().unwrap().len(), recorded);
    assert!(control.rows("grants") >= recorded);
    assert_eq!(
        control.post("ann", "/v1/grants", asked()).await.status,
        StatusCode::CREATED
    );
    control.kill().await;
}

#[tokio::test]
async fn the_door_speaks_tls_when_it_has_a_certificate() {
    let data = tempfile::tempdir().unwrap();
    seed(data.path(), &bank());
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (
        data.path().join("people.pem"),
        data.path().join("people.key"),
    );
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, "no key").unwrap();
    let with_tls = || ControlConfig {
        people_cert_file: Some(cert.clone()),
        people_key_file: Some(key.clone()),
        ..config(data.path())
    };
    let error = Control::bind(with_tls()).await.unwrap_err().to_string();
    assert!(error.contains("people.key"), "{error}");
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let control = Control::bind(with_tls()).await.unwrap();
    let address = control.people_address().unwrap();
    let served = tokio::spawn(control.serve(CancellationToken::new()));
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client =
        tokio_rustls::rustls::ClientConfig::builder_with_provider(counterfoil_trust::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client));
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = connector
        .connect("localhost".try_into().unwrap(), stream)
        .await
        .unwrap();
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("/v1/grants/g-1").header("authorization", basic("ann", PASSWORD));
    let answer = sender
        .send_request(request.body(Full::<Bytes>::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    connection.abort();
    served.abort();
}

#[tokio::test]
async fn whatever_comes_in_there_is_no_server_error() {
    let control = Running::start().await;
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!(""),
        json!("\u{0}\u{202e}💥"),
        json!("x".repeat(5_000)),
        json!([]),
        json!([[]]),
        json!({"a": {"a": []}}),
        json!("*"),
        json!(["*", "*"]),
        json!("spiffe://bank.test/workload/portal"),
        json!("2100-01-01T00:00:00Z"),
        json!("1600-01-01T00:00:00Z"),
        json!("accounts"),
        json!(PORTAL),
    ];
    let import = json!({"document": ACCOUNTS, "file": "a.yaml", "owner_team": "core", "server": "ledger",
        "access": "both", "ticket": "t", "comment": "c"});
    let workload = fixture::bank()["workloads"][1].clone();
    let mut asked = asked();
    asked["not_before"] = json!("2099-01-01T00:00:00Z");
    for (path, body) in [
        ("/v1/grants", asked),
        ("/v1/apis", import),
        ("/v1/workloads", workload),
        ("/v1/import", fixture::bank()),
        (
            "/v1/grants/g-1/review",
            json!({"comment": "c", "ticket": "t"}),
        ),
        (
            "/v1/apis/accounts/status",
            json!({"status": "deprecated", "comment": "c"}),
        ),
    ] {
        for name in body.as_object().unwrap().keys() {
            for value in &values {
                let mut changed = body.clone();
                changed[name] = value.clone();
                let answer = control.post("root", path, changed).await;
                assert!(
                    answer.status.as_u16() < 500,
                    "{path} {name} {value}: {answer:?}"
                );
            }
        }
    }
    control.kill().await;
}

#[tokio::test]
async fn a_changed_people_file_is_taken_and_who_left_it_stays_out() {
    let control = Running::start().await;
    let file = control.data.path().join("people.toml");
    let may = async |name: &str| control.get(name, "/v1/apis").await.status == StatusCode::OK;
    assert!(may("ann").await && !may("zoe").await);
    let before = std::fs::read_to_string(&file).unwrap();
    let person = |name: &str| {
        let verifier = verifier();
        format!("[[person]]\nname = \"{name}\"\nverifier = \"{verifier}\"\n")
    };
    let deadline = clock::mono_ns() + 30 * 1_000_000_000;
    std::fs::write(&file, format!("{before}{}", person("zoe"))).unwrap();
    while !may("zoe").await {
        assert!(clock::mono_ns() < deadline, "the new person never came in");
    }
    std::fs::write(&file, "[[person]]\nname = 7\n").unwrap();
    assert!(
        may("zoe").await && may("ann").await,
        "a bad file is not used"
    );
    std::fs::write(&file, person("eve")).unwrap();
    while !may("eve").await {
        assert!(clock::mono_ns() < deadline, "the last file was never taken");
    }
    assert!(!may("ann").await && !may("zoe").await);
    control.kill().await;
}

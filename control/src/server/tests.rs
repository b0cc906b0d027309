use bytes::Bytes;
use counterfoil_entry::rows::IssuanceRow;
use counterfoil_trust::bundle::{BundleKeys, SignedBundle};
use counterfoil_trust::{Expect, client_config, client_config_without_svid, server_name};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use rcgen::CertificateParams;
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

use super::*;
use crate::catalogue::Catalogue;
use crate::fixture::{LEDGER, PORTAL, TOKEN, bank, seed};
use crate::published::Cause;
use crate::published::estate::spooled;

mod client;
mod polls;
mod tokens;

/// Control on a free port, with its folders, until the test ends.
struct Running {
    data: tempfile::TempDir,
    app: Arc<App>,
    spool: std::path::PathBuf,
    init: crate::Init,
    address: SocketAddr,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), ControlError>>,
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    etag: Option<String>,
    body: Bytes,
}

impl Answer {
    async fn read(answer: http::Response<hyper::body::Incoming>) -> Self {
        let status = answer.status();
        let etag = answer.headers().get("etag");
        let etag = etag.map(|value| value.to_str().unwrap().to_owned());
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        Self { status, etag, body }
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn config(data: &std::path::Path) -> ControlConfig {
    ControlConfig {
        trust_domain: "bank.test".to_owned(),
        data_dir: data.to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        people_file: None,
        people_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        people_cert_file: None,
        people_key_file: None,
        instance: "control-1".to_owned(),
        // Nobody listens there: control must not wait for its collector.
        collector: "127.0.0.1:1".to_owned(),
        collector_spiffe_id: None,
        spool_dir: data.join("spool"),
        spool_bytes_max: 16 << 20,
        svid_ttl_s: 3_600,
        default_class: "ops_90d".to_owned(),
    }
}

impl Running {
    async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    async fn start_with(tune: impl FnOnce(&mut ControlConfig)) -> Self {
        let data = tempfile::tempdir().unwrap();
        seed(data.path(), &bank());
        Self::start_in(data, tune).await
    }

    async fn start_in(data: tempfile::TempDir, tune: impl FnOnce(&mut ControlConfig)) -> Self {
        let init = crate::init(data.path(), "bank.test").unwrap();
        let mut config = config(data.path());
        tune(&mut config);
        let control = Control::bind(config).await.unwrap();
        let app = Arc::clone(&control.app);
        let (address, shutdown) = (control.address(), CancellationToken::new());
        let served = tokio::spawn(control.serve(shutdown.clone()));
        let spool = data.path().join("spool");
        Self {
            data,
            app,
            spool,
            init,
            address,
            shutdown,
            served,
        }
    }

    fn roots(&self) -> counterfoil_trust::TrustRoots {
        counterfoil_trust::TrustRoots::from_pem(&self.init.roots_pem).unwrap()
    }

    async fn send(&self, as_whom: Option<&Identity>, request: Request<Full<Bytes>>) -> Answer {
        self.line(as_whom).await.ask(request).await
    }

    /// A TLS connection, of HTTP/1.1 or 2 as `alpn` says.
    async fn connect(
        &self,
        as_whom: Option<&Identity>,
        alpn: &[u8],
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let control = id("spiffe://bank.test/counterfoil/control");
        let tls = match as_whom {
            Some(identity) => client_config(identity, Expect::Id(control), &[alpn]),
            None => client_config_without_svid(&self.roots(), control, &[alpn]),
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connector = TlsConnector::from(tls);
        connector.connect(server_name(), stream).await.unwrap()
    }

    async fn line(&self, as_whom: Option<&Identity>) -> Line {
        let stream = self.connect(as_whom, b"http/1.1").await;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(async move {
            // How it ends is seen by who sends.
            connection.await.ok();
        });
        Line { sender, connection }
    }

    /// Publishes `catalogue` as a decision of people would.
    fn publish(&self, catalogue: &Catalogue, urgent: bool) {
        let cause = Cause {
            event_id: "e-1".to_owned(),
            author: "ann".to_owned(),
            urgent,
            touched: None,
        };
        let catalogue = Arc::new(catalogue.clone());
        self.app.publisher.publish(catalogue, &cause).unwrap();
    }

    async fn ask_svid(
        &self,
        as_whom: Option<&Identity>,
        token: Option<&str>,
        spiffe_id: &str,
    ) -> (Answer, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap();
        let body = json!({ "csr": csr, "spiffe_id": spiffe_id }).to_string();
        let mut request = Request::builder().method(Method::POST).uri("/v1/svid");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::from(body)).unwrap();
        (self.send(as_whom, request).await, key)
    }

    async fn join(&self, spiffe_id: &str) -> Identity {
        let (answer, key) = self.ask_svid(None, Some(TOKEN), spiffe_id).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let answer = answer.json();
        assert_eq!(answer["roots"], self.init.roots_pem);
        let chain = answer["chain"].as_str().unwrap();
        let svid = Svid::from_pem(chain, &key.serialize_pem()).unwrap();
        assert_eq!(answer["not_after"], svid.not_after().to_string());
        Identity::new(svid, self.roots())
    }

    async fn fetch(&self, as_whom: Option<&Identity>, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().uri("/v1/proxy/bundle");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(as_whom, request.body(Full::default()).unwrap())
            .await
    }

    /// Every row of `issuance` in the spool so far.
    fn rows(&self) -> Vec<IssuanceRow> {
        let rows = spooled(&self.spool, "issuance");
        let decoded = rows.iter().map(|row| IssuanceRow::decode(row).unwrap().1);
        decoded.collect()
    }

    /// Ends it as a crash would: nothing waits for the collector that is not there.
    fn kill(self) {
        self.served.abort();
    }

    /// Ends it as a crash would, and starts it again.
    async fn restarted(self) -> Self {
        self.shutdown.cancel();
        self.served.abort();
        self.served.await.ok();
        // Its tasks let go of the folder soon after.
        let lock = self.data.path().join("control/governance.lock");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while std::fs::File::open(&lock).unwrap().try_lock().is_err() {
            assert!(tokio::time::Instant::now() < deadline, "it stops");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Self::start_in(self.data, |_| ()).await
    }
}

/// One kept connection.
struct Line {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    connection: tokio::task::JoinHandle<()>,
}

impl Line {
    async fn ask(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.sender.ready().await.unwrap();
        Answer::read(self.sender.send_request(request).await.unwrap()).await
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

#[tokio::test]
async fn a_workload_joins_by_token_and_renews_by_its_svid() {
    let control = Running::start().await;
    let portal = control.join(PORTAL).await;
    assert_eq!(portal.current().spiffe_id(), &id(PORTAL));
    let (renewed, _) = control.ask_svid(Some(&portal), None, PORTAL).await;
    assert_eq!(renewed.status, StatusCode::OK);

    let rows = control.rows();
    let methods: Vec<_> = rows.iter().map(|r| r.method.as_deref().unwrap()).collect();
    assert_eq!(methods, ["self", "join_token", "renewal"]);
    let joined = &rows[1];
    assert_eq!(
        (joined.kind.as_str(), joined.spiffe_id.as_str()),
        ("svid", PORTAL)
    );
    assert_eq!(joined.serial.as_deref(), Some(portal.current().serial()));
    assert_eq!(joined.cert_sha256, Some(portal.current().cert_sha256()));
    assert_eq!(joined.not_after, Some(portal.current().not_after()));
    assert_eq!(joined.peer_address.as_deref(), Some("127.0.0.1"));
    control.kill();
}

#[tokio::test]
async fn nobody_gets_an_svid_of_another() {
    let control = Running::start().await;
    let portal = control.join(PORTAL).await;
    let stranger = "spiffe://bank.test/workload/stranger";
    for (as_whom, token, spiffe_id) in [
        (None, None, PORTAL),
        (None, Some("wrong"), PORTAL),
        (None, Some(""), PORTAL),
        (None, Some(TOKEN), stranger),
        (Some(&portal), None, LEDGER),
        (
            Some(&portal),
            None,
            "spiffe://bank.test/counterfoil/control",
        ),
    ] {
        let (answer, _) = control.ask_svid(as_whom, token, spiffe_id).await;
        assert_eq!(
            answer.status,
            StatusCode::FORBIDDEN,
            "{spiffe_id} {token:?}"
        );
        assert_eq!(answer.json()["reason"], "join_refused");
    }
    assert_eq!(control.rows().len(), 2, "control's own and the portal's");
    for body in ["", "{}", r#"{"csr": "x", "spiffe_id": "y"}"#] {
        let request = Request::post("/v1/svid").body(Full::from(body)).unwrap();
        let answer = control.send(None, request).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer.json()["reason"], "req_malformed");
    }
    control.kill();
}

#[tokio::test]
async fn a_bundle_is_served_to_its_workload_only_and_once() {
    let control = Running::start().await;
    let nobody = control.fetch(None, &[]).await;
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);
    assert_eq!(nobody.json()["reason"], "tls_no_client_cert");

    let ledger = control.join(LEDGER).await;
    let served = control.fetch(Some(&ledger), &[]).await;
    assert_eq!(served.status, StatusCode::OK);
    let keys = BundleKeys {
        governance: control.init.governance_public,
        control: control.init.control_public,
    };
    let bundle = SignedBundle::open(&served.body, &keys, &id(LEDGER)).unwrap();
    assert_eq!(bundle.rights.grants.len(), 2);

    let etag = served.etag.unwrap();
    for held in [
        etag.clone(),
        format!("\"x\", {etag}"),
        format!("W/{etag}"),
        "*".to_owned(),
    ] {
        let answer = control
            .fetch(Some(&ledger), &[("if-none-match", &held)])
            .await;
        assert_eq!(answer.status, StatusCode::NOT_MODIFIED, "{held}");
        assert!(answer.body.is_empty());
    }
    let other = control
        .fetch(Some(&ledger), &[("if-none-match", "\"x\"")])
        .await;
    assert_eq!(other.status, StatusCode::OK);
    control.kill();
}

#[tokio::test]
async fn each_epoch_that_is_seen_is_written_once() {
    let control = Running::start().await;
    let ledger = control.join(LEDGER).await;
    for epoch in ["7", "7", "8"] {
        let answer = control.fetch(Some(&ledger), &[("mesh-epoch", epoch)]).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    let answer = control.fetch(Some(&ledger), &[("mesh-epoch", "now")]).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let rows = control.rows();
    let epochs: Vec<_> = rows.iter().filter(|r| r.kind == "epoch").collect();
    let seen: Vec<_> = epochs.iter().map(|r| r.subject_epoch.unwrap()).collect();
    assert_eq!(seen, [7, 8]);
    assert!(epochs.iter().all(|r| r.spiffe_id == LEDGER));
    control.kill();
}

#[tokio::test]
async fn nothing_is_bound_with_a_bad_configuration_or_people() {
    let data = tempfile::tempdir().unwrap();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = held.local_addr().unwrap();
    // The port is taken: whoever tried to bind it would fail with another error.
    let bad = ControlConfig {
        svid_ttl_s: 1,
        listen,
        ..config(data.path())
    };
    let error = run(bad, CancellationToken::new()).await.unwrap_err();
    assert!(
        error.is_config() && error.to_string().starts_with("svid_ttl_s = 1"),
        "{error}"
    );
    let people_file = Some(data.path().join("people.toml"));
    std::fs::write(data.path().join("people.toml"), "[[person]]\n").unwrap();
    let bad = ControlConfig {
        people_file,
        listen,
        ..config(data.path())
    };
    let error = run(bad, CancellationToken::new()).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        error.is_config() && cause.contains("people.toml: line 1"),
        "{error}: {cause}"
    );
    let in_use = crate::fixture::desk(data.path());
    let error = run(config(data.path()), CancellationToken::new()).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("another process uses"), "{error}");
    drop(in_use);
    let good = ControlConfig {
        listen,
        ..config(data.path())
    };
    let error = run(good, CancellationToken::new()).await.unwrap_err();
    assert!(
        matches!(error, ControlError::Listen { .. }) && !error.is_config(),
        "{error}"
    );
}

#[tokio::test]
async fn health_needs_no_certificate_and_unknown_paths_are_named_so() {
    let control = Running::start().await;
    let get = |path: &str| Request::get(path).body(Full::default()).unwrap();
    let answer = control.send(None, get("/v1/health")).await;
    assert_eq!(
        (answer.status, answer.json()),
        (StatusCode::OK, json!({ "status": "ok", "serial": null }))
    );
    let answer = control.send(None, get("/v1/nothing")).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.json()["reason"], "route_unknown");
    control.kill();
}

#[tokio::test]
async fn it_stops_though_its_collector_was_never_there() {
    let control = Running::start().await;
    control.join(LEDGER).await;
    control.shutdown.cancel();
    control.served.await.unwrap().unwrap();
    assert!(TcpStream::connect(control.address).await.is_err());
}

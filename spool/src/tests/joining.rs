//! Getting and renewing an SVID, and fetching the bundle, against a small control.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use counterfoil_trust::{ClientAuth, peer_of, server_config};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::world::{Authority, WRITER, until};
use crate::join::{BundleQuery, IdentityConfig, JoinError, fetch_bundle, join, renew_loop};
use crate::lock;

const CONTROL: &str = "spiffe://bank.test/counterfoil/control";
const TOKEN: &str = "a-token-of-one-workload";

/// How each request came: its path, whom the client certificate names, and its headers.
type Asked = (String, Option<String>, HeaderMap);

struct Control {
    authority: Arc<Authority>,
    asked: Arc<Mutex<Vec<Asked>>>,
    address: String,
    task: Option<AbortOnDropHandle<()>>,
}

impl Control {
    async fn start(name: &str, life: Duration) -> Self {
        let authority = Arc::new(Authority::new());
        let identity = authority.identity(name);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tls = TlsAcceptor::from(server_config(
            &identity,
            ClientAuth::Optional,
            &[b"http/1.1"],
        ));
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (serving, seen) = (Arc::clone(&authority), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let Ok(stream) = tls.accept(tcp).await else {
                    continue;
                };
                let peer = stream
                    .get_ref()
                    .1
                    .peer_certificates()
                    .and_then(|certificates| {
                        Some(peer_of(certificates).ok()?.spiffe_id.as_str().to_owned())
                    });
                let (authority, seen) = (Arc::clone(&serving), Arc::clone(&seen));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (authority, seen) = (Arc::clone(&authority), Arc::clone(&seen));
                    let peer = peer.clone();
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        let path = head.uri.path().to_owned();
                        let answer = answer(
                            &authority,
                            life,
                            &path,
                            peer.is_some(),
                            &head.headers,
                            &body,
                        );
                        lock(&seen).push((path, peer, head.headers));
                        Ok::<_, hyper::Error>(answer)
                    }
                });
                drop(
                    http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            }
        });
        Self {
            authority,
            asked,
            address,
            task: Some(AbortOnDropHandle::new(task)),
        }
    }

    fn config(&self, folder: &std::path::Path, token: &str) -> IdentityConfig {
        std::fs::write(folder.join("roots.pem"), &self.authority.pem).unwrap();
        std::fs::write(folder.join("token"), format!("{token}\n")).unwrap();
        IdentityConfig {
            spiffe_id: WRITER.to_owned(),
            control: self.address.clone(),
            control_spiffe_id: None,
            roots_pem_file: folder.join("roots.pem"),
            join_token_file: Some(folder.join("token")),
            state_dir: folder.join("state"),
        }
    }
}

fn answer(
    authority: &Authority,
    life: Duration,
    path: &str,
    has_certificate: bool,
    headers: &HeaderMap,
    body: &[u8],
) -> Response<Full<Bytes>> {
    let status = |code: u16, text: &str| {
        Response::builder()
            .status(code)
            .body(Full::from(text.to_owned()))
            .unwrap()
    };
    if path == "/v1/proxy/bundle" {
        if headers
            .get("if-none-match")
            .is_some_and(|etag| etag == "\"1\"")
        {
            return status(304, "");
        }
        let body = Full::from("the bundle");
        return Response::builder()
            .header("etag", "\"1\"")
            .body(body)
            .unwrap();
    }
    let bearer = format!("Bearer {TOKEN}");
    if !has_certificate
        && headers
            .get("authorization")
            .is_none_or(|token| *token != bearer)
    {
        return status(401, "this token is not known");
    }
    let request: serde_json::Value = serde_json::from_slice(body).unwrap();
    let id = request["spiffe_id"].as_str().unwrap();
    let chain = authority.certify(request["csr"].as_str().unwrap(), id, life);
    let body = serde_json::json!({ "chain": chain, "roots": authority.pem, "not_after": "later" });
    status(200, &body.to_string())
}

#[tokio::test]
async fn the_first_svid_costs_a_token_and_is_kept_for_restarts_without_control() {
    let folder = tempfile::tempdir().unwrap();
    let mut control = Control::start(CONTROL, Duration::from_secs(3600)).await;
    let config = control.config(folder.path(), TOKEN);
    let identity = join(&config).await.unwrap();
    assert_eq!(identity.current().spiffe_id().as_str(), WRITER);
    let asked = lock(&control.asked).clone();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].1, None, "there is no certificate yet");

    let kept = config.state_dir.join("svid.json");
    assert_eq!(
        std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777,
        0o600
    );
    drop(control.task.take());
    std::fs::remove_file(folder.path().join("token")).unwrap();
    let again = join(&config).await.unwrap();
    assert_eq!(again.current().serial(), identity.current().serial());
}

#[tokio::test]
async fn a_wrong_token_is_an_error_that_names_neither_the_token_nor_waits() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(CONTROL, Duration::from_secs(3600)).await;
    let error = join(&control.config(folder.path(), "guessed-token"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, JoinError::Refused { status: 401, .. }),
        "{error:?}"
    );
    assert!(!format!("{error} {error:?}").contains("guessed-token"));
    let config = IdentityConfig {
        join_token_file: None,
        ..control.config(folder.path(), TOKEN)
    };
    assert!(matches!(
        join(&config).await.unwrap_err(),
        JoinError::NoToken(_)
    ));
}

#[tokio::test]
async fn the_token_is_shown_to_control_only() {
    let folder = tempfile::tempdir().unwrap();
    let impostor = Control::start(
        "spiffe://bank.test/workload/cart",
        Duration::from_secs(3600),
    )
    .await;
    let config = impostor.config(folder.path(), TOKEN);
    let joined = tokio::time::timeout(Duration::from_millis(700), join(&config)).await;
    assert!(joined.is_err(), "it goes on trying");
    assert!(lock(&impostor.asked).is_empty());
}

#[tokio::test]
async fn renewal_shows_the_svid_instead_of_the_token() {
    let folder = tempfile::tempdir().unwrap();
    // Valid since 5 s, for 1 s more: half of its life is over.
    let control = Control::start(CONTROL, Duration::from_secs(1)).await;
    let config = control.config(folder.path(), TOKEN);
    let identity = join(&config).await.unwrap();
    let first = identity.current().serial().to_owned();
    let shutdown = CancellationToken::new();
    let renewing = tokio::spawn(renew_loop(identity.clone(), config, shutdown.clone()));
    until("a new serial", || identity.current().serial() != first).await;
    shutdown.cancel();
    renewing.await.unwrap();
    let asked = lock(&control.asked).clone();
    assert_eq!(asked[1].1.as_deref(), Some(WRITER));
    assert!(!asked[1].2.contains_key("authorization"));
}

#[tokio::test]
async fn a_renewed_svid_that_cannot_be_kept_is_used_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(CONTROL, Duration::from_secs(1)).await;
    let config = control.config(folder.path(), TOKEN);
    let identity = join(&config).await.unwrap();
    let first = identity.current().serial().to_owned();
    // a folder where the file is to be written first
    std::fs::create_dir(config.state_dir.join("svid.new")).unwrap();
    let shutdown = CancellationToken::new();
    let renewing = tokio::spawn(renew_loop(identity.clone(), config, shutdown.clone()));
    until("a new serial", || identity.current().serial() != first).await;
    shutdown.cancel();
    renewing.await.unwrap();
}

#[tokio::test]
async fn a_bundle_comes_once_for_each_etag() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(CONTROL, Duration::from_secs(3600)).await;
    let identity = join(&control.config(folder.path(), TOKEN)).await.unwrap();
    let query = BundleQuery {
        epoch: 5,
        build: "test".to_owned(),
        ..BundleQuery::default()
    };
    let fetched = fetch_bundle(&identity, &control.address, None, &query)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (&fetched.body[..], fetched.etag.as_deref()),
        (&b"the bundle"[..], Some("\"1\""))
    );
    let query = BundleQuery {
        etag: fetched.etag,
        ..query
    };
    let again = fetch_bundle(&identity, &control.address, None, &query)
        .await
        .unwrap();
    assert_eq!(again, None);
    let asked = lock(&control.asked).clone();
    assert_eq!(asked[1].1.as_deref(), Some(WRITER));
    assert_eq!(asked[1].2["mesh-epoch"], "5");
    assert_eq!(asked[1].2["mesh-build"], "test");
}

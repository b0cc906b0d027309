//! Getting an SVID and fetching the bundle, against a small control.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use counterfoil_trust::{ClientAuth, Peer, peer_of, server_config};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::world::{Authority, WRITER, World, until};
use crate::join::{BundleLink, BundleQuery, IdentityConfig, JoinError, join};
use crate::{Lane, Spool, SpoolConfig, lock};

pub(super) const CONTROL: &str = "spiffe://bank.test/counterfoil/control";
const TOKEN: &str = "a-token-of-one-workload";

/// How a request came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) path: String,
    /// Whom the client certificate names.
    pub(super) peer: Option<Peer>,
    pub(super) headers: HeaderMap,
    /// Counts connections from 0.
    connection: usize,
}

/// How control answers; the usual way but for what a test changes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mood {
    /// It says 503 to whoever wants an SVID.
    pub(super) is_busy: bool,
    /// It says that it saw this serial instead of the one that it saw.
    pub(super) sees: Option<&'static str>,
}

pub(super) struct Control {
    authority: Arc<Authority>,
    asked: Arc<Mutex<Vec<Asked>>>,
    pub(super) mood: Arc<Mutex<Mood>>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    address: String,
    pub(super) task: Option<AbortOnDropHandle<()>>,
}

impl Control {
    pub(super) async fn start(name: &str, life: Duration) -> Self {
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
        let mood: Arc<Mutex<Mood>> = Arc::default();
        let connections: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
        let (serving, seen) = (Arc::clone(&authority), Arc::clone(&asked));
        let (feeling, opened) = (Arc::clone(&mood), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let Ok(stream) = tls.accept(tcp).await else {
                    continue;
                };
                let connection = lock(&opened).len();
                let certificates = stream.get_ref().1.peer_certificates();
                let peer = certificates.and_then(|chain| peer_of(chain).ok());
                let (authority, seen, mood) = (
                    Arc::clone(&serving),
                    Arc::clone(&seen),
                    Arc::clone(&feeling),
                );
                let service = service_fn(move |request: Request<Incoming>| {
                    let (authority, seen) = (Arc::clone(&authority), Arc::clone(&seen));
                    let (peer, mood) = (peer.clone(), *lock(&mood));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        let asked = Asked {
                            path: head.uri.path().to_owned(),
                            peer,
                            headers: head.headers,
                            connection,
                        };
                        let answer = answer(&authority, life, mood, &asked, &body);
                        lock(&seen).push(asked);
                        Ok::<_, hyper::Error>(answer)
                    }
                });
                lock(&opened).push(tokio::spawn(async move {
                    drop(
                        http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await,
                    );
                }));
            }
        });
        Self {
            authority,
            asked,
            mood,
            connections,
            address,
            task: Some(AbortOnDropHandle::new(task)),
        }
    }

    /// What came to `path`.
    pub(super) fn asked(&self, path: &str) -> Vec<Asked> {
        let mut asked = lock(&self.asked).clone();
        asked.retain(|asked| asked.path == path);
        asked
    }

    async fn close_connections(&self) {
        for connection in lock(&self.connections).iter() {
            connection.abort();
        }
        let ended = || lock(&self.connections).iter().all(JoinHandle::is_finished);
        until("all connections are closed", ended).await;
    }

    pub(super) fn joins(&self, folder: &std::path::Path) -> IdentityConfig {
        self.config(folder, TOKEN)
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
    mood: Mood,
    asked: &Asked,
    body: &[u8],
) -> Response<Full<Bytes>> {
    let status = |code: u16, text: &str| {
        Response::builder()
            .status(code)
            .body(Full::from(text.to_owned()))
            .unwrap()
    };
    if asked.path == "/v1/health" {
        let seen = asked.peer.as_ref().map(|peer| peer.serial.as_str());
        let serial = mood.sees.or(seen);
        let body = serde_json::json!({ "status": "ok", "serial": serial });
        return status(200, &body.to_string());
    }
    if asked.path == "/v1/proxy/bundle" {
        let etag = asked.headers.get("if-none-match");
        if etag.is_some_and(|etag| etag == "\"1\"") {
            return status(304, "");
        }
        let body = Full::from("the bundle");
        return Response::builder()
            .header("etag", "\"1\"")
            .body(body)
            .unwrap();
    }
    let bearer = format!("Bearer {TOKEN}");
    let token = asked.headers.get("authorization");
    if asked.peer.is_none() && token.is_none_or(|token| *token != bearer) {
        return status(401, "this token is not known");
    }
    if mood.is_busy {
        return status(503, "later");
    }
    let request: serde_json::Value = serde_json::from_slice(body).unwrap();
    let id = request["spiffe_id"].as_str().unwrap();
    let chain = authority.certify(request["csr"].as_str().unwrap(), id, life);
    let body = serde_json::json!({ "chain": chain, "roots": authority.pem, "not_after": "later" });
    status(200, &body.to_string())
}

/// A spool in `folder`, and a lane of it for rows of rotations.
pub(super) fn lane(folder: &std::path::Path) -> (Spool, Lane) {
    let spool = Spool::open(SpoolConfig {
        directory: folder.join("spool"),
        writer: World::writer(),
        size_max: 1 << 20,
        build: "test".to_owned(),
        config_sha256: counterfoil_entry::Hash([7; 32]),
    })
    .unwrap();
    let lane = spool.lane(0);
    (spool, lane)
}

#[tokio::test]
async fn the_first_svid_costs_a_token_and_is_kept_for_restarts_without_control() {
    let folder = tempfile::tempdir().unwrap();
    let mut control = Control::start(CONTROL, Duration::from_secs(3600)).await;
    let config = control.config(folder.path(), TOKEN);
    let (_spool, mut lane) = lane(folder.path());
    let identity = join(&config, &mut lane).await.unwrap();
    assert_eq!(identity.current().spiffe_id().as_str(), WRITER);
    let asked = control.asked("/v1/svid");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].peer, None, "there is no certificate yet");

    let kept = config.state_dir.join("svid.json");
    assert_eq!(
        std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777,
        0o600
    );
    drop(control.task.take());
    std::fs::remove_file(folder.path().join("token")).unwrap();
    let again = join(&config, &mut lane).await.unwrap();
    assert_eq!(again.current().serial(), identity.current().serial());
}

#[tokio::test]
async fn a_wrong_token_is_an_error_that_names_neither_the_token_nor_waits() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(CONTROL, Duration::from_secs(3600)).await;
    let (_spool, mut lane) = lane(folder.path());
    let error = join(&control.config(folder.path(), "guessed-token"), &mut lane)
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
        join(&config, &mut lane).await.unwrap_err(),
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
    let (_spool, mut lane) = lane(folder.path());
    let joining = join(&config, &mut lane);
    let joined = tokio::time::timeout(Duration::from_millis(700), joining).await;
    assert!(joined.is_err(), "it goes on trying");
    assert!(lock(&impostor.asked).is_empty());
}

#[tokio::test]
async fn a_bundle_comes_once_for_each_etag_on_one_connection() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(CONTROL, Duration::from_secs(3600)).await;
    let (_spool, mut lane) = lane(folder.path());
    let config = control.config(folder.path(), TOKEN);
    let identity = join(&config, &mut lane).await.unwrap();
    let mut link = BundleLink::new(identity.clone(), control.address.clone(), None).unwrap();
    let query = BundleQuery {
        epoch: 5,
        build: "test".to_owned(),
        ..BundleQuery::default()
    };
    let fetched = link.poll(&query).await.unwrap().unwrap();
    assert_eq!(
        (&fetched.body[..], fetched.etag.as_deref()),
        (&b"the bundle"[..], Some("\"1\""))
    );
    let query = BundleQuery {
        etag: fetched.etag,
        wait_s: 8,
        ..query
    };
    assert_eq!(link.poll(&query).await.unwrap(), None);
    let asked = control.asked("/v1/proxy/bundle");
    let peer = asked[0].peer.as_ref().unwrap();
    assert_eq!(peer.spiffe_id.as_str(), WRITER);
    assert_eq!(asked[0].headers["mesh-epoch"], "5");
    assert_eq!(asked[0].headers["mesh-build"], "test");
    assert!(!asked[0].headers.contains_key("prefer"));
    assert_eq!(asked[1].headers["prefer"], "wait=8");
    assert_eq!(asked[0].connection, asked[1].connection);

    // a renewed SVID is shown on a new connection
    identity.replace(control.authority.svid(WRITER));
    assert_eq!(link.poll(&query).await.unwrap(), None);
    let last = control.asked("/v1/proxy/bundle").pop().unwrap();
    assert_ne!(last.connection, asked[1].connection);
    assert_eq!(last.peer.unwrap().serial, identity.current().serial());
}

#[tokio::test]
async fn a_kept_connection_that_control_closed_is_made_anew_unnoticed() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(CONTROL, Duration::from_secs(3600)).await;
    let (_spool, mut lane) = lane(folder.path());
    let config = control.config(folder.path(), TOKEN);
    let identity = join(&config, &mut lane).await.unwrap();
    let mut link = BundleLink::new(identity, control.address.clone(), None).unwrap();
    link.poll(&BundleQuery::default()).await.unwrap().unwrap();
    control.close_connections().await;
    link.poll(&BundleQuery::default()).await.unwrap().unwrap();
}

//! As much of control as a proxy needs: SVIDs by join token and by SVID, what serial it saw, and a
//! bundle by ETag, for which a poll is held open.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use counterfoil_spool::join::IdentityConfig;
use counterfoil_trust::bundle::{Bundle, BundleKeys, SignedBundle};
use counterfoil_trust::keys::SealKey;
use counterfoil_trust::{ClientAuth, Peer, peer_of, server_config};
use http::header::{AUTHORIZATION, ETAG, IF_NONE_MATCH};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::ca::Ca;

pub(crate) const TOKEN: &str = "one-time-token";
const ID: &str = "spiffe://bank.test/counterfoil/control";

pub(crate) struct Control {
    pub(crate) address: SocketAddr,
    pub(crate) governance: SealKey,
    pub(crate) control: SealKey,
    pub(crate) seen: Arc<Seen>,
    pub(crate) task: JoinHandle<()>,
    desk: Arc<Desk>,
    tls: TlsAcceptor,
}

/// What was asked for.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) svids: AtomicUsize,
    pub(crate) bundles: AtomicUsize,
    pub(crate) not_modified: AtomicUsize,
    /// Polls that are held open now.
    pub(crate) held: AtomicUsize,
    /// The serial that each poll was made with.
    pub(crate) serials: Mutex<Vec<String>>,
}

struct Desk {
    ca: Arc<Ca>,
    seen: Arc<Seen>,
    /// ETag and body.
    served: watch::Sender<(String, Bytes)>,
    life: Duration,
    holds: AtomicBool,
}

impl Control {
    /// Serves `bundle`, and SVIDs of an hour.
    pub(crate) async fn start(ca: &Arc<Ca>, bundle: &Bundle) -> Self {
        Self::start_with_life(ca, bundle, Duration::from_secs(3_600)).await
    }

    /// Serves `bundle`, and SVIDs that live for `life`.
    pub(crate) async fn start_with_life(ca: &Arc<Ca>, bundle: &Bundle, life: Duration) -> Self {
        let (governance, control) = (SealKey::generate().unwrap(), SealKey::generate().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = ca.identity(ID);
        let tls = server_config(&identity, ClientAuth::Optional, &[b"h2", b"http/1.1"]);
        let tls = TlsAcceptor::from(tls);
        let seen = Arc::new(Seen::default());
        let body = sealed(bundle, &governance, &control);
        let desk = Arc::new(Desk {
            ca: Arc::clone(ca),
            seen: Arc::clone(&seen),
            served: watch::Sender::new(("\"1\"".to_owned(), body)),
            life,
            holds: AtomicBool::new(true),
        });
        let task = tokio::spawn(serve(listener, tls.clone(), Arc::clone(&desk)));
        Self {
            address,
            governance,
            control,
            seen,
            task,
            desk,
            tls,
        }
    }

    pub(crate) fn keys(&self) -> BundleKeys {
        BundleKeys {
            governance: self.governance.public(),
            control: self.control.public(),
        }
    }

    /// The body that this control makes of `bundle`.
    pub(crate) fn sealed(&self, bundle: &Bundle) -> Bytes {
        sealed(bundle, &self.governance, &self.control)
    }

    /// Serves `body` from now on.
    pub(crate) fn publish(&self, body: Bytes) {
        self.desk.served.send_modify(|served| {
            let number: u64 = served.0.trim_matches('"').parse().unwrap();
            *served = (format!("\"{}\"", number + 1), body);
        });
    }

    /// Answers polls at once, as a control does that does not know `Prefer`.
    pub(crate) fn hold_nothing(&self) {
        self.desk.holds.store(false, Ordering::Relaxed);
    }

    /// Ends as a process does that is killed: all connections break.
    pub(crate) async fn kill(&mut self) {
        self.task.abort();
        let _cancelled = (&mut self.task).await;
    }

    /// Serves again where it did before.
    pub(crate) async fn start_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let serving = serve(listener, self.tls.clone(), Arc::clone(&self.desk));
        self.task = tokio::spawn(serving);
    }

    /// How `id` joins here, with its files in `folder`.
    pub(crate) fn joins(&self, id: &str, folder: &std::path::Path) -> IdentityConfig {
        std::fs::write(folder.join("roots.pem"), self.desk.ca.roots_pem()).unwrap();
        std::fs::write(folder.join("token"), TOKEN).unwrap();
        IdentityConfig {
            spiffe_id: id.to_owned(),
            control: self.address.to_string(),
            control_spiffe_id: None,
            roots_pem_file: folder.join("roots.pem"),
            join_token_file: Some(folder.join("token")),
            state_dir: folder.join("state"),
        }
    }
}

fn sealed(bundle: &Bundle, governance: &SealKey, control: &SealKey) -> Bytes {
    let body = SignedBundle::seal(&bundle.rights, &bundle.endpoints, governance, control);
    Bytes::from(body.unwrap())
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, desk: Arc<Desk>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, desk) = (tls.clone(), Arc::clone(&desk));
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let certificates = stream.get_ref().1.peer_certificates();
            let peer = certificates.and_then(|chain| peer_of(chain).ok());
            let peer = Arc::new(peer);
            let service = service_fn(move |request| {
                let (desk, peer) = (Arc::clone(&desk), Arc::clone(&peer));
                async move { Ok::<_, Infallible>(answer(&desk, peer.as_ref().as_ref(), request).await) }
            });
            let server = auto::Builder::new(TokioExecutor::new());
            let _ended = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    desk: &Desk,
    peer: Option<&Peer>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/v1/svid" => {
            let body = body.collect().await.unwrap().to_bytes();
            let asked: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let id = asked["spiffe_id"].as_str().unwrap();
            match peer {
                Some(peer) => assert_eq!(peer.spiffe_id.as_str(), id),
                None => assert_eq!(head.headers[AUTHORIZATION], format!("Bearer {TOKEN}")),
            }
            desk.seen.svids.fetch_add(1, Ordering::Relaxed);
            let chain = desk
                .ca
                .certify(asked["csr"].as_str().unwrap(), id, desk.life);
            json(serde_json::json!({ "chain": chain, "roots": desk.ca.roots_pem() }))
        }
        "/v1/health" => {
            let serial = peer.map(|peer| &peer.serial);
            json(serde_json::json!({ "status": "ok", "serial": serial }))
        }
        "/v1/proxy/bundle" => {
            let peer = peer.expect("a poll without a certificate");
            desk.seen.serials.lock().unwrap().push(peer.serial.clone());
            let mut served = desk.served.subscribe();
            let held = head.headers.get(IF_NONE_MATCH);
            let is_newest = |etag: &str| held.is_some_and(|held| held == etag);
            let wait_s = head.headers.get("prefer").map_or(0, |prefer| {
                let wait = prefer.to_str().unwrap().strip_prefix("wait=");
                wait.unwrap().parse().unwrap()
            });
            let holds = desk.holds.load(Ordering::Relaxed) && wait_s > 0;
            if holds && is_newest(&served.borrow_and_update().0) {
                desk.seen.held.fetch_add(1, Ordering::Relaxed);
                let _held = Held(&desk.seen.held);
                let wait = Duration::from_secs(wait_s);
                let _changed = tokio::time::timeout(wait, served.changed()).await;
            }
            let (etag, body) = served.borrow().clone();
            if is_newest(&etag) {
                desk.seen.not_modified.fetch_add(1, Ordering::Relaxed);
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                return response;
            }
            desk.seen.bundles.fetch_add(1, Ordering::Relaxed);
            Response::builder()
                .header(ETAG, etag)
                .body(Full::new(body))
                .unwrap()
        }
        other => panic!("asked for {other}"),
    }
}

/// Counts a held poll down, also when its connection breaks.
struct Held<'a>(&'a AtomicUsize);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn json(value: serde_json::Value) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::from(value.to_string())))
}

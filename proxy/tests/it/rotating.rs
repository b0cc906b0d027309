//! Certificates that are renewed while calls run, and connections that follow them.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use counterfoil_entry::id::Writer;
use counterfoil_entry::table::TableId;
use counterfoil_entry::word::Outcome;
use counterfoil_entry::{Hash, clock};
use counterfoil_proxy::Policy;
use counterfoil_spool::join::{join, renew_loop};
use counterfoil_spool::{Spool, SpoolConfig};
use counterfoil_trust::{ClientAuth, Expect, Identity, SpiffeId, client_config, server_config};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use crate::app::{self, Answer, full};
use crate::books::{self, DEADLINE, matched, until};
use crate::ca::{Ca, Leaf};
use crate::client::{ask, get};
use crate::control::Control;
use crate::world::{CART, Running, SHOP, Setup, cart_bundle, shop_bundle};

/// A spool beside the proxy's, for rows of rotations.
fn spool(id: &str, folder: &Path) -> Spool {
    Spool::open(SpoolConfig {
        directory: folder.join("rotations"),
        writer: Writer::parse(&format!("{id}#test")).unwrap(),
        size_max: 1 << 20,
        build: "test".to_owned(),
        config_sha256: Hash([0; 32]),
    })
    .unwrap()
}

/// A proxy whose certificate comes from control and is renewed.
struct Renewed {
    proxy: Running,
    folder: tempfile::TempDir,
    stop: CancellationToken,
    _spool: Spool,
}

impl Renewed {
    async fn start(control: &Control, id: &str, app: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = control.joins(id, folder.path());
        let spool = spool(id, folder.path());
        let mut lane = spool.lane(0);
        let identity = join(&config, &mut lane).await.unwrap();
        let proxy = Setup::new(id, app).start_as(&identity);
        let stop = CancellationToken::new();
        tokio::spawn(renew_loop(identity, config, lane, stop.clone()));
        Self {
            proxy,
            folder,
            stop,
            _spool: spool,
        }
    }

    /// Cycle, attempt, trigger, old serial, new serial and outcome of each attempt.
    fn rotations(&self) -> Vec<Vec<String>> {
        let fields = &[7, 8, 9, 10, 12, 16];
        books::rows(self.folder.path(), TableId::CertRotations, fields)
    }
}

impl Drop for Renewed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An application that takes longer than half of a certificate's life for what is slow.
fn sometimes_slow() -> impl Fn(Request<Incoming>) -> Answer + Send + Sync + 'static {
    |request| {
        Box::pin(async move {
            if request.uri().path() == "/carts/slow" {
                tokio::time::sleep(Duration::from_millis(1_700)).await;
            }
            Response::new(full("served"))
        })
    }
}

/// Calls until `over`, with a short pause between two calls; returns how many there were.
async fn calls(shop: SocketAddr, path: &str, over: &AtomicBool) -> usize {
    let mut calls = 0;
    while !over.load(Ordering::Relaxed) {
        let answer = ask(shop, &get("cart", path)).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        calls += 1;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_rotations_of_either_side_under_load_fail_no_call() {
    let app = app::start(sometimes_slow()).await;
    let ca = Arc::new(Ca::new());
    let life = Duration::from_secs(3);
    let control = Control::start_with_life(&ca, &cart_bundle(), life).await;
    let cart = Renewed::start(&control, CART, app).await;
    let shop = Renewed::start(&control, SHOP, app).await;
    cart.proxy
        .policy
        .put(Policy::compile(cart_bundle()).unwrap());
    let bundle = shop_bundle(CART, cart.proxy.inbound);
    shop.proxy.policy.put(Policy::compile(bundle).unwrap());

    let over = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = ["/carts/1", "/carts/2", "/carts/slow"]
        .map(|path| {
            let (over, address) = (Arc::clone(&over), shop.proxy.outbound);
            tokio::spawn(async move { calls(address, path, &over).await })
        })
        .into();
    // the first row is of the join
    let have_rotated = || cart.rotations().len().min(shop.rotations().len()) > 10;
    until("ten rotations", have_rotated).await;
    over.store(true, Ordering::Relaxed);
    let mut count = 0;
    for calls in load {
        count += calls.await.unwrap();
    }

    for workload in [&cart, &shop] {
        let rows = workload.rotations();
        assert_eq!(rows[0][..4], ["first", "1", "first", "-"]);
        for (before, row) in rows.iter().zip(&rows[1..]) {
            let serial = &before[4];
            assert_eq!(row[..4], [serial, "1", "scheduled", serial], "{rows:#?}");
        }
        assert!(rows.iter().all(|row| row[5] == "success"), "{rows:#?}");
    }
    let client = books::wait_for(&shop.proxy.books(), count).await;
    let server = books::wait_for(&cart.proxy.books(), count).await;
    let mut certificates = [HashSet::new(), HashSet::new()];
    for client in &client {
        let same = |entry: &&counterfoil_entry::entry::Entry| entry.trace_id == client.trace_id;
        matched(client, server.iter().find(same).unwrap());
        assert_eq!(client.outcome, Some(Outcome::Ok), "{client:#?}");
        certificates[0].insert(client.source_cert_sha256);
        certificates[1].insert(client.destination_cert_sha256);
    }
    for certificates in certificates {
        // a connection lives for one or two certificates of the other side
        assert!(certificates.len() > 5, "{certificates:?}");
    }
}

/// Another proxy as far as a caller sees it, which tells of its connections.
struct Callee {
    address: SocketAddr,
    seen: Arc<CalleeSeen>,
}

struct CalleeSeen {
    /// The caller's certificate and the end of each connection.
    connections: Mutex<Vec<(Hash, JoinHandle<()>)>>,
    /// Requests so far for what is slow, which wait for `go`.
    slow: AtomicUsize,
    go: Semaphore,
}

impl Callee {
    async fn start(ca: &Ca) -> Self {
        let tls = server_config(&ca.identity(CART), ClientAuth::Required, &[b"h2"]);
        let tls = TlsAcceptor::from(tls);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(CalleeSeen {
            connections: Mutex::default(),
            slow: AtomicUsize::new(0),
            go: Semaphore::new(0),
        });
        let serving = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = tls.accept(stream).await else {
                    continue;
                };
                let chain = stream.get_ref().1.peer_certificates().unwrap();
                let certificate = counterfoil_trust::peer_of(chain).unwrap().cert_sha256;
                let seen = Arc::clone(&serving);
                let service = service_fn(move |request| {
                    let seen = Arc::clone(&seen);
                    async move { Ok::<_, Infallible>(answer_of_callee(&seen, &request).await) }
                });
                let connection = tokio::spawn(async move {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ended = server.serve_connection(TokioIo::new(stream), service).await;
                });
                let mut connections = serving.connections.lock().unwrap();
                connections.push((certificate, connection));
            }
        });
        Self { address, seen }
    }

    fn certificates(&self) -> Vec<Hash> {
        let connections = self.seen.connections.lock().unwrap();
        connections.iter().map(|(hash, _)| *hash).collect()
    }

    fn has_ended(&self, connection: usize) -> bool {
        self.seen.connections.lock().unwrap()[connection]
            .1
            .is_finished()
    }
}

async fn answer_of_callee(seen: &CalleeSeen, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() == "/carts/slow" {
        seen.slow.fetch_add(1, Ordering::Relaxed);
        seen.go.acquire().await.unwrap().forget();
    }
    Response::new(Full::from("served"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rotation_calls_move_to_a_new_connection_and_the_old_one_ends_with_its_last_call() {
    let ca = Ca::new();
    let callee = Callee::start(&ca).await;
    let identity = ca.identity(SHOP);
    let first = identity.current().cert_sha256();
    let shop = Setup::new(SHOP, callee.address).start_as(&identity);
    let bundle = shop_bundle(CART, callee.address);
    shop.policy.put(Policy::compile(bundle).unwrap());
    let outbound = shop.outbound;
    let slow = tokio::spawn(async move { ask(outbound, &get("cart", "/carts/slow")).await });
    until("the slow call", || {
        callee.seen.slow.load(Ordering::Relaxed) == 1
    })
    .await;

    identity.replace(ca.svid(&Leaf::good(SHOP)));
    let second = identity.current().cert_sha256();
    let moving = async {
        while callee.certificates().len() < 2 {
            let answer = ask(outbound, &get("cart", "/carts/1")).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    };
    tokio::time::timeout(DEADLINE, moving).await.unwrap();
    assert_eq!(callee.certificates(), [first, second]);
    assert!(!callee.has_ended(0), "a call is under way on it");
    callee.seen.go.add_permits(1);
    let answer = slow.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    until("the end of the old connection", || callee.has_ended(0)).await;
    let answer = ask(outbound, &get("cart", "/carts/1")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(callee.certificates().len(), 2);
    let last = books::entries(&shop.books()).pop().unwrap();
    assert_eq!(last.source_cert_sha256, Some(second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_no_new_connection_can_be_made_calls_go_on_over_the_old_one() {
    let ca = Ca::new();
    let callee = Callee::start(&ca).await;
    let identity = ca.identity(SHOP);
    let first = identity.current().cert_sha256();
    let shop = Setup::new(SHOP, callee.address).start_as(&identity);
    let bundle = shop_bundle(CART, callee.address);
    shop.policy.put(Policy::compile(bundle).unwrap());
    let request = get("cart", "/carts/1");
    let call = || ask(shop.outbound, &request);
    assert!(call().await.starts_with("HTTP/1.1 200 "));
    // nobody takes this one
    identity.replace(Ca::new().svid(&Leaf::good(SHOP)));
    for _ in 0..20 {
        let answer = call().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(callee.certificates(), [first]);
}

/// An HTTP/2 connection to a proxy's inbound side as `identity`.
async fn connect(inbound: SocketAddr, identity: &Identity) -> SendRequest<Full<Bytes>> {
    let expect = Expect::Id(SpiffeId::parse(CART).unwrap());
    let tls = TlsConnector::from(client_config(identity, expect, &[b"h2"]));
    let stream = TcpStream::connect(inbound).await.unwrap();
    let stream = tls
        .connect(counterfoil_trust::server_name(), stream)
        .await
        .unwrap();
    let opened = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = opened.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(path: &str) -> Request<Full<Bytes>> {
    let target = format!("https://cart{path}");
    Request::get(target).body(Full::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_takes_no_calls_shortly_before_its_certificate_ends_and_refuses_none() {
    let go = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&go);
    let app = app::start(move |request| {
        let go = Arc::clone(&waiting);
        Box::pin(async move {
            if request.uri().path() == "/carts/slow" {
                go.acquire().await.unwrap().forget();
            }
            Response::new(full("served"))
        })
    })
    .await;
    let ca = Ca::new();
    let cart = Setup::new(CART, app).start(&ca);
    cart.policy.put(Policy::compile(cart_bundle()).unwrap());
    let leaf = Leaf {
        until: time::Duration::seconds(4),
        ..Leaf::good(SHOP)
    };
    let identity = Identity::new(ca.svid(&leaf), ca.roots());
    let not_after = identity.current().not_after();
    let mut sender = connect(cart.inbound, &identity).await;
    let slow = tokio::spawn(sender.send_request(request("/carts/slow")));
    let mut calls = 1;
    let ended = loop {
        match sender.try_send_request(request("/carts/1")).await {
            Ok(response) => assert_eq!(response.status(), 200),
            Err(mut unsent) => break unsent.take_message().is_some(),
        }
        calls += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(
        ended,
        "the caller gets the request back, to send it elsewhere"
    );
    assert!(clock::wall() < not_after, "it ends before the certificate");
    until("the certificate's end", || clock::wall() > not_after).await;
    go.add_permits(1);
    let response = slow.await.unwrap().unwrap();
    assert_eq!(response.status(), 200, "what is under way ends in peace");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&body[..], b"served");
    let entries = books::wait_for(&cart.books(), calls).await;
    let is_ok = |outcome| outcome == Some(Outcome::Ok);
    assert!(entries.iter().all(|entry| is_ok(entry.outcome)));
}

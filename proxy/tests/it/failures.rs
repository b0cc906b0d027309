//! Calls that fail on the way, each with its entry.

use std::time::Duration;

use counterfoil_entry::word::{Decision, Outcome};
use counterfoil_proxy::Policy;
use tokio::net::TcpListener;

use crate::app::{self, say, scripted_app};
use crate::books::{adds_up, matched, wait_for};
use crate::client::{Raw, ask, get, grpc, h2};
use crate::world::{CART, SHOP, Setup, World, shop_bundle};

/// An address on which nobody listens.
pub(crate) async fn nobody() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_is_down_makes_the_call_unavailable_on_both_sides() {
    let world = World::start(nobody().await);
    let answer = world.get("/carts/1").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains("x-counterfoil-reason: connect_refused\r\n"),
        "{answer}"
    );
    let (client, server) = world.one_call().await;
    matched(&client, &server);
    assert_eq!((client.status, server.status), (Some(503), Some(503)));
    assert_eq!(server.outcome, Some(Outcome::Unavailable));
    assert_eq!(server.error_type.as_deref(), Some("connect_refused"));
    assert_eq!(server.decision, Decision::Allow);
    assert_eq!(client.outcome, Some(Outcome::Unavailable));
    assert_eq!(client.error_type.as_deref(), Some("callee_unavailable"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callee_proxy_that_is_down_leaves_one_side() {
    let ca = crate::ca::Ca::new();
    let shop = Setup::new(SHOP, nobody().await).start(&ca);
    shop.policy
        .put(Policy::compile(shop_bundle(CART, nobody().await)).unwrap());
    let answer = ask(shop.outbound, &get("cart", "/carts/1")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let entry = wait_for(&shop.books(), 1).await.remove(0);
    assert_eq!(entry.outcome, Some(Outcome::Unavailable));
    assert_eq!(entry.error_type.as_deref(), Some("connect_refused"));
    assert_eq!(
        (entry.decision, &*entry.reason),
        (Decision::NotRequired, "callee_decides")
    );
    assert_eq!((entry.mtls, entry.destination.as_deref()), (false, None));
    assert_eq!(entry.destination_app.as_deref(), Some("cart"));
    adds_up(&entry);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callee_that_is_somebody_else_is_not_called() {
    let world = World::start(app::start(|_| panic!("the wrong callee was called")).await);
    let other = "spiffe://bank.test/workload/ledger";
    world
        .shop
        .policy
        .put(Policy::compile(shop_bundle(other, world.cart.inbound)).unwrap());
    let answer = world.get("/carts/1").await;
    assert!(
        answer.contains("x-counterfoil-reason: tls_wrong_peer\r\n"),
        "{answer}"
    );
    let entry = wait_for(&world.shop.books(), 1).await.remove(0);
    assert_eq!(entry.outcome, Some(Outcome::Unavailable));
    assert_eq!(entry.error_type.as_deref(), Some("tls_wrong_peer"));
    assert!(!entry.mtls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_own_certificate_shows_in_the_callers_entry() {
    let world = World::start(app::start(|_| panic!("reached the app")).await);
    // the stranger trusts the bank's root, but its own certificate is of another one
    let (chain, key) = crate::ca::Ca::new().leaf(&crate::ca::Leaf::good(SHOP));
    let svid = counterfoil_trust::Svid::from_pem(&chain, &key).unwrap();
    let identity = counterfoil_trust::Identity::new(svid, world.ca.roots());
    let stranger = Setup::new(SHOP, nobody().await).start_as(&identity);
    stranger
        .policy
        .put(Policy::compile(shop_bundle(CART, world.cart.inbound)).unwrap());
    let answer = ask(stranger.outbound, &get("cart", "/carts/1")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let entry = wait_for(&stranger.books(), 1).await.remove(0);
    assert_eq!(entry.outcome, Some(Outcome::Unavailable));
    assert_eq!(entry.error_type.as_deref(), Some("tls_untrusted"));
    assert!(
        !entry.mtls,
        "the connection failed, so no counterpart is due"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_does_not_begin_in_time_is_a_timeout() {
    let hang = |_| -> app::Answer { Box::pin(std::future::pending()) };
    let world = World::start_with(app::start(hang).await, "request_timeout_s = 1");
    let answer = world.get("/carts/1").await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    let (client, server) = world.one_call().await;
    matched(&client, &server);
    assert_eq!(client.outcome, Some(Outcome::Timeout));
    assert!(client.upstream_ns > Some(900_000_000), "{client:#?}");

    let mut caller = h2(world.shop.outbound).await;
    let response = caller
        .send_request(grpc("cart", "/shop.Cart/Get", "1"))
        .await
        .unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            &response.headers()["grpc-status"]
        ),
        (200, &"4".parse().unwrap())
    );
    let client = wait_for(&world.shop.books(), 2).await.remove(1);
    assert_eq!(
        (client.outcome, client.grpc_status),
        (Some(Outcome::Timeout), Some(4))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_is_a_reset_on_both_sides() {
    let (app, script) = scripted_app(Some(8)).await;
    let world = World::start(app);
    let mut raw = Raw::connect(world.shop.outbound).await;
    raw.send("GET /carts/1 HTTP/1.1\r\nhost: cart\r\n\r\n")
        .await;
    say(&script, "half").await;
    raw.read_to("half").await;
    script
        .send(Err(std::io::Error::other("out of paper")))
        .await
        .unwrap();
    assert_eq!(raw.read_all().await, "", "the caller sees that it is cut");
    let (client, server) = world.one_call().await;
    matched(&client, &server);
    for entry in [&client, &server] {
        assert_eq!(entry.outcome, Some(Outcome::Unavailable));
        assert_eq!(entry.error_type.as_deref(), Some("upstream_reset"));
        assert_eq!((entry.status, entry.response_bytes), (Some(200), Some(4)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_before_the_response_is_recorded_on_both_sides() {
    let (reached, mut was_reached) = tokio::sync::mpsc::channel(1);
    let world = World::start(
        app::start(move |_| {
            reached.try_send(()).unwrap();
            Box::pin(std::future::pending())
        })
        .await,
    );
    let mut raw = Raw::connect(world.shop.outbound).await;
    raw.send("GET /carts/1 HTTP/1.1\r\nhost: cart\r\n\r\n")
        .await;
    was_reached.recv().await.unwrap();
    drop(raw);
    let (client, server) = world.one_call().await;
    matched(&client, &server);
    for entry in [&client, &server] {
        assert_eq!(entry.outcome, Some(Outcome::Aborted));
        assert_eq!(entry.error_type.as_deref(), Some("caller_gone"));
        assert_eq!(entry.status, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_connection_that_the_application_closed_costs_no_call() {
    // answers one request a connection, saying nothing about closing it
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut raw = Raw(stream);
            raw.read_to("\r\n\r\n").await;
            raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await;
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
    });
    let world = World::start(address);
    let mut raw = Raw::connect(world.shop.outbound).await;
    for _ in 0..100 {
        raw.send("GET /carts/1 HTTP/1.1\r\nhost: cart\r\n\r\n")
            .await;
        let answer = raw.read_to("ok").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    wait_for(&world.cart.books(), 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callee_that_comes_back_is_dialled_again() {
    let app = app::start(app::echo()).await;
    let mut world = World::start(app);
    assert!(world.get("/carts/1").await.starts_with("HTTP/1.1 200 "));
    world.cart.stopped().await;
    assert!(world.get("/carts/1").await.starts_with("HTTP/1.1 503 "));
    let cart = Setup::new(CART, app).start(&world.ca);
    cart.policy
        .put(Policy::compile(crate::world::cart_bundle()).unwrap());
    world
        .shop
        .policy
        .put(Policy::compile(shop_bundle(CART, cart.inbound)).unwrap());
    assert!(world.get("/carts/1").await.starts_with("HTTP/1.1 200 "));
}

//! Callers and applications that try to be taken for something else.

use counterfoil_entry::word::{Decision, Outcome};
use counterfoil_proxy::Policy;
use counterfoil_trust::{Expect, SpiffeId, client_config};
use http::Response;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::app::{self, full};
use crate::books::{DEADLINE, agreed, wait_for};
use crate::client::{Raw, ask, get, h2};
use crate::failures::nobody;
use crate::world::{CART, SHOP, Setup, World, cart_bundle, shop_bundle};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_header_can_part_the_two_halves_of_a_call() {
    let world = World::start(app::start(app::echo()).await);
    let answer = ask(
        world.shop.outbound,
        "POST /carts/1 HTTP/1.1\r\nhost: cart\r\ncontent-length: 2\r\n\
         connection: close, traceparent, content-length, x-mine\r\nx-mine: 1\r\n\r\nhi",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("content-length: 2\n"), "{answer}");
    assert!(!answer.contains("x-mine"), "{answer}");
    let (client, server) = world.one_call().await;
    agreed(&client, &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_beside_chunks_is_not_passed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut raw = Raw(listener.accept().await.unwrap().0);
        let request = raw.read_to("0\r\n\r\n").await;
        assert!(!request.contains("content-length"), "{request}");
        assert!(request.ends_with("5\r\nhello\r\n0\r\n\r\n"), "{request}");
        raw.send(
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\nthere\r\n0\r\n\r\n",
        )
        .await;
    });
    let world = World::start(address);
    let mut raw = Raw::connect(world.shop.outbound).await;
    raw.send(
        "POST /carts/1 HTTP/1.1\r\nhost: cart\r\ncontent-length: 3\r\n\
         transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    )
    .await;
    let answer = raw.read_to("5\r\nthere\r\n0\r\n\r\n").await;
    assert!(!answer.contains("content-length"), "{answer}");
    let (client, server) = world.one_call().await;
    agreed(&client, &server);
    assert_eq!(
        (client.request_bytes, client.response_bytes),
        (Some(5), Some(5))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_dropped_however_it_is_spelt() {
    let world = World::start(app::start(app::echo()).await);
    let answer = ask(
        world.shop.outbound,
        "GET /carts/1 HTTP/1.1\r\nhost: cart\r\nconnection: close\r\nX_Forwarded_User: root\r\n\
         x-forwarded-host: admin\r\nx_counterfoil_reason: granted\r\nx_mine: kept\r\n\r\n",
    )
    .await;
    for gone in ["forwarded", "counterfoil"] {
        assert!(!answer.to_lowercase().contains(gone), "{gone} in {answer}");
    }
    assert!(answer.contains("x_mine: kept\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_of_an_http2_caller_reach_the_application_on_one_line() {
    let world = World::start(app::start(app::echo()).await);
    let mut caller = h2(world.shop.outbound).await;
    let request = http::Request::get("http://cart/carts/1")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(http_body_util::Full::default())
        .unwrap();
    let response = caller.send_request(request).await.unwrap();
    let answer = response.into_body().collect().await.unwrap().to_bytes();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("cookie: a=1; b=2\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_carry_no_claim_and_no_reason() {
    let seen = |request: http::Request<hyper::body::Incoming>| -> app::Answer {
        Box::pin(async move {
            let collected = request.into_body().collect().await.unwrap();
            let mut names = String::new();
            for name in collected.trailers().into_iter().flat_map(|all| all.keys()) {
                names += &format!("[{name}]");
            }
            let (sender, body) = app::scripted();
            let end = app::trailers(&[
                ("x-counterfoil-reason", "granted"),
                ("x-app", "kept"),
                ("grpc-status", "0"),
            ]);
            tokio::spawn(async move {
                sender
                    .send(Ok(http_body::Frame::data(names.into())))
                    .await
                    .unwrap();
                sender
                    .send(Ok(http_body::Frame::trailers(end)))
                    .await
                    .unwrap();
            });
            Response::builder()
                .header("content-type", "application/grpc")
                .body(body)
                .unwrap()
        })
    };
    let world = World::start(app::start(seen).await);
    let stream = TcpStream::connect(world.shop.outbound).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut caller, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let (sender, body) = app::scripted();
    let claims = app::trailers(&[
        ("x-forwarded-user", "root"),
        ("x-counterfoil-reason", "granted"),
        ("x-sum", "1"),
    ]);
    tokio::spawn(async move {
        let frame = http_body::Frame::trailers(claims);
        sender.send(Ok(frame)).await.unwrap();
    });
    let request = http::Request::post("http://cart/shop.Cart/Get")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let response = caller.send_request(request).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    let end = collected.trailers().unwrap().clone();
    assert_eq!(end["x-app"], "kept");
    assert!(!end.contains_key("x-counterfoil-reason"), "{end:?}");
    assert_eq!(collected.to_bytes(), "[x-sum]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_nobody_can_read_is_in_the_books() {
    let world = World::start(app::start(|_| panic!("reached the app")).await);
    let long = "x".repeat(80 << 10);
    for (at, (request, status, error_type)) in [
        (
            "GET / HTTP/1.1\r\nno header\r\n\r\n".to_owned(),
            400,
            "head_unreadable",
        ),
        (
            format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"),
            431,
            "head_too_large",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = ask(world.shop.outbound, &request).await;
        assert!(
            answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let entry = wait_for(&world.shop.books(), at + 1).await.remove(at);
        assert_eq!(
            (entry.decision, &*entry.reason, entry.outcome),
            (Decision::Deny, "req_malformed", Some(Outcome::Denied))
        );
        assert_eq!(entry.error_type.as_deref(), Some(error_type));
        assert!(entry.trace_id.is_some() && entry.span_id.is_some());
        assert_eq!((entry.status, &entry.method), (None, &None));
        assert_eq!(entry.bundle_version, Some(4));
    }
}

/// Says `request` to the cart's proxy as the shop, over HTTP/1.1 and mutual TLS without a proxy.
async fn ask_as_shop(world: &World, request: &str) -> String {
    let expect = Expect::Id(SpiffeId::parse(CART).unwrap());
    let tls = client_config(&world.ca.identity(SHOP), expect, &[b"http/1.1"]);
    let stream = TcpStream::connect(world.cart.inbound).await.unwrap();
    let name = counterfoil_trust::server_name();
    let mut stream = TlsConnector::from(tls).connect(name, stream).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // a reset ends a connection as well as a close does
    let _ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_without_a_path_reaches_the_application_as_its_root() {
    let world = World::start(app::start(app::echo()).await);
    for target in ["http://cart", "http://cart/", "/"] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n");
        for answer in [
            ask(world.shop.outbound, &request).await,
            ask_as_shop(&world, &request).await,
        ] {
            assert!(answer.contains("GET /\n"), "{target}: {answer}");
        }
    }
    wait_for(&world.cart.books(), 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_talks_nonsense_is_named_in_the_books() {
    let world = World::start(app::start(|_| panic!("reached the app")).await);
    let answer = ask_as_shop(&world, "what is it?\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let entry = wait_for(&world.cart.books(), 1).await.remove(0);
    assert_eq!((entry.source.as_deref(), entry.mtls), (Some(SHOP), true));
    assert_eq!(entry.error_type.as_deref(), Some("head_unreadable"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_switches_protocols_unasked_fails_the_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut raw = Raw(listener.accept().await.unwrap().0);
        raw.read_to("\r\n\r\n").await;
        raw.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
            .await;
        std::future::pending::<()>().await;
    });
    let world = World::start(address);
    let answer = world.get("/carts/1").await;
    assert!(
        answer.contains("x-counterfoil-reason: upstream_protocol\r\n"),
        "{answer}"
    );
    let (client, server) = world.one_call().await;
    assert_eq!(server.outcome, Some(Outcome::Unavailable));
    assert_eq!(client.status, server.status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_answered_badly_is_not_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answers = tokio::spawn(async move {
        let mut raw = Raw(listener.accept().await.unwrap().0);
        raw.read_to("\r\n\r\n").await;
        raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await;
        raw.read_to("\r\n\r\n").await;
        raw.send("what is it?\r\n\r\n").await;
        listener.accept().await.unwrap();
    });
    let world = World::start(address);
    assert!(world.get("/carts/1").await.ends_with("ok"));
    let answer = world.get("/carts/1").await;
    assert!(
        answer.contains("x-counterfoil-reason: upstream_protocol\r\n"),
        "{answer}"
    );
    assert!(!answers.is_finished(), "it was asked once more");
    wait_for(&world.cart.books(), 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_at_the_same_time_all_find_the_instance_that_is_up() {
    let app = app::start(|_| Box::pin(async { Response::new(full("ok")) })).await;
    let ca = crate::ca::Ca::new();
    let cart = Setup::new(CART, app).start(&ca);
    let shop = Setup::new(SHOP, app).start(&ca);
    cart.policy.put(Policy::compile(cart_bundle()).unwrap());
    for dead_first in [true, false] {
        let dead = nobody().await.to_string();
        let mut bundle = shop_bundle(CART, cart.inbound);
        let addresses = &mut bundle.endpoints.instances[0].addresses;
        addresses.insert(if dead_first { 0 } else { 1 }, dead);
        shop.policy.put(Policy::compile(bundle).unwrap());
        let request = get("cart", "/carts/1");
        let calls: Vec<_> = (0..9)
            .map(|_| {
                let (outbound, request) = (shop.outbound, request.clone());
                tokio::spawn(async move { ask(outbound, &request).await })
            })
            .collect();
        for call in calls {
            let answer = call.await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_end_in_a_bare_lf_are_refused_and_recorded_also_after_a_good_request() {
    let world = World::start(app::start(app::echo()).await);
    let good = "POST /carts/1 HTTP/1.1\r\nhost: cart\r\ncontent-length: 6\r\n\r\na\nb\n\nc";
    let chunked = "POST /carts/1 HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: chunked\r\n\r\n\
                   2\r\n\n\n\r\n0\r\n\r\n";
    let bare = "GET /carts/1 HTTP/1.1\nhost: cart\nconnection: close\n\n";
    for (count, before) in ["", good, chunked].into_iter().enumerate() {
        let answer = ask_as_shop(&world, &format!("{before}{bare}")).await;
        let served = usize::from(!before.is_empty());
        assert_eq!(answer.matches("HTTP/1.1 200 ").count(), served, "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 400 ").count(), 1, "{answer}");
        let so_far = [1, 3, 5][count];
        let entries = wait_for(&world.cart.books(), so_far).await;
        let refused = entries.last().unwrap();
        assert_eq!(
            (refused.decision, &*refused.reason),
            (Decision::Deny, "req_malformed")
        );
    }
    // and what is well-formed goes on for as long as the connection does
    let end = get("cart", "/carts/9");
    let answer = ask_as_shop(&world, &format!("{good}{chunked}{good}{end}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 4, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_coding_besides_chunked_is_refused() {
    let world = World::start(app::start(|_| panic!("reached the app")).await);
    let request = "POST /carts/1 HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\
                   transfer-encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let answer = ask_as_shop(&world, request).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let entry = wait_for(&world.cart.books(), 1).await.remove(0);
    assert_eq!(
        (entry.decision, &*entry.reason),
        (Decision::Deny, "req_malformed")
    );
}

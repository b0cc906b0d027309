//! Calls that go through, and what both books say of them.

use counterfoil_entry::word::{Decision, Kind, Outcome, Phase};
use http_body_util::BodyExt;

use crate::app;
use crate::books::{agreed, wait_for};
use crate::client::{Raw, ask, get, grpc, h2};
use crate::world::{CART, SHOP, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_granted_call_goes_through_and_both_sides_say_the_same() {
    let world = World::start(app::start(app::echo()).await);
    let body = "x".repeat(5_000);
    let answer = ask(
        world.shop.outbound,
        &format!(
            "POST /carts/7?pin=1234 HTTP/1.1\r\nHost: cart:8080\r\nContent-Length: 5000\r\n\
             Connection: close\r\n\r\n{body}"
        ),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("POST /carts/7?pin=1234\n"), "{answer}");
    assert!(answer.contains("\nhost: cart:8080\n"), "{answer}");
    assert!(answer.ends_with(&body));

    let (client, server) = world.one_call().await;
    agreed(&client, &server);
    assert_eq!(client.kind, Kind::Http);
    assert_eq!(client.phase, Phase::Final);
    assert_eq!(client.source.as_deref(), Some(SHOP));
    assert_eq!(client.destination.as_deref(), Some(CART));
    assert_eq!(client.operation.as_deref(), Some("fillCart"));
    assert_eq!(client.route.as_deref(), Some("/carts/{id}"));
    assert_eq!(client.parent_span_id, None);
    assert_eq!(
        (client.decision, &*client.reason),
        (Decision::NotRequired, "callee_decides")
    );
    assert_eq!(
        (server.decision, &*server.reason),
        (Decision::Allow, "granted")
    );
    assert_eq!(server.grant_id.as_deref(), Some("g-fillCart"));
    assert_eq!(client.outcome, Some(Outcome::Ok));
    assert_eq!(
        (client.status, client.request_bytes),
        (Some(200), Some(5_000))
    );
    assert_eq!((&*client.protocol, &*server.protocol), ("http/1.1", "h2"));
    assert_eq!(client.bundle_version, Some(4));
    assert_eq!(server.bundle_version, Some(3));
    for entry in [&client, &server] {
        assert_eq!(entry.source_app.as_deref(), Some("shop"));
        assert_eq!(entry.destination_app.as_deref(), Some("cart"));
        assert_eq!(entry.site.as_deref(), Some("fra"));
        assert_eq!(entry.tls_version.as_deref(), Some("TLSv1.3"));
        assert!(
            entry.connect_ns.is_some(),
            "the first call makes the connections"
        );
        assert!(entry.first_byte_ns < entry.duration_ns);
    }
    assert!(client.handshake_ns.is_some());
    assert!(server.authz_ns.is_some());
    assert!(client.duration_ns > server.duration_ns);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_kept_and_only_the_first_call_pays_for_them() {
    let world = World::start(app::start(app::echo()).await);
    let mut raw = Raw::connect(world.shop.outbound).await;
    for _ in 0..3 {
        raw.send("GET /carts/1 HTTP/1.1\r\nhost: cart\r\nx-end: yes\r\n\r\n")
            .await;
        raw.read_to("\n\n").await;
    }
    let client = wait_for(&world.shop.books(), 3).await;
    let server = wait_for(&world.cart.books(), 3).await;
    for (at, (client, server)) in client.iter().zip(&server).enumerate() {
        agreed(client, server);
        assert_eq!(client.handshake_ns.is_some(), at == 0, "{client:#?}");
        assert_eq!(server.connect_ns.is_some(), at == 0, "{server:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_trailers_arrive_intact_and_their_status_is_in_both_books() {
    let world = World::start(app::start(app::grpc_echo()).await);
    let mut caller = h2(world.shop.outbound).await;
    let response = caller
        .send_request(grpc("cart", "/shop.Cart/Get", "\0\0\0\0\u{3}abc"))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().unwrap().clone();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-app"], "kept");
    assert_eq!(collected.to_bytes(), "\0\0\0\0\u{3}abc");

    let (client, server) = world.one_call().await;
    agreed(&client, &server);
    assert_eq!((client.kind, server.kind), (Kind::Grpc, Kind::Grpc));
    assert_eq!((client.status, client.grpc_status), (Some(200), Some(0)));
    assert_eq!(client.request_bytes, Some(8));
    assert_eq!(client.operation.as_deref(), Some("shop.Cart/Get"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_call_gets_its_reason_and_both_sides_record_it() {
    let world = World::start(app::start(|_| panic!("a denied call reached the app")).await);
    let cases = [
        ("/secret", 403, "grant_none", Some("dropCart")),
        ("/nothing/here", 403, "route_unknown", None),
    ];
    for (at, (path, status, reason, operation)) in cases.into_iter().enumerate() {
        let answer = world.get(path).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(
            answer.contains(&format!("x-counterfoil-reason: {reason}\r\n")),
            "{answer}"
        );
        let client = wait_for(&world.shop.books(), at + 1).await.remove(at);
        let server = wait_for(&world.cart.books(), at + 1).await.remove(at);
        agreed(&client, &server);
        assert_eq!(client.outcome, Some(Outcome::Denied));
        assert_eq!(
            (client.decision, &*client.reason),
            (Decision::NotRequired, "callee_decides")
        );
        assert_eq!((server.decision, &*server.reason), (Decision::Deny, reason));
        assert_eq!(server.operation.as_deref(), operation);
        assert_eq!(server.status, Some(status));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_grpc_call_gets_permission_denied_without_a_body() {
    let world = World::start(app::start(|_| panic!("a denied call reached the app")).await);
    let mut caller = h2(world.shop.outbound).await;
    let response = caller
        .send_request(grpc("cart", "/shop.Cart/Secret", "12345"))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "7");
    assert_eq!(response.headers()["x-counterfoil-reason"], "grant_none");
    assert!(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
    let (client, server) = world.one_call().await;
    assert_eq!(
        (client.outcome, server.outcome),
        (Some(Outcome::Denied), Some(Outcome::Denied))
    );
    assert_eq!((client.status, client.grpc_status), (Some(200), Some(7)));
    assert_eq!((server.status, server.grpc_status), (Some(200), Some(7)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outbound_gate_denies_and_records_without_a_second_side() {
    let world = World::start(app::start(|_| panic!("a denied call reached the app")).await);
    let cases = [
        (get("unknown", "/carts/1"), 403, "host_mismatch"),
        (get("cart", "/carts/%2e%2e/admin"), 400, "path_ambiguous"),
        (get("cart", "//carts/1"), 400, "path_ambiguous"),
        (
            "GET /carts/1 HTTP/1.1\r\nhost: cart\r\nhost: other\r\nconnection: close\r\n\r\n"
                .into(),
            400,
            "req_malformed",
        ),
        (
            "GET http://other/carts/1 HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n".into(),
            400,
            "host_mismatch",
        ),
        ("GET /carts/1 HTTP/1.0\r\n\r\n".into(), 400, "req_malformed"),
        (
            "TRACE /carts/1 HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n".into(),
            405,
            "method_not_declared",
        ),
    ];
    for (at, (request, status, reason)) in cases.iter().enumerate() {
        let answer = ask(world.shop.outbound, request).await;
        assert!(
            answer.contains(&format!(" {status} ")),
            "{request}\n{answer}"
        );
        assert!(
            answer.contains(&format!("x-counterfoil-reason: {reason}\r\n")),
            "{answer}"
        );
        let client = wait_for(&world.shop.books(), at + 1).await.remove(at);
        assert_eq!(
            (client.decision, &*client.reason),
            (Decision::Deny, *reason)
        );
        assert_eq!(client.outcome, Some(Outcome::Denied));
        assert_eq!(client.status, Some(*status));
        assert!(!client.mtls);
    }
    wait_for(&world.cart.books(), 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_bundle_everything_is_denied() {
    let app = app::start(|_| panic!("a denied call reached the app")).await;
    let ca = crate::ca::Ca::new();
    let shop = crate::world::Setup::new(SHOP, app).start(&ca);
    let answer = ask(shop.outbound, &get("cart", "/carts/1")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains("x-counterfoil-reason: bundle_missing\r\n"),
        "{answer}"
    );
    let entry = wait_for(&shop.books(), 1).await.remove(0);
    assert_eq!(
        (entry.decision, &*entry.reason),
        (Decision::Deny, "bundle_missing")
    );
    assert_eq!(entry.outcome, Some(Outcome::Denied));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traces_are_continued_and_malformed_ones_begin_anew() {
    let world = World::start(app::start(app::echo()).await);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let ask_with = |header: String| {
        let request = format!(
            "GET /carts/1 HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n{header}\r\n\
             tracestate: vendor=1\r\n\r\n"
        );
        let outbound = world.shop.outbound;
        async move { ask(outbound, &request).await }
    };
    let answer = ask_with(format!("traceparent: 00-{trace}-00f067aa0ba902b7-01")).await;
    let (client, server) = world.one_call().await;
    agreed(&client, &server);
    assert_eq!(client.trace_id.unwrap().to_string(), trace);
    assert_eq!(
        client.parent_span_id.unwrap().to_string(),
        "00f067aa0ba902b7"
    );
    let passed_on = format!("traceparent: 00-{trace}-{}-01\n", server.span_id.unwrap());
    assert!(answer.contains(&passed_on), "{answer}");
    assert!(answer.contains("tracestate: vendor=1\n"), "{answer}");

    let answer = ask_with(format!("traceparent: 00-{trace}-0000000000000000-01")).await;
    let client = wait_for(&world.shop.books(), 2).await.remove(1);
    let server = wait_for(&world.cart.books(), 2).await.remove(1);
    agreed(&client, &server);
    assert_ne!(client.trace_id.unwrap().to_string(), trace);
    assert_eq!(client.parent_span_id, None);
    assert!(
        answer.contains(&client.trace_id.unwrap().to_string()),
        "{answer}"
    );
    assert!(!answer.contains("tracestate"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_claim_about_the_caller_reaches_the_application() {
    let world = World::start(app::start(app::echo()).await);
    let answer = ask(
        world.shop.outbound,
        "GET /carts/1 HTTP/1.1\r\nhost: cart\r\nconnection: close, x-mine\r\nx-mine: 1\r\n\
         x-forwarded-client-cert: By=root\r\nx-counterfoil-reason: granted\r\n\
         x-forwarded-for: 10.0.0.1\r\nx-original-url: /secret\r\naccept: text/plain\r\n\r\n",
    )
    .await;
    for gone in [
        "x-mine",
        "client-cert",
        "counterfoil",
        "forwarded",
        "original-url",
    ] {
        assert!(!answer.to_lowercase().contains(gone), "{gone} in {answer}");
    }
    assert!(answer.contains("accept: text/plain\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_drops_and_counts_but_the_calls_go_on() {
    let app = app::start(app::echo()).await;
    let ca = crate::ca::Ca::new();
    let cart = crate::world::Setup::new(CART, app).start(&ca);
    let shop = crate::world::Setup {
        spool_bytes: 3_000,
        ..crate::world::Setup::new(SHOP, app)
    }
    .start(&ca);
    cart.policy
        .put(counterfoil_proxy::Policy::compile(crate::world::cart_bundle()).unwrap());
    let bundle = crate::world::shop_bundle(CART, cart.inbound);
    shop.policy
        .put(counterfoil_proxy::Policy::compile(bundle).unwrap());
    for _ in 0..10 {
        let answer = ask(shop.outbound, &get("cart", "/carts/1")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    wait_for(&cart.books(), 10).await;
    let written = crate::books::entries(&shop.books()).len() as u64;
    assert!(written < 10);
    assert_eq!(shop.spool.gauges().dropped() + written, 10);
}

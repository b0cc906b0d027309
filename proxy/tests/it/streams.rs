//! Bodies: nothing is held back, and the entry is on disk before the last byte is out.

use counterfoil_entry::word::Outcome;
use http::Response;

use crate::app::{self, full, say, scripted_app};
use crate::books::{self, agreed, matched, wait_for};
use crate::client::Raw;
use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_body_streams_and_ends_as_aborted_when_its_reader_leaves() {
    let (app, script) = scripted_app(None).await;
    let world = World::start(app);
    let mut raw = Raw::connect(world.shop.outbound).await;
    raw.send("GET /carts/1 HTTP/1.1\r\nhost: cart\r\n\r\n")
        .await;
    for word in ["one.", "two.", "three."] {
        // the next word is said only after this one has arrived, so a held frame would hang
        say(&script, word).await;
        raw.read_to(&format!("{word}\r\n")).await;
    }
    assert!(
        books::entries(&world.shop.books()).is_empty(),
        "the call is still open"
    );
    drop(raw);
    let (client, server) = world.one_call().await;
    matched(&client, &server);
    for entry in [&client, &server] {
        assert_eq!(entry.outcome, Some(Outcome::Aborted));
        assert_eq!(entry.error_type.as_deref(), Some("caller_gone"));
        assert_eq!(entry.status, Some(200));
        assert_eq!(entry.response_bytes, Some(14));
        assert!(entry.upstream_ns > entry.overhead_ns, "{entry:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_entry_is_on_disk_when_the_last_byte_of_a_known_length_arrives() {
    let (app, script) = scripted_app(Some(10)).await;
    let world = World::start(app);
    let mut raw = Raw::connect(world.shop.outbound).await;
    raw.send("GET /carts/1 HTTP/1.1\r\nhost: cart\r\n\r\n")
        .await;
    say(&script, "12345").await;
    raw.read_to("12345").await;
    assert!(
        books::entries(&world.shop.books()).is_empty(),
        "half the body is no call"
    );
    assert!(
        books::entries(&world.cart.books()).is_empty(),
        "half the body is no call"
    );
    say(&script, "67890").await;
    raw.read_to("67890").await;
    // no waiting: whoever has the last byte can find the entries
    let (client, server) = (
        books::entries(&world.shop.books()),
        books::entries(&world.cart.books()),
    );
    agreed(&client[0], &server[0]);
    assert_eq!(client[0].response_bytes, Some(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_entry_is_on_disk_when_a_chunked_body_ends() {
    let (app, script) = scripted_app(None).await;
    let world = World::start(app);
    let mut raw = Raw::connect(world.shop.outbound).await;
    raw.send("GET /carts/1 HTTP/1.1\r\nhost: cart\r\n\r\n")
        .await;
    say(&script, "all of it").await;
    raw.read_to("all of it\r\n").await;
    assert!(
        books::entries(&world.shop.books()).is_empty(),
        "the end has not come yet"
    );
    drop(script);
    raw.read_to("0\r\n\r\n").await;
    let (client, server) = (
        books::entries(&world.shop.books()),
        books::entries(&world.cart.books()),
    );
    agreed(&client[0], &server[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_entry_is_on_disk_before_each_of_many_last_bytes() {
    let world = World::start(
        app::start(|request| {
            Box::pin(async move {
                match request.uri().path() {
                    "/carts/empty" => Response::builder().status(204).body(full("")).unwrap(),
                    "/carts/none" => Response::new(full("")),
                    _ => Response::new(full("END")),
                }
            })
        })
        .await,
    );
    let mut raw = Raw::connect(world.shop.outbound).await;
    for at in 0..120 {
        let (method, path, end) = match at % 4 {
            0 => ("GET", "/carts/1", "END"),
            1 => ("GET", "/carts/empty", "\r\n\r\n"),
            2 => ("GET", "/carts/none", "\r\n\r\n"),
            _ => ("HEAD", "/carts/1", "\r\n\r\n"),
        };
        raw.send(&format!("{method} {path} HTTP/1.1\r\nhost: cart\r\n\r\n"))
            .await;
        let answer = raw.read_to(end).await;
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
        assert_eq!(
            books::entries(&world.shop.books()).len(),
            at + 1,
            "{method} {path}"
        );
        assert_eq!(
            books::entries(&world.cart.books()).len(),
            at + 1,
            "{method} {path}"
        );
    }
    let (client, server) = (
        books::entries(&world.shop.books()),
        books::entries(&world.cart.books()),
    );
    for (client, server) in client.iter().zip(&server) {
        agreed(client, server);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_upload_is_time_spent_waiting_for_the_caller() {
    let world = World::start(app::start(app::echo()).await);
    let mut raw = Raw::connect(world.shop.outbound).await;
    raw.send("POST /carts/1 HTTP/1.1\r\nhost: cart\r\ncontent-length: 10\r\n\r\n12345")
        .await;
    // the slowness itself is what is measured
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    raw.send("67890").await.read_to("1234567890").await;
    let (client, server) = world.one_call().await;
    agreed(&client, &server);
    for entry in [&client, &server] {
        assert!(entry.downstream_ns > Some(100_000_000), "{entry:#?}");
        assert!(entry.overhead_ns < Some(100_000_000), "{entry:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_the_open_call_end_and_takes_no_other() {
    let (app, script) = scripted_app(Some(4)).await;
    let mut world = World::start(app);
    let mut raw = Raw::connect(world.shop.outbound).await;
    raw.send("GET /carts/1 HTTP/1.1\r\nhost: cart\r\n\r\n")
        .await;
    say(&script, "ab").await;
    raw.read_to("ab").await;
    world.shop.begin_stop();
    world.cart.begin_stop();
    say(&script, "cd").await;
    raw.read_to("cd").await;
    world.shop.stopped().await;
    world.cart.stopped().await;
    assert!(
        tokio::net::TcpStream::connect(world.shop.outbound)
            .await
            .is_err()
    );
    let (client, server) = world.one_call().await;
    agreed(&client, &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_outlasts_the_drain_is_cut_and_recorded() {
    let (app, script) = scripted_app(None).await;
    let mut world = World::start_with(app, "drain_s = 0");
    let mut raw = Raw::connect(world.shop.outbound).await;
    raw.send("GET /carts/1 HTTP/1.1\r\nhost: cart\r\n\r\n")
        .await;
    say(&script, "ab").await;
    raw.read_to("ab\r\n").await;
    world.shop.stopped().await;
    let entry = wait_for(&world.shop.books(), 1).await.remove(0);
    assert_eq!(entry.outcome, Some(Outcome::Aborted));
    assert_eq!(entry.error_type.as_deref(), Some("proxy_stopped"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_may_take_longer_than_a_response_may() {
    let app = app::start(app::echo()).await;
    let world = World::start_with(app, "request_timeout_s = 1");
    let mut raw = Raw::connect(world.shop.outbound).await;
    raw.send("POST /carts/1 HTTP/1.1\r\nhost: cart\r\ncontent-length: 5\r\n\r\n")
        .await;
    for letter in ["a", "b", "c", "d", "e"] {
        // together longer than the limit, each pause shorter: time itself is what is tested
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        raw.send(letter).await;
    }
    let answer = raw.read_to("abcde").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (client, server) = world.one_call().await;
    agreed(&client, &server);
}

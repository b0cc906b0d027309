//! Polls that are held open, over real connections.

use counterfoil_trust::bundle::Access;

use super::*;
use crate::published::estate::{grant, small, workload};

const GUEST: &str = "spiffe://bank.test/workload/guest";
/// Longer than any test: who waits for that long is released by something else.
const LONG: &str = "wait=30";

fn poll(etag: &str, prefer: &str) -> Request<Full<Bytes>> {
    Request::get("/v1/proxy/bundle")
        .header("if-none-match", etag)
        .header("prefer", prefer)
        .body(Full::default())
        .unwrap()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).body(Full::default()).unwrap()
}

impl Running {
    /// Until so many requests wait for the next bundle of `who`.
    async fn until_waiting(&self, who: &str, count: usize) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while self.app.publisher.shelf().waiting(&id(who)) != count {
            assert!(tokio::time::Instant::now() < deadline, "nobody waits");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test]
async fn a_poll_waits_for_the_change_and_its_connection_is_kept() {
    let control = Running::start().await;
    control.publish(&small(Access::Bundle), false);
    let ledger = control.join(LEDGER).await;
    let mut line = control.line(Some(&ledger)).await;
    let mut etag = line.ask(get("/v1/proxy/bundle")).await.etag.unwrap();
    for (operation, urgent) in [("list", true), ("close", false)] {
        let waiting = tokio::spawn(async move { (line.ask(poll(&etag, LONG)).await, line, etag) });
        control.until_waiting(LEDGER, 1).await;
        let mut catalogue = small(Access::Bundle);
        catalogue.put_grant(grant("g-1", PORTAL, "accounts", &[operation]));
        control.publish(&catalogue, urgent);
        let published = tokio::time::Instant::now();
        let (answer, kept, old) = waiting.await.unwrap();
        assert!(published.elapsed() < Duration::from_secs(2));
        assert_eq!(answer.status, StatusCode::OK);
        let new = answer.etag.unwrap();
        assert_ne!(new, old);
        (line, etag) = (kept, new);
    }
    control.kill();
}

#[tokio::test]
async fn a_poll_without_a_change_is_answered_in_time_and_one_that_need_not_wait_at_once() {
    let control = Running::start().await;
    control.publish(&small(Access::Bundle), false);
    let ledger = control.join(LEDGER).await;
    let mut line = control.line(Some(&ledger)).await;
    let etag = line.ask(get("/v1/proxy/bundle")).await.etag.unwrap();
    let asked = tokio::time::Instant::now();
    let answer = line.ask(poll(&etag, "respond-async, wait=1")).await;
    assert_eq!(
        (answer.status, answer.etag),
        (StatusCode::NOT_MODIFIED, Some(etag.clone()))
    );
    assert!(answer.body.is_empty() && asked.elapsed() >= Duration::from_secs(1));
    let asked = tokio::time::Instant::now();
    let behind = line.ask(poll("\"old\"", LONG)).await;
    assert_eq!(behind.status, StatusCode::OK);
    let malformed = line.ask(poll(&etag, "wait=soon")).await;
    assert_eq!(malformed.status, StatusCode::NOT_MODIFIED);
    assert!(asked.elapsed() < Duration::from_secs(20));
    control.kill();
}

#[tokio::test]
async fn a_change_for_one_workload_wakes_no_other() {
    let control = Running::start().await;
    let mut catalogue = small(Access::Bundle);
    catalogue.put_workload(Arc::new(workload(GUEST)));
    control.publish(&catalogue, false);
    let (ledger, guest) = (control.join(LEDGER).await, control.join(GUEST).await);
    let held = control.fetch(Some(&guest), &[]).await.etag.unwrap();
    let mut line = control.line(Some(&guest)).await;
    let waiting = tokio::spawn(async move { line.ask(poll(&held, "wait=2")).await });
    control.until_waiting(GUEST, 1).await;
    let before = control.fetch(Some(&ledger), &[]).await.etag;
    catalogue.take_grant("g-1");
    control.publish(&catalogue, true);
    assert_ne!(control.fetch(Some(&ledger), &[]).await.etag, before);
    assert_eq!(waiting.await.unwrap().status, StatusCode::NOT_MODIFIED);
    control.kill();
}

#[tokio::test]
async fn a_workload_that_leaves_is_told_at_once() {
    let control = Running::start().await;
    let mut catalogue = small(Access::Bundle);
    catalogue.put_workload(Arc::new(workload(GUEST)));
    control.publish(&catalogue, false);
    let guest = control.join(GUEST).await;
    let held = control.fetch(Some(&guest), &[]).await.etag.unwrap();
    let mut line = control.line(Some(&guest)).await;
    let waiting = tokio::spawn(async move { line.ask(poll(&held, LONG)).await });
    control.until_waiting(GUEST, 1).await;
    control.publish(&small(Access::Bundle), true);
    let answer = waiting.await.unwrap();
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.json()["reason"], "workload_unknown");
    control.kill();
}

#[tokio::test]
async fn a_caller_that_goes_away_is_waited_for_no_more() {
    let control = Running::start().await;
    let ledger = control.join(LEDGER).await;
    let held = control.fetch(Some(&ledger), &[]).await.etag.unwrap();
    let mut line = control.line(Some(&ledger)).await;
    let waiting = tokio::spawn(async move { line.ask(poll(&held, LONG)).await });
    control.until_waiting(LEDGER, 1).await;
    waiting.abort();
    control.until_waiting(LEDGER, 0).await;
    control.kill();
}

#[tokio::test]
async fn over_http2_a_waiting_poll_keeps_no_other_request_waiting() {
    let control = Running::start().await;
    control.publish(&small(Access::Bundle), false);
    let ledger = control.join(LEDGER).await;
    let held = control.fetch(Some(&ledger), &[]).await.etag.unwrap();
    let stream = control.connect(Some(&ledger), b"h2").await;
    let io = TokioIo::new(stream);
    let (sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), io)
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let at = |path: &str| format!("https://control{path}");
    let mut other = sender.clone();
    let waiting = tokio::spawn(async move {
        let mut sender = sender;
        let mut request = poll(&held, LONG);
        *request.uri_mut() = at("/v1/proxy/bundle").parse().unwrap();
        Answer::read(sender.send_request(request).await.unwrap()).await
    });
    control.until_waiting(LEDGER, 1).await;
    let health = other.send_request(get("https://control/v1/health")).await;
    let serial = Answer::read(health.unwrap()).await.json()["serial"].clone();
    assert_eq!(serial, ledger.current().serial());
    let mut catalogue = small(Access::Bundle);
    catalogue.take_grant("g-1");
    control.publish(&catalogue, true);
    assert_eq!(waiting.await.unwrap().status, StatusCode::OK);
    connection.abort();
    control.kill();
}

#[tokio::test]
async fn who_waits_when_control_stops_is_answered() {
    let control = Running::start().await;
    let ledger = control.join(LEDGER).await;
    let held = control.fetch(Some(&ledger), &[]).await.etag.unwrap();
    let mut line = control.line(Some(&ledger)).await;
    let waiting = tokio::spawn(async move { (line.ask(poll(&held, LONG)).await, line) });
    control.until_waiting(LEDGER, 1).await;
    control.shutdown.cancel();
    let (answer, mut line) = waiting.await.unwrap();
    assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
    assert!(
        line.sender.ready().await.is_err(),
        "the connection is closed after the answer"
    );
    control.kill();
}

#[tokio::test]
async fn a_life_of_ten_seconds_is_renewed_by_control_and_ends_polls() {
    let control = Running::start_with(|config| config.svid_ttl_s = 10).await;
    let serial = |stream: &tokio_rustls::client::TlsStream<TcpStream>| {
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        counterfoil_trust::peer_of(chain).unwrap().serial
    };
    let first = serial(&control.connect(None, b"http/1.1").await);
    let ledger = control.join(LEDGER).await;
    let held = control.fetch(Some(&ledger), &[]).await.etag.unwrap();
    let mut line = control.line(Some(&ledger)).await;
    let waiting = tokio::spawn(async move { (line.ask(poll(&held, LONG)).await, line) });
    let life = ledger.current().not_after().since_ns(clock::wall());
    assert!(life > 7_000_000_000 && life <= 10_000_000_000, "{life}");
    let (renewed, _) = control.ask_svid(Some(&ledger), None, LEDGER).await;
    assert_eq!(renewed.status, StatusCode::OK);
    let (answer, mut line) = waiting.await.unwrap();
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.json()["reason"], "tls_expired");
    // Its own certificate would be over by now, too.
    assert_ne!(serial(&control.connect(None, b"http/1.1").await), first);
    let health = line.ask(get("/v1/health")).await;
    assert_eq!(health.json()["serial"], ledger.current().serial());
    let own = control.rows();
    let own: Vec<_> = own
        .iter()
        .filter(|row| row.method.as_deref() == Some("self"))
        .collect();
    assert!(own.len() >= 2, "{own:?}");
    control.kill();
}

#[tokio::test]
async fn a_restart_keeps_versions_and_keys() {
    let control = Running::start().await;
    let ledger = control.join(LEDGER).await;
    let before = control.fetch(Some(&ledger), &[]).await;
    let keys = control.send(None, get("/v1/jwks")).await.json();
    let control = control.restarted().await;
    assert_eq!(control.fetch(Some(&ledger), &[]).await.body, before.body);
    assert_eq!(control.send(None, get("/v1/jwks")).await.json(), keys);
    control.kill();
}

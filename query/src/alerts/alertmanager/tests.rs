use std::net::SocketAddr;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::super::finding::{Finding, Severity, Verdict};
use super::*;

type Taken = mpsc::Sender<Vec<Value>>;

/// Takes alerts as Alertmanager does: a request with a bad one is refused whole.
async fn take(State(taken): State<Taken>, Json(alerts): Json<Vec<Value>>) -> StatusCode {
    if alerts
        .iter()
        .any(|alert| alert["labels"]["service"] == "bad")
    {
        return StatusCode::BAD_REQUEST;
    }
    taken.send(alerts).await.unwrap();
    StatusCode::OK
}

async fn alertmanager(listener: TcpListener) -> mpsc::Receiver<Vec<Value>> {
    let (send, taken) = mpsc::channel(16);
    let router = Router::new()
        .route("/api/v2/alerts", post(take))
        .with_state(send);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    taken
}

fn standing(services: &[&str], verdict: Verdict) -> Standing {
    let findings: Vec<Finding> = services
        .iter()
        .map(|service| {
            Finding::new(
                "page",
                "SloBurnRate",
                Severity::Page,
                verdict,
                "it burns".to_owned(),
            )
            .label("service", Some(service))
        })
        .collect();
    let mut alerts = Alerts::default();
    let now = clock::wall();
    alerts.step("page", &findings, |_| false, |_| "no_calls", now, now);
    Standing {
        alerts: Arc::new(alerts),
        evaluated_at: Some(now),
    }
}

fn member(address: SocketAddr) -> Member {
    let uri = format!("http://{address}").parse().unwrap();
    let labels = BTreeMap::from([("env".to_owned(), "test".to_owned())]);
    Member::new(uri, None, labels, Duration::from_secs(1))
}

#[tokio::test]
async fn a_member_that_was_away_is_told_when_it_is_back() {
    let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = held.local_addr().unwrap();
    drop(held);
    let gauges = Arc::<Gauges>::default();
    let stop = CancellationToken::new();
    let (_tell, told) = watch::channel(standing(&["cart"], Verdict::Holds));
    let running = member(address).run(told, Arc::clone(&gauges), stop.clone());
    let running = tokio::spawn(running);
    while gauges.pushes_failed.get() == 0 {
        tokio::task::yield_now().await;
    }
    let mut taken = alertmanager(TcpListener::bind(address).await.unwrap()).await;
    let alerts = taken.recv().await.unwrap();
    assert_eq!(alerts[0]["labels"]["alertname"], "SloBurnRate");
    assert_eq!(alerts[0]["labels"]["env"], "test");
    assert!(alerts[0]["labels"].get("group").is_none());
    assert!(alerts[0]["endsAt"].as_str() > alerts[0]["startsAt"].as_str());
    let again = taken.recv().await.unwrap();
    assert_eq!(
        again[0]["startsAt"], alerts[0]["startsAt"],
        "it is told again and again"
    );
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn one_alert_that_is_refused_does_not_keep_the_others() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut taken = alertmanager(listener).await;
    let standing = standing(&["bad", "cart", "payments"], Verdict::Holds);
    member(address).push(&standing).await.unwrap();
    let mut services = Vec::new();
    while let Ok(alerts) = taken.try_recv() {
        services.extend(
            alerts
                .iter()
                .map(|alert| alert["labels"]["service"].to_string()),
        );
    }
    assert_eq!(services, ["\"cart\"", "\"payments\""]);
}

#[tokio::test]
async fn the_watchdog_ends_when_nothing_is_evaluated_any_more() {
    let finding = Finding::new(
        "mesh",
        WATCHDOG,
        Severity::None,
        Verdict::Holds,
        "alive".to_owned(),
    );
    let (now, long_ago) = (clock::wall(), clock::wall().plus_ns(-600_000_000_000));
    let mut alerts = Alerts::default();
    alerts.step(
        "mesh",
        &[finding],
        |_| false,
        |_| "no_calls",
        long_ago,
        long_ago,
    );
    let member = member("127.0.0.1:1".parse().unwrap());
    let alert = alerts.iter().next().unwrap();
    let document = member.document(alert, long_ago, now).unwrap();
    assert!(document["endsAt"].as_str().unwrap() < now.to_string().as_str());
    let document = member.document(alert, now, now).unwrap();
    assert!(document["endsAt"].as_str().unwrap() > now.to_string().as_str());
}

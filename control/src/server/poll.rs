//! Bundles: a proxy asks, and may wait for the next one with its request held open (ADR 10).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use counterfoil_entry::{Time, clock};
use counterfoil_trust::{Peer, SpiffeId};
use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode};
use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::api::{App, Caller, Refused};
use crate::published::Served;

const EPOCH_HEADER: &str = "mesh-epoch";
const PREFER_HEADER: &str = "prefer";
/// Longest wait: shorter than what stands between usually allows an idle connection.
const WAIT_S_MAX: u64 = 30;
/// A change that takes no right away reaches its proxies within this time, not all at one instant.
const SPREAD: Duration = Duration::from_millis(500);

pub(super) async fn bundle(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Response {
    answer(&app, &caller, &headers)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn answer(app: &App, caller: &Caller, headers: &HeaderMap) -> Result<Response, Refused> {
    let peer = caller.peer()?;
    let place = app.publisher.shelf().find(&peer.spiffe_id);
    let place = place.ok_or_else(unknown)?;
    note_epoch(app, caller, &peer.spiffe_id, headers)?;
    let until = Instant::now() + wait(headers, peer, clock::wall());
    let served = next(place, headers, until, SPREAD, &caller.closing).await?;
    // The wait may have outlived the certificate.
    caller.peer()?;
    let etag = [(ETAG, served.etag.to_string())];
    if has_already(headers, &served.etag) {
        return Ok((StatusCode::NOT_MODIFIED, etag).into_response());
    }
    let content_type = [(CONTENT_TYPE, "application/json")];
    Ok((etag, content_type, served.body).into_response())
}

fn unknown() -> Refused {
    let detail = "this workload is not in the catalogue";
    Refused::new(StatusCode::FORBIDDEN, "workload_unknown", detail)
}

fn note_epoch(
    app: &App,
    caller: &Caller,
    who: &SpiffeId,
    headers: &HeaderMap,
) -> Result<(), Refused> {
    let Some(epoch) = headers.get(EPOCH_HEADER) else {
        return Ok(());
    };
    let epoch = epoch.to_str().ok().and_then(|text| text.parse().ok());
    let epoch = epoch.ok_or_else(|| Refused::malformed("Mesh-Epoch is a number"))?;
    app.issuance()
        .seen(who, epoch, caller.address, clock::wall())
        .map_err(|error| Refused::unwritten(&error))
}

/// How long the caller may be kept: as long as it wants to, and no longer than its certificate is
/// good. Nobody is kept who does not ask for it.
fn wait(headers: &HeaderMap, peer: &Peer, now: Time) -> Duration {
    let wanted = headers
        .get_all(PREFER_HEADER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(wait_s);
    let wanted = Duration::from_secs(wanted.unwrap_or(0).min(WAIT_S_MAX));
    let left_ns = peer.not_after.since_ns(now);
    wanted.min(Duration::from_nanos(u64::try_from(left_ns).unwrap_or(0)))
}

/// The seconds of a preference `wait` (RFC 7240 4.3). What is malformed is no preference.
fn wait_s(preference: &str) -> Option<u64> {
    let (name, value) = preference.split(';').next()?.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("wait") {
        return None;
    }
    value.trim().trim_matches('"').parse().ok()
}

/// The bundle that the caller does not have, or the one that it has when `until` comes first or
/// control stops. One that takes no right away comes within `spread`. Cancel safe.
async fn next(
    mut place: watch::Receiver<Served>,
    headers: &HeaderMap,
    until: Instant,
    spread: Duration,
    closing: &CancellationToken,
) -> Result<Served, Refused> {
    let held = place.borrow_and_update().clone();
    if !has_already(headers, &held.etag) || until <= Instant::now() {
        return Ok(held);
    }
    tokio::select! {
        () = closing.cancelled() => return Ok(held),
        () = sleep_until(until) => return Ok(held),
        changed = place.changed() => changed.map_err(|_| unknown())?,
    }
    let release = Instant::now() + spread.mul_f64(rand::rng().random::<f64>());
    let release = until.min(release);
    loop {
        if place.borrow_and_update().urgent > held.change {
            break;
        }
        tokio::select! {
            () = closing.cancelled() => break,
            () = sleep_until(release) => break,
            changed = place.changed() => changed.map_err(|_| unknown())?,
        }
    }
    Ok(place.borrow().clone())
}

fn has_already(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|held| matches!(held.trim(), "*") || held.trim().trim_start_matches("W/") == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn served(etag: &str, change: u64, urgent: u64) -> Served {
        Served {
            body: etag.to_owned().into(),
            etag: etag.into(),
            change,
            urgent,
        }
    }

    /// What a caller that has `"a"` gets after `changes`, of which each comes when it waits.
    async fn awaited(changes: Vec<Served>, wait: Duration) -> Served {
        let place = watch::Sender::new(served("\"a\"", 4, 3));
        let waiting = place.subscribe();
        let next = tokio::spawn(async move {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, http::HeaderValue::from_static("\"a\""));
            let until = Instant::now() + wait;
            let closing = CancellationToken::new();
            next(waiting, &headers, until, HOUR, &closing)
                .await
                .unwrap()
        });
        for change in changes {
            tokio::task::yield_now().await;
            place.send_replace(change);
        }
        let next = tokio::time::timeout(Duration::from_secs(10), next).await;
        next.expect("it is released").unwrap()
    }

    #[tokio::test]
    async fn a_right_that_is_taken_away_is_not_spread_over_the_hour() {
        let answer = awaited(vec![served("\"b\"", 5, 5)], HOUR).await;
        assert_eq!(&*answer.etag, "\"b\"");
        // Not even when another change came first, or hid it.
        let later = vec![served("\"b\"", 5, 3), served("\"c\"", 6, 6)];
        assert_eq!(&*awaited(later, HOUR).await.etag, "\"c\"");
        let hidden = vec![served("\"c\"", 6, 5)];
        assert_eq!(&*awaited(hidden, HOUR).await.etag, "\"c\"");
    }

    #[tokio::test]
    async fn another_change_is_spread_and_comes_no_later_than_the_end_of_the_wait() {
        let wait = Duration::from_secs(1);
        let began = Instant::now();
        let changes = vec![served("\"b\"", 5, 3), served("\"c\"", 6, 3)];
        let answer = awaited(changes, wait).await;
        assert_eq!(&*answer.etag, "\"c\"", "the newest one");
        assert!(
            began.elapsed() >= Duration::from_millis(100),
            "within the hour"
        );
        assert!(began.elapsed() < Duration::from_secs(8));
    }

    #[test]
    fn the_wait_is_read_as_rfc_7240_says() {
        for (preference, seconds) in [
            ("wait=8", Some(8)),
            (" Wait = \"8\" ", Some(8)),
            ("wait=8; foo=bar", Some(8)),
            ("wait=8000", Some(8_000)),
            ("wait", None),
            ("wait=", None),
            ("wait=-1", None),
            ("wait=1.5", None),
            ("waits=8", None),
            ("respond-async", None),
        ] {
            assert_eq!(wait_s(preference), seconds, "{preference}");
        }
    }
}

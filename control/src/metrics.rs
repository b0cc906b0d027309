//! What control counts about itself: requests at both doors, shown at the door for people.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use counterfoil_entry::clock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Content type of the answer.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    /// `workloads` or `people`.
    door: &'static str,
    /// Template of the path, never the path itself; empty for one that is unknown.
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Door {
    door: &'static str,
    route: String,
}

/// Requests at both doors.
#[derive(Clone)]
pub(crate) struct Requests {
    answered: Family<Answered, Counter>,
    seconds: Family<Door, Histogram>,
    registry: Arc<Registry>,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl Default for Requests {
    fn default() -> Self {
        let seconds = Family::new_with_constructor(buckets as fn() -> Histogram);
        let answered = Family::default();
        let mut registry = Registry::with_prefix("counterfoil_control");
        registry.register(
            "requests",
            "Requests that were answered",
            Family::clone(&answered),
        );
        registry.register(
            "request_seconds",
            "From the head of a request to the head of its answer",
            Family::clone(&seconds),
        );
        Self {
            answered,
            seconds,
            registry: Arc::new(registry),
        }
    }
}

/// From 1 ms to a poll that is held open for eight seconds.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// Counts a request; `door` is which one it came through.
pub(crate) async fn count(
    State((requests, door)): State<(Requests, &'static str)>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let began_ns = clock::mono_ns();
    let response = next.run(request).await;
    let route = route.map_or_else(String::new, |route| route.as_str().to_owned());
    let of_door = Door {
        door,
        route: route.clone(),
    };
    let seconds = requests.seconds.get_or_create(&of_door);
    let took = Duration::from_nanos(clock::mono_ns().saturating_sub(began_ns));
    seconds.observe(took.as_secs_f64());
    drop(seconds);
    let answered = Answered {
        door,
        route,
        status: response.status().as_u16(),
    };
    requests.answered.get_or_create(&answered).inc();
    response
}

/// OpenMetrics text: counts only, no name of anybody.
pub(crate) async fn show(State(requests): State<Requests>) -> Response {
    let mut out = String::new();
    match encode(&mut out, &requests.registry) {
        Ok(()) => ([(CONTENT_TYPE, OPENMETRICS)], out).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

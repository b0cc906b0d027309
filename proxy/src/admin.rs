//! `/ready`, `/healthz` and `/metrics`, served off the workers' threads.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use counterfoil_entry::clock;
use counterfoil_spool::Gauges;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::call_metrics::{family, line};
use crate::policy::PolicyCell;
use crate::proxy::Figures;

/// Scrapes at a time.
const CONNECTIONS_MAX: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the proxy is doing, in the order in which it passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It has no SVID yet.
    Joining = 0,
    /// It serves, as soon as it has a bundle.
    Serving = 1,
    /// It takes no further calls.
    Draining = 2,
}

/// What the admin port tells.
#[derive(Debug)]
pub(crate) struct Admin {
    stage: AtomicU8,
    policy: PolicyCell,
    figures: std::sync::OnceLock<(Figures, Arc<Gauges>)>,
}

impl Admin {
    pub(crate) const fn new(policy: PolicyCell) -> Self {
        Self {
            stage: AtomicU8::new(Stage::Joining as u8),
            policy,
            figures: std::sync::OnceLock::new(),
        }
    }

    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// From now on there are figures to show. The first ones stay.
    pub(crate) fn show(&self, figures: Figures, gauges: Arc<Gauges>) {
        self.figures.get_or_init(|| (figures, gauges));
    }

    /// Answers scrapes for ever. Dropping it ends them.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let admin = Arc::clone(&self);
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let response = admin.answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                if let Err(error) = served {
                    tracing::debug!(%error, "an admin connection ended");
                }
                drop(place);
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/ready" => match self.not_ready() {
                None => text(StatusCode::OK, "ready\n".to_owned()),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            "/metrics" => metrics_text(self.metrics()),
            _ => text(
                StatusCode::NOT_FOUND,
                "/healthz, /ready or /metrics\n".to_owned(),
            ),
        }
    }

    fn not_ready(&self) -> Option<&'static str> {
        let stage = self.stage.load(Ordering::Relaxed);
        if stage == Stage::Joining as u8 {
            return Some("joining: no SVID yet");
        }
        if stage == Stage::Draining as u8 {
            return Some("draining");
        }
        self.policy.current().is_none().then_some("bundle_missing")
    }

    fn metrics(&self) -> String {
        let mut out = String::new();
        let mut gauge = |name: &str, help: &str, value: u64| {
            let name = format!("counterfoil_proxy_{name}");
            family(&mut out, &name, "gauge", help);
            line(&mut out, format_args!("{name} {value}"));
        };
        let is_ready = u64::from(self.not_ready().is_none());
        gauge("ready", "Whether calls are taken", is_ready);
        if let Some(policy) = self.policy.current() {
            gauge(
                "bundle_version",
                "Version of the bundle in force",
                policy.version,
            );
            let stale_ms = policy.stale_ms(clock::wall());
            gauge(
                "bundle_stale_ms",
                "Since control last confirmed it",
                stale_ms,
            );
        }
        if let Some((figures, gauges)) = self.figures.get() {
            gauge(
                "open_calls",
                "Calls that have not ended",
                figures.open_calls().0,
            );
            gauge(
                "spool_bytes",
                "Bytes that wait for the collector",
                gauges.spool_bytes(),
            );
            gauge(
                "spool_dropped",
                "Entries declared as dropped",
                gauges.dropped(),
            );
            figures.counters.render(&mut out);
        }
        out.push_str("# EOF\n");
        out
    }
}

fn metrics_text(body: String) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, body);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

//! `/healthz` and `/metrics` of the collector, on a port of their own: plain HTTP, counts only.

use std::convert::Infallible;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::foreign::ForeignCounters;

/// Scrapes at a time.
const CONNECTIONS_MAX: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    /// `hello`, `batch` or `statement`.
    request: &'static str,
    /// `taken`, or the reason of the refusal.
    answer: &'static str,
}

/// What the native receiver counts.
#[derive(Clone)]
pub(crate) struct Meters {
    answered: Family<Answered, Counter>,
    seconds: Histogram,
    bytes: Counter,
    registry: Arc<Registry>,
    foreign: Option<Arc<ForeignCounters>>,
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meters").finish_non_exhaustive()
    }
}

impl Default for Meters {
    fn default() -> Self {
        let answered = Family::default();
        // From a write without a disk to the time after which writers try again.
        let seconds = Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let bytes = Counter::default();
        let mut registry = Registry::with_prefix("counterfoil_collector");
        registry.register(
            "requests",
            "Requests of writers that were answered",
            Family::clone(&answered),
        );
        registry.register(
            "acknowledge_seconds",
            "From a whole body to its acknowledgement, which comes after fsync",
            seconds.clone(),
        );
        registry.register(
            "body_bytes",
            "Bytes of bodies that were read",
            bytes.clone(),
        );
        Self {
            answered,
            seconds,
            bytes,
            registry: Arc::new(registry),
            foreign: None,
        }
    }
}

impl Meters {
    /// The same, with what the foreign receivers count.
    pub(crate) fn with_foreign(self, foreign: Option<Arc<ForeignCounters>>) -> Self {
        Self { foreign, ..self }
    }

    /// Counts an answer; `took` since the body was whole.
    pub(crate) fn answered(&self, path: &str, answer: &'static str, bytes: usize, took: Duration) {
        let request = match path {
            "/v1/hello" => "hello",
            "/v1/batch" => "batch",
            _ => "statement",
        };
        let labels = Answered { request, answer };
        self.answered.get_or_create(&labels).inc();
        self.bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
        self.seconds.observe(took.as_secs_f64());
    }

    /// Answers scrapes in a task of its own. Dropping the handle ends it.
    pub(crate) fn spawn(self, listener: TcpListener) -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(tokio::spawn(self.serve(listener)))
    }

    async fn serve(self, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let meters = self.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let response = meters.answer(&request);
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
            "/metrics" => self.metrics(),
            _ => text(StatusCode::NOT_FOUND, "/healthz or /metrics\n".to_owned()),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let Ok(out) = self.text() else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, String::new());
        };
        let mut response = text(StatusCode::OK, out);
        let kind = HeaderValue::from_static(OPENMETRICS);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

impl Meters {
    fn text(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        encode_registry(&mut out, &self.registry)?;
        for (name, n) in self.foreign.iter().flat_map(|foreign| foreign.read()) {
            let name = format!("counterfoil_collector_{name}");
            writeln!(out, "# TYPE {name} counter\n{name}_total {n}")?;
        }
        encode_eof(&mut out)?;
        Ok(out)
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

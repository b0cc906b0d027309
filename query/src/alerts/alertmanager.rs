//! Telling Alertmanager (API v2): every member gets every alert, again and again, until it is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counterfoil_entry::{Time, clock};
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::gauges::Gauges;
use super::mesh::WATCHDOG;
use super::state::{Alert, Alerts, GROUP, Stage};

/// An answer takes milliseconds; who needs longer is away.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Alerts in one request.
const AT_ONCE: usize = 500;
/// Between two tries while a member does not take them.
const AGAIN: Duration = Duration::from_secs(5);

/// Alerts as they stood after an evaluation.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    pub(super) alerts: Arc<Alerts>,
    pub(super) evaluated_at: Option<Time>,
}

/// One member of a cluster of Alertmanagers.
#[derive(Debug, Clone)]
pub(super) struct Member {
    uri: Uri,
    /// Whom to believe when it speaks TLS.
    tls: Option<Arc<rustls::ClientConfig>>,
    /// Labels that every alert gets.
    labels: BTreeMap<String, String>,
    /// Between two times that the same alerts are sent.
    every: Duration,
}

/// Why alerts were not taken.
#[derive(Debug, thiserror::Error)]
enum PushError {
    #[error("connecting")]
    Connect(#[source] std::io::Error),
    #[error("no answer within {} s", ANSWER_WITHIN.as_secs())]
    Timeout,
    #[error("sending")]
    Http(#[from] hyper::Error),
    #[error("making the request")]
    Request(#[from] http::Error),
    #[error("the answer was {0}")]
    Status(StatusCode),
}

impl Member {
    pub(super) fn new(
        uri: Uri,
        tls: Option<Arc<rustls::ClientConfig>>,
        labels: BTreeMap<String, String>,
        every: Duration,
    ) -> Self {
        Self {
            uri,
            tls,
            labels,
            every,
        }
    }

    /// Sends what stands, when it changes and every `every`, until `stop`.
    ///
    /// What a member does not take is sent again, with what has changed meanwhile; nothing waits for it.
    pub(super) async fn run(
        self,
        mut standing: watch::Receiver<Standing>,
        gauges: Arc<Gauges>,
        stop: CancellationToken,
    ) {
        let mut was_taken = true;
        loop {
            let now = standing.borrow_and_update().clone();
            let pushed = self.push(&now).await;
            let gauge = if pushed.is_ok() {
                &gauges.pushes
            } else {
                &gauges.pushes_failed
            };
            gauge.inc();
            if was_taken != pushed.is_ok() {
                was_taken = pushed.is_ok();
                match &pushed {
                    Ok(()) => tracing::info!(alertmanager = %self.uri, "alerts are taken again"),
                    Err(error) => tracing::error!(
                        alertmanager = %self.uri,
                        error = %chain(error),
                        "alerts are not taken; they are sent again until they are"
                    ),
                }
            }
            let wait = if pushed.is_ok() {
                self.every
            } else {
                AGAIN.min(self.every)
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = standing.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn push(&self, standing: &Standing) -> Result<(), PushError> {
        let now = clock::wall();
        let alerts: Vec<Value> = standing
            .alerts
            .iter()
            .filter_map(|alert| self.document(alert, standing.evaluated_at.unwrap_or(now), now))
            .collect();
        for some in alerts.chunks(AT_ONCE) {
            match self.post(&Value::from(some.to_vec())).await {
                // One that is refused would take the others with it.
                Err(PushError::Status(StatusCode::BAD_REQUEST)) if some.len() > 1 => {
                    for one in some {
                        match self.post(&json!([one])).await {
                            Err(PushError::Status(status)) => tracing::error!(
                                %status, alert = %one["labels"], "Alertmanager refuses an alert"
                            ),
                            posted => posted?,
                        }
                    }
                }
                posted => posted?,
            }
        }
        Ok(())
    }

    /// The alert as Alertmanager takes it; `None` for one that it must not hear of.
    fn document(&self, alert: &Alert, evaluated_at: Time, now: Time) -> Option<Value> {
        let alive_ns = i64::try_from(4 * self.every.as_nanos()).unwrap_or(i64::MAX);
        let is_watchdog = alert
            .labels
            .get("alertname")
            .is_some_and(|name| name == WATCHDOG);
        let ends_at = match alert.stage {
            Stage::Pending | Stage::Inactive => return None,
            Stage::Resolved => Time::from_ns(alert.changed_at_ns),
            // It says that alerts are evaluated: so it ends when they are not.
            Stage::Firing if is_watchdog => evaluated_at.plus_ns(alive_ns),
            Stage::Firing => now.plus_ns(alive_ns),
        };
        let mut labels = self.labels.clone();
        let own = alert.labels.iter().filter(|(name, _)| *name != GROUP);
        labels.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        let mut annotations = BTreeMap::from([("summary", alert.summary.clone())]);
        let figures = [
            ("value", alert.value.map(|value| value.to_string())),
            ("threshold", alert.threshold.map(|value| value.to_string())),
            ("target", alert.target.map(|value| value.to_string())),
            (
                "window",
                Some(alert.window.clone()).filter(|window| !window.is_empty()),
            ),
        ];
        annotations.extend(
            figures
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        Some(json!({
            "labels": labels,
            "annotations": annotations,
            "startsAt": Time::from_ns(alert.active_since_ns).to_string(),
            "endsAt": ends_at.to_string(),
        }))
    }

    async fn post(&self, alerts: &Value) -> Result<(), PushError> {
        let body = Bytes::from(alerts.to_string());
        tokio::time::timeout(ANSWER_WITHIN, self.exchange(body))
            .await
            .map_err(|_| PushError::Timeout)?
    }

    async fn exchange(&self, body: Bytes) -> Result<(), PushError> {
        let host = self.uri.host().unwrap_or_default();
        let default_port = if self.tls.is_some() { 443 } else { 80 };
        let port = self.uri.port_u16().unwrap_or(default_port);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port))
            .await
            .map_err(PushError::Connect)?;
        let Some(tls) = &self.tls else {
            return self.ask(stream, body).await;
        };
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|error| PushError::Connect(std::io::Error::other(error)))?;
        let stream = TlsConnector::from(Arc::clone(tls))
            .connect(name, stream)
            .await
            .map_err(PushError::Connect)?;
        self.ask(stream, body).await
    }

    async fn ask<S>(&self, stream: S, body: Bytes) -> Result<(), PushError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let path = self.uri.path().trim_end_matches('/');
        let authority = self
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{path}/api/v2/alerts"))
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
        let _unread = body.collect().await;
        if status.is_success() {
            Ok(())
        } else {
            Err(PushError::Status(status))
        }
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| {
        format!("{text}: {source}")
    })
}

#[cfg(test)]
mod tests;

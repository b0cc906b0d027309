//! Calls through a proxy's outbound port: HTTP/1.1 on kept connections, gRPC on one HTTP/2 connection.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    Request, Response, StatusCode,
    header::{CONTENT_TYPE, HOST, TE},
};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::plan::Protocol;

/// Header that tells an application of the demo which call of which trace this is.
pub(crate) const PLAN: &str = "x-demo-call";
/// W3C trace context.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// Length of the prefix of a gRPC message.
const PREFIX: usize = 5;
/// Longer than any recorded trace.
const CALL_MAX: Duration = Duration::from_secs(20);

/// A call that got no whole answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The proxy's port took no connection.
    #[error("connecting to the proxy at {0}")]
    Connect(SocketAddr, #[source] std::io::Error),
    /// The connection broke.
    #[error("calling through the proxy")]
    Http(#[from] hyper::Error),
    /// The request could not be put together.
    #[error("making a request")]
    Request(#[from] http::Error),
    /// Nothing came in time.
    #[error("no answer within {} s", CALL_MAX.as_secs())]
    Timeout,
}

/// What is called, and as part of what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    /// Host name of the service.
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) protocol: Protocol,
    /// Value of `traceparent`.
    pub(crate) traceparent: &'a str,
    /// Value of [`PLAN`].
    pub(crate) plan: &'a str,
}

/// The outbound port of one proxy, with the connections to it.
#[derive(Debug)]
pub(crate) struct Outbound {
    address: SocketAddr,
    idle: Mutex<Vec<http1::SendRequest<Full<Bytes>>>>,
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
}

impl Outbound {
    /// No connection is made before the first call.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            idle: Mutex::default(),
            shared: tokio::sync::Mutex::default(),
        }
    }

    /// Calls and reads the whole answer. Returns whether the service did what was asked.
    ///
    /// # Errors
    /// When no whole answer came.
    pub(crate) async fn call(&self, target: Target<'_>) -> Result<bool, CallError> {
        let answered = async {
            match target.protocol {
                Protocol::Http => self.http(target).await,
                Protocol::Grpc => self.grpc(target).await,
            }
        };
        tokio::time::timeout(CALL_MAX, answered)
            .await
            .map_err(|_| CallError::Timeout)?
    }

    async fn http(&self, target: Target<'_>) -> Result<bool, CallError> {
        let request = || {
            Request::post(target.path)
                .header(HOST, target.host)
                .header(CONTENT_TYPE, "application/json")
                .header(TRACEPARENT, target.traceparent)
                .header(PLAN, target.plan)
                .body(Full::new(Bytes::from_static(b"{\"demo\":true}")))
        };
        loop {
            let kept = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            let fresh = kept.is_none();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect_http().await?,
            };
            match sender.send_request(request()?).await {
                Ok(answer) => {
                    let status = answer.status();
                    drain(answer).await?;
                    if sender.ready().await.is_ok() {
                        self.idle
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(sender);
                    }
                    return Ok(status.is_success());
                }
                // A kept connection that was closed meanwhile: the request was not sent.
                Err(error) if !fresh && (error.is_canceled() || error.is_closed()) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn connect_http(&self) -> Result<http1::SendRequest<Full<Bytes>>, CallError> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.connect().await?)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn grpc(&self, target: Target<'_>) -> Result<bool, CallError> {
        let request = Request::post(format!("http://{}{}", target.host, target.path))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(TRACEPARENT, target.traceparent)
            .header(PLAN, target.plan)
            .body(Full::new(grpc_message(target.plan.as_bytes())))?;
        let mut sender = self.grpc_sender().await?;
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let in_headers = grpc_status(answer.headers());
        let in_trailers = drain(answer).await?;
        Ok(status == StatusCode::OK && in_trailers.or(in_headers) == Some(0))
    }

    async fn grpc_sender(&self) -> Result<http2::SendRequest<Full<Bytes>>, CallError> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = shared.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let io = TokioIo::new(self.connect().await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        *shared = Some(sender.clone());
        Ok(sender)
    }

    async fn connect(&self) -> Result<TcpStream, CallError> {
        let failed = |error| CallError::Connect(self.address, error);
        let stream = TcpStream::connect(self.address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(stream)
    }
}

/// Reads a body to its end and returns the gRPC status of its trailers.
async fn drain(answer: Response<Incoming>) -> Result<Option<u16>, CallError> {
    let mut body = answer.into_body();
    let mut status = None;
    while let Some(frame) = body.frame().await {
        if let Some(trailers) = frame?.trailers_ref() {
            status = grpc_status(trailers);
        }
    }
    Ok(status)
}

fn grpc_status(headers: &http::HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// One uncompressed gRPC message.
pub(crate) fn grpc_message(payload: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(PREFIX + payload.len());
    message.extend_from_slice(&[0]);
    message.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(0).to_be_bytes());
    message.extend_from_slice(payload);
    message.freeze()
}

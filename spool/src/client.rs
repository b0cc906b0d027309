//! One HTTP/1.1 connection over TLS to a process of this project.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// What is offered in the TLS handshake.
pub(crate) const ALPN: &[&[u8]] = &[b"http/1.1"];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer taken (bytes): a bundle of some thousand operations is far smaller.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No TCP connection or no TLS handshake.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The peer let the time pass.
    #[error("no answer in time")]
    Timeout,
    /// The request could not be written.
    #[error("the request cannot be written")]
    Request(#[source] http::Error),
    /// The connection broke or the answer was not HTTP.
    #[error("the connection failed")]
    Http(#[source] hyper::Error),
    /// The answer's body broke or was too large.
    #[error("the answer could not be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A connection; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Connection {
    send: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    _driver: AbortOnDropHandle<()>,
}

/// A request before the headers that every one has.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Connection {
    /// Connects to `address` (`host:port`).
    ///
    /// Cancel safe: a half-made connection is closed.
    pub(crate) async fn open(address: &str, tls: Arc<ClientConfig>) -> Result<Self, ClientError> {
        let connected = timeout(CONNECT_TIMEOUT, async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            TlsConnector::from(tls)
                .connect(counterfoil_trust::server_name(), tcp)
                .await
        });
        let stream = connected
            .await
            .map_err(|_| ClientError::Timeout)?
            .map_err(ClientError::Connect)?;
        let (send, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::Http)?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
        let host =
            HeaderValue::from_str(address).map_err(|error| ClientError::Request(error.into()))?;
        Ok(Self {
            send,
            host,
            _driver: AbortOnDropHandle::new(driver),
        })
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn ask(&mut self, ask: Ask<'_>) -> Result<Reply, ClientError> {
        let mut request = Request::builder()
            .method(ask.method)
            .uri(ask.path)
            .header(CONTENT_LENGTH, ask.body.len())
            .header(HOST, self.host.clone())
            .body(Full::new(ask.body))
            .map_err(ClientError::Request)?;
        request.headers_mut().extend(ask.headers);
        timeout(REQUEST_TIMEOUT, async {
            self.send.ready().await.map_err(ClientError::Http)?;
            let answer = self
                .send
                .send_request(request)
                .await
                .map_err(ClientError::Http)?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(ClientError::Body)?
                .to_bytes();
            Ok(Reply {
                status: head.status,
                headers: head.headers,
                body,
            })
        })
        .await
        .map_err(|_| ClientError::Timeout)?
    }
}

//! Callers: a raw HTTP/1.1 socket, and an HTTP/2 client.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A socket on which the test writes and reads every byte itself.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    pub(crate) async fn send(&mut self, text: &str) -> &mut Self {
        self.0.write_all(text.as_bytes()).await.unwrap();
        self
    }

    /// Reads until what has come ends in `end`.
    pub(crate) async fn read_to(&mut self, end: &str) -> String {
        let mut seen = Vec::new();
        let reading = async {
            while !seen.ends_with(end.as_bytes()) {
                let mut some = [0; 4096];
                match self.0.read(&mut some).await.unwrap() {
                    0 => panic!("closed after {:?}", String::from_utf8_lossy(&seen)),
                    n => seen.extend_from_slice(&some[..n]),
                }
            }
        };
        if tokio::time::timeout(crate::books::DEADLINE, reading)
            .await
            .is_err()
        {
            panic!("no {end:?} in {:?}", String::from_utf8_lossy(&seen));
        }
        String::from_utf8(seen).unwrap()
    }

    /// Reads until the other side closes.
    pub(crate) async fn read_all(mut self) -> String {
        let mut seen = Vec::new();
        let reading = self.0.read_to_end(&mut seen);
        // a reset ends a connection as well as a close does
        let _ended = tokio::time::timeout(crate::books::DEADLINE, reading)
            .await
            .unwrap();
        String::from_utf8_lossy(&seen).into_owned()
    }
}

/// One request on a connection of its own, and the whole answer.
pub(crate) async fn ask(address: SocketAddr, request: &str) -> String {
    let mut raw = Raw::connect(address).await;
    raw.send(request).await;
    raw.read_all().await
}

/// A GET of `path` from `host`; the connection closes after the answer.
pub(crate) fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
}

/// An HTTP/2 connection by prior knowledge.
pub(crate) async fn h2(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

/// A unary gRPC request.
pub(crate) fn grpc(host: &str, path: &str, message: &'static str) -> http::Request<Full<Bytes>> {
    http::Request::post(format!("http://{host}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(message.as_bytes())))
        .unwrap()
}

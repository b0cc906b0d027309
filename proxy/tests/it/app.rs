//! A real application: HTTP/1.1 and HTTP/2 by prior knowledge, its answers given by a function.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

pub(crate) type AppBody = BoxBody<Bytes, io::Error>;
pub(crate) type Answer = Pin<Box<dyn Future<Output = Response<AppBody>> + Send>>;

/// A body whose frames the test sends one by one. It ends when the sender is dropped.
pub(crate) struct Scripted(pub(crate) mpsc::Receiver<Result<Frame<Bytes>, io::Error>>);

impl Body for Scripted {
    type Data = Bytes;
    type Error = io::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx)
    }
}

pub(crate) fn full(text: impl Into<Bytes>) -> AppBody {
    http_body_util::Full::new(text.into())
        .map_err(|never| match never {})
        .boxed()
}

pub(crate) fn scripted() -> (mpsc::Sender<Result<Frame<Bytes>, io::Error>>, AppBody) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, BodyExt::boxed(Scripted(receiver)))
}

pub(crate) fn trailers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| {
            (
                http::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect()
}

/// Starts an application on a free port.
pub(crate) async fn start(
    answer: impl Fn(Request<Incoming>) -> Answer + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let response = answer(request);
                    async move { Ok::<_, Infallible>(response.await) }
                });
                let server = auto::Builder::new(TokioExecutor::new());
                // callers of the tests break off on purpose
                let _ended = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

pub(crate) type Script = mpsc::Sender<Result<Frame<Bytes>, io::Error>>;

/// An application whose one answer the test writes frame by frame.
pub(crate) async fn scripted_app(length: Option<u64>) -> (SocketAddr, Script) {
    let (sender, body) = scripted();
    let body = Arc::new(Mutex::new(Some(body)));
    let address = start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        Box::pin(async move {
            let mut response = Response::builder();
            if let Some(length) = length {
                response = response.header("content-length", length);
            }
            response.body(body).unwrap()
        })
    })
    .await;
    (address, sender)
}

pub(crate) async fn say(script: &Script, text: &'static str) {
    script
        .send(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))
        .await
        .unwrap();
}

/// Reads the request to its end and answers with `status` and what `seen` makes of it.
pub(crate) fn echo() -> impl Fn(Request<Incoming>) -> Answer + Send + Sync + 'static {
    |request| {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let bytes = body
                .collect()
                .await
                .map(http_body_util::Collected::to_bytes);
            let mut text = format!("{} {}\n", head.method, head.uri);
            for (name, value) in &head.headers {
                text += &format!("{name}: {}\n", value.to_str().unwrap_or("?"));
            }
            text += &format!("\n{}", String::from_utf8_lossy(&bytes.unwrap_or_default()));
            Response::new(full(text))
        })
    }
}

/// A gRPC application: echoes the message, then `grpc-status: 0` and a trailer of its own.
pub(crate) fn grpc_echo() -> impl Fn(Request<Incoming>) -> Answer + Send + Sync + 'static {
    |request| {
        Box::pin(async move {
            assert_eq!(request.version(), http::Version::HTTP_2);
            assert_eq!(request.headers()["te"], "trailers");
            let message = request.into_body().collect().await.unwrap().to_bytes();
            let (sender, body) = scripted();
            tokio::spawn(async move {
                let end = trailers(&[("grpc-status", "0"), ("x-app", "kept")]);
                sender.send(Ok(Frame::data(message))).await.unwrap();
                sender.send(Ok(Frame::trailers(end))).await.unwrap();
            });
            let mut response = Response::new(body);
            response
                .headers_mut()
                .insert("content-type", HeaderValue::from_static("application/grpc"));
            response
        })
    }
}

//! As much of control as a proxy needs: SVIDs by join token, and one bundle by ETag.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use counterfoil_trust::bundle::{Bundle, SignedBundle};
use counterfoil_trust::keys::SealKey;
use counterfoil_trust::{ClientAuth, server_config};
use http::header::{AUTHORIZATION, ETAG, IF_NONE_MATCH};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::ca::Ca;
use crate::world::SHOP;

pub(crate) const TOKEN: &str = "one-time-token";
const ID: &str = "spiffe://bank.test/counterfoil/control";

pub(crate) struct Control {
    pub(crate) address: SocketAddr,
    pub(crate) governance: SealKey,
    pub(crate) control: SealKey,
    pub(crate) seen: Arc<Seen>,
    pub(crate) task: JoinHandle<()>,
}

/// What the proxy asked for.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) svids: AtomicUsize,
    pub(crate) bundles: AtomicUsize,
    pub(crate) not_modified: AtomicUsize,
}

impl Control {
    /// Serves the shop with `bundle`.
    pub(crate) async fn start(ca: &Arc<Ca>, bundle: &Bundle) -> Self {
        let (governance, control) = (SealKey::generate().unwrap(), SealKey::generate().unwrap());
        let body =
            SignedBundle::seal(&bundle.rights, &bundle.endpoints, &governance, &control).unwrap();
        let body = Bytes::from(body);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = server_config(
            &ca.identity(ID),
            ClientAuth::Optional,
            &[b"h2", b"http/1.1"],
        );
        let tls = TlsAcceptor::from(tls);
        let seen = Arc::new(Seen::default());
        let (ca, counts) = (Arc::clone(ca), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = tls.accept(stream).await else {
                    continue;
                };
                let (ca, counts, body) = (Arc::clone(&ca), Arc::clone(&counts), body.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let (ca, counts) = (Arc::clone(&ca), Arc::clone(&counts));
                        let body = body.clone();
                        async move { Ok::<_, Infallible>(answer(&ca, &counts, body, request).await) }
                    });
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ended = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self {
            address,
            governance,
            control,
            seen,
            task,
        }
    }
}

async fn answer(
    ca: &Ca,
    seen: &Seen,
    bundle: Bytes,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/v1/svid" => {
            assert_eq!(head.headers[AUTHORIZATION], format!("Bearer {TOKEN}"));
            let body = body.collect().await.unwrap().to_bytes();
            let asked: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(asked["spiffe_id"], SHOP);
            seen.svids.fetch_add(1, Ordering::Relaxed);
            let chain = ca.certify(asked["csr"].as_str().unwrap(), SHOP);
            let answer = serde_json::json!({ "chain": chain, "roots": ca.roots_pem() });
            Response::new(Full::new(Bytes::from(answer.to_string())))
        }
        "/v1/proxy/bundle" => {
            const TAG: &str = "\"v4\"";
            if head
                .headers
                .get(IF_NONE_MATCH)
                .is_some_and(|tag| tag == TAG)
            {
                seen.not_modified.fetch_add(1, Ordering::Relaxed);
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                return response;
            }
            seen.bundles.fetch_add(1, Ordering::Relaxed);
            Response::builder()
                .header(ETAG, TAG)
                .body(Full::new(bundle))
                .unwrap()
        }
        other => panic!("asked for {other}"),
    }
}

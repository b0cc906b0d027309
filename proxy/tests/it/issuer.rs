//! As much of control as a proxy needs to get access tokens: `POST /v1/token` over mutual TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use counterfoil_entry::clock;
use counterfoil_trust::bundle::TokenRules;
use counterfoil_trust::token::{self, Claims, Subject, TokenSigner};
use counterfoil_trust::{ClientAuth, Peer, peer_of, server_config};
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

const ID: &str = "spiffe://bank.test/counterfoil/control";

pub(crate) struct Issuer {
    pub(crate) address: SocketAddr,
    pub(crate) desk: Arc<Desk>,
    task: JoinHandle<()>,
}

/// Who signs, what is answered, and what was signed so far.
pub(crate) struct Desk {
    pub(crate) signer: TokenSigner,
    answers: Mutex<Answers>,
    issued: Mutex<Vec<String>>,
}

#[derive(Clone)]
pub(crate) enum Answers {
    /// A token for these operations, good for so many seconds.
    Token(&'static [&'static str], i64),
    /// No grant: status 400.
    Refused,
    /// Status 503.
    Broken,
}

pub(crate) const USUAL: Answers = Answers::Token(&["readCart", "fillCart", "shop.Cart/Get"], 3_600);

impl Desk {
    pub(crate) fn answer_with(&self, answers: Answers) {
        *self.answers.lock().unwrap() = answers;
    }

    /// Every token that was given out.
    pub(crate) fn issued(&self) -> Vec<String> {
        self.issued.lock().unwrap().clone()
    }

    /// What bundles say of these tokens.
    pub(crate) fn rules(&self) -> TokenRules {
        TokenRules {
            issuer: token::issuer("bank.test"),
            keys: vec![self.signer.public().clone()],
            revoked: vec![],
        }
    }

    /// Names count from `j-0` on.
    fn issue(&self, peer: &Peer, api: &str, operations: &[&str], life_s: i64) -> (String, i64) {
        let mut issued = self.issued.lock().unwrap();
        let now = clock::wall();
        let until = now.plus_ns(life_s * 1_000_000_000);
        let subject = Subject {
            caller: &peer.spiffe_id,
            cert_sha256: peer.cert_sha256,
            cert_not_after: until.min(peer.not_after),
            api,
            operations,
        };
        let claims = Claims::new(&subject, format!("j-{}", issued.len()), now);
        let token = self.signer.sign(&claims).unwrap();
        issued.push(token.clone());
        (token, claims.exp - claims.iat)
    }
}

impl Issuer {
    pub(crate) async fn start(ca: &Ca) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = server_config(&ca.identity(ID), ClientAuth::Required, &[b"http/1.1"]);
        let tls = TlsAcceptor::from(tls);
        let desk = Arc::new(Desk {
            signer: TokenSigner::generate().unwrap(),
            answers: Mutex::new(USUAL),
            issued: Mutex::default(),
        });
        let seat = Arc::clone(&desk);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = tls.accept(stream).await else {
                    continue;
                };
                let peer = peer_of(stream.get_ref().1.peer_certificates().unwrap()).unwrap();
                let (desk, peer) = (Arc::clone(&seat), Arc::new(peer));
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let (desk, peer) = (Arc::clone(&desk), Arc::clone(&peer));
                        async move { Ok::<_, Infallible>(answer(&desk, &peer, request).await) }
                    });
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ended = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self {
            address,
            desk,
            task,
        }
    }

    /// From now on connections are refused.
    pub(crate) async fn stop(&mut self) {
        self.task.abort();
        let _aborted = (&mut self.task).await;
    }
}

async fn answer(desk: &Desk, peer: &Peer, request: Request<Incoming>) -> Response<Full<Bytes>> {
    assert_eq!(
        (request.method().as_str(), request.uri().path()),
        ("POST", "/v1/token")
    );
    let form = "application/x-www-form-urlencoded";
    assert_eq!(request.headers()["content-type"], form);
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body = std::str::from_utf8(&body).unwrap().to_owned();
    let api = body
        .strip_prefix("grant_type=client_credentials&resource=")
        .unwrap();
    let answers = desk.answers.lock().unwrap().clone();
    let (status, text) = match answers {
        Answers::Token(operations, life_s) => {
            let (token, expires_in) = desk.issue(peer, api, operations, life_s);
            let scope = token::scope(operations.iter().copied());
            let answer = serde_json::json!({
                "access_token": token, "token_type": "Bearer",
                "expires_in": expires_in, "scope": scope,
            });
            (StatusCode::OK, answer.to_string())
        }
        Answers::Refused => (
            StatusCode::BAD_REQUEST,
            r#"{"error":"invalid_target"}"#.to_owned(),
        ),
        Answers::Broken => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

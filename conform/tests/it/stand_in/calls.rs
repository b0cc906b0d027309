//! Connections of the stand-in, and the decisions on what comes over them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counterfoil_entry::word::{Decision, Outcome};
use counterfoil_entry::{Hash, clock};
use counterfoil_trust::allow::{Asked, Reason, Verdict, is_unambiguous};
use counterfoil_trust::token::Authorization;
use counterfoil_trust::{Expect, client_config, peer_of, refusal_of_io, server_name};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::forward::{self, Sent};
use super::heads::{self, Head, Unread};
use super::pen::Trace;
use super::{CALLER, Side};

/// Who calls, as its certificate says.
#[derive(Debug, Clone)]
struct Peer {
    id: String,
    cert: Hash,
}

/// A response before it is written.
type Answer = (u16, Vec<u8>);

pub(crate) async fn from_peer(side: Arc<Side>, stream: TcpStream, address: SocketAddr) {
    const HANDSHAKE: u8 = 22;
    let mut first = [0; 1];
    let peeked = stream.peek(&mut first).await;
    let anybody = Peer {
        id: CALLER.to_owned(),
        cert: Hash::default(),
    };
    if matches!(peeked, Ok(1..)) && first != [HANDSHAKE] && side.flaws.has("plaintext") {
        return serve(&side, stream, &anybody).await;
    }
    let acceptor = TlsAcceptor::from(Arc::clone(&side.tls));
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            if let Some(refusal) = refusal_of_io(&error) {
                side.pen.refused_handshake(address.port(), refusal.reason());
            }
            return;
        }
    };
    let session = stream.get_ref().1;
    let peer = match peer_of(session.peer_certificates().unwrap_or_default()) {
        Ok(peer) => Peer {
            id: peer.spiffe_id.as_str().to_owned(),
            cert: peer.cert_sha256,
        },
        Err(_) => anybody.clone(),
    };
    // who is let in by a flaw is taken for the caller that holds the grants
    let peer = if peer.id == CALLER { peer } else { anybody };
    if session.alpn_protocol() != Some(b"h2") {
        return serve(&side, stream, &peer).await;
    }
    if side.flaws.has("frames") {
        return answer_any_frames(stream).await;
    }
    let service = service_fn(|request: http::Request<Incoming>| {
        let (side, peer) = (Arc::clone(&side), peer.clone());
        async move { Ok::<_, Infallible>(serve_h2(&side, &peer, request).await) }
    });
    let server = http2::Builder::new(TokioExecutor::new());
    drop(server.serve_connection(TokioIo::new(stream), service).await);
}

/// Answers every stream with 200, whatever it asks for.
async fn answer_any_frames(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut some = [0; 4_096];
    if stream.read(&mut some).await.is_ok() {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let headers = [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88];
        drop(stream.write_all(&[&settings[..], &headers].concat()).await);
        while matches!(stream.read(&mut some).await, Ok(1..)) {}
    }
}

async fn serve_h2(
    side: &Side,
    peer: &Peer,
    request: http::Request<Incoming>,
) -> http::Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let mut head = Head {
        method: parts.method.to_string(),
        target: parts
            .uri
            .path_and_query()
            .map_or("", |path| path.as_str())
            .to_owned(),
        version: "HTTP/2".to_owned(),
        headers: Vec::new(),
    };
    if let Some(authority) = parts.uri.authority() {
        head.headers
            .push(("host".to_owned(), authority.to_string()));
    }
    for (name, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        head.headers.push((name.as_str().to_owned(), value));
    }
    let mut response = http::Response::new(Full::default());
    let (status, body) = match body.collect().await {
        Ok(body) => decide_and_forward(side, peer, head, &body.to_bytes(), &mut Never).await,
        Err(_) => Some((400, Vec::new())),
    }
    .unwrap_or((400, Vec::new()));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    response.map(|_: Full<Bytes>| Full::new(Bytes::from(body)))
}

/// Serves HTTP/1.1.
async fn serve(side: &Side, mut stream: impl AsyncRead + AsyncWrite + Unpin, peer: &Peer) {
    let mut bytes = Vec::new();
    loop {
        let (head, body) = match heads::read(&mut stream, &mut bytes, &side.flaws).await {
            Ok(read) => read,
            Err(Unread::Bad(why)) => {
                return answer(&mut stream, (400, why.into()), true).await;
            }
            Err(Unread::Gone(Some(head))) => {
                let trace = Trace::of(&head, &side.flaws);
                let verdict = decide(side, peer, &head);
                let entry = side.pen.server(&peer.id, &head, trace, &verdict);
                return side.pen.end(entry, Outcome::Aborted);
            }
            Err(Unread::Gone(None) | Unread::Over) => return,
        };
        let close = head.wants_close();
        let Some(answered) = decide_and_forward(side, peer, head, &body, &mut stream).await else {
            return;
        };
        answer(&mut stream, answered, close).await;
        if close {
            return;
        }
    }
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), (status, body): Answer, close: bool) {
    let connection = if close { "connection: close\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n{connection}\r\n",
        body.len()
    );
    drop(stream.write_all(&[head.as_bytes(), &body].concat()).await);
    if close {
        drop(stream.shutdown().await);
    }
}

/// Decides on a request and forwards it; `None` when the caller is gone, which `caller` tells.
async fn decide_and_forward(
    side: &Side,
    peer: &Peer,
    mut head: Head,
    body: &[u8],
    caller: &mut (impl AsyncRead + Unpin),
) -> Option<Answer> {
    let trace = Trace::of(&head, &side.flaws);
    let host = one_host(side, &mut head);
    let mut verdict = match host {
        Ok(()) => decide(side, peer, &head),
        Err(_) => Verdict::denied(Reason::HostMismatch),
    };
    let reason = verdict.reason.as_str();
    let denied = verdict.decision == Decision::Deny;
    if denied && side.flaws.has(reason) {
        verdict.decision = Decision::Allow;
    }
    let shadow = verdict.shadow.map(|(decision, _)| decision);
    if shadow == Some(Decision::Deny) && side.flaws.has("shadow_enforced") {
        verdict.decision = Decision::Deny;
    }
    let entry = side.pen.server(&peer.id, &head, trace, &verdict);
    if verdict.decision == Decision::Deny {
        side.pen.end(entry, Outcome::Denied);
        let status = if host.is_ok() { 403 } else { 400 };
        return Some((status, reason.into()));
    }
    let request = forward::request(&head, body, trace, &side.flaws);
    let limit = Duration::from_secs(side.config.request_timeout_s);
    let sending = async {
        let mut app = TcpStream::connect(side.config.app_address).await.unwrap();
        forward::send(&mut app, &request, limit).await
    };
    let mut some = [0; 1];
    let sent = tokio::select! {
        sent = sending => sent,
        // nothing follows a request here but its caller's end
        Ok(0) | Err(_) = caller.read(&mut some) => {
            side.pen.end(entry, Outcome::Aborted);
            return None;
        }
    };
    let (outcome, answered) = match sent {
        Sent::Answered(status, body) => (Outcome::Ok, (status, body)),
        Sent::Reset => (Outcome::Unavailable, (502, Vec::new())),
        Sent::Timeout => (Outcome::Timeout, (504, Vec::new())),
    };
    side.pen.end(entry, outcome);
    Some(answered)
}

/// A caller whose end is not looked for.
struct Never;

impl AsyncRead for Never {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        _buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Pending
    }
}

/// Checks that one host is named, and takes it off the target.
fn one_host(side: &Side, head: &mut Head) -> Result<(), &'static str> {
    let hosts: Vec<String> = head
        .all("host")
        .iter()
        .map(|host| (*host).to_owned())
        .collect();
    let plain = |host: &str| {
        !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-.:".contains(c))
    };
    let mut target_host = None;
    if let Some(rest) = head.target.strip_prefix("http://") {
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        target_host = Some(host.to_owned());
        head.target = path.to_owned();
    }
    let same = target_host.is_none_or(|host| hosts.first() == Some(&host));
    let good = matches!(hosts.as_slice(), [host] if plain(host)) && same;
    if good {
        Ok(())
    } else {
        side.flaws.refuse("hosts")
    }
}

fn decide(side: &Side, peer: &Peer, head: &Head) -> Verdict {
    let flaws = &side.flaws;
    let mut path = head.target.clone();
    if flaws.has("fragment") {
        path = path.split('#').next().unwrap_or_default().to_owned();
    }
    if flaws.has("path_ambiguous") && !is_unambiguous(path.split('?').next().unwrap_or_default()) {
        path = simplified(&path);
    }
    if flaws.has("case") {
        path = path.to_lowercase();
    }
    let mut shown: Vec<Vec<u8>> = head
        .all("authorization")
        .iter()
        .map(|value| value.as_bytes().to_vec())
        .collect();
    if let Some((_, token)) = head.target.split_once("access_token=")
        && flaws.has("query_token")
    {
        shown.push(format!("Bearer {token}").into_bytes());
    }
    let asked = Asked {
        consumer: &peer.id,
        cert_sha256: peer.cert,
        method: &head.method,
        path: &path,
        authorization: Authorization::of(shown.iter().map(Vec::as_slice)),
    };
    let mut tokens = side.tokens.lock().unwrap();
    side.allow.decide_asked(&asked, &mut tokens, clock::wall())
}

/// A path as a kind reader takes it: decoded, without dots, empty segments and parameters.
fn simplified(path: &str) -> String {
    let mut path = path.replace("%25", "%");
    for (code, plain) in [
        ("%2e", "."),
        ("%2f", "/"),
        ("%5c", "/"),
        ("\\", "/"),
        ("%3b", ";"),
    ] {
        path = path
            .replace(code, plain)
            .replace(&code.to_uppercase(), plain);
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

/// Serves the application's own calls.
pub(crate) async fn from_app(side: Arc<Side>, mut stream: TcpStream, _address: SocketAddr) {
    let mut bytes = Vec::new();
    let Ok((head, body)) = heads::read(&mut stream, &mut bytes, &side.flaws).await else {
        return;
    };
    let trace = Trace::of(&head, &side.flaws);
    let own = side.part.identity.current();
    let mut entry = side.pen.client(own.spiffe_id().as_str(), trace);
    entry.decision = Decision::NotRequired;
    let called = call(&side, &head, &body, trace).await;
    let (outcome, answered) = match called {
        Some(Sent::Answered(status, body)) => (Outcome::Ok, (status, body)),
        _ => (Outcome::Unavailable, (503, Vec::new())),
    };
    side.pen.end(entry, outcome);
    answer(&mut stream, answered, true).await;
}

async fn call(side: &Side, head: &Head, body: &[u8], trace: Trace) -> Option<Sent> {
    let host = head.all("host").first().map(|host| (*host).to_owned())?;
    let instances = side
        .part
        .endpoints
        .instances
        .iter()
        .find(|one| one.name == host)?;
    let expect = if side.flaws.has("any_server") {
        Expect::AnyInDomain
    } else {
        Expect::Id(instances.spiffe_id.clone())
    };
    let tls = client_config(&side.part.identity, expect, &[b"http/1.1"]);
    let stream = TcpStream::connect(&instances.addresses[0]).await.ok()?;
    let mut stream = TlsConnector::from(tls)
        .connect(server_name(), stream)
        .await
        .ok()?;
    let request = forward::request(head, body, trace, &side.flaws);
    Some(forward::send(&mut stream, &request, Duration::from_secs(5)).await)
}

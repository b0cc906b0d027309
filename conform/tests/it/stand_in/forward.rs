//! What the stand-in sends on, and what comes back.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Flaws;
use super::heads::{Head, traceparent};
use super::pen::Trace;

const CLAIMS: [&str; 11] = [
    "forwarded",
    "x-forwarded-",
    "x-real-ip",
    "x-remote-",
    "x-ssl-client-",
    "ssl-client-",
    "x-client-cert",
    "x-counterfoil-",
    "x-forwarded-client-cert",
    "x-forwarded-host",
    "x-forwarded-user",
];
const OVERRIDES: [&str; 5] = [
    "x-http-method",
    "x-method-override",
    "x-original-",
    "x-rewrite-",
    "x-forwarded-uri",
];
const OF_ONE_CONNECTION: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-authorization",
    "upgrade",
    "te",
    "transfer-encoding",
    "proxy-connection",
];

/// How a call to the next hop ended.
pub(crate) enum Sent {
    /// With this whole response.
    Answered(u16, Vec<u8>),
    /// The next hop broke off.
    Reset,
    /// It did not answer in time.
    Timeout,
}

/// The request for the next hop.
pub(crate) fn request(head: &Head, body: &[u8], trace: Trace, flaws: &Flaws) -> Vec<u8> {
    let mut head = head.clone();
    clean(&mut head, flaws);
    let malformed = traceparent(&head).is_none();
    let keeps = malformed && flaws.has("trace_malformed") && !head.all("traceparent").is_empty();
    if malformed {
        head.drop_all(|name| name == "tracestate");
    }
    if !keeps {
        head.drop_all(|name| name == "traceparent");
        let span = if flaws.has("trace_parent_kept") {
            trace.parent.unwrap_or(trace.span)
        } else {
            trace.span
        };
        let value = format!("00-{}-{span}-01", trace.trace);
        head.headers.push(("traceparent".to_owned(), value));
    }
    let mut target = head.target.as_str();
    if !flaws.has("fragment") {
        target = target.split('#').next().unwrap_or_default();
    }
    let mut text = format!("{} {target} HTTP/1.1\r\n", head.method);
    for (name, value) in &head.headers {
        text += &format!("{name}: {value}\r\n");
    }
    if flaws.has("both_lengths") || !body.is_empty() && head.all("content-length").is_empty() {
        text += &format!("content-length: {}\r\n", body.len());
    }
    let bytes: Vec<u8> = text
        .chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?'))
        .collect();
    [&bytes, &b"\r\n"[..], body].concat()
}

fn clean(head: &mut Head, flaws: &Flaws) {
    let like = |name: &str, begin: &str| name.replace('_', "-").starts_with(begin);
    let nominated: Vec<String> = head
        .all("connection")
        .iter()
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_lowercase())
        .collect();
    let rests_on = [
        "traceparent",
        "tracestate",
        "host",
        "content-type",
        "content-length",
    ];
    let both = flaws.has("both_lengths");
    head.drop_all(|name| {
        let protected = rests_on.contains(&name) && !flaws.has("nominated");
        let of_connection =
            OF_ONE_CONNECTION.contains(&name) && !(both && name == "transfer-encoding");
        of_connection || nominated.iter().any(|one| one == name) && !protected
    });
    if !flaws.has("overrides") {
        head.drop_all(|name| OVERRIDES.iter().any(|begin| like(name, begin)));
    }
    if !flaws.has("claims") {
        let kept = |name: &str| flaws.has("overrides") && like(name, "x-forwarded-uri");
        head.drop_all(|name| !kept(name) && CLAIMS.iter().any(|begin| like(name, begin)));
    }
    let members = head.all("tracestate").join(",").split(',').count();
    if members > 32 && !flaws.has("tracestate") {
        head.drop_all(|name| name == "tracestate");
    }
    if head.all("baggage").join(",").len() > 8_192 && !flaws.has("baggage") {
        head.drop_all(|name| name == "baggage");
    }
}

/// Sends a request and reads the whole response: its status, and body.
pub(crate) async fn send(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
    limit: Duration,
) -> Sent {
    let asking = async {
        stream.write_all(request).await.ok()?;
        let mut bytes = Vec::new();
        loop {
            if let Some(whole) = response(&bytes) {
                return Some(whole);
            }
            match stream.read_buf(&mut bytes).await {
                Ok(1..) => {}
                _ => return None,
            }
        }
    };
    match tokio::time::timeout(limit, asking).await {
        Ok(Some((status, body))) => Sent::Answered(status, body),
        Ok(None) => Sent::Reset,
        Err(_) => Sent::Timeout,
    }
}

/// A response whose body has a length, once it is whole.
fn response(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head
        .split("\r\n")
        .find_map(|line| line.strip_prefix("content-length:"))
        .map_or(0, |value| value.trim().parse().unwrap());
    let body = bytes.get(end..end + length)?;
    Some((status, body.to_vec()))
}

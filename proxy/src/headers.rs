//! Which headers may cross the proxy: none that belong to one connection, none that claim who calls.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, HeaderName,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};

use crate::trace_context::{TRACEPARENT, TRACESTATE};

/// Says on a proxy-made response, in one stable word, why it was made.
pub(crate) const REASON: HeaderName = HeaderName::from_static("x-counterfoil-reason");
/// The prefix that only proxies use.
const OURS: &str = "x-counterfoil-";

/// Headers of one connection (RFC 9110, 7.6.1), and `expect`, which this proxy has answered.
const OF_ONE_CONNECTION: [HeaderName; 10] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
    EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// Headers that `Connection` cannot take away: the two halves of a call are matched, and its message
/// is read, by them.
const OF_THE_CALL: [HeaderName; 5] = [TRACEPARENT, TRACESTATE, HOST, CONTENT_LENGTH, CONTENT_TYPE];

/// Headers with which a caller could claim to be someone, or to have asked for something else.
const CLAIMS: [&str; 7] = [
    "forwarded",
    "x-real-ip",
    "x-client-cert",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-host",
];
/// The same, by how their names begin.
const CLAIMS_BEGIN: [&str; 7] = [
    OURS,
    "x-forwarded-",
    "x-original-",
    "x-rewrite-",
    "x-remote-",
    "x-ssl-client-",
    "ssl-client-",
];

/// Context of applications that crosses hops (W3C Baggage).
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// Bytes of it that everybody must carry (3.3.2). What is more is dropped whole: it is nobody's to
/// choose among its members, and each hop would carry it.
const BAGGAGE_BYTES_MAX: usize = 8_192;

/// Takes from a request what must not reach the next hop. gRPC keeps its `te: trailers`.
pub(crate) fn clean_request(headers: &mut HeaderMap, grpc: bool) {
    drop_of_one_connection(headers);
    drop_where(headers, is_claim);
    if baggage_bytes(headers) > BAGGAGE_BYTES_MAX {
        headers.remove(BAGGAGE);
    }
    if grpc {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes from the trailers of a request or a response what may not stand there. No proxy says
/// anything in trailers.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    drop_of_one_connection(trailers);
    drop_where(trailers, |name| {
        is_claim(name) || *name == AUTHORIZATION || OF_THE_CALL.iter().any(|known| known == name)
    });
}

/// Joins the cookies of a request for a next hop that speaks HTTP/1.1: in HTTP/2 each may have a line
/// of its own, and in HTTP/1.1 they share one (RFC 9113, 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if lines.len() < 2 {
        return;
    }
    // parts that are header values make one
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Takes from a response what must not reach the caller. Only a proxy may say `x-counterfoil-*`.
pub(crate) fn clean_response(headers: &mut HeaderMap, from_proxy: bool) {
    drop_of_one_connection(headers);
    if !from_proxy {
        drop_where(headers, |name| begins_as(name, OURS));
    }
}

/// Its length when its headers are joined by commas.
fn baggage_bytes(headers: &HeaderMap) -> usize {
    let values = headers.get_all(BAGGAGE).iter();
    values
        .map(|value| value.len() + 1)
        .sum::<usize>()
        .saturating_sub(1)
}

fn drop_of_one_connection(headers: &mut HeaderMap) {
    // most requests of a modern client carry none, and then nothing is allocated here
    let nominating: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    for value in &nominating {
        for name in value.to_str().unwrap_or("").split(',') {
            match HeaderName::from_bytes(name.trim().as_bytes()) {
                Ok(name) if !OF_THE_CALL.contains(&name) => headers.remove(name),
                _ => None,
            };
        }
    }
    // chunks tell where a body ends, and a length beside them would tell the next hop otherwise
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in &OF_ONE_CONNECTION {
        headers.remove(name);
    }
}

fn drop_where(headers: &mut HeaderMap, drops: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = headers.keys().find(|name| drops(name)).cloned() {
        headers.remove(name);
    }
}

fn is_claim(name: &HeaderName) -> bool {
    CLAIMS
        .iter()
        .any(|claim| name.as_str().len() == claim.len() && begins_as(name, claim))
        || CLAIMS_BEGIN.iter().any(|begin| begins_as(name, begin))
}

/// Whether `name` begins with `begin` for a reader to whom `_` is `-`, as it is to applications that
/// get headers as environment variables.
fn begins_as(name: &HeaderName, begin: &str) -> bool {
    let name = name.as_str().as_bytes();
    name.len() >= begin.len()
        && name
            .iter()
            .zip(begin.as_bytes())
            .all(|(byte, wanted)| byte == wanted || (*byte == b'_' && *wanted == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_request_loses_its_connection_and_every_claim_about_its_caller() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("x-forwarded-client-cert", "By=someone"),
            ("x-counterfoil-anything", "1"),
            ("x-counterfoil-reason", "granted"),
            ("x-original-url", "/admin"),
            ("forwarded", "for=1"),
            ("x_real_ip", "1"),
            ("x-forwarded_user", "root"),
            ("ssl_client_verify", "SUCCESS"),
            ("authorization", "Bearer x"),
            ("accept", "*/*"),
            ("x-host-name", "kept"),
        ]);
        clean_request(&mut headers, false);
        assert_eq!(names(&headers), ["accept", "authorization", "x-host-name"]);
    }

    #[test]
    fn what_the_call_rests_on_cannot_be_nominated_away() {
        let mut headers = map(&[
            (
                "connection",
                "Traceparent, tracestate, host, content-length, content-type",
            ),
            ("traceparent", "1"),
            ("content-length", "1"),
            ("content-type", "application/grpc"),
        ]);
        clean_request(&mut headers, false);
        assert_eq!(
            names(&headers),
            ["content-length", "content-type", "traceparent"]
        );
    }

    #[test]
    fn cookies_share_a_line_only_where_there_are_several() {
        let mut headers = map(&[("cookie", "a=1")]);
        join_cookies(&mut headers);
        assert_eq!(headers[COOKIE], "a=1");
        headers.append(COOKIE, HeaderValue::from_static("b=2; c=3"));
        join_cookies(&mut headers);
        assert_eq!(headers.len(), 1);
        assert_eq!(headers[COOKIE], "a=1; b=2; c=3");
    }

    #[test]
    fn chunks_beat_a_length() {
        let mut headers = map(&[("content-length", "5"), ("transfer-encoding", "chunked")]);
        clean_response(&mut headers, false);
        assert!(headers.is_empty(), "{headers:?}");
    }

    #[test]
    fn several_connection_headers_are_all_obeyed() {
        let mut headers = map(&[("x-a", "1"), ("x-b", "1"), ("x-c", "1")]);
        headers.append(CONNECTION, HeaderValue::from_static("x-a"));
        headers.append(CONNECTION, HeaderValue::from_static("x-b, close"));
        clean_request(&mut headers, false);
        assert_eq!(names(&headers), ["x-c"]);
    }

    #[test]
    fn a_grpc_request_keeps_its_te_trailers() {
        let mut headers = map(&[("te", "trailers")]);
        clean_request(&mut headers, true);
        assert_eq!(headers[TE], "trailers");
    }

    #[test]
    fn baggage_crosses_up_to_its_limit() {
        for (lengths, kept) in [
            (&[8_192][..], true),
            (&[8_193], false),
            (&[4_096, 4_095], true),
            (&[4_096, 4_096], false),
        ] {
            let mut headers = HeaderMap::new();
            for length in lengths {
                let value = HeaderValue::from_str(&"x".repeat(*length)).unwrap();
                headers.append(BAGGAGE, value);
            }
            clean_request(&mut headers, false);
            assert_eq!(headers.contains_key(BAGGAGE), kept, "{lengths:?}");
        }
    }

    #[test]
    fn only_a_proxy_may_give_a_reason() {
        let mut headers = map(&[("x-counterfoil-reason", "granted"), ("etag", "x")]);
        clean_response(&mut headers, true);
        assert_eq!(names(&headers), ["etag", "x-counterfoil-reason"]);
        clean_response(&mut headers, false);
        assert_eq!(names(&headers), ["etag"]);
    }
}

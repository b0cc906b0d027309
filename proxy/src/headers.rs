//! Which headers may cross the proxy: none that belong to one connection, none that claim who calls.

use http::header::{
    CONNECTION, EXPECT, FORWARDED, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};

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

/// Headers with which a caller could claim to be someone, or to have asked for something else.
const CLAIMS: [HeaderName; 12] = [
    FORWARDED,
    HeaderName::from_static("x-forwarded-client-cert"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-user"),
    HeaderName::from_static("x-forwarded-email"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-remote-user"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
];

/// Takes from a request what must not reach the next hop. gRPC keeps its `te: trailers`.
pub(crate) fn clean_request(headers: &mut HeaderMap, grpc: bool) {
    drop_of_one_connection(headers);
    for name in &CLAIMS {
        headers.remove(name);
    }
    drop_ours(headers);
    if grpc {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes from a response what must not reach the caller. Only a proxy may say `x-counterfoil-*`.
pub(crate) fn clean_response(headers: &mut HeaderMap, from_proxy: bool) {
    drop_of_one_connection(headers);
    if !from_proxy {
        drop_ours(headers);
    }
}

fn drop_of_one_connection(headers: &mut HeaderMap) {
    // most requests of a modern client carry none, and then nothing is allocated here
    let nominating: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    for value in &nominating {
        for name in value.to_str().unwrap_or("").split(',') {
            if let Ok(name) = HeaderName::from_bytes(name.trim().as_bytes()) {
                headers.remove(name);
            }
        }
    }
    for name in &OF_ONE_CONNECTION {
        headers.remove(name);
    }
}

fn drop_ours(headers: &mut HeaderMap) {
    while let Some(name) = headers
        .keys()
        .find(|name| name.as_str().starts_with(OURS))
        .cloned()
    {
        headers.remove(name);
    }
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
            ("authorization", "Bearer x"),
            ("accept", "*/*"),
        ]);
        clean_request(&mut headers, false);
        assert_eq!(names(&headers), ["accept", "authorization"]);
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
    fn only_a_proxy_may_give_a_reason() {
        let mut headers = map(&[("x-counterfoil-reason", "granted"), ("etag", "x")]);
        clean_response(&mut headers, true);
        assert_eq!(names(&headers), ["etag", "x-counterfoil-reason"]);
        clean_response(&mut headers, false);
        assert_eq!(names(&headers), ["etag"]);
    }
}

//! The strict gate that every request passes before it is routed: one host, one way to tell where
//! its body ends, and no tunnel.

use http::header::{HOST, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, StatusCode};

/// Why a request is turned away at the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turned {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
}

const MALFORMED: Turned = Turned {
    status: StatusCode::BAD_REQUEST,
    reason: "req_malformed",
};
const TWO_HOSTS: Turned = Turned {
    status: StatusCode::BAD_REQUEST,
    reason: "host_mismatch",
};
const NO_TUNNEL: Turned = Turned {
    status: StatusCode::METHOD_NOT_ALLOWED,
    reason: "method_not_declared",
};

/// The one authority that the request names, in its target or its `Host`.
///
/// # Errors
/// [`Turned`] when it names none or two, credentials in it, asks for `CONNECT` or `TRACE`, or has a
/// transfer coding besides one `chunked`.
pub(crate) fn pass<B>(request: &Request<B>) -> Result<Authority, Turned> {
    if request.method() == Method::CONNECT || request.method() == Method::TRACE {
        return Err(NO_TUNNEL);
    }
    if !is_plainly_framed(request.headers()) {
        return Err(MALFORMED);
    }
    let uri = request.uri();
    if uri
        .scheme()
        .is_some_and(|scheme| !matches!(scheme.as_str(), "http" | "https"))
    {
        return Err(MALFORMED);
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(MALFORMED);
    }
    let host = match host {
        Some(value) => Some(Authority::try_from(value.as_bytes()).map_err(|_malformed| MALFORMED)?),
        None => None,
    };
    let authority = match (uri.authority(), host) {
        (Some(target), Some(host)) if *target != host => return Err(TWO_HOSTS),
        (Some(target), _) => target.clone(),
        (None, Some(host)) => host,
        (None, None) => return Err(MALFORMED),
    };
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(MALFORMED);
    }
    Ok(authority)
}

/// Whether a body comes in chunks and nothing else. Other codings would be passed on without their
/// names, and `chunked` twice is read differently by different readers.
fn is_plainly_framed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(one), None) => one.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, uri: &str, hosts: &[&str]) -> Request<()> {
        let mut builder = Request::builder().method(method).uri(uri);
        for host in hosts {
            builder = builder.header(HOST, *host);
        }
        builder.body(()).unwrap()
    }

    #[test]
    fn one_host_passes_wherever_it_stands() {
        for (uri, hosts) in [
            ("/x", vec!["cart:80"]),
            ("http://cart:80/x", vec![]),
            ("http://cart:80/x", vec!["cart:80"]),
            ("http://cart:80/x", vec!["CART:80"]),
        ] {
            let authority = pass(&request("GET", uri, &hosts)).unwrap();
            assert!(
                authority.host().eq_ignore_ascii_case("cart"),
                "{uri} {hosts:?}"
            );
        }
    }

    #[test]
    fn none_two_or_contradicting_hosts_are_turned_away() {
        for (method, uri, hosts, expected) in [
            ("GET", "/x", vec![], MALFORMED),
            ("GET", "/x", vec!["cart", "cart"], MALFORMED),
            ("GET", "/x", vec![""], MALFORMED),
            ("GET", "/x", vec!["root@cart"], MALFORMED),
            ("GET", "/x", vec!["a b"], MALFORMED),
            ("GET", "http://cart/x", vec!["other"], TWO_HOSTS),
            ("GET", "ftp://cart/x", vec!["cart"], MALFORMED),
            ("TRACE", "/x", vec!["cart"], NO_TUNNEL),
            ("CONNECT", "cart:80", vec!["cart:80"], NO_TUNNEL),
        ] {
            assert_eq!(
                pass(&request(method, uri, &hosts)),
                Err(expected),
                "{method} {uri} {hosts:?}"
            );
        }
    }

    #[test]
    fn chunks_are_the_only_transfer_coding() {
        for (codings, passes) in [
            (&[][..], true),
            (&["chunked"], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["gzip", "chunked"], false),
            (&["chunked", "chunked"], false),
            (&["chunked, chunked"], false),
            (&["identity"], false),
            (&[""], false),
        ] {
            let mut request = request("POST", "/x", &["cart"]);
            for coding in codings {
                let value = http::HeaderValue::from_static(coding);
                request.headers_mut().append(TRANSFER_ENCODING, value);
            }
            assert_eq!(pass(&request).is_ok(), passes, "{codings:?}");
        }
    }
}

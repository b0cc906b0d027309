//! The strict gate that every request passes before it is routed: one host, and no tunnel.

use http::header::HOST;
use http::uri::Authority;
use http::{Method, Request, StatusCode};

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
/// [`Turned`] when it names none or two, credentials in it, or asks for `CONNECT` or `TRACE`.
pub(crate) fn pass<B>(request: &Request<B>) -> Result<Authority, Turned> {
    if request.method() == Method::CONNECT || request.method() == Method::TRACE {
        return Err(NO_TUNNEL);
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
}

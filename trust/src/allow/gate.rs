//! The strict path gate: a path that two readers could read differently reaches no router.

/// The path of a request target, without the query; `None` when it could be read in more than one way.
///
/// An application may decode, fold or normalise a path before it dispatches. What it could then take
/// for another path than the router did is refused: empty and dot segments, `;` parameters, encoded
/// separators, encoded unreserved characters, double encoding, backslashes, control and non-ASCII bytes,
/// and encoded bytes that are not UTF-8, as a slash in more bytes than it needs is.
pub(super) fn path_of(target: &str) -> Option<&str> {
    let path = target.split_once('?').map_or(target, |(path, _query)| path);
    is_unambiguous(path).then_some(path)
}

/// Whether `path`, which begins with `/` and has no query, can be read in one way only.
pub fn is_unambiguous(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    // The root and one trailing slash are the only empty segments that mean one thing.
    let segments = rest.strip_suffix('/').unwrap_or(rest);
    if rest == "/" || (!segments.is_empty() && segments.split('/').any(is_special)) {
        return false;
    }
    bytes_are_plain(path.as_bytes()) && escapes_are_utf8(path.as_bytes())
}

/// Whether what is encoded, read together with what is not, is UTF-8. Escapes are well-formed.
fn escapes_are_utf8(path: &[u8]) -> bool {
    if !path.contains(&b'%') {
        return true;
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        rest = match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                decoded.extend(escaped(*high, *low));
                after
            }
            _ => {
                decoded.push(*byte);
                after
            }
        };
    }
    std::str::from_utf8(&decoded).is_ok()
}

fn is_special(segment: &str) -> bool {
    matches!(segment, "" | "." | "..")
}

fn bytes_are_plain(path: &[u8]) -> bool {
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        rest = match byte {
            b'%' => match after {
                [high, low, after @ ..] if may_be_encoded(*high, *low) => after,
                _ => return false,
            },
            b'\\' | b';' | b'#' | b'?' | b'<' | b'>' | b'"' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                return false;
            }
            0x21..=0x7e => after,
            _ => return false,
        };
    }
    true
}

/// Whether `%` and these two hex digits stand for a byte that could not have come unencoded, so that
/// decoding it changes neither the segments nor the literals that a router compares.
fn may_be_encoded(high: u8, low: u8) -> bool {
    let Some(byte) = escaped(high, low) else {
        return false;
    };
    let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let separates = matches!(byte, b'/' | b'\\' | b'%' | b';');
    !unreserved && !separates && !byte.is_ascii_control()
}

fn escaped(high: u8, low: u8) -> Option<u8> {
    Some(hex(high)? << 4 | hex(low)?)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_pass_and_lose_their_query() {
        for (target, path) in [
            ("/", "/"),
            ("/accounts", "/accounts"),
            ("/accounts/", "/accounts/"),
            ("/accounts/4711?pin=//../%2e", "/accounts/4711"),
            ("/shop.Cart/Get-Cart_1~", "/shop.Cart/Get-Cart_1~"),
            ("/a/..b/c..", "/a/..b/c.."),
            ("/a/:b@c,d!$&'()*+=", "/a/:b@c,d!$&'()*+="),
            ("/na%C3%AFve/a%20b", "/na%C3%AFve/a%20b"),
        ] {
            assert_eq!(path_of(target), Some(path), "{target}");
        }
    }

    #[test]
    fn ambiguous_paths_do_not() {
        for target in [
            "",
            "*",
            "accounts",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/./",
            "/..",
            "/../a",
            "/a/./b",
            "/a/../b",
            "/a/..",
            "/a/%2e%2e/b",
            "/a/%2E",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a;b",
            "/a%3bb",
            "/a%00",
            "/a\0",
            "/a\tb",
            "/a b",
            "/a\u{7f}",
            "/ä",
            "/a%",
            "/a%4",
            "/a%zz",
            "/%61dmin",
            "/a%252e",
            "/a%C0%AFb",
            "/a%e0%80%afb",
            "/a%ff",
            "/a%C3",
            "/a%C3/%A4",
            "/a#b",
            "/{id}",
            "http://host/a",
        ] {
            assert_eq!(path_of(target), None, "{target:?}");
        }
    }
}

//! `traceparent` read, continued and written as W3C Trace Context level 1 says, and new ids minted.

use std::sync::atomic::{AtomicU64, Ordering};

use counterfoil_entry::Time;
use counterfoil_entry::id::{SpanId, TraceId};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries trace and parent.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header that carries vendors' own positions; means nothing without a valid `traceparent`.
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Members of a `tracestate` (3.3.1.1); what has more is dropped whole, as a part could mislead.
const STATES_MAX: usize = 32;
/// Bytes of a version 00 header: `00-<32 hex>-<16 hex>-<2 hex>`.
const LENGTH: usize = 55;

/// What a valid `traceparent` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent {
    pub(crate) trace_id: TraceId,
    pub(crate) parent: SpanId,
    pub(crate) flags: u8,
}

impl TraceParent {
    /// The caller's context; `None` when there is no header, more than one, or a malformed one.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        Self::parse(value.as_bytes())
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let head = text.get(..LENGTH)?;
        let version = octet(head.get(..2)?)?;
        match (version, text.get(LENGTH)) {
            (0xff, _) => return None,
            (0, Some(_)) => return None,
            // a later version may go on after a dash; what we know of it stays where it is
            (_, None | Some(b'-')) => {}
            _ => return None,
        }
        for at in [2, 35, 52] {
            if head.get(at) != Some(&b'-') {
                return None;
            }
        }
        let mut trace_id = [0; 16];
        let mut parent = [0; 8];
        lower_hex(head.get(3..35)?, &mut trace_id)?;
        lower_hex(head.get(36..52)?, &mut parent)?;
        Some(Self {
            trace_id: TraceId::new(trace_id)?,
            parent: SpanId::new(parent)?,
            flags: octet(head.get(53..55)?)?,
        })
    }

    /// The header for the next hop, in version 00.
    pub(crate) fn header(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        put_hex(&mut text, 3, self.trace_id.bytes());
        put_hex(&mut text, 36, self.parent.bytes());
        put_hex(&mut text, 53, &[self.flags]);
        // the array holds hex digits and dashes only, which every header value may
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// Makes `headers` continue their trace under the span `span`, or begin a trace: the trace, and the
/// caller's span when it named one. A new trace asks nobody to record (flag 0): entries are written
/// anyway, and sampling is the applications' own affair.
pub(crate) fn follow(
    headers: &mut HeaderMap,
    span: SpanId,
    now: Time,
) -> (TraceId, Option<SpanId>) {
    let caller = TraceParent::read(headers);
    if caller.is_none() || states(headers) > STATES_MAX {
        headers.remove(TRACESTATE);
    }
    let trace_id = caller.map_or_else(|| mint_trace_id(now), |caller| caller.trace_id);
    let flags = caller.map_or(0, |caller| caller.flags);
    headers.insert(
        TRACEPARENT,
        TraceParent {
            trace_id,
            parent: span,
            flags,
        }
        .header(),
    );
    (trace_id, caller.map(|caller| caller.parent))
}

/// The members of all `tracestate` headers.
fn states(headers: &HeaderMap) -> usize {
    let values = headers.get_all(TRACESTATE).iter();
    values
        .map(|value| value.as_bytes().split(|byte| *byte == b',').count())
        .sum()
}

fn octet(text: &[u8]) -> Option<u8> {
    let mut byte = [0; 1];
    lower_hex(text, &mut byte)?;
    let [byte] = byte;
    Some(byte)
}

/// Decodes lower-case hex; upper case is malformed in a `traceparent`.
fn lower_hex(text: &[u8], out: &mut [u8]) -> Option<()> {
    if text.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    hex::decode_to_slice(text, out).ok()
}

fn put_hex(text: &mut [u8; LENGTH], at: usize, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let pairs = text.iter_mut().skip(at);
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    for (slot, digit) in pairs.zip(digits) {
        *slot = DIGITS.get(usize::from(digit)).copied().unwrap_or(b'0');
    }
}

/// A new trace id: 6 bytes of milliseconds, so that a lookup finds its file by time, and 10 random.
pub(crate) fn mint_trace_id(now: Time) -> TraceId {
    let milliseconds = u64::try_from(now.as_ns() / 1_000_000).unwrap_or(0);
    loop {
        let mut bytes: [u8; 16] = rand::random();
        for (slot, byte) in bytes
            .iter_mut()
            .zip(milliseconds.to_be_bytes().into_iter().skip(2))
        {
            *slot = byte;
        }
        if let Some(id) = TraceId::new(bytes) {
            return id;
        }
    }
}

/// Span ids of one lane: a random prefix of 4 bytes and a counter.
///
/// Unique in practice, and they compress. Used by one thread.
#[derive(Debug)]
pub(crate) struct SpanIds(AtomicU64);

impl SpanIds {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new((u64::from(rand::random::<u32>()) << 32) | 1))
    }

    pub(crate) fn mint(&self) -> SpanId {
        loop {
            let id = self.0.fetch_add(1, Ordering::Relaxed);
            if let Some(id) = SpanId::new(id.to_be_bytes()) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(values: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for value in values {
            map.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn a_valid_header_is_read_and_written_back_letter_for_letter() {
        let context = TraceParent::read(&headers(&[GOOD])).unwrap();
        assert_eq!(
            context.trace_id.to_string(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        assert_eq!(context.parent.to_string(), "00f067aa0ba902b7");
        assert_eq!(context.flags, 1);
        assert_eq!(context.header(), GOOD);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = GOOD.replacen("00", "cc", 1);
        for text in [later.clone(), format!("{later}-what-the-future-brings")] {
            let context = TraceParent::read(&headers(&[&text])).unwrap();
            assert_eq!(context.header(), GOOD);
        }
        assert_eq!(TraceParent::read(&headers(&[&format!("{later}.x")])), None);
    }

    #[test]
    fn malformed_headers_are_no_context() {
        let cases = [
            String::new(),
            "garbage".into(),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            format!("{GOOD}-extra"),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace("-01", "_01"),
            GOOD.replace("-01", "-0g"),
            GOOD.trim_end_matches('1').into(),
        ];
        for case in &cases {
            assert_eq!(TraceParent::read(&headers(&[case])), None, "{case}");
        }
        assert_eq!(
            TraceParent::read(&headers(&[GOOD, GOOD])),
            None,
            "two headers"
        );
        assert_eq!(TraceParent::read(&headers(&[])), None);
    }

    #[test]
    fn a_malformed_context_begins_a_new_trace_and_loses_its_tracestate() {
        let span = SpanIds::new().mint();
        let mut map = headers(&["00-broken"]);
        map.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
        let (trace_id, parent) = follow(&mut map, span, Time::from_ns(1));
        assert_eq!(parent, None);
        assert!(!map.contains_key(TRACESTATE));
        assert_eq!(map[TRACEPARENT], format!("00-{trace_id}-{span}-00"));

        let mut map = headers(&[GOOD]);
        map.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
        let (trace_id, parent) = follow(&mut map, span, Time::from_ns(1));
        assert_eq!(parent.unwrap().to_string(), "00f067aa0ba902b7");
        assert_eq!(map[TRACESTATE], "vendor=1");
        assert_eq!(map[TRACEPARENT], format!("00-{trace_id}-{span}-01"));
    }

    #[test]
    fn a_tracestate_of_too_many_members_is_dropped() {
        for (members, kept) in [(32, true), (33, false)] {
            let mut map = headers(&[GOOD]);
            let (first, second) = ("a=1,".repeat(10), "b=2,".repeat(members - 10));
            for value in [first, second] {
                let value = HeaderValue::from_str(value.trim_end_matches(',')).unwrap();
                map.append(TRACESTATE, value);
            }
            follow(&mut map, SpanIds::new().mint(), Time::from_ns(1));
            assert_eq!(map.contains_key(TRACESTATE), kept, "{members} members");
        }
    }

    #[test]
    fn minted_trace_ids_begin_with_the_time_and_end_differently() {
        let now = Time::from_ns(0x0102_0304_0506 * 1_000_000);
        let (one, two) = (mint_trace_id(now), mint_trace_id(now));
        assert!(one.to_string().starts_with("010203040506"), "{one}");
        assert_ne!(one, two);
    }

    #[test]
    fn span_ids_of_a_lane_share_their_prefix_and_never_repeat() {
        let ids = SpanIds::new();
        let (one, two) = (ids.mint().to_string(), ids.mint().to_string());
        assert_eq!(one.get(..8), two.get(..8));
        assert_ne!(one, two);
    }
}

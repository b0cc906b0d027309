//! What came lately: entries that come twice, and calls whose two sides must share an id.

use std::collections::HashMap;

use counterfoil_entry::Time;
use counterfoil_entry::id::{SpanId, TraceId};
use counterfoil_entry::tree::sha256;
use counterfoil_entry::word::Side;
use envoy_types::pb::envoy::data::accesslog::v3::AccessLogCommon;

/// Keys of a generation; two generations are remembered.
const GENERATION: usize = 65_536;

type Key = [u8; 16];

/// Bounded memory of the newest entries.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    entries: Window,
    calls: Window,
}

/// How often each of the newest keys came: between one and two generations of them.
#[derive(Debug, Default)]
struct Window {
    young: HashMap<Key, u32>,
    old: HashMap<Key, u32>,
}

impl Seen {
    /// Notes an entry of the node `node`; whether it came for the first time.
    ///
    /// The begin belongs to the key: a request id that an application hands on is the same in all the
    /// calls that it makes. What has no stream id cannot be told apart, and is new.
    pub(super) fn is_new(&mut self, node: &str, common: &AccessLogCommon) -> bool {
        if common.stream_id.is_empty() {
            return true;
        }
        let start = common.start_time.unwrap_or_default();
        let key = key(&[
            node.as_bytes(),
            common.stream_id.as_bytes(),
            &common.access_log_type.to_be_bytes(),
            &start.seconds.to_be_bytes(),
            &start.nanos.to_be_bytes(),
        ]);
        self.entries.count(key) == 0
    }

    /// The span id that both sides of a call have in common, whose request carried `trace_id` and
    /// `parent` and went to `destination`.
    ///
    /// An Envoy that traces nothing hands a `traceparent` on as it is, and several calls carry the same:
    /// the first of one side belongs to the first of the other, the second to the second. The id is a
    /// hash, so that no sender can choose one that a signed entry has.
    pub(super) fn span(
        &mut self,
        side: Side,
        (trace_id, parent): (TraceId, SpanId),
        destination: &str,
    ) -> Option<SpanId> {
        let call: [&[u8]; 3] = [trace_id.bytes(), parent.bytes(), destination.as_bytes()];
        let [trace, span, to] = call;
        let nth = self
            .calls
            .count(key(&[side.as_str().as_bytes(), trace, span, to]));
        let hash = key(&[trace, span, to, &nth.to_be_bytes()]);
        let (bytes, _) = hash.split_first_chunk()?;
        SpanId::new(*bytes)
    }
}

impl Window {
    /// How often `key` came before.
    fn count(&mut self, key: Key) -> u32 {
        let before = self.young.get(&key).or_else(|| self.old.get(&key));
        let before = before.copied().unwrap_or(0);
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, before.saturating_add(1));
        before
    }
}

fn key(parts: &[&[u8]]) -> Key {
    let mut bytes = Vec::new();
    for part in parts {
        let len = u64::try_from(part.len()).unwrap_or(u64::MAX);
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(part);
    }
    let hash = sha256(&bytes);
    hash.0.first_chunk().copied().unwrap_or_default()
}

/// A trace id of our own, with the time in front, so that a lookup finds its file by statistics.
pub(super) fn mint_trace_id(at: Time) -> Option<TraceId> {
    let mut bytes: [u8; 16] = rand::random();
    let ms = at.as_ns().div_euclid(1_000_000).to_be_bytes();
    for (byte, of_time) in bytes.iter_mut().zip(ms.iter().skip(2)) {
        *byte = *of_time;
    }
    TraceId::new(bytes)
}

pub(super) fn mint_span_id() -> Option<SpanId> {
    SpanId::new(rand::random())
}

/// Trace and span of a `traceparent`.
pub(super) fn traceparent(header: &str) -> Option<(TraceId, SpanId)> {
    let mut parts = header.split('-');
    let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let is_lower = header.bytes().all(|b| !b.is_ascii_uppercase());
    if !is_lower || version.len() != 2 || version == "ff" {
        return None;
    }
    Some((
        TraceId::new(hex::<16>(trace)?)?,
        SpanId::new(hex::<8>(span)?)?,
    ))
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_remembers_a_generation_and_forgets_in_the_end() {
        let mut window = Window::default();
        let key = |n: usize| (n as u128).to_be_bytes();
        assert_eq!(window.count(key(0)), 0);
        assert_eq!(window.count(key(0)), 1);
        for n in 1..GENERATION {
            assert_eq!(window.count(key(n)), 0);
        }
        assert_eq!(window.count(key(0)), 2);
        for n in GENERATION..4 * GENERATION {
            window.count(key(n));
        }
        assert_eq!(window.count(key(0)), 0);
        assert!(window.young.len() + window.old.len() <= 2 * GENERATION);
    }

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let (trace, span) = traceparent(good).unwrap();
        assert_eq!(trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span.to_string(), "00f067aa0ba902b7");
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-+0f067aa0ba902b7-01",
            "00-\u{e9}bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(traceparent(bad), None, "{bad}");
        }
    }
}

//! How many messages a protobuf message holds, told before it is decoded.
//!
//! Two bytes may stand for an empty message of which the decoded form takes two kilobytes: bounded bytes
//! alone would not bound memory.

use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// The messages at `path`, a field number for each level, in `message`, and those on the way to them;
/// `None` when it cannot be read.
pub(crate) fn messages(message: &[u8], path: &[u32]) -> Option<usize> {
    let Some((field, below)) = path.split_first() else {
        return Some(0);
    };
    let mut rest = message;
    let mut count = 0_usize;
    while rest.has_remaining() {
        let (tag, wire_type) = decode_key(&mut rest).ok()?;
        if tag != *field || wire_type != WireType::LengthDelimited {
            skip_field(wire_type, tag, &mut rest, DecodeContext::default()).ok()?;
            continue;
        }
        let len = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
        let (inner, after) = rest.split_at_checked(len)?;
        count = count
            .saturating_add(1)
            .saturating_add(messages(inner, below)?);
        rest = after;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use prost::Message as _;

    use super::*;

    #[test]
    fn messages_are_counted_on_every_level_of_the_path() {
        let scope = |n| ScopeSpans {
            spans: vec![Span::default(); n],
            schema_url: "https://example.org".to_owned(),
            ..ScopeSpans::default()
        };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![
                ResourceSpans {
                    scope_spans: vec![scope(3), scope(0)],
                    ..ResourceSpans::default()
                },
                ResourceSpans::default(),
            ],
        };
        let bytes = request.encode_to_vec();
        assert_eq!(messages(&bytes, &[1, 2, 2]), Some(2 + 2 + 3));
        assert_eq!(messages(&bytes, &[2]), Some(0));
        for cut in 1..bytes.len() {
            // No length fits its bytes any more: either this or a count, never a panic.
            let _any = messages(&bytes[..cut], &[1, 2, 2]);
        }
        assert_eq!(messages(&[0x0a, 0xff], &[1]), None);
    }
}

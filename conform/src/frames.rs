//! HTTP/2 to the byte: frames that no library would send.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use crate::check::Stop;
use crate::rig::{ANSWER_LIMIT, Call, MARKER, Probe, Rig};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const FRAME_HEAD_BYTES: usize = 9;

/// How a stream was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// With a status.
    Status(u16),
    /// With `RST_STREAM` of this code.
    Reset(u32),
    /// With `GOAWAY` of this code.
    Away(u32),
    /// The connection was closed.
    Closed,
    /// Not at all.
    Nothing,
}

impl Answered {
    pub(crate) fn is_refusal(self) -> bool {
        match self {
            Self::Status(status) => status >= 400,
            Self::Reset(_) | Self::Away(_) | Self::Closed => true,
            Self::Nothing => false,
        }
    }

    pub(crate) fn words(self) -> String {
        match self {
            Self::Status(status) => status.to_string(),
            Self::Reset(code) => format!("RST_STREAM {code}"),
            Self::Away(code) => format!("GOAWAY {code}"),
            Self::Closed => "closed".to_owned(),
            Self::Nothing => "no answer".to_owned(),
        }
    }
}

/// Name and value of a header field.
pub(crate) type Field<'a> = (&'a str, &'a [u8]);

/// The fields of a good request.
pub(crate) fn fields<'a>(probe: &'a Probe, call: &'a Call, host: &'a [u8]) -> Vec<Field<'a>> {
    vec![
        (":method", call.method.as_bytes()),
        (":scheme", b"https"),
        (":authority", host),
        (":path", call.path.as_bytes()),
        (MARKER, probe.marker.as_bytes()),
    ]
}

/// Sends one request of these fields, in this order and spelling, and `body`.
pub(crate) async fn ask(
    rig: &Rig,
    fields: &[Field<'_>],
    body: Option<&[u8]>,
) -> Result<Answered, Stop> {
    let mut session = rig.session(b"h2").await?;
    let mut block = Vec::new();
    for (name, value) in fields {
        field(&mut block, name.as_bytes(), value);
    }
    let mut bytes = PREFACE.to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);
    let end = if body.is_none() { END_STREAM } else { 0 };
    frame(&mut bytes, HEADERS, END_HEADERS | end, 1, &block);
    if let Some(body) = body {
        frame(&mut bytes, DATA, END_STREAM, 1, body);
    }
    frame(&mut bytes, SETTINGS, ACK, 0, &[]);
    session.write(&bytes).await;
    Ok(answer(&mut session.stream, ANSWER_LIMIT).await)
}

/// A field as a literal that is not indexed, neither name nor value compressed (RFC 7541 6.2.2).
fn field(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for text in [name, value] {
        integer(block, text.len());
        block.extend_from_slice(text);
    }
}

/// A length with a prefix of seven bits (RFC 7541 5.1).
fn integer(out: &mut Vec<u8>, value: usize) {
    const PREFIX_MAX: usize = 127;
    let byte = |value: usize| u8::try_from(value).unwrap_or(u8::MAX);
    if value < PREFIX_MAX {
        out.push(byte(value));
        return;
    }
    out.push(byte(PREFIX_MAX));
    let mut rest = value - PREFIX_MAX;
    while rest >= 128 {
        out.push(byte(rest % 128 + 128));
        rest /= 128;
    }
    out.push(byte(rest));
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    out.extend(length.iter().skip(1));
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Reads frames until one answers stream 1.
async fn answer(stream: &mut (impl tokio::io::AsyncRead + Unpin), limit: Duration) -> Answered {
    let mut bytes = Vec::new();
    let reading = async {
        loop {
            while let Some((kind, id, payload)) = take(&mut bytes) {
                match (kind, id) {
                    (HEADERS, 1) => return Answered::Status(status(&payload).unwrap_or(0)),
                    (RST_STREAM, 1) => return Answered::Reset(number(&payload, 0)),
                    (GOAWAY, _) => return Answered::Away(number(&payload, 4)),
                    _ => {}
                }
            }
            match stream.read_buf(&mut bytes).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Answered::Closed,
            }
        }
    };
    tokio::time::timeout(limit, reading)
        .await
        .unwrap_or(Answered::Nothing)
}

/// The first whole frame: kind, stream, payload.
fn take(bytes: &mut Vec<u8>) -> Option<(u8, u32, Vec<u8>)> {
    let &[a, b, c, kind, _flags, s1, s2, s3, s4] = bytes.first_chunk::<FRAME_HEAD_BYTES>()?;
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
    let id = u32::from_be_bytes([s1, s2, s3, s4]) & 0x7fff_ffff;
    let payload = bytes
        .get(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + length)?
        .to_vec();
    bytes.drain(..FRAME_HEAD_BYTES + length);
    Some((kind, id, payload))
}

fn number(payload: &[u8], at: usize) -> u32 {
    let four = payload.get(at..).and_then(|rest| rest.first_chunk::<4>());
    four.map_or(0, |four| u32::from_be_bytes(*four))
}

/// The status that a response's block begins with: as an index, or as a literal of three digits.
fn status(block: &[u8]) -> Option<u16> {
    // a change of the dynamic table's size may stand before it
    let at = block.iter().position(|byte| byte & 0xe0 != 0x20)?;
    let rest = block.get(at..)?;
    match *rest.first()? {
        0x88 => Some(200),
        0x89 => Some(204),
        0x8a => Some(206),
        0x8b => Some(304),
        0x8c => Some(400),
        0x8d => Some(404),
        0x8e => Some(500),
        // a literal whose name is the index of `:status`, with or without indexing
        0x48..=0x4e | 0x08 | 0x18 => literal(rest.get(1..)?),
        _ => None,
    }
}

fn literal(value: &[u8]) -> Option<u16> {
    let (length, text) = value.split_first()?;
    let text = text.get(..usize::from(length & 0x7f))?;
    if length & 0x80 == 0 {
        return std::str::from_utf8(text).ok()?.parse().ok();
    }
    let mut bits = text
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    let mut status = 0;
    for _digit in 0..3 {
        status = status * 10 + digit(&mut bits)?;
    }
    Some(status)
}

/// One digit in the code of RFC 7541, appendix B.
fn digit(bits: &mut impl Iterator<Item = u8>) -> Option<u16> {
    let mut code = 0;
    for _bit in 0..5 {
        code = code << 1 | u16::from(bits.next()?);
    }
    if code <= 2 {
        return Some(code);
    }
    code = code << 1 | u16::from(bits.next()?);
    (0x19..=0x1f).contains(&code).then(|| code - 0x16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_in_every_form() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x8c]), Some(400));
        assert_eq!(status(&[0x08, 3, b'4', b'0', b'3']), Some(403));
        // 403 in the static code: 011010 00000 011001
        assert_eq!(
            status(&[0x48, 0x83, 0b0110_1000, 0b0000_1100, 0b1111_1111]),
            Some(403)
        );
        // 503: 011011 00000 011001
        assert_eq!(
            status(&[0x48, 0x83, 0b0110_1100, 0b0000_1100, 0b1111_1111]),
            Some(503)
        );
    }

    #[test]
    fn long_lengths_are_written_as_the_specification_says() {
        let mut out = Vec::new();
        integer(&mut out, 126);
        integer(&mut out, 127);
        integer(&mut out, 1_337);
        assert_eq!(out, [126, 127, 0, 127, 186, 9]);
    }

    #[test]
    fn frames_are_taken_whole() {
        let mut bytes = Vec::new();
        frame(&mut bytes, GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 9]);
        bytes.extend([0, 0]);
        let (kind, id, payload) = take(&mut bytes).unwrap();
        assert_eq!((kind, id, number(&payload, 4)), (GOAWAY, 0, 9));
        assert_eq!(take(&mut bytes), None);
    }
}

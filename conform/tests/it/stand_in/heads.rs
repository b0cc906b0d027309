//! Requests as the stand-in reads them: strictly, or as kindly as its flaws make it.

use counterfoil_entry::id::{SpanId, TraceId};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Flaws;

/// Why a request is not read to its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// The caller is gone before a request began.
    Over,
    /// The caller is gone amid this request.
    Gone(Option<Head>),
    /// It is malformed: why.
    Bad(&'static str),
}

/// A head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let of_name = self.headers.iter().filter(|(found, _)| found == name);
        of_name.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn wants_close(&self) -> bool {
        self.all("connection")
            .join(",")
            .to_lowercase()
            .contains("close")
    }

    pub(crate) fn drop_all(&mut self, drops: impl Fn(&str) -> bool) {
        self.headers.retain(|(name, _)| !drops(name));
    }
}

/// Trace and span of the one well-formed `traceparent`.
pub(crate) fn traceparent(head: &Head) -> Option<(TraceId, SpanId)> {
    let values = head.all("traceparent");
    let [value] = values.as_slice() else {
        return None;
    };
    let parts: Vec<_> = value.split('-').collect();
    let ["00", trace, span, flags] = parts.as_slice() else {
        return None;
    };
    let lower = |text: &str| !text.chars().any(|c| c.is_ascii_uppercase());
    let mut bytes = ([0; 16], [0; 8]);
    hex::decode_to_slice(trace, &mut bytes.0)
        .ok()
        .filter(|()| lower(trace))?;
    hex::decode_to_slice(span, &mut bytes.1)
        .ok()
        .filter(|()| lower(span))?;
    (flags.len() == 2).then_some(())?;
    Some((TraceId::new(bytes.0)?, SpanId::new(bytes.1)?))
}

/// Reads one request: its head and its whole body.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    flaws: &Flaws,
) -> Result<(Head, Vec<u8>), Unread> {
    let head = read_head(stream, bytes, flaws).await?;
    let length = length(&head, flaws).map_err(Unread::Bad)?;
    let gone = || Unread::Gone(Some(head.clone()));
    let body = match length {
        Length::Bytes(length) => {
            while bytes.len() < length {
                more(stream, bytes).await.ok_or_else(gone)?;
            }
            bytes.drain(..length).collect()
        }
        Length::Chunks => read_chunks(stream, bytes, flaws)
            .await
            .map_err(|bad| match bad {
                Unread::Gone(None) => gone(),
                other => other,
            })?,
    };
    Ok((head, body))
}

async fn more(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> Option<()> {
    match stream.read_buf(bytes).await {
        Ok(1..) => Some(()),
        _ => None,
    }
}

async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    flaws: &Flaws,
) -> Result<Head, Unread> {
    loop {
        let mut at = 0;
        let mut lines = Vec::new();
        while let Some(length) = bytes[at..].iter().position(|byte| *byte == b'\n') {
            let line = &bytes[at..at + length];
            at += length + 1;
            let line = match line.strip_suffix(b"\r") {
                Some(line) => line,
                None => {
                    flaws.refuse("bare_lf").map_err(Unread::Bad)?;
                    line
                }
            };
            if !line.is_empty() {
                lines.push(line.to_vec());
            } else if !lines.is_empty() {
                let head = parse(&lines, flaws).map_err(Unread::Bad)?;
                bytes.drain(..at);
                return Ok(head);
            }
        }
        if more(stream, bytes).await.is_none() {
            return Err(if bytes.is_empty() {
                Unread::Over
            } else {
                Unread::Gone(None)
            });
        }
    }
}

fn parse(lines: &[Vec<u8>], flaws: &Flaws) -> Result<Head, &'static str> {
    let text = |line: &[u8]| {
        line.iter()
            .map(|byte| char::from(*byte))
            .collect::<String>()
    };
    let first = text(&lines[0]);
    let parts: Vec<_> = first.split(' ').collect();
    let (Some(method), Some(version)) = (parts.first(), parts.last()) else {
        return Err("malformed");
    };
    let between = method.len() + 1..first.len().saturating_sub(version.len() + 1);
    let target = first.get(between).unwrap_or_default();
    let plain = target.chars().all(|c| c.is_ascii_graphic());
    if parts.len() != 3
        || !plain
        || !method
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-')
    {
        flaws.refuse("target_bytes")?;
    }
    let mut head = Head {
        method: (*method).to_owned(),
        target: target.to_owned(),
        version: (*version).to_owned(),
        headers: Vec::new(),
    };
    for line in lines.iter().skip(1) {
        let line = text(line);
        let (name, value) = match line.split_once(':') {
            Some(pair) => pair,
            None => {
                flaws.refuse("malformed")?;
                continue;
            }
        };
        let token = |c: char| c.is_ascii_alphanumeric() || "-_.!#$%&'*+^`|~".contains(c);
        let good = !name.is_empty() && name.chars().all(token);
        if !good || value.chars().any(|c| c.is_control() && c != '\t') {
            flaws.refuse("malformed")?;
        }
        head.headers
            .push((name.trim().to_lowercase(), value.trim().to_owned()));
    }
    Ok(head)
}

enum Length {
    Bytes(usize),
    Chunks,
}

fn length(head: &Head, flaws: &Flaws) -> Result<Length, &'static str> {
    let (codings, lengths) = (head.all("transfer-encoding"), head.all("content-length"));
    if !codings.is_empty() {
        if !lengths.is_empty() {
            flaws.refuse("both_lengths")?;
        }
        if head.version == "HTTP/1.0" {
            flaws.refuse("http10")?;
        }
        let joined = codings.join(", ").to_lowercase();
        if joined != "chunked" {
            flaws.refuse("codings")?;
        }
        if joined.contains("chunked") {
            return Ok(Length::Chunks);
        }
    }
    let Some(first) = lengths.first() else {
        return Ok(Length::Bytes(0));
    };
    if lengths.len() > 1 || first.contains(',') {
        let all: Vec<_> = lengths
            .iter()
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .collect();
        let equal = all.iter().all(|one| one == &all[0]);
        flaws.refuse(if equal { "equal_lengths" } else { "malformed" })?;
    }
    let digits: String = first.chars().take_while(char::is_ascii_digit).collect();
    if digits != **first {
        let lenient = flaws.has("equal_lengths") && first.contains(',');
        if !lenient {
            flaws.refuse("malformed")?;
        }
    }
    digits.parse().map(Length::Bytes).or_else(|_| {
        flaws.refuse("malformed")?;
        Ok(Length::Bytes(0))
    })
}

async fn read_chunks(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    flaws: &Flaws,
) -> Result<Vec<u8>, Unread> {
    let mut body = Vec::new();
    loop {
        let line = chunk_line(stream, bytes, flaws).await?;
        let digits = line.split(';').next().unwrap_or_default();
        let size = match usize::from_str_radix(digits, 16) {
            Ok(size) if digits.len() <= 8 && !digits.starts_with('+') => size,
            _ => {
                flaws.refuse("chunks").map_err(Unread::Bad)?;
                let digits = digits.trim_start_matches("0x").trim_start_matches('+');
                usize::from_str_radix(digits, 16).map_err(|_| Unread::Bad("chunks"))?
            }
        };
        if size == 0 {
            while !chunk_line(stream, bytes, flaws).await?.is_empty() {}
            return Ok(body);
        }
        while bytes.len() < size {
            more(stream, bytes).await.ok_or(Unread::Gone(None))?;
        }
        body.extend(bytes.drain(..size));
        if !chunk_line(stream, bytes, flaws).await?.is_empty() {
            return Err(Unread::Bad("chunks"));
        }
    }
}

async fn chunk_line(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    flaws: &Flaws,
) -> Result<String, Unread> {
    loop {
        if let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = bytes.drain(..=at).collect();
            let strict = line.ends_with(b"\r\n") && line.len() < 256;
            if !strict {
                flaws.refuse("chunks").map_err(Unread::Bad)?;
            }
            return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        more(stream, bytes).await.ok_or(Unread::Gone(None))?;
    }
}

//! Group S: where a request ends, and what a second reader could take for another one.

use crate::check::{Cases, Stop};
use crate::frames::{self, Field, fields};
use crate::h1::Said;
use crate::rig::{Call, Probe, Rig};

/// The head of an upload with these lines, without its empty line.
fn head(rig: &Rig, probe: &Probe, version: &str, lines: &str) -> String {
    let Call { method, path } = &rig.calls.upload;
    let own = probe.lines(&rig.target.host);
    format!("{method} {path} {version}\r\n{own}{lines}")
}

/// Sends an upload of these lines and this body, which nothing of may be served.
async fn refused(
    rig: &Rig,
    cases: &mut Cases,
    sent: &str,
    lines: &str,
    body: &str,
) -> Result<(), Stop> {
    let probe = Probe::new();
    let close = "connection: close\r\n";
    let request = format!("{}{lines}\r\n{body}", head(rig, &probe, "HTTP/1.1", close));
    let said = rig.say(request.as_bytes()).await?;
    cases.judge(sent, rig.refused(&probe, &said).await);
    Ok(())
}

/// A good upload is served, or a refusal would prove nothing.
async fn served(rig: &Rig, cases: &mut Cases, lines: &str, body: &str) -> Result<(), Stop> {
    let probe = Probe::new();
    let lines = format!("connection: close\r\n{lines}");
    let request = format!("{}\r\n{body}", head(rig, &probe, "HTTP/1.1", &lines));
    let said = rig.say(request.as_bytes()).await?;
    cases.judge("a good upload", rig.served(&probe, &said).await);
    Ok(())
}

pub(super) async fn both_lengths(rig: &Rig) -> Result<Cases, Stop> {
    rig.app()?;
    let mut cases = Cases::default();
    served(
        rig,
        &mut cases,
        "transfer-encoding: chunked\r\n",
        "2\r\nhi\r\n0\r\n\r\n",
    )
    .await?;
    for (sent, length_first, inside) in [
        (
            "length, then chunked; the second inside the length",
            true,
            true,
        ),
        (
            "chunked, then length; the second inside the length",
            false,
            true,
        ),
        (
            "length, then chunked; the second inside a chunk",
            true,
            false,
        ),
        (
            "chunked, then length; the second inside a chunk",
            false,
            false,
        ),
    ] {
        let (first, second) = (Probe::new(), Probe::new());
        let call = &rig.calls.allowed;
        let hidden = rig.request(&second, &call.method, &call.path, "");
        let (length, body) = if inside {
            let body = format!("0\r\n\r\n{hidden}");
            (body.len(), body)
        } else {
            let size = format!("{:x}\r\n", hidden.len());
            (size.len(), format!("{size}{hidden}\r\n0\r\n\r\n"))
        };
        let length = format!("content-length: {length}\r\n");
        let chunked = "transfer-encoding: chunked\r\n";
        let lines = if length_first {
            length + chunked
        } else {
            chunked.to_owned() + &length
        };
        let request = format!("{}\r\n{body}", head(rig, &first, "HTTP/1.1", &lines));
        let said = rig.say(request.as_bytes()).await?;
        cases.judge(sent, alone(rig, &first, &second, &said).await);
    }
    Ok(cases)
}

/// Whether the second request, hidden in the first one, was not executed, and the first, where it
/// was forwarded, has one length only.
async fn alone(rig: &Rig, first: &Probe, second: &Probe, said: &Said) -> (bool, String) {
    let hidden = rig.arrived(&second.marker).await.unwrap_or_default();
    if !hidden.is_empty() {
        return (false, format!("{}, the second was executed", said.words()));
    }
    let arrived = rig.arrived(&first.marker).await.unwrap_or_default();
    let both = arrived.iter().any(|one| {
        !one.header("content-length").is_empty() && !one.header("transfer-encoding").is_empty()
    });
    let saw = if both {
        "forwarded with both lengths"
    } else {
        "the second was not executed"
    };
    (!both, format!("{}, {saw}", said.words()))
}

pub(super) async fn malformed(rig: &Rig) -> Result<Cases, Stop> {
    const CHUNKED: &str = "2\r\nhi\r\n0\r\n\r\n";
    let mut cases = Cases::default();
    served(rig, &mut cases, "content-length: 2\r\n", "hi").await?;
    for (sent, lines, body) in [
        (
            "two lengths",
            "content-length: 2\r\ncontent-length: 4\r\n",
            "hihi",
        ),
        (
            "two lengths in a header",
            "content-length: 2, 4\r\n",
            "hihi",
        ),
        ("a length with a sign", "content-length: +2\r\n", "hi"),
        ("a negative length", "content-length: -2\r\n", "hi"),
        ("a hexadecimal length", "content-length: 0x2\r\n", "hi"),
        ("an empty length", "content-length:\r\n", "hi"),
        (
            "an endless length",
            "content-length: 99999999999999999999999999\r\n",
            "hi",
        ),
        (
            "a space before the colon",
            "transfer-encoding : chunked\r\n",
            CHUNKED,
        ),
        (
            "chunked is not last",
            "transfer-encoding: chunked, identity\r\n",
            CHUNKED,
        ),
        (
            "a folded line",
            "transfer-encoding:\r\n chunked\r\n",
            CHUNKED,
        ),
        ("NUL in a value", "x-a: b\0c\r\ncontent-length: 2\r\n", "hi"),
        ("CR in a value", "x-a: b\rc\r\ncontent-length: 2\r\n", "hi"),
        (
            "a line without a colon",
            "nothing\r\ncontent-length: 2\r\n",
            "hi",
        ),
        ("a space in a name", "x a: b\r\ncontent-length: 2\r\n", "hi"),
    ] {
        refused(rig, &mut cases, sent, lines, body).await?;
    }
    Ok(cases)
}

pub(super) async fn equal_lengths(rig: &Rig) -> Result<Cases, Stop> {
    rig.app()?;
    let mut cases = Cases::default();
    for (sent, lines) in [
        (
            "the same length twice",
            "content-length: 2\r\ncontent-length: 2\r\n",
        ),
        (
            "the same length twice in a header",
            "content-length: 2, 2\r\n",
        ),
    ] {
        let probe = Probe::new();
        let lines = format!("connection: close\r\n{lines}");
        let request = format!("{}\r\nhi", head(rig, &probe, "HTTP/1.1", &lines));
        let said = rig.say(request.as_bytes()).await?;
        let arrived = rig.arrived(&probe.marker).await.unwrap_or_default();
        let judged = match arrived.as_slice() {
            [] => rig.refused(&probe, &said).await,
            [one] if one.header("content-length") == ["2"] && one.body_bytes == 2 => {
                (true, "made one".to_owned())
            }
            _ => (false, "forwarded as it came".to_owned()),
        };
        cases.judge(sent, judged);
    }
    Ok(cases)
}

pub(super) async fn codings(rig: &Rig) -> Result<Cases, Stop> {
    const BODY: &str = "2\r\nhi\r\n0\r\n\r\n";
    let mut cases = Cases::default();
    for (sent, lines) in [
        ("gzip, chunked", "transfer-encoding: gzip, chunked\r\n"),
        (
            "gzip and chunked in two headers",
            "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
        ),
        ("xchunked", "transfer-encoding: xchunked\r\n"),
        ("chunked twice", "transfer-encoding: chunked, chunked\r\n"),
        (
            "identity",
            "transfer-encoding: identity\r\ncontent-length: 2\r\n",
        ),
        ("a quoted chunked", "transfer-encoding: \"chunked\"\r\n"),
    ] {
        refused(rig, &mut cases, sent, lines, BODY).await?;
    }
    Ok(cases)
}

/// Makes a malformed request of a good one.
type Bend = fn(&str) -> String;

pub(super) async fn bare_lf(rig: &Rig) -> Result<Cases, Stop> {
    let mut cases = Cases::default();
    let call = &rig.calls.allowed;
    let bends: [(&str, Bend); 4] = [
        ("every line", |text| text.replace("\r\n", "\n")),
        ("the request line", |text| text.replacen("\r\n", "\n", 1)),
        ("one header", |text| {
            text.replacen("connection: close\r\n", "connection: close\n", 1)
        }),
        ("the empty line", |text| {
            format!("{}\n", text.trim_end_matches("\r\n").to_owned() + "\r\n")
        }),
    ];
    for (sent, bend) in bends {
        let probe = Probe::new();
        let request = bend(&rig.request(&probe, &call.method, &call.path, ""));
        let said = rig.say(request.as_bytes()).await?;
        cases.judge(sent, rig.refused(&probe, &said).await);
    }
    // also when it is not the first request of its connection
    let (first, second) = (Probe::new(), Probe::new());
    let lines = first.lines(&rig.target.host);
    let Call { method, path } = call;
    let request = format!("{method} {path} HTTP/1.1\r\n{lines}\r\n")
        + &rig.request(&second, method, path, "").replace("\r\n", "\n");
    let said = rig.say(request.as_bytes()).await?;
    let arrived = rig.arrived(&second.marker).await.unwrap_or_default();
    let answers = said.text().matches("HTTP/1.1 200").count();
    cases.add(
        "the second request of a connection",
        arrived.is_empty() && answers == 1,
        format!("{answers} of 2 served"),
    );
    Ok(cases)
}

pub(super) async fn chunks(rig: &Rig) -> Result<Cases, Stop> {
    let mut cases = Cases::default();
    let chunked = "transfer-encoding: chunked\r\n";
    served(rig, &mut cases, chunked, "2\r\nhi\r\n0\r\n\r\n").await?;
    let flood = format!("2;{}\r\nhi\r\n0\r\n\r\n", "x=y;".repeat(16 << 10));
    for (sent, body) in [
        ("a size with 0x", "0x2\r\nhi\r\n0\r\n\r\n"),
        ("a size with a sign", "+2\r\nhi\r\n0\r\n\r\n"),
        ("a negative size", "-2\r\nhi\r\n0\r\n\r\n"),
        ("a size that is none", "zz\r\nhi\r\n0\r\n\r\n"),
        ("an endless size", "ffffffffffffffffff\r\nhi\r\n0\r\n\r\n"),
        ("more data than its size", "2\r\nhi there\r\n0\r\n\r\n"),
        ("a size line that ends in LF", "2\nhi\r\n0\r\n\r\n"),
        ("64 KiB of extensions", flood.as_str()),
    ] {
        let probe = Probe::new();
        let lines = format!("connection: close\r\n{chunked}");
        let request = format!("{}\r\n{body}", head(rig, &probe, "HTTP/1.1", &lines));
        let said = rig.say(request.as_bytes()).await?;
        cases.judge(sent, rig.cut(&probe, &said).await);
    }
    Ok(cases)
}

pub(super) async fn http10(rig: &Rig) -> Result<Cases, Stop> {
    let mut cases = Cases::default();
    let probe = Probe::new();
    let lines = "connection: close\r\ntransfer-encoding: chunked\r\n";
    let request = head(rig, &probe, "HTTP/1.0", lines) + "\r\n2\r\nhi\r\n0\r\n\r\n";
    let said = rig.say(request.as_bytes()).await?;
    cases.judge("chunked in HTTP/1.0", rig.cut(&probe, &said).await);
    Ok(cases)
}

pub(super) async fn frames(rig: &Rig) -> Result<Cases, Stop> {
    let mut cases = Cases::default();
    let (allowed, upload) = (&rig.calls.allowed, &rig.calls.upload);
    let host = rig.target.host.as_bytes();
    let probe = Probe::new();
    let answered = frames::ask(rig, &fields(&probe, allowed, host), None).await?;
    let good = answered == frames::Answered::Status(200);
    cases.add("a good request", good, answered.words());
    let split = [allowed.path.as_bytes(), b" HTTP/1.1\r\nx: y"].concat();
    let absolute = [b"http://other.test", allowed.path.as_bytes()].concat();
    let extra: [(&str, Field<'_>); 10] = [
        ("transfer-encoding", ("transfer-encoding", b"chunked")),
        ("connection", ("connection", b"close")),
        ("te: gzip", ("te", b"gzip")),
        ("a name in capitals", ("X-Upper", b"1")),
        ("a second :path", (":path", b"/other")),
        ("CRLF in a value", ("x-a", b"b\r\nx-injected: 1")),
        ("NUL in a value", ("x-a", b"b\0c")),
        ("CRLF in a name", ("x-a: b\r\nx-injected", b"1")),
        ("another host", ("host", b"other.test")),
        ("an unknown pseudo-header", (":x", b"1")),
    ];
    for (sent, field) in extra {
        let probe = Probe::new();
        let mut all = fields(&probe, allowed, host);
        all.push(field);
        refused_frames(rig, &mut cases, sent, &probe, &all, None).await?;
    }
    for (sent, name, value) in [
        ("CRLF in :path", ":path", split.as_slice()),
        ("an absolute :path", ":path", absolute.as_slice()),
        ("an empty :path", ":path", b""),
        (
            "CRLF in :method",
            ":method",
            b"GET / HTTP/1.1\r\nx: y\r\n\r\nGET",
        ),
    ] {
        let probe = Probe::new();
        let mut all = fields(&probe, allowed, host);
        for field in all.iter_mut().filter(|(found, _)| *found == name) {
            field.1 = value;
        }
        refused_frames(rig, &mut cases, sent, &probe, &all, None).await?;
    }
    for (sent, length) in [("a length too long", b"9"), ("a length too short", b"1")] {
        let probe = Probe::new();
        let mut all = fields(&probe, upload, host);
        all.push(("content-length", length));
        refused_frames(rig, &mut cases, sent, &probe, &all, Some(b"abc")).await?;
    }
    Ok(cases)
}

async fn refused_frames(
    rig: &Rig,
    cases: &mut Cases,
    sent: &str,
    probe: &Probe,
    fields: &[Field<'_>],
    body: Option<&[u8]>,
) -> Result<(), Stop> {
    let answered = frames::ask(rig, fields, body).await?;
    let arrived = rig.arrived(&probe.marker).await.unwrap_or_default();
    let whole = arrived.iter().any(|one| one.complete);
    let saw = if whole {
        format!("{}, reached the application", answered.words())
    } else {
        answered.words()
    };
    cases.add(sent, answered.is_refusal() && !whole, saw);
    Ok(())
}

pub(super) async fn nominated(rig: &Rig) -> Result<Cases, Stop> {
    rig.app()?;
    let mut cases = Cases::default();
    let probe = Probe::new();
    let lines = "connection: close, traceparent, content-length, content-type, host, x-mine\r\n\
                 keep-alive: timeout=5\r\nproxy-authorization: Basic eA==\r\nupgrade: x\r\n\
                 content-type: text/plain\r\nx-mine: 1\r\ncontent-length: 2\r\n";
    let request = head(rig, &probe, "HTTP/1.1", lines) + "\r\nhi";
    let said = rig.say(request.as_bytes()).await?;
    let arrived = rig.arrived(&probe.marker).await.unwrap_or_default();
    let [one] = arrived.as_slice() else {
        let (refused, saw) = rig.refused(&probe, &said).await;
        cases.add("Connection names everything", refused, saw);
        return Ok(cases);
    };
    for name in ["x-mine", "keep-alive", "proxy-authorization", "upgrade"] {
        let gone = one.header(name).is_empty();
        cases.add(name, gone, if gone { "taken off" } else { "forwarded" });
    }
    for name in ["traceparent", "host", "content-type"] {
        let kept = one.header(name).len() == 1;
        cases.add(name, kept, if kept { "kept" } else { "taken off" });
    }
    cases.add(
        "the body",
        one.body_bytes == 2,
        format!("{} bytes", one.body_bytes),
    );
    Ok(cases)
}

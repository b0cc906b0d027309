//! Group H: what the target says of the caller and of the trace, and what it lets nobody else say.

use crate::app::Arrived;
use crate::check::{Cases, Stop};
use crate::rig::{MARKER, Probe, Rig};

/// Members that a `tracestate` may have (W3C Trace Context 3.3.1.1).
const TRACESTATE_MEMBERS_MAX: usize = 32;
/// Bytes of `baggage` that everybody must carry (W3C Baggage 3.3.2), and this project's limit.
const BAGGAGE_BYTES_MAX: usize = 8_192;

/// What reached the application of the allowed call with these header lines.
async fn forwarded(rig: &Rig, probe: &Probe, lines: &str) -> Result<Option<Arrived>, Stop> {
    rig.app()?;
    let call = &rig.calls.allowed;
    let (host, marker) = (&rig.target.host, &probe.marker);
    let request = format!(
        "{} {} HTTP/1.1\r\nhost: {host}\r\n{MARKER}: {marker}\r\nconnection: close\r\n{lines}\r\n",
        call.method, call.path
    );
    rig.say(request.as_bytes()).await?;
    Ok(rig
        .arrived(&probe.marker)
        .await
        .and_then(|all| all.into_iter().next()))
}

pub(super) async fn forged(rig: &Rig) -> Result<Cases, Stop> {
    const FORGED: &str = "conform-forged";
    let mut cases = Cases::default();
    for name in [
        "X-Forwarded-Client-Cert",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-User",
        "X_Forwarded_User",
        "Forwarded",
        "X-Real-IP",
        "X-Remote-User",
        "X-SSL-Client-Verify",
        "SSL-Client-Verify",
        "X-Client-Cert",
        "X-Counterfoil-Reason",
    ] {
        let probe = Probe::new();
        let arrived = forwarded(rig, &probe, &format!("{name}: {FORGED}\r\n")).await?;
        let (good, saw) = match &arrived {
            None => (true, "refused"),
            Some(one) if one.head.contains(FORGED) => (false, "reached the application"),
            Some(_) => (true, "taken off or replaced"),
        };
        cases.add(name, good, saw);
    }
    Ok(cases)
}

/// Trace and parent of the one well-formed `traceparent` of a request.
fn trace_of(arrived: &Arrived) -> Option<(String, String)> {
    let values = arrived.header("traceparent");
    let [value] = values.as_slice() else {
        return None;
    };
    let parts: Vec<&str> = value.split('-').collect();
    let [version, trace, parent, flags] = parts.as_slice() else {
        return None;
    };
    let is_hex = |text: &str, length: usize| {
        let lower = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        text.len() == length && text.chars().all(lower)
    };
    let good = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    let zero = |text: &str| text.chars().all(|c| c == '0');
    (good && !zero(trace) && !zero(parent)).then(|| ((*trace).to_owned(), (*parent).to_owned()))
}

pub(super) async fn trace_kept(rig: &Rig) -> Result<Cases, Stop> {
    let mut cases = Cases::default();
    for flags in ["00", "01"] {
        let probe = Probe::new();
        let lines = format!("traceparent: 00-{}-{}-{flags}\r\n", probe.trace, probe.span);
        let arrived = forwarded(rig, &probe, &lines).await?;
        let (good, saw) = match arrived.as_ref().map(trace_of) {
            None => (false, "the call was not forwarded"),
            Some(None) => (false, "no well-formed traceparent reached the application"),
            Some(Some((trace, _))) if trace != probe.trace => (false, "the trace was changed"),
            Some(Some((_, parent))) if parent == probe.span => (false, "the parent was kept"),
            Some(Some(_)) => (true, "same trace, new parent"),
        };
        cases.add(format!("traceparent with flags {flags}"), good, saw);
    }
    Ok(cases)
}

pub(super) async fn trace_malformed(rig: &Rig) -> Result<Cases, Stop> {
    let Probe { trace, span, .. } = Probe::new();
    let zeros = "0".repeat(32);
    let mut cases = Cases::default();
    for (sent, value) in [
        ("too short", format!("00-{trace}-{span}")),
        ("too long", format!("00-{trace}-{span}-01-x")),
        ("version ff", format!("ff-{trace}-{span}-01")),
        ("capitals", format!("00-{}-{span}-01", trace.to_uppercase())),
        ("a trace of zeros", format!("00-{zeros}-{span}-01")),
        (
            "a parent of zeros",
            format!("00-{trace}-{}-01", "0".repeat(16)),
        ),
        ("no hex", format!("00-{}-{span}-01", "g".repeat(32))),
        ("no dashes", "garbage".to_owned()),
        (
            "two of them",
            format!("00-{trace}-{span}-01\r\ntraceparent: 00-{trace}-{span}-01"),
        ),
    ] {
        let probe = Probe::new();
        let arrived = forwarded(rig, &probe, &format!("traceparent: {value}\r\n")).await?;
        let (good, saw) = match arrived.as_ref().map(trace_of) {
            None => (true, "refused"),
            Some(None) => (false, "no well-formed traceparent reached the application"),
            Some(Some((found, _))) if found.eq_ignore_ascii_case(&trace) => {
                (false, "the malformed trace was taken")
            }
            Some(Some(_)) => (true, "a new trace"),
        };
        cases.add(sent, good, saw);
    }
    Ok(cases)
}

pub(super) async fn tracestate(rig: &Rig) -> Result<Cases, Stop> {
    let mut cases = Cases::default();
    let members = |count: usize| {
        let all: Vec<String> = (0..count).map(|at| format!("v{at}=conform{at}")).collect();
        all.join(",")
    };
    let few = members(3);
    let many = members(TRACESTATE_MEMBERS_MAX + 8);
    let (half, other) = (members(20), members(20).replace('v', "w"));
    for (sent, good_parent, lines, exact) in [
        (
            "three members",
            true,
            format!("tracestate: {few}\r\n"),
            Some(few.as_str()),
        ),
        (
            "three members without a trace",
            false,
            format!("tracestate: {few}\r\n"),
            Some(""),
        ),
        ("40 members", true, format!("tracestate: {many}\r\n"), None),
        (
            "40 members in two headers",
            true,
            format!("tracestate: {half}\r\ntracestate: {other}\r\n"),
            None,
        ),
    ] {
        let probe = Probe::new();
        let version = if good_parent { "00" } else { "ff" };
        let parent = format!(
            "traceparent: {version}-{}-{}-01\r\n",
            probe.trace, probe.span
        );
        let arrived = forwarded(rig, &probe, &(parent + &lines)).await?;
        let Some(arrived) = arrived else {
            cases.add(sent, exact.is_none(), "refused");
            continue;
        };
        let found = arrived.header("tracestate").join(",");
        let kept = found
            .split(',')
            .filter(|member| !member.trim().is_empty())
            .count();
        let good = match exact {
            Some(exact) => found == exact,
            None => kept <= TRACESTATE_MEMBERS_MAX,
        };
        cases.add(sent, good, format!("{kept} members forwarded"));
    }
    Ok(cases)
}

pub(super) async fn baggage(rig: &Rig) -> Result<Cases, Stop> {
    let mut cases = Cases::default();
    let member = |at: usize| format!("k{at}={}", "v".repeat(1_000));
    let large: Vec<String> = (0..9).map(member).collect();
    let one = format!("baggage: {}\r\n", large.join(","));
    let several: String = large
        .iter()
        .map(|member| format!("baggage: {member}\r\n"))
        .collect();
    for (sent, lines) in [("9 kB in a header", one), ("9 kB in nine headers", several)] {
        let probe = Probe::new();
        let arrived = forwarded(rig, &probe, &lines).await?;
        let bytes = arrived.map_or(0, |one| one.header("baggage").join(",").len());
        cases.add(
            sent,
            bytes <= BAGGAGE_BYTES_MAX,
            format!("{bytes} bytes forwarded"),
        );
    }
    Ok(cases)
}

//! Group P: one request, one meaning. What reaches the application is what was decided on.

use crate::check::{Cases, Stop};
use crate::h1::Said;
use crate::rig::{Call, Probe, Rig};

/// Asks `target`, which must be refused, or reach the application as the allowed path itself.
async fn canonical_or_refused(rig: &Rig, cases: &mut Cases, target: &str) -> Result<(), Stop> {
    let probe = Probe::new();
    let said = rig.ask(&probe, &get(rig, target), "").await?;
    let judged = canonical(rig, &probe, &said).await;
    cases.judge(target, judged);
    Ok(())
}

async fn canonical(rig: &Rig, probe: &Probe, said: &Said) -> (bool, String) {
    let arrived = rig.arrived(&probe.marker).await.unwrap_or_default();
    let allowed = &rig.calls.allowed.path;
    match arrived.as_slice() {
        // without sight of the application only a refusal is sure
        [] => rig.refused(probe, said).await,
        [one] if one.target() == allowed => (true, "forwarded as the declared path".to_owned()),
        [one, ..] => {
            let saw = format!(
                "{}, reached the application as {}",
                said.words(),
                one.target()
            );
            (false, saw)
        }
    }
}

fn get(rig: &Rig, path: &str) -> Call {
    Call {
        method: rig.calls.allowed.method.clone(),
        path: path.to_owned(),
    }
}

/// `path` with its last slash written as `with`.
fn last_slash(path: &str, with: &str) -> String {
    match path.rsplit_once('/') {
        Some((before, after)) => format!("{before}{with}{after}"),
        None => path.to_owned(),
    }
}

/// Up from `path` to the root, each step written as `step`.
fn climb(path: &str, step: &str) -> String {
    let steps = path.matches('/').count();
    format!("{path}{}", format!("/{step}").repeat(steps))
}

pub(super) async fn encoded(rig: &Rig) -> Result<Cases, Stop> {
    let (allowed, denied) = (&rig.calls.allowed.path, &rig.calls.denied.path);
    let letter = denied.chars().last().unwrap_or('x');
    let cut = denied.len().saturating_sub(letter.len_utf8());
    let mut cases = Cases::default();
    for target in [
        format!("/x/%2e%2e{allowed}"),
        format!("/x/%2E%2E{allowed}"),
        format!("/x/.%2e{allowed}"),
        climb(allowed, "%2e%2e") + denied,
        last_slash(allowed, "%2f"),
        last_slash(allowed, "%2F"),
        last_slash(allowed, "%5c"),
        last_slash(allowed, "%252f"),
        format!("/x/%252e%252e{allowed}"),
        format!(
            "{}%{:02x}",
            denied.get(..cut).unwrap_or(denied),
            u32::from(letter)
        ),
    ] {
        canonical_or_refused(rig, &mut cases, &target).await?;
    }
    Ok(cases)
}

pub(super) async fn dots(rig: &Rig) -> Result<Cases, Stop> {
    let (allowed, denied) = (&rig.calls.allowed.path, &rig.calls.denied.path);
    let mut cases = Cases::default();
    for target in [
        format!("/{allowed}"),
        last_slash(allowed, "//"),
        last_slash(allowed, "/./"),
        format!("/.{allowed}"),
        format!("/x/..{allowed}"),
        format!("{allowed}/.."),
        format!("{allowed}/."),
        format!("{allowed}//"),
        climb(allowed, "..") + denied,
        format!("{denied}/"),
        format!("/{denied}"),
    ] {
        canonical_or_refused(rig, &mut cases, &target).await?;
    }
    Ok(cases)
}

pub(super) async fn parameters(rig: &Rig) -> Result<Cases, Stop> {
    let (allowed, denied) = (&rig.calls.allowed.path, &rig.calls.denied.path);
    let mut cases = Cases::default();
    for target in [
        format!("{allowed};v=1"),
        last_slash(allowed, ";v=1/"),
        format!("{denied};v=1"),
        format!("{allowed}/..;/{}", denied.trim_start_matches('/')),
        format!("{allowed}%3bv=1"),
    ] {
        canonical_or_refused(rig, &mut cases, &target).await?;
    }
    Ok(cases)
}

pub(super) async fn case(rig: &Rig) -> Result<Cases, Stop> {
    let mut cases = Cases::default();
    for path in [&rig.calls.allowed.path, &rig.calls.denied.path] {
        let capital: String = path
            .chars()
            .enumerate()
            .map(|(at, c)| if at == 1 { c.to_ascii_uppercase() } else { c })
            .collect();
        for target in [path.to_uppercase(), capital] {
            let probe = Probe::new();
            let said = rig.ask(&probe, &get(rig, &target), "").await?;
            cases.judge(target, rig.refused(&probe, &said).await);
        }
    }
    Ok(cases)
}

pub(super) async fn bytes(rig: &Rig) -> Result<Cases, Stop> {
    let allowed = rig.calls.allowed.path.as_bytes();
    let mut cases = Cases::default();
    let tails: [&[u8]; 12] = [
        b"\\..\\x",
        b"%00",
        b"%0d%0ax: y",
        b"%0a",
        b"\x01",
        b"\x7f",
        b"\t",
        b"%c0%af",
        b"%ff",
        b"\xff",
        b"%e0%80%af",
        b"%zz",
    ];
    for tail in tails {
        let probe = Probe::new();
        let method = rig.calls.allowed.method.as_bytes();
        let lines = probe.lines(&rig.target.host);
        let rest = format!(" HTTP/1.1\r\n{lines}connection: close\r\n\r\n");
        let request = [method, b" ", allowed, tail, rest.as_bytes()].concat();
        let said = rig.say(&request).await?;
        let sent = String::from_utf8_lossy(tail).into_owned();
        cases.judge(sent, rig.refused(&probe, &said).await);
    }
    Ok(cases)
}

pub(super) async fn fragment(rig: &Rig) -> Result<Cases, Stop> {
    let mut cases = Cases::default();
    let target = format!("{}#{}", rig.calls.allowed.path, rig.calls.denied.path);
    canonical_or_refused(rig, &mut cases, &target).await?;
    Ok(cases)
}

pub(super) async fn hosts(rig: &Rig) -> Result<Cases, Stop> {
    let Call { method, path } = &rig.calls.allowed;
    let host = &rig.target.host;
    let mut cases = Cases::default();
    for (sent, target, hosts) in [
        ("no host", path.clone(), String::new()),
        (
            "two hosts",
            path.clone(),
            format!("host: {host}\r\nhost: other.test\r\n"),
        ),
        (
            "the same host twice",
            path.clone(),
            format!("host: {host}\r\nHost: {host}\r\n"),
        ),
        (
            "a target of another host",
            format!("http://other.test{path}"),
            format!("host: {host}\r\n"),
        ),
        ("an empty host", path.clone(), "host:\r\n".to_owned()),
        (
            "credentials in the host",
            path.clone(),
            format!("host: root@{host}\r\n"),
        ),
        (
            "two hosts in a header",
            path.clone(),
            format!("host: {host}, other.test\r\n"),
        ),
    ] {
        let probe = Probe::new();
        let lines = probe.own_lines();
        let request =
            format!("{method} {target} HTTP/1.1\r\n{hosts}{lines}connection: close\r\n\r\n");
        let said = rig.say(request.as_bytes()).await?;
        cases.judge(sent, rig.refused(&probe, &said).await);
    }
    Ok(cases)
}

pub(super) async fn overrides(rig: &Rig) -> Result<Cases, Stop> {
    rig.app()?;
    let denied = &rig.calls.denied;
    let mut cases = Cases::default();
    for (name, value) in [
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-HTTP-Method", "DELETE"),
        ("X-Method-Override", "DELETE"),
        ("X_HTTP_Method_Override", "DELETE"),
        ("X-Original-URL", denied.path.as_str()),
        ("X-Rewrite-URL", denied.path.as_str()),
        ("X-Original-URI", denied.path.as_str()),
        ("X-Forwarded-Uri", denied.path.as_str()),
    ] {
        let probe = Probe::new();
        let more = format!("{name}: {value}\r\n");
        let said = rig.ask(&probe, &rig.calls.allowed, &more).await?;
        let arrived = rig.arrived(&probe.marker).await.unwrap_or_default();
        let plain = |name: &str| name.to_lowercase().replace('_', "-");
        let (good, saw) = match arrived.as_slice() {
            [] => rig.refused(&probe, &said).await,
            [one] if one.names().iter().any(|found| plain(found) == plain(name)) => {
                (false, "reached the application".to_owned())
            }
            [one] => {
                let call = &rig.calls.allowed;
                let same = one.method() == call.method && one.target() == call.path;
                let saw = if same { "taken off" } else { "obeyed" };
                (same, saw.to_owned())
            }
            _ => (false, "forwarded twice".to_owned()),
        };
        cases.add(name, good, saw);
    }
    Ok(cases)
}

pub(super) async fn methods(rig: &Rig) -> Result<Cases, Stop> {
    let allowed = &rig.calls.allowed;
    let mut cases = Cases::default();
    for method in [
        "DELETE", "PATCH", "GETT", "TRACE", "M-SEARCH", "PROPFIND", "get", "GET2",
    ] {
        let probe = Probe::new();
        let call = Call {
            method: method.to_owned(),
            path: allowed.path.clone(),
        };
        let said = rig.ask(&probe, &call, "").await?;
        cases.judge(method, rig.refused(&probe, &said).await);
    }
    let probe = Probe::new();
    let host = &rig.target.host;
    let lines = probe.own_lines();
    let request = format!(
        "CONNECT {host}:80 HTTP/1.1\r\nhost: {host}:80\r\n{lines}connection: close\r\n\r\n"
    );
    let said = rig.say(request.as_bytes()).await?;
    cases.judge("CONNECT", rig.refused(&probe, &said).await);
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_bent_as_meant() {
        assert_eq!(last_slash("/a/b", "%2f"), "/a%2fb");
        assert_eq!(climb("/a/b", ".."), "/a/b/../..");
    }
}

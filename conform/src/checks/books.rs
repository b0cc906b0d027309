//! Group A: what the books say of it.

use std::time::Duration;

use crate::books::{Row, find_secret};
use crate::check::{Cases, Stop, Trouble};
use crate::collector::{ROWS, TwiceWriter};
use crate::rig::{ANSWER_LIMIT, Call, Probe, Rig};

/// A target that waits longer for its application is not waited for.
const TIMEOUT_S_MAX: u64 = 15;
const ARRIVAL_LIMIT: Duration = Duration::from_secs(5);
/// How long the collector's rows get until they can be asked for.
const STORED_LIMIT: Duration = Duration::from_secs(8);

pub(super) async fn allow_once(rig: &Rig) -> Result<Cases, Stop> {
    rig.books()?;
    let mut cases = Cases::default();
    let probe = Probe::new();
    let said = rig.ask(&probe, &rig.calls.allowed, "").await?;
    let rows = rig.rows_of(&probe).await?;
    let good = matches!(rows.as_slice(), [row] if is_allow(row)) && said.is_served();
    cases.add("a call of this tool", good, words(&rows));
    let none = || Stop::skip("the profile has no [outbound]: the client's side writes nothing");
    let outbound = rig.outbound.as_ref().ok_or_else(none)?;
    let probe = Probe::new();
    let said = outbound
        .ask(&probe, &outbound.host, &rig.calls.allowed)
        .await?;
    let rows = rig.rows_of_at_least(&probe, 2).await?;
    let side = |name: &str| {
        rows.iter()
            .filter(|row| row.side == name)
            .collect::<Vec<_>>()
    };
    let joined = match (side("client").as_slice(), side("server").as_slice()) {
        ([client], [server]) => {
            server.parent_span_id == client.span_id
                && server.span_id != client.span_id
                && is_allow(server)
                && server.source == client.source
        }
        _ => false,
    };
    let good = joined && rows.len() == 2 && said.is_served();
    cases.add("a call through both proxies", good, words(&rows));
    Ok(cases)
}

fn is_allow(row: &Row) -> bool {
    row.side == "server" && row.decision == "allow" && row.outcome == "ok"
}

fn words(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no row".to_owned();
    }
    let words: Vec<String> = rows
        .iter()
        .map(|row| format!("{}: {}", row.side, row.words()))
        .collect();
    words.join(", ")
}

pub(super) async fn deny_once(rig: &Rig) -> Result<Cases, Stop> {
    rig.books()?;
    let mut cases = Cases::default();
    let ambiguous = Call {
        method: rig.calls.allowed.method.clone(),
        path: format!("{}/../x", rig.calls.allowed.path),
    };
    let undeclared = Call {
        method: "DELETE".to_owned(),
        path: rig.calls.allowed.path.clone(),
    };
    for (sent, call, reason) in [
        ("no grant", &rig.calls.denied, "grant_none"),
        ("no such path", &rig.calls.undeclared, "route_unknown"),
        ("no such method", &undeclared, "method_not_declared"),
        ("an ambiguous path", &ambiguous, "path_ambiguous"),
    ] {
        let probe = Probe::new();
        rig.ask(&probe, call, "").await?;
        let rows = rig.rows_of(&probe).await?;
        let good = match rows.as_slice() {
            [row] => {
                row.decision == "deny"
                    && row.reason == reason
                    && row.outcome == "denied"
                    && row.grant_id.is_empty()
                    && !row.bundle_sha256.is_empty()
            }
            _ => false,
        };
        cases.add(sent, good, words(&rows));
    }
    Ok(cases)
}

pub(super) async fn broken_calls(rig: &Rig) -> Result<Cases, Stop> {
    rig.books()?;
    let mut cases = Cases::default();
    upload_broken_off(rig, &mut cases).await?;
    if let Some(call) = &rig.calls.reset {
        let probe = Probe::new();
        rig.ask(&probe, call, "").await?;
        expect(
            rig,
            &mut cases,
            "the application resets",
            &probe,
            &["unavailable", "server_error"],
        )
        .await?;
    }
    let Some(call) = &rig.calls.hang else {
        return Ok(cases);
    };
    caller_gone(rig, &mut cases, call).await?;
    let Some(timeout_s) = rig.calls.timeout_s.filter(|limit| *limit <= TIMEOUT_S_MAX) else {
        return Ok(cases);
    };
    let probe = Probe::new();
    let mut session = rig.session(b"http/1.1").await?;
    session
        .write(rig.request(&probe, &call.method, &call.path, "").as_bytes())
        .await;
    session
        .read(Duration::from_secs(timeout_s) + ANSWER_LIMIT)
        .await;
    expect(
        rig,
        &mut cases,
        "the application never answers",
        &probe,
        &["timeout"],
    )
    .await?;
    Ok(cases)
}

async fn upload_broken_off(rig: &Rig, cases: &mut Cases) -> Result<(), Stop> {
    let probe = Probe::new();
    let upload = &rig.calls.upload;
    let mut session = rig.session(b"http/1.1").await?;
    let request = rig.request(
        &probe,
        &upload.method,
        &upload.path,
        "content-length: 100\r\n",
    );
    session.write((request + "some of it").as_bytes()).await;
    reached(rig, &probe).await;
    drop(session);
    expect(
        rig,
        cases,
        "the caller goes amid its request",
        &probe,
        &["aborted"],
    )
    .await
}

async fn caller_gone(rig: &Rig, cases: &mut Cases, call: &Call) -> Result<(), Stop> {
    let probe = Probe::new();
    let mut session = rig.session(b"http/1.1").await?;
    session
        .write(rig.request(&probe, &call.method, &call.path, "").as_bytes())
        .await;
    reached(rig, &probe).await;
    drop(session);
    expect(
        rig,
        cases,
        "the caller goes before the response",
        &probe,
        &["aborted"],
    )
    .await
}

/// Waits until the request is at the application.
async fn reached(rig: &Rig, probe: &Probe) {
    let Some(app) = &rig.app else {
        return;
    };
    let looking = async {
        while app.arrived(&probe.marker).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(ARRIVAL_LIMIT, looking).await.is_err() {
        tracing::debug!("the request did not reach the application");
    }
}

async fn expect(
    rig: &Rig,
    cases: &mut Cases,
    sent: &str,
    probe: &Probe,
    outcomes: &[&str],
) -> Result<(), Stop> {
    let rows = rig.rows_of(probe).await?;
    let good = matches!(rows.as_slice(), [row] if outcomes.contains(&row.outcome.as_str()));
    cases.add(sent, good, words(&rows));
    Ok(())
}

pub(super) async fn secrets(rig: &Rig) -> Result<Cases, Stop> {
    rig.books()?;
    let word = || {
        let random: [u8; 10] = rand::random();
        format!("s3cret{}", hex::encode(random))
    };
    let digits: u64 = rand::random();
    let card = format!("4111{:012}", digits % 1_000_000_000_000);
    let secrets = vec![word(), word(), word(), word(), card];
    let [bearer, cookie, query, body, card] = secrets.as_slice() else {
        return Ok(Cases::default());
    };
    let mut cases = Cases::default();
    let lines = format!(
        "authorization: Bearer {bearer}\r\ncookie: session={cookie}\r\nx-card: {card}\r\n\
         content-length: {}\r\n",
        body.len()
    );
    for call in [&rig.calls.upload, &rig.calls.denied, &rig.calls.undeclared] {
        let probe = Probe::new();
        let path = format!("{}?card={card}&key={query}", call.path);
        let request = rig.request(&probe, &call.method, &path, &lines) + body;
        rig.say(request.as_bytes()).await?;
        let rows = rig.rows_of(&probe).await?;
        let found = secrets
            .iter()
            .position(|secret| rows.iter().any(|row| row.text.contains(secret)));
        let saw = match found {
            _ if rows.is_empty() => "no row".to_owned(),
            None => "none of them in the row".to_owned(),
            Some(at) => format!("the row holds {}", kind(at)),
        };
        cases.add(
            format!("secrets with {}", call.path),
            found.is_none() && !rows.is_empty(),
            saw,
        );
    }
    let mut places = rig.logs.clone();
    places.extend(rig.spools());
    match find_secret(&places, &secrets).map_err(Trouble::Books)? {
        _ if places.is_empty() => {}
        None => cases.add("a look into logs and spools", true, "none of them there"),
        Some((file, at)) => {
            let saw = format!("{} holds {}", file.display(), kind(at));
            cases.add("a look into logs and spools", false, saw);
        }
    }
    Ok(cases)
}

/// What the secret at this place is.
const fn kind(at: usize) -> &'static str {
    match at {
        0 => "the credential",
        1 => "the cookie",
        2 => "the query value",
        3 => "the body",
        _ => "the card number",
    }
}

pub(super) async fn replayed(rig: &Rig) -> Result<Cases, Stop> {
    let none = || Stop::skip("the profile has no [collector]");
    let receiver = rig.receiver.as_ref().ok_or_else(none)?;
    let mut writer = TwiceWriter::open(receiver, rig.material.identity()?).await?;
    let mut cases = Cases::default();
    let status = writer.hello().await?;
    cases.add("an announcement", status == 200, status.to_string());
    for sent in ["a batch", "the same batch again"] {
        let status = writer.batch().await?;
        cases.add(
            sent,
            (200..300).contains(&status) || status == 409,
            status.to_string(),
        );
    }
    let status = writer.end().await?;
    cases.add("a final statement", status == 200, status.to_string());
    let until = tokio::time::Instant::now() + STORED_LIMIT;
    let mut stored = receiver.count(writer.name()).await?;
    while stored < ROWS && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stored = receiver.count(writer.name()).await?;
    }
    let saw = format!("{stored} rows for {ROWS} that were written");
    cases.add("a look into the books", stored == ROWS, saw);
    Ok(cases)
}

pub(super) async fn shadow(rig: &Rig) -> Result<Cases, Stop> {
    rig.books()?;
    let none = || Stop::skip("the profile names no call that a candidate decides otherwise");
    let call = rig.calls.shadow.as_ref().ok_or_else(none)?;
    let mut cases = Cases::default();
    let probe = Probe::new();
    let said = rig.ask(&probe, call, "").await?;
    let (served, mut saw) = rig.served(&probe, &said).await;
    let rows = rig.rows_of(&probe).await?;
    let written = matches!(
        rows.as_slice(),
        [row] if row.decision == "allow" && row.shadow_decision == "deny"
    );
    if let Some(row) = rows.first() {
        saw = format!(
            "{saw}, enforced {}, shadow {:?}",
            row.decision, row.shadow_decision
        );
    }
    cases.add("a call that the candidate denies", served && written, saw);
    Ok(cases)
}

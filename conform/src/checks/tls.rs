//! Group T: who is let in, and whom the target calls.

use std::io::{Read, Write};
use std::net::TcpStream as BlockingStream;
use std::sync::Arc;
use std::time::Duration;

use counterfoil_entry::clock;
use counterfoil_trust::{ClientAuth, server_config, server_name};
use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use crate::check::{Cases, Stop, chain};
use crate::h1::Said;
use crate::hail::{Hailed, config, hail, judge};
use crate::material::Bad;
use crate::rig::{ANSWER_LIMIT, Probe, Rig};

pub(super) async fn plaintext(rig: &Rig) -> Result<Cases, Stop> {
    let mut cases = Cases::default();
    let probe = Probe::new();
    let (mut stream, port) = rig.tcp().await?;
    let call = &rig.calls.allowed;
    let request = rig.request(&probe, &call.method, &call.path, "");
    if let Err(error) = stream.write_all(request.as_bytes()).await {
        tracing::debug!(%error, "the target closed while it was written to");
    }
    let said = Said::read(&mut stream, port, ANSWER_LIMIT).await;
    let arrived = rig.arrived(&probe.marker).await.unwrap_or_default();
    let hailed = Hailed {
        refused: !said.text().contains("HTTP/") && said.closed && arrived.is_empty(),
        saw: said.words(),
        port,
    };
    judge(
        rig,
        &mut cases,
        "HTTP without TLS",
        hailed,
        &["tls_protocol"],
    )
    .await?;
    Ok(cases)
}

pub(super) async fn no_certificate(rig: &Rig) -> Result<Cases, Stop> {
    let mut cases = Cases::default();
    let hailed = hail(rig, config(None, &[&TLS13])?).await?;
    judge(
        rig,
        &mut cases,
        "no certificate",
        hailed,
        &["tls_no_client_cert"],
    )
    .await?;
    Ok(cases)
}

pub(super) async fn foreign(rig: &Rig) -> Result<Cases, Stop> {
    let bad = [
        (Bad::Foreign, "a certificate of another CA"),
        (Bad::SelfSigned, "a self-signed certificate"),
    ];
    certificates(rig, &bad, &["tls_untrusted"]).await
}

pub(super) async fn expired(rig: &Rig) -> Result<Cases, Stop> {
    let bad = [(Bad::Expired, "a certificate that expired an hour ago")];
    certificates(rig, &bad, &["tls_expired"]).await
}

pub(super) async fn not_yet_valid(rig: &Rig) -> Result<Cases, Stop> {
    let bad = [(Bad::NotYetValid, "a certificate valid in an hour")];
    certificates(rig, &bad, &["tls_not_yet_valid"]).await
}

pub(super) async fn identity(rig: &Rig) -> Result<Cases, Stop> {
    let bad = [
        (Bad::WrongDomain, "a SPIFFE id of another trust domain"),
        (Bad::NoIdentity, "no SPIFFE id"),
        (Bad::TwoIdentities, "two SPIFFE ids"),
    ];
    certificates(rig, &bad, &["tls_wrong_peer", "id_malformed"]).await
}

pub(super) async fn usage(rig: &Rig) -> Result<Cases, Stop> {
    let bad = [
        (Bad::ServerOnly, "a certificate for servers only"),
        (Bad::IsCa, "a certificate that may sign others"),
    ];
    certificates(rig, &bad, &["tls_untrusted"]).await
}

async fn certificates(rig: &Rig, bad: &[(Bad, &str)], reasons: &[&str]) -> Result<Cases, Stop> {
    let mut cases = Cases::default();
    for (bad, sent) in bad {
        let shown = rig.material.bad(*bad)?;
        let hailed = hail(rig, config(Some(shown), &[&TLS13])?).await?;
        judge(rig, &mut cases, sent, hailed, reasons).await?;
    }
    Ok(cases)
}

pub(super) async fn legacy(rig: &Rig) -> Result<Cases, Stop> {
    const USUAL: &[u16] = &[
        0xc02b, 0xc02f, 0xc02c, 0xc030, 0xc009, 0xc013, 0x002f, 0x000a,
    ];
    const WEAK: &[u16] = &[
        0x0001, 0x0002, 0x0003, 0x0004, 0x0005, 0x000a, 0x0018, 0x0034, 0xc006, 0xc007, 0xc008,
        0xc010, 0xc012, 0xc018,
    ];
    let mut cases = Cases::default();
    for (sent, version, suites) in [
        ("TLS 1.0", 0x0301, USUAL),
        ("TLS 1.1", 0x0302, USUAL),
        ("TLS 1.2", 0x0303, USUAL),
        ("NULL, RC4, 3DES, EXPORT and anonymous suites", 0x0303, WEAK),
    ] {
        let hailed = greet(rig, &client_hello(version, suites)).await?;
        judge(rig, &mut cases, sent, hailed, &["tls_protocol"]).await?;
    }
    let older = config(Some(rig.material.good()?), &[&TLS12])?;
    let hailed = hail(rig, older).await?;
    judge(
        rig,
        &mut cases,
        "TLS 1.2 with a good certificate",
        hailed,
        &["tls_protocol"],
    )
    .await?;
    Ok(cases)
}

/// Sends a client's hello and looks whether a server's comes back.
async fn greet(rig: &Rig, hello: &[u8]) -> Result<Hailed, Stop> {
    const HANDSHAKE: u8 = 22;
    let (mut stream, port) = rig.tcp().await?;
    let mut record = [0; 5];
    let reading = async {
        stream.write_all(hello).await?;
        stream.read_exact(&mut record).await
    };
    let (refused, saw) = match tokio::time::timeout(ANSWER_LIMIT, reading).await {
        Ok(Ok(_)) if record.first() == Some(&HANDSHAKE) => (false, "shook hands".to_owned()),
        Ok(Ok(_)) => (true, "refused with an alert".to_owned()),
        Ok(Err(_closed)) => (true, "refused".to_owned()),
        Err(_elapsed) => (false, "no answer".to_owned()),
    };
    Ok(Hailed { refused, saw, port })
}

/// A client's hello as TLS 1.2 and older have it (RFC 5246 7.4.1.2): no library here would send it.
fn client_hello(version: u16, suites: &[u16]) -> Vec<u8> {
    let vector16 = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        [&length.to_be_bytes()[..], bytes].concat()
    };
    let extension = |kind: u16, bytes: &[u8]| [&kind.to_be_bytes()[..], &vector16(bytes)].concat();
    let suites: Vec<u8> = suites
        .iter()
        .flat_map(|suite| suite.to_be_bytes())
        .collect();
    let extensions = [
        // supported groups: x25519, P-256
        extension(10, &vector16(&[0, 29, 0, 23])),
        // point formats: uncompressed
        extension(11, &[1, 0]),
        // signature algorithms: ECDSA and RSA with SHA-256, and with SHA-1
        extension(13, &vector16(&[4, 3, 4, 1, 2, 3, 2, 1])),
    ]
    .concat();
    let random: [u8; 32] = rand::random();
    let body = [
        &version.to_be_bytes()[..],
        &random,
        // no session to resume
        &[0],
        &vector16(&suites),
        // no compression
        &[1, 0],
        &vector16(&extensions),
    ]
    .concat();
    let length = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
    let [_, a, b, c] = length;
    let message = [&[1, a, b, c][..], &body].concat();
    [&[22, 3, 1][..], &vector16(&message)].concat()
}

pub(super) async fn impostor(rig: &Rig) -> Result<Cases, Stop> {
    let missing = || Stop::skip("the profile has no [outbound] with an impostor");
    let outbound = rig.outbound.as_ref().ok_or_else(missing)?;
    let impostor = outbound.impostor.as_ref().ok_or_else(missing)?;
    let identity = rig.material.other("conform-impostor")?;
    let tls = TlsAcceptor::from(server_config(
        &identity,
        ClientAuth::Optional,
        &[b"h2", b"http/1.1"],
    ));
    let mut cases = Cases::default();
    let probe = Probe::new();
    let said = outbound
        .ask(&probe, &outbound.host, &rig.calls.allowed)
        .await?;
    cases.judge("the right server", rig.served(&probe, &said).await);
    let probe = Probe::new();
    let asking = outbound.ask(&probe, &impostor.host, &rig.calls.allowed);
    let waiting = async {
        // a caller that comes again is the same finding
        while let Ok((stream, _)) = impostor.listener.accept().await {
            let Ok(mut stream) = tls.accept(stream).await else {
                continue;
            };
            let mut some = [0; 64];
            if matches!(stream.read(&mut some).await, Ok(1..)) {
                return true;
            }
        }
        false
    };
    let (said, told) = tokio::select! {
        told = waiting => (None, told),
        said = asking => (Some(said?), false),
    };
    let served = said.as_ref().is_some_and(Said::is_served);
    let saw = match (&said, told) {
        (_, true) => "the request went to the wrong server".to_owned(),
        (Some(said), _) => said.words(),
        (None, _) => "no answer".to_owned(),
    };
    cases.add("a server that is another workload", !told && !served, saw);
    Ok(cases)
}

/// Life of the certificate whose session is resumed after it (s).
const SHORT_LIFE_S: i64 = 5;

pub(super) async fn resumption(rig: &Rig) -> Result<Cases, Stop> {
    let shown = rig
        .material
        .short_lived(time::Duration::seconds(SHORT_LIFE_S))?;
    let began_ns = clock::mono_ns();
    let mut tls = (*config(Some(shown), &[&TLS13])?).clone();
    tls.resumption = Resumption::in_memory_sessions(4);
    tls.enable_early_data = true;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = Arc::new(tls);
    let mut cases = Cases::default();
    let first = talk(rig, &tls).await?;
    cases.add("a first connection", first.served, first.saw());
    if first.tickets == 0 {
        cases.add("a second one", true, "no session to resume was offered");
        return Ok(cases);
    }
    let second = talk(rig, &tls).await?;
    cases.add("early data", !second.early_taken, second.saw());
    let life_ns = u64::try_from(SHORT_LIFE_S).unwrap_or(0) * 1_000_000_000;
    // the end is a whole second, and that second still counts
    let left_ns = (began_ns + life_ns + 1_200_000_000).saturating_sub(clock::mono_ns());
    tokio::time::sleep(Duration::from_nanos(left_ns)).await;
    let third = talk(rig, &tls).await?;
    cases.add(
        "resumption after the certificate expired",
        !third.served,
        third.saw(),
    );
    Ok(cases)
}

/// One connection that may resume a session.
struct Talk {
    served: bool,
    resumed: bool,
    early_taken: bool,
    tickets: u32,
    error: String,
}

impl Talk {
    fn saw(&self) -> String {
        let mut words = vec![if self.served { "served" } else { "refused" }.to_owned()];
        for (is, word) in [
            (self.resumed, "resumed"),
            (self.early_taken, "early data taken"),
        ] {
            if is {
                words.push(word.to_owned());
            }
        }
        if !self.error.is_empty() {
            words.push(self.error.clone());
        }
        words.join(", ")
    }
}

async fn talk(rig: &Rig, tls: &Arc<ClientConfig>) -> Result<Talk, Stop> {
    let (stream, _port) = rig.tcp().await?;
    let call = &rig.calls.allowed;
    let request = rig.request(&Probe::new(), &call.method, &call.path, "");
    let tls = Arc::clone(tls);
    let talking = tokio::task::spawn_blocking(move || {
        let stream = stream.into_std().and_then(|stream| {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(ANSWER_LIMIT))?;
            Ok(stream)
        });
        stream
            .map_err(|error| chain(&error))
            .and_then(|stream| exchange(stream, tls, &request))
    });
    let failed = |error| Talk {
        served: false,
        resumed: false,
        early_taken: false,
        tickets: 0,
        error,
    };
    Ok(talking.await?.unwrap_or_else(failed))
}

/// Early data needs the blocking side of the TLS library.
fn exchange(
    mut stream: BlockingStream,
    tls: Arc<ClientConfig>,
    request: &str,
) -> Result<Talk, String> {
    let mut tls = ClientConnection::new(tls, server_name()).map_err(|error| chain(&error))?;
    let mut early = false;
    if let Some(mut data) = tls.early_data() {
        early = data.write_all(request.as_bytes()).is_ok();
    }
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)
            .map_err(|error| chain(&error))?;
    }
    let early_taken = early && tls.is_early_data_accepted();
    let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
    if !early_taken {
        tls.writer()
            .write_all(request.as_bytes())
            .map_err(|error| chain(&error))?;
    }
    let mut answer = Vec::new();
    let mut said = rustls::Stream::new(&mut tls, &mut stream);
    let ended = said.read_to_end(&mut answer);
    let served = String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 200");
    let error = match ended {
        Err(error) if answer.is_empty() => chain(&error),
        _ => String::new(),
    };
    Ok(Talk {
        served,
        resumed,
        early_taken,
        tickets: tls.tls13_tickets_received(),
        error,
    })
}

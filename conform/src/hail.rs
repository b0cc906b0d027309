//! Handshakes with any certificate, any version, or none, and what the target makes of them.

use std::sync::Arc;

use counterfoil_trust::{provider, server_name};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::{DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::check::{Cases, Stop, chain};
use crate::h1::Said;
use crate::material::Shown;
use crate::rig::{ANSWER_LIMIT, Probe, Rig};

/// What came of a handshake and a request on top of it.
#[derive(Debug)]
pub(crate) struct Hailed {
    pub(crate) refused: bool,
    pub(crate) saw: String,
    pub(crate) port: u16,
}

/// How the tool shakes hands when it is not the good caller. Whom it talks to does not matter then:
/// it says nothing that is secret.
pub(crate) fn config(
    shown: Option<Shown>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match shown {
        Some(shown) => builder.with_client_auth_cert(shown.chain, shown.key)?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Shakes hands and asks the allowed call.
pub(crate) async fn hail(rig: &Rig, config: Arc<ClientConfig>) -> Result<Hailed, Stop> {
    let probe = Probe::new();
    let (stream, port) = rig.tcp().await?;
    let connecting = TlsConnector::from(config).connect(server_name(), stream);
    let mut stream = match tokio::time::timeout(ANSWER_LIMIT, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Ok(Hailed {
                refused: true,
                saw: format!("refused: {}", chain(&error)),
                port,
            });
        }
        Err(_elapsed) => {
            return Ok(Hailed {
                refused: false,
                saw: "the handshake did not end".to_owned(),
                port,
            });
        }
    };
    let call = &rig.calls.allowed;
    let request = rig.request(&probe, &call.method, &call.path, "");
    // with TLS 1.3 the client ends its handshake before it hears whether it is welcome
    if let Err(error) = stream.write_all(request.as_bytes()).await {
        return Ok(Hailed {
            refused: true,
            saw: format!("refused: {}", chain(&error)),
            port,
        });
    }
    let said = Said::read(&mut stream, port, ANSWER_LIMIT).await;
    let arrived = rig.arrived(&probe.marker).await.unwrap_or_default();
    let silent = said.bytes.is_empty() && said.closed;
    let saw = if silent {
        let mut more = [0; 1];
        match stream.read(&mut more).await {
            Err(error) => format!("refused: {}", chain(&error)),
            Ok(_) => "closed without an answer".to_owned(),
        }
    } else {
        format!("talked to: {}", said.words())
    };
    Ok(Hailed {
        refused: silent && arrived.is_empty(),
        saw,
        port,
    })
}

/// Adds a case about a refused handshake: and, where there are books, its row with one of `reasons`.
pub(crate) async fn judge(
    rig: &Rig,
    cases: &mut Cases,
    sent: &str,
    hailed: Hailed,
    reasons: &[&str],
) -> Result<(), Stop> {
    if !hailed.refused || rig.books.is_none() {
        cases.add(sent, hailed.refused, hailed.saw);
        return Ok(());
    }
    let rows = rig.rows_of_port(hailed.port).await?;
    let (good, saw) = match rows.as_slice() {
        [row] => {
            let known = reasons.contains(&row.reason.as_str());
            let good = known && row.kind == "tls_failure" && row.decision == "deny";
            (good, format!("refused; in the books as {}", row.words()))
        }
        rows => (false, format!("refused; {} rows in the books", rows.len())),
    };
    cases.add(sent, good, saw);
    Ok(())
}

/// A verifier that takes any server.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

//! Calls that must be denied: no grant, an operation that nobody declared, a wrong identity.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::{
    app::Stage,
    call::Target,
    driver::{Tally, traceparent},
    plan::{Caller, Protocol, System},
    ports::ProxyPorts,
};

/// How long a refused connection may take to say so.
const REFUSAL_MAX: Duration = Duration::from_secs(3);

/// Makes one call of each kind, spread over each interval, until `time_up`.
///
/// # Errors
/// When no foreign certificate can be made.
pub(crate) async fn run(
    stage: Arc<Stage>,
    inbound: SocketAddr,
    every: Duration,
    tally: Arc<Tally>,
    time_up: CancellationToken,
) -> anyhow::Result<()> {
    let stranger = foreign_certificate(stage.system.slug(first_service(&stage.system)))?;
    let pause = every / 4;
    loop {
        for kind in 0..4 {
            if time_up
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                return Ok(());
            }
            match kind {
                0 => without_grant(&stage).await,
                1 => undeclared(&stage).await,
                2 => refused_handshake(inbound, with_certificate(&stranger)?).await,
                _ => refused_handshake(inbound, without_certificate()?).await,
            }
            tally.forbidden.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn first_service(system: &System) -> Caller {
    let first = system
        .calls
        .iter()
        .find(|(caller, _)| *caller == Caller::Driver);
    let operation = first.and_then(|(_, operation)| system.operations.get(*operation));
    Caller::Service(operation.map_or(0, |operation| operation.service))
}

/// Inbound port of the service that the driver calls first; `ports` are in order of the services.
pub(crate) fn first_inbound(system: &System, ports: &[ProxyPorts]) -> Option<SocketAddr> {
    let Caller::Service(service) = first_service(system) else {
        return None;
    };
    ports.get(service).map(|ports| ports.inbound)
}

/// Callers and operations that they have no grant for; those of services that they may call otherwise come first.
pub(crate) fn not_granted(system: &System) -> impl Iterator<Item = (Caller, usize)> {
    let callers =
        || std::iter::once(Caller::Driver).chain((0..system.services.len()).map(Caller::Service));
    let knows = move |caller: Caller, service: usize| {
        system.calls.iter().any(|(c, operation)| {
            *c == caller
                && system
                    .operations
                    .get(*operation)
                    .is_some_and(|o| o.service == service)
        })
    };
    let pairs = move |known: bool| {
        system
            .operations
            .iter()
            .enumerate()
            .flat_map(move |(index, operation)| {
                let service = operation.service;
                callers()
                    .filter(move |caller| *caller != Caller::Service(service))
                    .filter(move |caller| !system.calls.contains(&(*caller, index)))
                    .filter(move |caller| knows(*caller, service) == known)
                    .map(move |caller| (caller, index))
            })
    };
    pairs(true).chain(pairs(false))
}

async fn without_grant(stage: &Stage) {
    let Some((caller, operation)) = not_granted(&stage.system).next() else {
        return;
    };
    let Some(operation) = stage.system.operations.get(operation) else {
        return;
    };
    forbidden_call(
        stage,
        caller,
        operation.service,
        &operation.path,
        operation.protocol,
    )
    .await;
}

async fn undeclared(stage: &Stage) {
    let Caller::Service(service) = first_service(&stage.system) else {
        return;
    };
    forbidden_call(
        stage,
        Caller::Driver,
        service,
        "/op/undeclared",
        Protocol::Http,
    )
    .await;
}

async fn forbidden_call(
    stage: &Stage,
    caller: Caller,
    service: usize,
    path: &str,
    protocol: Protocol,
) {
    let Some(outbound) = stage.outbound(caller) else {
        return;
    };
    let trace_id = format!("{:032x}", rand::random::<u128>() | 1);
    let target = Target {
        host: stage.system.slug(Caller::Service(service)),
        path,
        protocol,
        traceparent: &traceparent(&trace_id),
        plan: "",
    };
    match outbound.call(target).await {
        Ok(true) => tracing::error!(path, "a call that must be denied was answered"),
        Ok(false) => {}
        Err(error) => tracing::debug!(
            error = &error as &dyn std::error::Error,
            "a call to be denied broke"
        ),
    }
}

/// Tries to speak to an inbound port with an identity that is none here.
async fn refused_handshake(inbound: SocketAddr, config: ClientConfig) {
    let attempt = async {
        let stream = TcpStream::connect(inbound).await?;
        let name = ServerName::from(inbound.ip());
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        // The client is done before the server has looked at its certificate; the refusal is what is read.
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: stranger\r\n\r\n")
            .await?;
        stream.read(&mut [0; 64]).await
    };
    match tokio::time::timeout(REFUSAL_MAX, attempt).await {
        Ok(Ok(read)) if read > 0 => tracing::error!("a stranger was answered"),
        Ok(Ok(_) | Err(_)) => {}
        Err(_) => tracing::warn!("a stranger's connection was neither refused nor closed"),
    }
}

/// A certificate of a foreign authority that names a workload of ours.
struct Foreign {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

fn foreign_certificate(slug: &str) -> anyhow::Result<Foreign> {
    let doing = "making a foreign certificate";
    let key = KeyPair::generate().context(doing)?;
    let mut params = CertificateParams::new(Vec::new()).context(doing)?;
    let id = format!(
        "spiffe://{}/workload/{slug}",
        super::provision::TRUST_DOMAIN
    );
    params.subject_alt_names = vec![SanType::URI(id.try_into().context(doing)?)];
    let certificate = params.self_signed(&key).context(doing)?;
    Ok(Foreign {
        chain: vec![certificate.der().clone()],
        key: key.serialize_der(),
    })
}

fn with_certificate(foreign: &Foreign) -> anyhow::Result<ClientConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(foreign.key.clone()));
    Ok(stranger()?.with_client_auth_cert(foreign.chain.clone(), key)?)
}

fn without_certificate() -> anyhow::Result<ClientConfig> {
    Ok(stranger()?.with_no_client_auth())
}

fn stranger() -> anyhow::Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>>
{
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer)))
}

/// A stranger does not care whom it speaks to. Used for nothing but to be refused.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
            SignatureScheme::ECDSA_NISTP384_SHA384,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::shop::Shop;

    #[test]
    fn a_call_without_grant_goes_to_a_service_that_the_caller_knows() {
        let (system, _) = Shop::open(1);
        let (caller, operation) = not_granted(&system).next().unwrap();
        assert!(!system.calls.contains(&(caller, operation)));
        let service = system.operations[operation].service;
        assert!(
            system
                .calls
                .iter()
                .any(|(c, o)| *c == caller && system.operations[*o].service == service)
        );
    }

    #[test]
    fn a_system_of_one_edge_still_has_a_call_without_grant() {
        let mut system = System::default();
        let (a, b) = (system.service("a"), system.service("b"));
        let entry = system.operation(a, "entry");
        let operation = system.operation(b, "x");
        system.calls.insert((Caller::Driver, entry));
        system.calls.insert((Caller::Service(a), operation));
        assert_eq!(
            not_granted(&system).next(),
            Some((Caller::Service(b), entry))
        );
    }
}

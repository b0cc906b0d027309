//! Probes of control, against a listener that answers well, badly, late or as somebody else.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counterfoil_trust::{ClientAuth, server_config};
use http::Response;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::world::{Authority, WRITER};
use crate::join::IdentityConfig;
use crate::probe::HealthProbe;

const CONTROL: &str = "spiffe://bank.test/counterfoil/control";
const LONG: Duration = Duration::from_secs(20);

/// What the listener does with a request.
#[derive(Clone, Copy)]
enum Manner {
    Answers(u16),
    Hangs,
}

async fn control(
    authority: &Authority,
    name: &str,
    manner: Manner,
) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let identity = authority.identity(name);
    let tls = server_config(&identity, ClientAuth::Required, &[b"http/1.1"]);
    let tls = TlsAcceptor::from(tls);
    let task = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(stream) = tls.accept(tcp).await else {
                continue;
            };
            let service = service_fn(
                move |request: http::Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), "/v1/health");
                    let Manner::Answers(status) = manner else {
                        return std::future::pending().await;
                    };
                    let mut answer = Response::new(Full::new(Bytes::from_static(b"{}")));
                    *answer.status_mut() = status.try_into().unwrap();
                    Ok::<_, Infallible>(answer)
                },
            );
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            drop(tokio::spawn(serving));
        }
    });
    (address, AbortOnDropHandle::new(task))
}

fn probe(authority: &Authority, control: String) -> HealthProbe {
    let config = IdentityConfig {
        spiffe_id: WRITER.to_owned(),
        control,
        control_spiffe_id: None,
        roots_pem_file: "unused".into(),
        join_token_file: None,
        state_dir: "unused".into(),
    };
    HealthProbe::new(authority.identity(WRITER), &config).unwrap()
}

#[tokio::test]
async fn a_probe_says_what_it_met() {
    let authority = Arc::new(Authority::new());
    let cases = [
        (CONTROL, Manner::Answers(200), LONG, None),
        (CONTROL, Manner::Answers(503), LONG, Some("refused")),
        (
            CONTROL,
            Manner::Hangs,
            Duration::from_millis(300),
            Some("timeout"),
        ),
        (WRITER, Manner::Answers(200), LONG, Some("unreachable")),
    ];
    for (name, manner, within, expected) in cases {
        let (address, _serving) = control(&authority, name, manner).await;
        let probe = probe(&authority, address);
        // Asked twice: a probe that was once answered says nothing of the next.
        for _ in 0..2 {
            let found = probe.ask(within).await;
            let class = found.as_ref().err().map(|error| error.class());
            assert_eq!(class, expected, "{found:?}");
            assert!(found.is_err() || found.unwrap() > Duration::ZERO);
        }
    }
}

#[tokio::test]
async fn a_probe_of_a_control_that_is_gone_fails_at_once_and_by_its_class() {
    let authority = Authority::new();
    let (address, serving) = control(&authority, CONTROL, Manner::Answers(200)).await;
    let probe = probe(&authority, address);
    assert!(probe.ask(LONG).await.is_ok());
    serving.abort();
    drop(serving.await);
    let error = probe.ask(LONG).await.unwrap_err();
    assert_eq!(error.class(), "unreachable");
}

//! The prober against a control that comes and goes, over mutual TLS, into a real spool.

use std::path::Path;
use std::time::Duration;

use counterfoil_entry::frame::FrameReader;
use counterfoil_entry::id::Writer;
use counterfoil_entry::record::RecordView;
use counterfoil_entry::tlv::Fields;
use counterfoil_entry::{Hash, clock};
use counterfoil_spool::join::IdentityConfig;
use counterfoil_spool::probe::HealthProbe;
use counterfoil_spool::{Spool, SpoolConfig};
use counterfoil_trust::{ClientAuth, Identity, Svid, TrustRoots, server_config};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose as Eku, IsCa,
    Issuer, KeyPair, SanType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::prober;

const QUERY: &str = "spiffe://shop.test/counterfoil/query";
const CONTROL: &str = "spiffe://shop.test/counterfoil/control";

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    fn identity(&self, id: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.extended_key_usages = vec![Eku::ClientAuth, Eku::ServerAuth];
        let now = std::time::UNIX_EPOCH
            + Duration::from_nanos(u64::try_from(clock::wall().as_ns()).unwrap());
        params.not_before = (now - Duration::from_secs(5)).into();
        params.not_after = (now + Duration::from_secs(3_600)).into();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        let svid = Svid::from_pem(&chain, &key.serialize_pem()).unwrap();
        Identity::new(svid, TrustRoots::from_pem(&self.pem).unwrap())
    }
}

/// Serves `GET /v1/health` well until it is dropped; counts the answers.
async fn control(
    listener: TcpListener,
    identity: Identity,
    answered: tokio::sync::mpsc::Sender<()>,
) {
    let tls = server_config(&identity, ClientAuth::Required, &[b"http/1.1"]);
    let tls = TlsAcceptor::from(tls);
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = tls.accept(tcp).await else {
            continue;
        };
        let mut head = vec![0; 4096];
        let read = stream.read(&mut head).await.unwrap();
        assert!(head[..read].starts_with(b"GET /v1/health HTTP/1.1\r\n"));
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        stream.write_all(answer).await.unwrap();
        stream.shutdown().await.ok();
        answered.send(()).await.unwrap();
    }
}

/// Stream, slots, good and failed probes, and class of the rows in a spool.
fn rows(folder: &Path) -> Vec<(String, u64, u64, u64, Option<String>)> {
    let mut rows = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.starts_with("control_health.") {
                let bytes = std::fs::read(&path).unwrap();
                for frame in FrameReader::new(bytes.get(8..).unwrap_or_default()) {
                    let view = RecordView::parse(frame.payload).unwrap();
                    let fields = Fields::parse(view.body).unwrap();
                    assert_eq!(fields.text(6).unwrap(), "prober");
                    rows.push((
                        fields.text(3).unwrap().to_owned(),
                        fields.u64(8).unwrap(),
                        fields.u64(9).unwrap(),
                        fields.u64(10).unwrap(),
                        fields.text_opt(13).unwrap().map(ToOwned::to_owned),
                    ));
                }
            }
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_prober_writes_down_that_control_was_there_and_then_was_not() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (answered, mut answers) = tokio::sync::mpsc::channel(64);
    let serving = tokio::spawn(control(listener, authority.identity(CONTROL), answered));
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(SpoolConfig {
        directory: folder.path().to_owned(),
        writer: Writer::parse(&format!("{QUERY}#1")).unwrap(),
        size_max: 1 << 20,
        build: "test".into(),
        config_sha256: Hash::default(),
    })
    .unwrap();
    let config = IdentityConfig {
        spiffe_id: QUERY.into(),
        control: address.clone(),
        control_spiffe_id: None,
        roots_pem_file: "unused".into(),
        join_token_file: None,
        state_dir: "unused".into(),
    };
    let probe = HealthProbe::new(authority.identity(QUERY), &config).unwrap();
    let stop = CancellationToken::new();
    let probing = tokio::spawn(prober::run(probe, spool.lane(2), stop.clone()));
    for _ in 0..2 {
        answers.recv().await.unwrap();
    }
    serving.abort();
    drop(serving.await);
    // Whoever connects now is turned away: wait until the prober has been.
    let gone = TcpListener::bind(&address).await.unwrap();
    let (refused, _) = gone.accept().await.unwrap();
    drop(refused);
    drop(gone.accept().await.unwrap());
    stop.cancel();
    probing.await.unwrap();
    let rows = rows(folder.path());
    let good: u64 = rows.iter().map(|row| row.2).sum();
    let failed: u64 = rows.iter().map(|row| row.3).sum();
    assert!(good >= 2 && failed >= 1, "{rows:?}");
    for (stream, slots, _, failed, class) in &rows {
        assert_eq!(stream, "control_health/ops_13m/2");
        assert!((1..=6).contains(slots));
        let expected = (*failed > 0).then_some("unreachable");
        assert_eq!(class.as_deref(), expected);
    }
}

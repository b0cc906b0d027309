//! A certificate authority, a spool root and a receiver.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use counterfoil_entry::entry::Entry;
use counterfoil_entry::id::{RetentionClass, Stream, Writer};
use counterfoil_entry::table::TableId;
use counterfoil_entry::word::{Kind, Side};
use counterfoil_entry::{Hash, clock};
use counterfoil_trust::{Identity, SpiffeId, Svid, TrustRoots};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyPair, SanType,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::receiver::Receiver;
use crate::{Delivery, DeliveryConfig, DeliveryError, Ending, Lane, Spool, SpoolConfig};

pub(super) const WRITER: &str = "spiffe://bank.test/workload/pay";
pub(super) const COLLECTOR: &str = "spiffe://bank.test/counterfoil/collector";

/// A root of the trust domain.
pub(super) struct Authority {
    pub(super) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    pub(super) fn roots(&self) -> TrustRoots {
        TrustRoots::from_pem(&self.pem).unwrap()
    }

    pub(super) fn svid(&self, spiffe_id: &str) -> Svid {
        let key = KeyPair::generate().unwrap();
        let params = svid_params(spiffe_id, Duration::from_secs(3600));
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Svid::from_pem(&chain, &key.serialize_pem()).unwrap()
    }

    pub(super) fn identity(&self, spiffe_id: &str) -> Identity {
        Identity::new(self.svid(spiffe_id), self.roots())
    }

    /// Certifies the key of a request for `spiffe_id`, whatever the request names.
    pub(super) fn certify(&self, csr: &str, spiffe_id: &str, life: Duration) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params = svid_params(spiffe_id, life);
        request.signed_by(&self.issuer).unwrap().pem()
    }
}

fn svid_params(spiffe_id: &str, life: Duration) -> CertificateParams {
    let now = u64::try_from(clock::wall().as_ns()).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_nanos(now);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into().unwrap())];
    params.extended_key_usages = vec![Eku::ClientAuth, Eku::ServerAuth];
    params.not_before = (now - Duration::from_secs(5)).into();
    params.not_after = (now + life).into();
    params
}

/// Everything that a writer and its collector need.
pub(super) struct World {
    pub(super) authority: Authority,
    pub(super) root: TempDir,
    pub(super) receiver: Receiver,
}

impl World {
    pub(super) async fn new() -> Self {
        let authority = Authority::new();
        let receiver = Receiver::start(&authority).await;
        Self {
            authority,
            root: tempfile::tempdir().unwrap(),
            receiver,
        }
    }

    pub(super) fn writer() -> Writer {
        Writer::parse(&format!("{WRITER}#p-1")).unwrap()
    }

    /// The writer's own directory.
    pub(super) fn directory(&self) -> PathBuf {
        self.root.path().join(Self::writer().directory_name())
    }

    /// What lies in it.
    pub(super) fn left(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.directory())
            .unwrap()
            .map(|item| item.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(super) fn config(&self, size_max: u64) -> SpoolConfig {
        SpoolConfig {
            directory: self.root.path().to_owned(),
            writer: Self::writer(),
            size_max,
            build: "test".to_owned(),
            config_sha256: Hash([7; 32]),
        }
    }

    pub(super) fn spool(&self) -> Spool {
        Spool::open(self.config(64 << 20)).unwrap()
    }

    pub(super) fn delivery_config(&self) -> DeliveryConfig {
        let id = SpiffeId::parse(COLLECTOR).unwrap();
        DeliveryConfig {
            batch_interval: Duration::from_millis(20),
            statement_interval: Duration::from_millis(100),
            ..DeliveryConfig::new(self.receiver.address(), Some(id))
        }
    }

    pub(super) fn delivery(&self, spool: &Spool) -> Delivery {
        Delivery::new(
            spool,
            self.authority.identity(WRITER),
            self.delivery_config(),
        )
        .unwrap()
    }

    /// Starts the delivery of `spool`.
    pub(super) fn deliver(&self, spool: &Spool) -> Running {
        Running::start(self.delivery(spool))
    }
}

/// A running delivery.
pub(super) struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<Ending, DeliveryError>>,
}

impl Running {
    pub(super) fn start(delivery: Delivery) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(delivery.run(shutdown.clone()));
        Self { shutdown, task }
    }

    /// Ends it as a process that stops in good order.
    pub(super) async fn end(self) -> Ending {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap()
    }

    /// Ends it as a process that is killed; blocking work that runs is waited for, as the files
    /// belong to it.
    pub(super) async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Waits until `is_so`, at most 20 s.
pub(super) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let from = clock::mono_ns();
    while !is_so() {
        assert!(
            clock::mono_ns() - from < 20_000_000_000,
            "not within 20 s: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn class(name: &str) -> RetentionClass {
    RetentionClass::parse(name).unwrap()
}

pub(super) fn stream(text: &str) -> Stream {
    Stream::parse(text).unwrap()
}

/// Appends one entry whose route is `route`.
pub(super) fn append(lane: &mut Lane, of: &str, route: &str) -> Result<u64, crate::AppendError> {
    let mut entry = Entry::new(Side::Server, Kind::Http, clock::wall());
    entry.route = Some(route.into());
    lane.append(TableId::Entries, &class(of), |header, out| {
        entry.encode(header, out)
    })
}

pub(super) fn append_n(lane: &mut Lane, of: &str, n: usize) {
    for at in 0..n {
        append(lane, of, &format!("/{at}")).unwrap();
    }
}

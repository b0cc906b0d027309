//! A trust domain, a collector, writers that speak to it by hand, and readers of what it keeps.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use counterfoil_columns::DataDirectory;
use counterfoil_columns::journal::{self, Frames, JournalFrame};
use counterfoil_columns::segment::read_rows;
use counterfoil_entry::announcement::Announcement;
use counterfoil_entry::entry::Entry;
use counterfoil_entry::frame::push_record;
use counterfoil_entry::id::{Epoch, Stream, Writer};
use counterfoil_entry::record::{HeaderRef, RecordView};
use counterfoil_entry::rows::{GapRow, IssuanceRow};
use counterfoil_entry::statement::{
    AuditKey, Recovery, Signed, Statement, StatementKind, StreamRange, statement_hash,
};
use counterfoil_entry::table::TableId;
use counterfoil_entry::tree::{leaf_hash, root};
use counterfoil_entry::word::{Kind, Side};
use counterfoil_entry::{Hash, Time, clock};
use counterfoil_ledger::log::{read_checkpoint, read_manifest};
use counterfoil_ledger::manifest::Body;
use counterfoil_ledger::verify::{self, ChainTrust, RowsError, SealedRow, SegmentRows};
use counterfoil_spool::join::IdentityConfig;
use counterfoil_trust::{
    Expect, Identity, Svid, TrustRoots, client_config, server_name, verify_announcement,
};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::{CollectorConfig, CollectorError, Prepared};

pub(super) const ORIGIN: &str = "books.test/collector-1";
pub(super) const COLLECTOR: &str = "spiffe://books.test/counterfoil/collector";
pub(super) const SHOP: &str = "spiffe://books.test/workload/shop";
pub(super) const STREAM: &str = "entries/ops_90d/0";

/// A certificate authority and a folder for the books.
pub(super) struct World {
    authority: CertifiedIssuer<'static, KeyPair>,
    pub(super) folder: tempfile::TempDir,
}

/// A collector that runs.
pub(super) struct Running {
    pub(super) address: std::net::SocketAddr,
    /// Of the receivers for foreign systems.
    pub(super) foreign: Vec<std::net::SocketAddr>,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), CollectorError>>,
}

impl Running {
    /// Stops it in order.
    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap().unwrap();
    }

    /// Drops it where it stands, as `kill -9` would: no final statement, no last seal.
    pub(super) async fn kill(self) {
        self.serving.abort();
        drop(self.serving.await);
    }
}

impl World {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(params, key).unwrap();
        Self {
            authority,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn data(&self) -> DataDirectory {
        DataDirectory::create(self.folder.path().join("data")).unwrap()
    }

    pub(super) fn roots(&self) -> TrustRoots {
        TrustRoots::from_pem(&self.authority.pem()).unwrap()
    }

    pub(super) fn identity(&self, id: &str) -> Identity {
        self.identity_until(id, 2100)
    }

    /// An identity whose certificate expires with the year before `year`.
    pub(super) fn identity_until(&self, id: &str, year: i32) -> Identity {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let svid = Svid::from_pem(&certificate.pem(), &key.serialize_pem()).unwrap();
        Identity::new(svid, self.roots())
    }

    pub(super) fn config(&self) -> CollectorConfig {
        CollectorConfig {
            data_dir: self.folder.path().join("data"),
            origin: ORIGIN.to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
            identity: IdentityConfig {
                spiffe_id: COLLECTOR.to_owned(),
                control: "127.0.0.1:1".to_owned(),
                control_spiffe_id: None,
                roots_pem_file: "unused".into(),
                join_token_file: None,
                state_dir: "unused".into(),
            },
            log_key_file: None,
            query_spiffe_id: None,
            admin_listen: None,
            instance: "1".to_owned(),
            seal_interval_s: 3600,
            seal_rows_max: 1_000_000,
            silence_s: 60,
            queue_depth: 64,
            spool_bytes_max: 64 << 20,
            otlp: None,
            als: None,
            foreign_spool_bytes_max: 64 << 20,
        }
    }

    /// A collector that seals only when told, or at its end.
    pub(super) async fn collector(&self) -> Running {
        self.collector_with(self.config()).await
    }

    pub(super) async fn collector_with(&self, config: CollectorConfig) -> Running {
        let until = clock::mono_ns() + 10_000_000_000;
        // A killed collector's threads hold the lock for a moment longer.
        let prepared = loop {
            match Prepared::open(config.clone()).await {
                Err(CollectorError::Locked(_)) if clock::mono_ns() < until => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                prepared => break prepared.unwrap(),
            }
        };
        let foreign = prepared.foreign_addresses();
        let collector = prepared.start(self.identity(COLLECTOR)).await.unwrap();
        let (address, shutdown) = (collector.address(), CancellationToken::new());
        let serving = tokio::spawn(collector.serve(shutdown.clone()));
        Running {
            address,
            foreign,
            shutdown,
            serving,
        }
    }

    pub(super) fn writer(&self, id: &str, epoch: u64) -> TestWriter {
        TestWriter {
            identity: self.identity(id),
            key: AuditKey::generate().unwrap(),
            name: Writer::parse(&format!("{id}#1")).unwrap(),
            epoch: Epoch(epoch),
            records: Vec::new(),
            stated: 0,
            number: 0,
            previous: None,
            build: "test".to_owned(),
        }
    }

    /// Verifies the books and gives the failures and notes.
    pub(super) fn verify(&self) -> verify::Report {
        let request = verify::Request {
            books: &self.data().books(),
            policy: None,
            against: None,
            complete: false,
            now: clock::wall(),
        };
        verify::verify(&request, &Rows, &Chains)
    }

    /// What reached the books and the journal of one table, each row once for each time it is there.
    pub(super) fn rows(&self, table: TableId) -> Found {
        let data = self.data();
        let mut found = Found::default();
        let books = data.books();
        let size = read_checkpoint(&books, ORIGIN)
            .unwrap()
            .map_or(0, |head| head.size);
        let mut first_file = 0;
        for number in 0..size {
            let Body::Seal {
                journal_file,
                segments,
                ..
            } = read_manifest(&books, ORIGIN, number).unwrap().0.body
            else {
                continue;
            };
            first_file = journal_file;
            for segment in segments.iter().filter(|segment| segment.table == table) {
                read_rows(&books.join(&segment.file), table, |_, record, _| {
                    found.sealed.push(record.to_vec());
                    ControlFlow::Continue(())
                })
                .unwrap();
            }
        }
        read_journal(
            &data.journal(ORIGIN),
            first_file,
            table,
            &mut found.journaled,
        );
        found
    }

    /// The newest revision of every gap, but those about the collector itself.
    pub(super) fn gaps(&self) -> Vec<GapRow> {
        let rows = self.rows(TableId::Gaps);
        let mut newest: BTreeMap<String, GapRow> = BTreeMap::new();
        for record in rows.sealed.iter().chain(&rows.journaled) {
            let (_, gap) = GapRow::decode(record).unwrap();
            let known = newest.get(&gap.gap_id).map_or(0, |known| known.revision);
            if gap.revision > known && !gap.subject_writer.starts_with(COLLECTOR) {
                newest.insert(gap.gap_id.clone(), gap);
            }
        }
        newest.into_values().collect()
    }
}

/// Rows of a table: in segments, and in the journal after the last manifest.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) sealed: Vec<Vec<u8>>,
    pub(super) journaled: Vec<Vec<u8>>,
}

impl Found {
    /// All rows in order of their bytes.
    pub(super) fn sorted(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<_> = self.sealed.iter().chain(&self.journaled).cloned().collect();
        all.sort();
        all
    }
}

fn read_journal(directory: &Path, first: u64, table: TableId, into: &mut Vec<Vec<u8>>) {
    let numbers = journal::files(directory).unwrap();
    for (at, number) in numbers
        .into_iter()
        .filter(|number| *number >= first)
        .enumerate()
    {
        let bytes = journal::read(&journal::file_path(directory, number)).unwrap();
        for located in Frames::new(&bytes) {
            let located = located.unwrap();
            if let JournalFrame::Batch { records, .. } = located.frame
                && (at == 0 || !located.carried)
            {
                let of_table =
                    |record: &&[u8]| RecordView::parse(record).unwrap().table == table.number();
                into.extend(
                    records
                        .iter()
                        .map(|(_, r)| r)
                        .filter(of_table)
                        .map(<[u8]>::to_vec),
                );
            }
        }
    }
}

/// A writer whose every request the test chooses.
pub(super) struct TestWriter {
    pub(super) identity: Identity,
    pub(super) key: AuditKey,
    pub(super) name: Writer,
    pub(super) epoch: Epoch,
    pub(super) records: Vec<Vec<u8>>,
    stated: usize,
    pub(super) number: u64,
    pub(super) previous: Option<Hash>,
    pub(super) build: String,
}

/// Status and JSON of an answer.
pub(super) type Reply = (u16, serde_json::Value);

impl TestWriter {
    /// Writes entries: they have seqs, and are not sent.
    pub(super) fn write(&mut self, count: usize) {
        for _ in 0..count {
            let seq = self.records.len() as u64;
            let time = Time::from_ns(1_700_000_000_000_000_000 - i64::try_from(seq).unwrap());
            let entry = Entry::new(Side::Client, Kind::Http, time);
            let mut record = Vec::new();
            let header = HeaderRef {
                writer: self.name.as_str(),
                epoch: self.epoch,
                stream: STREAM,
                seq,
            };
            entry.encode(&header, &mut record);
            self.records.push(record);
        }
    }

    /// A batch of the entries with these seqs.
    pub(super) fn batch(&self, seqs: std::ops::Range<usize>) -> Vec<u8> {
        let mut body = Vec::new();
        self.records[seqs]
            .iter()
            .for_each(|record| push_record(&mut body, record));
        body
    }

    pub(super) fn range(&self, seqs: std::ops::Range<usize>) -> StreamRange {
        let leaves: Vec<_> = self.records[seqs.clone()]
            .iter()
            .map(|r| leaf_hash(r))
            .collect();
        StreamRange {
            stream: Stream::parse(STREAM).unwrap(),
            first_seq: seqs.start as u64,
            count: seqs.len() as u64,
            root: root(&leaves),
        }
    }

    /// The next statement over all entries written since the last one.
    pub(super) fn state(&mut self, kind: StatementKind) -> Signed {
        let seqs = self.stated..self.records.len();
        let streams = if seqs.is_empty() {
            Vec::new()
        } else {
            vec![self.range(seqs)]
        };
        self.stated = self.records.len();
        self.state_ranges(kind, streams)
    }

    pub(super) fn state_ranges(
        &mut self,
        kind: StatementKind,
        streams: Vec<StreamRange>,
    ) -> Signed {
        let statement = Statement {
            writer: self.name.clone(),
            epoch: self.epoch,
            number: self.number,
            kind,
            previous: self.previous,
            acked: None,
            checkpoint: None,
            origin: None,
            time: clock::wall(),
            clock: None,
            streams,
            drops: Vec::new(),
            calls_open: 0,
            oldest_call_start: None,
            spool_bytes: 0,
            bundle_sha256: None,
            config_sha256: Hash::default(),
            build: self.build.clone(),
            quarantined: Vec::new(),
        };
        let bytes = statement.encode();
        self.number += 1;
        self.previous = Some(statement_hash(&bytes));
        self.key.sign_statement(bytes)
    }

    /// The recovery statement of this epoch for what `old` wrote after its last statement.
    pub(super) fn recover(&mut self, old: &Self) -> Signed {
        let seqs = old.stated..old.records.len();
        let last = old.number.checked_sub(1).zip(old.previous);
        let tail = if seqs.is_empty() {
            Vec::new()
        } else {
            vec![old.range(seqs)]
        };
        let recovery = Recovery {
            old_epoch: old.epoch,
            last,
            tail,
        };
        self.state_ranges(StatementKind::Recovery(recovery), Vec::new())
    }

    pub(super) fn announcement(&self) -> Vec<u8> {
        self.announcement_of(&self.identity.current(), clock::wall())
    }

    /// The announcement that the writer made with `svid` at `time`.
    pub(super) fn announcement_of(&self, svid: &Svid, time: Time) -> Vec<u8> {
        let announcement = Announcement {
            writer: self.name.clone(),
            epoch: self.epoch,
            audit_key: self.key.public(),
            time,
            chain: svid.chain_der().iter().map(|der| der.to_vec()).collect(),
            build: "test".to_owned(),
        };
        let bytes = announcement.encode();
        let signature = svid.sign_announcement(&bytes).unwrap();
        Signed { bytes, signature }.to_wire()
    }

    pub(super) async fn hello(&self, to: &Running) -> Reply {
        let reply = self.post(to, "/v1/hello", self.announcement()).await;
        assert_eq!(reply.0, 200, "{reply:?}");
        reply
    }

    pub(super) async fn send(&self, to: &Running, seqs: std::ops::Range<usize>) -> Reply {
        self.post(to, "/v1/batch", self.batch(seqs)).await
    }

    pub(super) async fn submit(&self, to: &Running, signed: &Signed) -> Reply {
        self.post(to, "/v1/statement", signed.to_wire()).await
    }

    /// Sends the row by which control says that it issued `svid`.
    pub(super) async fn send_issued(&mut self, to: &Running, svid: &Svid) -> Reply {
        let row = IssuanceRow {
            kind: "svid".to_owned(),
            serial: Some(svid.serial().to_owned()),
            spiffe_id: svid.spiffe_id().as_str().to_owned(),
            not_before: Some(svid.not_before()),
            not_after: Some(svid.not_after()),
            cert_sha256: Some(svid.cert_sha256()),
            spki_sha256: None,
            issued_at: svid.not_before(),
            method: Some("join_token".to_owned()),
            subject_epoch: None,
            peer_address: None,
        };
        let stream = "issuance/permanent/0";
        let header = HeaderRef {
            writer: self.name.as_str(),
            epoch: self.epoch,
            stream,
            seq: 0,
        };
        let (mut record, mut body) = (Vec::new(), Vec::new());
        row.encode(&header, &mut record);
        push_record(&mut body, &record);
        self.post(to, "/v1/batch", body).await
    }

    /// Writes, sends and states entries; all is acknowledged.
    pub(super) async fn work(&mut self, to: &Running, count: usize) {
        let from = self.records.len();
        self.write(count);
        let sent = self.send(to, from..from + count).await;
        assert_eq!(sent.0, 200, "{sent:?}");
        let statement = self.state(StatementKind::Regular);
        let stated = self.submit(to, &statement).await;
        assert_eq!(stated.0, 200, "{stated:?}");
    }

    pub(super) async fn connect(&self, to: &Running) -> TlsStream<TcpStream> {
        let config = client_config(&self.identity, Expect::AnyInDomain, &[b"http/1.1"]);
        let stream = TcpStream::connect(to.address).await.unwrap();
        TlsConnector::from(config)
            .connect(server_name(), stream)
            .await
            .unwrap()
    }

    pub(super) async fn post(&self, to: &Running, path: &str, body: Vec<u8>) -> Reply {
        let tls = self.connect(to).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::post(path)
            .header("host", "collector")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        connection.abort();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }
}

/// Waits until `condition` holds, at most 20 s.
pub(super) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = clock::mono_ns() + 20_000_000_000;
    while !condition() {
        assert!(clock::mono_ns() < until, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

struct Rows;

impl SegmentRows for Rows {
    fn read(
        &self,
        file: &Path,
        table: TableId,
        each: &mut dyn FnMut(SealedRow<'_>) -> ControlFlow<()>,
    ) -> Result<verify::FileMeta, RowsError> {
        let meta = read_rows(file, table, |_, record, envelope| {
            each(SealedRow {
                leaf_index: envelope.leaf_index.unwrap(),
                record,
                envelope: verify::Envelope {
                    received_at: envelope.received_at,
                    origin: envelope.origin,
                    statement: envelope.statement,
                    segment: envelope.segment.unwrap(),
                    retention_class: envelope.retention_class,
                    delivery: envelope.delivery.as_str(),
                    attribution: envelope.attribution.as_str(),
                },
            })
        })
        .map_err(|error| RowsError(error.to_string()))?;
        Ok(verify::FileMeta {
            origin: meta.segment.origin,
            segment: meta.segment.segment,
            table: meta.segment.table.name().to_owned(),
            class: meta.segment.class.to_string(),
            schema_version: meta.segment.schema_version,
            root: meta.root,
        })
    }
}

struct Chains;

impl ChainTrust for Chains {
    fn announcement(
        &self,
        bytes: &[u8],
        signature: &[u8],
        _chain: &[Vec<u8>],
        roots: &[Vec<u8>],
        at: Time,
    ) -> Result<String, String> {
        let roots = roots.iter().map(|der| der.clone().into()).collect();
        let roots = TrustRoots::from_der(roots).map_err(|error| error.to_string())?;
        verify_announcement(&roots, bytes, signature, at)
            .map(|(_, peer)| peer.spiffe_id.as_str().to_owned())
            .map_err(|refusal| refusal.to_string())
    }
}

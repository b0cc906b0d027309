//! A collector under test, and a writer that sends it the same batch twice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counterfoil_entry::announcement::Announcement;
use counterfoil_entry::frame::push_record;
use counterfoil_entry::id::{Epoch, RetentionClass, Stream, Writer};
use counterfoil_entry::record::HeaderRef;
use counterfoil_entry::rows::ConformanceRow;
use counterfoil_entry::statement::{AuditKey, Signed, Statement, StatementKind, StreamRange};
use counterfoil_entry::table::TableId;
use counterfoil_entry::tree::{leaf_hash, root};
use counterfoil_entry::{Hash, clock};
use counterfoil_trust::{Expect, Identity, SpiffeId, client_config, server_name};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::BUILD;
use crate::check::{Stop, Trouble, chain};
use crate::rig::tcp;
use crate::sql::Server;

/// Rows of one batch.
pub(crate) const ROWS: u64 = 3;
const CLASS: &str = "audit_7y";
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Counts the rows that a writer, by its name, has in the books.
type Count = Arc<dyn Fn(&str) -> Result<u64, String> + Send + Sync>;

/// How to find out what a collector has stored.
pub enum Stored {
    /// By asking the SQL endpoint.
    Sql(SqlBooks),
    /// By a function of whoever runs the collector. It may block.
    Counted(Count),
}

/// The SQL endpoint of a profile.
#[derive(Debug)]
pub struct SqlBooks(pub(crate) Server);

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sql(_) => "Stored::Sql",
            Self::Counted(_) => "Stored::Counted",
        })
    }
}

/// A collector's native receiver.
#[derive(Debug)]
pub struct Receiver {
    /// Its `host:port`.
    pub address: String,
    /// Who must answer there; anybody of the trust domain when absent.
    pub spiffe_id: Option<SpiffeId>,
    /// What it has stored.
    pub stored: Stored,
}

impl Receiver {
    /// The rows of `writer` in the books.
    pub(crate) async fn count(&self, writer: &str) -> Result<u64, Stop> {
        let writer = writer.to_owned();
        match &self.stored {
            Stored::Sql(SqlBooks(server)) => {
                let sql = format!(
                    "SELECT count(*) AS rows FROM conformance_results WHERE writer = '{writer}'"
                );
                let rows = server
                    .ask(&sql)
                    .await
                    .map_err(crate::books::ReadError::Sql)?;
                let count = rows
                    .first()
                    .and_then(|row| row.get("rows"))
                    .and_then(Value::as_u64);
                Ok(count.unwrap_or(0))
            }
            Stored::Counted(count) => {
                let count = Arc::clone(count);
                let counted = tokio::task::spawn_blocking(move || count(&writer)).await?;
                Ok(counted.map_err(Trouble::Collector)?)
            }
        }
    }
}

/// A writer that makes every request itself.
pub(crate) struct TwiceWriter {
    identity: Identity,
    key: AuditKey,
    name: Writer,
    epoch: Epoch,
    stream: Stream,
    records: Vec<Vec<u8>>,
    sender: SendRequest<Full<Bytes>>,
    driving: JoinHandle<()>,
}

impl TwiceWriter {
    /// Connects, and writes rows that are not sent yet.
    pub(crate) async fn open(receiver: &Receiver, identity: Identity) -> Result<Self, Stop> {
        let id = identity.current().spiffe_id().as_str().to_owned();
        let random: [u8; 6] = rand::random();
        let broken = |error: &dyn std::error::Error| Trouble::Collector(chain(error));
        let name = Writer::parse(&format!("{id}#conform-{}", hex::encode(random)))
            .map_err(|error| broken(&error))?;
        let expect = receiver
            .spiffe_id
            .clone()
            .map_or(Expect::AnyInDomain, Expect::Id);
        let tls = client_config(&identity, expect, &[b"http/1.1"]);
        let (stream, _port) = tcp(&receiver.address).await?;
        let stream = TlsConnector::from(tls)
            .connect(server_name(), stream)
            .await
            .map_err(Trouble::Handshake)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        let driving = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the collector ended");
            }
        });
        let class = RetentionClass::parse(CLASS).map_err(|error| broken(&error))?;
        let mut writer = Self {
            identity,
            key: AuditKey::generate().map_err(|error| broken(&error))?,
            name,
            epoch: Epoch(u64::try_from(clock::wall().as_ns()).unwrap_or_default()),
            stream: Stream::new(TableId::ConformanceResults, class, 0),
            records: Vec::new(),
            sender,
            driving,
        };
        writer.write();
        Ok(writer)
    }

    pub(crate) fn name(&self) -> &str {
        self.name.as_str()
    }

    fn write(&mut self) {
        let stream = self.stream.to_string();
        for seq in 0..ROWS {
            let row = ConformanceRow {
                run_id: "a-batch-sent-twice".to_owned(),
                check: "A07".to_owned(),
                target: "collector".to_owned(),
                title: "a row of a batch that is sent twice; no result".to_owned(),
                severity: "high".to_owned(),
                outcome: "skipped".to_owned(),
                evidence: None,
                checked_at: clock::wall(),
                build: BUILD.to_owned(),
            };
            let header = HeaderRef {
                writer: self.name.as_str(),
                epoch: self.epoch,
                stream: &stream,
                seq,
            };
            let mut record = Vec::new();
            row.encode(&header, &mut record);
            self.records.push(record);
        }
    }

    /// Announces the epoch.
    pub(crate) async fn hello(&mut self) -> Result<u16, Stop> {
        let svid = self.identity.current();
        let bytes = Announcement {
            writer: self.name.clone(),
            epoch: self.epoch,
            audit_key: self.key.public(),
            time: clock::wall(),
            chain: svid.chain_der().iter().map(|der| der.to_vec()).collect(),
            build: BUILD.to_owned(),
        }
        .encode();
        let signature = svid.sign_announcement(&bytes)?;
        self.post("/v1/hello", Signed { bytes, signature }.to_wire())
            .await
    }

    /// Sends the batch: each time the same bytes.
    pub(crate) async fn batch(&mut self) -> Result<u16, Stop> {
        let mut body = Vec::new();
        for record in &self.records {
            push_record(&mut body, record);
        }
        self.post("/v1/batch", body).await
    }

    /// Ends the epoch, so that nothing is missing in the books.
    pub(crate) async fn end(&mut self) -> Result<u16, Stop> {
        let leaves: Vec<Hash> = self
            .records
            .iter()
            .map(|record| leaf_hash(record))
            .collect();
        let statement = Statement {
            writer: self.name.clone(),
            epoch: self.epoch,
            number: 0,
            kind: StatementKind::Final,
            previous: None,
            acked: None,
            checkpoint: None,
            origin: None,
            time: clock::wall(),
            clock: None,
            streams: vec![StreamRange {
                stream: self.stream.clone(),
                first_seq: 0,
                count: ROWS,
                root: root(&leaves),
            }],
            drops: Vec::new(),
            calls_open: 0,
            oldest_call_start: None,
            spool_bytes: 0,
            bundle_sha256: None,
            config_sha256: Hash::default(),
            build: BUILD.to_owned(),
            quarantined: Vec::new(),
        };
        let signed = self.key.sign_statement(statement.encode());
        self.post("/v1/statement", signed.to_wire()).await
    }

    async fn post(&mut self, path: &str, body: Vec<u8>) -> Result<u16, Stop> {
        let asking = async {
            let request = http::Request::post(path)
                .header("host", "collector")
                .body(Full::new(Bytes::from(body)))
                .map_err(|error| chain(&error))?;
            self.sender.ready().await.map_err(|error| chain(&error))?;
            let answer = self
                .sender
                .send_request(request)
                .await
                .map_err(|error| chain(&error))?;
            let status = answer.status().as_u16();
            answer
                .into_body()
                .collect()
                .await
                .map_err(|error| chain(&error))?;
            Ok(status)
        };
        let asked = tokio::time::timeout(REQUEST_LIMIT, asking)
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()));
        Ok(asked.map_err(Trouble::Collector)?)
    }
}

impl Drop for TwiceWriter {
    fn drop(&mut self) {
        self.driving.abort();
    }
}

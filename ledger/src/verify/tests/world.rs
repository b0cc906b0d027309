//! Small books, made as a collector makes them; segments in a plain test format.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use counterfoil_entry::announcement::Announcement;
use counterfoil_entry::entry::Entry;
use counterfoil_entry::frame::{push_record, records};
use counterfoil_entry::id::{Epoch, RetentionClass, Stream, Writer};
use counterfoil_entry::record::{DOMAIN, HeaderRef};
use counterfoil_entry::rows::{
    ConflictRow, GapRow, IssuanceRow, RetentionActionRow, StatementRow, Trust,
};
use counterfoil_entry::statement::{
    AuditKey, Recovery, Signed, Statement, StatementKind, StreamRange, statement_hash,
};
use counterfoil_entry::tlv::{Encoder, Fields};
use counterfoil_entry::tree::{leaf_hash, root, sha256};
use counterfoil_entry::word::{Kind, Side};
use tempfile::TempDir;

use super::super::*;
use crate::coverage::CoverageRow;
use crate::log::{Genesis, Log, Seal, read_manifest};
use crate::manifest::{Body, DAY_NS, Deletion, Hold, SegmentRef};
use crate::note::{LogKey, VerifierKey};
use crate::paths;

pub(super) const ORIGIN: &str = "bank.test/collector-1";
pub(super) const ENTRIES: &str = "entries/ops_90d/0";
pub(super) const START: Time = Time::from_ns(1_700_000_000_000_000_000);

/// A writer that can also be told to misbehave, by its public fields.
pub(super) struct Pen {
    pub(super) writer: Writer,
    pub(super) epoch: Epoch,
    pub(super) key: AuditKey,
    pub(super) number: u64,
    pub(super) previous: Option<Hash>,
    pub(super) next: BTreeMap<String, u64>,
    pub(super) schema_version: u16,
    unstated: BTreeMap<String, Vec<Vec<u8>>>,
}

/// What a statement says, and the entries that it covers.
#[derive(Clone)]
pub(super) struct Said {
    pub(super) statement: Statement,
    pub(super) signed: Signed,
    pub(super) audit_key: [u8; 32],
    pub(super) covered: Vec<(Epoch, StreamRange, Vec<Vec<u8>>)>,
}

impl Pen {
    pub(super) fn new(name: &str, epoch: u64) -> Self {
        Self::of_id(&format!("spiffe://bank.test/workload/{name}"), epoch)
    }

    pub(super) fn of_id(id: &str, epoch: u64) -> Self {
        Self {
            writer: Writer::parse(&format!("{id}#1")).unwrap(),
            epoch: Epoch(epoch),
            key: AuditKey::generate().unwrap(),
            number: 0,
            previous: None,
            next: BTreeMap::new(),
            schema_version: 1,
            unstated: BTreeMap::new(),
        }
    }

    fn append(&mut self, stream: &str, encode: impl FnOnce(&HeaderRef<'_>, &mut Vec<u8>)) {
        let seq = self.next.entry(stream.to_owned()).or_default();
        let writer = self.writer.as_str();
        let header = HeaderRef {
            writer,
            epoch: self.epoch,
            stream,
            seq: *seq,
        };
        let mut record = Vec::new();
        encode(&header, &mut record);
        // Behind the domain stand the numbers of table and version.
        record[DOMAIN.len() + 2..DOMAIN.len() + 4]
            .copy_from_slice(&self.schema_version.to_be_bytes());
        *seq += 1;
        self.unstated
            .entry(stream.to_owned())
            .or_default()
            .push(record);
    }

    pub(super) fn write(&mut self, stream: &str, count: usize) {
        for _ in 0..count {
            let seq = self.next.get(stream).copied().unwrap_or_default();
            let start = START.plus_ns(1000 - i64::try_from(seq).unwrap());
            let entry = Entry::new(Side::Server, Kind::Http, start);
            self.append(stream, |header, out| entry.encode(header, out));
        }
    }

    /// Writes a row of `retention_actions` and gives its leaf hash.
    pub(super) fn act(&mut self, action: &RetentionActionRow) -> Hash {
        let stream = "retention_actions/permanent/0";
        self.append(stream, |header, out| action.encode(header, out));
        leaf_hash(self.unstated[stream].last().unwrap())
    }

    pub(super) fn gap(&mut self, gap: &GapRow) {
        self.append("gaps/permanent/0", |header, out| gap.encode(header, out));
    }

    pub(super) fn conflict(&mut self, conflict: &ConflictRow) {
        self.append("conflicts/permanent/0", |header, out| {
            conflict.encode(header, out)
        });
    }

    /// Records, as control does, that it saw an epoch of a workload.
    pub(super) fn see(&mut self, spiffe_id: &str, epoch: u64) {
        let row = IssuanceRow {
            kind: "epoch".to_owned(),
            serial: None,
            spiffe_id: spiffe_id.to_owned(),
            not_before: None,
            not_after: None,
            cert_sha256: None,
            spki_sha256: None,
            issued_at: START,
            method: None,
            subject_epoch: Some(epoch),
            peer_address: None,
        };
        self.append("issuance/permanent/0", |header, out| {
            row.encode(header, out)
        });
    }

    /// The ranges of what was not stated yet, in (stream, first seq, records).
    fn take_unstated(&mut self) -> Vec<(StreamRange, Vec<Vec<u8>>)> {
        let ranges = std::mem::take(&mut self.unstated)
            .into_iter()
            .map(|(stream, records)| {
                let leaves: Vec<Hash> = records.iter().map(|record| leaf_hash(record)).collect();
                let range = StreamRange {
                    stream: Stream::parse(&stream).unwrap(),
                    first_seq: self.next[&stream] - records.len() as u64,
                    count: records.len() as u64,
                    root: root(&leaves),
                };
                (range, records)
            });
        ranges.collect()
    }

    pub(super) fn state(&mut self) -> Said {
        let own = self.take_unstated();
        self.say(StatementKind::Regular, own, Vec::new())
    }

    pub(super) fn end(&mut self) -> Said {
        let own = self.take_unstated();
        self.say(StatementKind::Final, own, Vec::new())
    }

    /// States the tail of `old`, which crashed.
    pub(super) fn recover(&mut self, old: &mut Self) -> Said {
        let tail = old.take_unstated();
        let recovery = Recovery {
            old_epoch: old.epoch,
            last: old.previous.map(|hash| (old.number - 1, hash)),
            tail: tail.iter().map(|(range, _)| range.clone()).collect(),
        };
        let own = self.take_unstated();
        let tail = tail
            .into_iter()
            .map(|(range, records)| (old.epoch, range, records))
            .collect();
        self.say(StatementKind::Recovery(recovery), own, tail)
    }

    fn say(
        &mut self,
        kind: StatementKind,
        own: Vec<(StreamRange, Vec<Vec<u8>>)>,
        mut covered: Vec<(Epoch, StreamRange, Vec<Vec<u8>>)>,
    ) -> Said {
        let statement = Statement {
            writer: self.writer.clone(),
            epoch: self.epoch,
            number: self.number,
            kind,
            previous: self.previous,
            acked: None,
            checkpoint: None,
            origin: None,
            time: START,
            clock: None,
            streams: own.iter().map(|(range, _)| range.clone()).collect(),
            drops: Vec::new(),
            calls_open: 0,
            oldest_call_start: None,
            spool_bytes: 0,
            bundle_sha256: None,
            config_sha256: Hash::default(),
            build: "test".to_owned(),
            quarantined: Vec::new(),
        };
        covered.extend(
            own.into_iter()
                .map(|(range, records)| (self.epoch, range, records)),
        );
        self.sign(statement, covered)
    }

    /// Signs a statement as the next one, whatever it says.
    pub(super) fn sign(
        &mut self,
        statement: Statement,
        covered: Vec<(Epoch, StreamRange, Vec<Vec<u8>>)>,
    ) -> Said {
        let signed = self.key.sign_statement(statement.encode());
        self.previous = Some(statement_hash(&signed.bytes));
        self.number = statement.number + 1;
        Said {
            statement,
            signed,
            audit_key: self.key.public(),
            covered,
        }
    }

    pub(super) fn announce(&self) -> Signed {
        let id = self.writer.spiffe_id().as_bytes().to_vec();
        let announcement = Announcement {
            writer: self.writer.clone(),
            epoch: self.epoch,
            audit_key: self.key.public(),
            time: START,
            chain: vec![id.clone()],
            build: "test".to_owned(),
        };
        let bytes = announcement.encode();
        let signature = sha256(&[bytes.as_slice(), &id].concat()).0.to_vec();
        Signed { bytes, signature }
    }
}

/// A stand-in for certificates: the chain's first item is the id, the signature a hash of both.
pub(super) struct FakeTrust;

impl ChainTrust for FakeTrust {
    fn announcement(
        &self,
        bytes: &[u8],
        signature: &[u8],
        chain: &[Vec<u8>],
        roots: &[Vec<u8>],
        at: Time,
    ) -> Result<String, String> {
        let id = chain.first().ok_or("no chain")?;
        let is_signed = sha256(&[bytes, id].concat()).0 == signature;
        if is_signed && at == START && roots.contains(&b"root".to_vec()) {
            Ok(String::from_utf8(id.clone()).unwrap())
        } else {
            Err("the certificate is not trusted".to_owned())
        }
    }
}

/// Reads [`World`]'s segment files: a record of metadata, then one a row.
pub(super) struct PlainRows;

impl SegmentRows for PlainRows {
    fn read(
        &self,
        file: &Path,
        _table: TableId,
        each: &mut dyn FnMut(SealedRow<'_>) -> ControlFlow<()>,
    ) -> Result<FileMeta, RowsError> {
        let bytes = fs::read(file).map_err(|error| RowsError(error.to_string()))?;
        let mut items = records(&bytes).map(|item| item.map_err(|e| RowsError(e.to_string())));
        let head = items
            .next()
            .ok_or_else(|| RowsError("empty".to_owned()))??;
        let head = Fields::parse(head).map_err(|error| RowsError(error.to_string()))?;
        for item in items {
            let row = Fields::parse(item?).map_err(|error| RowsError(error.to_string()))?;
            let envelope = Envelope {
                received_at: row.time(3).unwrap(),
                origin: row.text(4).unwrap(),
                statement: row.u64_opt(5).unwrap(),
                segment: row.u64(6).unwrap(),
                retention_class: row.text(7).unwrap(),
                delivery: row.text(8).unwrap(),
                attribution: row.text(9).unwrap(),
            };
            let record = row.bytes(2).unwrap();
            let sealed = SealedRow {
                leaf_index: row.u64(1).unwrap(),
                record,
                envelope,
            };
            if each(sealed).is_break() {
                break;
            }
        }
        Ok(FileMeta {
            origin: head.text(1).unwrap().to_owned(),
            segment: head.u64(2).unwrap(),
            table: head.text(3).unwrap().to_owned(),
            class: head.text(4).unwrap().to_owned(),
            schema_version: head.u16_opt(5).unwrap().unwrap(),
            root: head.hash(6).unwrap(),
        })
    }
}

/// One row on its way into a segment.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) record: Vec<u8>,
    pub(super) statement: Option<u64>,
    pub(super) time: Time,
}

/// A collector's books, and what it holds for the next seal. A test may bend any of it.
pub(super) struct World {
    folder: TempDir,
    origin: String,
    pem: String,
    log: Log,
    pub(super) rows: BTreeMap<(TableId, String), Vec<Row>>,
    pub(super) coverage: Vec<CoverageRow>,
    /// Of the segments to come.
    pub(super) schema_version: u16,
    /// Bends the seal after its segments were written and before it is committed.
    pub(super) bend: fn(&mut Seal),
}

impl World {
    pub(super) fn new() -> Self {
        Self::of(ORIGIN, TempDir::new().unwrap())
    }

    /// A world of another origin in the same books.
    pub(super) fn beside(self, origin: &str) -> Self {
        Self::of(origin, self.folder)
    }

    fn of(origin: &str, folder: TempDir) -> Self {
        let pem = LogKey::generate(origin).unwrap().to_pem().unwrap();
        Self::with_key(origin, folder, &pem)
    }

    fn with_key(origin: &str, folder: TempDir, pem: &str) -> Self {
        let key = LogKey::from_pem(origin, pem).unwrap();
        let genesis = Genesis {
            trust_roots: vec![b"root".to_vec()],
            build: "test".to_owned(),
            at: START,
        };
        let staging = folder
            .path()
            .join(format!("staging-{}", paths::slug(origin)));
        let log = Log::open(&folder.path().join("books"), &staging, key, &genesis).unwrap();
        Self {
            folder,
            origin: origin.to_owned(),
            pem: pem.to_owned(),
            log,
            rows: BTreeMap::new(),
            coverage: Vec::new(),
            schema_version: 1,
            bend: |_| (),
        }
    }

    pub(super) fn books(&self) -> PathBuf {
        self.folder.path().join("books")
    }

    pub(super) fn checkpoint(&self) -> &str {
        self.log.checkpoint()
    }

    pub(super) fn key(&self) -> VerifierKey {
        LogKey::from_pem(&self.origin, &self.pem)
            .unwrap()
            .verifier()
            .clone()
    }

    pub(super) fn sign(&self, checkpoint: &Checkpoint) -> String {
        checkpoint.sign(&LogKey::from_pem(&self.origin, &self.pem).unwrap())
    }

    pub(super) fn policy(&self) -> Policy {
        Policy {
            log_keys: vec![self.key()],
            trust_roots: vec![b"root".to_vec()],
            freshness_s: Some(60),
        }
    }

    pub(super) fn announce(&mut self, pen: &Pen) {
        self.announce_as(&pen.announce(), Trust::Verified);
    }

    pub(super) fn announce_as(&mut self, signed: &Signed, trust: Trust) {
        let row = StatementRow::of_announcement(signed, trust, None).unwrap();
        self.push_signed(&row);
    }

    /// Takes a statement and its entries.
    pub(super) fn take(&mut self, said: &Said) {
        self.take_statement(said);
        self.take_entries(said);
    }

    pub(super) fn take_statement(&mut self, said: &Said) {
        let row = StatementRow::of_statement(&said.signed, said.audit_key, Trust::Verified, None)
            .unwrap();
        self.push_signed(&row);
    }

    pub(super) fn take_entries(&mut self, said: &Said) {
        for (epoch, range, records) in &said.covered {
            self.coverage.push(CoverageRow {
                writer: said.statement.writer.clone(),
                epoch: *epoch,
                stream: range.stream.clone(),
                first_seq: range.first_seq,
                count: range.count,
                statement: said.statement.number,
                segment: 0,
                received_at: START,
                delivery: "acked".to_owned(),
                attribution: "native".to_owned(),
                statement_epoch: (*epoch != said.statement.epoch).then_some(said.statement.epoch),
            });
            let key = (range.stream.table, range.stream.class.to_string());
            for (at, record) in (0..).zip(records) {
                let time = match range.stream.table {
                    TableId::Entries => {
                        let seq = i64::try_from(range.first_seq).unwrap() + at;
                        START.plus_ns(1000 - seq)
                    }
                    _ => START,
                };
                let statement = Some(said.statement.number);
                let row = Row {
                    record: record.clone(),
                    statement,
                    time,
                };
                // Sealed out of order, as a segment sorted for queries is.
                self.rows.entry(key.clone()).or_default().insert(0, row);
            }
        }
    }

    fn push_signed(&mut self, row: &StatementRow) {
        let mut record = Vec::new();
        row.encode(&mut record);
        let key = (TableId::Statements, row.header.stream.class.to_string());
        self.rows.entry(key).or_default().push(Row {
            record,
            statement: None,
            time: START,
        });
    }

    /// Seals what was taken.
    pub(super) fn seal(&mut self) {
        let until = self.log.until().plus_ns(1_000_000_000);
        let mut segments = Vec::new();
        let mut coverage = std::mem::take(&mut self.coverage);
        for ((table, class), rows) in std::mem::take(&mut self.rows) {
            let segment = self.log.next_segment() + segments.len() as u64;
            for row in &mut coverage {
                if row.stream.table == table && row.stream.class.as_str() == class {
                    row.segment = segment;
                }
            }
            segments.push(self.write_segment(table, &class, segment, until, &rows));
        }
        let build = "test".to_owned();
        let mut seal = Seal {
            until,
            build,
            journal_file: 0,
            segments,
            coverage,
        };
        (self.bend)(&mut seal);
        self.log.commit(seal).unwrap();
    }

    fn write_segment(
        &self,
        table: TableId,
        class: &str,
        segment: u64,
        until: Time,
        rows: &[Row],
    ) -> SegmentRef {
        let leaves: Vec<Hash> = rows.iter().map(|row| leaf_hash(&row.record)).collect();
        let (mut file, mut item) = (Vec::new(), Vec::new());
        Encoder::new(&mut item)
            .text(1, &self.origin)
            .u64(2, segment)
            .text(3, table.name())
            .text(4, class)
            .u64(5, self.schema_version.into())
            .bytes(6, &root(&leaves).0);
        push_record(&mut file, &item);
        for (at, row) in (0..).zip(rows) {
            item.clear();
            Encoder::new(&mut item)
                .u64(1, at)
                .bytes(2, &row.record)
                .time(3, START)
                .text(4, &self.origin)
                .u64_opt(5, row.statement)
                .u64(6, segment)
                .text(7, class)
                .text(8, "acked")
                .text(9, "native");
            push_record(&mut file, &item);
        }
        let class = RetentionClass::parse(class).unwrap();
        let name = paths::segment(&self.origin, table, &class, until, segment, 7);
        fs::write(self.log.staged_path(&name), &file).unwrap();
        SegmentRef {
            table,
            class,
            schema_version: self.schema_version,
            count: rows.len() as u64,
            first_time: rows.iter().map(|row| row.time).min().unwrap(),
            last_time: rows.iter().map(|row| row.time).max().unwrap(),
            root: root(&leaves),
            file: name,
            bytes: file.len() as u64,
            sha256: sha256(&file),
            segment,
        }
    }

    /// Segments of `table`, as their seals name them.
    pub(super) fn segments(&self, table: TableId) -> Vec<SegmentRef> {
        let manifest = |number| {
            read_manifest(&self.books(), &self.origin, number)
                .unwrap()
                .0
        };
        let manifests = (0..self.log.size()).map(manifest);
        let segments = manifests.flat_map(|manifest| match manifest.body {
            Body::Seal { segments, .. } => segments,
            _ => Vec::new(),
        });
        segments.filter(|one| one.table == table).collect()
    }

    /// Deletes, as retention does.
    pub(super) fn delete(&mut self, deletion: Deletion, of: &[SegmentRef]) {
        let names: Vec<String> = of.iter().map(|one| one.file.clone()).collect();
        let at = self.log.until().plus_ns(30 * DAY_NS);
        self.log.delete(at, "test", deletion, &names).unwrap();
    }

    /// Writes a hold into the log.
    pub(super) fn hold(&mut self, hold: Hold) {
        self.log.note_hold(START, "test", hold).unwrap();
    }

    /// Closes the log and opens it again.
    pub(super) fn reopen(self) -> Self {
        let again = Self::with_key(&self.origin, self.folder, &self.pem);
        drop(self.log);
        again
    }

    /// Every file under the books.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let (mut files, mut folders) = (Vec::new(), vec![self.books()]);
        while let Some(folder) = folders.pop() {
            for item in fs::read_dir(folder).unwrap() {
                let path = item.unwrap().path();
                if path.is_dir() {
                    folders.push(path)
                } else {
                    files.push(path)
                }
            }
        }
        files.sort();
        files
    }

    pub(super) fn verify(&self) -> Report {
        self.verify_with(Some(&self.policy()), None, false)
    }

    pub(super) fn verify_with(
        &self,
        policy: Option<&Policy>,
        against: Option<&str>,
        complete: bool,
    ) -> Report {
        let saved = against.map(|text| Saved::parse(text).unwrap());
        let request = Request {
            books: &self.books(),
            policy,
            against: saved.as_ref(),
            complete,
            now: self.log.until(),
        };
        verify(&request, &PlainRows, &FakeTrust)
    }

    /// Verifies and gives the word and the text of the first failure.
    pub(super) fn first_failure(&self) -> (&'static str, String) {
        let report = self.verify();
        let failure = report.failures.first().expect("a failure");
        (failure.what, failure.to_string())
    }
}

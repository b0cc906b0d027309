//! A small shop with books: calls, a journal and seals, as a collector would leave them.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use counterfoil_columns::journal::{self, push_announcement, push_batch, push_statement};
use counterfoil_columns::segment::{self, SegmentMeta, SegmentRow};
use counterfoil_columns::{Attribution, DataDirectory, Delivery};
use counterfoil_entry::announcement::Announcement;
use counterfoil_entry::entry::Entry;
use counterfoil_entry::frame::push_record;
use counterfoil_entry::id::{Epoch, RetentionClass, SpanId, Stream, TraceId, Writer};
use counterfoil_entry::record::HeaderRef;
use counterfoil_entry::rows::{GapRow, StatementRow, Trust};
use counterfoil_entry::statement::{
    AuditKey, Dropped, Recovery, Signed, Statement, StatementKind, StreamRange,
};
use counterfoil_entry::table::TableId;
use counterfoil_entry::word::{Decision, Kind, Outcome, Side};
use counterfoil_entry::{Hash, Time, clock};
use counterfoil_ledger::coverage::CoverageRow;
use counterfoil_ledger::log::{Genesis, Log, Seal};
use counterfoil_ledger::manifest::SegmentRef;
use counterfoil_ledger::note::LogKey;
use counterfoil_ledger::paths;

pub(super) const ORIGIN: &str = "shop.test/c";
const CLASS: &str = "ops_90d";
const S: i64 = 1_000_000_000;

/// One proxy.
pub(super) struct Proxy {
    pub(super) writer: Writer,
    epoch: Epoch,
    key: AuditKey,
    seq: u64,
    stated: u64,
    number: u64,
    /// Of each stream but that of entries: what was written and what is stated of it.
    others: BTreeMap<Stream, (u64, u64)>,
}

/// Books under construction.
pub(super) struct Shop {
    pub(super) directory: tempfile::TempDir,
    data: DataDirectory,
    log: Log,
    file: u64,
    entries: Vec<Vec<u8>>,
    others: BTreeMap<(TableId, RetentionClass), Vec<Vec<u8>>>,
    statements: Vec<Vec<u8>>,
    announcements: Vec<Vec<u8>>,
    spans: u64,
    gaps: u64,
    /// When the last call ended.
    pub(super) now: Time,
}

impl Shop {
    pub(super) fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDirectory::create(directory.path()).unwrap();
        let books = data.books();
        let staging = data.staging(ORIGIN);
        let genesis = Genesis {
            trust_roots: Vec::new(),
            build: "test".into(),
            at: clock::wall(),
        };
        let key = LogKey::generate(ORIGIN).unwrap();
        let log = Log::open(&books, &staging, key, &genesis).unwrap();
        std::fs::create_dir_all(data.journal(ORIGIN)).unwrap();
        let now = clock::wall().plus_ns(-600 * S);
        let shop = Self {
            directory,
            data,
            log,
            file: 1,
            entries: Vec::new(),
            others: BTreeMap::new(),
            statements: Vec::new(),
            announcements: Vec::new(),
            spans: 0,
            gaps: 0,
            now,
        };
        shop.append(journal::MAGIC);
        shop
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// The journal file that is written now.
    pub(super) fn journal(&self) -> PathBuf {
        journal::file_path(&self.data.journal(ORIGIN), self.file)
    }

    pub(super) fn append(&self, bytes: &[u8]) {
        let path = self.journal();
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap()
            .write_all(bytes)
            .unwrap();
    }

    pub(super) fn proxy(&mut self, name: &str) -> Proxy {
        let writer = Writer::parse(&format!("spiffe://shop.test/workload/{name}#1")).unwrap();
        let key = AuditKey::generate().unwrap();
        let announcement = Announcement {
            writer: writer.clone(),
            epoch: Epoch(7),
            audit_key: key.public(),
            time: self.now,
            chain: Vec::new(),
            build: "test".into(),
        };
        let bytes = announcement.encode();
        let mut frame = Vec::new();
        push_announcement(
            &mut frame,
            false,
            self.now,
            (Trust::Verified, ""),
            (&bytes, b"signature"),
        );
        self.append(&frame);
        let signed = Signed {
            bytes,
            signature: b"signature".to_vec(),
        };
        let row = StatementRow::of_announcement(&signed, Trust::Verified, None).unwrap();
        let mut record = Vec::new();
        row.encode(&mut record);
        self.announcements.push(record);
        Proxy {
            writer,
            epoch: Epoch(7),
            key,
            seq: 0,
            stated: 0,
            number: 0,
            others: BTreeMap::new(),
        }
    }

    /// Writes one entry through `proxy` into the journal.
    pub(super) fn write(&mut self, proxy: &mut Proxy, entry: &Entry) {
        let stream = format!("entries/{CLASS}/0");
        let header = HeaderRef {
            writer: proxy.writer.as_str(),
            epoch: proxy.epoch,
            stream: &stream,
            seq: proxy.seq,
        };
        let mut record = Vec::new();
        entry.encode(&header, &mut record);
        proxy.seq += 1;
        let mut batch = Vec::new();
        push_record(&mut batch, &record);
        let mut frame = Vec::new();
        push_batch(&mut frame, false, self.now, &batch);
        self.append(&frame);
        self.entries.push(record);
    }

    /// Writes a row of `table` through `writer` into the journal.
    pub(super) fn put(
        &mut self,
        writer: &mut Proxy,
        (table, class): (TableId, &str),
        encode: impl FnOnce(&HeaderRef<'_>, &mut Vec<u8>),
    ) {
        let class = RetentionClass::parse(class).unwrap();
        let stream = Stream::new(table, class.clone(), 0);
        let name = stream.to_string();
        let (seq, _) = writer.others.entry(stream).or_default();
        let header = HeaderRef {
            writer: writer.writer.as_str(),
            epoch: writer.epoch,
            stream: &name,
            seq: *seq,
        };
        *seq += 1;
        let mut record = Vec::new();
        encode(&header, &mut record);
        let mut batch = Vec::new();
        push_record(&mut batch, &record);
        let mut frame = Vec::new();
        push_batch(&mut frame, false, self.now, &batch);
        self.append(&frame);
        self.others.entry((table, class)).or_default().push(record);
    }

    /// The next epoch of `proxy`, after it ended without a final statement.
    pub(super) fn restart(&mut self, proxy: &Proxy) -> Proxy {
        Proxy {
            writer: proxy.writer.clone(),
            epoch: Epoch(proxy.epoch.0 + 1),
            key: AuditKey::generate().unwrap(),
            seq: 0,
            stated: 0,
            number: 0,
            others: BTreeMap::new(),
        }
    }

    /// What `proxy` wrote and did not state, as the recovery of a later epoch says it.
    pub(super) fn tail_of(&self, proxy: &Proxy) -> StatementKind {
        let class = RetentionClass::parse(CLASS).unwrap();
        StatementKind::Recovery(Recovery {
            old_epoch: proxy.epoch,
            last: proxy
                .number
                .checked_sub(1)
                .map(|number| (number, Hash::default())),
            tail: vec![StreamRange {
                stream: Stream::new(TableId::Entries, class, 0),
                first_seq: proxy.stated,
                count: proxy.seq - proxy.stated,
                root: Hash::default(),
            }],
        })
    }

    /// An entry of `proxy` that never arrived.
    pub(super) fn lose(&self, proxy: &mut Proxy) {
        proxy.seq += 1;
    }

    /// Revision `revision` of a gap in what the proxy `name` wrote in `epoch`.
    pub(super) fn gap(&mut self, name: &str, epoch: u64, stream: Option<&str>, revision: u64) {
        let row = GapRow {
            subject_epoch: epoch,
            subject_stream: stream.map(ToOwned::to_owned),
            from_seq: stream.map(|_| 0),
            until_seq: stream.map(|_| 1),
            ..self.silence(&format!("{name}-{epoch}"), name, revision)
        };
        self.put_gap(&GapRow {
            closed_at: (revision > 1).then_some(self.now),
            ..row
        });
    }

    /// An open gap in all that the proxy `name` wrote.
    pub(super) fn silence(&self, id: &str, name: &str, revision: u64) -> GapRow {
        GapRow {
            gap_id: id.to_owned(),
            revision,
            subject_writer: format!("spiffe://shop.test/workload/{name}#1"),
            subject_epoch: 7,
            subject_stream: None,
            from_seq: None,
            until_seq: None,
            from_statement: None,
            until_statement: None,
            not_before: None,
            not_after: None,
            cause: "silence".to_owned(),
            detected_by: "silence".to_owned(),
            opened_at: self.now,
            closed_at: None,
            explanation: None,
            ticket: None,
        }
    }

    /// Writes that row into the journal.
    pub(super) fn put_gap(&mut self, row: &GapRow) {
        let header = HeaderRef {
            writer: "spiffe://shop.test/counterfoil/collector#1",
            epoch: Epoch(1),
            stream: "gaps/permanent/0",
            seq: self.gaps,
        };
        self.gaps += 1;
        let mut record = Vec::new();
        row.encode(&header, &mut record);
        let mut batch = Vec::new();
        push_record(&mut batch, &record);
        let mut frame = Vec::new();
        push_batch(&mut frame, false, self.now, &batch);
        self.append(&frame);
    }

    /// Both halves of a call between two proxies, as they would be when nothing goes wrong.
    pub(super) fn call(&mut self, from: &Proxy, to: &Proxy, operation: &str) -> (Entry, Entry) {
        self.spans += 1;
        self.now = self.now.plus_ns(S / 1000);
        let id = self.spans.to_be_bytes();
        let mut trace = [1; 16];
        trace[8..].copy_from_slice(&id);
        let half = |side| {
            let mut entry = Entry::new(side, Kind::Http, self.now);
            entry.trace_id = TraceId::new(trace);
            entry.end_time = Some(self.now.plus_ns(5_000_000));
            entry.source = Some(Arc::from(from.writer.spiffe_id()));
            entry.destination = Some(Arc::from(to.writer.spiffe_id()));
            entry.operation = Some(Arc::from(operation));
            entry.method = Some(Arc::from("GET"));
            entry.status = Some(200);
            entry.outcome = Some(Outcome::Ok);
            entry.request_bytes = Some(10);
            entry.response_bytes = Some(20);
            entry.mtls = true;
            entry.decision = Decision::Allow;
            entry.reason = Arc::from("granted");
            entry.scopes = Arc::from([Arc::from("sox"), Arc::from("pci")]);
            entry
        };
        let (mut client, mut server) = (half(Side::Client), half(Side::Server));
        client.span_id = SpanId::new(id);
        client.duration_ns = Some(5_000_000);
        client.overhead_ns = Some(200_000);
        server.span_id = SpanId::new((self.spans | 1 << 40).to_be_bytes());
        server.parent_span_id = SpanId::new(id);
        server.duration_ns = Some(4_000_000);
        server.upstream_ns = Some(3_900_000);
        server.overhead_ns = Some(100_000);
        (client, server)
    }

    /// Writes both halves.
    pub(super) fn matched(&mut self, from: &mut Proxy, to: &mut Proxy, operation: &str) {
        let (client, server) = self.call(from, to, operation);
        self.write(from, &client);
        self.write(to, &server);
    }

    /// A statement over what `proxy` wrote since its last one.
    pub(super) fn state(&mut self, proxy: &mut Proxy, kind: StatementKind, dropped: u64) {
        let class = RetentionClass::parse(CLASS).unwrap();
        let stream = Stream::new(TableId::Entries, class, 0);
        let drop = Dropped {
            stream: stream.clone(),
            reason: "spool_full".into(),
            dropped,
        };
        let range = StreamRange {
            stream,
            first_seq: proxy.stated,
            count: proxy.seq - proxy.stated,
            root: Hash::default(),
        };
        let mut streams = if range.count > 0 {
            vec![range]
        } else {
            Vec::new()
        };
        for (stream, (seq, stated)) in &mut proxy.others {
            if seq > stated {
                streams.push(StreamRange {
                    stream: stream.clone(),
                    first_seq: *stated,
                    count: *seq - *stated,
                    root: Hash::default(),
                });
            }
            *stated = *seq;
        }
        let statement = Statement {
            writer: proxy.writer.clone(),
            epoch: proxy.epoch,
            number: proxy.number,
            kind,
            previous: (proxy.number > 0).then(Hash::default),
            acked: None,
            checkpoint: None,
            origin: None,
            time: self.now,
            clock: None,
            streams,
            drops: if dropped > 0 { vec![drop] } else { Vec::new() },
            calls_open: 0,
            oldest_call_start: None,
            spool_bytes: 0,
            bundle_sha256: None,
            config_sha256: Hash::default(),
            build: "test".into(),
            quarantined: Vec::new(),
        };
        proxy.number += 1;
        proxy.stated = proxy.seq;
        let signed = proxy.key.sign_statement(statement.encode());
        let mut frame = Vec::new();
        push_statement(
            &mut frame,
            false,
            self.now,
            &signed.bytes,
            &signed.signature,
        );
        self.append(&frame);
        let row =
            StatementRow::of_statement(&signed, proxy.key.public(), Trust::Verified, None).unwrap();
        let mut record = Vec::new();
        row.encode(&mut record);
        self.statements.push(record);
    }

    /// Writes what the journal holds into segments, commits them and starts the next journal file.
    /// `trim` is what the collector does last.
    pub(super) fn seal(&mut self, trim: bool) {
        let old = self.file;
        self.file += 1;
        self.append(journal::MAGIC);
        let mut segments = Vec::new();
        let all = [
            (TableId::Entries, CLASS, std::mem::take(&mut self.entries)),
            (
                TableId::Statements,
                CLASS,
                std::mem::take(&mut self.statements),
            ),
            (
                TableId::Statements,
                "permanent",
                std::mem::take(&mut self.announcements),
            ),
        ];
        let class = |name| RetentionClass::parse(name).unwrap();
        let all = all.map(|(table, name, records)| ((table, class(name)), records));
        for ((table, class), records) in all.into_iter().chain(std::mem::take(&mut self.others)) {
            if records.is_empty() {
                continue;
            }
            let number = self.log.next_segment() + segments.len() as u64;
            segments.push(self.segment(table, &class, &records, number));
        }
        let stream = Stream::new(TableId::Entries, RetentionClass::parse(CLASS).unwrap(), 0);
        let coverage = vec![CoverageRow {
            writer: Writer::parse("spiffe://shop.test/workload/any#1").unwrap(),
            epoch: Epoch(7),
            stream,
            first_seq: 0,
            count: 1,
            statement: 0,
            segment: self.log.next_segment(),
            received_at: self.now,
            delivery: "acked".into(),
            attribution: "native".into(),
            statement_epoch: None,
        }];
        let coverage = if segments.is_empty() {
            Vec::new()
        } else {
            coverage
        };
        let (until, build) = (clock::wall(), "test".to_owned());
        let seal = Seal {
            until,
            build,
            journal_file: self.file,
            segments,
            coverage,
        };
        self.log.commit(seal).unwrap();
        if trim {
            self.trim(old);
        }
    }

    pub(super) fn trim(&self, file: u64) {
        std::fs::remove_file(journal::file_path(&self.data.journal(ORIGIN), file)).unwrap();
    }

    fn segment(
        &self,
        table: TableId,
        class: &RetentionClass,
        records: &[Vec<u8>],
        number: u64,
    ) -> SegmentRef {
        let file = paths::segment(ORIGIN, table, class, clock::wall(), number, 5);
        let meta = SegmentMeta {
            origin: ORIGIN.into(),
            segment: number,
            table,
            class: class.clone(),
            schema_version: 1,
        };
        let mut rows: Vec<SegmentRow<'_>> = records
            .iter()
            .map(|record| SegmentRow {
                record,
                received_at: self.now,
                statement: (table != TableId::Statements).then_some(0),
                delivery: Delivery::Acked,
                attribution: Attribution::Native,
            })
            .collect();
        let staged = self.log.staged_path(&file);
        std::fs::create_dir_all(staged.parent().unwrap()).unwrap();
        let written = segment::write(&staged, &meta, &mut rows).unwrap();
        SegmentRef {
            table,
            class: class.clone(),
            schema_version: 1,
            count: written.count,
            first_time: written.first_time,
            last_time: written.last_time,
            root: written.root,
            file,
            bytes: written.bytes,
            sha256: written.sha256,
            segment: number,
        }
    }
}

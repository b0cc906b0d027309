//! Books with known contents, written as a collector leaves them: segments under a log, on the data
//! directory of an estate that `counterfoil init` has made.

mod story;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use counterfoil_columns::segment::{self, SegmentMeta, SegmentRow};
use counterfoil_columns::{Attribution, DataDirectory, Delivery, journal};
use counterfoil_entry::entry::Entry;
use counterfoil_entry::id::{Epoch, RetentionClass, Stream, Writer};
use counterfoil_entry::record::HeaderRef;
use counterfoil_entry::rows::{StatementRow, Trust};
use counterfoil_entry::statement::{AuditKey, Statement, StatementKind, StreamRange};
use counterfoil_entry::table::TableId;
use counterfoil_entry::{Hash, Time, clock};
use counterfoil_ledger::coverage::CoverageRow;
use counterfoil_ledger::log::{Genesis, Log, Seal};
use counterfoil_ledger::manifest::SegmentRef;
use counterfoil_ledger::note::LogKey;
use counterfoil_ledger::paths;

use crate::world::{counterfoil, text};

pub(crate) use story::Story;

const DOMAIN: &str = "bank.test";
const ORIGIN: &str = "bank.test/collector-1";
const CLASS: &str = "ops_90d";
const BUILD: &str = "seed 1";

/// One process that writes.
struct Proxy {
    writer: Writer,
    key: AuditKey,
    /// Of each stream: the next number, and the first one that no statement covers.
    streams: BTreeMap<Stream, (u64, u64)>,
    statements: u64,
}

impl Proxy {
    fn new(id: &str) -> Self {
        Self {
            writer: Writer::parse(&format!("spiffe://{DOMAIN}/{id}#1")).unwrap(),
            key: AuditKey::generate().unwrap(),
            streams: BTreeMap::new(),
            statements: 0,
        }
    }

    fn id(&self) -> &str {
        self.writer.spiffe_id()
    }
}

/// Books under construction, and the estate that they belong to.
struct Seed {
    folder: tempfile::TempDir,
    data: PathBuf,
    /// Password of the user `auditor`.
    password: String,
    records: BTreeMap<(TableId, RetentionClass), Vec<Vec<u8>>>,
}

fn class(name: &str) -> RetentionClass {
    RetentionClass::parse(name).unwrap()
}

impl Seed {
    fn init() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("bank");
        let path = data.to_str().unwrap();
        let made = counterfoil(&["init", path, "--trust-domain", DOMAIN, "--ports", "auto"]);
        let said = text(&made.stdout);
        assert!(made.status.success(), "{}", text(&made.stderr));
        let words: Vec<&str> = said.split_whitespace().collect();
        let sql = words.iter().position(|word| *word == "(SQL)").unwrap();
        Self {
            password: words[sql + 1].to_owned(),
            folder,
            data,
            records: BTreeMap::new(),
        }
    }

    /// Writes a row of `table` through `proxy`.
    fn put(
        &mut self,
        proxy: &mut Proxy,
        (table, class_name): (TableId, &str),
        encode: impl FnOnce(&HeaderRef<'_>, &mut Vec<u8>),
    ) {
        let class = class(class_name);
        let stream = Stream::new(table, class.clone(), 0);
        let name = stream.to_string();
        let (seq, _) = proxy.streams.entry(stream).or_default();
        let header = HeaderRef {
            writer: proxy.writer.as_str(),
            epoch: Epoch(1),
            stream: &name,
            seq: *seq,
        };
        *seq += 1;
        let mut record = Vec::new();
        encode(&header, &mut record);
        self.records.entry((table, class)).or_default().push(record);
    }

    fn write(&mut self, proxy: &mut Proxy, entry: &Entry) {
        self.put(proxy, (TableId::Entries, CLASS), |header, out| {
            entry.encode(header, out);
        });
    }

    /// An entry of `proxy` that never arrived.
    fn lose(proxy: &mut Proxy) {
        let stream = Stream::new(TableId::Entries, class(CLASS), 0);
        proxy.streams.entry(stream).or_default().0 += 1;
    }

    /// A statement over what `proxy` wrote since its last one.
    fn state(&mut self, proxy: &mut Proxy, time: Time) {
        let mut ranges = Vec::new();
        for (stream, (seq, stated)) in &mut proxy.streams {
            if *seq > *stated {
                ranges.push(StreamRange {
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
            epoch: Epoch(1),
            number: proxy.statements,
            kind: StatementKind::Regular,
            previous: (proxy.statements > 0).then(Hash::default),
            acked: None,
            checkpoint: None,
            origin: None,
            time,
            clock: None,
            streams: ranges,
            drops: Vec::new(),
            calls_open: 0,
            oldest_call_start: None,
            spool_bytes: 0,
            bundle_sha256: None,
            config_sha256: Hash::default(),
            build: BUILD.into(),
            quarantined: Vec::new(),
        };
        proxy.statements += 1;
        let signed = proxy.key.sign_statement(statement.encode());
        let row = StatementRow::of_statement(&signed, proxy.key.public(), Trust::Verified, None);
        let mut record = Vec::new();
        row.unwrap().encode(&mut record);
        let key = (TableId::Statements, class(CLASS));
        self.records.entry(key).or_default().push(record);
    }

    /// Seals all that was written, and folds it into roll-ups.
    fn seal(&mut self) {
        let data = DataDirectory::open(&self.data).unwrap();
        let key = std::fs::read_to_string(self.data.join("collector/log.key")).unwrap();
        let genesis = Genesis {
            trust_roots: Vec::new(),
            build: BUILD.into(),
            at: clock::wall(),
        };
        let key = LogKey::from_pem(ORIGIN, &key).unwrap();
        let mut log = Log::open(&data.books(), &data.staging(ORIGIN), key, &genesis).unwrap();
        let mut segments = Vec::new();
        for ((table, class), records) in std::mem::take(&mut self.records) {
            let number = log.next_segment() + segments.len() as u64;
            segments.push(sealed(&log, (table, class, number), &records));
        }
        let coverage = vec![CoverageRow {
            writer: Writer::parse(&format!("spiffe://{DOMAIN}/workload/any#1")).unwrap(),
            epoch: Epoch(1),
            stream: Stream::new(TableId::Entries, class(CLASS), 0),
            first_seq: 0,
            count: 1,
            statement: 0,
            segment: log.next_segment(),
            received_at: clock::wall(),
            delivery: "acked".into(),
            attribution: "native".into(),
            statement_epoch: None,
        }];
        let seal = Seal {
            until: clock::wall(),
            build: BUILD.into(),
            journal_file: 1,
            segments,
            coverage,
        };
        log.commit(seal).unwrap();
        let journal = data.journal(ORIGIN);
        std::fs::create_dir_all(&journal).unwrap();
        std::fs::write(journal::file_path(&journal, 1), journal::MAGIC).unwrap();
        let path = self.data.to_str().unwrap();
        let folded = counterfoil(&["rebuild", "rollups", "--data-dir", path]);
        assert!(folded.status.success(), "{}", text(&folded.stderr));
    }
}

fn sealed(
    log: &Log,
    (table, class, number): (TableId, RetentionClass, u64),
    records: &[Vec<u8>],
) -> SegmentRef {
    let now = clock::wall();
    let file = paths::segment(ORIGIN, table, &class, now, number, 5);
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
            received_at: now,
            statement: (table != TableId::Statements).then_some(0),
            delivery: Delivery::Acked,
            attribution: Attribution::Native,
        })
        .collect();
    let staged: PathBuf = log.staged_path(&file);
    std::fs::create_dir_all(Path::parent(&staged).unwrap()).unwrap();
    let written = segment::write(&staged, &meta, &mut rows).unwrap();
    SegmentRef {
        table,
        class,
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

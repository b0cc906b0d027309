//! The journal's tail as record batches, decoded once: a later snapshot reads only the new bytes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use counterfoil_columns::journal::{self, Frames, JournalError, JournalFrame};
use counterfoil_columns::row::RowError;
use counterfoil_columns::segment::SegmentError;
use counterfoil_columns::segment::read_rows;
use counterfoil_columns::{Envelope, RowBuilder, provenance};
use counterfoil_entry::Time;
use counterfoil_entry::announcement::Announcement;
use counterfoil_entry::record::{RecordError, RecordView};
use counterfoil_entry::rows::{StatementRow, Trust};
use counterfoil_entry::statement::{Signed, Statement, StatementError};
use counterfoil_entry::table::TableId;
use datafusion::arrow::array::RecordBatch;

use crate::books::Sealed;

/// Why the journal's tail cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// A file was trimmed while the snapshot was taken.
    #[error("journal file {number} is gone")]
    Gone {
        /// Number of the file.
        number: u64,
    },
    /// The file system refused.
    #[error("reading journal {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Bytes inside the file are not those that were written: entries behind them would be left out.
    #[error(
        "journal {path} is damaged at byte {at}; entries behind it cannot be read. Start the collector: it keeps the damaged part aside, takes again what the writers still hold, and opens gaps for what is lost"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from its begin.
        at: u64,
    },
    /// A frame cannot be decoded.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// An entry cannot be a row.
    #[error("decoding a journal's entry")]
    Row(#[from] RowError),
    /// An entry has no header.
    #[error("decoding a journal's entry")]
    Record(#[from] RecordError),
    /// A statement does not parse.
    #[error("decoding a journal's statement")]
    Statement(#[from] StatementError),
    /// A sealed segment, searched for an announcement, cannot be read.
    #[error("looking for an epoch's announcement")]
    Segment(#[from] SegmentError),
}

type Batches = BTreeMap<TableId, Vec<RecordBatch>>;

/// Writer and epoch.
type EpochKey = (String, u64);

#[derive(Debug, Clone)]
struct Key {
    audit_key: [u8; 32],
    trust: Trust,
    reason: Option<String>,
}

impl Key {
    /// The key of an epoch whose announcement is not in the books.
    fn unknown() -> Self {
        let reason = Some("announcement_missing".to_owned());
        Self {
            audit_key: [0; 32],
            trust: Trust::Unverified,
            reason,
        }
    }
}

/// What was read of the journal so far.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    files: BTreeMap<u64, Decoded>,
    keys: HashMap<EpochKey, Key>,
    /// Segments already searched for announcements.
    searched: HashSet<u64>,
}

/// One file's rows. Carried ones count only when the snapshot begins with the file.
#[derive(Debug, Default)]
struct Decoded {
    inode: u64,
    end: u64,
    own: Batches,
    carried: Batches,
}

impl Tail {
    /// Rows of `files`, which follow each other; the first one's carried frames included.
    pub(crate) fn read(
        &mut self,
        folder: &Path,
        files: &[u64],
        origin: &str,
        sealed: &Sealed<'_>,
    ) -> Result<Batches, TailError> {
        self.files.retain(|number, _| files.contains(number));
        let mut all = Batches::new();
        for (place, number) in files.iter().enumerate() {
            let is_last = place + 1 == files.len();
            self.refresh(folder, (*number, is_last), origin, sealed)?;
            let Some(decoded) = self.files.get(number) else {
                continue;
            };
            let carried = decoded.carried.iter().filter(|_| place == 0);
            for (table, batches) in carried.chain(&decoded.own) {
                all.entry(*table)
                    .or_default()
                    .extend(batches.iter().cloned());
            }
        }
        Ok(all)
    }

    /// Decodes what was appended to file `number` since the last time.
    fn refresh(
        &mut self,
        folder: &Path,
        (number, is_last): (u64, bool),
        origin: &str,
        sealed: &Sealed<'_>,
    ) -> Result<(), TailError> {
        let path = journal::file_path(folder, number);
        let io = |source| TailError::Io {
            path: path.clone(),
            source,
        };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(TailError::Gone { number });
            }
            Err(error) => return Err(io(error)),
        };
        let metadata = file.metadata().map_err(io)?;
        let mut decoded = self.files.remove(&number).unwrap_or_default();
        if decoded.inode != metadata.ino() || metadata.len() < decoded.end {
            decoded = Decoded {
                inode: metadata.ino(),
                ..Decoded::default()
            };
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(decoded.end)).map_err(io)?;
        file.read_to_end(&mut bytes).map_err(io)?;
        let frames = if decoded.end == 0 {
            Frames::new(&bytes)
        } else {
            Frames::at(&bytes, decoded.end)
        };
        let mut rows = Rows {
            origin,
            own: BTreeMap::new(),
            carried: BTreeMap::new(),
        };
        let begin = decoded.end;
        for located in frames {
            let located = located?;
            self.take(located.frame, located.carried, &mut rows, sealed)?;
            decoded.end = located.end;
        }
        let known = usize::try_from(decoded.end - begin).unwrap_or(usize::MAX);
        if is_damage(
            bytes.get(known..).unwrap_or_default(),
            decoded.end == 0,
            is_last,
        ) {
            let at = decoded.end;
            return Err(TailError::Damaged { path, at });
        }
        rows.finish(&mut decoded)?;
        self.files.insert(number, decoded);
        Ok(())
    }

    fn take(
        &mut self,
        frame: JournalFrame<'_>,
        carried: bool,
        rows: &mut Rows<'_>,
        sealed: &Sealed<'_>,
    ) -> Result<(), TailError> {
        match frame {
            JournalFrame::Batch {
                received_at,
                records,
            } => {
                for (_, record) in records.iter() {
                    let view = RecordView::parse(record)?;
                    let header = view.header_ref()?;
                    // A table of a newer version waits for a newer reader.
                    let Some(table) = TableId::from_number(view.table) else {
                        continue;
                    };
                    rows.push(table, carried, record, received_at, header.stream)?;
                }
            }
            JournalFrame::Announcement {
                received_at,
                trust,
                reason,
                announcement,
                signature,
            } => {
                let signed = signed(announcement, signature);
                let reason = Some(reason).filter(|reason| !reason.is_empty());
                self.learn(&signed, trust, reason)?;
                let row = StatementRow::of_announcement(&signed, trust, reason)
                    .map_err(|_| unreadable(carried))?;
                rows.push_statement(&row, carried, received_at)?;
            }
            JournalFrame::Statement {
                received_at,
                statement,
                signature,
            } => {
                let signed = signed(statement, signature);
                let parsed = Statement::decode(&signed.bytes)?;
                let epoch = (parsed.writer.as_str().to_owned(), parsed.epoch.0);
                // Never left out: without its announcement it stands as what it is, unverified.
                let key = self.key_of(&epoch, sealed)?.unwrap_or_else(Key::unknown);
                let reason = key.reason.as_deref();
                let row = StatementRow::of_statement(&signed, key.audit_key, key.trust, reason)?;
                rows.push_statement(&row, carried, received_at)?;
            }
        }
        Ok(())
    }

    fn learn(
        &mut self,
        signed: &Signed,
        trust: Trust,
        reason: Option<&str>,
    ) -> Result<(), TailError> {
        let announcement = Announcement::decode(&signed.bytes).map_err(|_| unreadable(false))?;
        let epoch = (
            announcement.writer.as_str().to_owned(),
            announcement.epoch.0,
        );
        let reason = reason.map(ToOwned::to_owned);
        self.keys.insert(
            epoch,
            Key {
                audit_key: announcement.audit_key,
                trust,
                reason,
            },
        );
        Ok(())
    }

    /// The key of `epoch`, from an announcement in the tail or in a sealed segment.
    fn key_of(&mut self, epoch: &EpochKey, sealed: &Sealed<'_>) -> Result<Option<Key>, TailError> {
        if let Some(key) = self.keys.get(epoch) {
            return Ok(Some(key.clone()));
        }
        for (segment, path) in sealed.announcements() {
            if !self.searched.insert(segment) {
                continue;
            }
            let mut found = Vec::new();
            read_rows(&path, TableId::Statements, |_, record, _| {
                found.extend(
                    StatementRow::parts(record)
                        .ok()
                        .filter(|parts| parts.is_announcement),
                );
                ControlFlow::Continue(())
            })?;
            for parts in found {
                self.learn(&parts.signed, parts.trust, parts.reason.as_deref())?;
            }
            if self.keys.contains_key(epoch) {
                break;
            }
        }
        Ok(self.keys.get(epoch).cloned())
    }
}

/// Whether `left`, what follows the last whole frame, is more than the write that a crash or a
/// running collector has not finished. A file `is_new` when not even its magic was read.
fn is_damage(left: &[u8], is_new: bool, is_last: bool) -> bool {
    if is_new {
        let (magic, frames) = left.split_at(left.len().min(journal::MAGIC.len()));
        return !journal::MAGIC.starts_with(magic) || is_damage(frames, false, is_last);
    }
    (!is_last && !left.is_empty()) || journal::has_frame(left)
}

fn signed(bytes: &[u8], signature: &[u8]) -> Signed {
    Signed {
        bytes: bytes.to_vec(),
        signature: signature.to_vec(),
    }
}

fn unreadable(carried: bool) -> TailError {
    TailError::Journal(JournalError::Frame {
        kind: if carried { 5 } else { 2 },
        end: 0,
    })
}

/// Rows being built from the new frames of one file.
struct Rows<'a> {
    origin: &'a str,
    own: BTreeMap<TableId, RowBuilder>,
    carried: BTreeMap<TableId, RowBuilder>,
}

impl Rows<'_> {
    fn push(
        &mut self,
        table: TableId,
        carried: bool,
        record: &[u8],
        received_at: Time,
        stream: &str,
    ) -> Result<(), TailError> {
        let mut parts = stream.split('/').skip(1);
        let retention_class = parts.next().unwrap_or_default();
        let lane = parts.next().and_then(|lane| lane.parse().ok());
        let (delivery, attribution) = provenance(lane.unwrap_or_default());
        let builders = if carried {
            &mut self.carried
        } else {
            &mut self.own
        };
        let builder = builders
            .entry(table)
            .or_insert_with(|| RowBuilder::new(table));
        builder.push(
            record,
            &Envelope {
                received_at,
                origin: self.origin,
                statement: None,
                segment: None,
                leaf_index: None,
                retention_class,
                delivery,
                attribution,
            },
        )?;
        Ok(())
    }

    fn push_statement(
        &mut self,
        row: &StatementRow,
        carried: bool,
        received_at: Time,
    ) -> Result<(), TailError> {
        let mut record = Vec::new();
        row.encode(&mut record);
        let stream = row.header.stream.to_string();
        self.push(TableId::Statements, carried, &record, received_at, &stream)
    }

    fn finish(self, decoded: &mut Decoded) -> Result<(), TailError> {
        let both = [
            (self.own, &mut decoded.own),
            (self.carried, &mut decoded.carried),
        ];
        for (builders, batches) in both {
            for (table, mut builder) in builders {
                batches.entry(table).or_default().push(builder.finish()?);
            }
        }
        Ok(())
    }
}

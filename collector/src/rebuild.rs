//! What a collector knows when it starts: read from the books and the journal, from nothing else.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use counterfoil_columns::DataDirectory;
use counterfoil_columns::directory::sync_directory;
use counterfoil_columns::journal::{
    self, Frames, JournalError, JournalFrame, Located, MAGIC, Records, file_path,
};
use counterfoil_columns::segment::{SegmentError, read_rows};
use counterfoil_entry::announcement::Announcement;
use counterfoil_entry::id::{Epoch, Stream, Writer};
use counterfoil_entry::record::RecordView;
use counterfoil_entry::rows::{GapRow, IssuanceRow, StatementParts, StatementRow};
use counterfoil_entry::statement::{Signed, Statement, statement_hash};
use counterfoil_entry::table::TableId;
use counterfoil_entry::tlv::Fields;
use counterfoil_entry::tree::leaf_hash;
use counterfoil_entry::{Hash, Time};
use counterfoil_ledger::log::{Log, LogError, read_coverage, read_manifest};
use counterfoil_ledger::manifest::Body;

use crate::journal::JournalFiles;
use crate::state::{Announced, Kept, Place, State, Unsealed};

/// Why a collector cannot take over its books.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RebuildError {
    #[error("reading the log")]
    Log(#[from] LogError),
    #[error("reading the books")]
    Segment(#[from] SegmentError),
    #[error("reading the journal")]
    Journal(#[from] JournalError),
    #[error(
        "{path}: {why}; restore it from a copy, or put an empty file in its place if you can do without what it held"
    )]
    Damaged { path: PathBuf, why: String },
}

/// The state after the last acknowledged request, and the journal files that it refers to.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    pub(crate) state: State,
    pub(crate) files: JournalFiles,
    /// Number for the next journal file.
    pub(crate) next_file: u64,
}

/// Gaps by id: newest revision wins, whichever is read first.
type Gaps = HashMap<String, GapRow>;

/// Reads the books below `log`, then the journal after it; cuts a torn tail off a journal file.
///
/// # Errors
/// [`RebuildError`], naming the file.
pub(crate) fn rebuild(data: &DataDirectory, log: &Log) -> Result<Rebuilt, RebuildError> {
    let mut state = State::default();
    let mut gaps = Gaps::new();
    read_books(&data.books(), log, &mut state, &mut gaps)?;
    let directory = data.journal(log.origin());
    let mut files = JournalFiles::new();
    let numbers = journal::files(&directory)?;
    let next_file = numbers
        .last()
        .map_or(1, |last| last + 1)
        .max(log.journal_file())
        .max(1);
    let numbers: Vec<u64> = numbers
        .into_iter()
        .filter(|number| *number >= log.journal_file())
        .collect();
    check_numbers(&directory, log.journal_file(), &numbers)?;
    for (at, number) in numbers.iter().copied().enumerate() {
        let path = file_path(&directory, number);
        let span = Span {
            number,
            is_first: at == 0,
            is_last: at + 1 == numbers.len(),
        };
        replay(&path, span, &mut state, &mut gaps)?;
        let file = File::open(&path).map_err(|source| JournalError::Io {
            doing: "opening",
            path,
            source,
        })?;
        files.insert(number, Arc::new(file));
    }
    crate::journal::trim(&directory, log.journal_file())?;
    for gap in gaps.into_values().filter(|gap| gap.closed_at.is_none()) {
        if let Ok(writer) = Writer::parse(&gap.subject_writer) {
            state
                .epoch(&writer, Epoch(gap.subject_epoch))
                .gaps
                .push(gap);
        }
    }
    Ok(Rebuilt {
        state,
        files,
        next_file,
    })
}

fn read_books(
    books: &Path,
    log: &Log,
    state: &mut State,
    gaps: &mut Gaps,
) -> Result<(), RebuildError> {
    let mut statements = Vec::new();
    for number in 0..log.size() {
        let (manifest, _) = read_manifest(books, log.origin(), number)?;
        let Body::Seal {
            segments, coverage, ..
        } = manifest.body
        else {
            continue;
        };
        if coverage.is_some() {
            for row in read_coverage(books, log.origin(), number)?.rows {
                let range = (row.first_seq, row.first_seq.saturating_add(row.count));
                state.note_sealed((&row.writer, row.epoch), &row.stream, range);
            }
        }
        for segment in segments {
            let path = books.join(&segment.file);
            match segment.table {
                TableId::Statements => read_table(&path, segment.table, |record| {
                    statements.push(StatementRow::parts(record).map_err(|e| e.to_string())?);
                    Ok(())
                })?,
                TableId::Gaps | TableId::Issuance | TableId::Conflicts => {
                    read_table(&path, segment.table, |record| {
                        note_row(segment.table, record, state, gaps);
                        Ok(())
                    })?
                }
                _ => {}
            }
        }
    }
    // The ranges of statements are compared with the coverage of all manifests, later ones too.
    statements
        .iter()
        .for_each(|parts| note_statement_row(parts, state));
    Ok(())
}

fn read_table(
    path: &Path,
    table: TableId,
    mut each: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), RebuildError> {
    let mut failed = None;
    read_rows(path, table, |_, record, _| match each(record) {
        Ok(()) => ControlFlow::Continue(()),
        Err(why) => {
            failed = Some(why);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), |why| {
        Err(RebuildError::Damaged {
            path: path.to_owned(),
            why,
        })
    })
}

fn note_statement_row(parts: &StatementParts, state: &mut State) {
    if parts.is_announcement {
        if let Ok(announcement) = Announcement::decode(&parts.signed.bytes) {
            state
                .epoch(&announcement.writer, announcement.epoch)
                .announced = Some(Announced {
                audit_key: parts.audit_key,
                trust: parts.trust,
                reason: parts.reason.clone(),
            });
        }
    } else if let Ok(statement) = Statement::decode(&parts.signed.bytes) {
        state.note_sealed_statement(&statement, statement_hash(&parts.signed.bytes));
    }
}

/// Notes what a row of a small table says of the state.
fn note_row(table: TableId, record: &[u8], state: &mut State, gaps: &mut Gaps) {
    match table {
        TableId::Gaps => {
            if let Ok((_, gap)) = GapRow::decode(record) {
                let known = gaps.get(&gap.gap_id);
                if known.is_none_or(|known| known.revision <= gap.revision) {
                    gaps.insert(gap.gap_id.clone(), gap);
                }
            }
        }
        TableId::Issuance => {
            if let Ok((_, row)) = IssuanceRow::decode(record) {
                state.issued.extend(row.cert_sha256);
            }
        }
        TableId::Conflicts => {
            if let Some((writer, epoch, other)) = conflict_of(record) {
                state.epoch(&writer, epoch).others.insert(other);
            }
        }
        _ => {}
    }
}

/// Whose statement a row of the table `conflicts` keeps beside the one taken, and its hash.
fn conflict_of(record: &[u8]) -> Option<(Writer, Epoch, Hash)> {
    let fields = Fields::parse(RecordView::parse(record).ok()?.body).ok()?;
    let writer = Writer::parse(fields.text(5).ok()?).ok()?;
    Some((
        writer,
        Epoch(fields.u64(6).ok()?),
        fields.hash_opt(9).ok()??,
    ))
}

/// Checks that no journal file is missing between the last manifest and the newest one.
fn check_numbers(directory: &Path, first: u64, numbers: &[u64]) -> Result<(), RebuildError> {
    if numbers.is_empty() && first > 0 {
        tracing::error!(
            directory = %directory.display(),
            "the journal is not there: what was acknowledged after the last manifest is lost"
        );
    }
    match (first.max(1)..).zip(numbers).find(|(due, is)| due != *is) {
        None => Ok(()),
        Some((due, _)) => Err(RebuildError::Damaged {
            path: file_path(directory, due),
            why: "it is missing, and a later journal file is there".to_owned(),
        }),
    }
}

/// One file among those that are read.
#[derive(Debug, Clone, Copy)]
struct Span {
    number: u64,
    is_first: bool,
    is_last: bool,
}

fn replay(path: &Path, span: Span, state: &mut State, gaps: &mut Gaps) -> Result<(), RebuildError> {
    let bytes = journal::read(path)?;
    let damaged = |why: String| RebuildError::Damaged {
        path: path.to_owned(),
        why,
    };
    if !bytes.starts_with(MAGIC) && !MAGIC.starts_with(&bytes) {
        let why = "byte 0: it does not begin as a journal file";
        return Err(damaged(why.to_owned()));
    }
    let mut end = u64::try_from(MAGIC.len().min(bytes.len())).unwrap_or(0);
    for located in Frames::new(&bytes) {
        let located = located.map_err(|error| damaged(error.to_string()))?;
        let begin = end;
        end = located.end;
        if located.carried && !span.is_first {
            continue;
        }
        replay_frame(&located, span.number, state, gaps)
            .map_err(|why| damaged(format!("the frame from byte {begin} to {end}: {why}")))?;
    }
    let whole = end;
    let tail = usize::try_from(whole).ok().and_then(|at| bytes.get(at..));
    let tail = tail.unwrap_or_default();
    if tail.is_empty() {
        return Ok(());
    }
    // A file is synced whole before the next one begins.
    if !span.is_last {
        return Err(damaged(format!("it is damaged behind byte {whole}")));
    }
    cut_tail(path, whole, tail)
}

/// Cuts off what follows the last whole frame of the newest file. Usually a write was torn, of which
/// nothing was acknowledged. Where whole frames follow, the disk is damaged: those are kept aside.
fn cut_tail(path: &Path, whole: u64, tail: &[u8]) -> Result<(), RebuildError> {
    let (file, cut_bytes) = (path.display(), tail.len());
    if journal::has_frame(tail) {
        let aside = path.with_extension(format!("damaged-{whole}"));
        keep(&aside, tail).map_err(|source| JournalError::Io {
            doing: "keeping the damaged tail of",
            path: path.to_owned(),
            source,
        })?;
        tracing::error!(
            %file, cut_bytes, aside = %aside.display(),
            "the journal is damaged in the middle: what followed may have been acknowledged, and is kept aside"
        );
    } else {
        tracing::warn!(%file, cut_bytes, "cut a torn tail off the journal: it was not acknowledged");
    }
    Ok(cut(path, whole)?)
}

fn keep(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::write(path, bytes)?;
    File::open(path)?.sync_all()?;
    sync_directory(path.parent().unwrap_or_else(|| Path::new(".")))
}

fn replay_frame(
    located: &Located<'_>,
    file: u64,
    state: &mut State,
    gaps: &mut Gaps,
) -> Result<(), String> {
    match located.frame {
        JournalFrame::Batch {
            received_at,
            records,
        } => replay_batch(file, received_at, records, state, gaps),
        JournalFrame::Announcement {
            received_at,
            trust,
            reason,
            announcement,
            signature,
        } => {
            let decoded = Announcement::decode(announcement).map_err(|e| e.to_string())?;
            let unsealed = Unsealed {
                is_announcement: true,
                signed: Signed {
                    bytes: announcement.to_vec(),
                    signature: signature.to_vec(),
                },
                audit_key: decoded.audit_key,
                trust,
                reason: (!reason.is_empty()).then(|| reason.to_owned()),
                received_at,
            };
            state.announce(&decoded.writer, decoded.epoch, unsealed);
            Ok(())
        }
        JournalFrame::Statement {
            received_at,
            statement,
            signature,
        } => {
            let signed = Signed {
                bytes: statement.to_vec(),
                signature: signature.to_vec(),
            };
            let decoded = Statement::decode(statement).map_err(|e| e.to_string())?;
            state.take_statement(&decoded, &signed, received_at);
            Ok(())
        }
    }
}

fn replay_batch(
    file: u64,
    received_at: Time,
    records: Records<'_>,
    state: &mut State,
    gaps: &mut Gaps,
) -> Result<(), String> {
    let mut writer: Option<Writer> = None;
    let mut stream: Option<(String, Stream)> = None;
    let mut kinds = HashSet::new();
    for (offset, record) in records.iter() {
        let view = RecordView::parse(record).map_err(|error| error.to_string())?;
        let head = view.header_ref().map_err(|error| error.to_string())?;
        if writer
            .as_ref()
            .is_none_or(|writer| writer.as_str() != head.writer)
        {
            writer = Some(Writer::parse(head.writer).map_err(|error| error.to_string())?);
        }
        if stream.as_ref().is_none_or(|(text, _)| text != head.stream) {
            let parsed = Stream::parse(head.stream).map_err(|error| error.to_string())?;
            stream = Some((head.stream.to_owned(), parsed));
        }
        let (Some(writer), Some((_, stream))) = (&writer, &stream) else {
            continue;
        };
        let kind = (stream.table, stream.class.clone(), view.schema_version);
        if kinds.insert(kind.clone()) {
            state.admit(kind);
        }
        let len = u32::try_from(record.len()).map_err(|error| error.to_string())?;
        let place = Place { file, offset, len };
        let kept = Kept {
            leaf: leaf_hash(record),
            place,
            received_at,
        };
        let epoch = (writer, head.epoch);
        state.take_entry(epoch, stream, head.seq, view.schema_version, kept);
        note_row(stream.table, record, state, gaps);
    }
    Ok(())
}

fn cut(path: &Path, whole: u64) -> Result<(), JournalError> {
    let file = File::options().write(true).open(path);
    file.and_then(|file| file.set_len(whole).and_then(|()| file.sync_all()))
        .map_err(|source| JournalError::Io {
            doing: "cutting the torn tail of",
            path: path.to_owned(),
            source,
        })
}

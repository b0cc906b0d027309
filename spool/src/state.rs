//! The `statements` file of an epoch: what was announced, stated, acknowledged and refused.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use counterfoil_entry::Hash;
use counterfoil_entry::frame::{Frame, FrameReader, write_frame};
use counterfoil_entry::id::{Epoch, Stream};
use counterfoil_entry::statement::{Signed, Statement, StatementKind, statement_hash};

use crate::directory::sync_directory;

const MAGIC: &[u8; 8] = b"CFSTATE1";
const ANNOUNCEMENT: u8 = 2;
const STATEMENT: u8 = 3;
const ACKNOWLEDGED: u8 = 4;
const QUARANTINED: u8 = 5;
const FRAME_HEAD_BYTES: u64 = 9;
/// The file is written anew without its settled statements when it has doubled beyond this.
const COMPACT_BYTES: u64 = 1 << 20;

/// The file, and what it says.
#[derive(Debug)]
pub(crate) struct StateFile {
    directory: PathBuf,
    file: File,
    bytes: u64,
    bytes_when_compacted: u64,
    announcement: Option<Vec<u8>>,
    /// Ascending numbers.
    statements: Vec<Stated>,
    acked: Option<(u64, Hash)>,
    quarantined: Vec<(u64, Hash)>,
}

/// What is kept in memory of a statement.
#[derive(Debug, Clone)]
pub(crate) struct Stated {
    pub(crate) number: u64,
    pub(crate) hash: Hash,
    pub(crate) is_final: bool,
    /// The epoch that a recovery states the tail of.
    pub(crate) recovers: Option<Epoch>,
    /// Seqs of this epoch that it covers.
    pub(crate) ranges: Vec<(Stream, Range<u64>)>,
    offset: u64,
    len: usize,
}

impl StateFile {
    /// Makes an empty file.
    pub(crate) fn create(directory: &Path) -> io::Result<Self> {
        let path = directory.join("statements");
        let file = File::options()
            .read(true)
            .append(true)
            .create_new(true)
            .open(path)?;
        (&file).write_all(MAGIC)?;
        Ok(Self::over(directory, file))
    }

    /// Reads the file of an old epoch and cuts it after its last whole frame. A file that is not
    /// there, or not even begun, is made.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join("statements");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        let mut state = Self::over(directory, file);
        match bytes.strip_prefix(MAGIC) {
            Some(frames) => {
                for frame in FrameReader::new(frames) {
                    if !state.take(&frame) {
                        break;
                    }
                    state.bytes = MAGIC.len() as u64 + frame.end as u64;
                }
                state.file.set_len(state.bytes)?;
            }
            None => {
                state.file.set_len(0)?;
                (&state.file).write_all(MAGIC)?;
            }
        }
        Ok(state)
    }

    fn over(directory: &Path, file: File) -> Self {
        Self {
            directory: directory.to_owned(),
            file,
            bytes: MAGIC.len() as u64,
            bytes_when_compacted: 0,
            announcement: None,
            statements: Vec::new(),
            acked: None,
            quarantined: Vec::new(),
        }
    }

    /// Takes a frame that stands at the end of what was read; `false` when it makes no sense.
    fn take(&mut self, frame: &Frame<'_>) -> bool {
        match frame.kind {
            ANNOUNCEMENT => self.announcement = Some(frame.payload.to_vec()),
            STATEMENT => {
                let offset = MAGIC.len() as u64 + (frame.end - frame.payload.len()) as u64;
                let Some(stated) = Signed::from_wire(frame.payload)
                    .and_then(|signed| Stated::of(&signed, offset, frame.payload.len()))
                else {
                    return false;
                };
                self.statements.push(stated);
            }
            ACKNOWLEDGED => {
                let Some(acked) = read_numbered(frame.payload) else {
                    return false;
                };
                self.acked = Some(acked);
            }
            QUARANTINED => {
                let Some(refused) = read_numbered(frame.payload) else {
                    return false;
                };
                self.quarantined.push(refused);
            }
            _ => return false,
        }
        true
    }

    /// The announcement as it is sent.
    pub(crate) fn announcement(&self) -> Option<&[u8]> {
        self.announcement.as_deref()
    }

    /// Writes and syncs the epoch's announcement.
    pub(crate) fn announce(&mut self, signed: &Signed) -> io::Result<()> {
        let wire = signed.to_wire();
        self.append(ANNOUNCEMENT, &wire)?;
        self.sync()?;
        sync_directory(&self.directory)?;
        self.announcement = Some(wire);
        Ok(())
    }

    /// Writes and syncs a statement. After an error it is not in the file.
    pub(crate) fn push(&mut self, signed: &Signed) -> io::Result<()> {
        let wire = signed.to_wire();
        let before = self.bytes;
        self.append(STATEMENT, &wire)?;
        if let Err(error) = self.sync() {
            self.cut(before);
            return Err(error);
        }
        let offset = before + FRAME_HEAD_BYTES;
        self.statements
            .extend(Stated::of(signed, offset, wire.len()));
        Ok(())
    }

    /// Notes that the collector has the statement `number`.
    pub(crate) fn acknowledge(&mut self, number: u64, hash: Hash) -> io::Result<()> {
        self.append(ACKNOWLEDGED, &numbered(number, hash))?;
        self.acked = Some((number, hash));
        if self.bytes > COMPACT_BYTES.max(2 * self.bytes_when_compacted) {
            self.compact()?;
        }
        Ok(())
    }

    /// Notes that the collector refused the statement `number` for good.
    pub(crate) fn quarantine(&mut self, number: u64, hash: Hash) -> io::Result<()> {
        self.append(QUARANTINED, &numbered(number, hash))?;
        self.sync()?;
        self.quarantined.push((number, hash));
        Ok(())
    }

    /// The statement's bytes as they are sent.
    pub(crate) fn wire(&self, stated: &Stated) -> io::Result<Vec<u8>> {
        let mut wire = vec![0; stated.len];
        self.file.read_exact_at(&mut wire, stated.offset)?;
        Ok(wire)
    }

    /// The last statement made.
    pub(crate) fn last(&self) -> Option<(u64, Hash)> {
        self.statements
            .last()
            .map(|stated| (stated.number, stated.hash))
    }

    /// The statements that this file still holds.
    pub(crate) fn statements(&self) -> &[Stated] {
        &self.statements
    }

    /// The oldest statement that is neither acknowledged nor quarantined.
    pub(crate) fn next_unsettled(&self) -> Option<&Stated> {
        self.statements
            .iter()
            .find(|stated| !self.is_settled(stated.number))
    }

    pub(crate) fn is_settled(&self, number: u64) -> bool {
        self.acked.is_some_and(|(acked, _)| number <= acked) || self.is_quarantined(number)
    }

    pub(crate) fn is_quarantined(&self, number: u64) -> bool {
        self.quarantined
            .iter()
            .any(|(refused, _)| *refused == number)
    }

    pub(crate) fn quarantined(&self) -> &[(u64, Hash)] {
        &self.quarantined
    }

    pub(crate) fn has_final(&self) -> bool {
        self.statements.last().is_some_and(|stated| stated.is_final)
    }

    /// Where the statements of `stream` end.
    pub(crate) fn stated_end(&self, stream: &Stream) -> u64 {
        self.end_of(stream, |_| true)
    }

    /// Where the acknowledged and quarantined statements of `stream` end.
    pub(crate) fn settled_end(&self, stream: &Stream) -> u64 {
        self.end_of(stream, |stated| self.is_settled(stated.number))
    }

    /// Ranges of `stream` under quarantined statements.
    pub(crate) fn quarantined_ranges(&self, stream: &Stream) -> Vec<Range<u64>> {
        self.statements
            .iter()
            .filter(|stated| self.is_quarantined(stated.number))
            .flat_map(|stated| stated.ranges.iter())
            .filter(|(of, _)| of == stream)
            .map(|(_, seqs)| seqs.clone())
            .collect()
    }

    fn end_of(&self, stream: &Stream, counts: impl Fn(&Stated) -> bool) -> u64 {
        self.statements
            .iter()
            .filter(|stated| counts(stated))
            .flat_map(|stated| stated.ranges.iter())
            .filter(|(of, _)| of == stream)
            .map(|(_, seqs)| seqs.end)
            .max()
            .unwrap_or(0)
    }

    fn append(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(payload.len() + 16);
        write_frame(&mut frame, kind, payload);
        if let Err(error) = (&self.file).write_all(&frame) {
            self.cut(self.bytes);
            return Err(error);
        }
        self.bytes += frame.len() as u64;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Takes back what was written after `bytes`.
    fn cut(&mut self, bytes: u64) {
        match self.file.set_len(bytes) {
            Ok(()) => self.bytes = bytes,
            Err(error) => {
                let path = self.directory.display();
                tracing::error!(%error, %path, "cannot take a half-written statement back");
            }
        }
    }

    /// Writes the file anew with what is still needed: what is not acknowledged, and of each stream
    /// the statement that tells where the acknowledged part ends.
    fn compact(&mut self) -> io::Result<()> {
        let mut newest: BTreeMap<&Stream, u64> = BTreeMap::new();
        for stated in &self.statements {
            newest.extend(
                stated
                    .ranges
                    .iter()
                    .map(|(stream, _)| (stream, stated.number)),
            );
        }
        let last = self.last().map(|(number, _)| number);
        let needed = |stated: &Stated| {
            !self.is_settled(stated.number)
                || self.is_quarantined(stated.number)
                || Some(stated.number) == last
                || newest.values().any(|number| *number == stated.number)
        };
        let mut bytes = MAGIC.to_vec();
        if let Some(announcement) = &self.announcement {
            write_frame(&mut bytes, ANNOUNCEMENT, announcement);
        }
        let mut statements = Vec::new();
        for stated in self.statements.iter().filter(|stated| needed(stated)) {
            let offset = bytes.len() as u64 + FRAME_HEAD_BYTES;
            write_frame(&mut bytes, STATEMENT, &self.wire(stated)?);
            statements.push(Stated {
                offset,
                ..stated.clone()
            });
        }
        if let Some((number, hash)) = self.acked {
            write_frame(&mut bytes, ACKNOWLEDGED, &numbered(number, hash));
        }
        for (number, hash) in &self.quarantined {
            write_frame(&mut bytes, QUARANTINED, &numbered(*number, *hash));
        }
        self.replace(&bytes)?;
        self.statements = statements;
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let path = self.directory.join("statements.new");
        fs::write(&path, bytes)?;
        let file = File::options().read(true).append(true).open(&path)?;
        file.sync_data()?;
        fs::rename(&path, self.directory.join("statements"))?;
        sync_directory(&self.directory)?;
        self.file = file;
        self.bytes = bytes.len() as u64;
        self.bytes_when_compacted = self.bytes;
        Ok(())
    }
}

impl Stated {
    fn of(signed: &Signed, offset: u64, len: usize) -> Option<Self> {
        let statement = Statement::decode(&signed.bytes).ok()?;
        let seqs = |first: u64, count: u64| first..first.saturating_add(count);
        Some(Self {
            number: statement.number,
            hash: statement_hash(&signed.bytes),
            is_final: statement.kind == StatementKind::Final,
            recovers: match &statement.kind {
                StatementKind::Recovery(recovery) => Some(recovery.old_epoch),
                _ => None,
            },
            ranges: statement
                .streams
                .iter()
                .map(|range| (range.stream.clone(), seqs(range.first_seq, range.count)))
                .collect(),
            offset,
            len,
        })
    }
}

fn numbered(number: u64, hash: Hash) -> Vec<u8> {
    [number.to_be_bytes().as_slice(), hash.as_bytes()].concat()
}

fn read_numbered(payload: &[u8]) -> Option<(u64, Hash)> {
    let (number, hash) = payload.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), Hash::from_slice(hash)?))
}

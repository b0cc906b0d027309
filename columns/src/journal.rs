//! The journal's frames: what the collector has taken and synced, but not yet sealed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use counterfoil_entry::Time;
use counterfoil_entry::frame::{FrameReader, write_frame_with};
use counterfoil_entry::rows::Trust;

/// First bytes of a journal file.
pub const MAGIC: &[u8; 8] = b"CFJRNL01";

const BATCH: u8 = 1;
const ANNOUNCEMENT: u8 = 2;
const STATEMENT: u8 = 3;
/// Added to a frame's type when the frame is carried over from the file before.
const CARRIED: u8 = 3;

/// One frame of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalFrame<'a> {
    /// Entries that came together.
    Batch {
        /// When they came.
        received_at: Time,
        /// The entries.
        records: Records<'a>,
    },
    /// The announcement of an epoch's audit key.
    Announcement {
        /// When it came.
        received_at: Time,
        /// How far it is trusted.
        trust: Trust,
        /// Why it is not trusted further; empty when it is.
        reason: &'a str,
        /// The announcement's bytes.
        announcement: &'a [u8],
        /// Signature over it.
        signature: &'a [u8],
    },
    /// A statement.
    Statement {
        /// When it came.
        received_at: Time,
        /// The statement's bytes.
        statement: &'a [u8],
        /// Signature over it.
        signature: &'a [u8],
    },
}

/// A frame and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located<'a> {
    /// Whether it stands in the file before, too.
    pub carried: bool,
    /// Where the frame ends, in bytes from the file's begin.
    pub end: u64,
    /// The frame.
    pub frame: JournalFrame<'a>,
}

/// Entries of a batch, each with its place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Records<'a> {
    payload: &'a [u8],
    /// Where `payload` begins in the file.
    begin: u64,
}

/// Why a journal was not read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refused.
    #[error("{doing} journal {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A whole frame with a right checksum holds no known content.
    #[error("frame of type {kind} that ends at byte {end} cannot be decoded")]
    Frame {
        /// The frame's type.
        kind: u8,
        /// Where it ends, in bytes from the file's begin.
        end: u64,
    },
}

impl<'a> Records<'a> {
    /// The entries in order: offset of the canonical bytes in the file, and the bytes.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &'a [u8])> + use<'a> {
        let (mut rest, mut at) = (self.payload, self.begin);
        std::iter::from_fn(move || {
            let (record, tail) = split_u32(rest)?;
            let offset = at + 4;
            at = offset + wide(record.len());
            rest = tail;
            Some((offset, record))
        })
    }

    /// Whether the lengths add up to the payload.
    fn is_whole(&self) -> bool {
        let read: usize = self.iter().map(|(_, record)| record.len() + 4).sum();
        read == self.payload.len()
    }
}

/// Bytes of a batch frame before its entries: frame head, type and arrival time.
pub const BATCH_HEAD_BYTES: u64 = 17;

/// Appends a batch frame; `records` is `u32 len | R`, repeated.
pub fn push_batch(out: &mut Vec<u8>, carried: bool, received_at: Time, records: &[u8]) {
    write_frame_with(out, kind(BATCH, carried), |payload| {
        payload.extend_from_slice(&received_at.as_ns().to_be_bytes());
        payload.extend_from_slice(records);
    });
}

/// Appends an announcement frame.
pub fn push_announcement(
    out: &mut Vec<u8>,
    carried: bool,
    received_at: Time,
    (trust, reason): (Trust, &str),
    (announcement, signature): (&[u8], &[u8]),
) {
    write_frame_with(out, kind(ANNOUNCEMENT, carried), |payload| {
        payload.extend_from_slice(&received_at.as_ns().to_be_bytes());
        payload.push(trust_byte(trust));
        let reason = reason.as_bytes();
        payload.extend_from_slice(
            &u16::try_from(reason.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        payload.extend_from_slice(reason);
        push_signed(payload, announcement, signature);
    });
}

/// Appends a statement frame.
pub fn push_statement(
    out: &mut Vec<u8>,
    carried: bool,
    received_at: Time,
    statement: &[u8],
    signature: &[u8],
) {
    write_frame_with(out, kind(STATEMENT, carried), |payload| {
        payload.extend_from_slice(&received_at.as_ns().to_be_bytes());
        push_signed(payload, statement, signature);
    });
}

/// The frames of a journal file whose whole bytes are `file`; a cut or damaged tail ends them.
#[derive(Debug)]
pub struct Frames<'a> {
    reader: FrameReader<'a>,
    base: u64,
}

impl<'a> Frames<'a> {
    /// Reads `file` from its begin; no frames when it does not begin with [`MAGIC`].
    #[must_use]
    pub fn new(file: &'a [u8]) -> Self {
        Self::at(
            file.strip_prefix(MAGIC).unwrap_or_default(),
            wide(MAGIC.len()),
        )
    }

    /// Goes on reading at `base`, the end of a frame read before; `tail` is the file from there.
    #[must_use]
    pub fn at(tail: &'a [u8], base: u64) -> Self {
        Self {
            reader: FrameReader::new(tail),
            base,
        }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Located<'a>, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let frame = self.reader.next()?;
        let (end, kind) = (self.base + wide(frame.end), frame.kind);
        Some(decode(end, kind, frame.payload).ok_or(JournalError::Frame { kind, end }))
    }
}

/// Whether anything in `tail`, which begins where whole frames ended, is a whole frame again: then it
/// is no torn write, but damage.
#[must_use]
pub fn has_frame(tail: &[u8]) -> bool {
    let is_frame = |at: usize| {
        let rest = tail.get(at..).unwrap_or_default();
        // The type is looked at first, for a checksum costs time.
        let kind = rest.get(8).copied().unwrap_or_default();
        (BATCH..=STATEMENT + CARRIED).contains(&kind)
            && FrameReader::new(rest)
                .next()
                .is_some_and(|frame| decode(wide(frame.end), frame.kind, frame.payload).is_some())
    };
    (1..tail.len()).any(is_frame)
}

/// Numbers of the journal files in `directory`, ascending; none when there is no such directory.
///
/// # Errors
/// [`JournalError::Io`] when the directory cannot be read.
pub fn files(directory: &Path) -> Result<Vec<u64>, JournalError> {
    let io = |source| JournalError::Io {
        doing: "listing",
        path: directory.to_owned(),
        source,
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io(source)),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(io)?.file_name();
        let number = name
            .to_str()
            .filter(|name| name.len() == 20)
            .and_then(|n| n.parse::<u64>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The path of journal file `number` in `directory`.
#[must_use]
pub fn file_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:020}"))
}

/// The bytes of the journal file at `path`.
///
/// # Errors
/// [`JournalError::Io`] when it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, JournalError> {
    fs::read(path).map_err(|source| JournalError::Io {
        doing: "reading",
        path: path.to_owned(),
        source,
    })
}

fn decode(end: u64, kind: u8, payload: &[u8]) -> Option<Located<'_>> {
    let carried = kind > CARRIED;
    let begin = end - wide(payload.len());
    let (ns, rest) = payload.split_first_chunk::<8>()?;
    let received_at = Time::from_ns(i64::from_be_bytes(*ns));
    let frame = match if carried { kind - CARRIED } else { kind } {
        BATCH => {
            let records = Records {
                payload: rest,
                begin: begin + 8,
            };
            if !records.is_whole() {
                return None;
            }
            JournalFrame::Batch {
                received_at,
                records,
            }
        }
        ANNOUNCEMENT => {
            let ([trust], rest) = rest.split_first_chunk::<1>()?;
            let all = [Trust::Verified, Trust::Late, Trust::Unverified];
            let trust = all.into_iter().find(|one| trust_byte(*one) == *trust)?;
            let (len, rest) = rest.split_first_chunk::<2>()?;
            let (reason, rest) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
            let (announcement, signature) = split_u32(rest)?;
            let reason = std::str::from_utf8(reason).ok()?;
            JournalFrame::Announcement {
                received_at,
                trust,
                reason,
                announcement,
                signature,
            }
        }
        STATEMENT => {
            let (statement, signature) = split_u32(rest)?;
            JournalFrame::Statement {
                received_at,
                statement,
                signature,
            }
        }
        _ => return None,
    };
    Some(Located {
        carried,
        end,
        frame,
    })
}

const fn trust_byte(trust: Trust) -> u8 {
    match trust {
        Trust::Verified => 0,
        Trust::Late => 1,
        Trust::Unverified => 2,
    }
}

const fn kind(kind: u8, carried: bool) -> u8 {
    if carried { kind + CARRIED } else { kind }
}

fn push_signed(out: &mut Vec<u8>, bytes: &[u8], signature: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(signature);
}

fn split_u32(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)
}

fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let records = [0, 0, 0, 2, 7, 7, 0, 0, 0, 0, 0, 0, 0, 1, 9];
        push_batch(&mut bytes, true, Time::from_ns(-5), &records);
        let signed: (&[u8], &[u8]) = (b"announced", b"sig");
        push_announcement(
            &mut bytes,
            false,
            Time::from_ns(6),
            (Trust::Late, "old"),
            signed,
        );
        push_statement(&mut bytes, false, Time::from_ns(7), b"stated", b"");
        bytes
    }

    #[test]
    fn frames_come_back_with_their_place_in_the_file() {
        let bytes = file();
        let frames: Vec<_> = Frames::new(&bytes).collect::<Result<_, _>>().unwrap();
        let [batch, announcement, statement] = frames.as_slice() else {
            panic!("{frames:?}")
        };
        assert!(batch.carried && !announcement.carried && !statement.carried);
        let JournalFrame::Batch {
            received_at,
            records,
        } = batch.frame
        else {
            panic!("{batch:?}")
        };
        assert_eq!(received_at.as_ns(), -5);
        let found: Vec<_> = records.iter().collect();
        assert_eq!(
            found.iter().map(|(_, r)| r.to_vec()).collect::<Vec<_>>(),
            [vec![7, 7], vec![], vec![9]]
        );
        assert_eq!(found[0].0, wide(MAGIC.len()) + BATCH_HEAD_BYTES + 4);
        for (offset, record) in found {
            let at = usize::try_from(offset).unwrap();
            assert_eq!(&bytes[at..at + record.len()], record);
        }
        assert_eq!(
            announcement.frame,
            JournalFrame::Announcement {
                received_at: Time::from_ns(6),
                trust: Trust::Late,
                reason: "old",
                announcement: b"announced",
                signature: b"sig",
            }
        );
        assert_eq!(statement.end, wide(bytes.len()));
    }

    #[test]
    fn a_cut_tail_ends_the_file_at_the_last_whole_frame() {
        let bytes = file();
        let ends: Vec<u64> = Frames::new(&bytes)
            .map(|frame| frame.unwrap().end)
            .collect();
        for len in MAGIC.len()..bytes.len() {
            let whole = ends.iter().filter(|end| **end <= wide(len)).count();
            assert_eq!(Frames::new(&bytes[..len]).count(), whole, "cut at {len}");
        }
        let after_first = usize::try_from(ends[0]).unwrap();
        let rest: Vec<_> = Frames::at(&bytes[after_first..], ends[0]).collect();
        assert_eq!(rest.len(), 2);
    }

    #[test]
    fn a_damaged_byte_ends_the_file_before_its_frame() {
        let bytes = file();
        let ends: Vec<u64> = Frames::new(&bytes)
            .map(|frame| frame.unwrap().end)
            .collect();
        let mut damaged = bytes;
        let at = usize::try_from(ends[1]).unwrap() - 1;
        damaged[at] ^= 1;
        assert_eq!(Frames::new(&damaged).count(), 1);
        let tail = |bytes: &[u8], from: u64| has_frame(&bytes[usize::try_from(from).unwrap()..]);
        assert!(tail(&damaged, ends[0]), "a whole frame follows");
        assert!(
            !tail(&damaged[..damaged.len() - 1], ends[0]),
            "torn as well"
        );
        assert!(!tail(&damaged, ends[2]));
    }

    #[test]
    fn only_numbered_files_belong_to_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["00000000000000000010", "00000000000000000002", "lock", "1"] {
            fs::write(folder.path().join(name), MAGIC).unwrap();
        }
        assert_eq!(files(folder.path()).unwrap(), [2, 10]);
        assert!(files(&folder.path().join("absent")).unwrap().is_empty());
    }
}

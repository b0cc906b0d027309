//! Reads one stream's entries in order, from whatever file they are in.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use counterfoil_entry::frame::{FRAME_BYTES_MAX, FrameReader};
use counterfoil_entry::id::Stream;

use crate::directory::{SPOOL_MAGIC, entry_files, file_name};
use crate::stream::ENTRY;

/// Bytes read at a time; a longer frame makes it grow.
const CHUNK_BYTES: usize = 256 << 10;

/// A reading position in a stream.
#[derive(Debug)]
pub(crate) struct Cursor {
    directory: PathBuf,
    stream: Stream,
    next_seq: u64,
    at: Option<Place>,
}

#[derive(Debug)]
struct Place {
    file: File,
    first_seq: u64,
    offset: u64,
    /// Seq of the entry at `offset`.
    seq: u64,
}

/// When to stop reading.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// Seq to stop before.
    pub(crate) until: u64,
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

impl Cursor {
    /// A cursor before the entry `next_seq` of `stream` in the epoch directory `directory`.
    pub(crate) fn new(directory: &Path, stream: Stream, next_seq: u64) -> Self {
        Self {
            directory: directory.to_owned(),
            stream,
            next_seq,
            at: None,
        }
    }

    pub(crate) const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    pub(crate) fn seek(&mut self, seq: u64) {
        if seq != self.next_seq {
            self.next_seq = seq;
            self.at = None;
        }
    }

    /// Gives the next whole entries to `each`, and returns how many there were. Fewer than the
    /// limit means that the files hold no more.
    pub(crate) fn read(
        &mut self,
        limit: Limit,
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(u64, &[u8]),
    ) -> io::Result<usize> {
        let (mut entries, mut bytes) = (0, 0);
        let mut want = CHUNK_BYTES;
        let more = |seq, entries, bytes| {
            seq < limit.until && entries < limit.entries && bytes < limit.bytes
        };
        while more(self.next_seq, entries, bytes) {
            if self.at.is_none() && !self.open()? {
                break;
            }
            let Some(place) = self.at.as_mut() else { break };
            let got = read_chunk(&place.file, place.offset, want, buffer)?;
            let mut frames = FrameReader::new(buffer);
            let mut read = 0;
            while more(self.next_seq, entries, bytes) {
                let Some(frame) = frames.next() else { break };
                if frame.kind == ENTRY {
                    if place.seq == self.next_seq {
                        each(place.seq, frame.payload);
                        self.next_seq += 1;
                        entries += 1;
                        bytes += frame.payload.len();
                    }
                    place.seq += 1;
                }
                read = frame.end;
            }
            place.offset += read as u64;
            if read > 0 {
                want = CHUNK_BYTES;
            } else if got == want && want < FRAME_BYTES_MAX * 2 {
                want *= 2;
            } else if !self.next_file()? {
                break;
            }
        }
        Ok(entries)
    }

    /// Opens the file that holds `next_seq`; `false` when there is none.
    fn open(&mut self) -> io::Result<bool> {
        let files = entry_files(&self.directory)?;
        let before = |first_seq: u64| first_seq <= self.next_seq;
        let holding = files
            .iter()
            .rfind(|file| file.stream == self.stream && before(file.first_seq));
        match holding {
            Some(file) => self.open_file(file.first_seq),
            None => Ok(false),
        }
    }

    /// Goes on to the file that begins with `next_seq`; `false` when it is not there.
    fn next_file(&mut self) -> io::Result<bool> {
        if self
            .at
            .as_ref()
            .is_some_and(|place| place.first_seq == self.next_seq)
        {
            return Ok(false);
        }
        self.open_file(self.next_seq)
    }

    fn open_file(&mut self, first_seq: u64) -> io::Result<bool> {
        let path = self.directory.join(file_name(&self.stream, first_seq));
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut magic = [0; 8];
        let whole = file.read_at(&mut magic, 0)? == magic.len() && &magic == SPOOL_MAGIC;
        if whole {
            let offset = SPOOL_MAGIC.len() as u64;
            self.at = Some(Place {
                file,
                first_seq,
                offset,
                seq: first_seq,
            });
        }
        Ok(whole)
    }
}

/// Reads up to `want` bytes at `offset` into `buffer`, whose length it makes what was there.
fn read_chunk(file: &File, offset: u64, want: usize, buffer: &mut Vec<u8>) -> io::Result<usize> {
    buffer.resize(want, 0);
    let mut got = 0;
    while let Some(rest) = buffer.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(got);
    Ok(got)
}

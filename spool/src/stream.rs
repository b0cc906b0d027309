//! One stream's files, as its lane writes them and the delivery trims them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use counterfoil_entry::frame::write_frame_with;
use counterfoil_entry::id::Stream;
use counterfoil_entry::record::HeaderRef;

use crate::directory::{SPOOL_MAGIC, file_name};
use crate::lane::AppendError;
use crate::lock;
use crate::space::Space;

/// Frame type of an entry.
pub(crate) const ENTRY: u8 = 1;
/// Largest frame of an entry (bytes): four fit a batch.
pub(crate) const ENTRY_BYTES_MAX: usize = 1 << 20;
/// A new file begins after this many bytes.
pub(crate) const FILE_BYTES_MAX: u64 = 8 << 20;

/// The writing side of one stream.
#[derive(Debug)]
pub(crate) struct StreamWriter {
    stream: Stream,
    name: String,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    next_seq: u64,
    open: Option<OpenFile>,
    /// Files that are written no more, oldest first.
    closed: Vec<ClosedFile>,
    /// Closed files that are not synced yet.
    unsynced: Vec<Arc<File>>,
}

#[derive(Debug)]
struct OpenFile {
    file: Arc<File>,
    path: PathBuf,
    first_seq: u64,
    bytes: u64,
    dirty: bool,
}

#[derive(Debug)]
struct ClosedFile {
    path: PathBuf,
    seqs: Range<u64>,
    bytes: u64,
}

impl StreamWriter {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            name: stream.to_string(),
            stream,
            files: Mutex::default(),
        }
    }

    pub(crate) const fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Entries appended so far.
    pub(crate) fn next_seq(&self) -> u64 {
        lock(&self.files).next_seq
    }

    pub(crate) fn append(
        &self,
        space: &Space,
        frame: &mut Vec<u8>,
        encode: impl FnOnce(&HeaderRef<'_>, &mut Vec<u8>),
    ) -> Result<u64, AppendError> {
        let mut files = lock(&self.files);
        if space.is_closed() {
            return Err(AppendError::Closed);
        }
        if space.is_full() {
            space.count_drop(&self.stream, "spool_full");
            return Err(AppendError::Full);
        }
        let seq = files.next_seq;
        let header = HeaderRef {
            writer: space.writer_text(),
            epoch: space.epoch(),
            stream: &self.name,
            seq,
        };
        frame.clear();
        write_frame_with(frame, ENTRY, |out| encode(&header, out));
        if frame.len() > ENTRY_BYTES_MAX {
            frame.shrink_to(ENTRY_BYTES_MAX);
            space.count_drop(&self.stream, "too_large");
            return Err(AppendError::TooLarge);
        }
        if !space.reserve(frame.len()) {
            space.count_drop(&self.stream, "spool_full");
            return Err(AppendError::Full);
        }
        if let Err(error) = files.write(space, &self.stream, frame) {
            space.release(frame.len());
            space.count_drop(&self.stream, "spool_io");
            return Err(AppendError::Io(error));
        }
        files.next_seq += 1;
        Ok(seq)
    }

    pub(crate) fn count_drop(
        &self,
        space: &Space,
        reason: &'static str,
    ) -> Result<(), AppendError> {
        // The lock orders this against the closing of the spool: what is counted is stated.
        let files = lock(&self.files);
        if space.is_closed() {
            return Err(AppendError::Closed);
        }
        space.count_drop(&self.stream, reason);
        drop(files);
        Ok(())
    }

    /// Brings what was appended onto the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let mut waiting = self.take_unsynced();
        while let Some(file) = waiting.last() {
            if let Err(error) = file.sync_data() {
                lock(&self.files).unsynced.append(&mut waiting);
                return Err(error);
            }
            waiting.pop();
        }
        Ok(())
    }

    /// Files with bytes that are not on the disk yet.
    fn take_unsynced(&self) -> Vec<Arc<File>> {
        let mut files = lock(&self.files);
        let mut unsynced = std::mem::take(&mut files.unsynced);
        if let Some(open) = files.open.as_mut().filter(|open| open.dirty) {
            open.dirty = false;
            unsynced.push(Arc::clone(&open.file));
        }
        unsynced
    }

    /// Removes the files whose entries all lie below `settled` and in no range of `kept`; returns
    /// the bytes that this freed.
    pub(crate) fn trim(&self, settled: u64, kept: &[Range<u64>]) -> u64 {
        let removed = {
            let mut files = lock(&self.files);
            if files.next_seq <= settled {
                files.close();
            }
            let gone = |file: &ClosedFile| {
                file.seqs.end <= settled
                    && !kept
                        .iter()
                        .any(|r| r.start < file.seqs.end && file.seqs.start < r.end)
            };
            let (removed, left) = std::mem::take(&mut files.closed)
                .into_iter()
                .partition(gone);
            files.closed = left;
            removed
        };
        remove_files(removed)
    }
}

fn remove_files(files: Vec<ClosedFile>) -> u64 {
    let mut freed = 0;
    for file in files {
        match fs::remove_file(&file.path) {
            Ok(()) => freed += file.bytes,
            Err(error) => {
                let path = file.path.display();
                tracing::warn!(%error, %path, "cannot remove an acknowledged spool file");
            }
        }
    }
    freed
}

impl Files {
    fn write(&mut self, space: &Space, stream: &Stream, frame: &[u8]) -> io::Result<()> {
        let len = frame.len() as u64;
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.bytes + len > space.file_bytes_max())
        {
            self.close();
        }
        if self.open.is_none() {
            self.open = Some(create(space, stream, self.next_seq)?);
        }
        let Some(open) = self.open.as_mut() else {
            return Ok(());
        };
        if let Err(error) = (&*open.file).write_all(frame) {
            // A torn frame would hide every later one: cut it off, or go on in a new file.
            if open.file.set_len(open.bytes).is_err() {
                self.close();
            }
            return Err(error);
        }
        open.bytes += len;
        open.dirty = true;
        Ok(())
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        if open.dirty {
            self.unsynced.push(Arc::clone(&open.file));
        }
        // A file without a whole entry is made anew under the same name.
        if open.first_seq < self.next_seq {
            let seqs = open.first_seq..self.next_seq;
            self.closed.push(ClosedFile {
                path: open.path,
                seqs,
                bytes: open.bytes,
            });
        }
    }
}

fn create(space: &Space, stream: &Stream, first_seq: u64) -> io::Result<OpenFile> {
    let path = space.path().join(file_name(stream, first_seq));
    let file = File::options().append(true).create(true).open(&path)?;
    file.set_len(0)?;
    (&file).write_all(SPOOL_MAGIC)?;
    space.files_changed();
    let bytes = SPOOL_MAGIC.len() as u64;
    space.occupy(bytes);
    Ok(OpenFile {
        file: Arc::new(file),
        path,
        first_seq,
        bytes,
        dirty: true,
    })
}

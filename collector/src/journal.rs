//! The journal as the collector writes it: appended in groups, synced, rotated at each seal.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use counterfoil_columns::directory::sync_directory;
use counterfoil_columns::journal::{
    BATCH_HEAD_BYTES, JournalError, MAGIC, file_path, push_announcement, push_batch, push_statement,
};
use counterfoil_entry::Time;
use counterfoil_entry::frame::push_record;
use counterfoil_entry::statement::Signed;

use crate::state::{Kept, Place, Unsealed};

/// Bytes of entries in a carried frame; far below what a frame may hold.
const CARRIED_BYTES: usize = 4 << 20;

/// Open journal files, to read entries from.
pub(crate) type JournalFiles = BTreeMap<u64, Arc<File>>;

/// The journal's newest file, and what waits to be written into it.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
    number: u64,
    file: Arc<File>,
    /// Bytes written.
    len: u64,
    buffer: Vec<u8>,
}

impl Journal {
    /// Begins file `number` with the entries of `carried`, read from `files`, and syncs it.
    ///
    /// The entries' places are changed to the new file; `files` gets it.
    pub(crate) fn begin<'k>(
        directory: &Path,
        number: u64,
        carried: impl Iterator<Item = &'k mut Kept>,
        files: &mut JournalFiles,
    ) -> Result<Self, JournalError> {
        let path = file_path(directory, number);
        let io = |doing, source| JournalError::Io {
            doing,
            path: path.clone(),
            source,
        };
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        let file = Arc::new(file.map_err(|source| io("creating", source))?);
        let mut journal = Self {
            directory: directory.to_owned(),
            number,
            file: Arc::clone(&file),
            len: 0,
            buffer: MAGIC.to_vec(),
        };
        journal.carry(carried, files)?;
        journal.write()?;
        file.sync_all()
            .and_then(|()| sync_directory(directory))
            .map_err(|source| io("syncing", source))?;
        files.insert(number, file);
        Ok(journal)
    }

    /// Number of the file.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Its directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Bytes that wait for [`Self::sync`].
    pub(crate) const fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Offset at which the entries of the next batch will begin: `u32 len | R`, repeated.
    pub(crate) fn batch_begin(&self) -> u64 {
        self.len + wide(self.buffer.len()) + BATCH_HEAD_BYTES
    }

    /// Adds a batch; `records` is `u32 len | R`, repeated.
    pub(crate) fn batch(&mut self, received_at: Time, records: &[u8]) {
        push_batch(&mut self.buffer, false, received_at, records);
    }

    /// Adds an announcement.
    pub(crate) fn announcement(&mut self, unsealed: &Unsealed) {
        push_announcement(
            &mut self.buffer,
            false,
            unsealed.received_at,
            (
                unsealed.trust,
                unsealed.reason.as_deref().unwrap_or_default(),
            ),
            (&unsealed.signed.bytes, &unsealed.signed.signature),
        );
    }

    /// Adds a statement.
    pub(crate) fn statement(&mut self, received_at: Time, signed: &Signed) {
        push_statement(
            &mut self.buffer,
            false,
            received_at,
            &signed.bytes,
            &signed.signature,
        );
    }

    /// Writes and syncs what was added; it is durable when this returns.
    ///
    /// After an error nothing more may be written: what the disk holds is unknown.
    pub(crate) fn sync(&mut self) -> Result<(), JournalError> {
        self.write()?;
        self.file
            .sync_data()
            .map_err(|source| self.error("syncing", source))
    }

    fn write(&mut self) -> Result<(), JournalError> {
        (&*self.file)
            .write_all(&self.buffer)
            .map_err(|source| self.error("writing", source))?;
        self.len += wide(self.buffer.len());
        self.buffer.clear();
        Ok(())
    }

    /// Copies entries, in runs of the same arrival time and bounded size.
    fn carry<'k>(
        &mut self,
        carried: impl Iterator<Item = &'k mut Kept>,
        files: &JournalFiles,
    ) -> Result<(), JournalError> {
        let mut run: Vec<&mut Kept> = Vec::new();
        let mut records = Vec::new();
        for kept in carried {
            let is_full = records.len() >= CARRIED_BYTES;
            if run
                .last()
                .is_some_and(|last| is_full || last.received_at != kept.received_at)
            {
                self.carry_run(&mut run, &mut records)?;
            }
            push_record(
                &mut records,
                &read_entry(&self.directory, files, kept.place)?,
            );
            run.push(kept);
        }
        self.carry_run(&mut run, &mut records)
    }

    fn carry_run(
        &mut self,
        run: &mut Vec<&mut Kept>,
        records: &mut Vec<u8>,
    ) -> Result<(), JournalError> {
        let Some(received_at) = run.first().map(|kept| kept.received_at) else {
            return Ok(());
        };
        let mut offset = self.batch_begin();
        push_batch(&mut self.buffer, true, received_at, records);
        for kept in run.drain(..) {
            kept.place = Place {
                file: self.number,
                offset: offset + 4,
                len: kept.place.len,
            };
            offset += 4 + u64::from(kept.place.len);
        }
        records.clear();
        if self.buffer.len() >= CARRIED_BYTES {
            self.write()
        } else {
            Ok(())
        }
    }

    fn error(&self, doing: &'static str, source: std::io::Error) -> JournalError {
        JournalError::Io {
            doing,
            path: file_path(&self.directory, self.number),
            source,
        }
    }
}

/// The canonical bytes of the entry at `place`.
pub(crate) fn read_entry(
    directory: &Path,
    files: &JournalFiles,
    place: Place,
) -> Result<Vec<u8>, JournalError> {
    let io = |source| JournalError::Io {
        doing: "reading",
        path: file_path(directory, place.file),
        source,
    };
    let file = files.get(&place.file);
    let file = file.ok_or_else(|| io(std::io::ErrorKind::NotFound.into()))?;
    let mut bytes = vec![0; usize::try_from(place.len).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, place.offset).map_err(io)?;
    Ok(bytes)
}

/// Removes the journal files below `number`.
pub(crate) fn trim(directory: &Path, number: u64) -> Result<(), JournalError> {
    for old in counterfoil_columns::journal::files(directory)? {
        if old < number {
            let path = file_path(directory, old);
            fs::remove_file(&path).map_err(|source| JournalError::Io {
                doing: "removing",
                path,
                source,
            })?;
        }
    }
    Ok(())
}

fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

//! An epoch that an earlier process left in the spool.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use counterfoil_entry::Hash;
use counterfoil_entry::id::{Epoch, Stream};
use counterfoil_entry::statement::{Recovery, StreamRange};
use counterfoil_entry::tree::{Accumulator, leaf_hash};

use crate::cursor::{Cursor, Limit};
use crate::directory::{EpochDirectory, entry_files};
use crate::protocol::KnownEpoch;
use crate::state::StateFile;

/// What lies in the directory of an old epoch, locked for this process.
#[derive(Debug)]
pub(crate) struct OldEpoch {
    pub(crate) epoch: Epoch,
    pub(crate) directory: EpochDirectory,
    pub(crate) state: StateFile,
    /// Each stream with the first seq that is still in the spool.
    pub(crate) streams: BTreeMap<Stream, u64>,
    /// Bytes of its entry files.
    pub(crate) bytes: u64,
}

impl OldEpoch {
    /// Takes the directory over; `None` when its process is alive or it never held anything.
    pub(crate) fn load(epoch: Epoch, path: PathBuf) -> io::Result<Option<Self>> {
        let Some(directory) = EpochDirectory::open_old(path)? else {
            return Ok(None);
        };
        let state = StateFile::open(directory.path())?;
        let files = entry_files(directory.path())?;
        if files.is_empty() && state.announcement().is_none() {
            // Nobody ever heard of it.
            directory.remove()?;
            return Ok(None);
        }
        let bytes = files.iter().map(|file| file.bytes).sum();
        let mut streams = BTreeMap::new();
        for file in files {
            streams.entry(file.stream).or_insert(file.first_seq);
        }
        Ok(Some(Self {
            epoch,
            directory,
            state,
            streams,
            bytes,
        }))
    }

    /// What a recovery says of this epoch: its last statement, and what it wrote after that. Reads
    /// the tail.
    pub(crate) fn recovery(&self, known: Option<&KnownEpoch>) -> io::Result<Recovery> {
        let here = self.state.last();
        let there = known.and_then(KnownEpoch::last);
        // Statements are on the disk before they are sent, so that only a damaged disk knows less
        // than the collector. Which entries the later statements cover is not known here then: no
        // more may be stated than what the collector does not have.
        let is_behind = there.map(|(number, _)| number) > here.map(|(number, _)| number);
        let last: Option<(u64, Hash)> = if is_behind { there } else { here };
        let mut tail = Vec::new();
        let mut buffer = Vec::new();
        for (stream, first_seq) in &self.streams {
            let mut from = self.state.stated_end(stream).max(*first_seq);
            if is_behind {
                from = from.max(known.map_or(0, |known| known.next_seq(stream)));
            }
            let mut tree = Accumulator::default();
            let mut cursor = Cursor::new(self.directory.path(), stream.clone(), from);
            let all = Limit {
                until: u64::MAX,
                entries: usize::MAX,
                bytes: usize::MAX,
            };
            cursor.read(all, &mut buffer, |_, record| tree.push(leaf_hash(record)))?;
            if !tree.is_empty() {
                let (count, root) = (tree.len(), tree.root());
                tail.push(StreamRange {
                    stream: stream.clone(),
                    first_seq: from,
                    count,
                    root,
                });
            }
        }
        Ok(Recovery {
            old_epoch: self.epoch,
            last,
            tail,
        })
    }
}

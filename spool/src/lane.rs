//! A lane: where one worker thread appends its entries.

use std::io;
use std::sync::Arc;

use counterfoil_entry::id::{RetentionClass, Stream};
use counterfoil_entry::record::HeaderRef;
use counterfoil_entry::table::TableId;

use crate::space::Space;
use crate::stream::StreamWriter;

/// Why an entry was not appended. It got no seq, and (but for [`AppendError::Closed`]) the next
/// statement counts it as dropped.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The spool has reached its size; counted as `spool_full`.
    #[error("the spool is full: entries are dropped until the collector acknowledges")]
    Full,
    /// The entry is larger than a collector takes; counted as `too_large`.
    #[error("the entry is larger than 1 MiB")]
    TooLarge,
    /// The disk refused; counted as `spool_io`.
    #[error("cannot write an entry to the spool")]
    Io(#[source] io::Error),
    /// The final statement of this epoch is made: the process should have stopped its work before.
    #[error("the spool is closed: its final statement is made")]
    Closed,
}

/// The place of one worker thread in the spool. Appending costs one encoding into a kept buffer and
/// one `write()` to the page cache.
#[derive(Debug)]
pub struct Lane {
    space: Arc<Space>,
    lane: u16,
    streams: Vec<Arc<StreamWriter>>,
    frame: Vec<u8>,
}

impl Lane {
    pub(crate) const fn new(space: Arc<Space>, lane: u16) -> Self {
        Self {
            space,
            lane,
            streams: Vec::new(),
            frame: Vec::new(),
        }
    }

    /// Appends what `encode` writes (R, see [`counterfoil_entry::record::begin`]) to the stream of
    /// `table` and `class` on this lane, and returns its seq. When this returns, the entry survives
    /// `kill -9` of the process.
    ///
    /// `encode` is not called when the spool is full already. It must be quick: the stream is
    /// locked meanwhile.
    ///
    /// # Errors
    /// [`AppendError`]; the entry then has no seq.
    pub fn append(
        &mut self,
        table: TableId,
        class: &RetentionClass,
        encode: impl FnOnce(&HeaderRef<'_>, &mut Vec<u8>),
    ) -> Result<u64, AppendError> {
        let at = self.position(table, class)?;
        let stream = self.streams.get(at).ok_or(AppendError::Closed)?;
        stream.append(&self.space, &mut self.frame, encode)
    }

    /// Counts an entry that the process itself chose not to write, for a stable `reason`.
    ///
    /// # Errors
    /// [`AppendError::Closed`] after the final statement.
    pub fn count_drop(
        &mut self,
        table: TableId,
        class: &RetentionClass,
        reason: &'static str,
    ) -> Result<(), AppendError> {
        let at = self.position(table, class)?;
        let stream = self.streams.get(at).ok_or(AppendError::Closed)?;
        stream.count_drop(&self.space, reason)
    }

    /// Brings everything appended so far onto the disk, where it survives a power loss as well; the
    /// entries of other lanes too. Blocks on the disk.
    ///
    /// # Errors
    /// What the file system says; the entries stay appended.
    pub fn sync(&self) -> io::Result<()> {
        self.space.sync()
    }

    fn position(&mut self, table: TableId, class: &RetentionClass) -> Result<usize, AppendError> {
        let fits = |known: &Arc<StreamWriter>| {
            known.stream().table == table && known.stream().class == *class
        };
        if let Some(at) = self.streams.iter().position(fits) {
            return Ok(at);
        }
        let stream = Stream::new(table, class.clone(), self.lane);
        self.streams.push(self.space.stream(stream)?);
        Ok(self.streams.len() - 1)
    }
}

//! What of an epoch is to be sent next: entries in order, then the statement that covers them.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use counterfoil_entry::Hash;
use counterfoil_entry::frame::push_record;
use counterfoil_entry::id::{Epoch, Stream};

use crate::cursor::{Cursor, Limit};
use crate::directory::{EntryFile, entry_files};
use crate::lock;
use crate::old::OldEpoch;
use crate::protocol::KnownEpoch;
use crate::space::Space;
use crate::state::{StateFile, Stated};

/// A batch ends when it holds this much (bytes); a last entry of 1 MiB still fits the 4 MiB limit.
const BATCH_BYTES: usize = 2 << 20;
/// Most entries of a batch.
const BATCH_ENTRIES: usize = 16_384;

/// The next thing to send.
#[derive(Debug)]
pub(crate) enum Work {
    /// Entries; with how many they are.
    Batch(Vec<u8>, usize),
    Statement(Box<Stated>, Vec<u8>),
    /// Nothing now.
    Idle,
    /// Nothing any more: all statements are settled and no more will come.
    Done,
}

/// Which epoch is sent.
#[derive(Debug)]
pub(crate) enum Source {
    Current(Arc<Space>, Arc<Mutex<StateFile>>),
    Old(Arc<Mutex<OldEpoch>>),
}

/// The sending side of one epoch. Reads files: its methods block.
#[derive(Debug)]
pub(crate) struct EpochSender {
    epoch: Epoch,
    directory: PathBuf,
    source: Source,
    streams: BTreeMap<Stream, Sent>,
    /// Most entries of the next batch: fewer after a refusal, to find the one that is refused.
    entries_max: usize,
    /// The statement for which the entries were sent a second time.
    resent: Option<u64>,
    buffer: Vec<u8>,
}

/// How far a stream is sent.
#[derive(Debug)]
struct Sent {
    /// Everything below was taken.
    until: u64,
    /// Stands where the batch in flight ends.
    cursor: Cursor,
    /// Entries that the collector refused for good, or that cannot be read.
    lost: Vec<u64>,
}

impl EpochSender {
    pub(crate) fn new(source: Source) -> Self {
        let (epoch, directory) = match &source {
            Source::Current(space, _) => (space.epoch(), space.path().to_owned()),
            Source::Old(old) => {
                let old = lock(old);
                (old.epoch, old.directory.path().to_owned())
            }
        };
        let mut sender = Self {
            epoch,
            directory,
            source,
            streams: BTreeMap::new(),
            entries_max: BATCH_ENTRIES,
            resent: None,
            buffer: Vec::new(),
        };
        sender.restart();
        sender
    }

    pub(crate) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Sees to it that everything that is not settled is sent (again).
    pub(crate) fn restart(&mut self) {
        let firsts: Vec<(Stream, u64)> = match &self.source {
            Source::Current(..) => self
                .streams
                .keys()
                .map(|stream| (stream.clone(), 0))
                .collect(),
            Source::Old(old) => lock(old)
                .streams
                .iter()
                .map(|(stream, first)| (stream.clone(), *first))
                .collect(),
        };
        for (stream, first) in firsts {
            let until = self
                .with_state(|state| state.settled_end(&stream))
                .max(first);
            let cursor = Cursor::new(&self.directory, stream.clone(), until);
            self.streams.insert(
                stream,
                Sent {
                    until,
                    cursor,
                    lost: Vec::new(),
                },
            );
        }
    }

    /// Skips what the collector has already.
    pub(crate) fn skip_known(&mut self, known: &KnownEpoch) {
        for (stream, sent) in &mut self.streams {
            sent.until = sent.until.max(known.next_seq(stream));
            sent.cursor.seek(sent.until);
        }
    }

    /// The next thing to send. What was given before and not [taken](Self::taken) is given again.
    pub(crate) fn next(&mut self) -> io::Result<Work> {
        self.rewind();
        let due = self.with_state(|state| state.next_unsettled().cloned());
        let Some(stated) = due else {
            return self.unstated();
        };
        let mut batch = Batch::new(self.entries_max);
        for (stream, seqs) in &stated.ranges {
            let sent = self.sent(stream);
            if sent.until < seqs.end {
                self.fill(stream, seqs.end, &mut batch)?;
            }
        }
        if batch.entries > 0 {
            return Ok(Work::Batch(batch.bytes, batch.entries));
        }
        let wire = self.with_state(|state| state.wire(&stated))?;
        Ok(Work::Statement(Box::new(stated), wire))
    }

    /// Entries beyond the last statement.
    fn unstated(&mut self) -> io::Result<Work> {
        let ends: Vec<(Stream, u64)> = match &self.source {
            Source::Current(space, _) => space
                .streams()
                .iter()
                .map(|writer| (writer.stream().clone(), writer.next_seq()))
                .collect(),
            Source::Old(_) => self
                .streams
                .keys()
                .map(|stream| (stream.clone(), u64::MAX))
                .collect(),
        };
        let mut batch = Batch::new(self.entries_max);
        for (stream, end) in ends {
            if self.sent(&stream).until < end {
                self.fill(&stream, end, &mut batch)?;
            }
        }
        if batch.entries > 0 {
            return Ok(Work::Batch(batch.bytes, batch.entries));
        }
        let is_old = matches!(self.source, Source::Old(_));
        let ends_here = self.with_state(|state| state.has_final());
        Ok(if is_old || ends_here {
            Work::Done
        } else {
            Work::Idle
        })
    }

    fn fill(&mut self, stream: &Stream, until: u64, batch: &mut Batch) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let sent = self.sent(stream);
        let limit = Limit {
            until,
            entries: batch.entries_max.saturating_sub(batch.entries),
            bytes: BATCH_BYTES.saturating_sub(batch.bytes.len()),
        };
        let read = sent.cursor.read(limit, &mut buffer, |_, record| {
            push_record(&mut batch.bytes, record);
            batch.entries += 1;
        });
        self.buffer = buffer;
        read.map(|_| ())
    }

    /// The collector took the batch given last.
    pub(crate) fn taken(&mut self) {
        for sent in self.streams.values_mut() {
            sent.until = sent.cursor.next_seq();
        }
        self.entries_max = BATCH_ENTRIES.min(self.entries_max * 2);
    }

    /// The collector refused the batch of `entries` given last for good: finds the entry that it
    /// refuses by halving, and leaves that one out.
    pub(crate) fn refused(&mut self, entries: usize) {
        if entries > 1 {
            self.entries_max = entries / 2;
            return;
        }
        for (stream, sent) in &mut self.streams {
            if sent.cursor.next_seq() > sent.until {
                tracing::error!(%stream, seq = sent.until, "the collector refuses an entry for good");
                sent.lost.push(sent.until);
                sent.until = sent.cursor.next_seq();
            }
        }
    }

    /// The collector lacks entries of `stated`: sends them again, once. `false` when that was tried
    /// before, or when there is nothing that could be sent.
    pub(crate) fn resend(&mut self, stated: &Stated) -> bool {
        let is_refused = |sender: &Self| {
            stated.ranges.iter().any(|(stream, seqs)| {
                let sent = sender.streams.get(stream);
                sent.is_some_and(|sent| sent.lost.iter().any(|seq| seqs.contains(seq)))
            })
        };
        if self.resent == Some(stated.number) || stated.ranges.is_empty() || is_refused(self) {
            return false;
        }
        self.resent = Some(stated.number);
        for (stream, seqs) in &stated.ranges {
            let sent = self.sent(stream);
            sent.until = seqs.start;
            sent.cursor.seek(seqs.start);
        }
        true
    }

    /// Whether entries of `stated` can never be delivered: refused, or no longer readable.
    pub(crate) fn is_undeliverable(&mut self, stated: &Stated) -> bool {
        stated.ranges.iter().any(|(stream, seqs)| {
            let sent = self.sent(stream);
            sent.until < seqs.end || sent.lost.iter().any(|seq| seqs.contains(seq))
        })
    }

    pub(crate) fn has_lost(&self) -> bool {
        self.streams.values().any(|sent| !sent.lost.is_empty())
    }

    pub(crate) fn acknowledge(&self, number: u64, hash: Hash) -> io::Result<()> {
        self.with_state_mut(|state| state.acknowledge(number, hash))?;
        self.trim();
        Ok(())
    }

    /// Notes that `stated` will never be taken, and goes on behind it.
    pub(crate) fn quarantine(&mut self, stated: &Stated) -> io::Result<()> {
        self.with_state_mut(|state| state.quarantine(stated.number, stated.hash))?;
        for (stream, seqs) in &stated.ranges {
            let sent = self.sent(stream);
            sent.until = sent.until.max(seqs.end);
        }
        Ok(())
    }

    pub(crate) fn announcement(&self) -> Option<Vec<u8>> {
        self.with_state(|state| state.announcement().map(<[u8]>::to_vec))
    }

    pub(crate) fn has_final(&self) -> bool {
        self.with_state(StateFile::has_final)
    }

    /// Whether an old epoch has files that could not be reached, for one before them is damaged: its
    /// recovery says nothing of what they hold.
    fn has_unread(&self) -> io::Result<bool> {
        if matches!(self.source, Source::Current(..)) {
            return Ok(false);
        }
        let is_unread = |file: &EntryFile| {
            let sent = self.streams.get(&file.stream);
            sent.is_some_and(|sent| sent.until < file.first_seq)
        };
        let unread = entry_files(&self.directory)?.into_iter().find(is_unread);
        if let Some(file) = &unread {
            let (epoch, stream, seq) = (self.epoch, &file.stream, file.first_seq);
            tracing::error!(%epoch, %stream, seq, "entries behind a damaged spool file are set aside");
        }
        Ok(unread.is_some())
    }

    /// Gets rid of the directory: all is acknowledged, or what is not is set aside. Returns whether
    /// all was acknowledged.
    pub(crate) fn finish(&self) -> io::Result<bool> {
        let clean = !self.has_lost()
            && !self.has_unread()?
            && self.with_state(|state| state.quarantined().is_empty());
        let end = |directory: &crate::directory::EpochDirectory| {
            if clean {
                directory.remove()
            } else {
                directory.set_aside()
            }
        };
        match &self.source {
            Source::Current(space, _) => end(space.directory())?,
            Source::Old(old) => end(&lock(old).directory)?,
        }
        Ok(clean)
    }

    /// Bytes of the entry files of an old epoch.
    pub(crate) fn old_bytes(&self) -> u64 {
        match &self.source {
            Source::Current(..) => 0,
            Source::Old(old) => lock(old).bytes,
        }
    }

    fn trim(&self) {
        let Source::Current(space, state) = &self.source else {
            return;
        };
        for writer in space.streams() {
            let (settled, kept) = {
                let state = lock(state);
                (
                    state.settled_end(writer.stream()),
                    state.quarantined_ranges(writer.stream()),
                )
            };
            space.gauges().release(writer.trim(settled, &kept));
        }
    }

    fn rewind(&mut self) {
        for sent in self.streams.values_mut() {
            sent.cursor.seek(sent.until);
        }
    }

    fn sent(&mut self, stream: &Stream) -> &mut Sent {
        self.streams.entry(stream.clone()).or_insert_with(|| Sent {
            until: 0,
            cursor: Cursor::new(&self.directory, stream.clone(), 0),
            lost: Vec::new(),
        })
    }

    fn with_state<T>(&self, read: impl FnOnce(&StateFile) -> T) -> T {
        match &self.source {
            Source::Current(_, state) => read(&lock(state)),
            Source::Old(old) => read(&lock(old).state),
        }
    }

    fn with_state_mut<T>(&self, change: impl FnOnce(&mut StateFile) -> T) -> T {
        match &self.source {
            Source::Current(_, state) => change(&mut lock(state)),
            Source::Old(old) => change(&mut lock(old).state),
        }
    }
}

struct Batch {
    bytes: Vec<u8>,
    entries: usize,
    entries_max: usize,
}

impl Batch {
    const fn new(entries_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            entries: 0,
            entries_max,
        }
    }
}

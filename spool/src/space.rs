//! The spool of one process: its epoch's directory, its streams and their bounds.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use counterfoil_entry::id::{Epoch, Stream, Writer};
use counterfoil_entry::statement::{AuditKey, Dropped};
use counterfoil_entry::{Hash, clock};

use crate::directory::{EpochDirectory, create_directory, epochs, sync_directory};
use crate::gauges::Gauges;
use crate::lane::{AppendError, Lane};
use crate::lock;
use crate::old::OldEpoch;
use crate::state::StateFile;
use crate::stream::{FILE_BYTES_MAX, StreamWriter};

/// How a spool is opened.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// The host's spool root. Each writer has its own directory in it.
    pub directory: PathBuf,
    /// Who writes.
    pub writer: Writer,
    /// Most bytes of entries that this writer may have in the spool, earlier epochs included.
    pub size_max: u64,
    /// Build of the process.
    pub build: String,
    /// Hash of the configuration in force.
    pub config_sha256: Hash,
}

/// Why a spool could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The spool directory could not be made, read or locked.
    #[error("cannot open the spool in {path}")]
    Io {
        /// The writer's directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The system gave no randomness for the epoch's key.
    #[error("cannot make the audit key of this epoch")]
    Key(#[from] counterfoil_entry::statement::NoKey),
}

/// One epoch's spool: a locked directory. Clones are handles on the same one.
#[derive(Debug, Clone)]
pub struct Spool {
    space: Arc<Space>,
    start: Arc<Mutex<Option<Start>>>,
}

/// What the delivery takes over, once.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) key: AuditKey,
    pub(crate) state: StateFile,
    pub(crate) old: Vec<OldEpoch>,
}

impl Spool {
    /// Makes and locks the directory of a new epoch, and finds the writer's earlier epochs whose
    /// process is gone. Blocks on the disk for some milliseconds.
    ///
    /// # Errors
    /// [`SpoolError`] when the directory cannot be used.
    pub fn open(config: SpoolConfig) -> Result<Self, SpoolError> {
        let root = config.directory.join(config.writer.directory_name());
        let key = AuditKey::generate()?;
        let failed = |source| SpoolError::Io {
            path: root.clone(),
            source,
        };
        let (space, state, old) = open(config, &root).map_err(failed)?;
        let start = Start { key, state, old };
        Ok(Self {
            space: Arc::new(space),
            start: Arc::new(Mutex::new(Some(start))),
        })
    }

    /// This start of the process.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.space.epoch
    }

    /// Who writes.
    #[must_use]
    pub fn writer(&self) -> &Writer {
        &self.space.config.writer
    }

    /// The lane `lane`; each worker thread has its own.
    #[must_use]
    pub fn lane(&self, lane: u16) -> Lane {
        Lane::new(Arc::clone(&self.space), lane)
    }

    /// The figures that go into statements.
    #[must_use]
    pub fn gauges(&self) -> Arc<Gauges> {
        Arc::clone(&self.space.gauges)
    }

    pub(crate) const fn space(&self) -> &Arc<Space> {
        &self.space
    }

    pub(crate) fn take_start(&self) -> Option<Start> {
        lock(&self.start).take()
    }
}

fn open(config: SpoolConfig, root: &Path) -> io::Result<(Space, StateFile, Vec<OldEpoch>)> {
    create_directory(root)?;
    let known = epochs(root)?;
    let gauges = Arc::new(Gauges::default());
    let now = u64::try_from(clock::wall().as_ns()).unwrap_or_default();
    // Epochs ascend also when the clock was set back, and two never share a name.
    let after = known
        .last()
        .map_or(0, |(epoch, _)| epoch.0.saturating_add(1));
    let mut old = Vec::new();
    for (epoch, path) in known {
        if let Some(found) = OldEpoch::load(epoch, path)? {
            gauges.occupy(found.bytes);
            old.push(found);
        }
    }
    let epoch = Epoch(now.max(after));
    let directory = EpochDirectory::create(root, epoch)?;
    let state = StateFile::create(directory.path())?;
    let space = Space {
        file_bytes_max: FILE_BYTES_MAX.min(config.size_max / 16).max(64 << 10),
        config,
        epoch,
        directory,
        gauges,
        streams: Mutex::default(),
        drops: Mutex::default(),
        closed: AtomicBool::new(false),
        files_changed: AtomicBool::new(true),
        syncing: Mutex::default(),
    };
    Ok((space, state, old))
}

/// What lanes and delivery share.
#[derive(Debug)]
pub(crate) struct Space {
    config: SpoolConfig,
    epoch: Epoch,
    directory: EpochDirectory,
    gauges: Arc<Gauges>,
    file_bytes_max: u64,
    streams: Mutex<Vec<Arc<StreamWriter>>>,
    drops: Mutex<BTreeMap<(Stream, &'static str), u64>>,
    closed: AtomicBool,
    files_changed: AtomicBool,
    syncing: Mutex<()>,
}

impl Space {
    pub(crate) const fn config(&self) -> &SpoolConfig {
        &self.config
    }

    pub(crate) fn writer_text(&self) -> &str {
        self.config.writer.as_str()
    }

    pub(crate) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) const fn directory(&self) -> &EpochDirectory {
        &self.directory
    }

    pub(crate) fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    pub(crate) const fn file_bytes_max(&self) -> u64 {
        self.file_bytes_max
    }

    /// The writing side of `stream`, made when it is new.
    pub(crate) fn stream(&self, stream: Stream) -> Result<Arc<StreamWriter>, AppendError> {
        let mut streams = lock(&self.streams);
        if self.is_closed() {
            return Err(AppendError::Closed);
        }
        if let Some(known) = streams.iter().find(|known| *known.stream() == stream) {
            return Ok(Arc::clone(known));
        }
        let writer = Arc::new(StreamWriter::new(stream));
        streams.push(Arc::clone(&writer));
        Ok(writer)
    }

    pub(crate) fn streams(&self) -> Vec<Arc<StreamWriter>> {
        lock(&self.streams).clone()
    }

    /// Refuses every further append. When this returns, the streams stand still.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // An append that had not seen the flag holds its stream's lock: wait for it.
        for stream in self.streams() {
            stream.next_seq();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.gauges.spool_bytes() >= self.config.size_max
    }

    pub(crate) fn reserve(&self, bytes: usize) -> bool {
        self.gauges.reserve(bytes as u64, self.config.size_max)
    }

    pub(crate) fn occupy(&self, bytes: u64) {
        self.gauges.occupy(bytes);
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.gauges.release(bytes as u64);
    }

    pub(crate) fn count_drop(&self, stream: &Stream, reason: &'static str) {
        self.gauges.count_drop();
        *lock(&self.drops)
            .entry((stream.clone(), reason))
            .or_default() += 1;
    }

    /// Everything dropped since the start.
    pub(crate) fn drops(&self) -> Vec<Dropped> {
        lock(&self.drops)
            .iter()
            .map(|((stream, reason), dropped)| Dropped {
                stream: stream.clone(),
                reason: (*reason).to_owned(),
                dropped: *dropped,
            })
            .collect()
    }

    /// A file was made: its name is to be synced.
    pub(crate) fn files_changed(&self) {
        self.files_changed.store(true, Ordering::Release);
    }

    /// Brings all entries written so far onto the disk (`fdatasync`), many at a time. What fails is
    /// tried again at the next call.
    pub(crate) fn sync(&self) -> io::Result<()> {
        // One at a time: who finds nothing to sync may rely on it that it is synced.
        let one = lock(&self.syncing);
        for stream in self.streams() {
            stream.sync()?;
        }
        if self.files_changed.swap(false, Ordering::AcqRel) {
            sync_directory(self.path()).inspect_err(|_| self.files_changed())?;
        }
        drop(one);
        Ok(())
    }
}

//! Roll-ups of what was sealed: a fold over the log, in a thread of its own behind the sealer (ADR 14).

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use arrow::record_batch::RecordBatch;
use counterfoil_columns::DataDirectory;
use counterfoil_columns::rollup::{RollupError, RollupFiles, fold};
use counterfoil_entry::table::TableId;
use counterfoil_ledger::log::{LogError, read_checkpoint, read_deleted, read_manifest};
use counterfoil_ledger::manifest::{Body, Manifest};

use crate::service::{CollectorError, lock};

const HOUR_NS: i64 = 3_600_000_000_000;

/// Why the fold does not go on.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// The log cannot be read.
    #[error("reading the log for roll-ups")]
    Log(#[from] LogError),
    /// A segment or a roll-up cannot be read or written.
    #[error("folding manifest {manifest} into roll-ups")]
    Rollup {
        /// The manifest.
        manifest: u64,
        /// Why.
        source: RollupError,
    },
    /// Segments were deleted lawfully: what they counted is in the roll-ups alone.
    #[error(
        "{0} segments were deleted lawfully, and only the roll-ups that are there count them: they are kept as they are"
    )]
    Deleted(usize),
    /// What there is already cannot be listed, read or taken away.
    #[error("taking up the roll-ups that are there")]
    Begin(#[source] RollupError),
}

/// The fold over one log, as far as it has come.
#[derive(Debug)]
pub(crate) struct Folding {
    data: DataDirectory,
    origin: String,
    files: RollupFiles,
    /// The next manifest to look at.
    next: u64,
    waiting: RecordBatch,
    /// The hour whose minutes are not added up yet.
    hour: Option<Hour>,
    /// What the log deletes, once it was asked for.
    deleted: Option<BTreeMap<u64, u64>>,
}

/// Manifests of one hour of sealing.
#[derive(Debug, Clone, Copy)]
struct Hour {
    first: u64,
    last: u64,
    /// Hours since the Unix epoch.
    of: i64,
}

impl Folding {
    /// Takes up the roll-ups of `origin` in `data` where they end. Damaged ones are folded anew.
    ///
    /// # Errors
    /// [`FoldError`] when a folder cannot be read, or a damaged file not be taken away.
    pub(crate) fn begin(data: &DataDirectory, origin: &str) -> Result<Self, FoldError> {
        let files = RollupFiles::new(data, origin);
        let covered = files.covered().map_err(FoldError::Begin)?;
        match files.waiting(&covered) {
            Ok(waiting) => {
                let mut folding = Self {
                    data: data.clone(),
                    origin: origin.to_owned(),
                    files,
                    next: covered.until.map_or(0, |until| until + 1),
                    waiting,
                    hour: None,
                    deleted: None,
                };
                for (manifest, _) in covered.minutes_alone() {
                    let (of, _) = read_manifest(&data.books(), origin, *manifest)?;
                    folding.pass(&of)?;
                }
                Ok(folding)
            }
            Err(error) => {
                tracing::warn!(%error, origin, "the roll-ups are damaged: they are folded anew");
                Self::anew(data, origin)
            }
        }
    }

    /// Takes away what there is, to begin with the first manifest.
    ///
    /// # Errors
    /// [`FoldError::Begin`] when a file cannot be removed.
    pub(crate) fn anew(data: &DataDirectory, origin: &str) -> Result<Self, FoldError> {
        let files = RollupFiles::new(data, origin);
        files.clear().map_err(FoldError::Begin)?;
        let nothing = files.covered().map_err(FoldError::Begin)?;
        let waiting = files.waiting(&nothing).map_err(FoldError::Begin)?;
        Ok(Self {
            data: data.clone(),
            origin: origin.to_owned(),
            files,
            next: 0,
            waiting,
            hour: None,
            deleted: None,
        })
    }

    /// Folds every manifest under the checkpoint that was not folded yet, until `each` breaks; it is told
    /// how many are done, of how many. Returns how many there are.
    ///
    /// # Errors
    /// [`FoldError`]; the steps before stay done.
    pub(crate) fn catch_up(
        &mut self,
        mut each: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<u64, FoldError> {
        let books = self.data.books();
        let head = read_checkpoint(&books, &self.origin)?;
        let size = head.map_or(0, |head| head.size);
        while self.next < size {
            if each(self.next, size).is_break() {
                break;
            }
            let (manifest, _) = read_manifest(&books, &self.origin, self.next)?;
            self.step(&manifest)?;
            self.next += 1;
        }
        Ok(size)
    }

    fn step(&mut self, manifest: &Manifest) -> Result<(), FoldError> {
        let Body::Seal { segments, .. } = &manifest.body else {
            return Ok(());
        };
        let at = |source| FoldError::Rollup {
            manifest: manifest.number,
            source,
        };
        let mut entries = Vec::new();
        for segment in segments.iter().filter(|one| one.table == TableId::Entries) {
            let path = self.data.books().join(&segment.file);
            if !path.exists() && self.is_deleted(segment.segment)? {
                tracing::warn!(
                    segment = segment.segment,
                    "it was deleted lawfully: the roll-ups that are folded anew do not count it"
                );
                continue;
            }
            entries.extend(RollupFiles::read_entries(&path).map_err(at)?);
        }
        if entries.is_empty() {
            return Ok(());
        }
        let step = fold(&self.waiting, &entries).map_err(at)?;
        self.files.write_step(manifest.number, &step).map_err(at)?;
        self.waiting = step.waiting;
        self.pass(manifest)
    }

    /// Whether a manifest of the log deletes that segment.
    fn is_deleted(&mut self, segment: u64) -> Result<bool, FoldError> {
        let deleted = match &mut self.deleted {
            Some(deleted) => deleted,
            unread => unread.insert(deleted(&self.data, &self.origin)?),
        };
        Ok(deleted.contains_key(&segment))
    }

    /// Adds up the hour before, when the manifest is of a later one.
    fn pass(&mut self, manifest: &Manifest) -> Result<(), FoldError> {
        let of = manifest.until.as_ns().div_euclid(HOUR_NS);
        let number = manifest.number;
        match &mut self.hour {
            Some(hour) if of <= hour.of => hour.last = number,
            open => {
                let begun = Hour {
                    first: number,
                    last: number,
                    of,
                };
                if let Some(hour) = open.replace(begun) {
                    self.files
                        .write_hours(hour.first, hour.last)
                        .map_err(|source| FoldError::Rollup {
                            manifest: hour.last,
                            source,
                        })?;
                }
            }
        }
        Ok(())
    }
}

/// Segments that the log deletes, with the manifest that says so.
fn deleted(data: &DataDirectory, origin: &str) -> Result<BTreeMap<u64, u64>, FoldError> {
    let books = data.books();
    let head = read_checkpoint(&books, origin)?;
    Ok(read_deleted(
        &books,
        origin,
        head.map_or(0, |head| head.size),
    )?)
}

/// Folds the whole log of `origin` (or of its slug) anew, with nothing running. Returns how many manifests there are.
///
/// # Errors
/// [`CollectorError::Locked`] while a collector runs, [`CollectorError::Rollup`] when a file cannot be
/// read or written.
pub fn rebuild(
    data: &DataDirectory,
    origin: &str,
    mut each: impl FnMut(u64, u64),
) -> Result<u64, CollectorError> {
    let _lock = lock(&data.journal(origin))?;
    let deleted = deleted(data, origin)?.len();
    if deleted > 0 {
        return Err(FoldError::Deleted(deleted).into());
    }
    let mut folding = Folding::anew(data, origin)?;
    Ok(folding.catch_up(|done, size| {
        each(done, size);
        ControlFlow::Continue(())
    })?)
}

/// Folds after each seal until the sealer is gone; `stop` ends it between two manifests.
pub(crate) fn run(data: &DataDirectory, origin: &str, sealed: &Receiver<()>, stop: &AtomicBool) {
    let mut folding = None;
    loop {
        if let Err(error) = go_on(&mut folding, data, origin, stop) {
            // What was not folded is answered from the entries themselves; the next seal tries again.
            tracing::error!(error = &error as &dyn Error, "roll-ups stand still");
            folding = None;
        }
        if stop.load(Ordering::Relaxed) || sealed.recv().is_err() {
            return;
        }
    }
}

fn go_on(
    folding: &mut Option<Folding>,
    data: &DataDirectory,
    origin: &str,
    stop: &AtomicBool,
) -> Result<(), FoldError> {
    let folding = match folding {
        Some(folding) => folding,
        None => folding.insert(Folding::begin(data, origin)?),
    };
    folding.catch_up(|_, _| {
        if stop.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    Ok(())
}

//! Makes the statements of the running epoch, whether or not the collector can be reached.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use counterfoil_entry::id::Stream;
use counterfoil_entry::statement::{
    AuditKey, Recovery, Statement, StatementKind, StreamRange, statement_hash,
};
use counterfoil_entry::tree::{Accumulator, leaf_hash};
use counterfoil_entry::{Hash, clock};

use crate::cursor::{Cursor, Limit};
use crate::lock;
use crate::old::OldEpoch;
use crate::protocol::Acknowledged;
use crate::space::Space;
use crate::state::StateFile;
use crate::stats::DeliveryStats;

/// A statement is made at the latest after this many entries.
const ENTRIES_MAX: u64 = 65_536;

/// What the collector's last answer showed.
#[derive(Debug, Default)]
pub(crate) struct LastAnswer {
    pub(crate) acked: Option<(u64, Hash)>,
    pub(crate) checkpoint: Option<String>,
    pub(crate) origin: Option<String>,
}

impl LastAnswer {
    pub(crate) fn take(&mut self, answer: &Acknowledged) {
        if answer.origin.is_some() {
            self.origin.clone_from(&answer.origin);
        }
        if answer
            .checkpoint
            .as_ref()
            .is_some_and(|checkpoint| !checkpoint.is_empty())
        {
            self.checkpoint.clone_from(&answer.checkpoint);
        }
    }
}

/// The crashed epochs whose tails are not stated yet, oldest first.
pub(crate) type Crashed = Vec<Arc<Mutex<OldEpoch>>>;

/// Reads what the lanes append, hashes it, and signs.
#[derive(Debug)]
pub(crate) struct Stater {
    pub(crate) space: Arc<Space>,
    pub(crate) key: AuditKey,
    pub(crate) state: Arc<Mutex<StateFile>>,
    pub(crate) answer: Arc<Mutex<LastAnswer>>,
    pub(crate) stats: Arc<DeliveryStats>,
    pub(crate) interval_ns: u64,
    pub(crate) crashed: Crashed,
    hashed: BTreeMap<Stream, Hashed>,
    /// Entries hashed since the last statement.
    pending: u64,
    quarantined_told: usize,
    last_ns: u64,
    buffer: Vec<u8>,
}

/// One stream since the last statement.
#[derive(Debug)]
struct Hashed {
    cursor: Cursor,
    first_seq: u64,
    tree: Accumulator,
}

/// What one step of the stater is to do.
#[derive(Debug)]
pub(crate) struct Step {
    /// What the collector said of the old epochs, once it was heard.
    pub(crate) greeting: Option<Acknowledged>,
    /// Whether this is the end: everything is stated and a final statement made.
    pub(crate) is_end: bool,
}

impl Stater {
    pub(crate) fn new(
        space: Arc<Space>,
        key: AuditKey,
        state: Arc<Mutex<StateFile>>,
        stats: Arc<DeliveryStats>,
        interval_ns: u64,
        crashed: Crashed,
    ) -> Self {
        Self {
            space,
            key,
            state,
            answer: Arc::default(),
            stats,
            interval_ns,
            crashed,
            hashed: BTreeMap::new(),
            pending: 0,
            quarantined_told: 0,
            last_ns: clock::mono_ns(),
            buffer: Vec::new(),
        }
    }

    /// Takes in what was appended and makes the statements that are due. Blocks on the disk.
    pub(crate) fn step(&mut self, step: &Step) -> io::Result<()> {
        if step.is_end {
            self.space.close();
        }
        if !self.crashed.is_empty() {
            // The first statements of an epoch are its recoveries, made when it is known what the
            // collector has of the old ones; at the end, from what the spool alone knows.
            if step.greeting.is_none() && !step.is_end {
                return self.space.sync();
            }
            self.recover(step.greeting.as_ref())?;
        }
        self.hash_appended()?;
        while self.pending >= ENTRIES_MAX {
            self.make(StatementKind::Regular)?;
            self.hash_appended()?;
        }
        if step.is_end {
            return self.make(StatementKind::Final);
        }
        let since_ns = clock::mono_ns().saturating_sub(self.last_ns);
        if since_ns >= self.interval_ns {
            self.make(StatementKind::Regular)
        } else {
            self.space.sync()
        }
    }

    /// Whether the next statement is a recovery, for which the collector is to be heard first.
    pub(crate) const fn waits_to_hear(&self) -> bool {
        !self.crashed.is_empty()
    }

    fn recover(&mut self, greeting: Option<&Acknowledged>) -> io::Result<()> {
        while let Some(old) = self.crashed.first() {
            let recovery: Recovery = {
                let old = lock(old);
                old.recovery(greeting.and_then(|greeting| greeting.epoch(old.epoch)))?
            };
            let epoch = recovery.old_epoch;
            let entries: u64 = recovery.tail.iter().map(|range| range.count).sum();
            self.make(StatementKind::Recovery(recovery))?;
            tracing::info!(%epoch, entries, "stated what an epoch that did not end left behind");
            self.crashed.remove(0);
        }
        Ok(())
    }

    /// Hashes what was appended, up to the most that one statement covers.
    fn hash_appended(&mut self) -> io::Result<()> {
        for writer in self.space.streams() {
            let stream = writer.stream();
            let hashed = self.hashed.entry(stream.clone()).or_insert_with(|| Hashed {
                cursor: Cursor::new(self.space.path(), stream.clone(), 0),
                first_seq: 0,
                tree: Accumulator::default(),
            });
            let room = usize::try_from(ENTRIES_MAX.saturating_sub(self.pending)).unwrap_or(0);
            let limit = Limit {
                until: writer.next_seq(),
                entries: room,
                bytes: usize::MAX,
            };
            let tree = &mut hashed.tree;
            let before = tree.len();
            let read = hashed.cursor.read(limit, &mut self.buffer, |_, record| {
                tree.push(leaf_hash(record));
            });
            self.pending += hashed.tree.len() - before;
            read?;
        }
        Ok(())
    }

    fn make(&mut self, kind: StatementKind) -> io::Result<()> {
        // A statement never outlives the entries that it speaks of.
        self.space.sync()?;
        let quarantined_told = lock(&self.state).quarantined().len();
        let statement = self.statement(kind);
        let bytes = statement.encode();
        let hash = statement_hash(&bytes);
        lock(&self.state).push(&self.key.sign_statement(bytes))?;
        tracing::debug!(number = statement.number, %hash, "made a statement");
        self.quarantined_told = quarantined_told;
        self.stats.count_statement_made();
        // A recovery speaks of the old epoch only.
        if !statement.streams.is_empty() {
            for hashed in self.hashed.values_mut() {
                hashed.first_seq = hashed.cursor.next_seq();
                hashed.tree = Accumulator::default();
            }
            self.pending = 0;
        }
        self.last_ns = clock::mono_ns();
        Ok(())
    }

    fn statement(&self, kind: StatementKind) -> Statement {
        let config = self.space.config();
        let gauges = self.space.gauges();
        let (last, quarantined) = {
            let state = lock(&self.state);
            let new = state.quarantined().get(self.quarantined_told..);
            (state.last(), new.unwrap_or_default().to_vec())
        };
        let answer = lock(&self.answer);
        Statement {
            writer: config.writer.clone(),
            epoch: self.space.epoch(),
            number: last.map_or(0, |(number, _)| number + 1),
            kind,
            previous: last.map(|(_, hash)| hash),
            acked: answer.acked,
            checkpoint: answer.checkpoint.clone(),
            origin: answer.origin.clone(),
            time: clock::wall(),
            // The kernel tells offset and error only through calls that need unsafe code.
            clock: None,
            streams: self.ranges(),
            drops: self.space.drops(),
            calls_open: gauges.calls_open(),
            oldest_call_start: gauges.oldest_call_start(),
            spool_bytes: gauges.spool_bytes(),
            bundle_sha256: gauges.bundle_sha256(),
            config_sha256: config.config_sha256,
            build: config.build.clone(),
            quarantined,
        }
    }

    fn ranges(&self) -> Vec<StreamRange> {
        self.hashed
            .iter()
            .filter(|(_, hashed)| !hashed.tree.is_empty())
            .map(|(stream, hashed)| StreamRange {
                stream: stream.clone(),
                first_seq: hashed.first_seq,
                count: hashed.tree.len(),
                root: hashed.tree.root(),
            })
            .collect()
    }
}

//! What the collector knows of its writers: rebuilt at start, changed only by what the journal holds.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use counterfoil_entry::id::{Epoch, RetentionClass, Stream, Writer};
use counterfoil_entry::rows::{GapRow, Trust};
use counterfoil_entry::statement::{Signed, Statement, StatementKind, StreamRange, statement_hash};
use counterfoil_entry::table::TableId;
use counterfoil_entry::tree::Accumulator;
use counterfoil_entry::{Hash, Time};

use crate::seen::Seen;

/// Statement hashes kept of an epoch, newest first: what a repeated statement is compared with.
const HASHES_MAX: usize = 4096;

/// Kinds of segments that may wait for a seal. Each is an item of the manifest of at most 500 bytes,
/// and has at most one segment of statements beside it: together below 64 KiB.
const KINDS_MAX: usize = 48;

/// Rows that share a table, a class and a schema version: those of one or more segments.
pub(crate) type SegmentKind = (TableId, RetentionClass, u16);

/// Where an entry's bytes lie in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of the journal file.
    pub(crate) file: u64,
    /// Offset in that file.
    pub(crate) offset: u64,
    /// Length of the canonical bytes.
    pub(crate) len: u32,
}

/// An entry that is in the journal and in no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) leaf: Hash,
    pub(crate) place: Place,
    pub(crate) received_at: Time,
}

/// The range of a statement that was taken, while entries of it are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) from: u64,
    pub(crate) until: u64,
    /// `None` when all its entries came and have another root: nothing will ever release it.
    pub(crate) root: Option<Hash>,
    pub(crate) by: StatedBy,
}

/// The statement that covers entries: its epoch and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StatedBy {
    pub(crate) epoch: Epoch,
    pub(crate) number: u64,
}

/// Entries of one stream, without holes, that a statement covers and no segment holds yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Covered {
    pub(crate) writer: Writer,
    pub(crate) epoch: Epoch,
    pub(crate) stream: Stream,
    pub(crate) schema_version: u16,
    pub(crate) first_seq: u64,
    pub(crate) by: StatedBy,
    pub(crate) rows: Vec<Kept>,
}

/// An announcement or a statement that no segment holds yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsealed {
    pub(crate) is_announcement: bool,
    pub(crate) signed: Signed,
    pub(crate) audit_key: [u8; 32],
    pub(crate) trust: Trust,
    pub(crate) reason: Option<String>,
    pub(crate) received_at: Time,
}

/// The announced audit key of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) audit_key: [u8; 32],
    pub(crate) trust: Trust,
    pub(crate) reason: Option<String>,
}

/// One stream of an epoch.
#[derive(Debug, Clone, Default)]
pub(crate) struct StreamState {
    /// Of its entries in the journal; known once one came since the start.
    pub(crate) schema_version: Option<u16>,
    /// Entries that came.
    pub(crate) seen: Seen,
    /// Entries whose statement proved them: sealed, or for the next seal. Its holes are what
    /// statements name and nothing proves.
    pub(crate) proved: Seen,
    /// Entries that came and are not proved.
    pub(crate) unstated: BTreeMap<u64, Kept>,
    pub(crate) held: Vec<Held>,
}

/// One start of one writer.
#[derive(Debug, Clone, Default)]
pub(crate) struct EpochState {
    pub(crate) announced: Option<Announced>,
    pub(crate) statements: Seen,
    pub(crate) hashes: BTreeMap<u64, Hash>,
    /// Other statements that came under a number that was taken.
    pub(crate) others: HashSet<Hash>,
    /// What statements here, or a recovery, say of one that has not come: its number and hash.
    pub(crate) named: BTreeMap<u64, Hash>,
    /// The number that no statement may have: one above the final one, or above the last one that a
    /// recovery names.
    pub(crate) end: Option<u64>,
    pub(crate) last_time: Option<Time>,
    pub(crate) streams: BTreeMap<Stream, StreamState>,
    /// By a final statement, or by a recovery of a later epoch.
    pub(crate) is_closed: bool,
    /// Gaps recorded and not closed.
    pub(crate) gaps: Vec<GapRow>,
    /// Monotonic time when anything last came from it.
    pub(crate) heard_ns: u64,
}

/// Everything that is known of the writers.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) epochs: HashMap<Writer, BTreeMap<Epoch, EpochState>>,
    /// Entries that the next seal takes.
    pub(crate) sealable: Vec<Covered>,
    /// Announcements and statements that the next seal takes.
    pub(crate) unsealed: Vec<Unsealed>,
    /// Certificates that control says it issued.
    pub(crate) issued: HashSet<Hash>,
    /// Of the entries that no segment holds, and those that were sealed since the last rotation.
    kinds: BTreeSet<SegmentKind>,
}

impl State {
    /// What is known of an epoch, if anything.
    pub(crate) fn find(&self, writer: &Writer, epoch: Epoch) -> Option<&EpochState> {
        self.epochs.get(writer)?.get(&epoch)
    }

    /// What is known of an epoch; begins to know it.
    pub(crate) fn epoch(&mut self, writer: &Writer, epoch: Epoch) -> &mut EpochState {
        self.epochs
            .entry(writer.clone())
            .or_default()
            .entry(epoch)
            .or_default()
    }

    /// Makes room for a kind of segment; `false` when there would be more than one manifest can name.
    pub(crate) fn admit(&mut self, kind: SegmentKind) -> bool {
        let has_room = self.kinds.len() < KINDS_MAX || self.kinds.contains(&kind);
        if has_room {
            self.kinds.insert(kind);
        }
        has_room
    }

    /// Forgets the kinds of which nothing waits; what is sealable was handed over before.
    pub(crate) fn forget_kinds(&mut self) {
        let epochs = self.epochs.values().flat_map(BTreeMap::values);
        self.kinds = epochs
            .flat_map(|epoch| &epoch.streams)
            .filter(|(_, state)| !state.unstated.is_empty())
            .filter_map(|(of, state)| Some((of.table, of.class.clone(), state.schema_version?)))
            .collect();
    }

    /// Rows that the next seal takes.
    pub(crate) fn sealable_rows(&self) -> usize {
        self.sealable
            .iter()
            .map(|covered| covered.rows.len())
            .sum::<usize>()
            + self.unsealed.len()
    }

    /// Takes an announcement that was judged.
    pub(crate) fn announce(&mut self, writer: &Writer, epoch: Epoch, unsealed: Unsealed) {
        self.epoch(writer, epoch).announced = Some(Announced {
            audit_key: unsealed.audit_key,
            trust: unsealed.trust,
            reason: unsealed.reason.clone(),
        });
        self.unsealed.push(unsealed);
    }

    /// Takes an entry that has not come before; `false`, and nothing happens, when it has.
    pub(crate) fn take_entry(
        &mut self,
        (writer, epoch): (&Writer, Epoch),
        stream: &Stream,
        seq: u64,
        schema_version: u16,
        kept: Kept,
    ) -> bool {
        let streams = &mut self.epoch(writer, epoch).streams;
        if !streams.contains_key(stream) {
            streams.insert(stream.clone(), StreamState::default());
        }
        let Some(state) = streams.get_mut(stream) else {
            return false;
        };
        if state.seen.has(seq) {
            return false;
        }
        state.seen.insert(seq, seq + 1);
        state.schema_version = Some(schema_version);
        state.unstated.insert(seq, kept);
        if state
            .held
            .iter()
            .any(|held| held.from <= seq && seq < held.until)
        {
            let released = state.release((writer, epoch), stream);
            self.sealable.extend(released);
        }
        true
    }

    /// Entries that no statement covers, in all streams.
    pub(crate) fn unstated_mut(&mut self) -> impl Iterator<Item = &mut Kept> {
        self.epochs
            .values_mut()
            .flat_map(BTreeMap::values_mut)
            .flat_map(|epoch| epoch.streams.values_mut())
            .flat_map(|stream| stream.unstated.values_mut())
    }

    /// Takes a statement that was judged good; its entries become sealable, or are held for holes.
    pub(crate) fn take_statement(&mut self, statement: &Statement, signed: &Signed, at: Time) {
        let (writer, epoch) = (&statement.writer, statement.epoch);
        let by = StatedBy {
            epoch,
            number: statement.number,
        };
        for (of, range) in statement.covered() {
            let stream = self
                .epoch(writer, of)
                .streams
                .entry(range.stream.clone())
                .or_default();
            stream.hold(range, by);
            let released = stream.release((writer, of), &range.stream);
            self.sealable.extend(released);
        }
        self.note_statement(statement, statement_hash(&signed.bytes));
        if let Some(announced) = self.epoch(writer, epoch).announced.clone() {
            self.unsealed.push(Unsealed {
                is_announcement: false,
                signed: signed.clone(),
                audit_key: announced.audit_key,
                trust: announced.trust,
                reason: announced.reason,
                received_at: at,
            });
        }
    }

    /// Notes number, hash and time of a statement, and which epochs it closes.
    pub(crate) fn note_statement(&mut self, statement: &Statement, hash: Hash) {
        let epoch = self.epoch(&statement.writer, statement.epoch);
        epoch
            .statements
            .insert(statement.number, statement.number.saturating_add(1));
        epoch.hashes.insert(statement.number, hash);
        epoch.named.remove(&statement.number);
        let before = statement.number.checked_sub(1).zip(statement.previous);
        epoch.name(before);
        if epoch.hashes.len() > HASHES_MAX {
            epoch.hashes.pop_first();
        }
        epoch.last_time = epoch.last_time.max(Some(statement.time));
        match &statement.kind {
            StatementKind::Regular => {}
            StatementKind::Final => {
                epoch.is_closed = true;
                epoch.end_before(statement.number.saturating_add(1));
            }
            StatementKind::Recovery(recovery) => {
                let old = self.epoch(&statement.writer, recovery.old_epoch);
                old.is_closed = true;
                for stream in old.streams.values_mut() {
                    // What came and was never stated stays in the open: a hole in what is proved.
                    stream.proved.expect(stream.seen.next());
                }
                let end = recovery
                    .last
                    .map_or(0, |(number, _)| number.saturating_add(1));
                // What the old epoch stated, and never delivered, is a hole in its numbers.
                old.statements.expect(end);
                old.name(recovery.last);
                old.end_before(end);
            }
        }
    }

    /// Takes what the books say of sealed entries.
    pub(crate) fn note_sealed(
        &mut self,
        (writer, epoch): (&Writer, Epoch),
        stream: &Stream,
        (from, until): (u64, u64),
    ) {
        let streams = &mut self.epoch(writer, epoch).streams;
        let stream = streams.entry(stream.clone()).or_default();
        stream.seen.insert(from, until);
        stream.proved.insert(from, until);
    }

    /// Takes what a sealed statement says; the coverage of all manifests must be noted before.
    pub(crate) fn note_sealed_statement(&mut self, statement: &Statement, hash: Hash) {
        let by = StatedBy {
            epoch: statement.epoch,
            number: statement.number,
        };
        for (of, range) in statement.covered() {
            let streams = &mut self.epoch(&statement.writer, of).streams;
            let stream = streams.entry(range.stream.clone()).or_default();
            stream.hold(range, by);
            stream
                .seen
                .expect(range.first_seq.saturating_add(range.count));
        }
        self.note_statement(statement, hash);
    }
}

impl EpochState {
    /// Notes which hash a statement has that has not come.
    fn name(&mut self, named: Option<(u64, Hash)>) {
        if let Some((number, hash)) = named.filter(|(number, _)| !self.statements.has(*number)) {
            self.named.insert(number, hash);
        }
    }

    fn end_before(&mut self, end: u64) {
        self.end = Some(self.end.map_or(end, |known| known.min(end)));
    }
}

impl StreamState {
    /// Whether all entries of `[from, until)` are proved.
    pub(crate) fn is_proved(&self, from: u64, until: u64) -> bool {
        until <= self.proved.next() && self.proved.missing_in(from, until).is_empty()
    }

    /// Holds the range of a statement until all its entries are there.
    fn hold(&mut self, range: &StreamRange, by: StatedBy) {
        let (from, until) = (range.first_seq, range.first_seq.saturating_add(range.count));
        if !self.is_proved(from, until) {
            self.proved.expect(until);
            self.held.push(Held {
                from,
                until,
                root: Some(range.root),
                by,
            });
        }
    }

    /// Takes out the held ranges whose entries are all there and have the stated root.
    fn release(&mut self, (writer, epoch): (&Writer, Epoch), stream: &Stream) -> Vec<Covered> {
        let mut released = Vec::new();
        for mut held in std::mem::take(&mut self.held) {
            let is_there = held.root.is_some()
                && held.until <= self.seen.next()
                && self.seen.missing_in(held.from, held.until).is_empty();
            let is_proved = is_there && Some(self.root(held.from, held.until)) == held.root;
            if !is_proved {
                held.root = held.root.filter(|_| !is_there);
                self.held.push(held);
                continue;
            }
            let mut rows = self.unstated.split_off(&held.from);
            self.unstated.append(&mut rows.split_off(&held.until));
            self.proved.insert(held.from, held.until);
            released.push(Covered {
                writer: writer.clone(),
                epoch,
                stream: stream.clone(),
                schema_version: self.schema_version.unwrap_or_default(),
                first_seq: held.from,
                by: held.by,
                rows: rows.into_values().collect(),
            });
        }
        released
    }

    /// Root over the entries of `[from, until)` that are not proved yet.
    pub(crate) fn root(&self, from: u64, until: u64) -> Hash {
        let mut tree = Accumulator::default();
        self.unstated
            .range(from..until)
            .for_each(|(_, kept)| tree.push(kept.leaf));
        tree.root()
    }
}

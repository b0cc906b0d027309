//! Replay: the recorded calls of a Parquet file, trace by trace, in order of time.

mod read;
mod structure;

use std::{collections::HashSet, fs::File, ops::Range, path::Path};

use counterfoil_entry::id::TraceId;
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

pub(crate) use read::ReplayError;

use super::plan::{Caller, DRIVER, ENTRY, Plan, System};
use read::{COLUMNS, Interned, Rows};

/// Traces longer than this are left out.
const TRACE_MAX_NS: i64 = 5_000_000_000;

/// One recorded call; times in nanoseconds since the Unix epoch by the caller's clock.
#[derive(Debug, Clone, Copy)]
struct Recorded {
    trace: u32,
    start: i64,
    end: i64,
    server_ns: i64,
    span: u64,
    parent: u64,
    source: u32,
    destination: u32,
    operation: u32,
}

/// The recorded traces, and how far they have been taken.
#[derive(Debug)]
pub(crate) struct Replay {
    rows: Vec<Recorded>,
    trace_ids: Vec<TraceId>,
    /// Rows of each trace that is short enough, in order of the traces' starts.
    traces: Vec<Range<usize>>,
    /// Index of the `entry` operation of each service that begins a trace.
    entries: Vec<Option<usize>>,
    next: usize,
    left_out: u64,
}

impl Replay {
    /// Reads a file of recorded calls, and the services and operations found in it.
    ///
    /// # Errors
    /// When the file cannot be read, lacks a column or holds a value that cannot be understood.
    pub(crate) fn open(path: &Path) -> Result<(System, Self), ReplayError> {
        let failed = |what: String| ReplayError::new(path, what);
        let file = File::open(path).map_err(|error| failed(error.to_string()))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)
            .map_err(|error| failed(error.to_string()))?;
        for column in COLUMNS {
            if builder.schema().index_of(column).is_err() {
                return Err(failed(format!(
                    "column {column} is missing; needed are {}",
                    COLUMNS.join(", ")
                )));
            }
        }
        let mask = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
        let reader = builder
            .with_projection(mask)
            .with_batch_size(8_192)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let mut rows = Rows::default();
        for batch in reader {
            let batch = batch.map_err(|error| failed(error.to_string()))?;
            rows.add(&batch).map_err(failed)?;
        }
        if rows.calls.is_empty() {
            return Err(failed("the file holds no calls".to_owned()));
        }
        Ok(Self::new(rows.calls, rows.interned))
    }

    fn new(mut rows: Vec<Recorded>, interned: Interned) -> (System, Self) {
        let Interned {
            mut system,
            trace_ids,
            ..
        } = interned;
        // An outer call that begins together with an inner one stands before it.
        rows.sort_unstable_by_key(|call| (call.trace, call.start, std::cmp::Reverse(call.end)));
        let mut traces = Vec::new();
        let mut left_out = 0;
        for range in group(&rows) {
            let calls = rows.get(range.clone()).unwrap_or(&[]);
            let start = calls.first().map_or(0, |call| call.start);
            let end = calls.iter().map(|call| call.end).max().unwrap_or(start);
            if end.saturating_sub(start) > TRACE_MAX_NS {
                left_out += 1;
            } else {
                traces.push((start, range));
            }
        }
        traces.sort_by_key(|(start, range)| (*start, range.start));
        let traces: Vec<_> = traces.into_iter().map(|(_, range)| range).collect();
        let entries = add_calls(&mut system, &rows, &traces);
        (
            system,
            Self {
                rows,
                trace_ids,
                traces,
                entries,
                next: 0,
                left_out,
            },
        )
    }

    /// Traces that can be replayed.
    pub(crate) fn traces(&self) -> usize {
        self.traces.len()
    }

    /// Traces left out because they are longer than five seconds.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The next trace in order of time.
    pub(crate) fn next_plan(&mut self) -> Option<Plan> {
        let range = self.traces.get(self.next)?.clone();
        self.next += 1;
        let calls = self.rows.get(range)?;
        let trace = usize::try_from(calls.first()?.trace).ok()?;
        let trace_id = *self.trace_ids.get(trace)?;
        Some(structure::plan(trace_id, calls, &self.entries))
    }
}

/// Notes who calls what, and gives each service that begins a trace its operation `entry`.
fn add_calls(
    system: &mut System,
    rows: &[Recorded],
    traces: &[Range<usize>],
) -> Vec<Option<usize>> {
    let mut first = HashSet::new();
    for range in traces {
        let calls = rows.get(range.clone()).unwrap_or(&[]);
        let parents = structure::parents(calls);
        for (call, parent) in calls.iter().zip(&parents) {
            system.calls.insert((
                Caller::Service(call.source as usize),
                call.operation as usize,
            ));
            if parent.is_none() {
                first.insert(call.source as usize);
            }
        }
    }
    let mut entries = vec![None; system.services.len()];
    for (service, slot) in entries.iter_mut().enumerate() {
        if first.contains(&service) {
            let operation = system.operation(service, ENTRY);
            system.calls.insert((Caller::Driver, operation));
            *slot = Some(operation);
        }
    }
    debug_assert!(system.services.iter().all(|service| service.slug != DRIVER));
    entries
}

/// The ranges of rows that belong to one trace each.
fn group(rows: &[Recorded]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut from = 0;
    for part in rows.chunk_by(|a, b| a.trace == b.trace) {
        ranges.push(from..from + part.len());
        from += part.len();
    }
    ranges
}

//! One step of the fold: the entries of one manifest, and the halves that still wait for their counterpart.

use std::collections::HashMap;

use arrow::array::{
    Array, AsArray, BooleanArray, FixedSizeBinaryArray, RecordBatch, StringArray,
    TimestampNanosecondArray, UInt64Array,
};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef, TimestampNanosecondType, UInt64Type};
use counterfoil_entry::table::TableId;
use std::sync::Arc;

use super::RollupError;
use super::minutes::{Groups, Key, MINUTE_NS};

/// Columns of `entries` that the fold looks at, and that calls are made of.
pub(super) const COLUMNS: &[&str] = &[
    "writer",
    "side",
    "kind",
    "trace_id",
    "span_id",
    "parent_span_id",
    "start_time",
    "end_time",
    "duration_ns",
    "upstream_ns",
    "overhead_ns",
    "source",
    "destination",
    "source_app",
    "destination_app",
    "api",
    "operation",
    "method",
    "route",
    "status",
    "grpc_status",
    "outcome",
    "error_type",
    "request_bytes",
    "response_bytes",
    "attempt",
    "mtls",
    "decision",
    "reason",
    "grant_id",
    "phase",
    "downstream_ns",
    "retried",
    "attribution",
];
/// Halves that may wait, at most; the oldest then count as calls by themselves.
const WAITING_MAX: usize = 2_000_000;

/// What one step gives.
#[derive(Debug)]
pub struct Step {
    /// Rows of [`super::schema`]: what this manifest adds.
    pub minutes: RecordBatch,
    /// Halves without a counterpart so far, for the next step.
    pub waiting: RecordBatch,
}

/// The columns of `entries` that the fold needs, in its order.
#[must_use]
pub(super) fn entry_schema() -> SchemaRef {
    let all = crate::schema(TableId::Entries);
    let fields = COLUMNS
        .iter()
        .filter_map(|name| all.field_with_name(name).ok());
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}

/// Folds the entries of one manifest, in any order of batches, into what came before.
///
/// Each entry is counted by its own side. A call is counted once, as the view `calls` has it: when its
/// later half has come, or at once when its counterpart is not due. Halves of foreign meshes, whose
/// counterpart is never due, wait for one further step.
///
/// # Errors
/// [`RollupError`] when a column is missing or a histogram cannot be made.
pub fn fold(waiting: &RecordBatch, new: &[RecordBatch]) -> Result<Step, RollupError> {
    let old = waiting.num_rows();
    let rows = concat_batches(&entry_schema(), [waiting].into_iter().chain(new))?;
    let entries = Entries::new(&rows)?;
    let mut groups = Groups::default();
    for row in old..rows.num_rows() {
        if entries.is_call(row) {
            groups.add(entries.own(row));
        }
    }
    let mut keep = entries.pair(old, &mut groups);
    let mut surplus = keep
        .iter()
        .filter(|keep| **keep)
        .count()
        .saturating_sub(WAITING_MAX);
    for (row, keep) in keep.iter_mut().enumerate().filter(|(_, keep)| **keep) {
        if surplus == 0 {
            break;
        }
        groups.add_call(entries.call(Some(row), None));
        *keep = false;
        surplus -= 1;
    }
    Ok(Step {
        minutes: groups.finish()?,
        waiting: filter_record_batch(&rows, &BooleanArray::from(keep))?,
    })
}

/// Entries by their columns.
struct Entries<'a> {
    side: &'a StringArray,
    kind: &'a StringArray,
    phase: &'a StringArray,
    trace_id: &'a FixedSizeBinaryArray,
    span_id: &'a FixedSizeBinaryArray,
    parent_span_id: &'a FixedSizeBinaryArray,
    start_time: &'a TimestampNanosecondArray,
    duration_ns: &'a UInt64Array,
    upstream_ns: &'a UInt64Array,
    overhead_ns: &'a UInt64Array,
    source: &'a StringArray,
    destination: &'a StringArray,
    source_app: &'a StringArray,
    destination_app: &'a StringArray,
    api: &'a StringArray,
    operation: &'a StringArray,
    outcome: &'a StringArray,
    decision: &'a StringArray,
    attribution: &'a StringArray,
    request_bytes: &'a UInt64Array,
    response_bytes: &'a UInt64Array,
    mtls: &'a BooleanArray,
    retried: &'a BooleanArray,
}

/// One entry or call, on its way into a group.
#[derive(Debug)]
pub(super) struct Counted<'a> {
    pub(super) key: Key<'a>,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) duration_ns: Option<u64>,
    pub(super) overhead_ns: Option<u64>,
    pub(super) upstream_ns: Option<u64>,
}

impl<'a> Entries<'a> {
    fn new(rows: &'a RecordBatch) -> Result<Self, RollupError> {
        let column =
            |name: &'static str| rows.column_by_name(name).ok_or(RollupError::Column(name));
        let text = |name| {
            column(name)?
                .as_string_opt()
                .ok_or(RollupError::Column(name))
        };
        let number = |name| {
            let column = column(name)?.as_primitive_opt::<UInt64Type>();
            column.ok_or(RollupError::Column(name))
        };
        let bytes = |name| {
            let column = column(name)?.as_fixed_size_binary_opt();
            column.ok_or(RollupError::Column(name))
        };
        let truth = |name| {
            column(name)?
                .as_boolean_opt()
                .ok_or(RollupError::Column(name))
        };
        let start_time = column("start_time")?.as_primitive_opt::<TimestampNanosecondType>();
        Ok(Self {
            side: text("side")?,
            kind: text("kind")?,
            phase: text("phase")?,
            trace_id: bytes("trace_id")?,
            span_id: bytes("span_id")?,
            parent_span_id: bytes("parent_span_id")?,
            start_time: start_time.ok_or(RollupError::Column("start_time"))?,
            duration_ns: number("duration_ns")?,
            upstream_ns: number("upstream_ns")?,
            overhead_ns: number("overhead_ns")?,
            source: text("source")?,
            destination: text("destination")?,
            source_app: text("source_app")?,
            destination_app: text("destination_app")?,
            api: text("api")?,
            operation: text("operation")?,
            outcome: text("outcome")?,
            decision: text("decision")?,
            attribution: text("attribution")?,
            request_bytes: number("request_bytes")?,
            response_bytes: number("response_bytes")?,
            mtls: truth("mtls")?,
            retried: truth("retried")?,
        })
    }

    /// Whether it is the end of a call's attempt.
    fn is_call(&self, row: usize) -> bool {
        self.phase.value(row) == "final" && self.kind.value(row) != "tls_failure"
    }

    fn is_client(&self, row: usize) -> bool {
        self.side.value(row) == "client"
    }

    fn is_native(&self, row: usize) -> bool {
        self.attribution.value(row) == "native"
    }

    /// Whether a client entry says that the call reached the other proxy, as the view `calls` has it;
    /// every native server entry does.
    fn is_due(&self, row: usize) -> bool {
        let went_out = self.decision.value(row) != "deny" && self.mtls.value(row);
        self.is_native(row) && (!self.is_client(row) || went_out)
    }

    /// What client and server entries of one call share; none without ids.
    fn call_id(&self, row: usize) -> Option<(&'a [u8], &'a [u8])> {
        let span = if self.is_client(row) {
            self.span_id
        } else {
            self.parent_span_id
        };
        let has = self.trace_id.is_valid(row) && span.is_valid(row);
        has.then(|| (self.trace_id.value(row), span.value(row)))
    }

    /// Counts the calls that are whole; tells which rows wait on. The first `old` rows waited before.
    fn pair(&self, old: usize, groups: &mut Groups<'a>) -> Vec<bool> {
        let rows = self.side.len();
        let mut keep = vec![false; rows];
        // A half waits here for the other; among several with the same ids, the first comes first.
        let mut halves: HashMap<_, Vec<usize>> = HashMap::new();
        let mut alone = Vec::new();
        for row in (0..rows).filter(|row| self.is_call(*row)) {
            let Some(id) = self.call_id(row) else {
                alone.push(row);
                continue;
            };
            let others = halves.entry((id, !self.is_client(row))).or_default();
            if others.is_empty() {
                halves
                    .entry((id, self.is_client(row)))
                    .or_default()
                    .push(row);
            } else {
                let other = others.remove(0);
                let (client, server) = if self.is_client(row) {
                    (row, other)
                } else {
                    (other, row)
                };
                groups.add_call(self.call(Some(client), Some(server)));
            }
        }
        alone.extend(halves.into_values().flatten());
        alone.sort_unstable();
        for row in alone {
            let waits = self.is_due(row) || (!self.is_native(row) && row >= old);
            if !waits || self.call_id(row).is_none() {
                groups.add_call(self.call(Some(row), None));
            } else if let Some(keep) = keep.get_mut(row) {
                *keep = true;
            }
        }
        keep
    }

    fn text(array: &'a StringArray, row: usize) -> Option<&'a str> {
        array.is_valid(row).then(|| array.value(row))
    }

    fn number(array: &UInt64Array, row: usize) -> Option<u64> {
        array.is_valid(row).then(|| array.value(row))
    }

    /// The entry by its own side.
    fn own(&self, row: usize) -> Counted<'a> {
        let side = if self.is_client(row) {
            "client"
        } else {
            "server"
        };
        Counted {
            key: Key {
                is_measured: false,
                ..self.key(row, side)
            },
            request_bytes: Self::number(self.request_bytes, row).unwrap_or(0),
            response_bytes: Self::number(self.response_bytes, row).unwrap_or(0),
            duration_ns: Self::number(self.duration_ns, row),
            overhead_ns: Self::number(self.overhead_ns, row),
            upstream_ns: Self::number(self.upstream_ns, row),
        }
    }

    fn key(&self, row: usize, side: &'static str) -> Key<'a> {
        let start = self.start_time.value(row);
        let name = |app: &'a StringArray, id: &'a StringArray| {
            let last = |id: &'a str| id.rsplit('/').next().unwrap_or(id);
            Self::text(app, row).or_else(|| Self::text(id, row).map(last))
        };
        Key {
            minute: start - start.rem_euclid(MINUTE_NS),
            source_app: name(self.source_app, self.source),
            destination_app: name(self.destination_app, self.destination),
            api: Self::text(self.api, row),
            operation: Self::text(self.operation, row),
            side,
            outcome: Self::text(self.outcome, row),
            decision: self.decision.value(row),
            is_measured: false,
        }
    }

    /// The call of one or two halves, as the view `calls` has it; none when another attempt followed.
    fn call(&self, one: Option<usize>, server: Option<usize>) -> Option<Counted<'a>> {
        let first = one.or(server)?;
        let (client, server) = match server {
            Some(_) => (one, server),
            None if self.is_client(first) => (one, None),
            None => (None, one),
        };
        if client.is_some_and(|row| self.retried.value(row)) {
            return None;
        }
        let mut key = self.key(first, "call");
        let is_denied = |row: usize| self.decision.value(row) == "deny";
        if let (Some(client), Some(server)) = (client, server) {
            // The key is the client's so far; what it does not know the server tells.
            let of_server = self.key(server, "call");
            let app = |array: &'a StringArray| {
                Self::text(array, client).or_else(|| Self::text(array, server))
            };
            key.source_app = app(self.source_app)
                .or(key.source_app)
                .or(of_server.source_app);
            key.destination_app = app(self.destination_app)
                .or(key.destination_app)
                .or(of_server.destination_app);
            key.api = key.api.or(of_server.api);
            key.operation = key.operation.or(of_server.operation);
            key.outcome = key.outcome.or(of_server.outcome);
            if !is_denied(client) {
                key.decision = of_server.decision;
            }
        }
        if server.is_some_and(is_denied) {
            key.outcome = Some("denied");
        }
        let either = |array: &UInt64Array| {
            let of = |row: Option<usize>| row.and_then(|row| Self::number(array, row));
            of(client).or_else(|| of(server))
        };
        let of =
            |array: &UInt64Array, row: Option<usize>| row.and_then(|row| Self::number(array, row));
        let measured = match (client, server) {
            (Some(row), Some(_)) if self.is_due(row) => {
                let own = of(self.overhead_ns, client).zip(of(self.overhead_ns, server));
                of(self.duration_ns, client).zip(own)
            }
            _ => None,
        };
        key.is_measured = measured.is_some();
        let own = measured.map(|(_, (client, server))| client.saturating_add(server));
        Some(Counted {
            key,
            request_bytes: either(self.request_bytes).unwrap_or(0),
            response_bytes: either(self.response_bytes).unwrap_or(0),
            duration_ns: either(self.duration_ns),
            overhead_ns: own,
            upstream_ns: measured
                .zip(own)
                .map(|((with, _), own)| with.saturating_sub(own)),
        })
    }
}

//! Rows of roll-ups: groups of entries or calls by minute, and hours made of minutes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, RecordBatch, StringArray,
    TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{
    DataType, Field, Schema, SchemaRef, TimeUnit, TimestampNanosecondType, UInt64Type,
};

use super::RollupError;
use super::fold::Counted;
use super::histogram::Histogram;
use crate::schema::UTC;

pub(super) const MINUTE_NS: i64 = 60_000_000_000;
const HOUR_NS: i64 = 60 * MINUTE_NS;

/// The Arrow schema of roll-ups of minutes and of hours.
///
/// `side`: `client`, `server`, or `call`, which has both. `outcome` and `decision`: as in `entries`, of
/// a call as in the view `calls`. `measured`: a matched call of which both proxies measured their cost.
/// `n`: how many. Histograms (ns, HDR V2) of `duration`, by the caller's clock where its half is there;
/// of `overhead`, for a call of both proxies; and of `upstream`, for a call its duration less both
/// overheads. A histogram is null when no value is.
#[must_use]
pub fn schema() -> SchemaRef {
    let text = |name, nullable| Field::new(name, DataType::Utf8, nullable);
    let time = DataType::Timestamp(TimeUnit::Nanosecond, Some(Arc::from(UTC)));
    let count = |name| Field::new(name, DataType::UInt64, false);
    let histogram = |name| Field::new(name, DataType::Binary, true);
    Arc::new(Schema::new(vec![
        Field::new("time", time, false),
        text("source_app", true),
        text("destination_app", true),
        text("api", true),
        text("operation", true),
        text("side", false),
        text("outcome", true),
        text("decision", false),
        Field::new("measured", DataType::Boolean, false),
        count("n"),
        count("request_bytes"),
        count("response_bytes"),
        histogram("duration"),
        histogram("overhead"),
        histogram("upstream"),
    ]))
}

/// What one row of a roll-up is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key<'a> {
    /// Begin of the minute or hour (ns since the Unix epoch).
    pub(super) minute: i64,
    pub(super) side: &'a str,
    pub(super) destination_app: Option<&'a str>,
    pub(super) source_app: Option<&'a str>,
    pub(super) api: Option<&'a str>,
    pub(super) operation: Option<&'a str>,
    pub(super) outcome: Option<&'a str>,
    pub(super) decision: &'a str,
    pub(super) is_measured: bool,
}

#[derive(Debug, Default)]
struct Sums {
    n: u64,
    request_bytes: u64,
    response_bytes: u64,
    duration: Histogram,
    overhead: Histogram,
    upstream: Histogram,
}

/// Rows in the making, in the order in which they are written.
#[derive(Debug, Default)]
pub(super) struct Groups<'a>(BTreeMap<Key<'a>, Sums>);

impl<'a> Groups<'a> {
    pub(super) fn add(&mut self, one: Counted<'a>) {
        let sums = self.0.entry(one.key).or_default();
        sums.n += 1;
        sums.request_bytes = sums.request_bytes.saturating_add(one.request_bytes);
        sums.response_bytes = sums.response_bytes.saturating_add(one.response_bytes);
        for (histogram, value) in [
            (&mut sums.duration, one.duration_ns),
            (&mut sums.overhead, one.overhead_ns),
            (&mut sums.upstream, one.upstream_ns),
        ] {
            if let Some(ns) = value {
                histogram.record(ns);
            }
        }
    }

    pub(super) fn add_call(&mut self, call: Option<Counted<'a>>) {
        if let Some(call) = call {
            self.add(call);
        }
    }

    /// The rows as a batch of [`schema`].
    pub(super) fn finish(self) -> Result<RecordBatch, RollupError> {
        let histograms = |of: fn(&Sums) -> &Histogram| -> Result<ArrayRef, RollupError> {
            let bytes = self.0.values().map(|sums| {
                let histogram = of(sums);
                (!histogram.is_empty())
                    .then(|| histogram.encode())
                    .transpose()
            });
            Ok(Arc::new(bytes.collect::<Result<BinaryArray, _>>()?))
        };
        let texts = |of: fn(&Key<'a>) -> Option<&'a str>| -> ArrayRef {
            Arc::new(self.0.keys().map(of).collect::<StringArray>())
        };
        let counts = |of: fn(&Sums) -> u64| -> ArrayRef {
            Arc::new(
                self.0
                    .values()
                    .map(of)
                    .collect::<Vec<u64>>()
                    .into_iter()
                    .collect::<UInt64Array>(),
            )
        };
        let times = self.0.keys().map(|key| key.minute);
        let times: TimestampNanosecondArray = times.map(Some).collect();
        let measured: BooleanArray = self.0.keys().map(|key| Some(key.is_measured)).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(times.with_timezone(UTC)),
            texts(|key| key.source_app),
            texts(|key| key.destination_app),
            texts(|key| key.api),
            texts(|key| key.operation),
            texts(|key| Some(key.side)),
            texts(|key| key.outcome),
            texts(|key| Some(key.decision)),
            Arc::new(measured),
            counts(|sums| sums.n),
            counts(|sums| sums.request_bytes),
            counts(|sums| sums.response_bytes),
            histograms(|sums| &sums.duration)?,
            histograms(|sums| &sums.overhead)?,
            histograms(|sums| &sums.upstream)?,
        ];
        Ok(RecordBatch::try_new(schema(), columns)?)
    }
}

/// Rows of minutes, added up by the hour.
///
/// # Errors
/// [`RollupError`] when a batch is not of [`schema`], or a histogram is damaged.
pub fn hours(minutes: &[RecordBatch]) -> Result<RecordBatch, RollupError> {
    let mut groups = Groups::default();
    for batch in minutes {
        add_hours(&mut groups, batch)?;
    }
    groups.finish()
}

fn add_hours<'a>(groups: &mut Groups<'a>, batch: &'a RecordBatch) -> Result<(), RollupError> {
    let column = |name: &'static str| batch.column_by_name(name).ok_or(RollupError::Column(name));
    let text = |name| {
        column(name)?
            .as_string_opt::<i32>()
            .ok_or(RollupError::Column(name))
    };
    let count = |name| {
        let column = column(name)?.as_primitive_opt::<UInt64Type>();
        column.ok_or(RollupError::Column(name))
    };
    let bytes = |name| {
        column(name)?
            .as_binary_opt::<i32>()
            .ok_or(RollupError::Column(name))
    };
    let times = column("time")?.as_primitive_opt::<TimestampNanosecondType>();
    let times = times.ok_or(RollupError::Column("time"))?;
    let measured = column("measured")?.as_boolean_opt();
    let measured = measured.ok_or(RollupError::Column("measured"))?;
    let (source, destination) = (text("source_app")?, text("destination_app")?);
    let (api, operation) = (text("api")?, text("operation")?);
    let (side, outcome, decision) = (text("side")?, text("outcome")?, text("decision")?);
    let (n, sent, received) = (
        count("n")?,
        count("request_bytes")?,
        count("response_bytes")?,
    );
    let (duration, overhead, upstream) =
        (bytes("duration")?, bytes("overhead")?, bytes("upstream")?);
    for row in 0..batch.num_rows() {
        let optional = |array: &'a StringArray| array.is_valid(row).then(|| array.value(row));
        let time = times.value(row);
        let key = Key {
            minute: time - time.rem_euclid(HOUR_NS),
            side: side.value(row),
            destination_app: optional(destination),
            source_app: optional(source),
            api: optional(api),
            operation: optional(operation),
            outcome: optional(outcome),
            decision: decision.value(row),
            is_measured: measured.value(row),
        };
        let sums = groups.0.entry(key).or_default();
        sums.n = sums.n.saturating_add(n.value(row));
        sums.request_bytes = sums.request_bytes.saturating_add(sent.value(row));
        sums.response_bytes = sums.response_bytes.saturating_add(received.value(row));
        for (histogram, of) in [
            (&mut sums.duration, duration),
            (&mut sums.overhead, overhead),
            (&mut sums.upstream, upstream),
        ] {
            if of.is_valid(row) {
                histogram.merge(of.value(row))?;
            }
        }
    }
    Ok(())
}

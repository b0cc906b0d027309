//! Rows of a file of recorded calls: columns of several encodings, read into small numbers.

use std::{
    collections::HashMap,
    fmt::Display,
    path::{Path, PathBuf},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Int64Type, TimeUnit},
};
use counterfoil_entry::id::TraceId;

use super::{Recorded, System};

/// Columns that are read.
pub(super) const COLUMNS: [&str; 9] = [
    "ts",
    "trace_id",
    "span_id",
    "parent_span_id",
    "source",
    "destination",
    "endpoint",
    "client_latency_us",
    "server_latency_us",
];

/// Name of an operation whose recorded text is empty.
const UNNAMED: &str = "(no name)";

/// A file of recorded calls cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("reading the recorded calls of {}: {what}", path.display())]
pub(crate) struct ReplayError {
    path: PathBuf,
    what: String,
}

impl ReplayError {
    pub(super) fn new(path: &Path, what: String) -> Self {
        Self {
            path: path.to_owned(),
            what,
        }
    }
}

/// All calls read so far.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) calls: Vec<Recorded>,
    pub(super) interned: Interned,
}

/// Texts and ids seen so far, each with its number.
#[derive(Debug, Default)]
pub(super) struct Interned {
    pub(super) system: System,
    pub(super) trace_ids: Vec<TraceId>,
    by_id: HashMap<[u8; 16], u32>,
}

impl Rows {
    /// Adds the calls of a batch.
    ///
    /// # Errors
    /// A sentence that names the row and the column.
    pub(super) fn add(&mut self, batch: &RecordBatch) -> Result<(), String> {
        let base = self.calls.len();
        let times = numbers(
            batch,
            "ts",
            &DataType::Timestamp(TimeUnit::Nanosecond, None),
        )?;
        let times = cast(&times, &DataType::Int64).map_err(|error| in_column("ts", error))?;
        let starts = times.as_primitive::<Int64Type>();
        let trace_ids = Ids::of(batch, "trace_id")?;
        let spans = Ids::of(batch, "span_id")?;
        let parents = Ids::of(batch, "parent_span_id")?;
        let sources = texts(batch, "source")?;
        let destinations = texts(batch, "destination")?;
        let endpoints = texts(batch, "endpoint")?;
        let client = numbers(batch, "client_latency_us", &DataType::Int64)?;
        let server = numbers(batch, "server_latency_us", &DataType::Int64)?;
        let (client, server) = (
            client.as_primitive::<Int64Type>(),
            server.as_primitive::<Int64Type>(),
        );
        let needed: [(&str, &dyn Array); 6] = [
            ("ts", starts),
            ("source", sources.as_ref()),
            ("destination", destinations.as_ref()),
            ("endpoint", endpoints.as_ref()),
            ("client_latency_us", client),
            ("server_latency_us", server),
        ];
        for row in 0..batch.num_rows() {
            let at = |column: &str, what: &str| {
                format!("row {}, column {column}: {what}", base + row + 1)
            };
            for (column, array) in needed {
                if array.is_null(row) {
                    return Err(at(column, "is null"));
                }
            }
            let trace: [u8; 16] = trace_ids
                .fixed(row)
                .and_then(|id| id.ok_or("is null"))
                .map_err(|what| at("trace_id", what))?;
            let trace = self
                .interned
                .trace(trace)
                .ok_or_else(|| at("trace_id", "is all zeros"))?;
            let span = spans.number(row).map_err(|what| at("span_id", what))?;
            let parent = parents
                .number(row)
                .map_err(|what| at("parent_span_id", what))?;
            let system = &mut self.interned.system;
            let source = system.service(sources.as_string::<i32>().value(row));
            let destination = system.service(destinations.as_string::<i32>().value(row));
            let operation =
                system.operation(destination, named(endpoints.as_string::<i32>().value(row)));
            let start = starts.value(row);
            // A call of no length would seem to have ended before itself.
            let length = client.value(row).clamp(1, 1 << 40) * 1_000;
            self.calls.push(Recorded {
                trace,
                start,
                end: start.saturating_add(length),
                server_ns: server.value(row).clamp(0, 1 << 40) * 1_000,
                span,
                parent,
                source: small(source).map_err(|what| at("source", what))?,
                destination: small(destination).map_err(|what| at("destination", what))?,
                operation: small(operation).map_err(|what| at("endpoint", what))?,
            });
        }
        Ok(())
    }
}

impl Interned {
    fn trace(&mut self, id: [u8; 16]) -> Option<u32> {
        if let Some(number) = self.by_id.get(&id) {
            return Some(*number);
        }
        let number = u32::try_from(self.trace_ids.len()).ok()?;
        self.trace_ids.push(TraceId::new(id)?);
        self.by_id.insert(id, number);
        Some(number)
    }
}

fn small(number: usize) -> Result<u32, &'static str> {
    u32::try_from(number).map_err(|_| "has too many different values")
}

fn in_column(column: &str, error: impl Display) -> String {
    format!("column {column}: {error}")
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, String> {
    batch
        .column_by_name(name)
        .ok_or_else(|| in_column(name, "is missing"))
}

/// The catalogue, as OpenAPI, knows no operation without a name.
fn named(endpoint: &str) -> &str {
    if endpoint.is_empty() {
        UNNAMED
    } else {
        endpoint
    }
}

fn numbers(batch: &RecordBatch, name: &str, to: &DataType) -> Result<ArrayRef, String> {
    cast(column(batch, name)?, to).map_err(|error| in_column(name, error))
}

fn texts(batch: &RecordBatch, name: &str) -> Result<ArrayRef, String> {
    cast(column(batch, name)?, &DataType::Utf8).map_err(|error| in_column(name, error))
}

/// A column of ids, as bytes or as hexadecimal text.
struct Ids {
    array: ArrayRef,
    text: bool,
}

impl Ids {
    fn of(batch: &RecordBatch, name: &str) -> Result<Self, String> {
        let array = column(batch, name)?;
        let text = match array.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
            DataType::Dictionary(_, values) => values.is_string(),
            _ => false,
        };
        let to = if text {
            DataType::Utf8
        } else {
            DataType::Binary
        };
        let array = cast(array, &to).map_err(|error| in_column(name, error))?;
        Ok(Self { array, text })
    }

    /// The id, filled with zeros from the left when it is shorter; nothing when it is null.
    fn fixed<const N: usize>(&self, row: usize) -> Result<Option<[u8; N]>, &'static str> {
        if self.array.is_null(row) {
            return Ok(None);
        }
        let bytes = if self.text {
            let text: String = self
                .array
                .as_string::<i32>()
                .value(row)
                .chars()
                .filter(|c| *c != '-')
                .collect();
            let even = if text.len().is_multiple_of(2) {
                text
            } else {
                format!("0{text}")
            };
            hex::decode(even).map_err(|_| "is not hexadecimal")?
        } else {
            self.array.as_binary::<i32>().value(row).to_vec()
        };
        let mut id = [0; N];
        let at = N.checked_sub(bytes.len()).ok_or("is too long")?;
        if let Some(tail) = id.get_mut(at..) {
            tail.copy_from_slice(&bytes);
        }
        Ok(Some(id))
    }

    fn number(&self, row: usize) -> Result<u64, &'static str> {
        Ok(self.fixed(row)?.map_or(0, u64::from_be_bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, FixedSizeBinaryArray, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray, TimestampNanosecondArray,
    };

    use super::*;

    fn batch(ts: ArrayRef, trace: ArrayRef, span: ArrayRef, latency: ArrayRef) -> RecordBatch {
        let texts = |text: &str| Arc::new(StringArray::from(vec![text; ts.len()])) as ArrayRef;
        RecordBatch::try_from_iter([
            ("ts", Arc::clone(&ts)),
            ("trace_id", trace),
            ("span_id", Arc::clone(&span)),
            ("parent_span_id", span),
            ("source", texts("a")),
            ("destination", texts("b")),
            ("endpoint", texts("GET /x y")),
            ("client_latency_us", Arc::clone(&latency)),
            ("server_latency_us", latency),
        ])
        .unwrap()
    }

    #[test]
    fn ids_as_text_and_as_bytes_are_the_same_calls() {
        let binary = batch(
            Arc::new(TimestampNanosecondArray::from(vec![1_000_000]).with_timezone("UTC")),
            Arc::new(FixedSizeBinaryArray::try_from_iter([[0xAB_u8; 16]].into_iter()).unwrap()),
            Arc::new(BinaryArray::from_vec(vec![&[1, 2, 3, 4, 5, 6, 7, 8]])),
            Arc::new(Int64Array::from(vec![7])),
        );
        let text = batch(
            Arc::new(TimestampMicrosecondArray::from(vec![1_000])),
            Arc::new(StringArray::from(vec!["AB".repeat(16)])),
            Arc::new(StringArray::from(vec!["102030405060708"])),
            Arc::new(Int32Array::from(vec![7])),
        );
        let read = |batch: &RecordBatch| {
            let mut rows = Rows::default();
            rows.add(batch).unwrap();
            format!("{:?} {:?}", rows.calls, rows.interned.trace_ids)
        };
        assert_eq!(read(&binary), read(&text));
        assert!(read(&text).contains("start: 1000000, end: 1007000, server_ns: 7000"));
    }

    #[test]
    fn texts_of_any_encoding_are_read_and_an_empty_one_gets_a_name() {
        let plain = batch(
            Arc::new(TimestampNanosecondArray::from(vec![1_000_000])),
            Arc::new(StringArray::from(vec!["0a"])),
            Arc::new(StringArray::from(vec!["1"])),
            Arc::new(Int64Array::from(vec![7])),
        );
        let read = |endpoint: &str, to: &DataType| {
            let column: ArrayRef = Arc::new(StringArray::from(vec![endpoint]));
            let columns = plain
                .schema()
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .zip(
                    plain
                        .columns()
                        .iter()
                        .map(|column| match column.data_type() {
                            DataType::Utf8 => cast(column, to).unwrap(),
                            _ => Arc::clone(column),
                        }),
                )
                .map(|(name, old)| match name.as_str() {
                    "endpoint" => (name, cast(&column, to).unwrap()),
                    _ => (name, old),
                })
                .collect::<Vec<_>>();
            let mut rows = Rows::default();
            rows.add(&RecordBatch::try_from_iter(columns).unwrap())
                .unwrap();
            rows.interned.system.operations[0].endpoint.clone()
        };
        let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
        for to in [
            DataType::Utf8,
            DataType::LargeUtf8,
            DataType::Utf8View,
            dictionary,
        ] {
            assert_eq!(read("GET /é \"x\"", &to), "GET /é \"x\"", "{to}");
            assert_eq!(read("", &to), UNNAMED, "{to}");
        }
    }

    #[test]
    fn a_bad_value_is_named_with_row_and_column() {
        let good = Arc::new(StringArray::from(vec!["1"])) as ArrayRef;
        let time = Arc::new(TimestampNanosecondArray::from(vec![1])) as ArrayRef;
        let none = Arc::new(Int64Array::from(vec![None])) as ArrayRef;
        let one = Arc::new(Int64Array::from(vec![1])) as ArrayRef;
        let cases = [
            ("xyz", &one, "row 1, column trace_id: is not hexadecimal"),
            ("00", &one, "row 1, column trace_id: is all zeros"),
            ("0102", &none, "row 1, column client_latency_us: is null"),
        ];
        for (trace, latency, expected) in cases {
            let trace = Arc::new(StringArray::from(vec![trace])) as ArrayRef;
            let batch = batch(
                Arc::clone(&time),
                trace,
                Arc::clone(&good),
                Arc::clone(latency),
            );
            assert_eq!(Rows::default().add(&batch).unwrap_err(), expected);
        }
    }
}

//! Rows of a file of recorded calls: columns of several encodings, read into small numbers.

use std::{
    collections::HashMap,
    fmt::Display,
    path::{Path, PathBuf},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::{CastOptions, cast_with_options},
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

/// The longest names that the catalogue takes; a team is named after its service.
const OPERATION_BYTES_MAX: usize = 512;
const SERVICE_BYTES_MAX: usize = 190;
/// Name of a service or an operation whose recorded text is empty.
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
        let times = times(batch, "ts")?;
        let starts = times.as_primitive::<Int64Type>();
        let trace_ids = Ids::of(batch, "trace_id")?;
        let spans = Ids::of(batch, "span_id")?;
        let parents = Ids::of(batch, "parent_span_id")?;
        let sources = texts(batch, "source")?;
        let destinations = texts(batch, "destination")?;
        let endpoints = texts(batch, "endpoint")?;
        let client = numbers(batch, "client_latency_us")?;
        let server = numbers(batch, "server_latency_us")?;
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
            let source = service_name(text(&sources, row)).map_err(|what| at("source", what))?;
            let source = system.service(source);
            let destination =
                service_name(text(&destinations, row)).map_err(|what| at("destination", what))?;
            let destination = system.service(destination);
            let operation =
                operation_name(text(&endpoints, row)).map_err(|what| at("endpoint", what))?;
            let operation = system.operation(destination, operation);
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

fn text(of: &ArrayRef, row: usize) -> &str {
    of.as_string::<i32>().value(row)
}

/// The name of an operation, letter for letter, as far as the catalogue can hold it; OpenAPI knows none without a name.
fn operation_name(text: &str) -> Result<&str, &'static str> {
    match text {
        text if text.trim().is_empty() => Ok(UNNAMED),
        text if text.contains(char::is_control) => Err("holds control characters"),
        text if text.len() > OPERATION_BYTES_MAX => Err("has more than 512 bytes"),
        text => Ok(text),
    }
}

/// The name of a service. One with spaces around it could not be told from one without.
fn service_name(text: &str) -> Result<&str, &'static str> {
    match operation_name(text)? {
        name if name.trim() != name => Err("has spaces around it"),
        name if name.len() > SERVICE_BYTES_MAX => Err("has more than 190 bytes"),
        name => Ok(name),
    }
}

/// The type of the values of a column, however they are packed.
fn values(of: &DataType) -> &DataType {
    match of {
        DataType::Dictionary(_, values) => values,
        DataType::RunEndEncoded(_, values) => values.data_type(),
        of => of,
    }
}

const fn is_bytes(of: &DataType) -> bool {
    matches!(
        of,
        DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_)
    )
}

fn times(batch: &RecordBatch, name: &str) -> Result<ArrayRef, String> {
    let column = column(batch, name)?;
    let of = values(column.data_type());
    if !(of.is_temporal() || of.is_integer() || of.is_string()) {
        return Err(wrong_type(name, "a time", column));
    }
    let times = exactly(
        name,
        column,
        &DataType::Timestamp(TimeUnit::Nanosecond, None),
    )?;
    exactly(name, &times, &DataType::Int64)
}

fn numbers(batch: &RecordBatch, name: &str) -> Result<ArrayRef, String> {
    let column = column(batch, name)?;
    if !values(column.data_type()).is_numeric() {
        return Err(wrong_type(name, "a number", column));
    }
    exactly(name, column, &DataType::Int64)
}

fn texts(batch: &RecordBatch, name: &str) -> Result<ArrayRef, String> {
    let column = column(batch, name)?;
    let of = values(column.data_type());
    // Some writers do not say that their bytes are text.
    if !(of.is_string() || is_bytes(of)) {
        return Err(wrong_type(name, "a text", column));
    }
    exactly(name, column, &DataType::Utf8)
}

fn wrong_type(name: &str, expected: &str, found: &ArrayRef) -> String {
    let found = found.data_type();
    in_column(
        name,
        format_args!("expected {expected}, found the type {found}"),
    )
}

/// The column as another type. A value that does not fit is an error, not a null.
fn exactly(name: &str, column: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(column, to, &options).map_err(|error| in_column(name, error))
}

/// A column of ids, as bytes or as hexadecimal text.
struct Ids {
    array: ArrayRef,
    text: bool,
}

impl Ids {
    fn of(batch: &RecordBatch, name: &str) -> Result<Self, String> {
        let array = column(batch, name)?;
        let of = values(array.data_type());
        let text = of.is_string();
        if !(text || is_bytes(of) || of.is_integer()) {
            return Err(wrong_type(name, "an id as bytes or as text", array));
        }
        let to = if text {
            DataType::Utf8
        } else {
            DataType::Binary
        };
        let array = exactly(name, array, &to)?;
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

    use arrow::{
        array::{
            BinaryArray, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, StringArray,
            TimestampMicrosecondArray, TimestampNanosecondArray,
        },
        compute::cast,
        datatypes::Field,
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

    fn plain() -> RecordBatch {
        batch(
            Arc::new(TimestampNanosecondArray::from(vec![1_000_000])),
            Arc::new(StringArray::from(vec!["0a"])),
            Arc::new(StringArray::from(vec!["1"])),
            Arc::new(Int64Array::from(vec![7])),
        )
    }

    /// The batch with another column of that name.
    fn with(batch: &RecordBatch, name: &str, column: ArrayRef) -> RecordBatch {
        let names = batch.schema();
        let names = names.fields().iter().map(|field| field.name().clone());
        let columns = names
            .zip(batch.columns())
            .map(|(of, old)| match of == name {
                true => (of, Arc::clone(&column)),
                false => (of, Arc::clone(old)),
            });
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn words(text: &str) -> ArrayRef {
        Arc::new(StringArray::from(vec![text]))
    }

    #[test]
    fn texts_of_any_encoding_are_read_and_an_empty_one_gets_a_name() {
        let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
        for to in [
            DataType::Utf8,
            DataType::LargeUtf8,
            DataType::Utf8View,
            DataType::Binary,
            dictionary,
        ] {
            let read = |text: &str| {
                let mut packed = plain();
                for column in ["source", "destination", "endpoint"] {
                    packed = with(&packed, column, cast(&words(text), &to).unwrap());
                }
                let mut rows = Rows::default();
                rows.add(&packed).unwrap();
                let system = rows.interned.system;
                let names = [&system.operations[0].endpoint, &system.services[0].name];
                names.map(ToOwned::to_owned)
            };
            assert_eq!(read("GET /é \"x\""), ["GET /é \"x\""; 2], "{to}");
            assert_eq!(read(""), [UNNAMED; 2], "{to}");
        }
    }

    #[test]
    fn a_column_of_another_type_is_named_with_both_types() {
        let list = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
        let list = cast(&words("a"), &list).unwrap();
        let moment = Arc::clone(plain().column_by_name("ts").unwrap());
        let numbers: ArrayRef = Arc::new(Float64Array::from(vec![1.5]));
        let cases = [
            (
                "client_latency_us",
                words("7"),
                "column client_latency_us: expected a number, found the type Utf8",
            ),
            (
                "server_latency_us",
                moment,
                "column server_latency_us: expected a number, found the type Timestamp",
            ),
            (
                "endpoint",
                Arc::clone(&list),
                "column endpoint: expected a text, found the type List",
            ),
            (
                "source",
                Arc::clone(&numbers),
                "column source: expected a text, found the type Float64",
            ),
            (
                "span_id",
                Arc::clone(&list),
                "column span_id: expected an id as bytes or as text, found the type List",
            ),
            (
                "ts",
                numbers,
                "column ts: expected a time, found the type Float64",
            ),
        ];
        for (column, values, expected) in cases {
            let refused = Rows::default().add(&with(&plain(), column, values));
            let refused = refused.unwrap_err();
            assert!(refused.starts_with(expected), "{refused}");
        }
    }

    #[test]
    fn a_name_that_the_catalogue_cannot_hold_is_refused_with_its_row() {
        let long = "x".repeat(191);
        let cases = [
            ("source", " a", "has spaces around it"),
            ("destination", long.as_str(), "has more than 190 bytes"),
            ("endpoint", "GET\n/", "holds control characters"),
        ];
        for (column, text, what) in cases {
            let refused = Rows::default().add(&with(&plain(), column, words(text)));
            assert_eq!(
                refused.unwrap_err(),
                format!("row 1, column {column}: {what}")
            );
        }
        let taken = Rows::default().add(&with(&plain(), "endpoint", words(" GET / ")));
        assert_eq!(taken, Ok(()));
    }

    #[test]
    fn a_number_that_is_none_is_no_null() {
        let nothing: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN]));
        let refused = Rows::default().add(&with(&plain(), "client_latency_us", nothing));
        let refused = refused.unwrap_err();
        assert!(
            refused.contains("client_latency_us") && !refused.contains("null"),
            "{refused}"
        );
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

//! From canonical bytes to Arrow rows.

use arrow::array::{
    ArrayBuilder, ArrayRef, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, Int64Builder,
    ListBuilder, RecordBatch, StringBuilder, TimestampNanosecondBuilder, UInt16Builder,
    UInt64Builder,
};
use arrow::error::ArrowError;
use counterfoil_entry::Time;
use counterfoil_entry::record::{RecordError, RecordView};
use counterfoil_entry::table::{Column, Shape, Table, TableId};
use counterfoil_entry::tlv::{Encoder, Field, TlvError};
use std::sync::Arc;

use crate::schema::{Envelope, UTC, has_statement, schema};

/// Why an entry cannot be a row of its table, or a row no entry.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The canonical bytes do not begin as an entry's.
    #[error("decoding an entry")]
    Record(#[from] RecordError),
    /// The fields do not parse.
    #[error("decoding the fields of an entry")]
    Tlv(#[from] TlvError),
    /// The entry is of another table.
    #[error("expected an entry of table {expected}, found table id {found}")]
    Table {
        /// Name of the table.
        expected: &'static str,
        /// Table id in the entry.
        found: u16,
    },
    /// A column that must be there is not.
    #[error("column {0} is missing")]
    Missing(&'static str),
    /// A column's value has another kind or length, or is out of range.
    #[error("column {0} has a value of the wrong kind, length or range")]
    Value(&'static str),
    /// Arrow refused the columns.
    #[error("building a record batch")]
    Arrow(#[from] ArrowError),
}

/// Checks that `record` can be a row of `id`: every rule that [`RowBuilder::push`] applies.
///
/// # Errors
/// As [`RowBuilder::push`].
pub fn check(id: TableId, record: &[u8]) -> Result<(), RowError> {
    parse(id.table(), record).map(|_| ())
}

/// When the entry's event began: the column `start_time`, where its table has one.
///
/// # Errors
/// [`RowError::Record`] or [`RowError::Tlv`] when the bytes do not parse.
pub fn start_time(id: TableId, record: &[u8]) -> Result<Option<Time>, RowError> {
    let Some(column) = id
        .table()
        .columns
        .iter()
        .find(|column| column.name == "start_time")
    else {
        return Ok(None);
    };
    for field in RecordView::parse(record)?.decoder() {
        match field? {
            (at, Field::Time(time)) if at == column.id => return Ok(Some(time)),
            (at, _) if at > column.id => break,
            _ => {}
        }
    }
    Ok(None)
}

/// Builds record batches of one table from canonical bytes and envelopes.
#[derive(Debug)]
pub struct RowBuilder {
    table: &'static Table,
    columns: Vec<Cells>,
    envelope: EnvelopeCells,
}

impl RowBuilder {
    /// A builder for rows of `id`.
    #[must_use]
    pub fn new(id: TableId) -> Self {
        let table = id.table();
        Self {
            table,
            columns: table
                .columns
                .iter()
                .map(|column| Cells::new(column.shape))
                .collect(),
            envelope: EnvelopeCells::new(),
        }
    }

    /// Rows pushed since the last [`Self::finish`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.envelope.origin.len()
    }

    /// Whether no row was pushed since the last [`Self::finish`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds one row; fields that the table does not know go to `unknown_fields`.
    ///
    /// # Errors
    /// [`RowError`] when the entry breaks its table's rules; the builder is unchanged then.
    pub fn push(&mut self, record: &[u8], envelope: &Envelope<'_>) -> Result<(), RowError> {
        let row = parse(self.table, record)?;
        for ((cells, field), column) in self
            .columns
            .iter_mut()
            .zip(&row.fields)
            .zip(self.table.columns)
        {
            cells
                .append(field.as_ref())
                .ok_or(RowError::Value(column.name))?;
        }
        self.envelope.append(envelope, &row.unknown);
        Ok(())
    }

    /// The rows pushed so far as a batch of [`schema`]; the builder is empty afterwards.
    ///
    /// # Errors
    /// [`RowError::Arrow`] when the columns do not fit together.
    pub fn finish(&mut self) -> Result<RecordBatch, RowError> {
        let mut arrays: Vec<ArrayRef> = self.columns.iter_mut().map(Cells::finish).collect();
        arrays.extend(self.envelope.finish(has_statement(self.table.id)));
        Ok(RecordBatch::try_new(schema(self.table.id), arrays)?)
    }
}

/// An entry's fields in column order, checked, and the ones without a column as a TLV sequence.
struct Parsed<'a> {
    fields: Vec<Option<Field<'a>>>,
    unknown: Vec<u8>,
}

fn parse<'a>(table: &'static Table, record: &'a [u8]) -> Result<Parsed<'a>, RowError> {
    let view = RecordView::parse(record)?;
    if view.table != table.id.number() {
        return Err(RowError::Table {
            expected: table.id.name(),
            found: view.table,
        });
    }
    let mut row = Parsed {
        fields: Vec::with_capacity(table.columns.len()),
        unknown: Vec::new(),
    };
    let mut columns = table.columns.iter().peekable();
    let mut unknown = Encoder::new(&mut row.unknown);
    for field in view.decoder() {
        let (id, field) = field?;
        while let Some(absent) = columns.next_if(|column| column.id < id) {
            row.fields.push(absence(absent)?);
        }
        match columns.next_if(|column| column.id == id) {
            Some(column) if fits(column.shape, &field) => row.fields.push(Some(field)),
            Some(column) => return Err(RowError::Value(column.name)),
            None => _ = unknown.field_of(id, &field),
        }
    }
    for absent in columns {
        row.fields.push(absence(absent)?);
    }
    Ok(row)
}

const fn absence<'a>(column: &Column) -> Result<Option<Field<'a>>, RowError> {
    if column.nullable {
        Ok(None)
    } else {
        Err(RowError::Missing(column.name))
    }
}

fn fits(shape: Shape, field: &Field<'_>) -> bool {
    match (shape, field) {
        (Shape::Bool, Field::Bool(_))
        | (Shape::I64, Field::I64(_))
        | (Shape::U64, Field::U64(_))
        | (Shape::Text, Field::Text(_))
        | (Shape::Time, Field::Time(_))
        | (Shape::Binary, Field::Bytes(_)) => true,
        (Shape::U16, Field::U64(value)) => u16::try_from(*value).is_ok(),
        (Shape::Fixed(len), Field::Bytes(bytes)) => bytes.len() == usize::from(len),
        (Shape::TextList, Field::List(list)) => {
            list.iter().all(|item| matches!(item, Field::Text(_)))
        }
        _ => false,
    }
}

/// One column under construction.
#[derive(Debug)]
enum Cells {
    Bool(BooleanBuilder),
    I64(Int64Builder),
    U64(UInt64Builder),
    U16(UInt16Builder),
    Text(StringBuilder),
    Time(TimestampNanosecondBuilder),
    Fixed(FixedSizeBinaryBuilder),
    Binary(BinaryBuilder),
    TextList(ListBuilder<StringBuilder>),
}

impl Cells {
    fn new(shape: Shape) -> Self {
        match shape {
            Shape::Bool => Self::Bool(BooleanBuilder::new()),
            Shape::I64 => Self::I64(Int64Builder::new()),
            Shape::U64 => Self::U64(UInt64Builder::new()),
            Shape::U16 => Self::U16(UInt16Builder::new()),
            Shape::Text => Self::Text(StringBuilder::new()),
            Shape::Time => Self::Time(times()),
            Shape::Fixed(bytes) => Self::Fixed(FixedSizeBinaryBuilder::new(i32::from(bytes))),
            Shape::Binary => Self::Binary(BinaryBuilder::new()),
            Shape::TextList => Self::TextList(ListBuilder::new(StringBuilder::new())),
        }
    }

    /// Appends a field that [`fits`]; `None` when it does not.
    fn append(&mut self, field: Option<&Field<'_>>) -> Option<()> {
        match (self, field) {
            (Self::Bool(cells), Some(Field::Bool(value))) => cells.append_value(*value),
            (Self::Bool(cells), None) => cells.append_null(),
            (Self::I64(cells), Some(Field::I64(value))) => cells.append_value(*value),
            (Self::I64(cells), None) => cells.append_null(),
            (Self::U64(cells), Some(Field::U64(value))) => cells.append_value(*value),
            (Self::U64(cells), None) => cells.append_null(),
            (Self::U16(cells), Some(Field::U64(value))) => {
                cells.append_value(u16::try_from(*value).ok()?);
            }
            (Self::U16(cells), None) => cells.append_null(),
            (Self::Text(cells), Some(Field::Text(value))) => cells.append_value(value),
            (Self::Text(cells), None) => cells.append_null(),
            (Self::Time(cells), Some(Field::Time(value))) => cells.append_value(value.as_ns()),
            (Self::Time(cells), None) => cells.append_null(),
            (Self::Fixed(cells), Some(Field::Bytes(value))) => cells.append_value(value).ok()?,
            (Self::Fixed(cells), None) => cells.append_null(),
            (Self::Binary(cells), Some(Field::Bytes(value))) => cells.append_value(value),
            (Self::Binary(cells), None) => cells.append_null(),
            (Self::TextList(cells), Some(Field::List(list))) => {
                for item in list.iter() {
                    let Field::Text(item) = item else { return None };
                    cells.values().append_value(item);
                }
                cells.append(true);
            }
            (Self::TextList(cells), None) => cells.append_null(),
            _ => return None,
        }
        Some(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bool(cells) => Arc::new(cells.finish()),
            Self::I64(cells) => Arc::new(cells.finish()),
            Self::U64(cells) => Arc::new(cells.finish()),
            Self::U16(cells) => Arc::new(cells.finish()),
            Self::Text(cells) => Arc::new(cells.finish()),
            Self::Time(cells) => Arc::new(cells.finish()),
            Self::Fixed(cells) => Arc::new(cells.finish()),
            Self::Binary(cells) => Arc::new(cells.finish()),
            Self::TextList(cells) => Arc::new(cells.finish()),
        }
    }
}

fn times() -> TimestampNanosecondBuilder {
    TimestampNanosecondBuilder::new().with_timezone(UTC)
}

/// The envelope's columns under construction.
#[derive(Debug)]
struct EnvelopeCells {
    received_at: TimestampNanosecondBuilder,
    origin: StringBuilder,
    statement: UInt64Builder,
    segment: UInt64Builder,
    leaf_index: UInt64Builder,
    retention_class: StringBuilder,
    delivery: StringBuilder,
    attribution: StringBuilder,
    unknown_fields: BinaryBuilder,
}

impl EnvelopeCells {
    fn new() -> Self {
        Self {
            received_at: times(),
            origin: StringBuilder::new(),
            statement: UInt64Builder::new(),
            segment: UInt64Builder::new(),
            leaf_index: UInt64Builder::new(),
            retention_class: StringBuilder::new(),
            delivery: StringBuilder::new(),
            attribution: StringBuilder::new(),
            unknown_fields: BinaryBuilder::new(),
        }
    }

    fn append(&mut self, envelope: &Envelope<'_>, unknown: &[u8]) {
        self.received_at.append_value(envelope.received_at.as_ns());
        self.origin.append_value(envelope.origin);
        self.statement.append_option(envelope.statement);
        self.segment.append_option(envelope.segment);
        self.leaf_index.append_option(envelope.leaf_index);
        self.retention_class.append_value(envelope.retention_class);
        self.delivery.append_value(envelope.delivery.as_str());
        self.attribution.append_value(envelope.attribution.as_str());
        self.unknown_fields
            .append_option((!unknown.is_empty()).then_some(unknown));
    }

    fn finish(&mut self, with_statement: bool) -> Vec<ArrayRef> {
        let statement: ArrayRef = Arc::new(self.statement.finish());
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(self.received_at.finish()),
            Arc::new(self.origin.finish()),
        ];
        arrays.extend(with_statement.then_some(statement));
        let rest: [ArrayRef; 6] = [
            Arc::new(self.segment.finish()),
            Arc::new(self.leaf_index.finish()),
            Arc::new(self.retention_class.finish()),
            Arc::new(self.delivery.finish()),
            Arc::new(self.attribution.finish()),
            Arc::new(self.unknown_fields.finish()),
        ];
        arrays.extend(rest);
        arrays
    }
}

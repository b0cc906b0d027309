//! From Arrow rows back to canonical bytes, letter for letter.

use arrow::array::{
    Array, AsArray, BinaryArray, BooleanArray, FixedSizeBinaryArray, ListArray, RecordBatch,
    StringArray,
};
use arrow::datatypes::{
    ArrowPrimitiveType, Int64Type, TimestampNanosecondType, UInt16Type, UInt64Type,
};
use counterfoil_entry::Time;
use counterfoil_entry::record::DOMAIN;
use counterfoil_entry::table::{Column, Shape, Table, TableId};
use counterfoil_entry::tlv::{Decoder, Encoder};

use crate::row::RowError;
use crate::schema::{Attribution, Delivery, Envelope, STATEMENT, has_statement};

/// Reads the rows of one batch as entries and envelopes.
#[derive(Debug)]
pub struct RowReader<'a> {
    table: &'static Table,
    schema_version: u16,
    columns: Vec<Values<'a>>,
    received_at: &'a arrow::array::TimestampNanosecondArray,
    origin: &'a StringArray,
    statement: Option<&'a arrow::array::UInt64Array>,
    segment: &'a arrow::array::UInt64Array,
    leaf_index: &'a arrow::array::UInt64Array,
    retention_class: &'a StringArray,
    delivery: &'a StringArray,
    attribution: &'a StringArray,
    unknown_fields: &'a BinaryArray,
}

impl<'a> RowReader<'a> {
    /// A reader of `batch`, whose columns are those of [`crate::schema()`] for `id`, by name.
    ///
    /// `schema_version` is the one of the segment; it is part of the canonical bytes.
    ///
    /// # Errors
    /// [`RowError::Missing`] or [`RowError::Value`] for a column that is not there or has another type.
    pub fn new(id: TableId, schema_version: u16, batch: &'a RecordBatch) -> Result<Self, RowError> {
        let table = id.table();
        let columns = table.columns.iter().map(|column| Values::of(batch, column));
        Ok(Self {
            table,
            schema_version,
            columns: columns.collect::<Result<_, _>>()?,
            received_at: primitive::<TimestampNanosecondType>(batch, "received_at")?,
            origin: text(batch, "origin")?,
            statement: has_statement(id)
                .then(|| primitive::<UInt64Type>(batch, STATEMENT))
                .transpose()?,
            segment: primitive::<UInt64Type>(batch, "segment")?,
            leaf_index: primitive::<UInt64Type>(batch, "leaf_index")?,
            retention_class: text(batch, "retention_class")?,
            delivery: text(batch, "delivery")?,
            attribution: text(batch, "attribution")?,
            unknown_fields: binary(batch, "unknown_fields")?,
        })
    }

    /// Appends the canonical bytes of row `row` to `out`; `row` is below the batch's row count.
    ///
    /// # Errors
    /// [`RowError::Tlv`] when `unknown_fields` is no TLV sequence, or repeats a column's id.
    pub fn record(&self, row: usize, out: &mut Vec<u8>) -> Result<(), RowError> {
        out.extend_from_slice(DOMAIN);
        out.extend_from_slice(&self.table.id.number().to_be_bytes());
        out.extend_from_slice(&self.schema_version.to_be_bytes());
        let mut encoder = Encoder::new(out);
        let unknown = self.unknown_fields;
        let bytes = if unknown.is_null(row) {
            &[]
        } else {
            unknown.value(row)
        };
        let mut unknown = Decoder::new(bytes)
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .peekable();
        for (column, values) in self.table.columns.iter().zip(&self.columns) {
            while let Some((id, field)) = unknown.next_if(|(id, _)| *id < column.id) {
                encoder.field_of(id, &field);
            }
            if unknown.peek().is_some_and(|(id, _)| *id == column.id) {
                return Err(RowError::Value("unknown_fields"));
            }
            values.encode(row, column.id, &mut encoder);
        }
        for (id, field) in unknown {
            encoder.field_of(id, &field);
        }
        Ok(())
    }

    /// The envelope of row `row`; `row` is below the batch's row count.
    ///
    /// # Errors
    /// [`RowError::Value`] when `delivery` or `attribution` holds a word unknown here.
    pub fn envelope(&self, row: usize) -> Result<Envelope<'a>, RowError> {
        let delivery = Delivery::parse(self.delivery.value(row));
        let attribution = Attribution::parse(self.attribution.value(row));
        let number =
            |array: &'a arrow::array::UInt64Array| (!array.is_null(row)).then(|| array.value(row));
        Ok(Envelope {
            received_at: Time::from_ns(self.received_at.value(row)),
            origin: self.origin.value(row),
            statement: self.statement.and_then(number),
            segment: number(self.segment),
            leaf_index: number(self.leaf_index),
            retention_class: self.retention_class.value(row),
            delivery: delivery.ok_or(RowError::Value("delivery"))?,
            attribution: attribution.ok_or(RowError::Value("attribution"))?,
        })
    }
}

/// One column of a batch in its own type.
#[derive(Debug)]
enum Values<'a> {
    Bool(&'a BooleanArray),
    I64(&'a arrow::array::Int64Array),
    U64(&'a arrow::array::UInt64Array),
    U16(&'a arrow::array::UInt16Array),
    Text(&'a StringArray),
    Time(&'a arrow::array::TimestampNanosecondArray),
    Fixed(&'a FixedSizeBinaryArray),
    Binary(&'a BinaryArray),
    TextList(&'a ListArray, &'a StringArray),
}

impl<'a> Values<'a> {
    fn of(batch: &'a RecordBatch, column: &Column) -> Result<Self, RowError> {
        let name = column.name;
        let wrong = || RowError::Value(name);
        Ok(match column.shape {
            Shape::Bool => Self::Bool(array(batch, name)?.as_boolean_opt().ok_or_else(wrong)?),
            Shape::I64 => Self::I64(primitive::<Int64Type>(batch, name)?),
            Shape::U64 => Self::U64(primitive::<UInt64Type>(batch, name)?),
            Shape::U16 => Self::U16(primitive::<UInt16Type>(batch, name)?),
            Shape::Text => Self::Text(text(batch, name)?),
            Shape::Time => Self::Time(primitive::<TimestampNanosecondType>(batch, name)?),
            Shape::Fixed(_) => Self::Fixed(
                array(batch, name)?
                    .as_fixed_size_binary_opt()
                    .ok_or_else(wrong)?,
            ),
            Shape::Binary => Self::Binary(binary(batch, name)?),
            Shape::TextList => {
                let list = array(batch, name)?.as_list_opt::<i32>().ok_or_else(wrong)?;
                Self::TextList(
                    list,
                    list.values().as_string_opt::<i32>().ok_or_else(wrong)?,
                )
            }
        })
    }

    fn encode(&self, row: usize, id: u16, out: &mut Encoder<'_>) {
        match self {
            Self::Bool(array) if array.is_valid(row) => _ = out.bool(id, array.value(row)),
            Self::I64(array) if array.is_valid(row) => _ = out.i64(id, array.value(row)),
            Self::U64(array) if array.is_valid(row) => _ = out.u64(id, array.value(row)),
            Self::U16(array) if array.is_valid(row) => _ = out.u64(id, array.value(row).into()),
            Self::Text(array) if array.is_valid(row) => _ = out.text(id, array.value(row)),
            Self::Time(array) if array.is_valid(row) => {
                out.time(id, Time::from_ns(array.value(row)));
            }
            Self::Fixed(array) if array.is_valid(row) => _ = out.bytes(id, array.value(row)),
            Self::Binary(array) if array.is_valid(row) => _ = out.bytes(id, array.value(row)),
            Self::TextList(list, items) if list.is_valid(row) => {
                let offsets = list.value_offsets();
                let bound = |at: usize| offsets.get(at).and_then(|&at| usize::try_from(at).ok());
                let range = bound(row).unwrap_or(0)..bound(row + 1).unwrap_or(0);
                let values: Vec<&str> = range.map(|at| items.value(at)).collect();
                out.texts(id, &values);
            }
            _ => {}
        }
    }
}

fn array<'a>(
    batch: &'a RecordBatch,
    name: &'static str,
) -> Result<&'a arrow::array::ArrayRef, RowError> {
    batch.column_by_name(name).ok_or(RowError::Missing(name))
}

fn primitive<'a, T: ArrowPrimitiveType>(
    batch: &'a RecordBatch,
    name: &'static str,
) -> Result<&'a arrow::array::PrimitiveArray<T>, RowError> {
    array(batch, name)?
        .as_primitive_opt::<T>()
        .ok_or(RowError::Value(name))
}

fn text<'a>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a StringArray, RowError> {
    array(batch, name)?
        .as_string_opt::<i32>()
        .ok_or(RowError::Value(name))
}

fn binary<'a>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a BinaryArray, RowError> {
    array(batch, name)?
        .as_binary_opt::<i32>()
        .ok_or(RowError::Value(name))
}

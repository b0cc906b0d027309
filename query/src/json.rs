//! Rows as JSON: integers as numbers, times as RFC 3339 text, bytes as hex.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Number, Value};

/// The names of `schema` as keys of an object: what occurs again gets a number, as in `count_2`.
#[must_use]
pub fn keys(schema: &Schema) -> Vec<String> {
    let mut keys: Vec<String> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let mut key = field.name().clone();
        let mut number = 2;
        while keys.contains(&key) {
            key = format!("{}_{number}", field.name());
            number += 1;
        }
        keys.push(key);
    }
    keys
}

/// The rows of `batch` as objects of [`keys`], in the order of the columns.
///
/// # Errors
/// When a value has a type that cannot be shown.
pub fn rows(schema: &Schema, batch: &RecordBatch) -> Result<Vec<Value>, ArrowError> {
    let mut rows = vec![Map::new(); batch.num_rows()];
    for (key, column) in keys(schema).into_iter().zip(batch.columns()) {
        for (index, row) in rows.iter_mut().enumerate() {
            row.insert(key.clone(), value(column, index)?);
        }
    }
    Ok(rows.into_iter().map(Value::Object).collect())
}

/// The PostgreSQL name of a column's type.
#[must_use]
pub fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "boolean",
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "smallint",
        DataType::Int32 | DataType::UInt16 => "integer",
        DataType::Int64 | DataType::UInt32 => "bigint",
        DataType::UInt64 | DataType::Decimal128(..) | DataType::Decimal256(..) => "numeric",
        DataType::Float16 | DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone",
        DataType::Timestamp(_, None) => "timestamp without time zone",
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Time32(_) | DataType::Time64(_) => "time without time zone",
        DataType::Interval(_) | DataType::Duration(_) => "interval",
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => "bytea",
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => "array",
        DataType::Struct(_) => "record",
        _ => "text",
    }
}

fn value(column: &ArrayRef, index: usize) -> Result<Value, ArrowError> {
    if column.is_null(index) {
        return Ok(Value::Null);
    }
    Ok(match column.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(column.as_boolean().value(index)),
        DataType::Int8 => column.as_primitive::<Int8Type>().value(index).into(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(index).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(index).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(index).into(),
        DataType::UInt8 => column.as_primitive::<UInt8Type>().value(index).into(),
        DataType::UInt16 => column.as_primitive::<UInt16Type>().value(index).into(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(index).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(index).into(),
        DataType::Float32 => float(f64::from(column.as_primitive::<Float32Type>().value(index))),
        DataType::Float64 => float(column.as_primitive::<Float64Type>().value(index)),
        DataType::List(_) => items(&column.as_list::<i32>().value(index))?,
        DataType::Struct(fields) => {
            let mut object = Map::new();
            for (field, column) in fields.iter().zip(column.as_struct().columns()) {
                let _duplicate = object.insert(field.name().clone(), value(column, index)?);
            }
            Value::Object(object)
        }
        _ => Value::String(text(column, index)?),
    })
}

fn items(column: &ArrayRef) -> Result<Value, ArrowError> {
    (0..column.len())
        .map(|index| value(column, index))
        .collect::<Result<_, _>>()
        .map(Value::Array)
}

fn float(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn text(column: &ArrayRef, index: usize) -> Result<String, ArrowError> {
    let options = FormatOptions::new()
        .with_timestamp_format(Some("%Y-%m-%dT%H:%M:%S%.f"))
        .with_timestamp_tz_format(Some("%Y-%m-%dT%H:%M:%S%.fZ"));
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
    formatter.value(index).try_to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::datatypes::Field;

    use datafusion::arrow::array::{BinaryArray, Int64Array, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn integers_are_numbers_and_times_rfc_3339() {
        let batch = RecordBatch::try_from_iter([
            (
                "n",
                Arc::new(Int64Array::from(vec![Some(i64::MAX), None])) as ArrayRef,
            ),
            (
                "b",
                Arc::new(BinaryArray::from(vec![Some(&[1_u8, 0xab][..]), None])) as ArrayRef,
            ),
            (
                "t",
                Arc::new(
                    TimestampMicrosecondArray::from(vec![Some(1_500_000), None])
                        .with_timezone("UTC"),
                ) as ArrayRef,
            ),
        ])
        .unwrap();
        let rows = Value::Array(rows(&batch.schema(), &batch).unwrap());
        assert_eq!(
            rows.to_string(),
            r#"[{"n":9223372036854775807,"b":"01ab","t":"1970-01-01T00:00:01.500Z"},{"n":null,"b":null,"t":null}]"#
        );
    }

    #[test]
    fn columns_of_one_name_all_stay_in_the_row() {
        let column = |n: i64| Arc::new(Int64Array::from(vec![n])) as ArrayRef;
        let field = |name: &str| Field::new(name, DataType::Int64, true);
        let schema = Arc::new(Schema::new(vec![
            field("count"),
            field("count_2"),
            field("count"),
        ]));
        let batch =
            RecordBatch::try_new(Arc::clone(&schema), vec![column(1), column(2), column(3)]);
        let rows = Value::Array(rows(&schema, &batch.unwrap()).unwrap());
        assert_eq!(rows.to_string(), r#"[{"count":1,"count_2":2,"count_3":3}]"#);
    }
}

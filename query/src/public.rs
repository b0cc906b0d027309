//! Tables of the books in types that PostgreSQL and BI tools know, and predicates on them turned
//! into predicates on the raw columns, so that pruning works.
//!
//! Ids become lower-case hex text, times microseconds, unsigned numbers bigint, lists of words one
//! text separated by commas.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, DataFusionError, Result, ScalarValue};
use datafusion::datasource::TableType;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Between, BinaryExpr, Cast, ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TableProviderFilterPushDown, TypeSignature, Volatility, lit,
};
use datafusion::physical_expr::expressions::{CastExpr, col};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

use crate::raw::RawTable;

const NS_PER_US: i64 = 1_000;

/// A raw table behind PostgreSQL's types.
#[derive(Debug)]
pub struct PublicTable {
    raw: Arc<RawTable>,
    schema: SchemaRef,
}

impl PublicTable {
    /// `raw` as the schema `public` shows it.
    #[must_use]
    pub fn new(raw: Arc<RawTable>) -> Self {
        let schema = public_schema(&raw.schema());
        Self { raw, schema }
    }

    /// The predicates on raw columns that follow from `filters`; rows they keep may still fall.
    fn raw_filters(&self, filters: &[Expr]) -> Vec<Expr> {
        let raw = self.raw.schema();
        let parts = filters.iter().flat_map(split_conjunction);
        parts.filter_map(|filter| translate(filter, &raw)).collect()
    }
}

/// The schema that `public` shows for a raw one.
#[must_use]
pub fn public_schema(raw: &Schema) -> SchemaRef {
    let field = |field: &Arc<Field>| {
        Field::new(
            field.name(),
            public_type(field.data_type()),
            field.is_nullable(),
        )
    };
    Arc::new(Schema::new(
        raw.fields().iter().map(field).collect::<Vec<_>>(),
    ))
}

/// The type of schema `public` for a raw one.
pub(crate) fn public_type(raw: &DataType) -> DataType {
    match raw {
        DataType::UInt64 | DataType::UInt32 | DataType::UInt16 | DataType::Int64 => DataType::Int64,
        DataType::Timestamp(_, _) => timestamptz(),
        DataType::FixedSizeBinary(_) | DataType::Binary | DataType::List(_) => DataType::Utf8,
        other => other.clone(),
    }
}

/// `timestamp with time zone`
#[must_use]
pub fn timestamptz() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
}

#[async_trait]
impl TableProvider for PublicTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let limit = limit.filter(|_| filters.is_empty());
        let input = self
            .raw
            .scan(state, projection, &self.raw_filters(filters), limit)
            .await?;
        let schema = input.schema();
        let mut columns = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            let config = Arc::clone(state.config().options());
            columns.push((converted(field, &schema, config)?, field.name().clone()));
        }
        Ok(Arc::new(ProjectionExec::try_new(columns, input)?))
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let raw = self.raw.schema();
        let support = |filter: &&Expr| match translate(filter, &raw) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }
}

/// The raw column `field` as an expression of its public type.
fn converted(
    field: &Field,
    schema: &Schema,
    config: Arc<datafusion::config::ConfigOptions>,
) -> Result<Arc<dyn PhysicalExpr>> {
    let column = col(field.name(), schema)?;
    let target = public_type(field.data_type());
    if target == *field.data_type() {
        return Ok(column);
    }
    if target != DataType::Utf8 {
        // A number beyond bigint, which only a writer that lies can have, is null here and as it is
        // in `raw`: one such entry must not make all others unreadable.
        let safe = datafusion::common::format::DEFAULT_CAST_OPTIONS;
        let safe = datafusion::arrow::compute::CastOptions { safe: true, ..safe };
        return Ok(Arc::new(CastExpr::new(column, target, Some(safe))));
    }
    let function = Arc::new(ScalarUDF::new_from_impl(AsText::new()));
    let expr = ScalarFunctionExpr::try_new(function, vec![column], schema, config)?;
    Ok(Arc::new(expr))
}

/// `as_text(value)`: bytes as lower-case hex, a list of texts as one text separated by commas.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct AsText {
    signature: Signature,
}

impl AsText {
    pub(crate) fn new() -> Self {
        Self {
            signature: Signature::new(TypeSignature::Any(1), Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for AsText {
    fn name(&self) -> &str {
        "as_text"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [array] = arrays.as_slice() else {
            return Err(DataFusionError::Plan(
                "as_text takes one argument".to_owned(),
            ));
        };
        let mut out = StringBuilder::new();
        match array.data_type() {
            DataType::FixedSizeBinary(_) => {
                for value in array.as_fixed_size_binary().iter() {
                    out.append_option(value.map(hex::encode));
                }
            }
            DataType::Binary => {
                for value in array.as_binary::<i32>().iter() {
                    out.append_option(value.map(hex::encode));
                }
            }
            DataType::List(_) => {
                for value in array.as_list::<i32>().iter() {
                    out.append_option(value.map(|items| joined(&items)));
                }
            }
            other => {
                return Err(DataFusionError::Plan(format!(
                    "as_text does not take {other}"
                )));
            }
        }
        Ok(ColumnarValue::Array(Arc::new(out.finish())))
    }
}

fn joined(items: &ArrayRef) -> String {
    match items.as_string_opt::<i32>() {
        Some(texts) => texts.iter().flatten().collect::<Vec<_>>().join(","),
        None => String::new(),
    }
}

/// A predicate on raw columns that holds wherever `filter` on the public ones does; `None` when
/// nothing useful follows.
fn translate(filter: &Expr, raw: &Schema) -> Option<Expr> {
    match filter {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::And,
            right,
        }) => match (translate(left, raw), translate(right, raw)) {
            (Some(left), Some(right)) => Some(left.and(right)),
            (one, other) => one.or(other),
        },
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Or,
            right,
        }) => Some(translate(left, raw)?.or(translate(right, raw)?)),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            if let (Some(column), Expr::Literal(value, _)) = (raw_column(left, raw), &**right) {
                return compare(column, *op, value);
            }
            if let (Expr::Literal(value, _), Some(column)) = (&**left, raw_column(right, raw)) {
                return compare(column, op.swap()?, value);
            }
            None
        }
        Expr::Between(Between {
            expr,
            negated: false,
            low,
            high,
        }) => {
            let (Expr::Literal(low, _), Expr::Literal(high, _)) = (&**low, &**high) else {
                return None;
            };
            let column = raw_column(expr, raw)?;
            let above = compare(column, Operator::GtEq, low)?;
            Some(above.and(compare(column, Operator::LtEq, high)?))
        }
        Expr::InList(InList {
            expr,
            list,
            negated: false,
        }) => {
            let column = raw_column(expr, raw)?;
            let literals: Option<Vec<&ScalarValue>> = list
                .iter()
                .map(|item| match item {
                    Expr::Literal(value, _) => Some(value),
                    _ => None,
                })
                .collect();
            one_of(column, &literals?)
        }
        Expr::IsNull(inner) => {
            let column = raw_column(inner, raw)?;
            // Null here may be a number beyond bigint there.
            (*column.data_type() != DataType::UInt64).then(|| raw_expr(column).is_null())
        }
        Expr::IsNotNull(inner) => Some(raw_expr(raw_column(inner, raw)?).is_not_null()),
        _ => None,
    }
}

/// That `field` is one of `values`, as a list, never as a chain of comparisons: a chain is as deep as it
/// is long, and is walked for every row. Times, each of which is a range, become one range of all.
fn one_of(field: RawColumn<'_>, values: &[&ScalarValue]) -> Option<Expr> {
    if let DataType::Timestamp(..) = field.data_type() {
        let times: Option<Vec<i64>> = values.iter().map(|value| nanoseconds(value)).collect();
        let times = times?;
        let bound = |ns: Option<&i64>| Some(ScalarValue::TimestampNanosecond(Some(*ns?), None));
        let above = compare(field, Operator::GtEq, &bound(times.iter().min())?)?;
        return Some(above.and(compare(field, Operator::LtEq, &bound(times.iter().max())?)?));
    }
    let literals: Option<Vec<Expr>> = values
        .iter()
        .map(|value| match compare(field, Operator::Eq, value)? {
            Expr::BinaryExpr(BinaryExpr { right, .. }) => Some(*right),
            _ => None,
        })
        .collect();
    Some(raw_expr(field).in_list(literals?, false))
}

/// A raw column, and whether the filter saw it through a cast that only changes units or zones.
type RawColumn<'a> = &'a Arc<Field>;

fn raw_column<'a>(expr: &Expr, raw: &'a Schema) -> Option<RawColumn<'a>> {
    match expr {
        Expr::Column(Column { name, .. }) => raw.fields().iter().find(|field| field.name() == name),
        Expr::Cast(Cast { expr, field }) => {
            let inner = raw_column(expr, raw)?;
            // Coercion compares texts of two representations, and times of two units: not of a
            // coarser one, which cuts, nor of another zone, in which a time without zone is another.
            let same = match (public_type(inner.data_type()), field.data_type()) {
                (DataType::Utf8, DataType::Utf8View | DataType::LargeUtf8) => true,
                (
                    DataType::Timestamp(..),
                    DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, zone),
                ) => zone
                    .as_deref()
                    .is_none_or(|zone| ["UTC", "+00:00"].contains(&zone)),
                _ => false,
            };
            same.then_some(inner)
        }
        _ => None,
    }
}

fn raw_expr(field: &Field) -> Expr {
    Expr::Column(Column::new_unqualified(field.name()))
}

fn compare(field: RawColumn<'_>, op: Operator, value: &ScalarValue) -> Option<Expr> {
    let column = raw_expr(field);
    match field.data_type() {
        DataType::FixedSizeBinary(width) => {
            let bytes = id_bytes(value.try_as_str()??, usize::try_from(*width).ok()?)?;
            let value = lit(ScalarValue::FixedSizeBinary(*width, Some(bytes)));
            ordered(op).then(|| binary(column, op, value))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            let ns = nanoseconds(value)?;
            let at = |ns: i64| lit(ScalarValue::TimestampNanosecond(Some(ns), zone.clone()));
            // A public time is the raw one cut to a microsecond: raw lies in [public, public + 1 us).
            match op {
                Operator::Eq => Some(binary(column.clone(), Operator::GtEq, at(ns)).and(binary(
                    column,
                    Operator::Lt,
                    at(ns.checked_add(NS_PER_US)?),
                ))),
                Operator::Gt | Operator::GtEq => Some(binary(column, Operator::GtEq, at(ns))),
                Operator::Lt | Operator::LtEq => {
                    Some(binary(column, Operator::Lt, at(ns.checked_add(NS_PER_US)?)))
                }
                _ => None,
            }
        }
        DataType::UInt64 | DataType::UInt16 => {
            let ScalarValue::Int64(Some(number)) = value else {
                return None;
            };
            let number = u64::try_from(*number).ok()?;
            let value = match field.data_type() {
                DataType::UInt64 => ScalarValue::UInt64(Some(number)),
                _ => ScalarValue::UInt16(Some(u16::try_from(number).ok()?)),
            };
            ordered(op).then(|| binary(column, op, lit(value)))
        }
        DataType::Utf8 => {
            let text = value.try_as_str()??;
            (ordered(op) || op == Operator::NotEq).then(|| binary(column, op, lit(text)))
        }
        DataType::Boolean | DataType::Int64 if value.data_type() == *field.data_type() => {
            (ordered(op) || op == Operator::NotEq).then(|| binary(column, op, lit(value.clone())))
        }
        _ => None,
    }
}

fn ordered(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
    )
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

/// The bytes of an id in full, lower-case hex: for such texts the order of the text is the order
/// of the bytes.
fn id_bytes(text: &str, width: usize) -> Option<Vec<u8>> {
    if text.len() != width * 2 || text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    hex::decode(text).ok()
}

fn nanoseconds(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::TimestampSecond(Some(at), _) => at.checked_mul(1_000_000_000),
        ScalarValue::TimestampMillisecond(Some(at), _) => at.checked_mul(1_000_000),
        ScalarValue::TimestampMicrosecond(Some(at), _) => at.checked_mul(NS_PER_US),
        ScalarValue::TimestampNanosecond(Some(at), _) => Some(*at),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use counterfoil_entry::table::TableId;
    use datafusion::logical_expr::{cast, col as column};

    fn translated(filter: Expr) -> String {
        let raw = crate::raw::schema(TableId::Entries);
        translate(&filter, &raw).map_or_else(|| "nothing".to_owned(), |expr| expr.to_string())
    }

    #[test]
    fn predicates_on_public_columns_become_predicates_on_raw_ones() {
        let us = |at| {
            lit(ScalarValue::TimestampMicrosecond(
                Some(at),
                Some(Arc::from("UTC")),
            ))
        };
        for (filter, expected) in [
            (
                column("span_id").eq(lit("00000000000000ff")),
                "span_id = FixedSizeBinary(8, \"0,0,0,0,0,0,0,255\")",
            ),
            (column("span_id").eq(lit("00000000000000FF")), "nothing"),
            (column("span_id").eq(lit("ff")), "nothing"),
            (column("seq").gt(lit(7_i64)), "seq > UInt64(7)"),
            (column("seq").gt(lit(-7_i64)), "nothing"),
            (
                column("status").in_list(vec![lit(500_i64), lit(503_i64)], false),
                "status IN ([UInt16(500), UInt16(503)])",
            ),
            (
                column("start_time").in_list(vec![us(5), us(9), us(7)], false),
                "start_time >= TimestampNanosecond(5000, Some(\"UTC\")) AND start_time < TimestampNanosecond(10000, Some(\"UTC\"))",
            ),
            (column("side").eq(lit("client")), "side = Utf8(\"client\")"),
            (column("duration_ns").is_null(), "nothing"),
            (column("status").is_null(), "status IS NULL"),
            (
                cast(
                    column("start_time"),
                    DataType::Timestamp(TimeUnit::Second, None),
                )
                .eq(us(5)),
                "nothing",
            ),
            (
                cast(
                    cast(
                        column("start_time"),
                        DataType::Timestamp(TimeUnit::Nanosecond, Some(Arc::from("+02:00"))),
                    ),
                    DataType::Timestamp(TimeUnit::Nanosecond, None),
                )
                .gt(us(5)),
                "nothing",
            ),
            (
                column("start_time").lt_eq(us(5)),
                "start_time < TimestampNanosecond(6000, Some(\"UTC\"))",
            ),
            (
                column("start_time").gt(us(5)),
                "start_time >= TimestampNanosecond(5000, Some(\"UTC\"))",
            ),
            (
                column("seq")
                    .gt(lit(7_i64))
                    .or(column("scopes").eq(lit("x"))),
                "nothing",
            ),
        ] {
            assert_eq!(translated(filter.clone()), expected, "{filter}");
        }
    }
}

//! `hdr_interval(histogram, q, confidence)`: as `quantile_interval`, to the precision of the histogram.

use std::sync::Arc;

use counterfoil_columns::rollup::Histogram;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, StructArray};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use crate::quantile::{interval_fields, interval_ranks, nearest_rank};

const NAME: &str = "hdr_interval";

#[must_use]
pub(super) fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(Interval {
        signature: super::taking(&[DataType::Float64, DataType::Float64]),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Interval {
    signature: Signature,
}

/// n, value, low and high of one row.
type Cells = [Option<i64>; 4];

fn cells(arrays: &[ArrayRef], row: usize) -> Result<Cells> {
    let [first, q, confidence] = arrays else {
        let why = format!("{NAME} takes a histogram, a quantile and a confidence");
        return Err(DataFusionError::Plan(why));
    };
    let mut histogram = Histogram::default();
    if let Some(bytes) = super::bytes(first, row, NAME)? {
        super::merge(&mut histogram, &bytes, NAME)?;
    }
    let share = |array: &ArrayRef| array.as_primitive::<Float64Type>().value(row);
    let (q, confidence) = (share(q), share(confidence));
    if !(q > 0.0 && q < 1.0 && confidence > 0.0 && confidence < 1.0) {
        let why = format!("{NAME}: quantile and confidence lie between 0 and 1");
        return Err(DataFusionError::Execution(why));
    }
    let n = histogram.count();
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let at = |rank: Option<u64>| rank.and_then(|rank| histogram.at_rank(rank)).map(number);
    let (low, high) = interval_ranks(n, q, confidence);
    Ok([Some(number(n)), at(nearest_rank(n, q)), at(low), at(high)])
}

impl ScalarUDFImpl for Interval {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(interval_fields()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let rows = arrays.first().map_or(0, Array::len);
        let rows: Vec<Cells> = (0..rows)
            .map(|row| cells(&arrays, row))
            .collect::<Result<_>>()?;
        let column = |place: usize| -> ArrayRef {
            let cells = rows.iter().map(|row| row.get(place).copied().flatten());
            Arc::new(cells.collect::<Int64Array>())
        };
        let columns = (0..4).map(column).collect();
        let table = StructArray::try_new(interval_fields(), columns, None)?;
        Ok(ColumnarValue::Array(Arc::new(table)))
    }
}

//! HDR histograms in SQL: `hdr_merge`, `hdr_of`, `hdr_quantile`, `hdr_interval`, `hdr_count`,
//! `hdr_count_at_or_below`.
//!
//! A histogram is bytes in the V2 form, or the same as hexadecimal text, as schema `public` shows bytes.
//! The result does not depend on the order of the input. Null histograms count as empty.

use std::borrow::Cow;
use std::sync::Arc;

use counterfoil_columns::rollup::Histogram;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

mod interval;

/// The aggregates of this module.
#[must_use]
pub(crate) fn aggregates() -> [AggregateUDF; 2] {
    let values = Signature::exact(vec![DataType::Int64], Volatility::Immutable);
    [(MERGE, taking(&[])), (OF, values)]
        .map(|(name, signature)| AggregateUDF::new_from_impl(Merge { name, signature }))
}

/// The scalar functions of this module.
#[must_use]
pub(crate) fn scalars() -> Vec<ScalarUDF> {
    let figures = [Figure::Quantile, Figure::Count, Figure::AtOrBelow];
    let figures = figures.map(|figure| ScalarUDF::new_from_impl(Of::new(figure)));
    figures.into_iter().chain([interval::function()]).collect()
}

/// A histogram as bytes or text, and then `more`.
fn taking(more: &[DataType]) -> Signature {
    let with = |first: DataType| {
        let types = std::iter::once(first).chain(more.iter().cloned());
        TypeSignature::Exact(types.collect())
    };
    let forms = vec![with(DataType::Binary), with(DataType::Utf8)];
    Signature::one_of(forms, Volatility::Immutable)
}

/// The bytes of the histogram in `row`; none when it is null.
fn bytes<'a>(array: &'a ArrayRef, row: usize, function: &str) -> Result<Option<Cow<'a, [u8]>>> {
    if array.is_null(row) {
        return Ok(None);
    }
    if let Some(array) = array.as_binary_opt::<i32>() {
        return Ok(Some(Cow::Borrowed(array.value(row))));
    }
    let text = array.as_string_opt::<i32>().map(|array| array.value(row));
    let decoded = text.and_then(|text| hex::decode(text).ok());
    decoded.map(|bytes| Some(Cow::Owned(bytes))).ok_or_else(|| {
        DataFusionError::Execution(format!(
            "{function}: this text is no histogram in hexadecimal digits"
        ))
    })
}

fn merge(histogram: &mut Histogram, bytes: &[u8], function: &str) -> Result<()> {
    histogram
        .merge(bytes)
        .map_err(|error| DataFusionError::Execution(format!("{function}: {error}")))
}

/// `hdr_merge(histogram)`: one histogram of all values of many. `hdr_of(ns)`: the histogram of these values,
/// of which those below 0 count as 0. Null when all are null.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Merge {
    name: &'static str,
    signature: Signature,
}

const MERGE: &str = "hdr_merge";
const OF: &str = "hdr_of";

impl AggregateUDFImpl for Merge {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn accumulator(&self, _args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Merged::default()))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let name = format!("{}[histogram]", args.name);
        Ok(vec![Arc::new(Field::new(name, DataType::Binary, true))])
    }
}

#[derive(Debug, Default)]
struct Merged {
    histogram: Histogram,
    is_some: bool,
}

impl Merged {
    fn encoded(&self) -> Result<ScalarValue> {
        if !self.is_some {
            return Ok(ScalarValue::Binary(None));
        }
        let bytes = self.histogram.encode();
        let bytes =
            bytes.map_err(|error| DataFusionError::Execution(format!("{MERGE}: {error}")))?;
        Ok(ScalarValue::Binary(Some(bytes)))
    }
}

impl Accumulator for Merged {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Some(array) = values.first() else {
            return Ok(());
        };
        if let Some(values) = array.as_primitive_opt::<Int64Type>() {
            for ns in values.iter().flatten() {
                self.histogram.record(u64::try_from(ns).unwrap_or(0));
                self.is_some = true;
            }
            return Ok(());
        }
        for row in 0..array.len() {
            if let Some(bytes) = bytes(array, row, MERGE)? {
                merge(&mut self.histogram, &bytes, MERGE)?;
                self.is_some = true;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.encoded()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.histogram.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.encoded()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Figure {
    /// `hdr_quantile(histogram, q)`: the value (ns) of rank ceil(q n).
    Quantile,
    /// `hdr_count(histogram)`: how many values.
    Count,
    /// `hdr_count_at_or_below(histogram, ns)`: how many of them up to that.
    AtOrBelow,
}

/// A figure of one histogram.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Of {
    figure: Figure,
    signature: Signature,
}

impl Of {
    fn new(figure: Figure) -> Self {
        let signature = match figure {
            Figure::Quantile => taking(&[DataType::Float64]),
            Figure::Count => taking(&[]),
            Figure::AtOrBelow => taking(&[DataType::Int64]),
        };
        Self { figure, signature }
    }

    fn value(&self, arrays: &[ArrayRef], row: usize) -> Result<Option<i64>> {
        let name = self.name();
        let Some(first) = arrays.first() else {
            return Err(DataFusionError::Plan(format!("{name} takes a histogram")));
        };
        let mut histogram = Histogram::default();
        match bytes(first, row, name)? {
            Some(bytes) => merge(&mut histogram, &bytes, name)?,
            None if self.figure == Figure::Quantile => return Ok(None),
            None => {}
        }
        let second = arrays.get(1).filter(|array| array.is_valid(row));
        let value = match (self.figure, second) {
            (Figure::Count, _) => Some(histogram.count()),
            (Figure::Quantile, Some(q)) => {
                let q = q.as_primitive::<Float64Type>().value(row);
                if !(0.0..=1.0).contains(&q) {
                    let why = format!("{name}: a quantile lies between 0 and 1, found {q}");
                    return Err(DataFusionError::Execution(why));
                }
                histogram.quantile(q)
            }
            (Figure::AtOrBelow, Some(ns)) => {
                let ns = ns.as_primitive::<Int64Type>().value(row);
                Some(u64::try_from(ns).map_or(0, |ns| histogram.count_at_or_below(ns)))
            }
            (_, None) => None,
        };
        Ok(value.map(|value| i64::try_from(value).unwrap_or(i64::MAX)))
    }
}

impl ScalarUDFImpl for Of {
    fn name(&self) -> &str {
        match self.figure {
            Figure::Quantile => "hdr_quantile",
            Figure::Count => "hdr_count",
            Figure::AtOrBelow => "hdr_count_at_or_below",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let rows = arrays.first().map_or(0, Array::len);
        let values = (0..rows).map(|row| self.value(&arrays, row));
        let values: Int64Array = values.collect::<Result<_>>()?;
        Ok(ColumnarValue::Array(Arc::new(values)))
    }
}

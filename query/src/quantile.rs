//! Exact quantiles as SQL aggregates: nearest rank, and intervals by order statistics.
//!
//! `quantile_nearest(value, q)` is the value of rank ceil(q n). `quantile_interval(value, q, confidence)`
//! adds the distribution-free confidence interval between two order statistics; a bound is null when
//! the sample is too small for it. Neither depends on the order of its input.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, ListArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Int64Type};
use datafusion::common::scalar::ScalarStructBuilder;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
};
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::expressions::Literal;

/// The aggregates of this module.
#[must_use]
pub fn aggregates() -> [AggregateUDF; 2] {
    [
        AggregateUDF::new_from_impl(Quantile::new("quantile_nearest", false)),
        AggregateUDF::new_from_impl(Quantile::new("quantile_interval", true)),
    ]
}

/// Samples from which a two-sided interval of `confidence` around the quantile `q` has both bounds.
///
/// The largest of n values bounds the quantile from above with probability 1 - q^n, which must reach
/// 1 - (1 - confidence) / 2. For P99 and 97.5 %: 437.
#[must_use]
pub fn sample_needed(q: f64, confidence: f64) -> u64 {
    let tail = (1.0 - confidence) / 2.0;
    let needed = (tail.ln() / q.ln()).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float cast saturates, and the count is positive"
    )]
    let needed = needed as u64;
    needed.max(1)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Quantile {
    name: &'static str,
    interval: bool,
    signature: Signature,
}

impl Quantile {
    fn new(name: &'static str, interval: bool) -> Self {
        let mut types = vec![DataType::Int64, DataType::Float64];
        if interval {
            types.push(DataType::Float64);
        }
        Self {
            name,
            interval,
            signature: Signature::exact(types, Volatility::Immutable),
        }
    }
}

/// Of the struct that an interval is: `n`, `value`, `low`, `high`.
pub(crate) fn interval_fields() -> Fields {
    ["n", "value", "low", "high"]
        .into_iter()
        .map(|name| Arc::new(Field::new(name, DataType::Int64, true)))
        .collect()
}

fn state_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)))
}

impl AggregateUDFImpl for Quantile {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(if self.interval {
            DataType::Struct(interval_fields())
        } else {
            DataType::Int64
        })
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let q = constant(args.exprs.get(1), self.name)?;
        let confidence = if self.interval {
            Some(constant(args.exprs.get(2), self.name)?)
        } else {
            None
        };
        if !(q > 0.0 && q < 1.0) || confidence.is_some_and(|c| !(c > 0.0 && c < 1.0)) {
            return Err(DataFusionError::Plan(format!(
                "{}: quantile and confidence lie between 0 and 1",
                self.name
            )));
        }
        Ok(Box::new(Values {
            q,
            confidence,
            values: Vec::new(),
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(
            format!("{}[values]", args.name),
            state_type(),
            true,
        ))])
    }
}

fn constant(expr: Option<&Arc<dyn PhysicalExpr>>, name: &str) -> Result<f64> {
    let value = expr
        .and_then(|expr| expr.downcast_ref::<Literal>())
        .map(Literal::value);
    match value {
        Some(ScalarValue::Float64(Some(value))) => Ok(*value),
        _ => Err(DataFusionError::Plan(format!(
            "{name}: quantile and confidence are constants"
        ))),
    }
}

#[derive(Debug)]
struct Values {
    q: f64,
    confidence: Option<f64>,
    values: Vec<i64>,
}

impl Values {
    fn ranked(&mut self, rank: Option<u64>) -> Option<i64> {
        let index = usize::try_from(rank?.checked_sub(1)?).ok()?;
        self.values.get(index).copied()
    }
}

impl Accumulator for Values {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        if let Some(column) = values.first() {
            self.values
                .extend(column.as_primitive::<Int64Type>().iter().flatten());
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.values.sort_unstable();
        let n = self.values.len() as u64;
        let value = self.ranked(nearest_rank(n, self.q));
        let Some(confidence) = self.confidence else {
            return Ok(ScalarValue::Int64(value));
        };
        let (low, high) = interval_ranks(n, self.q, confidence);
        let (low, high) = (self.ranked(low), self.ranked(high));
        let fields = interval_fields();
        let cells = [i64::try_from(n).ok(), value, low, high];
        let built =
            fields
                .iter()
                .zip(cells)
                .fold(ScalarStructBuilder::new(), |builder, (field, cell)| {
                    builder.with_scalar(Arc::clone(field), ScalarValue::Int64(cell))
                });
        built.build()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.capacity() * size_of::<i64>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values = Int64Array::from(std::mem::take(&mut self.values));
        let list = ListArray::new(
            Arc::new(Field::new_list_field(DataType::Int64, true)),
            OffsetBuffer::from_lengths([values.len()]),
            Arc::new(values),
            None,
        );
        Ok(vec![ScalarValue::List(Arc::new(list))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        if let Some(lists) = states.first() {
            for list in lists.as_list::<i32>().iter().flatten() {
                self.values
                    .extend(list.as_primitive::<Int64Type>().iter().flatten());
            }
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of values held in memory are far below 2^53, and ranks are positive"
)]
pub(crate) fn nearest_rank(n: u64, q: f64) -> Option<u64> {
    // Without the margin, 0.99 * 100 = 99.00000000000001 would be rank 100.
    (n > 0).then(|| (((n as f64) * q - 1e-9).ceil() as u64).clamp(1, n))
}

/// Ranks of the order statistics that bound the quantile: `P(X(low) <= quantile <= X(high)) >= confidence`.
///
/// The number B of values below the quantile is binomial(n, q): `low` is the greatest rank with
/// P(B < low) <= tail, `high` the smallest with P(B >= high) <= tail, tail = (1 - confidence) / 2.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts held in memory are far below 2^53"
)]
pub(crate) fn interval_ranks(n: u64, q: f64, confidence: f64) -> (Option<u64>, Option<u64>) {
    let tail = (1.0 - confidence) / 2.0;
    // Summed over the values above the quantile, A = n - B, because q is usually near 1.
    let p = 1.0 - q;
    let step = (p / q).ln();
    let mut log_mass = (n as f64) * q.ln();
    let mut below = 0.0;
    let (mut low, mut high) = (None, None);
    for above in 0..=n {
        let mass = log_mass.exp();
        // P(A <= above - 1) = P(B >= n - above + 1): `high` = n - above + 1 while that is in the tail.
        if below <= tail && above > 0 {
            high = Some(n - above + 1);
        }
        below += mass;
        // P(A > above) = P(B < n - above): `low` = n - above from where that is in the tail.
        if 1.0 - below <= tail {
            low = Some(n - above).filter(|rank| *rank > 0);
            break;
        }
        let k = above as f64;
        log_mass += ((n as f64 - k) / (k + 1.0)).ln() + step;
    }
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_rank_is_exact_at_the_edges() {
        assert_eq!(nearest_rank(0, 0.99), None);
        assert_eq!(nearest_rank(1, 0.99), Some(1));
        assert_eq!(nearest_rank(100, 0.99), Some(99));
        assert_eq!(nearest_rank(101, 0.99), Some(100));
        assert_eq!(nearest_rank(4, 0.5), Some(2));
    }

    /// P(B < k) of a binomial(n, q) by its definition, for small n.
    fn below(n: u64, q: f64, k: u64) -> f64 {
        let choose = |k: u64| (0..k).fold(1.0, |c, i| c * ((n - i) as f64) / ((i + 1) as f64));
        (0..k)
            .map(|i| choose(i) * q.powf(i as f64) * (1.0 - q).powf((n - i) as f64))
            .sum()
    }

    #[test]
    fn interval_ranks_fit_the_binomial_distribution_tightly() {
        for (n, q) in [(10, 0.5), (60, 0.5), (40, 0.9), (60, 0.8)] {
            let (low, high) = interval_ranks(n, q, 0.95);
            let low = low.unwrap_or(0);
            assert!(below(n, q, low) <= 0.025 + 1e-12, "n {n} q {q} low {low}");
            assert!(
                below(n, q, low + 1) > 0.025,
                "n {n} q {q} low {low} is not the greatest"
            );
            if let Some(high) = high {
                assert!(
                    1.0 - below(n, q, high) <= 0.025 + 1e-12,
                    "n {n} q {q} high {high}"
                );
                assert!(
                    1.0 - below(n, q, high - 1) > 0.025,
                    "n {n} q {q} high {high}"
                );
            }
        }
        // The textbook case: n = 10, median, X(2) and X(9) at 97.9 %.
        assert_eq!(interval_ranks(10, 0.5, 0.95), (Some(2), Some(9)));
    }

    #[test]
    fn a_p99_needs_437_samples_for_its_upper_bound_at_97_5_percent() {
        assert_eq!(sample_needed(0.99, 0.975), 437);
        assert_eq!(interval_ranks(436, 0.99, 0.975).1, None);
        assert_eq!(interval_ranks(437, 0.99, 0.975).1, Some(437));
    }
}

//! Rows of an answer by the names of their columns.

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Int64Type, TimestampMicrosecondType, TimestampNanosecondType};

/// One row of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    batch: &'a RecordBatch,
    at: usize,
}

/// All rows of an answer.
pub(super) fn rows(batches: &[RecordBatch]) -> impl Iterator<Item = Row<'_>> {
    batches
        .iter()
        .flat_map(|batch| (0..batch.num_rows()).map(move |at| Row { batch, at }))
}

impl<'a> Row<'a> {
    fn column(&self, name: &str) -> Option<&'a dyn Array> {
        let column = self.batch.column_by_name(name)?.as_ref();
        column.is_valid(self.at).then_some(column)
    }

    /// A text; `None` when it is null or there is none of that name and type.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        let column = self.column(name)?;
        if let Some(column) = column.as_string_opt::<i32>() {
            return Some(column.value(self.at));
        }
        Some(column.as_string_view_opt()?.value(self.at))
    }

    /// Bytes of a fixed number, likewise.
    pub(super) fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        let column = self.column(name)?.as_fixed_size_binary_opt()?;
        Some(column.value(self.at))
    }

    /// An integer, likewise.
    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        let column = self.column(name)?.as_primitive_opt::<Int64Type>()?;
        Some(column.value(self.at))
    }

    /// A time in ns since the Unix epoch, likewise.
    pub(super) fn time_ns(&self, name: &str) -> Option<i64> {
        let column = self.column(name)?;
        if let Some(column) = column.as_primitive_opt::<TimestampNanosecondType>() {
            return Some(column.value(self.at));
        }
        let column = column.as_primitive_opt::<TimestampMicrosecondType>()?;
        Some(column.value(self.at).saturating_mul(1_000))
    }
}

/// A count as a number to divide by.
#[expect(
    clippy::cast_precision_loss,
    reason = "shares of more than 2^53 calls need no last digit"
)]
pub(super) fn as_f64(count: i64) -> f64 {
    count as f64
}

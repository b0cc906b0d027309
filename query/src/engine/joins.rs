//! Joins that could not be stopped: made to give way, or refused.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::joins::{CrossJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::{ExecutionPlan, StatisticsArgs, StatisticsContext};

use crate::error::{LIMIT, SqlError};

/// Pairs of rows that a join without an equality may look at. At about 10 ns a pair this is ten
/// seconds during which the plan cannot be stopped.
const PAIRS_MAX: u128 = 1_000_000_000;

/// Lets every join give way between its batches: one that makes many rows of few never waits for its
/// inputs, and could not be stopped otherwise.
pub(super) fn yielding(
    plan: Arc<dyn ExecutionPlan>,
) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
    let wrapped = plan.transform_up(|node| {
        Ok(if node.name().ends_with("JoinExec") {
            Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>)
        } else {
            Transformed::no(node)
        })
    });
    wrapped.map(|wrapped| wrapped.data)
}

/// Refuses joins without an equality over inputs so large that the plan could not be stopped.
pub(super) fn check_joins(plan: &Arc<dyn ExecutionPlan>) -> Result<(), SqlError> {
    let children = plan.children();
    if plan.is::<NestedLoopJoinExec>()
        && let [left, right] = children.as_slice()
        && rows_of(left).saturating_mul(rows_of(right)) > PAIRS_MAX
    {
        return Err(SqlError::new(
            LIMIT,
            "a join without an equality over so many rows is refused: join on equal columns, or narrow both sides first",
        ));
    }
    children.into_iter().try_for_each(check_joins)
}

/// Upper bound of a plan's rows: what it knows, else the sum of what it reads.
fn rows_of(plan: &Arc<dyn ExecutionPlan>) -> u128 {
    /// Sources that do not tell, such as `generate_series`.
    const UNKNOWN: u128 = 10_000;
    let known = StatisticsContext::new()
        .compute(plan.as_ref(), &StatisticsArgs::new())
        .ok();
    if let Some(rows) = known.and_then(|statistics| statistics.num_rows.get_value().copied()) {
        return rows as u128;
    }
    let children = plan.children();
    if children.is_empty() {
        return series_rows(plan).unwrap_or(UNKNOWN);
    }
    let rows = children.into_iter().map(rows_of);
    if plan.is::<NestedLoopJoinExec>() || plan.is::<CrossJoinExec>() {
        return rows.fold(1, u128::saturating_mul);
    }
    rows.fold(0, u128::saturating_add)
}

/// Rows of a `generate_series` of integers with the step 1, which tells them in its text only.
fn series_rows(plan: &Arc<dyn ExecutionPlan>) -> Option<u128> {
    let text = DisplayableExecutionPlan::new(plan.as_ref())
        .one_line()
        .to_string();
    let number = |name: &str| -> Option<i128> {
        let (_, rest) = text.split_once(name)?;
        let digits = rest.split([',', ']']).next()?;
        digits.trim().parse().ok()
    };
    u128::try_from(number("end=")?.checked_sub(number("start=")?)?).ok()
}

//! `count(distinct (a, b))`, and of lists, beside other aggregates: counted by one text of bytes a value.
//!
//! DataFusion keeps each such value as a slice that is charged with the whole batch it was cut from, so
//! that some thousand rows need more memory than a statement may have.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BinaryBuilder};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, TypeSignature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

/// Rewrites such counts.
#[derive(Debug)]
pub(crate) struct NestedDistinct;

impl AnalyzerRule for NestedDistinct {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|plan| {
            if !matches!(plan, LogicalPlan::Aggregate(_)) {
                return Ok(Transformed::no(plan));
            }
            let schema = merge_schema(&plan.inputs());
            plan.map_expressions(|expr| in_bytes(expr, &schema))
        })?;
        Ok(rewritten.data)
    }

    fn name(&self) -> &'static str {
        "nested_distinct"
    }
}

/// `expr` with its nested argument in bytes, under the name that it had.
fn in_bytes(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let name = expr.name_for_alias()?;
    let rewritten = expr.transform_up(|expr| {
        let Expr::AggregateFunction(mut function) = expr else {
            return Ok(Transformed::no(expr));
        };
        if !is_nested_count(&function, schema) {
            return Ok(Transformed::no(Expr::AggregateFunction(function)));
        }
        let bytes = ScalarUDF::new_from_impl(RowBytes::new());
        let arguments = std::mem::take(&mut function.params.args);
        function.params.args = arguments
            .into_iter()
            .map(|one| bytes.call(vec![one]))
            .collect();
        Ok(Transformed::yes(Expr::AggregateFunction(function)))
    })?;
    if rewritten.transformed {
        rewritten.map_data(|expr| expr.alias_if_changed(name))
    } else {
        Ok(rewritten)
    }
}

fn is_nested_count(function: &AggregateFunction, schema: &DFSchema) -> bool {
    let is_nested = |expr: &Expr| {
        let data_type = expr.get_type(schema);
        data_type.is_ok_and(|data_type| data_type.is_nested())
    };
    let params = &function.params;
    function.func.name() == "count" && params.distinct && params.args.iter().any(is_nested)
}

/// `row_bytes(value)`: bytes that are the same when, and only when, the values are; null of null.
#[derive(Debug, PartialEq, Eq, Hash)]
struct RowBytes {
    signature: Signature,
}

impl RowBytes {
    fn new() -> Self {
        Self {
            signature: Signature::new(TypeSignature::Any(1), Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for RowBytes {
    fn name(&self) -> &str {
        "row_bytes"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let fields = arrays
            .iter()
            .map(|array| SortField::new(array.data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        let rows = converter.convert_columns(&arrays)?;
        let mut out = BinaryBuilder::new();
        for (at, row) in rows.iter().enumerate() {
            let is_null = arrays.iter().any(|array: &ArrayRef| array.is_null(at));
            out.append_option((!is_null).then_some(row));
        }
        Ok(ColumnarValue::Array(Arc::new(out.finish())))
    }
}

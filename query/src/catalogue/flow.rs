//! The table function `flow(trace_id)`.

use std::sync::Arc;

use counterfoil_entry::id::TraceId;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::Expr;

use super::{World, planned_at_once};
use crate::error::{INVALID_VALUE, SqlError};
use crate::views::flow::flow;

/// Its name.
pub(super) const NAME: &str = "flow";

/// The path of one trace, in the world of one statement.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) world: World,
}

impl TableFunctionImpl for Flow {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> Result<Arc<dyn TableProvider>> {
        let text = match args.exprs() {
            [Expr::Literal(value, _)] => value.try_as_str().flatten(),
            _ => None,
        };
        let trace_id = text.and_then(trace_id).ok_or_else(unreadable)?;
        planned_at_once(&self.world, NAME, &flow(&trace_id))
    }
}

fn unreadable() -> DataFusionError {
    let why = format!(
        "{NAME} takes one trace id: 32 hexadecimal digits in quotes that are not all 0, as the column \
         trace_id shows it"
    );
    DataFusionError::External(Box::new(SqlError::new(INVALID_VALUE, why)))
}

/// A trace id as the tables show it.
fn trace_id(text: &str) -> Option<String> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(text.trim(), &mut bytes).ok()?;
    TraceId::new(bytes).map(|_| hex::encode(bytes))
}

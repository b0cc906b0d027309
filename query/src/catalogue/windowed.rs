//! Windowed views as table functions.

use std::sync::Arc;

use counterfoil_entry::Time;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{Cast, Expr};

use super::{World, planned_at_once};
use crate::error::{INVALID_VALUE, SqlError};
use crate::views::{Window, scoped};

/// A windowed view as a table function: `name()`, `name(from)`, `name(from, until)`.
#[derive(Debug)]
pub(super) struct Windowed {
    pub(super) name: &'static str,
    pub(super) world: World,
}

impl TableFunctionImpl for Windowed {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> Result<Arc<dyn TableProvider>> {
        let window = match args.exprs() {
            [from, until, scope] => return self.scoped((from, until), scope),
            [] => None,
            [from] => Some(Window {
                from: time_of(from)?,
                until: None,
            }),
            [from, until] => Some(Window {
                from: time_of(from)?,
                until: time_of(until)?,
            }),
            _ => {
                return Err(DataFusionError::Plan(format!(
                    "{0} takes no arguments, or (from, until)",
                    self.name
                )));
            }
        };
        self.check_order(window)?;
        let sql = self
            .world
            .windowed_sql(self.name, window)
            .ok_or_else(|| DataFusionError::Plan(format!("{} is no table function", self.name)))?;
        planned_at_once(&self.world, self.name, &sql)
    }
}

impl Windowed {
    /// `name(from, until, scope)`, of those that know a scope.
    fn scoped(
        &self,
        (from, until): (&Expr, &Expr),
        scope: &Expr,
    ) -> Result<Arc<dyn TableProvider>> {
        let window = Window {
            from: time_of(from)?,
            until: time_of(until)?,
        };
        self.check_order(Some(window))?;
        let text = match scope {
            Expr::Literal(value, _) => value.try_as_str().flatten(),
            _ => None,
        };
        let sql = text.and_then(|scope| scoped(self.name, window, self.world.now, scope));
        let sql = sql.ok_or_else(|| {
            DataFusionError::Plan(format!(
                "{} takes no arguments, or (from, until), and e11 a scope in quotes besides",
                self.name
            ))
        })?;
        planned_at_once(&self.world, self.name, &sql)
    }

    /// A window that ends before it begins is a mistake.
    fn check_order(&self, window: Option<Window>) -> Result<()> {
        let Some(Window {
            from: Some(from),
            until: Some(until),
        }) = window
        else {
            return Ok(());
        };
        if from <= until {
            return Ok(());
        }
        let why = format!(
            "{}: the window ends at {until}, before it begins at {from}",
            self.name
        );
        Err(DataFusionError::External(Box::new(SqlError::new(
            INVALID_VALUE,
            why,
        ))))
    }
}

/// A time argument: text that PostgreSQL would take as timestamptz, a timestamp, or NULL.
fn time_of(expr: &Expr) -> Result<Option<Time>> {
    let unreadable = || {
        DataFusionError::Plan(format!(
            "expected a time such as '2026-01-31T00:00:00Z' or NULL, found {expr}"
        ))
    };
    let expr = match expr {
        Expr::Cast(Cast { expr, .. }) => expr.as_ref(),
        other => other,
    };
    let Expr::Literal(value, _) = expr else {
        return Err(unreadable());
    };
    if value.is_null() {
        return Ok(None);
    }
    let ns = value
        .cast_to(&datafusion::arrow::datatypes::DataType::Timestamp(
            datafusion::arrow::datatypes::TimeUnit::Nanosecond,
            Some(Arc::from("UTC")),
        ))
        .map_err(|_| unreadable())?;
    match ns {
        ScalarValue::TimestampNanosecond(Some(ns), _) => Ok(Some(Time::from_ns(ns))),
        _ => Err(unreadable()),
    }
}

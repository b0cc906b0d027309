//! The session from which every statement's own is made: functions, options, limits.

use std::sync::Arc;

use datafusion::catalog::SchemaProvider;
use datafusion::common::Result;
use datafusion::execution::SessionState;
use datafusion::execution::memory_pool::{GreedyMemoryPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::registry::FunctionRegistry;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_pg_catalog::pg_catalog::context::EmptyContextProvider;
use datafusion_pg_catalog::setup_pg_catalog;

use crate::books::Snapshot;
use crate::catalogue::{DATABASE, World};
use crate::causal;
use crate::distinct::NestedDistinct;
use crate::functions;
use crate::hdr;
use crate::quantile::aggregates;

/// Memory of all running statements together (bytes): 1 GiB.
pub const MEMORY_BYTES: usize = 1 << 30;
/// Spilled bytes of all running statements together: 8 GiB.
const SPILL_BYTES_MAX: u64 = 8 << 30;
const TOP_CONSUMERS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(3).unwrap();

/// Functions that make a value of any size from a number; no limit of memory holds them. The table
/// functions `generate_series` and `range` stay.
const UNBOUNDED: &[&str] = &[
    "array_repeat",
    "array_resize",
    "generate_series",
    "lpad",
    "range",
    "repeat",
    "rpad",
];

/// The session state that statements are copied from.
///
/// # Errors
/// When the runtime cannot be made.
pub fn template(memory_bytes: usize, partitions: usize) -> Result<SessionState> {
    // Not shared out beforehand: a statement over many views has hundreds of parts, most of them small.
    let pool = TrackConsumersPool::new(GreedyMemoryPool::new(memory_bytes), TOP_CONSUMERS);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
        .with_max_temp_directory_size(SPILL_BYTES_MAX)
        .build_arc()?;
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(DATABASE, "public")
        // A schema of that name is registered, with PostgreSQL's names of types.
        .with_information_schema(false)
        .with_target_partitions(partitions.max(1))
        .with_create_default_catalog_and_schema(false);
    let options = config.options_mut();
    options.sql_parser.dialect = datafusion::common::config::Dialect::PostgreSQL;
    options.sql_parser.map_string_types_to_utf8view = false;
    // Sorting parts and merging them fails to plan where a filter fixes a column of the order: a panel
    // of one service got the plan as its answer.
    options.optimizer.repartition_sorts = false;
    options.execution.time_zone = Some("+00:00".to_owned());
    options.execution.parquet.max_in_list_size = 100;
    options.execution.parquet.reorder_filters = true;
    options.execution.parquet.schema_force_view_types = false;
    let context = SessionContext::new_with_config_rt(config, runtime);
    for function in functions::scalars() {
        context.register_udf(function);
    }
    for aggregate in aggregates() {
        context.register_udaf(aggregate);
    }
    context.add_analyzer_rule(Arc::new(NestedDistinct));
    for aggregate in hdr::aggregates() {
        context.register_udaf(aggregate);
    }
    context.register_udwf(causal::function());
    for name in UNBOUNDED {
        context.deregister_udf(name);
    }
    Ok(context.state())
}

/// `template` with what PostgreSQL's clients ask for, and the schema `pg_catalog`, whose object ids
/// stay the same for the life of the process.
///
/// # Errors
/// When the catalogue cannot be made.
pub fn with_pg_catalog(template: SessionState) -> Result<(SessionState, Arc<dyn SchemaProvider>)> {
    let empty = World::new(Arc::new(template), Arc::new(Snapshot::default()));
    let context = SessionContext::new_with_state(empty.state()?);
    setup_pg_catalog(&context, DATABASE, EmptyContextProvider).map_err(|error| *error)?;
    let schema = context
        .catalog(DATABASE)
        .and_then(|catalogue| catalogue.schema("pg_catalog"))
        .ok_or_else(|| {
            datafusion::common::DataFusionError::Configuration("pg_catalog is missing".to_owned())
        })?;
    let mut state = context.state();
    // The catalogue crate's own would overwrite ours with less.
    for function in functions::scalars() {
        let _replaced = state.register_udf(Arc::new(function))?;
    }
    Ok((state, schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_statement_has_a_now_of_its_own() {
        let template = Arc::new(template(1 << 20, 1).unwrap());
        let world = World::new(template, Arc::new(Snapshot::default()));
        let now = || {
            let state = world.state().unwrap();
            state.execution_props().query_execution_start_time.unwrap()
        };
        let first = now();
        assert!(first < now());
    }
}

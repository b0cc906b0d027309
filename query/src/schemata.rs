//! `information_schema` as PostgreSQL's clients expect it: the planner's own, with the columns' types
//! under PostgreSQL's names.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::information_schema::InformationSchemaProvider;
use datafusion::catalog::{CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::DataFusionError;

use crate::catalogue::World;

/// Name of the schema.
pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";
/// The planner's own table of columns, with types under Arrow's names; not listed.
const ARROW_COLUMNS: &str = "arrow_columns";

/// `columns`, made of the planner's: places count from 1, and `udt_name` is there.
const COLUMNS: &str = "
WITH named AS (
  SELECT *, CASE
      WHEN data_type IN ('Utf8', 'LargeUtf8', 'Utf8View') THEN 'text'
      WHEN data_type = 'Boolean' THEN 'bool'
      WHEN data_type IN ('Int8', 'Int16', 'UInt8') THEN 'int2'
      WHEN data_type IN ('Int32', 'UInt16') THEN 'int4'
      WHEN data_type IN ('Int64', 'UInt32') THEN 'int8'
      WHEN data_type = 'UInt64' OR starts_with(data_type, 'Decimal') THEN 'numeric'
      WHEN data_type IN ('Float16', 'Float32') THEN 'float4'
      WHEN data_type = 'Float64' THEN 'float8'
      WHEN data_type IN ('Binary', 'LargeBinary', 'BinaryView') OR starts_with(data_type, 'FixedSizeBinary') THEN 'bytea'
      WHEN starts_with(data_type, 'Timestamp') AND strpos(data_type, '\"') > 0 THEN 'timestamptz'
      WHEN starts_with(data_type, 'Timestamp') THEN 'timestamp'
      WHEN data_type IN ('Date32', 'Date64') THEN 'date'
      WHEN starts_with(data_type, 'List') THEN '_text'
      ELSE 'unknown' END AS udt
  FROM information_schema.arrow_columns
)
SELECT table_catalog, table_schema, table_name, column_name,
  CAST(ordinal_position AS BIGINT) + 1 AS ordinal_position, column_default, is_nullable,
  CASE udt WHEN 'bool' THEN 'boolean' WHEN 'int2' THEN 'smallint' WHEN 'int4' THEN 'integer'
    WHEN 'int8' THEN 'bigint' WHEN 'float4' THEN 'real' WHEN 'float8' THEN 'double precision'
    WHEN 'timestamptz' THEN 'timestamp with time zone'
    WHEN 'timestamp' THEN 'timestamp without time zone' WHEN '_text' THEN 'ARRAY'
    ELSE udt END AS data_type,
  CAST(character_maximum_length AS BIGINT) AS character_maximum_length,
  CAST(CASE udt WHEN 'int2' THEN 16 WHEN 'int4' THEN 32 WHEN 'int8' THEN 64 WHEN 'float4' THEN 24
    WHEN 'float8' THEN 53 END AS BIGINT) AS numeric_precision,
  CAST(CASE WHEN udt IN ('int2', 'int4', 'int8') THEN 0 END AS BIGINT) AS numeric_scale,
  CAST(CASE WHEN udt IN ('timestamptz', 'timestamp') THEN 6 END AS BIGINT) AS datetime_precision,
  table_catalog AS udt_catalog, 'pg_catalog' AS udt_schema, udt AS udt_name
FROM named";

/// The schema over the other ones of a world.
#[derive(Debug)]
pub(crate) struct InformationSchema {
    world: World,
    planners: InformationSchemaProvider,
}

impl InformationSchema {
    /// About the schemas in `others`.
    pub(crate) fn new(world: World, others: Arc<dyn CatalogProviderList>) -> Self {
        let planners = InformationSchemaProvider::new(others);
        Self { world, planners }
    }
}

#[async_trait]
impl SchemaProvider for InformationSchema {
    fn table_names(&self) -> Vec<String> {
        self.planners.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        match name {
            "columns" => self.world.view(COLUMNS).await.map(Some),
            ARROW_COLUMNS => self.planners.table("columns").await,
            _ => self.planners.table(name).await,
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        self.planners.table_exist(name)
    }
}

//! A table of the books as a DataFusion provider: listed segment files and the journal's tail.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use counterfoil_columns::rollup;
use counterfoil_entry::Time;
use counterfoil_entry::table::TableId;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{
    ColumnStatistics, DFSchema, DataFusionError, Result, ScalarValue, Statistics,
};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::object_store::path::Path as ObjectPath;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;

use crate::books::Snapshot;
use crate::error::{IO, SqlError};

/// One table, as a snapshot holds it.
#[derive(Debug)]
pub struct RawTable {
    schema: SchemaRef,
    files: Vec<SegmentFile>,
    tail: Vec<RecordBatch>,
}

#[derive(Debug)]
struct SegmentFile {
    path: PathBuf,
    bytes: u64,
    statistics: Arc<Statistics>,
}

impl RawTable {
    /// The table `id` of `snapshot`.
    ///
    /// # Errors
    /// When unsealed rows do not fit the schema: none is ever left out.
    pub fn new(snapshot: &Snapshot, id: TableId) -> Result<Self> {
        let schema = schema(id);
        let files = snapshot
            .segments(id)
            .map(|(_, segment)| SegmentFile {
                path: snapshot.books.join(&segment.file),
                bytes: segment.bytes,
                statistics: Arc::new(statistics(
                    &schema,
                    segment.count,
                    (segment.first_time, segment.last_time),
                )),
            })
            .collect();
        let tail = snapshot
            .tail(id)
            .into_iter()
            .map(|batch| RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            schema,
            files,
            tail,
        })
    }

    /// Entries that no roll-up counts yet: those that wait for their counterpart, those of seals that were
    /// not folded, and the journal's.
    ///
    /// # Errors
    /// As [`Self::new`], and when a file is gone.
    pub fn fresh_entries(snapshot: &Snapshot) -> Result<Self> {
        let mut table = Self::new(snapshot, TableId::Entries)?;
        let folded = |path: &Path| {
            snapshot.origins.iter().any(|origin| {
                let manifests = origin.manifests.iter();
                let until = origin.rollups.until;
                manifests
                    .take_while(|manifest| until.is_some_and(|until| manifest.number <= until))
                    .flat_map(|manifest| &manifest.segments)
                    .any(|segment| snapshot.books.join(&segment.file) == path)
            })
        };
        table.files.retain(|file| !folded(&file.path));
        let waiting = snapshot.origins.iter();
        for path in waiting.filter_map(|origin| origin.rollups.waiting.as_deref()) {
            table.files.push(derived(&table.schema, path)?);
        }
        Ok(table)
    }

    /// Roll-ups in those files.
    ///
    /// # Errors
    /// When one is gone.
    pub fn of_rollups<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Result<Self> {
        let schema = rollup::schema();
        let files = paths.map(|path| derived(&schema, path));
        Ok(Self {
            files: files.collect::<Result<_>>()?,
            tail: Vec::new(),
            schema,
        })
    }

    fn files_exec(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = state.table_options().parquet.clone();
        let mut source =
            ParquetSource::new(Arc::clone(&self.schema)).with_table_parquet_options(options);
        if let Some(predicate) = conjunction(filters.to_vec()) {
            // A lookup by id decodes few rows: late materialisation pays; on wide scans it does not.
            source = source.with_pushdown_filters(is_lookup(&predicate));
            let df_schema = DFSchema::try_from(self.schema.as_ref().clone())?;
            let predicate = state.create_physical_expr(predicate, &df_schema)?;
            source = source.with_predicate(predicate);
        }
        let partitions = state.config().target_partitions().max(1);
        let mut groups: Vec<Vec<PartitionedFile>> =
            vec![Vec::new(); partitions.min(self.files.len())];
        let count = groups.len().max(1);
        for (place, file) in self.files.iter().enumerate() {
            if let Some(group) = groups.get_mut(place % count) {
                let mut listed = PartitionedFile::new("", file.bytes)
                    .with_statistics(Arc::clone(&file.statistics));
                listed.object_meta.location = file.location()?;
                group.push(listed);
            }
        }
        let all: Vec<&Statistics> = self.files.iter().map(|file| &*file.statistics).collect();
        let total = Statistics::try_merge_iter(all, &self.schema)?;
        let config =
            FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
                .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
                .with_statistics(total)
                .with_projection_indices(projection.cloned())?
                .with_limit(limit)
                .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

impl SegmentFile {
    /// The file as the local object store names it. Counts are answered from the manifest without
    /// reading the file, so that it must be seen to be there first.
    fn location(&self) -> Result<ObjectPath> {
        let unusable = |why: &dyn std::fmt::Display| {
            let file = self.path.display();
            DataFusionError::External(Box::new(SqlError::new(
                IO,
                format!("{file}: {why}; `counterfoil verify` tells what the books have lost"),
            )))
        };
        let found = std::fs::metadata(&self.path).map_err(|error| unusable(&error))?;
        if found.len() != self.bytes {
            let why = format!("it has {} bytes, sealed were {}", found.len(), self.bytes);
            return Err(unusable(&why));
        }
        ObjectPath::from_absolute_path(&self.path).map_err(|error| unusable(&error))
    }
}

/// A derived file, of which nothing is known but its size.
fn derived(schema: &SchemaRef, path: &Path) -> Result<SegmentFile> {
    let found = std::fs::metadata(path).map_err(|error| {
        let file = path.display();
        let why = format!("{file}: {error}; `counterfoil rebuild rollups` makes it anew");
        DataFusionError::External(Box::new(SqlError::new(IO, why)))
    })?;
    Ok(SegmentFile {
        path: path.to_owned(),
        bytes: found.len(),
        statistics: Arc::new(Statistics::new_unknown(schema)),
    })
}

#[async_trait]
impl TableProvider for RawTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // Filters are checked again above the scan, so a limit may only stop an unfiltered one.
        let limit = limit.filter(|_| filters.is_empty());
        let tail = MemorySourceConfig::try_new_exec(
            std::slice::from_ref(&self.tail),
            Arc::clone(&self.schema),
            projection.cloned(),
        )?;
        if self.files.is_empty() {
            return Ok(tail);
        }
        let files = self.files_exec(state, projection, filters, limit)?;
        if self.tail.is_empty() {
            return Ok(files);
        }
        UnionExec::try_new(vec![files, tail])
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// The Arrow schema of a raw table: the segments' own, every column nullable so that rows of
/// several schema versions fit.
#[must_use]
pub fn schema(id: TableId) -> SchemaRef {
    let columns = counterfoil_columns::schema(id);
    let fields: Vec<Field> = columns
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    Arc::new(Schema::new(fields))
}

/// What the manifest says of a file: rows, and bounds of the time column.
fn statistics(schema: &Schema, count: u64, (first, last): (Time, Time)) -> Statistics {
    let time = if schema.column_with_name("start_time").is_some() {
        "start_time"
    } else {
        "received_at"
    };
    let columns = schema
        .fields()
        .iter()
        .map(|field| match field.data_type() {
            DataType::Timestamp(_, zone) if field.name() == time => {
                let value = |at: Time| {
                    Precision::Exact(ScalarValue::TimestampNanosecond(
                        Some(at.as_ns()),
                        zone.clone(),
                    ))
                };
                ColumnStatistics {
                    min_value: value(first),
                    max_value: value(last),
                    ..ColumnStatistics::new_unknown()
                }
            }
            _ => ColumnStatistics::new_unknown(),
        })
        .collect();
    let rows = usize::try_from(count).unwrap_or(usize::MAX);
    Statistics {
        num_rows: Precision::Exact(rows),
        total_byte_size: Precision::Absent,
        column_statistics: columns,
    }
}

/// Whether the predicate asks for one trace, span or certificate by its id.
fn is_lookup(predicate: &Expr) -> bool {
    let mut found = false;
    // Only the callback could fail, and it does not.
    let _visited = predicate.apply(|expr| {
        if let Expr::Literal(ScalarValue::FixedSizeBinary(..), _) = expr {
            found = true;
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

//! Schemas `public` and `raw` over one snapshot; views are planned when they are used.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use counterfoil_entry::table::{TABLES, TableId};
use counterfoil_entry::{Time, clock};
use datafusion::catalog::CatalogProviderList;
use datafusion::catalog::{
    CatalogProvider, MemTable, MemoryCatalogProvider, MemoryCatalogProviderList, SchemaProvider,
    TableProvider,
};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::TableType;
use datafusion::datasource::ViewTable;
use datafusion::execution::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use futures::FutureExt;

use crate::books::Snapshot;
use crate::listing;
use crate::objectives::Objective;
use crate::public::{PublicTable, public_type};
use crate::raw::RawTable;
use crate::schemata::{INFORMATION_SCHEMA, InformationSchema};
use crate::views::{Promised, VIEWS, Window, plain, windowed, windowed_names};

mod flow;
mod windowed;

use windowed::Windowed;

/// Name of the database.
pub const DATABASE: &str = "counterfoil";

/// Tables about the books themselves and their objectives.
const LISTED: &[&str] = &[
    "checkpoints",
    "deleted_ranges",
    "manifests",
    "objectives",
    "reports",
    "segments",
];
/// Who may ask; not of the books.
const USERS: &str = "users";

/// Roll-ups, by minute and by hour of the call's begin.
const ROLLUPS: &[&str] = &["rollup_1h", "rollup_1m"];
/// Roll-ups that answer for each manifest once; not listed, for views are made of it.
const ROLLUPS_ONCE: &str = "rollups_once";
/// Entries that no roll-up counts yet; not listed, either.
const FRESH_ENTRIES: &str = "fresh_entries";

/// What a statement sees.
#[derive(Clone)]
pub struct World {
    /// Functions, options and limits; its own catalogue is not used.
    pub template: Arc<SessionState>,
    /// The books.
    pub snapshot: Arc<Snapshot>,
    /// What was promised.
    pub objectives: Arc<Vec<Objective>>,
    /// Who may ask, and in which role; nobody where no server has read the users file.
    pub users: Arc<Vec<(String, &'static str)>>,
    /// What PostgreSQL clients ask about tables; `None` off the wire.
    pub pg_catalog: Option<Arc<dyn SchemaProvider>>,
    /// When the statement began.
    pub now: Time,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

impl World {
    /// A world at this instant.
    #[must_use]
    pub fn new(template: Arc<SessionState>, snapshot: Arc<Snapshot>) -> Self {
        Self {
            template,
            snapshot,
            objectives: Arc::default(),
            users: Arc::default(),
            pg_catalog: None,
            now: clock::wall(),
        }
    }

    /// The catalogue of this world.
    ///
    /// # Errors
    /// When a schema cannot be registered.
    pub fn catalogues(&self) -> Result<Arc<dyn CatalogProviderList>> {
        // `information_schema` is about a list without itself: one that held it would never be freed.
        let others = self.schemas()?;
        let about = InformationSchema::new(self.clone(), listed(Arc::new(others)));
        let all = self.schemas()?;
        all.register_schema(INFORMATION_SCHEMA, Arc::new(about))?;
        Ok(listed(Arc::new(all)))
    }

    fn schemas(&self) -> Result<MemoryCatalogProvider> {
        let catalogue = MemoryCatalogProvider::new();
        catalogue.register_schema(
            "public",
            Arc::new(Public {
                world: self.clone(),
            }),
        )?;
        catalogue.register_schema(
            "raw",
            Arc::new(Raw {
                snapshot: Arc::clone(&self.snapshot),
            }),
        )?;
        if let Some(pg_catalog) = &self.pg_catalog {
            catalogue.register_schema("pg_catalog", Arc::clone(pg_catalog))?;
        }
        Ok(catalogue)
    }

    /// A session state that plans and runs one statement of this world.
    ///
    /// # Errors
    /// When a schema cannot be registered.
    pub fn state(&self) -> Result<SessionState> {
        let mut state = SessionStateBuilder::new_from_existing(self.template.as_ref().clone())
            .with_catalog_list(self.catalogues()?)
            .build();
        // A copied state keeps the time of the template, which `now()` would answer for ever.
        state.mark_start_execution();
        for name in windowed_names() {
            state.register_udtf(
                name,
                Arc::new(Windowed {
                    name,
                    world: self.clone(),
                }),
            );
        }
        let world = self.clone();
        state.register_udtf(flow::NAME, Arc::new(flow::Flow { world }));
        Ok(state)
    }

    /// The view whose query is `sql`.
    pub(crate) async fn view(&self, sql: &str) -> Result<Arc<dyn TableProvider>> {
        // Boxed, because planning a view plans the views that it reads.
        let state = self.state()?;
        let plan = Box::pin(state.create_logical_plan(sql)).await?;
        let plan = in_public_types(plan)?;
        Ok(Arc::new(ViewTable::new(plan, Some(sql.trim().to_owned()))))
    }

    fn windowed_sql(&self, name: &str, window: Option<Window>) -> Option<String> {
        let promised = Promised::of(&self.objectives);
        windowed(name, window, promised, self.now)
    }
}

fn listed(catalogue: Arc<dyn CatalogProvider>) -> Arc<dyn CatalogProviderList> {
    let list = MemoryCatalogProviderList::new();
    let _none_before = list.register_catalog(DATABASE.to_owned(), catalogue);
    Arc::new(list)
}

/// `plan` with its columns in the types of schema `public`: a view may compute on raw ones.
fn in_public_types(plan: LogicalPlan) -> Result<LogicalPlan> {
    let fields = plan.schema().fields().iter();
    if fields
        .clone()
        .all(|field| public_type(field.data_type()) == *field.data_type())
    {
        return Ok(plan);
    }
    let columns = plan.schema().columns();
    let casts: Vec<Expr> = columns
        .into_iter()
        .zip(fields)
        .map(|(column, field)| {
            let target = public_type(field.data_type());
            let column = Expr::Column(column);
            if target == *field.data_type() {
                column
            } else {
                cast(column, target).alias(field.name())
            }
        })
        .collect();
    LogicalPlanBuilder::from(plan).project(casts)?.build()
}

#[derive(Debug)]
struct Public {
    world: World,
}

#[async_trait]
impl SchemaProvider for Public {
    fn table_names(&self) -> Vec<String> {
        let tables = TABLES.iter().map(|table| table.id.name());
        let mut names: Vec<String> = tables
            .chain(VIEWS.iter().copied())
            .chain(windowed_names())
            .chain(LISTED.iter().copied())
            .chain(ROLLUPS.iter().copied())
            .chain([USERS])
            .map(ToOwned::to_owned)
            .collect();
        names.sort();
        names.dedup();
        names
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let world = &self.world;
        // What is in force now; its history is in `objective_revisions`, and in the schema `raw`.
        let id = TableId::from_name(name).filter(|id| *id != TableId::Objectives);
        if let Some(id) = id.filter(|id| *id != TableId::Alerts) {
            let raw = Arc::new(RawTable::new(&world.snapshot, id)?);
            return Ok(Some(Arc::new(PublicTable::new(raw))));
        }
        if name == FRESH_ENTRIES {
            let raw = Arc::new(RawTable::fresh_entries(&world.snapshot)?);
            return Ok(Some(Arc::new(PublicTable::new(raw))));
        }
        if ROLLUPS.contains(&name) {
            let raw = rollups(&world.snapshot, name)?.map(Arc::new);
            return Ok(raw.map(|raw| Arc::new(PublicTable::new(raw)) as Arc<dyn TableProvider>));
        }
        if name == USERS {
            let batch = listing::users(&world.users)?;
            let table = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
            return Ok(Some(Arc::new(table)));
        }
        if LISTED.contains(&name) {
            let batch = listing::table(name, &world.snapshot, &world.objectives, world.now)?;
            return batch
                .map(|batch| {
                    let table = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
                    Ok(Arc::new(table) as Arc<dyn TableProvider>)
                })
                .transpose();
        }
        match plain(name).or_else(|| world.windowed_sql(name, None)) {
            Some(sql) => world.view(&sql).await.map(Some),
            None => Ok(None),
        }
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(self.table_exist(name).then_some(TableType::View))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.table_names().iter().any(|one| one == name)
    }
}

#[derive(Debug)]
struct Raw {
    snapshot: Arc<Snapshot>,
}

#[async_trait]
impl SchemaProvider for Raw {
    fn table_names(&self) -> Vec<String> {
        let tables = TABLES.iter().map(|table| table.id.name());
        let names = tables.chain(ROLLUPS.iter().copied());
        names.map(ToOwned::to_owned).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let table = match TableId::from_name(name) {
            Some(id) => Some(RawTable::new(&self.snapshot, id)?),
            None => rollups(&self.snapshot, name)?,
        };
        Ok(table.map(|table| Arc::new(table) as Arc<dyn TableProvider>))
    }

    fn table_exist(&self, name: &str) -> bool {
        TableId::from_name(name).is_some() || ROLLUPS.contains(&name)
    }
}

/// The roll-ups of that name; `None` for another name.
fn rollups(snapshot: &Snapshot, name: &str) -> Result<Option<RawTable>> {
    let origins = || snapshot.origins.iter().map(|origin| &origin.rollups);
    let hours = origins().flat_map(|of| of.hours.iter().map(|(_, _, path)| path));
    Ok(Some(match name {
        "rollup_1m" => {
            RawTable::of_rollups(origins().flat_map(|of| of.minutes.iter().map(|(_, path)| path)))?
        }
        "rollup_1h" => RawTable::of_rollups(hours)?,
        ROLLUPS_ONCE => {
            let minutes = origins().flat_map(|of| of.minutes_alone().map(|(_, path)| path));
            RawTable::of_rollups(hours.chain(minutes))?
        }
        _ => return Ok(None),
    }))
}

/// The view of `sql` as the table function `name` gives it.
fn planned_at_once(world: &World, name: &str, sql: &str) -> Result<Arc<dyn TableProvider>> {
    // Planning waits for nothing: every provider is in memory.
    world.view(sql).now_or_never().unwrap_or_else(|| {
        let why = format!("planning {name} had to wait");
        Err(DataFusionError::Internal(why))
    })
}

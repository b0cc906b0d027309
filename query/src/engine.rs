//! From a statement to a stream of rows: snapshot, plan, limits, log, execution on threads of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use counterfoil_entry::rows::QueryLogRow;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::SchemaProvider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, ParamValues};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::registry::FunctionRegistry;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::joins::{CrossJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::{ExecutionPlan, StatisticsArgs, StatisticsContext, execute_stream};
use datafusion::prelude::SQLOptions;
use datafusion::sql::parser::Statement as PlannerStatement;
use datafusion::sql::sqlparser::ast::Statement;
use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::books::{Books, Snapshot};
use crate::catalogue::World;
use crate::error::{CANCELED, INTERNAL, IO, LIMIT, SqlError, TOO_MANY};
use crate::functions;
use crate::guard::column_names;
use crate::log::{Asker, QueryLog, Sent};
use crate::objectives::Objective;
use crate::users::Users;

/// Batches between the engine's threads and the network's: enough to overlap, no more.
const BATCHES_AHEAD: usize = 2;
/// How long a statement waits for its turn.
const TURN: Duration = Duration::from_secs(30);
/// Pairs of rows that a join without an equality may look at. At about 10 ns a pair this is ten
/// seconds during which the plan cannot be stopped.
const PAIRS_MAX: u128 = 1_000_000_000;

/// What a statement may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest run, planning included.
    pub timeout: Duration,
    /// Most rows of an answer; more is an error, never a silent cut.
    pub rows_max: u64,
}

/// A statement to run.
#[derive(Debug, Clone)]
pub struct Question {
    /// The whole text as the client sent it.
    pub sql: String,
    /// The one statement of it that is asked here.
    pub statement: Statement,
    /// Bound parameters.
    pub parameters: Option<ParamValues>,
    /// The same as text, for the log.
    pub parameter_texts: Vec<String>,
    /// The session's settings, for `current_setting`.
    pub settings: BTreeMap<String, String>,
    /// Limits of the role, or tighter ones that the session chose.
    pub limits: Limits,
}

/// Runs statements over the books of one data directory.
pub struct Engine {
    books: Arc<Books>,
    template: Arc<SessionState>,
    pg_catalog: Option<Arc<dyn SchemaProvider>>,
    objectives: RwLock<Arc<Vec<Objective>>>,
    users: Arc<Vec<(String, &'static str)>>,
    cpu: Handle,
    turns: Arc<Semaphore>,
    log: Option<Arc<QueryLog>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("books", &self.books)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine that plans and runs on `cpu`, at most `turns` statements at a time.
    ///
    /// # Errors
    /// When the session's template cannot be made.
    pub fn new(
        books: Books,
        template: SessionState,
        objectives: Vec<Objective>,
        cpu: Handle,
        turns: usize,
        log: Option<QueryLog>,
    ) -> Result<Self, SqlError> {
        let (template, pg_catalog) =
            crate::template::with_pg_catalog(template).map_err(|error| SqlError::from(&error))?;
        Ok(Self {
            books: Arc::new(books),
            template: Arc::new(template),
            pg_catalog: Some(pg_catalog),
            objectives: RwLock::new(Arc::new(objectives)),
            users: Arc::default(),
            cpu,
            turns: Arc::new(Semaphore::new(turns.max(1))),
            log: log.map(Arc::new),
        })
    }

    /// The same, with those who may ask, as the table `users` tells of them.
    #[must_use]
    pub fn with_users(self, users: &Users) -> Self {
        Self {
            users: Arc::new(users.names_and_roles()),
            ..self
        }
    }

    fn world(&self, snapshot: Arc<Snapshot>) -> World {
        let objectives = self
            .objectives
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        World {
            objectives: Arc::clone(&objectives),
            users: Arc::clone(&self.users),
            pg_catalog: self.pg_catalog.clone(),
            ..World::new(Arc::clone(&self.template), snapshot)
        }
    }

    /// Logs a statement that was not allowed to run.
    ///
    /// # Errors
    /// When the log cannot be written; the refusal stands all the same.
    pub fn log_refused(&self, asker: &Asker, sql: &str, sqlstate: &str) -> Result<(), SqlError> {
        let Some(log) = &self.log else { return Ok(()) };
        let mut row = asker.row("refused", sql, Vec::new());
        row.end_time = Some(row.start_time);
        row.outcome = Some("refused".to_owned());
        row.sqlstate = Some(sqlstate.to_owned());
        log.append(&row)
    }

    /// The columns and parameters of a statement, planned over empty books.
    ///
    /// # Errors
    /// As planning gives them.
    pub async fn describe(
        &self,
        user: &str,
        statement: Statement,
    ) -> Result<LogicalPlan, SqlError> {
        let world = self.world(Arc::new(Snapshot::default()));
        let user = user.to_owned();
        self.cpu
            .spawn(async move {
                let state = session(&world, &user, &BTreeMap::new())?;
                plan(&state, statement, None).await
            })
            .await
            .map_err(|_| lost())?
    }

    /// Starts a statement; its rows come by [`Rows::next`].
    ///
    /// # Errors
    /// [`SqlError`], also when the log cannot be written: then nothing ran.
    pub async fn ask(
        &self,
        asker: &Asker,
        question: Question,
        cancel: CancellationToken,
    ) -> Result<Rows, SqlError> {
        let deadline = Instant::now() + question.limits.timeout;
        let start = asker.row("start", &question.sql, question.parameter_texts.clone());
        let prepared = tokio::select! {
            prepared = self.prepare(&asker.principal, &question) => prepared,
            () = cancel.cancelled() => Err(canceled()),
            () = tokio::time::sleep_until(deadline) => Err(timed_out(question.limits.timeout)),
        };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                let error = error.located_in(&question.sql);
                self.log_failed(&start, &error)?;
                return Err(error);
            }
        };
        let mut start = start;
        start.tables = prepared.tables;
        start.checkpoint = prepared.checkpoint;
        if let Some(log) = &self.log {
            log.append(&start)?;
        }
        let schema = prepared.physical.schema();
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        let task = self.cpu.spawn(run(
            prepared.physical,
            prepared.state,
            sender,
            prepared.turn,
            deadline,
        ));
        Ok(Rows {
            schema,
            names: column_names(&question.statement),
            receiver,
            task,
            ended: false,
            cancel,
            deadline,
            limits: question.limits,
            sent: Sent::default(),
            account: self.log.clone().map(|log| (log, start)),
        })
    }

    /// A statement that failed before it ran: both rows at once.
    fn log_failed(&self, start: &QueryLogRow, error: &SqlError) -> Result<(), SqlError> {
        let Some(log) = &self.log else { return Ok(()) };
        log.append(start)?;
        log.append(&Sent::default().end(start, "error", Some(error.sqlstate)))
    }

    async fn prepare(&self, user: &str, question: &Question) -> Result<Prepared, SqlError> {
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.turns).acquire_owned());
        let turn = turn
            .await
            .map_err(|_| SqlError::new(TOO_MANY, "too many statements are running; try again"))?
            .map_err(|_| lost())?;
        let books = Arc::clone(&self.books);
        let snapshot = self.cpu.spawn_blocking(move || books.snapshot());
        let snapshot = snapshot.await.map_err(|_| lost())?.map_err(|error| {
            tracing::error!(error = %chain(&error), "the books cannot be read");
            SqlError::new(IO, format!("the books cannot be read: {}", chain(&error)))
        })?;
        let checkpoint = snapshot.checkpoint_text();
        let world = self.world(Arc::new(snapshot));
        let (user, settings) = (user.to_owned(), question.settings.clone());
        let (statement, parameters) = (question.statement.clone(), question.parameters.clone());
        let planned = self.cpu.spawn(async move {
            let state = session(&world, &user, &settings)?;
            let tables = state
                .resolve_table_references(&PlannerStatement::Statement(Box::new(statement.clone())))
                .map(|tables| tables.iter().map(ToString::to_string).collect())
                .unwrap_or_default();
            let logical = plan(&state, statement, parameters).await?;
            let physical = state
                .create_physical_plan(&logical)
                .await
                .map_err(|error| SqlError::from(&error))?;
            check_joins(&physical)?;
            let physical = yielding(physical).map_err(|error| SqlError::from(&error))?;
            Ok(Prepared {
                physical,
                state,
                tables,
                checkpoint,
                turn,
            })
        });
        planned.await.map_err(|_| lost())?
    }
}

struct Prepared {
    physical: Arc<dyn ExecutionPlan>,
    state: SessionState,
    tables: Vec<String>,
    checkpoint: Option<String>,
    turn: OwnedSemaphorePermit,
}

fn session(
    world: &World,
    user: &str,
    settings: &BTreeMap<String, String>,
) -> Result<SessionState, SqlError> {
    let mut state = world.state().map_err(|error| SqlError::from(&error))?;
    for function in functions::of_session(user, settings) {
        let _replaced = state
            .register_udf(Arc::new(function))
            .map_err(|error| SqlError::from(&error))?;
    }
    Ok(state)
}

async fn plan(
    state: &SessionState,
    statement: Statement,
    parameters: Option<ParamValues>,
) -> Result<LogicalPlan, SqlError> {
    let statement = PlannerStatement::Statement(Box::new(statement));
    let plan = state.statement_to_plan(statement).await;
    let plan = plan.map_err(|error| SqlError::from(&error))?;
    // The statement's own list was checked before; the plan is checked again, for it is what runs.
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)
        .map_err(|error| SqlError::from(&error))?;
    match parameters {
        Some(values) => plan
            .with_param_values(values)
            .map_err(|error| SqlError::from(&error)),
        None => Ok(plan),
    }
}

/// Runs the plan until its end, or until nobody takes its rows any more. A client that does not read
/// keeps the turn no longer than until the deadline.
async fn run(
    physical: Arc<dyn ExecutionPlan>,
    state: SessionState,
    sender: mpsc::Sender<Result<RecordBatch, DataFusionError>>,
    turn: OwnedSemaphorePermit,
    deadline: Instant,
) {
    let mut stream = match execute_stream(physical, state.task_ctx()) {
        Ok(stream) => stream,
        Err(error) => {
            // The receiver is gone only when the client is.
            let _unheard = sender.send(Err(error)).await;
            return;
        }
    };
    let whole = async {
        loop {
            let next = tokio::select! {
                next = stream.next() => next,
                () = sender.closed() => break,
            };
            let Some(next) = next else { break };
            let failed = next.is_err();
            if sender.send(next).await.is_err() || failed {
                break;
            }
        }
    };
    let in_time = tokio::time::timeout_at(deadline, whole).await.is_ok();
    drop(stream);
    drop(turn);
    if !in_time {
        // The channel stays open, so that whoever reads on finds the deadline passed, not the end of the rows.
        sender.closed().await;
    }
}

/// Lets every join give way between its batches: one that makes many rows of few never waits for its
/// inputs, and could not be stopped otherwise.
fn yielding(plan: Arc<dyn ExecutionPlan>) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
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
fn check_joins(plan: &Arc<dyn ExecutionPlan>) -> Result<(), SqlError> {
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

/// The rows of a running statement. Dropping it stops the statement and logs it as aborted.
#[derive(Debug)]
pub struct Rows {
    schema: SchemaRef,
    names: Vec<Option<String>>,
    receiver: mpsc::Receiver<Result<RecordBatch, DataFusionError>>,
    task: JoinHandle<()>,
    ended: bool,
    cancel: CancellationToken,
    deadline: Instant,
    limits: Limits,
    sent: Sent,
    account: Option<(Arc<QueryLog>, QueryLogRow)>,
}

impl Rows {
    /// Columns of the answer, named as PostgreSQL would.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        named(&self.schema, &self.names)
    }

    /// Counts bytes as they leave.
    pub fn count(&mut self, bytes: &[u8]) {
        self.sent.add(bytes);
    }

    /// The next batch; `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, SqlError>> {
        let next = tokio::select! {
            next = self.receiver.recv() => next.map(|next| next.map_err(|error| SqlError::from(&error))),
            () = self.cancel.cancelled() => Some(Err(canceled())),
            () = tokio::time::sleep_until(self.deadline) => Some(Err(timed_out(self.limits.timeout))),
        };
        match next {
            None => {
                // The channel also closes when the plan panics; what came until then is no answer.
                if !std::mem::replace(&mut self.ended, true) && (&mut self.task).await.is_err() {
                    return Some(Err(self.fail(lost())));
                }
                self.finish("ok", None);
                None
            }
            Some(Ok(batch)) => {
                self.sent.rows += batch.num_rows() as u64;
                if self.sent.rows > self.limits.rows_max {
                    return Some(Err(self.fail(too_many_rows(self.limits.rows_max))));
                }
                Some(Ok(batch))
            }
            Some(Err(error)) => Some(Err(self.fail(error))),
        }
    }

    fn fail(&mut self, error: SqlError) -> SqlError {
        self.task.abort();
        self.finish("error", Some(error.sqlstate));
        error
    }

    fn finish(&mut self, outcome: &str, sqlstate: Option<&str>) {
        if let Some((log, start)) = self.account.take()
            && let Err(error) = log.append(&self.sent.end(&start, outcome, sqlstate))
        {
            tracing::error!(%error, query_id = start.query_id, "the end of a query is not logged");
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.task.abort();
        self.finish("aborted", None);
    }
}

/// `schema` with the names that PostgreSQL gives to unnamed columns.
#[must_use]
pub fn named(schema: &SchemaRef, names: &[Option<String>]) -> SchemaRef {
    if names.len() != schema.fields().len() {
        return Arc::clone(schema);
    }
    let fields = schema
        .fields()
        .iter()
        .zip(names)
        .map(|(field, name)| match name {
            Some(name) => field.as_ref().clone().with_name(name),
            None => field.as_ref().clone(),
        });
    Arc::new(datafusion::arrow::datatypes::Schema::new(
        fields.collect::<Vec<_>>(),
    ))
}

fn canceled() -> SqlError {
    SqlError::new(CANCELED, "canceling statement due to user request")
}

fn timed_out(timeout: Duration) -> SqlError {
    SqlError::new(
        CANCELED,
        format!(
            "canceling statement due to statement timeout of {} ms",
            timeout.as_millis()
        ),
    )
}

fn too_many_rows(rows_max: u64) -> SqlError {
    SqlError::new(
        LIMIT,
        format!(
            "the answer has more than the {rows_max} rows that this role may take: narrow it, or ask for it in parts"
        ),
    )
}

fn lost() -> SqlError {
    SqlError::new(INTERNAL, "the statement's thread ended early")
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

//! From a statement to a stream of rows: snapshot, plan, limits, log, execution on threads of its own.

mod joins;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use counterfoil_entry::rows::QueryLogRow;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::SchemaProvider;
use datafusion::common::{DataFusionError, ParamValues};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::registry::FunctionRegistry;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
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
use crate::guard::{Allowed, check, column_names, parse};
use crate::log::{Asker, QueryLog, Sent};
use crate::objectives::Objective;
use crate::users::Users;
use joins::{check_joins, yielding};

/// Batches between the engine's threads and the network's: enough to overlap, no more.
const BATCHES_AHEAD: usize = 2;
/// How long a question of this process itself may take: a day, for who asks a directory can wait.
const OWN_TIME_MAX: Duration = Duration::from_secs(86_400);
/// How long a statement waits for its turn.
const TURN: Duration = Duration::from_secs(30);

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
    objectives: Arc<RwLock<Arc<Vec<Objective>>>>,
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
            objectives: Arc::new(RwLock::new(Arc::new(objectives))),
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

    /// An engine over the same books and objectives for this process's own questions: with memory and a
    /// turn of its own, so that it neither waits for people nor they for it, and without a log.
    ///
    /// # Errors
    /// When the session's template cannot be made.
    pub(crate) fn beside(&self, memory_bytes_max: usize) -> Result<Self, SqlError> {
        let template = crate::template::template(memory_bytes_max, 1)
            .map_err(|error| SqlError::from(&error))?;
        Ok(Self {
            books: Arc::clone(&self.books),
            template: Arc::new(template),
            pg_catalog: None,
            objectives: Arc::clone(&self.objectives),
            users: Arc::clone(&self.users),
            cpu: self.cpu.clone(),
            turns: Arc::new(Semaphore::new(1)),
            log: None,
        })
    }

    /// The objectives in force.
    pub(crate) fn objectives(&self) -> Arc<Vec<Objective>> {
        let objectives = self
            .objectives
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&objectives)
    }

    /// Puts objectives in force, for statements that begin from now on.
    pub(crate) fn set_objectives(&self, objectives: Vec<Objective>) {
        let mut current = self
            .objectives
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(objectives);
    }

    /// The whole answer to one query of this process's own.
    ///
    /// # Errors
    /// [`SqlError`]
    pub(crate) async fn answer(
        &self,
        sql: &str,
    ) -> Result<(SchemaRef, Vec<RecordBatch>), SqlError> {
        let mut statements = parse(sql)?.into_iter();
        let (Some(statement), None) = (statements.next(), statements.next()) else {
            return Err(SqlError::new("42601", "expected exactly one statement"));
        };
        let Allowed::Query(statement) = check(statement)? else {
            let text = "only queries can be asked of a data directory";
            return Err(SqlError::new("25006", text));
        };
        let asker = Asker {
            principal: "local".to_owned(),
            role: "local".to_owned(),
            endpoint: "local",
            peer_address: String::new(),
            purpose: None,
        };
        let question = Question {
            sql: sql.to_owned(),
            statement: *statement,
            parameters: None,
            parameter_texts: Vec::new(),
            settings: crate::settings::defaults("local"),
            limits: Limits {
                timeout: OWN_TIME_MAX,
                rows_max: u64::MAX,
            },
        };
        let mut rows = self.ask(&asker, question, CancellationToken::new()).await?;
        let schema = rows.schema();
        let mut batches = Vec::new();
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            let batch = RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec());
            batches.push(batch.map_err(|error| SqlError::new(INTERNAL, error.to_string()))?);
        }
        Ok((schema, batches))
    }

    fn world(&self, snapshot: Arc<Snapshot>) -> World {
        World {
            objectives: self.objectives(),
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

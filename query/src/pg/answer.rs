//! Statements over the wire, simple and extended: each is checked, logged, run and encoded.

use std::fmt;
use std::fmt::Debug;
use std::sync::Arc;

use arrow_pg::datatypes::{arrow_schema_to_pg_fields, encode_recordbatch, into_pg_type};
use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ParamValues;
use datafusion::logical_expr::LogicalPlan;
use futures::stream::{self, BoxStream};
use futures::{Sink, SinkExt, StreamExt};
use pgwire::api::portal::{Format, Portal, PortalExecutionState};
use pgwire::api::query::{
    ExtendedQueryHandler, SimpleQueryHandler, send_execution_response, send_query_response,
    send_ready_for_query,
};
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::stmt::QueryParser;
use pgwire::api::store::{Entry, PortalStore};
use pgwire::api::{ClientInfo, ClientPortalStore, DEFAULT_NAME, PgWireConnectionState, Type};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::DataRow;
use pgwire::messages::extendedquery::{Execute, PortalSuspended, Sync as SyncMessage};
use pgwire::messages::response::{EmptyQueryResponse, TransactionStatus};
use pgwire::messages::simplequery::Query;
use tokio_util::sync::CancellationToken;

use super::bound::bound;
use super::session::Session;
use crate::engine::{Engine, Question, Rows, named};
use crate::error::{INTERNAL, SqlError};
use crate::guard::{Allowed, check, column_names, parse};
use crate::settings::canonical;

/// Answers the statements of one connection.
#[derive(Debug)]
pub struct Conversation {
    engine: Arc<Engine>,
}

/// A statement that was parsed, and what it returns.
#[derive(Clone)]
pub struct Prepared {
    sql: String,
    allowed: Allowed,
    schema: SchemaRef,
    parameters: Vec<Option<DataType>>,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("allowed", &self.allowed)
            .finish_non_exhaustive()
    }
}

impl Conversation {
    pub(crate) const fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// Parses and checks a message; a refused statement is logged.
    fn checked(
        &self,
        session: &Session,
        sql: &str,
    ) -> Result<Vec<Result<Allowed, SqlError>>, SqlError> {
        let refuse =
            |error: SqlError| match self
                .engine
                .log_refused(&session.asker(), sql, error.sqlstate)
            {
                Ok(()) => error,
                Err(unlogged) => unlogged,
            };
        let statements = parse(sql).map_err(refuse)?;
        Ok(statements
            .into_iter()
            .map(|statement| check(statement).map_err(refuse))
            .collect())
    }

    /// A statement that failed before the engine was asked, as the client hears it; logged.
    fn failed(&self, session: &Session, sql: &str, error: PgWireError) -> PgWireError {
        let info = ErrorInfo::from(error);
        match self.engine.log_refused(&session.asker(), sql, &info.code) {
            Ok(()) => PgWireError::UserError(Box::new(info)),
            Err(unlogged) => wire(unlogged),
        }
    }

    async fn ask(
        &self,
        session: &Session,
        sql: &str,
        allowed: Allowed,
        format: &Format,
        parameters: Option<(ParamValues, Vec<String>)>,
        cancel: CancellationToken,
    ) -> Result<Response, SqlError> {
        match allowed {
            Allowed::Query(statement) => {
                let (parameters, parameter_texts) = match parameters {
                    Some((values, texts)) => (Some(values), texts),
                    None => (None, Vec::new()),
                };
                let question = Question {
                    sql: sql.to_owned(),
                    statement: *statement,
                    parameters,
                    parameter_texts,
                    settings: session.settings(),
                    limits: session.limits(),
                };
                let rows = self.engine.ask(&session.asker(), question, cancel).await?;
                encoded(rows, format).map(Response::Query)
            }
            Allowed::Set { name, value } => {
                session.set(&name, value);
                Ok(Response::Execution(Tag::new("SET")))
            }
            Allowed::Show(name) => show(session, &name, format).map(Response::Query),
            Allowed::Begin => Ok(Response::TransactionStart(Tag::new("BEGIN"))),
            Allowed::Commit => Ok(Response::TransactionEnd(Tag::new("COMMIT"))),
            Allowed::Rollback => Ok(Response::TransactionEnd(Tag::new("ROLLBACK"))),
            Allowed::Acknowledge(tag) => Ok(Response::Execution(Tag::new(tag))),
            Allowed::Reset(tag) => {
                session.reset();
                Ok(Response::Execution(Tag::new(tag)))
            }
        }
    }
}

fn session_of<C: ClientInfo>(client: &C) -> PgWireResult<Arc<Session>> {
    let session = client.session_extensions().get::<Arc<Session>>();
    let session = session.ok_or_else(|| wire(SqlError::new(INTERNAL, "not logged in")))?;
    Ok(Arc::clone(&session))
}

/// In a failed transaction only its end is heard.
fn heard(status: TransactionStatus, allowed: &Allowed) -> Result<(), SqlError> {
    match (status, allowed) {
        (
            TransactionStatus::Error,
            Allowed::Commit | Allowed::Rollback | Allowed::Acknowledge("ROLLBACK"),
        ) => Ok(()),
        (TransactionStatus::Error, _) => Err(SqlError::new(
            "25P02",
            "current transaction is aborted, commands ignored until end of transaction block",
        )),
        _ => Ok(()),
    }
}

#[async_trait]
impl SimpleQueryHandler for Conversation {
    /// Runs the statements of a message one after the other: each begins when the answer of the one
    /// before has left, so that a message never holds more than one turn, and a cancel request stops
    /// the statement that runs.
    async fn on_query<C>(&self, client: &mut C, query: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let session = session_of(client)?;
        begin(client)?;
        // As in PostgreSQL, a simple message ends the portals of earlier ones.
        client.portal_store().rm_portal(DEFAULT_NAME);
        let sql = query.query.as_str();
        let statements = self.checked(&session, sql).map_err(wire)?;
        if statements.is_empty() {
            let empty = PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new());
            client.feed(empty).await?;
        }
        let cancel = session.begin_statement();
        for allowed in statements {
            let allowed = allowed.map_err(wire)?;
            heard(client.transaction_status(), &allowed).map_err(wire)?;
            let (format, cancel) = (Format::UnifiedText, cancel.clone());
            let answer = self.ask(&session, sql, allowed, &format, None, cancel);
            match answer.await.map_err(wire)? {
                Response::Query(rows) => send_query_response(client, rows, true).await?,
                other => without_rows(client, other).await?,
            }
        }
        client.set_state(PgWireConnectionState::ReadyForQuery);
        let status = client.transaction_status();
        send_ready_for_query(client, status).await
    }

    /// Never called: [`Self::on_query`] answers.
    async fn do_query<C>(&self, _client: &mut C, _sql: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        Err(wire(SqlError::new(INTERNAL, "not answered this way")))
    }
}

/// One message at a time.
fn begin<C: ClientInfo>(client: &mut C) -> PgWireResult<()> {
    if !matches!(client.state(), PgWireConnectionState::ReadyForQuery) {
        return Err(PgWireError::NotReadyForQuery);
    }
    client.set_state(PgWireConnectionState::QueryInProgress);
    Ok(())
}

/// Sends an answer that has no rows, and keeps the state of the transaction.
async fn without_rows<C>(client: &mut C, response: Response) -> PgWireResult<()>
where
    C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
    C::Error: Debug,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let status = client.transaction_status();
    let (tag, status) = match response {
        Response::Execution(tag) => (tag, status),
        Response::TransactionStart(tag) => (tag, status.to_in_transaction_state()),
        Response::TransactionEnd(tag) => (tag, status.to_idle_state()),
        _ => return Err(wire(SqlError::new(INTERNAL, "an answer of another kind"))),
    };
    client.set_transaction_status(status);
    send_execution_response(client, tag).await
}

#[async_trait]
impl ExtendedQueryHandler for Conversation {
    type Statement = Prepared;
    type QueryParser = Self;

    fn query_parser(&self) -> Arc<Self> {
        Arc::new(Self {
            engine: Arc::clone(&self.engine),
        })
    }

    /// Sends rows as they come: the library's own way holds all rows of an `Execute` in memory, and
    /// reserves room for as many as the client names.
    async fn on_execute<C>(&self, client: &mut C, message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        begin(client)?;
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        // 0, and what is less, is all.
        let rows_max = usize::try_from(message.max_rows).unwrap_or(0);
        match client.portal_store().get_portal(name) {
            Some(Entry::Value(portal)) => {
                let state = portal.state();
                let mut state = state.lock().await;
                let answer = match *state {
                    PortalExecutionState::Initial => {
                        Some(ExtendedQueryHandler::do_query(self, client, &portal, rows_max).await?)
                    }
                    _ => None,
                };
                match answer {
                    Some(Response::Query(rows)) => *state = PortalExecutionState::Suspended(rows),
                    Some(other) => {
                        without_rows(client, other).await?;
                        client.set_state(PgWireConnectionState::ReadyForQuery);
                        return Ok(());
                    }
                    None => {}
                }
                fetch(client, &mut state, rows_max).await?;
            }
            Some(Entry::Empty) => {
                let empty = PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new());
                client.feed(empty).await?;
            }
            None => return Err(PgWireError::PortalNotFound(name.to_owned())),
        }
        client.set_state(PgWireConnectionState::ReadyForQuery);
        Ok(())
    }

    /// Outside of a transaction the portals end here, and with them the statements that they hold.
    async fn on_sync<C>(&self, client: &mut C, _message: SyncMessage) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let status = client.transaction_status();
        if matches!(status, TransactionStatus::Transaction) {
            client.portal_store().rm_portal(DEFAULT_NAME);
        } else {
            client.portal_store().clear_portals();
        }
        send_ready_for_query(client, status).await
    }

    async fn do_query<C>(
        &self,
        client: &mut C,
        portal: &Portal<Prepared>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let session = session_of(client)?;
        let prepared = &portal.statement.statement;
        heard(client.transaction_status(), &prepared.allowed).map_err(wire)?;
        let types: Vec<Option<&DataType>> =
            prepared.parameters.iter().map(Option::as_ref).collect();
        let values =
            bound(portal, &types).map_err(|error| self.failed(&session, &prepared.sql, error))?;
        let texts = values.iter().map(|value| value.value.to_string()).collect();
        let values = ParamValues::List(values);
        let parameters = (portal.parameter_len() > 0).then_some((values, texts));
        let (sql, allowed) = (&prepared.sql, prepared.allowed.clone());
        let (format, cancel) = (&portal.result_column_format, session.begin_statement());
        self.ask(&session, sql, allowed, format, parameters, cancel)
            .await
            .map_err(wire)
    }
}

/// Sends up to `rows_max` rows of a portal that was begun; 0 is all.
async fn fetch<C>(
    client: &mut C,
    state: &mut PortalExecutionState,
    rows_max: usize,
) -> PgWireResult<()>
where
    C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
    C::Error: Debug,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let mut sent = 0;
    let mut tag = "SELECT".to_owned();
    let mut ended = None;
    if let PortalExecutionState::Suspended(response) = state {
        response.command_tag().clone_into(&mut tag);
        while ended.is_none() && (rows_max == 0 || sent < rows_max) {
            match response.data_rows().next().await {
                Some(Ok(row)) => {
                    client.feed(PgWireBackendMessage::DataRow(row)).await?;
                    sent += 1;
                }
                Some(Err(error)) => ended = Some(Err(error)),
                None => ended = Some(Ok(())),
            }
        }
    } else {
        ended = Some(Ok(()));
    }
    let Some(ended) = ended else {
        let more = PgWireBackendMessage::PortalSuspended(PortalSuspended::new());
        return Ok(client.feed(more).await?);
    };
    *state = PortalExecutionState::Finished;
    ended?;
    send_execution_response(client, Tag::new(&tag).with_rows(sent)).await
}

#[async_trait]
impl QueryParser for Conversation {
    type Statement = Prepared;

    async fn parse_sql<C>(
        &self,
        client: &C,
        sql: &str,
        _types: &[Option<Type>],
    ) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let session = session_of(client)?;
        let mut statements = self.checked(&session, sql).map_err(wire)?.into_iter();
        let Some(allowed) = statements.next() else {
            return Ok(None);
        };
        if statements.next().is_some() {
            return Err(wire(SqlError::new(
                "42601",
                "cannot insert multiple commands into a prepared statement",
            )));
        }
        let allowed = allowed.map_err(wire)?;
        let (schema, parameters) = match &allowed {
            Allowed::Query(statement) => {
                let user = session.asker().principal;
                let plan = self
                    .engine
                    .describe(&user, statement.as_ref().clone())
                    .await;
                let plan =
                    plan.map_err(|error| self.failed(&session, sql, wire(error.located_in(sql))))?;
                let schema: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
                (
                    named(&schema, &column_names(statement)),
                    parameters_of(&plan),
                )
            }
            Allowed::Show(name) => (
                Arc::new(Schema::new(vec![Field::new(name, DataType::Utf8, true)])),
                Vec::new(),
            ),
            _ => (Arc::new(Schema::empty()), Vec::new()),
        };
        Ok(Some(Prepared {
            sql: sql.to_owned(),
            allowed,
            schema,
            parameters,
        }))
    }

    fn get_parameter_types(&self, prepared: &Prepared) -> PgWireResult<Vec<Type>> {
        let known = |one: &Option<DataType>| one.as_ref().map_or(Ok(Type::UNKNOWN), into_pg_type);
        prepared.parameters.iter().map(known).collect()
    }

    fn get_result_schema(
        &self,
        prepared: &Prepared,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        let format = format.unwrap_or(&Format::UnifiedText);
        arrow_schema_to_pg_fields(&wire_schema(&prepared.schema), format, None)
    }
}

/// Types of `$1`, `$2`, .. as far as the plan tells.
fn parameters_of(plan: &LogicalPlan) -> Vec<Option<DataType>> {
    let Ok(types) = plan.get_parameter_types() else {
        return Vec::new();
    };
    let place = |name: &String| {
        name.strip_prefix('$')
            .and_then(|text| text.parse::<usize>().ok())
    };
    let count = types.keys().filter_map(place).max().unwrap_or(0);
    (1..=count)
        .map(|place| types.get(&format!("${place}")).cloned().flatten())
        .collect()
}

/// Binary of a fixed length has no place in the encoder; as plain binary it is bytea.
fn wire_schema(schema: &SchemaRef) -> Schema {
    let field = |field: &Arc<Field>| match field.data_type() {
        DataType::FixedSizeBinary(_) => field.as_ref().clone().with_data_type(DataType::Binary),
        _ => field.as_ref().clone(),
    };
    Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>())
}

fn wire_batch(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, SqlError> {
    let fail =
        |error: datafusion::arrow::error::ArrowError| SqlError::new(INTERNAL, error.to_string());
    let columns = batch
        .columns()
        .iter()
        .map(|column| match column.data_type() {
            DataType::FixedSizeBinary(_) => cast(column, &DataType::Binary).map_err(fail),
            _ => Ok(Arc::clone(column)),
        });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options =
        datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(fail)
}

fn encoded(rows: Rows, format: &Format) -> Result<QueryResponse, SqlError> {
    let schema: SchemaRef = Arc::new(wire_schema(&rows.schema()));
    let fields = arrow_schema_to_pg_fields(&schema, format, None)
        .map_err(|error| SqlError::new("0A000", error.to_string()))?;
    let fields = Arc::new(fields);
    let encoder = Encoder {
        rows,
        schema,
        fields: Arc::clone(&fields),
        batch: None,
    };
    let stream: BoxStream<'static, PgWireResult<DataRow>> =
        stream::unfold(encoder, |mut encoder| async move {
            let row = encoder.next().await?;
            Some((row, encoder))
        })
        .boxed();
    Ok(QueryResponse::new(fields, stream))
}

struct Encoder {
    rows: Rows,
    schema: SchemaRef,
    fields: Arc<Vec<FieldInfo>>,
    batch: Option<Box<dyn Iterator<Item = PgWireResult<DataRow>> + Send>>,
}

impl Encoder {
    async fn next(&mut self) -> Option<PgWireResult<DataRow>> {
        loop {
            if let Some(row) = self.batch.as_mut().and_then(Iterator::next) {
                if let Ok(row) = &row {
                    self.rows.count(&row.data);
                }
                return Some(row);
            }
            match self.rows.next().await? {
                Ok(batch) => match wire_batch(&self.schema, &batch) {
                    Ok(batch) => {
                        self.batch = Some(encode_recordbatch(Arc::clone(&self.fields), batch));
                    }
                    Err(error) => return Some(Err(wire(error))),
                },
                Err(error) => return Some(Err(wire(error))),
            }
        }
    }
}

fn show(session: &Session, name: &str, format: &Format) -> Result<QueryResponse, SqlError> {
    let name = canonical(name);
    let value = session.settings().get(name).cloned().ok_or_else(|| {
        SqlError::new(
            "42704",
            format!("unrecognized configuration parameter \"{name}\""),
        )
    })?;
    let format: FieldFormat = format.format_for(0);
    let field = FieldInfo::new(name.to_owned(), None, None, Type::TEXT, format);
    let fields = Arc::new(vec![field]);
    let mut encoder = DataRowEncoder::new(Arc::clone(&fields));
    let encoded = encoder.encode_field(&Some(value));
    encoded.map_err(|error| SqlError::new(INTERNAL, error.to_string()))?;
    let row = encoder.take_row();
    let mut response = QueryResponse::new(fields, stream::iter([Ok(row)]));
    response.set_command_tag("SHOW");
    Ok(response)
}

fn info(error: SqlError) -> ErrorInfo {
    let mut info = ErrorInfo::new("ERROR".to_owned(), error.sqlstate.to_owned(), error.message);
    info.position = error.position.map(|position| position.to_string());
    info
}

pub(super) fn wire(error: SqlError) -> PgWireError {
    PgWireError::UserError(Box::new(info(error)))
}

//! Which statements may run at all: a list of what is allowed, everything else is refused.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectName, Query, Set, SetExpr,
    Statement, Value, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion_pg_catalog::sql::PostgresCompatibilityParser;

use crate::chains;
use crate::error::{INVALID_VALUE, NOT_SUPPORTED, PRIVILEGE, READ_ONLY, SqlError};
use crate::search_path;
use crate::settings::PURPOSE;

/// Settings that a session may change for itself; none of them changes what a query returns.
const SETTABLE: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    PURPOSE,
    "datestyle",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "jit",
    "lock_timeout",
    "search_path",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "transaction_isolation",
];

/// A statement that may run, and how.
#[derive(Debug, Clone)]
pub enum Allowed {
    /// Reads from the books: a query, or `EXPLAIN` of one.
    Query(Box<Statement>),
    /// `SET name = value`, for this session only.
    Set {
        /// Lower-case name.
        name: String,
        /// Value as text; `None` sets the default again.
        value: Option<String>,
    },
    /// `SHOW name`
    Show(String),
    /// `BEGIN`; every transaction is read-only.
    Begin,
    /// `COMMIT`
    Commit,
    /// `ROLLBACK`
    Rollback,
    /// Answered with this command tag and otherwise without effect.
    Acknowledge(&'static str),
    /// `DISCARD ALL`, `RESET ALL`: the session's settings are as at its start. Holds the command tag.
    Reset(&'static str),
}

/// Parses a message of statements; an empty list for an empty or comment-only text.
///
/// # Errors
/// 42601 with the position of the first token that does not fit.
/// 54001 when its chains are too long.
pub fn parse(sql: &str) -> Result<Vec<Statement>, SqlError> {
    chains::check(sql)?;
    let mut plain = Parser::new(&PostgreSqlDialect {})
        .with_recursion_limit(100)
        .try_with_sql(sql)
        .and_then(|mut parser| parser.parse_statements());
    let rewritten = plain
        .as_mut()
        .ok()
        .and_then(|statements| search_path::rewrite(statements).then(|| text_of_all(statements)));
    let sql = rewritten.as_deref().unwrap_or(sql);
    // What client tools ask the catalogue is rewritten to a form that the planner knows. Never what
    // asks the books: the rewriting drops subqueries, which would be a wrong answer there.
    if asks_catalogue(sql)
        && plain
            .as_ref()
            .map_or(true, |all| all.iter().all(reads_catalogue_only))
        && let Ok(rewritten) = compatible().parse(sql)
        && rewritten.iter().all(reads_catalogue_only)
    {
        return Ok(rewritten);
    }
    let statements = plain.map_err(|error| SqlError::from_parser(&error, sql))?;
    chains::check_tables(&statements)?;
    Ok(statements)
}

fn text_of_all(statements: &[Statement]) -> String {
    let texts: Vec<String> = statements.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

fn compatible() -> &'static PostgresCompatibilityParser {
    static PARSER: std::sync::OnceLock<PostgresCompatibilityParser> = std::sync::OnceLock::new();
    PARSER.get_or_init(PostgresCompatibilityParser::new)
}

/// Whether every table of the statement is one of the catalogue's, or named by the statement itself.
fn reads_catalogue_only(statement: &Statement) -> bool {
    #[derive(Default)]
    struct Tables {
        own: Vec<String>,
        read: Vec<String>,
    }
    impl Visitor for Tables {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            let tables = query.with.iter().flat_map(|with| &with.cte_tables);
            self.own
                .extend(tables.map(|table| table.alias.name.value.to_ascii_lowercase()));
            ControlFlow::Continue(())
        }
        fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
            self.read.push(name_of(relation));
            ControlFlow::Continue(())
        }
    }
    let mut tables = Tables::default();
    let _never_stopped = statement.visit(&mut tables);
    let of_catalogue = |name: &String| {
        let (schema, table) = name.rsplit_once('.').unwrap_or(("", name.as_str()));
        let schema = schema.rsplit('.').next().unwrap_or_default();
        match schema {
            "" => {
                table.starts_with("pg_")
                    || ["generate_series", "generate_subscripts", "unnest"].contains(&table)
                    || tables.own.contains(name)
            }
            schema => ["pg_catalog", "information_schema"].contains(&schema),
        }
    };
    tables.read.iter().all(of_catalogue)
}

fn asks_catalogue(sql: &str) -> bool {
    let lower = sql.to_ascii_lowercase();
    [
        "pg_",
        "information_schema",
        "current_",
        "session_user",
        "version",
        "reg",
        "quote_ident",
    ]
    .iter()
    .any(|word| lower.contains(word))
}

/// Decides whether `statement` may run.
///
/// # Errors
/// 25006 for what writes, 42501 for what is no business of a reader, 0A000 for what is not built.
pub fn check(statement: Statement) -> Result<Allowed, SqlError> {
    match statement {
        Statement::Query(ref query) => {
            check_query(query)?;
            check_functions(&statement)?;
            Ok(Allowed::Query(Box::new(statement)))
        }
        Statement::Explain {
            statement: ref inner,
            ..
        } => match inner.as_ref() {
            Statement::Query(query) => {
                check_query(query)?;
                check_functions(&statement)?;
                Ok(Allowed::Query(Box::new(statement)))
            }
            _ => Err(read_only("EXPLAIN of anything but a query")),
        },
        Statement::Set(set) => check_set(set),
        Statement::ShowVariable { variable } => {
            let words: Vec<String> = variable
                .iter()
                .map(|ident| ident.value.to_ascii_lowercase())
                .collect();
            Ok(Allowed::Show(words.join(" ")))
        }
        Statement::StartTransaction { statements, .. } if statements.is_empty() => {
            Ok(Allowed::Begin)
        }
        Statement::Commit { .. } => Ok(Allowed::Commit),
        Statement::Rollback {
            savepoint: None, ..
        } => Ok(Allowed::Rollback),
        Statement::Rollback { .. } => Ok(Allowed::Acknowledge("ROLLBACK")),
        Statement::Savepoint { .. } => Ok(Allowed::Acknowledge("SAVEPOINT")),
        Statement::ReleaseSavepoint { .. } => Ok(Allowed::Acknowledge("RELEASE")),
        Statement::UNLISTEN { .. } => Ok(Allowed::Acknowledge("UNLISTEN")),
        Statement::Deallocate { .. } => Ok(Allowed::Acknowledge("DEALLOCATE")),
        Statement::Discard { .. } => Ok(Allowed::Reset("DISCARD ALL")),
        Statement::Reset(_) => Ok(Allowed::Reset("RESET")),
        other => Err(refuse(&other)),
    }
}

/// Why `statement`, which is on no list, is refused.
fn refuse(statement: &Statement) -> SqlError {
    let text = statement.to_string();
    let mut words = text.split_whitespace();
    let verb = words.next().unwrap_or_default().to_ascii_uppercase();
    match verb.as_str() {
        "GRANT" | "REVOKE" | "KILL" | "USE" | "ATTACH" | "DETACH" | "INSTALL" | "LOAD"
        | "PRAGMA" => SqlError::new(
            PRIVILEGE,
            format!("permission denied: {verb} is not allowed here"),
        ),
        "DECLARE" | "FETCH" | "CLOSE" | "PREPARE" | "EXECUTE" | "LISTEN" => SqlError::new(
            PRIVILEGE,
            format!(
                "permission denied: {verb} is not allowed here; use the driver's own cursors and prepared statements"
            ),
        ),
        _ => read_only(&verb),
    }
}

fn read_only(what: &str) -> SqlError {
    SqlError::new(
        READ_ONLY,
        format!("cannot execute {what} in a read-only transaction: the books are read-only"),
    )
}

fn check_set(set: Set) -> Result<Allowed, SqlError> {
    match set {
        Set::SingleAssignment {
            variable, values, ..
        } => {
            let name = name_of(&variable);
            if !SETTABLE.contains(&name.as_str()) {
                return Err(SqlError::new(
                    PRIVILEGE,
                    format!("permission denied to set parameter \"{name}\""),
                ));
            }
            let value = values.iter().map(text_of).collect::<Vec<_>>().join(", ");
            settable(name, value)
        }
        Set::SetTimeZone { value, .. } => settable("timezone".to_owned(), text_of(&value)),
        Set::SetNames { charset_name, .. } => {
            settable("client_encoding".to_owned(), charset_name.value)
        }
        Set::SetTransaction { .. } => Ok(Allowed::Acknowledge("SET")),
        other => Err(SqlError::new(
            PRIVILEGE,
            format!("permission denied: {other} is not allowed here"),
        )),
    }
}

fn settable(name: String, value: String) -> Result<Allowed, SqlError> {
    if value.eq_ignore_ascii_case("default") {
        return Ok(Allowed::Set { name, value: None });
    }
    let lower = value.to_ascii_lowercase();
    let fits = match name.as_str() {
        "timezone" => {
            ["utc", "etc/utc", "gmt", "z", "+00:00", "0", "+00"].contains(&lower.as_str())
        }
        "client_encoding" => ["utf8", "utf-8", "unicode"].contains(&lower.as_str()),
        "datestyle" => lower.contains("iso"),
        "bytea_output" => lower == "hex",
        "intervalstyle" => lower == "postgres",
        "standard_conforming_strings" => ["on", "true", "1", "yes"].contains(&lower.as_str()),
        "default_transaction_read_only" => !["off", "false", "0", "no"].contains(&lower.as_str()),
        "statement_timeout" => timeout_ms(&value).is_some(),
        _ => true,
    };
    if fits {
        return Ok(Allowed::Set {
            name,
            value: Some(value),
        });
    }
    Err(SqlError::new(
        INVALID_VALUE,
        format!(
            "invalid value for parameter \"{name}\": \"{value}\"; times are UTC, texts UTF-8 as standard SQL writes them, and transactions read-only"
        ),
    ))
}

/// Milliseconds of a `statement_timeout` such as `5000`, `5s` or `2min`; 0 is no timeout of one's own.
#[must_use]
pub fn timeout_ms(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let number: u64 = digits.parse().ok()?;
    let unit = text.get(digits.len()..)?.trim();
    let factor = match unit {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn name_of(name: &ObjectName) -> String {
    name.to_string().replace('"', "").to_ascii_lowercase()
}

fn text_of(expr: &Expr) -> String {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => text.clone(),
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}

/// A query that hides a write (`WITH x AS (INSERT ..)`, `SELECT .. INTO`) or takes locks is refused.
fn check_query(query: &Query) -> Result<(), SqlError> {
    struct Writes(Option<&'static str>);
    impl Visitor for Writes {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            if !query.locks.is_empty() {
                self.0 = Some("SELECT FOR UPDATE");
            }
            self.look(&query.body)
        }
        fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
            if matches!(statement, Statement::Query(_) | Statement::Explain { .. }) {
                return ControlFlow::Continue(());
            }
            self.0 = Some("a writing statement inside a query");
            ControlFlow::Break(())
        }
    }
    impl Writes {
        fn look(&mut self, body: &SetExpr) -> ControlFlow<()> {
            match body {
                SetExpr::Select(select) if select.into.is_some() => self.0 = Some("SELECT INTO"),
                SetExpr::Insert(_) => self.0 = Some("INSERT"),
                SetExpr::Update(_) => self.0 = Some("UPDATE"),
                SetExpr::Delete(_) => self.0 = Some("DELETE"),
                SetExpr::Merge(_) => self.0 = Some("MERGE"),
                SetExpr::SetOperation { left, right, .. } => {
                    let _left_is_clean = self.look(left);
                    return self.look(right);
                }
                _ => {}
            }
            if self.0.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }
    }
    let mut writes = Writes(None);
    let _stopped_early = query.visit(&mut writes);
    writes.0.map_or(Ok(()), |what| Err(read_only(what)))
}

/// `to_char` with PostgreSQL's patterns would return the pattern itself: better an error.
fn check_functions(statement: &Statement) -> Result<(), SqlError> {
    struct ToChar(bool);
    impl Visitor for ToChar {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            if let Expr::Function(function) = expr
                && name_of(&function.name) == "to_char"
                && let FunctionArguments::List(list) = &function.args
                && let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(pattern))) = list.args.get(1)
                && !text_of(pattern).contains('%')
            {
                self.0 = true;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        }
    }
    let mut found = ToChar(false);
    let _stopped_early = statement.visit(&mut found);
    if found.0 {
        return Err(SqlError::new(
            NOT_SUPPORTED,
            "to_char takes strftime patterns here, such as '%Y-%m-%d'",
        ));
    }
    Ok(())
}

/// The column names that PostgreSQL would give to a query's unnamed columns; `None` where the
/// planner's own name stands.
#[must_use]
pub fn column_names(statement: &Statement) -> Vec<Option<String>> {
    use datafusion::sql::sqlparser::ast::SelectItem;
    let Statement::Query(query) = statement else {
        return Vec::new();
    };
    let SetExpr::Select(select) = query.body.as_ref() else {
        return Vec::new();
    };
    let plain = select.projection.iter().all(|item| {
        matches!(
            item,
            SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
        )
    });
    if !plain {
        return Vec::new();
    }
    let name = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(expr) => Some(column_name(expr)),
        _ => None,
    };
    select.projection.iter().map(name).collect()
}

fn column_name(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => match ident.quote_style {
            Some(_) => ident.value.clone(),
            None => ident.value.to_ascii_lowercase(),
        },
        Expr::CompoundIdentifier(parts) => parts
            .last()
            .map(|part| part.value.clone())
            .unwrap_or_default(),
        Expr::Function(function) => {
            let name = name_of(&function.name);
            name.rsplit('.').next().unwrap_or_default().to_owned()
        }
        Expr::Cast {
            expr, data_type, ..
        } => match expr.as_ref() {
            Expr::Value(_) => data_type.to_string().to_ascii_lowercase(),
            inner => column_name(inner),
        },
        Expr::Nested(inner) => column_name(inner),
        Expr::Extract { .. } => "extract".to_owned(),
        Expr::Case { .. } => "case".to_owned(),
        Expr::Exists { .. } => "exists".to_owned(),
        _ => "?column?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(sql: &str) -> Result<Vec<Allowed>, SqlError> {
        parse(sql)?.into_iter().map(check).collect()
    }

    #[test]
    fn every_write_is_refused_with_a_read_only_or_privilege_code() {
        for sql in [
            "insert into entries values (1)",
            "update entries set side = 'x'",
            "delete from entries",
            "merge into entries using calls on true when matched then delete",
            "truncate entries",
            "create table t (a int)",
            "create table t as select 1",
            "create view v as select 1",
            "create external table t stored as parquet location '/tmp/x'",
            "create function f() returns int language sql as 'select 1'",
            "create role r",
            "drop table entries",
            "drop view calls",
            "alter table entries add column x int",
            "copy entries from '/etc/passwd'",
            "copy entries to '/tmp/x'",
            "copy (select 1) to '/tmp/x'",
            "copy (select 1) to program 'sh'",
            "copy (select 1) to stdout",
            "select 1 into t",
            "with x as (insert into entries values (1) returning 1) select * from x",
            "with x as (delete from entries returning *) select * from x",
            "explain analyze insert into entries values (1)",
            "explain analyze delete from entries",
            "prepare p as delete from entries",
            "execute p",
            "select * from entries for update",
            "set datafusion.runtime.memory_limit = '100G'",
            "set role postgres",
            "set session authorization postgres",
            "grant select on entries to public",
            "vacuum",
            "call p()",
            "do 'begin end'",
            "lock table entries",
            "comment on table entries is 'x'",
            "set default_transaction_read_only = off",
            "set standard_conforming_strings = off",
        ] {
            match verdict(sql) {
                Ok(allowed) => panic!("{sql} was allowed: {allowed:?}"),
                Err(error) => assert!(
                    matches!(error.sqlstate, "25006" | "42501" | "42601" | "22023"),
                    "{sql}: {error:?}"
                ),
            }
        }
    }

    #[test]
    fn a_write_behind_a_query_in_one_message_is_refused() {
        let error = verdict("select 1; drop table entries").unwrap_err();
        assert_eq!(error.sqlstate, READ_ONLY);
    }

    #[test]
    fn what_drivers_send_at_their_start_is_allowed() {
        for sql in [
            "select 1",
            "with a as (select 1) select * from a union all values (2)",
            "explain select 1",
            "explain analyze select 1",
            "set extra_float_digits = 3",
            "set application_name = 'psql'",
            "SET DateStyle='ISO'",
            "set time zone 'UTC'",
            "set statement_timeout = '5s'",
            "show transaction isolation level",
            "begin read only",
            "start transaction",
            "commit",
            "rollback",
            "savepoint a",
            "release savepoint a",
            "discard all",
            "reset all",
            "deallocate all",
        ] {
            assert!(verdict(sql).is_ok(), "{sql}: {:?}", verdict(sql));
        }
    }

    #[test]
    fn a_question_to_the_books_is_never_rewritten() {
        let sql = "WITH v AS (SELECT 1 AS one) SELECT (SELECT count(*) FROM entries WHERE entries.side = v.one) AS n, \
                   api_version, current_timestamp FROM calls, v";
        assert_eq!(parse(sql).unwrap()[0].to_string(), sql);
        let catalogue = "SELECT (SELECT a FROM pg_attribute WHERE x.b = 1), 'pg_class'::regclass FROM pg_class AS x";
        assert_ne!(parse(catalogue).unwrap()[0].to_string(), catalogue);
    }

    #[test]
    fn comments_and_semicolons_are_empty_messages() {
        for sql in ["", ";", " ;; ", "-- ping", "/* a */"] {
            assert_eq!(parse(sql).unwrap().len(), 0, "{sql}");
        }
    }

    #[test]
    fn timeouts_are_read_with_their_units() {
        assert_eq!(timeout_ms("250"), Some(250));
        assert_eq!(timeout_ms("2s"), Some(2_000));
        assert_eq!(timeout_ms("1 min"), Some(60_000));
        assert_eq!(timeout_ms("soon"), None);
    }

    #[test]
    fn unnamed_columns_are_named_as_postgresql_does() {
        let statement = parse("select count(*), a.b, 1, avg(x) as y, 'a'::text from t").unwrap();
        let names = column_names(&statement[0]);
        assert_eq!(
            names,
            [
                Some("count".into()),
                Some("b".into()),
                Some("?column?".into()),
                None,
                Some("text".into())
            ]
        );
    }
}

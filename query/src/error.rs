//! What a client is told when a statement fails: SQLSTATE, message and position.

use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};
use datafusion::sql::sqlparser::parser::ParserError;

/// A failed statement, in PostgreSQL's terms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// Five characters of PostgreSQL's error code table.
    pub sqlstate: &'static str,
    /// One sentence for the client; never holds data of the books.
    pub message: String,
    /// Character in the statement's text, counted from 1.
    pub position: Option<usize>,
}

/// `syntax_error`
pub const SYNTAX: &str = "42601";
/// `undefined_table`
pub const UNDEFINED_TABLE: &str = "42P01";
/// `undefined_column`
pub const UNDEFINED_COLUMN: &str = "42703";
/// `undefined_function`
pub const UNDEFINED_FUNCTION: &str = "42883";
/// `division_by_zero`
pub const DIVISION_BY_ZERO: &str = "22012";
/// `query_canceled`
pub const CANCELED: &str = "57014";
/// `read_only_sql_transaction`
pub const READ_ONLY: &str = "25006";
/// `insufficient_privilege`
pub const PRIVILEGE: &str = "42501";
/// `feature_not_supported`
pub const NOT_SUPPORTED: &str = "0A000";
/// `invalid_parameter_value`
pub const INVALID_VALUE: &str = "22023";
/// `program_limit_exceeded`
pub const LIMIT: &str = "54000";
/// `insufficient_resources`
pub const RESOURCES: &str = "53000";
/// `too_many_connections`, here for statements waiting too long for their turn
pub const TOO_MANY: &str = "53300";
/// `io_error`
pub const IO: &str = "58030";
/// `internal_error`
pub const INTERNAL: &str = "XX000";

impl SqlError {
    /// An error without a position.
    #[must_use]
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self {
            sqlstate,
            message: message.into(),
            position: None,
        }
    }

    /// The same error at the first place in `sql` where its own message quotes a name.
    #[must_use]
    pub fn located_in(mut self, sql: &str) -> Self {
        if self.position.is_none()
            && matches!(
                self.sqlstate,
                UNDEFINED_TABLE | UNDEFINED_COLUMN | UNDEFINED_FUNCTION
            )
            && let Some(name) = self.message.split('"').nth(1)
        {
            self.position = position_of_word(sql, name.rsplit('.').next().unwrap_or(name));
        }
        self
    }

    /// The error of a text that `sql`'s parser refused.
    #[must_use]
    pub fn from_parser(error: &ParserError, sql: &str) -> Self {
        let text = match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.clone(),
            ParserError::RecursionLimitExceeded => {
                return Self::new("54001", "the statement is nested too deeply");
            }
        };
        let (text, place) = match text.split_once(" at Line: ") {
            Some((head, place)) => (head.to_owned(), parse_place(place)),
            None => (text, None),
        };
        Self {
            sqlstate: SYNTAX,
            message: format!("syntax error: {text}"),
            position: Some(place.map_or_else(
                || sql.chars().count() + 1,
                |(line, column)| position_of(sql, line, column),
            )),
        }
    }
}

impl From<&DataFusionError> for SqlError {
    fn from(error: &DataFusionError) -> Self {
        match error.find_root() {
            DataFusionError::SchemaError(inner, _) => from_schema(inner),
            DataFusionError::SQL(inner, _) => Self::from_parser(inner, ""),
            DataFusionError::ArrowError(inner, _) => from_arrow(inner),
            DataFusionError::ResourcesExhausted(text) => Self::new(
                RESOURCES,
                format!(
                    "the statement needs more memory than it may have: {}",
                    first_line(text)
                ),
            ),
            DataFusionError::NotImplemented(text) => Self::new(NOT_SUPPORTED, first_line(text)),
            DataFusionError::Plan(text) => from_plan(text),
            DataFusionError::External(inner) => match inner.downcast_ref::<Self>() {
                Some(own) => own.clone(),
                None => Self::new(INTERNAL, first_line(&inner.to_string())),
            },
            DataFusionError::Execution(text) if text.to_lowercase().contains("divide by zero") => {
                Self::new(DIVISION_BY_ZERO, "division by zero")
            }
            DataFusionError::Execution(text) if text.contains("returned more than one row") => {
                Self::new(
                    "21000",
                    "more than one row returned by a subquery used as an expression",
                )
            }
            other => Self::new(INTERNAL, first_line(&other.strip_backtrace())),
        }
    }
}

fn from_schema(error: &SchemaError) -> SqlError {
    match error {
        SchemaError::FieldNotFound { field, .. } => SqlError::new(
            UNDEFINED_COLUMN,
            format!("column \"{}\" does not exist", field.name()),
        ),
        SchemaError::AmbiguousReference { field } => SqlError::new(
            "42702",
            format!("column reference \"{}\" is ambiguous", field.name()),
        ),
        other => SqlError::new("42P10", first_line(&other.to_string())),
    }
}

fn from_arrow(error: &ArrowError) -> SqlError {
    match error {
        ArrowError::DivideByZero => SqlError::new(DIVISION_BY_ZERO, "division by zero"),
        ArrowError::CastError(text) => SqlError::new("22P02", first_line(text)),
        ArrowError::ParseError(text) => SqlError::new("22P02", first_line(text)),
        ArrowError::ArithmeticOverflow(text) => SqlError::new("22003", first_line(text)),
        other => SqlError::new(INTERNAL, first_line(&other.to_string())),
    }
}

fn from_plan(text: &str) -> SqlError {
    let lower = text.to_lowercase();
    if lower.contains("table '") && lower.contains("not found") {
        let name = text.split('\'').nth(1).unwrap_or_default();
        let name = name.strip_prefix("counterfoil.").unwrap_or(name);
        let name = name.strip_prefix("public.").unwrap_or(name);
        return SqlError::new(
            UNDEFINED_TABLE,
            format!("relation \"{name}\" does not exist"),
        );
    }
    if lower.contains("invalid function") || lower.contains("no function matches") {
        let name = text.split('\'').nth(1).unwrap_or_default();
        let name = name.split('(').next().unwrap_or(name);
        return SqlError::new(
            UNDEFINED_FUNCTION,
            format!("function \"{name}\" does not exist"),
        );
    }
    if lower.contains("placeholder") {
        return SqlError::new("42P02", first_line(text));
    }
    if lower.contains("ddl not supported")
        || lower.contains("dml not supported")
        || lower.contains("statement not supported")
    {
        return SqlError::new(
            READ_ONLY,
            "cannot execute a writing statement: the books are read-only",
        );
    }
    SqlError::new(SYNTAX, first_line(text))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// `"3, Column: 14"` as line and column.
fn parse_place(text: &str) -> Option<(usize, usize)> {
    let (line, column) = text.split_once(", Column: ")?;
    let digits: String = column.chars().take_while(char::is_ascii_digit).collect();
    Some((line.trim().parse().ok()?, digits.parse().ok()?))
}

fn position_of(sql: &str, line: usize, column: usize) -> usize {
    let before: usize = sql
        .split('\n')
        .take(line.saturating_sub(1))
        .map(|one| one.chars().count() + 1)
        .sum();
    before + column.max(1)
}

/// Where `word` stands by itself in `sql`, outside of text literals; counted in characters from 1.
fn position_of_word(sql: &str, word: &str) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut quoted = false;
    let mut current = String::new();
    let mut started = 1;
    for (index, c) in sql.chars().chain(std::iter::once(' ')).enumerate() {
        if c == '\'' {
            quoted = !quoted;
        }
        if !quoted && is_part(c) {
            if current.is_empty() {
                started = index + 1;
            }
            current.push(c);
            continue;
        }
        if !current.is_empty() && current.eq_ignore_ascii_case(word) {
            return Some(started);
        }
        current.clear();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_column_is_located_by_its_name_outside_of_literals() {
        let error = SqlError::new(UNDEFINED_COLUMN, "column \"nope\" does not exist");
        assert_eq!(
            error.located_in("select 'nope', nope from calls").position,
            Some(16)
        );
    }

    #[test]
    fn a_syntax_error_counts_characters_over_lines() {
        let error = ParserError::ParserError("Expected: x, found: y at Line: 2, Column: 3".into());
        let error = SqlError::from_parser(&error, "ab\ncdef");
        assert_eq!((error.sqlstate, error.position), (SYNTAX, Some(6)));
    }
}

//! SQL by the HTTP endpoint of a running server.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::error::SqlError;
use crate::{
    client::{HttpError, Reply, Server, Session},
    rows::Answer,
};

/// Where query listens by default.
pub(crate) const PORT: u16 = 15_480;

/// A question that got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// The server refused the statement, or it failed.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The server could not be asked.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The server does not know the user.
    #[error(
        "the server refused user or password; give them in the URL, or as --user and PGPASSWORD"
    )]
    Unauthorized,
    /// Something else answered.
    #[error("the server answered {0} with something that is no answer to SQL")]
    Form(StatusCode),
}

/// Asks one statement.
///
/// # Errors
/// When the server cannot be reached, refuses the user, or the statement fails.
pub(crate) async fn ask(server: &Server, sql: &str) -> Result<Answer, RemoteError> {
    let mut session = Session::open(server, None).await?;
    let body = json!({ "sql": sql });
    read(&session.send(Method::POST, "/v1/sql", Some(&body)).await?)
}

/// The rows of an answer, or what its error says.
fn read(reply: &Reply) -> Result<Answer, RemoteError> {
    if reply.status == StatusCode::UNAUTHORIZED {
        return Err(RemoteError::Unauthorized);
    }
    let value: Option<Value> = serde_json::from_slice(&reply.body).ok();
    if let Some(error) = value.as_ref().and_then(sql_error) {
        return Err(error.into());
    }
    value
        .filter(|_| reply.status.is_success())
        .as_ref()
        .and_then(rows)
        .ok_or(RemoteError::Form(reply.status))
}

fn sql_error(value: &Value) -> Option<SqlError> {
    let text = |name: &str| {
        value
            .get(name)
            .and_then(Value::as_str)
            .map(ToOwned::to_owned)
    };
    Some(SqlError {
        sqlstate: text("sqlstate")?,
        message: text("message")?,
        position: value
            .get("position")
            .and_then(Value::as_u64)
            .and_then(|at| usize::try_from(at).ok()),
    })
}

fn rows(value: &Value) -> Option<Answer> {
    let columns = value.get("columns")?.as_array()?;
    let columns = columns
        .iter()
        .map(|column| {
            column
                .get("name")
                .unwrap_or(column)
                .as_str()
                .map(ToOwned::to_owned)
        })
        .collect::<Option<_>>()?;
    let rows = value.get("rows")?.as_array()?.clone();
    Some(Answer::of_objects(columns, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_of(status: StatusCode, body: &'static [u8]) -> Result<Answer, RemoteError> {
        let body = body.into();
        read(&Reply { status, body })
    }

    #[test]
    fn errors_keep_their_sqlstate_and_place() {
        let body = br#"{"sqlstate":"25006","message":"read only","position":7}"#;
        let RemoteError::Sql(error) = read_of(StatusCode::BAD_REQUEST, body).unwrap_err() else {
            panic!("expected an SQL error");
        };
        assert_eq!(
            (error.sqlstate.as_str(), error.position),
            ("25006", Some(7))
        );
        assert!(matches!(
            read_of(StatusCode::UNAUTHORIZED, b""),
            Err(RemoteError::Unauthorized)
        ));
        assert!(matches!(
            read_of(StatusCode::OK, b"<html>"),
            Err(RemoteError::Form(_))
        ));
    }
}

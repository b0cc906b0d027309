//! SQL over HTTP: one statement in, one JSON document out.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use datafusion::common::{ParamValues, ScalarValue};
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, Limits, Question};
use crate::error::{INTERNAL, LIMIT, PRIVILEGE, READ_ONLY, SYNTAX, SqlError};
use crate::guard::{Allowed, check, parse};
use crate::json::{keys, rows, type_name};
use crate::log::Asker;
use crate::metrics::{Metrics, OPENMETRICS};
use crate::settings;
use crate::users::{Role, Users};

/// Longest request (bytes).
const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Longest answer (bytes): it is made whole, so that a late error is still an error.
const ANSWER_BYTES_MAX: usize = 64 << 20;

struct Shared {
    engine: Arc<Engine>,
    users: Arc<Users>,
    metrics: Metrics,
}

/// A question in JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    sql: String,
    #[serde(default)]
    parameters: Vec<Value>,
    purpose: Option<String>,
}

/// Routes `POST /v1/sql`, `GET /v1/health` and `GET /metrics`.
pub(crate) fn router(engine: Arc<Engine>, users: Arc<Users>, metrics: Metrics) -> Router {
    Router::new()
        .route("/v1/sql", post(sql))
        .route("/v1/health", get(health))
        .route("/metrics", get(metered))
        .method_not_allowed_fallback(otherwise)
        .fallback(elsewhere)
        .with_state(Arc::new(Shared {
            engine,
            users,
            metrics,
        }))
}

/// Counts only: no name of a user, no text of a statement.
async fn metered(State(shared): State<Arc<Shared>>) -> Response {
    match shared.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// Who asks is checked before anything of the question is read.
async fn sql(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some((principal, role)) = log_in(&shared.users, &headers).await else {
        let error = SqlError::new("28P01", "password authentication failed");
        let mut response = failure(StatusCode::UNAUTHORIZED, &error);
        let challenge = HeaderValue::from_static("Basic realm=\"counterfoil\", charset=\"UTF-8\"");
        let _none_before = response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        return response;
    };
    let request = match request(&headers, body).await {
        Ok(request) => request,
        Err((status, error)) => return failure(status, &error),
    };
    let asker = Asker {
        principal,
        role: role.as_str().to_owned(),
        endpoint: "http",
        peer_address: peer.ip().to_string(),
        purpose: request.purpose.clone(),
    };
    match answer(&shared.engine, &asker, role.limits(), request).await {
        Ok(body) => (
            [
                (CONTENT_TYPE, "application/json"),
                (CACHE_CONTROL, "no-store"),
            ],
            body,
        )
            .into_response(),
        Err(error) => failure(status(&error), &error),
    }
}

async fn request(headers: &HeaderMap, body: Body) -> Result<Request, (StatusCode, SqlError)> {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    // A browser sends no JSON to another site without asking there first.
    if !kind.is_some_and(|kind| kind.trim_start().starts_with("application/json")) {
        let error = SqlError::new("08P01", "expected a body of type application/json");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
    }
    let bytes = to_bytes(body, REQUEST_BYTES_MAX).await.map_err(|_| {
        let text = format!("expected a whole body of at most {REQUEST_BYTES_MAX} bytes");
        (StatusCode::PAYLOAD_TOO_LARGE, SqlError::new(LIMIT, text))
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let text = format!("the body is no question in JSON: {error}");
        (StatusCode::BAD_REQUEST, SqlError::new("08P01", text))
    })
}

async fn elsewhere() -> Response {
    let error = SqlError::new("08P01", "there are POST /v1/sql and GET /v1/health");
    failure(StatusCode::NOT_FOUND, &error)
}

async fn otherwise() -> Response {
    let error = SqlError::new("08P01", "expected POST /v1/sql or GET /v1/health");
    failure(StatusCode::METHOD_NOT_ALLOWED, &error)
}

async fn log_in(users: &Arc<Users>, headers: &HeaderMap) -> Option<(String, Role)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let credentials = String::from_utf8(BASE64.decode(credentials.trim()).ok()?).ok()?;
    let (name, password) = credentials.split_once(':')?;
    let (user, verifier) = users.find(name);
    let found = user.map(|user| (user.name.clone(), user.role));
    let password = password.to_owned();
    // Thousands of hash rounds: not on the network's threads.
    let fits = tokio::task::spawn_blocking(move || verifier.fits(&password))
        .await
        .ok()?;
    found.filter(|_| fits)
}

async fn answer(
    engine: &Engine,
    asker: &Asker,
    limits: Limits,
    request: Request,
) -> Result<Vec<u8>, SqlError> {
    let refuse = |error: SqlError| match engine.log_refused(asker, &request.sql, error.sqlstate) {
        Ok(()) => error,
        Err(unlogged) => unlogged,
    };
    let mut statements = parse(&request.sql).map_err(refuse)?.into_iter();
    let (Some(statement), None) = (statements.next(), statements.next()) else {
        return Err(refuse(SqlError::new(
            SYNTAX,
            "expected exactly one statement",
        )));
    };
    let Allowed::Query(statement) = check(statement).map_err(refuse)? else {
        return Err(refuse(SqlError::new(
            PRIVILEGE,
            "permission denied: only queries are answered here",
        )));
    };
    let values = request
        .parameters
        .iter()
        .map(scalar)
        .collect::<Result<Vec<_>, _>>()
        .map_err(refuse)?;
    let question = Question {
        statement: *statement,
        parameter_texts: request.parameters.iter().map(text).collect(),
        parameters: (!values.is_empty()).then(|| ParamValues::from(values)),
        settings: settings::defaults(&asker.principal),
        limits,
        sql: request.sql.clone(),
    };
    let mut answer = engine
        .ask(asker, question, CancellationToken::new())
        .await?;
    let schema = answer.schema();
    let columns: Vec<Value> = schema
        .fields()
        .iter()
        .zip(keys(&schema))
        .map(|(field, name)| json!({"name": name, "type": type_name(field.data_type())}))
        .collect();
    let mut body = format!("{{\"columns\":{},\"rows\":[", Value::Array(columns)).into_bytes();
    let mut first = true;
    while let Some(batch) = answer.next().await {
        let batch = batch?;
        let rows =
            rows(&schema, &batch).map_err(|error| SqlError::new(INTERNAL, error.to_string()))?;
        for row in rows {
            let row = row.to_string();
            if !std::mem::take(&mut first) {
                body.push(b',');
            }
            answer.count(row.as_bytes());
            body.extend_from_slice(row.as_bytes());
        }
        if body.len() > ANSWER_BYTES_MAX {
            return Err(SqlError::new(
                LIMIT,
                "the answer is longer than 64 MiB: narrow it, or ask over the PostgreSQL port",
            ));
        }
    }
    body.extend_from_slice(b"]}");
    Ok(body)
}

fn scalar(value: &Value) -> Result<ScalarValue, SqlError> {
    Ok(match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(value) => ScalarValue::Boolean(Some(*value)),
        Value::String(value) => ScalarValue::Utf8(Some(value.clone())),
        Value::Number(value) => match (value.as_i64(), value.as_f64()) {
            (Some(value), _) => ScalarValue::Int64(Some(value)),
            (None, value) => ScalarValue::Float64(value),
        },
        Value::Array(_) | Value::Object(_) => {
            return Err(SqlError::new(
                "22023",
                "a parameter is text, a number, true, false or null",
            ));
        }
    })
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), ToOwned::to_owned)
}

fn status(error: &SqlError) -> StatusCode {
    match error.sqlstate {
        READ_ONLY | PRIVILEGE => StatusCode::FORBIDDEN,
        "53000" | "53300" | "58030" => StatusCode::SERVICE_UNAVAILABLE,
        INTERNAL => StatusCode::INTERNAL_SERVER_ERROR,
        "57014" => StatusCode::REQUEST_TIMEOUT,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn failure(status: StatusCode, error: &SqlError) -> Response {
    let body = json!({
        "sqlstate": error.sqlstate,
        "message": error.message,
        "position": error.position,
    });
    (status, Json(body)).into_response()
}

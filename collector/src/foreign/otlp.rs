//! OTLP traces over gRPC and HTTP: acknowledged when they are on the disk.

mod span;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use tokio::time::Instant;

use super::body::{Body, MESSAGE_BYTES_MAX, gunzip, malformed};
use super::counters::Count;
use super::desk::Rows;
use super::door::{Answer, PEER_TIMEOUT};
use super::house::House;
use super::trouble::Trouble;
use super::{grpc, wire};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const ONLY_TRACES: &str =
    "only traces are taken here: keep logs and metrics where they are, or switch their export off";
/// Spans, and what they are grouped in, of one request.
const ITEMS_MAX: usize = 16_384;
/// Bytes of a request in JSON, and objects in it.
const JSON_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;
const JSON_OBJECTS_MAX: usize = 65_536;

/// How a request over HTTP is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Protobuf,
    Json,
}

/// What stands in the body of a refusal over HTTP: `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// Answers a call of OTLP/gRPC.
pub(crate) async fn grpc(house: &Arc<House>, request: Request<Incoming>) -> Response<Answer> {
    match export(house, request).await {
        Ok(response) => grpc::answer(&response),
        Err(trouble) => {
            house.note(&trouble);
            grpc::refusal(&trouble)
        }
    }
}

async fn export(
    house: &Arc<House>,
    request: Request<Incoming>,
) -> Result<ExportTraceServiceResponse, Trouble> {
    let is_gzip = grpc::check(&request)?;
    if request.uri().path() != EXPORT {
        return Err(Trouble::Unsupported(ONLY_TRACES));
    }
    let mut body = Body::new(request.into_body(), Arc::clone(&house.room));
    let message = body.message(Some(Instant::now() + PEER_TIMEOUT)).await?;
    let message = message.ok_or_else(|| malformed("there is no message in it"))?;
    take(house, Format::Protobuf, move || {
        grpc::plain(message, is_gzip)
    })
    .await
}

/// Answers a request of OTLP/HTTP.
pub(crate) async fn http(house: &Arc<House>, request: Request<Incoming>) -> Response<Answer> {
    match request.uri().path() {
        "/v1/traces" => {}
        "/v1/logs" | "/v1/metrics" => return plain(StatusCode::NOT_FOUND, ONLY_TRACES),
        _ => return plain(StatusCode::NOT_FOUND, "POST traces to /v1/traces"),
    }
    if request.method() != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "POST traces to /v1/traces");
    }
    let format = format(&request);
    let outcome = match format {
        Ok(format) => post(house, format, request).await,
        Err(ref trouble) => Err(trouble.clone()),
    };
    let format = format.unwrap_or(Format::Protobuf);
    match outcome {
        Ok(response) => render(format, StatusCode::OK, &response, || {
            serde_json::to_vec(&response)
        }),
        Err(trouble) => {
            house.note(&trouble);
            let status = Status {
                code: i32::from(trouble.grpc_status()),
                message: trouble.to_string(),
            };
            let json = serde_json::json!({"code": status.code, "message": status.message});
            let mut response = render(format, trouble.http_status(), &status, || {
                serde_json::to_vec(&json)
            });
            if trouble.is_passing() {
                let second = HeaderValue::from_static("1");
                response.headers_mut().insert(header::RETRY_AFTER, second);
            }
            response
        }
    }
}

async fn post(
    house: &Arc<House>,
    format: Format,
    request: Request<Incoming>,
) -> Result<ExportTraceServiceResponse, Trouble> {
    let is_gzip = match request
        .headers()
        .get(header::CONTENT_ENCODING)
        .map(HeaderValue::as_bytes)
    {
        None | Some(b"identity") => false,
        Some(b"gzip") => true,
        Some(_) => {
            let expected = "only the content encodings identity and gzip are taken";
            return Err(Trouble::Unsupported(expected));
        }
    };
    let mut body = Body::new(request.into_body(), Arc::clone(&house.room));
    let bytes = body.whole().await?;
    take(house, format, move || match is_gzip {
        true => gunzip(&bytes),
        false => Ok(bytes),
    })
    .await
}

fn format(request: &Request<Incoming>) -> Result<Format, Trouble> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().map(str::trim) {
        Some("application/x-protobuf") => Ok(Format::Protobuf),
        Some("application/json") => Ok(Format::Json),
        _ => Err(Trouble::Unsupported(
            "the content type must be application/x-protobuf or application/json",
        )),
    }
}

/// Decodes what `unpack` gives, and writes its spans.
async fn take(
    house: &Arc<House>,
    format: Format,
    unpack: impl FnOnce() -> Result<Bytes, Trouble> + Send + 'static,
) -> Result<ExportTraceServiceResponse, Trouble> {
    let turn = house.turn().await?;
    let rows = tokio::task::spawn_blocking(move || {
        let request = decode(format, &unpack()?)?;
        Ok(span::rows(request))
    });
    let rows = rows.await.map_err(|_| Trouble::Closing)??;
    house.write(Rows::Spans(rows.taken), turn).await?;
    house.counters.add(Count::SpansRefused, rows.refused);
    let refused = i64::try_from(rows.refused).unwrap_or(i64::MAX);
    Ok(ExportTraceServiceResponse {
        partial_success: rows.why.map(|why| ExportTracePartialSuccess {
            rejected_spans: refused,
            error_message: format!("{refused} spans are not taken, the first because {why}"),
        }),
    })
}

fn decode(format: Format, bytes: &[u8]) -> Result<ExportTraceServiceRequest, Trouble> {
    match format {
        Format::Protobuf => {
            let items = wire::messages(bytes, &[1, 2, 2]);
            let items = items.ok_or_else(|| malformed("it is no protobuf message of traces"))?;
            if items > ITEMS_MAX {
                return Err(Trouble::TooLarge("16384 spans"));
            }
            ExportTraceServiceRequest::decode(bytes)
                .map_err(|_| malformed("it is no protobuf message of traces"))
        }
        Format::Json => {
            if bytes.len() > JSON_BYTES_MAX {
                return Err(Trouble::TooLarge("2 MiB of JSON"));
            }
            let braces = bytes.iter().filter(|byte| **byte == b'{');
            if braces.count() > JSON_OBJECTS_MAX {
                return Err(Trouble::TooLarge("65536 JSON objects"));
            }
            // The error's text may quote a value of the request.
            serde_json::from_slice(bytes).map_err(|error| {
                let (line, column) = (error.line(), error.column());
                malformed(format!(
                    "it is no JSON of traces: line {line}, column {column}"
                ))
            })
        }
    }
}

fn render(
    format: Format,
    status: StatusCode,
    message: &impl Message,
    json: impl FnOnce() -> serde_json::Result<Vec<u8>>,
) -> Response<Answer> {
    let (kind, body) = match format {
        Format::Protobuf => ("application/x-protobuf", message.encode_to_vec()),
        Format::Json => ("application/json", json().unwrap_or_default()),
    };
    respond(status, kind, body)
}

fn plain(status: StatusCode, text: &str) -> Response<Answer> {
    respond(status, "text/plain", text.as_bytes().to_vec())
}

fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Answer> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

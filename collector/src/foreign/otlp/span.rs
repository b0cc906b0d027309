//! From OTLP spans to rows: only what holds no personal data and no secret is kept.

use counterfoil_entry::Time;
use counterfoil_entry::id::{SpanId, TraceId};
use counterfoil_entry::rows::SpanRow;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;

/// Bytes of a text at most; what is longer is cut.
const TEXT_BYTES_MAX: usize = 256;

/// The rows of a request, and how many of its spans are not among them.
#[derive(Debug, Default)]
pub(super) struct SpanRows {
    pub(super) taken: Vec<SpanRow>,
    pub(super) refused: usize,
    /// Why the first of those is not.
    pub(super) why: Option<&'static str>,
}

/// Where spans come from, in the order of the columns.
#[derive(Debug, Default)]
struct Origin {
    service: Option<String>,
    service_namespace: Option<String>,
    service_instance: Option<String>,
    scope: Option<String>,
}

/// The rows of `request`.
pub(super) fn rows(request: ExportTraceServiceRequest) -> SpanRows {
    let mut rows = SpanRows::default();
    for resource in request.resource_spans {
        let of = resource.resource.unwrap_or_default();
        let text = |key| find(&of.attributes, &[key]).and_then(text);
        for scoped in resource.scope_spans {
            let scope = scoped.scope.map(|scope| Value::StringValue(scope.name));
            let scope = scope.as_ref().and_then(self::text);
            let origin = Origin {
                service: text("service.name"),
                service_namespace: text("service.namespace"),
                service_instance: text("service.instance.id"),
                scope: scope.filter(|scope| !scope.is_empty()),
            };
            for span in scoped.spans {
                match row(&span, &origin) {
                    Ok(row) => rows.taken.push(row),
                    Err(why) => {
                        rows.refused += 1;
                        rows.why.get_or_insert(why);
                    }
                }
            }
        }
    }
    rows
}

fn row(span: &Span, origin: &Origin) -> Result<SpanRow, &'static str> {
    let trace_id = <[u8; 16]>::try_from(span.trace_id.as_slice()).ok();
    let trace_id = trace_id.and_then(TraceId::new);
    let trace_id = trace_id.ok_or("its trace id is not 16 bytes, or zero")?;
    let span_id = span_id(&span.span_id).ok_or("its span id is not 8 bytes, or zero")?;
    let parent_span_id = match span.parent_span_id.as_slice() {
        [] => None,
        id => Some(self::span_id(id).ok_or("its parent's id is not 8 bytes, or zero")?),
    };
    let start_time = time(span.start_time_unix_nano).ok_or("its start time is not told")?;
    let end_time = time(span.end_time_unix_nano).ok_or("its end time is not told")?;
    let duration_ns = span
        .end_time_unix_nano
        .checked_sub(span.start_time_unix_nano)
        .ok_or("it ends before it starts")?;
    let of = |keys: &[&str]| find(&span.attributes, keys);
    let method = of(&["http.request.method", "http.method"]).and_then(text);
    let route = of(&["http.route"]).and_then(path).map(template);
    Ok(SpanRow {
        trace_id,
        span_id,
        parent_span_id,
        name: name(&span.name, route.as_deref()),
        kind: kind(span.kind),
        start_time,
        end_time,
        duration_ns,
        status: status(span.status.as_ref().map_or(0, |status| status.code)),
        service: origin.service.clone(),
        service_namespace: origin.service_namespace.clone(),
        service_instance: origin.service_instance.clone(),
        scope: origin.scope.clone(),
        method,
        route,
        status_code: of(&["http.response.status_code", "http.status_code"]).and_then(number),
        rpc_system: of(&["rpc.system", "rpc.system.name"]).and_then(text),
        rpc_service: of(&["rpc.service"]).and_then(text),
        rpc_method: of(&["rpc.method"]).and_then(text),
        grpc_status: of(&["rpc.grpc.status_code"]).and_then(number),
        server_address: of(&["server.address"]).and_then(text),
        server_port: of(&["server.port"]).and_then(number),
        peer_service: of(&["peer.service", "service.peer.name"]).and_then(text),
        error_type: of(&["error.type"]).and_then(text),
    })
}

/// A span's name without what may be a raw path: applications put there what they like.
///
/// A word that begins with `/`, or holds `://` or `?`, is left out, unless it is the route.
fn name(name: &str, route: Option<&str>) -> String {
    let is_plain = |word: &&str| {
        let is_path = word.starts_with('/') || word.contains("://") || word.contains('?');
        !is_path || route == Some(*word)
    };
    let words: Vec<&str> = name.split_whitespace().filter(is_plain).collect();
    cut(&words.join(" "))
}

/// A route without what may be a query string.
fn template(route: String) -> String {
    match route.split_once('?') {
        Some((path, _)) => path.to_owned(),
        None => route,
    }
}

fn find<'a>(attributes: &'a [KeyValue], keys: &[&str]) -> Option<&'a Value> {
    keys.iter().find_map(|key| {
        let found = attributes.iter().find(|attribute| attribute.key == *key)?;
        found.value.as_ref()?.value.as_ref()
    })
}

/// A name: of a service, a host, a method, a class. What holds other characters than names do, such as a
/// URL, a query or a sentence, is left out: it could hold anything.
fn text(value: &Value) -> Option<String> {
    let is_of_name = |c: char| c.is_alphanumeric() || "._-:$@/+".contains(c);
    match value {
        Value::StringValue(text) if text.chars().all(is_of_name) && !text.contains("//") => {
            Some(cut(text))
        }
        _ => None,
    }
}

/// A route of an application's own words, whose parameters are in braces.
fn path(value: &Value) -> Option<String> {
    match value {
        Value::StringValue(text) => Some(cut(text)),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u16> {
    match value {
        Value::IntValue(number) => u16::try_from(*number).ok(),
        _ => None,
    }
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX))
        .unwrap_or_default()
        .to_owned()
}

fn span_id(bytes: &[u8]) -> Option<SpanId> {
    <[u8; 8]>::try_from(bytes).ok().and_then(SpanId::new)
}

fn time(ns: u64) -> Option<Time> {
    let ns = i64::try_from(ns).ok().filter(|ns| *ns > 0);
    ns.map(Time::from_ns)
}

const fn kind(kind: i32) -> &'static str {
    match kind {
        1 => "internal",
        2 => "server",
        3 => "client",
        4 => "producer",
        5 => "consumer",
        _ => "unspecified",
    }
}

const fn status(code: i32) -> &'static str {
    match code {
        1 => "ok",
        2 => "error",
        _ => "unset",
    }
}

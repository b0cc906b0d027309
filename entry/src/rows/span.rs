//! The row of the table `spans`.

use crate::Time;
use crate::id::{SpanId, TraceId};
use crate::record::{self, HeaderRef};
use crate::table::TableId;

/// One row of `spans`: a span that an OpenTelemetry exporter sent, with those of its attributes that
/// hold no personal data. Field names are the column names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanRow {
    /// Its trace.
    pub trace_id: TraceId,
    /// Itself.
    pub span_id: SpanId,
    /// The span above.
    pub parent_span_id: Option<SpanId>,
    /// What it names, without raw paths.
    pub name: String,
    /// `unspecified`, `internal`, `server`, `client`, `producer` or `consumer`.
    pub kind: &'static str,
    /// Begin, by the exporter's clock.
    pub start_time: Time,
    /// End, by the exporter's clock.
    pub end_time: Time,
    /// From begin to end (ns).
    pub duration_ns: u64,
    /// `unset`, `ok` or `error`.
    pub status: &'static str,
    /// `service.name`
    pub service: Option<String>,
    /// `service.namespace`
    pub service_namespace: Option<String>,
    /// `service.instance.id`
    pub service_instance: Option<String>,
    /// Name of the instrumentation scope.
    pub scope: Option<String>,
    /// `http.request.method`
    pub method: Option<String>,
    /// `http.route`: a template.
    pub route: Option<String>,
    /// `http.response.status_code`
    pub status_code: Option<u16>,
    /// `rpc.system`
    pub rpc_system: Option<String>,
    /// `rpc.service`
    pub rpc_service: Option<String>,
    /// `rpc.method`
    pub rpc_method: Option<String>,
    /// `rpc.grpc.status_code`
    pub grpc_status: Option<u16>,
    /// `server.address`
    pub server_address: Option<String>,
    /// `server.port`
    pub server_port: Option<u16>,
    /// `peer.service`
    pub peer_service: Option<String>,
    /// `error.type`
    pub error_type: Option<String>,
}

impl SpanRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::Spans, header, out);
        w.bytes(5, self.trace_id.bytes())
            .bytes(6, self.span_id.bytes());
        w.bytes_opt(7, self.parent_span_id.as_ref().map(|id| &id.bytes()[..]));
        w.text(8, &self.name).text(9, self.kind);
        w.time(10, self.start_time).time(11, self.end_time);
        w.u64(12, self.duration_ns).text(13, self.status);
        w.text_opt(14, self.service.as_deref())
            .text_opt(15, self.service_namespace.as_deref())
            .text_opt(16, self.service_instance.as_deref())
            .text_opt(17, self.scope.as_deref());
        w.text_opt(18, self.method.as_deref())
            .text_opt(19, self.route.as_deref())
            .u64_opt(20, self.status_code.map(u64::from));
        w.text_opt(21, self.rpc_system.as_deref())
            .text_opt(22, self.rpc_service.as_deref())
            .text_opt(23, self.rpc_method.as_deref())
            .u64_opt(24, self.grpc_status.map(u64::from));
        w.text_opt(25, self.server_address.as_deref())
            .u64_opt(26, self.server_port.map(u64::from))
            .text_opt(27, self.peer_service.as_deref())
            .text_opt(28, self.error_type.as_deref());
    }
}

//! The table of spans.

use super::Shape::{Fixed, Text, Time, U16, U64};
use super::{EPOCH, SEQ, STREAM, Table, TableId, WRITER, may, must};

/// Spans that OpenTelemetry exporters sent: for finding the way of a call, no evidence.
pub const SPANS: Table = Table {
    id: TableId::Spans,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "trace_id", Fixed(16)),
        must(6, "span_id", Fixed(8)),
        may(7, "parent_span_id", Fixed(8)),
        must(8, "name", Text),
        must(9, "kind", Text),
        must(10, "start_time", Time),
        must(11, "end_time", Time),
        must(12, "duration_ns", U64),
        must(13, "status", Text),
        may(14, "service", Text),
        may(15, "service_namespace", Text),
        may(16, "service_instance", Text),
        may(17, "scope", Text),
        may(18, "method", Text),
        may(19, "route", Text),
        may(20, "status_code", U16),
        may(21, "rpc_system", Text),
        may(22, "rpc_service", Text),
        may(23, "rpc_method", Text),
        may(24, "grpc_status", U16),
        may(25, "server_address", Text),
        may(26, "server_port", U16),
        may(27, "peer_service", Text),
        may(28, "error_type", Text),
    ],
};

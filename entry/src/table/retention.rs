//! Tables of retention: what was done about the end of entries, and what may not end yet.

use super::Shape::{Fixed, Text, Time, U64};
use super::{EPOCH, SEQ, STREAM, Table, TableId, WRITER, may, must};

/// Steps of dispositions: dry runs, plans, approvals, executions, refusals.
pub const RETENTION_ACTIONS: Table = Table {
    id: TableId::RetentionActions,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "action_id", Text),
        must(6, "step", Text),
        must(7, "occurred_at", Time),
        may(8, "actor", Text),
        may(9, "plan_sha256", Fixed(32)),
        must(10, "outcome", Text),
        may(11, "reason", Text),
        may(12, "detail", Text),
        may(13, "segments", U64),
        may(14, "records", U64),
        may(15, "bytes", U64),
        may(16, "oldest", Time),
        may(17, "newest", Time),
        may(18, "classes_sha256", Fixed(32)),
        may(19, "log_origin", Text),
        may(20, "manifest", U64),
    ],
};

/// Revisions of legal holds.
pub const LEGAL_HOLDS: Table = Table {
    id: TableId::LegalHolds,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "hold_id", Text),
        must(6, "revision", U64),
        must(7, "state", Text),
        must(8, "matter", Text),
        may(9, "service", Text),
        may(10, "operation", Text),
        may(11, "trace_id", Fixed(16)),
        may(12, "from_time", Time),
        may(13, "until_time", Time),
        must(14, "actor", Text),
        must(15, "reason", Text),
        must(16, "occurred_at", Time),
    ],
};

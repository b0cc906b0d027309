//! Tables of what was promised, and of how it was kept.

use super::Shape::{Fixed, Text, Time, U64};
use super::{EPOCH, SEQ, STREAM, Table, TableId, WRITER, may, must};

/// Revisions of objectives.
pub const OBJECTIVES: Table = Table {
    id: TableId::Objectives,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "objective", Text),
        must(6, "ordinal", U64),
        must(7, "revision", U64),
        must(8, "state", Text),
        may(9, "service", Text),
        may(10, "operation", Text),
        may(11, "threshold_ns", U64),
        must(12, "target", Text),
        must(13, "time_window", Text),
        must(14, "events_min", U64),
        must(15, "sha256", Fixed(32)),
        must(16, "recorded_at", Time),
    ],
};

/// Changes of the states of alerts.
pub const ALERTS: Table = Table {
    id: TableId::Alerts,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "alert_id", Text),
        must(6, "revision", U64),
        must(7, "alertname", Text),
        must(8, "severity", Text),
        must(9, "state", Text),
        may(10, "service", Text),
        may(11, "objective", Text),
        may(12, "operation", Text),
        may(13, "window", Text),
        must(14, "active_since", Time),
        must(15, "changed_at", Time),
        must(16, "evaluated_until", Time),
        may(17, "value", Text),
        may(18, "threshold", Text),
        may(19, "target", Text),
        must(20, "labels", Text),
        must(21, "summary", Text),
        may(22, "reason", Text),
    ],
};

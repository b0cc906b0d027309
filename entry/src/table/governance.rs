//! Tables of the governance plane and of the mesh's own state.

use super::Shape::{Bool, Fixed, Text, TextList, Time, U64};
use super::{EPOCH, SEQ, STREAM, Table, TableId, WRITER, may, must};

/// Attempts to get a new SVID.
pub const CERT_ROTATIONS: Table = Table {
    id: TableId::CertRotations,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "attempt_id", Text),
        must(6, "workload", Text),
        must(7, "cycle", Text),
        must(8, "attempt", U64),
        must(9, "trigger", Text),
        may(10, "old_serial", Text),
        may(11, "old_not_after", Time),
        may(12, "new_serial", Text),
        may(13, "new_not_after", Time),
        must(14, "started_at", Time),
        must(15, "ended_at", Time),
        must(16, "outcome", Text),
        may(17, "error_class", Text),
    ],
};

/// Changes of catalogue and rights, and refused attempts.
pub const GOVERNANCE_EVENTS: Table = Table {
    id: TableId::GovernanceEvents,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "event_id", Text),
        must(6, "occurred_at", Time),
        must(7, "actor", Text),
        must(8, "action", Text),
        must(9, "object_kind", Text),
        must(10, "object_id", Text),
        may(11, "object_revision", U64),
        may(12, "before_sha256", Fixed(32)),
        may(13, "after_sha256", Fixed(32)),
        may(14, "ticket", Text),
        may(15, "comment", Text),
        must(16, "outcome", Text),
        may(17, "reason", Text),
        may(18, "peer_address", Text),
    ],
};

/// Revisions of grants.
pub const GRANTS: Table = Table {
    id: TableId::Grants,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "grant_id", Text),
        must(6, "revision", U64),
        must(7, "state", Text),
        must(8, "consumer", Text),
        may(9, "consumer_app", Text),
        must(10, "api", Text),
        must(11, "operations", TextList),
        must(12, "purpose", Text),
        must(13, "ticket", Text),
        must(14, "requested_by", Text),
        must(15, "requested_at", Time),
        may(16, "decided_by", Text),
        may(17, "decided_at", Time),
        may(18, "not_before", Time),
        must(19, "expires", Time),
        may(20, "reviewed_by", Text),
        may(21, "reviewed_at", Time),
        may(22, "review_due_at", Time),
        may(23, "revoked_by", Text),
        may(24, "revoked_at", Time),
        must(25, "recorded_at", Time),
        must(26, "event_id", Text),
        may(27, "owner_team", Text),
    ],
};

/// What control published.
pub const BUNDLES: Table = Table {
    id: TableId::Bundles,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "audience", Text),
        must(6, "rights_version", U64),
        must(7, "endpoints_version", U64),
        must(8, "sha256", Fixed(32)),
        must(9, "rights_sha256", Fixed(32)),
        must(10, "published_at", Time),
        may(11, "event_id", Text),
        may(12, "author", Text),
        must(13, "grants", U64),
    ],
};

/// What proxies put in force.
pub const BUNDLE_ACKS: Table = Table {
    id: TableId::BundleAcks,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "audience", Text),
        must(6, "sha256", Fixed(32)),
        may(7, "rights_version", U64),
        must(8, "outcome", Text),
        may(9, "reason", Text),
        must(10, "acked_at", Time),
        must(11, "origin_kind", Text),
    ],
};

/// Revisions of APIs.
pub const APIS: Table = Table {
    id: TableId::Apis,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "api", Text),
        must(6, "api_version", Text),
        must(7, "revision", U64),
        must(8, "status", Text),
        must(9, "owner_team", Text),
        may(10, "server", Text),
        must(11, "access", Text),
        must(12, "openapi", Text),
        must(13, "document_sha256", Fixed(32)),
        must(14, "operations", U64),
        must(15, "scopes", TextList),
        must(16, "class", Text),
        must(17, "recorded_at", Time),
        must(18, "event_id", Text),
    ],
};

/// The operations of each revision of an API.
pub const OPERATIONS: Table = Table {
    id: TableId::Operations,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "api", Text),
        must(6, "api_version", Text),
        must(7, "revision", U64),
        must(8, "operation", Text),
        must(9, "method", Text),
        must(10, "route", Text),
        must(11, "scopes", TextList),
        must(12, "class", Text),
        must(13, "open", Bool),
        must(14, "recorded_at", Time),
        must(15, "event_id", Text),
    ],
};

/// How the control plane was found, in slots of ten seconds.
pub const CONTROL_HEALTH: Table = Table {
    id: TableId::ControlHealth,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "component", Text),
        must(6, "reporter", Text),
        must(7, "slot_start", Time),
        must(8, "slots", U64),
        must(9, "ok", U64),
        must(10, "failed", U64),
        must(11, "up", Bool),
        may(12, "latency_max_ns", U64),
        may(13, "error_class", Text),
    ],
};

/// What conformance checks found.
pub const CONFORMANCE_RESULTS: Table = Table {
    id: TableId::ConformanceResults,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "run_id", Text),
        must(6, "check", Text),
        must(7, "target", Text),
        must(8, "title", Text),
        must(9, "severity", Text),
        must(10, "outcome", Text),
        may(11, "evidence", Text),
        must(12, "checked_at", Time),
        must(13, "build", Text),
    ],
};

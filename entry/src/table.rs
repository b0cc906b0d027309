//! The tables of the books: their columns, field ids and shapes.
//!
//! Ids are never reused. `docs/format.md` section 2 is the same list for people.

mod governance;
mod retention;
mod service_levels;
mod spans;

use Shape::{Binary, Bool, Fixed, I64, Text, TextList, Time, U16, U64};

pub use governance::{
    APIS, BUNDLE_ACKS, BUNDLES, CERT_ROTATIONS, CONFORMANCE_RESULTS, CONTROL_HEALTH,
    GOVERNANCE_EVENTS, GRANTS, OPERATIONS,
};
pub use retention::{LEGAL_HOLDS, RETENTION_ACTIONS};
pub use service_levels::{ALERTS, OBJECTIVES};
pub use spans::SPANS;

/// The tables that this version writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum TableId {
    /// One row per attempt of a call per side and phase.
    Entries = 1,
    /// Spans that OpenTelemetry exporters sent; no evidence.
    Spans = 2,
    /// Attempts to get a new SVID.
    CertRotations = 3,
    /// Changes of catalogue and rights, and refused attempts.
    GovernanceEvents = 4,
    /// Revisions of grants.
    Grants = 5,
    /// What control published.
    Bundles = 6,
    /// What proxies put in force.
    BundleAcks = 7,
    /// Revisions of APIs.
    Apis = 8,
    /// The operations of each revision of an API.
    Operations = 9,
    /// How the control plane was found, in slots of ten seconds.
    ControlHealth = 10,
    /// Revisions of objectives.
    Objectives = 12,
    /// Changes of the states of alerts.
    Alerts = 13,
    /// Steps of dispositions.
    RetentionActions = 14,
    /// Revisions of legal holds.
    LegalHolds = 15,
    /// Who asked what.
    QueryLog = 16,
    /// What conformance checks found.
    ConformanceResults = 17,
    /// Holes in what writers stated.
    Gaps = 18,
    /// Two statements under one number.
    Conflicts = 19,
    /// Every SVID issued and every epoch seen.
    Issuance = 20,
    /// What writers signed.
    Statements = 21,
}

impl TableId {
    /// The table's number in canonical bytes.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The table's name in SQL, streams and paths.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entries => "entries",
            Self::Spans => "spans",
            Self::CertRotations => "cert_rotations",
            Self::GovernanceEvents => "governance_events",
            Self::Grants => "grants",
            Self::Bundles => "bundles",
            Self::BundleAcks => "bundle_acks",
            Self::Apis => "apis",
            Self::Operations => "operations",
            Self::ControlHealth => "control_health",
            Self::Objectives => "objectives",
            Self::Alerts => "alerts",
            Self::RetentionActions => "retention_actions",
            Self::LegalHolds => "legal_holds",
            Self::QueryLog => "query_log",
            Self::ConformanceResults => "conformance_results",
            Self::Gaps => "gaps",
            Self::Conflicts => "conflicts",
            Self::Issuance => "issuance",
            Self::Statements => "statements",
        }
    }

    /// The table of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        TABLES
            .iter()
            .map(|table| table.id)
            .find(|id| id.name() == name)
    }

    /// The table of that number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        TABLES
            .iter()
            .map(|table| table.id)
            .find(|id| id.number() == number)
    }

    /// The table's columns.
    #[must_use]
    pub const fn table(self) -> &'static Table {
        match self {
            Self::Entries => &ENTRIES,
            Self::Spans => &SPANS,
            Self::CertRotations => &CERT_ROTATIONS,
            Self::GovernanceEvents => &GOVERNANCE_EVENTS,
            Self::Grants => &GRANTS,
            Self::Bundles => &BUNDLES,
            Self::BundleAcks => &BUNDLE_ACKS,
            Self::Apis => &APIS,
            Self::Operations => &OPERATIONS,
            Self::ControlHealth => &CONTROL_HEALTH,
            Self::Objectives => &OBJECTIVES,
            Self::Alerts => &ALERTS,
            Self::RetentionActions => &RETENTION_ACTIONS,
            Self::LegalHolds => &LEGAL_HOLDS,
            Self::QueryLog => &QUERY_LOG,
            Self::ConformanceResults => &CONFORMANCE_RESULTS,
            Self::Gaps => &GAPS,
            Self::Conflicts => &CONFLICTS,
            Self::Issuance => &ISSUANCE,
            Self::Statements => &STATEMENTS,
        }
    }
}

/// What a column holds. Integers widen to 64 bits in canonical bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A boolean.
    Bool,
    /// A signed 64-bit integer.
    I64,
    /// An unsigned 64-bit integer.
    U64,
    /// An unsigned integer that fits 16 bits.
    U16,
    /// UTF-8 text.
    Text,
    /// A time in ns since the Unix epoch, UTC.
    Time,
    /// Exactly so many bytes.
    Fixed(u8),
    /// Bytes of any length.
    Binary,
    /// A list of texts.
    TextList,
}

/// One column inside the canonical bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Field id.
    pub id: u16,
    /// Name in SQL.
    pub name: &'static str,
    /// What it holds.
    pub shape: Shape,
    /// Whether the field may be absent.
    pub nullable: bool,
}

/// One table: its columns in ascending field id, the header's four first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Which table.
    pub id: TableId,
    /// Version of its columns; one version a segment.
    pub schema_version: u16,
    /// The columns.
    pub columns: &'static [Column],
}

impl Table {
    /// The column of field `id`.
    #[must_use]
    pub fn column(&self, id: u16) -> Option<&'static Column> {
        self.columns
            .binary_search_by_key(&id, |column| column.id)
            .ok()
            .and_then(|at| self.columns.get(at))
    }
}

const fn must(id: u16, name: &'static str, shape: Shape) -> Column {
    Column {
        id,
        name,
        shape,
        nullable: false,
    }
}

const fn may(id: u16, name: &'static str, shape: Shape) -> Column {
    Column {
        id,
        name,
        shape,
        nullable: true,
    }
}

const WRITER: Column = must(1, "writer", Text);
const EPOCH: Column = must(2, "epoch", U64);
const STREAM: Column = must(3, "stream", Text);
const SEQ: Column = must(4, "seq", U64);

/// Every table, in ascending number.
pub const TABLES: &[&Table] = &[
    &ENTRIES,
    &SPANS,
    &CERT_ROTATIONS,
    &GOVERNANCE_EVENTS,
    &GRANTS,
    &BUNDLES,
    &BUNDLE_ACKS,
    &APIS,
    &OPERATIONS,
    &CONTROL_HEALTH,
    &OBJECTIVES,
    &ALERTS,
    &RETENTION_ACTIONS,
    &LEGAL_HOLDS,
    &QUERY_LOG,
    &CONFORMANCE_RESULTS,
    &GAPS,
    &CONFLICTS,
    &ISSUANCE,
    &STATEMENTS,
];

/// One row per attempt of a call per side and phase.
pub const ENTRIES: Table = Table {
    id: TableId::Entries,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "side", Text),
        must(6, "kind", Text),
        may(7, "trace_id", Fixed(16)),
        may(8, "span_id", Fixed(8)),
        may(9, "parent_span_id", Fixed(8)),
        must(10, "start_time", Time),
        may(11, "end_time", Time),
        may(12, "duration_ns", U64),
        may(13, "upstream_ns", U64),
        may(14, "overhead_ns", U64),
        may(15, "authz_ns", U64),
        may(16, "queue_ns", U64),
        may(17, "connect_ns", U64),
        may(18, "handshake_ns", U64),
        may(19, "first_byte_ns", U64),
        may(20, "clock_offset_ns", I64),
        may(21, "clock_error_ns", U64),
        may(22, "source", Text),
        may(23, "destination", Text),
        may(24, "source_app", Text),
        may(25, "source_team", Text),
        may(26, "destination_app", Text),
        may(27, "destination_team", Text),
        may(28, "site", Text),
        may(29, "zone", Text),
        may(30, "peer_address", Text),
        may(31, "peer_port", U16),
        may(32, "upstream_address", Text),
        may(33, "api", Text),
        may(34, "api_version", Text),
        may(35, "operation", Text),
        may(36, "method", Text),
        may(37, "route", Text),
        must(38, "scopes", TextList),
        must(39, "protocol", Text),
        may(40, "status", U16),
        may(41, "grpc_status", U16),
        may(42, "outcome", Text),
        may(43, "error_type", Text),
        may(44, "request_bytes", U64),
        may(45, "response_bytes", U64),
        must(46, "attempt", U16),
        must(47, "mtls", Bool),
        may(48, "tls_version", Text),
        may(49, "tls_cipher", Text),
        may(50, "source_cert_sha256", Fixed(32)),
        may(51, "destination_cert_sha256", Fixed(32)),
        must(52, "decision", Text),
        must(53, "reason", Text),
        may(54, "grant_id", Text),
        may(55, "shadow_decision", Text),
        may(56, "shadow_reason", Text),
        may(57, "bundle_sha256", Fixed(32)),
        may(58, "bundle_version", U64),
        may(59, "policy_stale_ms", U64),
        may(60, "token_issuer", Text),
        may(61, "token_id", Text),
        may(62, "token_key", Text),
        may(63, "subject", Fixed(16)),
        may(64, "on_behalf_of", TextList),
        must(65, "durability", Text),
        must(66, "config_sha256", Fixed(32)),
        must(67, "build", Text),
        must(68, "phase", Text),
        may(69, "downstream_ns", U64),
        must(70, "retried", Bool),
    ],
};

/// Who asked what.
pub const QUERY_LOG: Table = Table {
    id: TableId::QueryLog,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "query_id", Text),
        must(6, "phase", Text),
        must(7, "endpoint", Text),
        must(8, "principal", Text),
        must(9, "role", Text),
        may(10, "purpose", Text),
        must(11, "sql", Text),
        must(12, "parameters", TextList),
        must(13, "tables", TextList),
        must(14, "start_time", Time),
        may(15, "end_time", Time),
        may(16, "rows", U64),
        may(17, "bytes", U64),
        may(18, "checkpoint", Text),
        may(19, "result_sha256", Fixed(32)),
        may(20, "outcome", Text),
        may(21, "sqlstate", Text),
        may(22, "peer_address", Text),
    ],
};

/// Holes in what writers stated.
pub const GAPS: Table = Table {
    id: TableId::Gaps,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "gap_id", Text),
        must(6, "revision", U64),
        must(7, "subject_writer", Text),
        must(8, "subject_epoch", U64),
        may(9, "subject_stream", Text),
        may(10, "from_seq", U64),
        may(11, "until_seq", U64),
        may(12, "from_statement", U64),
        may(13, "until_statement", U64),
        may(14, "not_before", Time),
        may(15, "not_after", Time),
        must(16, "cause", Text),
        must(17, "detected_by", Text),
        must(18, "opened_at", Time),
        may(19, "closed_at", Time),
        may(20, "explanation", Text),
        may(21, "ticket", Text),
    ],
};

/// Two statements under one number.
pub const CONFLICTS: Table = Table {
    id: TableId::Conflicts,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "subject_writer", Text),
        must(6, "subject_epoch", U64),
        must(7, "number", U64),
        must(8, "kept_sha256", Fixed(32)),
        must(9, "other_sha256", Fixed(32)),
        must(10, "other_statement", Binary),
        must(11, "other_signature", Binary),
        must(12, "detected_at", Time),
    ],
};

/// Every SVID issued and every epoch seen.
pub const ISSUANCE: Table = Table {
    id: TableId::Issuance,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "kind", Text),
        may(6, "serial", Text),
        must(7, "spiffe_id", Text),
        may(8, "not_before", Time),
        may(9, "not_after", Time),
        may(10, "cert_sha256", Fixed(32)),
        may(11, "spki_sha256", Fixed(32)),
        must(12, "issued_at", Time),
        may(13, "method", Text),
        may(14, "subject_epoch", U64),
        may(15, "peer_address", Text),
    ],
};

/// What writers signed.
pub const STATEMENTS: Table = Table {
    id: TableId::Statements,
    schema_version: 1,
    columns: &[
        WRITER,
        EPOCH,
        STREAM,
        SEQ,
        must(5, "kind", Text),
        may(6, "number", U64),
        must(7, "sha256", Fixed(32)),
        may(8, "previous", Fixed(32)),
        must(9, "time", Time),
        must(10, "statement", Binary),
        must(11, "signature", Binary),
        must(12, "audit_key", Fixed(32)),
        must(13, "trust", Text),
        may(14, "reason", Text),
        may(15, "entries", U64),
        may(16, "dropped", U64),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_ascend_and_names_are_unique_in_every_table() {
        for table in TABLES {
            assert!(
                table.columns.windows(2).all(|pair| pair[0].id < pair[1].id),
                "{:?}",
                table.id
            );
            let mut names: Vec<_> = table.columns.iter().map(|column| column.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), table.columns.len(), "{:?}", table.id);
            assert_eq!(TableId::from_name(table.id.name()), Some(table.id));
            assert_eq!(TableId::from_number(table.id.number()), Some(table.id));
        }
    }

    #[test]
    fn a_column_is_found_by_its_field_id() {
        assert_eq!(
            ENTRIES.column(70).map(|column| column.name),
            Some("retried")
        );
        assert_eq!(ENTRIES.column(71), None);
    }
}

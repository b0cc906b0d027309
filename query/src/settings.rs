//! What `SHOW` and `current_setting` answer: a reading PostgreSQL whose times are UTC.

use std::collections::BTreeMap;

use crate::functions::SERVER_VERSION;

/// What the statements that follow are asked for, as the query log keeps it.
pub const PURPOSE: &str = "counterfoil.purpose";

/// Parameters that the server tells every client at its start, under PostgreSQL's spelling.
pub const REPORTED: &[&str] = &[
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "scram_iterations",
    "search_path",
    "server_encoding",
    "server_version",
    "session_authorization",
    "standard_conforming_strings",
    "TimeZone",
];

/// The settings of a new session of `user`, by lower-case name.
#[must_use]
pub fn defaults(user: &str) -> BTreeMap<String, String> {
    [
        ("application_name", ""),
        ("bytea_output", "hex"),
        ("client_encoding", "UTF8"),
        ("client_min_messages", "notice"),
        (PURPOSE, ""),
        ("datestyle", "ISO, MDY"),
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_read_only", "on"),
        ("extra_float_digits", "1"),
        ("in_hot_standby", "off"),
        ("integer_datetimes", "on"),
        ("intervalstyle", "postgres"),
        ("is_superuser", "off"),
        ("lc_collate", "C"),
        ("lc_ctype", "C.UTF-8"),
        ("max_identifier_length", "63"),
        ("max_index_keys", "32"),
        ("scram_iterations", "4096"),
        ("search_path", "public"),
        ("server_encoding", "UTF8"),
        ("server_version", SERVER_VERSION),
        ("server_version_num", "160006"),
        ("session_authorization", user),
        ("standard_conforming_strings", "on"),
        ("statement_timeout", "0"),
        ("timezone", "UTC"),
        ("transaction_isolation", "read committed"),
        ("transaction_read_only", "on"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// The name under which a `SHOW` argument is kept: `time zone` is `timezone`.
#[must_use]
pub fn canonical(name: &str) -> &str {
    match name {
        "time zone" => "timezone",
        "transaction isolation level" => "transaction_isolation",
        "session authorization" => "session_authorization",
        other => other,
    }
}

//! The log of who asked what: rows of `query_log`, in the spool before an answer's first row leaves.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest;
use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::rows::QueryLogRow;
use counterfoil_entry::table::TableId;
use counterfoil_entry::{Hash, Time, clock};
use counterfoil_spool::{AppendError, Lane};

use crate::error::{IO, SqlError};
use crate::metrics::Statements;

/// Writes `query_log` through a lane of the spool.
#[derive(Debug)]
pub struct QueryLog {
    lane: Mutex<Lane>,
    class: RetentionClass,
    statements: Statements,
}

impl QueryLog {
    /// A log that writes to `lane` under the retention class `class`.
    #[must_use]
    pub fn new(lane: Lane, class: RetentionClass) -> Self {
        Self {
            lane: Mutex::new(lane),
            class,
            statements: Statements::default(),
        }
    }

    /// Counts of what was logged.
    pub(crate) fn statements(&self) -> Statements {
        self.statements.clone()
    }

    /// Appends one row; it survives a crash of this process when this returns.
    ///
    /// # Errors
    /// 58030 when the spool cannot take it: what cannot be logged must not be answered.
    pub fn append(&self, row: &QueryLogRow) -> Result<(), SqlError> {
        self.statements.logged(row);
        let mut lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        lane.append(TableId::QueryLog, &self.class, |header, out| {
            row.encode(header, out)
        })
        .map(|_seq| ())
        .map_err(|error: AppendError| {
            tracing::error!(%error, "the query log cannot be written, queries are refused");
            SqlError::new(
                IO,
                "the query log cannot be written, so the statement was not run",
            )
        })
    }
}

/// Who asks, and through which door.
#[derive(Debug, Clone)]
pub struct Asker {
    /// User name.
    pub principal: String,
    /// Role of the user.
    pub role: String,
    /// `postgres` or `http`.
    pub endpoint: &'static str,
    /// Network peer.
    pub peer_address: String,
    /// Why, in the asker's words.
    pub purpose: Option<String>,
}

impl Asker {
    /// The row of a statement that begins now.
    #[must_use]
    pub fn row(&self, phase: &str, sql: &str, parameters: Vec<String>) -> QueryLogRow {
        QueryLogRow {
            query_id: query_id(),
            phase: phase.to_owned(),
            endpoint: self.endpoint.to_owned(),
            principal: self.principal.clone(),
            role: self.role.clone(),
            purpose: self.purpose.clone(),
            sql: sql.to_owned(),
            parameters,
            tables: Vec::new(),
            start_time: clock::wall(),
            end_time: None,
            rows: None,
            bytes: None,
            checkpoint: None,
            result_sha256: None,
            outcome: None,
            sqlstate: None,
            peer_address: Some(self.peer_address.clone()),
        }
    }
}

/// What was sent of an answer.
pub struct Sent {
    /// Rows handed to the client.
    pub rows: u64,
    bytes: u64,
    digest: digest::Context,
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sent")
            .field("rows", &self.rows)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Default for Sent {
    fn default() -> Self {
        Self {
            rows: 0,
            bytes: 0,
            digest: digest::Context::new(&digest::SHA256),
        }
    }
}

impl Sent {
    /// Counts bytes of the answer as they were sent.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.digest.update(bytes);
    }

    /// Fills in the `end` row of `start`.
    #[must_use]
    pub fn end(&self, start: &QueryLogRow, outcome: &str, sqlstate: Option<&str>) -> QueryLogRow {
        let end: Time = clock::wall();
        QueryLogRow {
            phase: "end".to_owned(),
            end_time: Some(end),
            rows: Some(self.rows),
            bytes: Some(self.bytes),
            result_sha256: Hash::from_slice(self.digest.clone().finish().as_ref()),
            outcome: Some(outcome.to_owned()),
            sqlstate: sqlstate.map(ToOwned::to_owned),
            ..start.clone()
        }
    }
}

/// 8 bytes of time, so that ids sort by it, and 8 random ones, in hex.
fn query_id() -> String {
    let random: u64 = rand::random();
    format!("{:016x}{random:016x}", clock::wall().as_ns())
}

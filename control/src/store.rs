//! The governance state on disk: SQLite, one process at a time, and what it owes to the books
//! (docs/adr/0007).

mod outbox;
mod read;
mod write;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use counterfoil_entry::Time;
use rusqlite::{Connection, TransactionBehavior, params};

use crate::governance::estate::{Change, Estate};
use crate::governance::records::EventRecord;
pub(crate) use outbox::{Owed, Written};

/// Every step that brought the state to its present form, in order. The number of the last one is
/// the version of the state.
const MIGRATIONS: &[&str] = &[include_str!("store/0001_state.sql")];

/// Why the governance state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process uses it.
    #[error("{file} is locked: another process uses the governance state")]
    Locked {
        /// The lock's file.
        file: PathBuf,
    },
    /// It was written by a newer build.
    #[error("the governance state has version {found}, this build knows up to {known}")]
    Newer {
        /// Its version.
        found: i64,
        /// The newest that this build knows.
        known: i64,
    },
    /// A file cannot be made or locked.
    #[error("cannot use {file}")]
    File {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The database refuses.
    #[error("cannot use the governance state")]
    Database(#[from] rusqlite::Error),
    /// A value in the database is not what this build wrote.
    #[error("the governance state holds {value} as {column}")]
    Value {
        /// The column.
        column: &'static str,
        /// Its value.
        value: String,
    },
}

/// What control is configured with and commands need, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) trust_domain: String,
    /// Retention class of operations that name none.
    pub(crate) default_class: String,
}

/// The open state. Dropping it lets the next process in.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Connection,
    _lock: File,
}

impl Store {
    /// Opens the state in `dir`, made and brought to the present form when that is due.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::File {
            file: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir).map_err(failed)?;
        let lock = lock(&dir.join("governance.lock"))?;
        let mut connection = Connection::open(dir.join("governance.db"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        migrate(&mut connection)?;
        Ok(Self {
            connection,
            _lock: lock,
        })
    }

    /// The newest revision of everything.
    pub(crate) fn estate(&self, now: Time) -> Result<Estate, StoreError> {
        read::estate(&self.connection, now)
    }

    /// Records a change and what it owes to the books, all or nothing.
    pub(crate) fn record(&mut self, change: &Change) -> Result<(), StoreError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        write::change(&transaction, change)?;
        Ok(transaction.commit()?)
    }

    /// What control was configured with when it ran last, for commands that work without it.
    pub(crate) fn settings(&self) -> Result<Option<Settings>, StoreError> {
        read::settings(&self.connection)
    }

    /// Keeps what control is configured with.
    pub(crate) fn keep_settings(&mut self, settings: &Settings) -> Result<(), StoreError> {
        write::settings(&self.connection, settings)
    }

    /// The next events after the one named, oldest first; from the first on when none is named. None
    /// when there is no such event.
    pub(crate) fn events(
        &self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Option<Vec<EventRecord>>, StoreError> {
        read::events(&self.connection, after, limit)
    }

    /// The first `limit` things that the books are owed, in order.
    pub(crate) fn owed(&self, limit: u32) -> Result<Vec<Owed>, StoreError> {
        outbox::owed(&self.connection, limit)
    }

    /// Notes where in the books what was owed stands now.
    pub(crate) fn mark(&mut self, written: &[Written]) -> Result<(), StoreError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        outbox::mark(&transaction, written)?;
        Ok(transaction.commit()?)
    }
}

fn lock(file: &Path) -> Result<File, StoreError> {
    let failed = |source| StoreError::File {
        file: file.to_owned(),
        source,
    };
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(file)
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
            file: file.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute(
        "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)",
        [],
    )?;
    let found: i64 = transaction.query_row(
        "SELECT coalesce(max(version), 0) FROM schema_version",
        [],
        |row| row.get(0),
    )?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    for (version, step) in (1_i64..).zip(MIGRATIONS) {
        if version > found {
            transaction.execute_batch(step)?;
            transaction.execute(
                "INSERT INTO schema_version (version) VALUES (?1)",
                params![version],
            )?;
        }
    }
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests;

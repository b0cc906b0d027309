//! Configuration of the query role: TOML, checked whole before a port is bound.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use counterfoil_entry::id::RetentionClass;
use counterfoil_spool::join::{IdentityConfig, UnusableIdentity};
use serde::Deserialize;

use crate::alerts::AlertsConfig;

/// Statements that run at once: more wait, so that each keeps its share of memory.
const STATEMENTS_DEFAULT: usize = 8;
/// Bytes of the query log that wait for the collector: 256 MiB is about half a million statements.
const SPOOL_BYTES_DEFAULT: u64 = 256 << 20;

/// How the query role runs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryConfig {
    /// Data directory whose books are read.
    pub data_dir: PathBuf,
    /// Where PostgreSQL clients connect.
    #[serde(default = "postgres_listen")]
    pub postgres_listen: SocketAddr,
    /// Where HTTP clients connect.
    #[serde(default = "http_listen")]
    pub http_listen: SocketAddr,
    /// TOML file of users and their verifiers.
    pub users_file: PathBuf,
    /// Folder of OpenSLO files; without one there are no objectives.
    pub objectives_dir: Option<PathBuf>,
    /// PEM chain for TLS on both ports; with it plain connections are refused.
    pub tls_cert_file: Option<PathBuf>,
    /// PEM key of the chain.
    pub tls_key_file: Option<PathBuf>,
    /// Allows a port outside of loopback without TLS.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// Identity of this writer of `query_log`.
    pub identity: IdentityConfig,
    /// Name of this process among those of the same identity.
    #[serde(default = "instance")]
    pub instance: String,
    /// Collector that takes the query log, `host:port`.
    pub collector: String,
    /// SPIFFE id that the collector must have.
    pub collector_spiffe_id: Option<String>,
    /// Spool root of this host.
    pub spool_dir: PathBuf,
    /// Most bytes of the query log in the spool.
    #[serde(default = "spool_bytes_max")]
    pub spool_bytes_max: u64,
    /// Retention class of the query log.
    #[serde(default = "query_log_class")]
    pub query_log_class: String,
    /// Memory of all running statements together (bytes).
    #[serde(default = "memory_bytes_max")]
    pub memory_bytes_max: usize,
    /// Statements that run at once.
    #[serde(default = "statements_max")]
    pub statements_max: usize,
    /// Whether control is probed once a second, for `control_health`.
    #[serde(default = "probe_control")]
    pub probe_control: bool,
    /// How alerts are judged, and whom they are told.
    #[serde(default)]
    pub alerts: AlertsConfig,
    /// Where the mesh this serves is.
    pub site: Option<String>,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading configuration {file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("reading configuration {file}: {detail}")]
    Form {
        /// The file.
        file: PathBuf,
        /// What does not fit, with its line.
        detail: String,
    },
    /// The section `[identity]`, or a file that it names, cannot be used.
    #[error(transparent)]
    Identity(#[from] UnusableIdentity),
    /// A value is out of its range.
    #[error("configuration key {key} is {value}: {accepted}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is accepted.
        accepted: &'static str,
    },
}

impl QueryConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] with file, key, value and accepted range.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Read {
            file: file.to_owned(),
            source,
        })?;
        let config: Self = toml::from_str(&text).map_err(|error| ConfigError::Form {
            file: file.to_owned(),
            detail: error.to_string().trim().replace('\n', " "),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Checks what a single value does not tell.
    ///
    /// # Errors
    /// [`ConfigError::Value`]
    pub fn check(&self) -> Result<(), ConfigError> {
        let value = |key, value: String, accepted| {
            Err(ConfigError::Value {
                key,
                value,
                accepted,
            })
        };
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            let given = format!("{:?}", self.tls_cert_file);
            return value(
                "tls_cert_file",
                given,
                "give both tls_cert_file and tls_key_file, or none",
            );
        }
        let plain = self.tls_cert_file.is_none() && !self.allow_plaintext;
        for (key, address) in [
            ("postgres_listen", self.postgres_listen),
            ("http_listen", self.http_listen),
        ] {
            if plain && !address.ip().is_loopback() {
                return value(
                    key,
                    address.to_string(),
                    "outside of loopback it needs tls_cert_file and tls_key_file, or allow_plaintext = true",
                );
            }
        }
        let is_address = self.collector.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if !is_address {
            let expected = "expected host:port, as in 127.0.0.1:15417";
            return value("collector", self.collector.clone(), expected);
        }
        if RetentionClass::parse(&self.query_log_class).is_err() {
            let class = self.query_log_class.clone();
            return value(
                "query_log_class",
                class,
                "permanent, or a name that ends in _<n>d, _<n>m or _<n>y",
            );
        }
        if !(1..=1024).contains(&self.statements_max) {
            return value(
                "statements_max",
                self.statements_max.to_string(),
                "1 to 1024",
            );
        }
        if self.memory_bytes_max < 64 << 20 {
            return value(
                "memory_bytes_max",
                self.memory_bytes_max.to_string(),
                "64 MiB or more",
            );
        }
        if self.spool_bytes_max < 1 << 20 {
            return value(
                "spool_bytes_max",
                self.spool_bytes_max.to_string(),
                "1 MiB or more",
            );
        }
        Ok(())
    }
}

fn postgres_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 15432))
}

fn http_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 15480))
}

fn instance() -> String {
    "query-1".to_owned()
}

fn query_log_class() -> String {
    "sox_7y".to_owned()
}

const fn spool_bytes_max() -> u64 {
    SPOOL_BYTES_DEFAULT
}

const fn memory_bytes_max() -> usize {
    crate::template::MEMORY_BYTES
}

const fn probe_control() -> bool {
    true
}

const fn statements_max() -> usize {
    STATEMENTS_DEFAULT
}

//! The collector's configuration: read and checked before anything is opened.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use counterfoil_entry::id::RetentionClass;
use counterfoil_spool::join::{IdentityConfig, UnusableIdentity};
use serde::Deserialize;

pub use crate::foreign::{AlsConfig, DefaultSide, OtlpConfig, Port};

/// Configuration of a collector, as its TOML file gives it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectorConfig {
    /// The data directory; made when it is not there.
    pub data_dir: PathBuf,
    /// Log origin: the name of this collector's log, for ever.
    pub origin: String,
    /// Address of the native receiver.
    #[serde(default = "listen")]
    pub listen: SocketAddr,
    /// Address of `/metrics` and `/healthz`, plain HTTP; none without it.
    #[serde(default)]
    pub admin_listen: Option<SocketAddr>,
    /// How the collector gets its SVID.
    pub identity: IdentityConfig,
    /// SPIFFE id of query, which alone writes objectives and alerts. Default: `/counterfoil/query` of the
    /// trust domain.
    #[serde(default)]
    pub query_spiffe_id: Option<String>,
    /// File of the log's private key; made when it is not there. Default: `<data_dir>/collector/log.key`.
    #[serde(default)]
    pub log_key_file: Option<PathBuf>,
    /// Instance part of the collector's own writer name.
    #[serde(default = "instance")]
    pub instance: String,
    /// Seconds between seals, 1 to 3600.
    #[serde(default = "seal_interval_s")]
    pub seal_interval_s: u64,
    /// Rows that make a seal due before its time, 1 to 1,000,000.
    #[serde(default = "seal_rows_max")]
    pub seal_rows_max: usize,
    /// Seconds without a word after which a writer's open epoch is recorded as silent, 1 to 86400.
    #[serde(default = "silence_s")]
    pub silence_s: u64,
    /// Requests that wait for the journal, 1 to 65536; one more is answered 503. Each holds up to 4 MiB.
    #[serde(default = "queue_depth")]
    pub queue_depth: usize,
    /// Bytes of the collector's own spool.
    #[serde(default = "spool_bytes_max")]
    pub spool_bytes_max: u64,
    /// Receivers of OpenTelemetry traces; none without the section.
    #[serde(default)]
    pub otlp: Option<OtlpConfig>,
    /// Envoy's access-log service; none without the section.
    #[serde(default)]
    pub als: Option<AlsConfig>,
    /// Bytes of the spool for what foreign systems sent. When it is full, exporters are told to try
    /// again, and access logs are dropped and counted.
    #[serde(default = "foreign_spool_bytes_max")]
    pub foreign_spool_bytes_max: u64,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no configuration.
    #[error("reading the configuration {path}: {detail}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, key and what is wrong.
        detail: String,
    },
    /// The section `[identity]`, or a file that it names, cannot be used.
    #[error(transparent)]
    Identity(#[from] UnusableIdentity),
    /// There is a log, and its key is not where the configuration says.
    #[error(
        "log_key_file: {path} is not there, and the log {origin} was begun with its key: name the file of that key"
    )]
    LogKeyLost {
        /// Where the key was looked for.
        path: PathBuf,
        /// The log.
        origin: String,
    },
    /// The log's key cannot be used.
    #[error(
        "log_key_file: reading {path}: {detail}: give the file of the key that the log {origin} was begun with"
    )]
    LogKey {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
        /// The log.
        origin: String,
    },
    /// A value is out of its range.
    #[error("{key} = {value}: expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value found.
        value: String,
        /// What is accepted.
        expected: &'static str,
    },
}

impl CollectorConfig {
    /// Reads and checks the configuration file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file and the key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let config: Self = toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            detail: error.to_string(),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first one outside.
    pub fn check(&self) -> Result<(), ConfigError> {
        let within = |key, value: u64, from: u64, until: u64, expected| {
            let is_within = (from..=until).contains(&value);
            if is_within {
                Ok(())
            } else {
                refuse(key, &value, expected)
            }
        };
        let wide = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        within(
            "seal_interval_s",
            self.seal_interval_s,
            1,
            3600,
            "1 to 3600",
        )?;
        within(
            "seal_rows_max",
            wide(self.seal_rows_max),
            1,
            1_000_000,
            "1 to 1000000",
        )?;
        within("silence_s", self.silence_s, 1, 86_400, "1 to 86400")?;
        within(
            "queue_depth",
            wide(self.queue_depth),
            1,
            65_536,
            "1 to 65536",
        )?;
        let spool = "1048576 (1 MiB) or more";
        for (key, bytes) in [
            ("spool_bytes_max", self.spool_bytes_max),
            ("foreign_spool_bytes_max", self.foreign_spool_bytes_max),
        ] {
            within(key, bytes, 1 << 20, u64::MAX, spool)?;
        }
        self.check_foreign()?;
        let is_name = |c: char| c.is_ascii_graphic() && c != '+';
        if self.origin.is_empty() || !self.origin.chars().all(is_name) {
            let expected =
                "printable ASCII without spaces and without +, such as example.org/collector-1";
            return refuse("origin", &self.origin, expected);
        }
        Ok(())
    }

    fn check_foreign(&self) -> Result<(), ConfigError> {
        let classes = [
            ("otlp.class", self.otlp.as_ref().map(|otlp| &otlp.class)),
            ("als.class", self.als.as_ref().map(|als| &als.class)),
        ];
        for (key, class) in classes {
            if let Some(class) = class.filter(|class| RetentionClass::parse(class).is_err()) {
                let expected = "permanent, or a name that ends in _<n>d, _<n>m or _<n>y";
                return refuse(key, class, expected);
            }
        }
        Ok(())
    }

    /// The file of the log's private key.
    #[must_use]
    pub fn log_key_path(&self) -> PathBuf {
        let default = || self.data_dir.join("collector").join("log.key");
        self.log_key_file.clone().unwrap_or_else(default)
    }
}

fn refuse(
    key: &'static str,
    value: &dyn std::fmt::Display,
    expected: &'static str,
) -> Result<(), ConfigError> {
    Err(ConfigError::Value {
        key,
        value: value.to_string(),
        expected,
    })
}

fn listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 15417))
}

fn instance() -> String {
    "1".to_owned()
}

const fn seal_interval_s() -> u64 {
    30
}

const fn seal_rows_max() -> usize {
    // About 200 MB of entries held as places and read at once by a seal.
    250_000
}

const fn silence_s() -> u64 {
    // Six statements of 10 s are missed by then.
    60
}

const fn queue_depth() -> usize {
    // 256 x 4 MiB = 1 GiB at the very most.
    256
}

const fn spool_bytes_max() -> u64 {
    64 << 20
}

const fn foreign_spool_bytes_max() -> u64 {
    256 << 20
}

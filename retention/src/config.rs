//! The configuration of retention: which books, which classes, and as whom rows are written.

use std::path::{Path, PathBuf};

use counterfoil_entry::Hash;
use counterfoil_entry::id::Writer;
use counterfoil_entry::tree::sha256;
use counterfoil_spool::join::IdentityConfig;
use counterfoil_trust::SpiffeId;
use serde::Deserialize;

/// Configuration of retention, as its TOML file gives it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionConfig {
    /// The data directory of the books.
    pub data_dir: PathBuf,
    /// Origin of the log.
    pub origin: String,
    /// File of the log's private key. Default: `<data_dir>/collector/log.key`.
    #[serde(default)]
    pub log_key_file: Option<PathBuf>,
    /// How long classes are kept.
    pub classes_file: PathBuf,
    /// Team whose people may plan, approve, execute, and place and release holds.
    #[serde(default = "team")]
    pub team: String,
    /// `host:port` of the collector's native receiver.
    pub collector: String,
    /// Who the collector must be; without it anyone in the trust domain.
    #[serde(default)]
    pub collector_spiffe_id: Option<String>,
    /// The spool root; what a collector does not take stays here for the next command.
    pub spool_dir: PathBuf,
    /// Tells several writers of one identity apart.
    #[serde(default = "instance")]
    pub instance: String,
    /// Who retention is, and where it gets its certificate.
    pub identity: IdentityConfig,
    #[serde(skip)]
    sha256: Hash,
}

fn team() -> String {
    "records".to_owned()
}

fn instance() -> String {
    "1".to_owned()
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
    /// A value cannot be used.
    #[error("reading the configuration {path}: {key}: {why}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl RetentionConfig {
    /// Reads and checks the configuration file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`], naming file and key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config: Self = toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            detail: error.to_string().trim_end().to_owned(),
        })?;
        config.sha256 = sha256(text.as_bytes());
        let names = config.writer().and_then(|_| config.collector_id());
        names.map_err(|(key, why)| ConfigError::Value {
            path: path.to_owned(),
            key,
            why,
        })?;
        Ok(config)
    }

    /// SHA-256 of the file.
    #[must_use]
    pub const fn sha256(&self) -> Hash {
        self.sha256
    }

    /// The file of the log's private key.
    #[must_use]
    pub fn log_key_path(&self) -> PathBuf {
        let default = || self.data_dir.join("collector").join("log.key");
        self.log_key_file.clone().unwrap_or_else(default)
    }

    /// Where plans and the register of holds are kept.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.data_dir.join("retention")
    }

    pub(crate) fn writer(&self) -> Result<Writer, (&'static str, String)> {
        let own = SpiffeId::parse(&self.identity.spiffe_id)
            .map_err(|error| ("identity.spiffe_id", error.to_string()))?;
        Writer::parse(&format!("{}#{}", own.as_str(), self.instance))
            .map_err(|error| ("instance", error.to_string()))
    }

    pub(crate) fn collector_id(&self) -> Result<Option<SpiffeId>, (&'static str, String)> {
        let id = self.collector_spiffe_id.as_deref();
        id.map(SpiffeId::parse)
            .transpose()
            .map_err(|error| ("collector_spiffe_id", error.to_string()))
    }
}

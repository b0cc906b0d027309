//! The proxy's configuration file, checked as a whole before any port is bound.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use counterfoil_entry::id::Writer;
use counterfoil_entry::{Hash, tree};
use counterfoil_spool::join::{IdentityConfig, UnusableIdentity};
use counterfoil_trust::SpiffeId;
use counterfoil_trust::keys::public_from_hex;
use serde::Deserialize;

/// One proxy's settings, as written in its TOML file. Keys that are not listed here are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Identity of the workload beside this proxy.
    pub spiffe_id: String,
    /// Tells several instances of one workload apart; part of the writer's name.
    pub instance: String,
    /// Where the application's own calls come in, plaintext: a loopback address.
    #[serde(default = "defaults::outbound_listen")]
    pub outbound_listen: SocketAddr,
    /// Where other proxies' calls come in, mutual TLS.
    #[serde(default = "defaults::inbound_listen")]
    pub inbound_listen: SocketAddr,
    /// `/ready`, `/healthz` and `/metrics`.
    #[serde(default = "defaults::admin_listen")]
    pub admin_listen: SocketAddr,
    /// The application: a loopback address.
    pub app_address: SocketAddr,
    /// Worker threads, each with its own listeners and its own lane of the spool.
    #[serde(default = "defaults::workers")]
    pub workers: u16,
    /// The collector's native receiver, `host:port`.
    #[serde(default = "defaults::collector")]
    pub collector: String,
    /// Who the collector must be; without it anyone in the trust domain.
    pub collector_spiffe_id: Option<String>,
    /// The control plane, `host:port`.
    #[serde(default = "defaults::control")]
    pub control: String,
    /// PEM certificates of the trust domain's roots, for the first contact with control.
    pub roots_file: PathBuf,
    /// Token for the first SVID; not needed once `state_dir` holds one.
    pub join_token_file: Option<PathBuf>,
    /// Ed25519 public key that signs rights, 64 hex digits.
    pub governance_key: String,
    /// Ed25519 public key that signs endpoints, 64 hex digits.
    pub control_key: String,
    /// Keeps the SVID and the last good bundle.
    pub state_dir: PathBuf,
    /// The host's spool root.
    pub spool_dir: PathBuf,
    /// Bytes that this writer's spool may take.
    #[serde(default = "defaults::spool_bytes_max")]
    pub spool_bytes_max: u64,
    /// Seconds from the last byte of a request until its response begins.
    #[serde(default = "defaults::request_timeout_s")]
    pub request_timeout_s: u64,
    /// Seconds that open calls get to end at a shutdown.
    #[serde(default = "defaults::drain_s")]
    pub drain_s: u64,
    /// Where this proxy runs; the bundle's value when absent.
    pub site: Option<String>,
    /// Where in the site; the bundle's value when absent.
    pub zone: Option<String>,
    /// End when the process that started this one ends.
    #[serde(default)]
    pub die_with_parent: bool,
    /// SHA-256 of the file's bytes.
    #[serde(skip, default = "defaults::sha256")]
    pub sha256: Hash,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading the configuration {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or a key is missing, unknown or of another type.
    #[error("reading the configuration {}: {detail}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Line, key and what was expected.
        detail: String,
    },
    /// A value is out of its range.
    #[error("reading the configuration {}: {key} = {value}: must be {expected}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The key.
        key: &'static str,
        /// The value as written.
        value: String,
        /// The accepted range.
        expected: &'static str,
    },
    /// A file that a key names cannot be used.
    #[error("reading the configuration {}: {key} = {}: {detail}", file.display(), path.display())]
    File {
        /// The configuration file.
        file: PathBuf,
        /// The key.
        key: &'static str,
        /// The file that it names.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// One value that is out of its range.
struct Bad {
    key: &'static str,
    value: String,
    expected: &'static str,
}

impl Config {
    /// Reads and checks a configuration file. Nothing is opened or bound.
    ///
    /// # Errors
    /// When the file is unreadable, not TOML, holds an unknown key or a value out of range.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
            file: file.to_owned(),
            source,
        })?;
        let mut config: Self = toml::from_str(&text).map_err(|error| ConfigError::Malformed {
            file: file.to_owned(),
            detail: error.to_string().trim_end().to_owned(),
        })?;
        config.sha256 = tree::sha256(text.as_bytes());
        config.check().map_err(
            |Bad {
                 key,
                 value,
                 expected,
             }| ConfigError::Value {
                file: file.to_owned(),
                key,
                value,
                expected,
            },
        )?;
        Ok(config)
    }

    /// Reads the files that are needed to join: the roots, and the token as long as `state_dir` keeps
    /// no SVID that is good. `file` is the configuration's own, for the error.
    ///
    /// # Errors
    /// [`ConfigError::File`] when one is not there, unreadable, or not what it should be.
    pub fn check_files(&self, file: &Path) -> Result<(), ConfigError> {
        let checked = self.identity().check();
        checked.map_err(
            |UnusableIdentity { key, value, detail }| ConfigError::File {
                file: file.to_owned(),
                key: match key {
                    "roots_pem_file" => "roots_file",
                    key => key,
                },
                path: value.into(),
                detail,
            },
        )
    }

    /// Who this proxy is, and where it gets its certificate.
    #[must_use]
    pub fn identity(&self) -> IdentityConfig {
        IdentityConfig {
            spiffe_id: self.spiffe_id.clone(),
            control: self.control.clone(),
            control_spiffe_id: None,
            roots_pem_file: self.roots_file.clone(),
            join_token_file: self.join_token_file.clone(),
            state_dir: self.state_dir.clone(),
        }
    }

    /// `<SPIFFE id>#<instance>`, the name under which entries are signed.
    #[must_use]
    pub fn writer_name(&self) -> String {
        format!("{}#{}", self.spiffe_id, self.instance)
    }

    /// How long after its request a response may begin.
    #[must_use]
    pub const fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_s)
    }

    /// How long open calls get to end at a shutdown.
    #[must_use]
    pub const fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_s)
    }

    fn check(&self) -> Result<(), Bad> {
        need(
            "spiffe_id",
            &self.spiffe_id,
            SpiffeId::parse(&self.spiffe_id).is_ok(),
            "a SPIFFE id such as spiffe://bank.example/workload/payments",
        )?;
        need(
            "instance",
            &self.instance,
            Writer::parse(&self.writer_name()).is_ok(),
            "a short name without #, spaces and control characters",
        )?;
        if let Some(id) = &self.collector_spiffe_id {
            need(
                "collector_spiffe_id",
                id,
                SpiffeId::parse(id).is_ok(),
                "a SPIFFE id",
            )?;
        }
        for (key, address) in [
            ("outbound_listen", self.outbound_listen),
            ("app_address", self.app_address),
        ] {
            need(
                key,
                address,
                address.ip().is_loopback(),
                "a loopback address, because it carries plaintext",
            )?;
        }
        for (key, place) in [("collector", &self.collector), ("control", &self.control)] {
            let named = place.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            let port = named.and_then(|(_, port)| port.parse::<u16>().ok());
            need(key, place, port.is_some_and(|port| port != 0), "host:port")?;
        }
        self.check_ports()?;
        self.check_limits()
    }

    fn check_limits(&self) -> Result<(), Bad> {
        need(
            "workers",
            self.workers,
            (1..=64).contains(&self.workers),
            "from 1 to 64",
        )?;
        need(
            "spool_bytes_max",
            self.spool_bytes_max,
            (SPOOL_BYTES_MIN..=1 << 40).contains(&self.spool_bytes_max),
            "from 1048576 (1 MiB) to 1099511627776 (1 TiB)",
        )?;
        need(
            "request_timeout_s",
            self.request_timeout_s,
            (1..=86_400).contains(&self.request_timeout_s),
            "from 1 to 86400",
        )?;
        need(
            "drain_s",
            self.drain_s,
            self.drain_s <= 3_600,
            "from 0 to 3600",
        )?;
        for (key, value) in [
            ("governance_key", &self.governance_key),
            ("control_key", &self.control_key),
        ] {
            need(
                key,
                value,
                public_from_hex(value).is_ok(),
                "an Ed25519 public key, 64 hexadecimal digits and not all zero",
            )?;
        }
        Ok(())
    }

    fn check_ports(&self) -> Result<(), Bad> {
        let listeners = [
            ("outbound_listen", self.outbound_listen),
            ("inbound_listen", self.inbound_listen),
            ("admin_listen", self.admin_listen),
        ];
        for (at, (key, address)) in listeners.iter().enumerate() {
            let twice = address.port() != 0
                && listeners
                    .iter()
                    .skip(at + 1)
                    .any(|(_, other)| other == address);
            need(
                key,
                address,
                !twice,
                "an address that no other listener has",
            )?;
        }
        Ok(())
    }
}

fn need(
    key: &'static str,
    value: impl fmt::Display,
    holds: bool,
    expected: &'static str,
) -> Result<(), Bad> {
    if holds {
        Ok(())
    } else {
        Err(Bad {
            key,
            value: value.to_string(),
            expected,
        })
    }
}

/// Eight segment files would not fit into less.
const SPOOL_BYTES_MIN: u64 = 1 << 20;

mod defaults {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use counterfoil_entry::Hash;

    const fn loopback(port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
    }
    pub(super) const fn outbound_listen() -> SocketAddr {
        loopback(15_001)
    }
    pub(super) const fn inbound_listen() -> SocketAddr {
        loopback(15_006)
    }
    pub(super) const fn admin_listen() -> SocketAddr {
        loopback(15_020)
    }
    pub(super) fn collector() -> String {
        loopback(15_417).to_string()
    }
    pub(super) fn control() -> String {
        loopback(15_443).to_string()
    }
    pub(super) const fn workers() -> u16 {
        1
    }
    /// 1 GiB: at 500 bytes an entry and 1,000 calls a second more than half an hour without a
    /// collector.
    pub(super) const fn spool_bytes_max() -> u64 {
        1 << 30
    }
    pub(super) const fn request_timeout_s() -> u64 {
        30
    }
    pub(super) const fn drain_s() -> u64 {
        5
    }
    pub(super) const fn sha256() -> Hash {
        Hash([0; 32])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        format!(
            "spiffe_id = \"spiffe://bank.example/workload/payments\"\ninstance = \"a\"\n\
             app_address = \"127.0.0.1:8080\"\nroots_file = \"roots.pem\"\n\
             governance_key = \"{key}\"\ncontrol_key = \"{key}\"\n\
             state_dir = \"state\"\nspool_dir = \"spool\"\n",
            key = "0f".repeat(32)
        )
    }

    fn load(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("proxy.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(&file)
    }

    #[test]
    fn the_shortest_file_gives_loopback_listeners_and_the_hash_of_its_bytes() {
        let config = load(&text()).unwrap();
        assert_eq!(config.outbound_listen.to_string(), "127.0.0.1:15001");
        assert_eq!(config.inbound_listen.to_string(), "127.0.0.1:15006");
        assert_eq!(
            config.writer_name(),
            "spiffe://bank.example/workload/payments#a"
        );
        assert_eq!(config.sha256, tree::sha256(text().as_bytes()));
    }

    #[test]
    fn every_bad_value_is_refused_with_key_value_and_range() {
        let cases = [
            ("workers = 0", "workers = 0: must be from 1 to 64"),
            ("drain_s = 3601", "drain_s = 3601: must be from 0 to 3600"),
            (
                "request_timeout_s = 0",
                "request_timeout_s = 0: must be from 1 to 86400",
            ),
            (
                "spool_bytes_max = 5",
                "spool_bytes_max = 5: must be from 1048576",
            ),
            (
                "outbound_listen = \"0.0.0.0:1\"",
                "outbound_listen = 0.0.0.0:1: must be a loopback",
            ),
            (
                "admin_listen = \"127.0.0.1:15006\"",
                "inbound_listen = 127.0.0.1:15006: must be an",
            ),
            (
                "collector_spiffe_id = \"x\"",
                "collector_spiffe_id = x: must be a SPIFFE id",
            ),
            (
                "control = \"localhost\"",
                "control = localhost: must be host:port",
            ),
            ("colour = 1", "unknown field `colour`"),
            ("workers = \"two\"", "workers = \"two\""),
        ];
        for (line, expected) in cases {
            let message = load(&format!("{}{line}\n", text()))
                .unwrap_err()
                .to_string();
            assert!(message.contains(expected), "{line}: {message}");
            assert!(message.contains("proxy.toml"), "{line}: {message}");
        }
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        for key in ["zz".to_owned(), "00".repeat(32)] {
            let message = load(&text().replace(&"0f".repeat(32), &key))
                .unwrap_err()
                .to_string();
            let expected = format!("governance_key = {key}: must be an Ed25519 public key");
            assert!(message.contains(&expected), "{message}");
        }
    }
}

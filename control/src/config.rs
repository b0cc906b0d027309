//! Configuration of control: read, checked and refused before any port is bound.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::{Hash, tree};
use counterfoil_trust::SpiffeId;
use serde::Deserialize;

/// SPIFFE path of control in its trust domain.
pub(crate) const CONTROL_PATH: &str = "/counterfoil/control";
/// One hour is the shortest life for which renewal at half-life leaves time to repair anything; tests
/// and demonstrations may go down to ten seconds, of which a renewal has five.
const SVID_TTL_S_MIN: u64 = 10;
/// Revocation is by short life, so that a week is the longest.
const SVID_TTL_S_MAX: u64 = 604_800;
/// An `issuance` row takes about 400 bytes: 64 MiB hold 160,000 of them.
const SPOOL_BYTES_MAX: u64 = 64 << 20;
const SPOOL_BYTES_MIN: u64 = 1 << 20;
/// Bytes of the instance in a writer's name.
const INSTANCE_MAX: usize = 64;

/// Configuration of control.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    /// Trust domain of the estate, as in `bank.test`.
    pub trust_domain: String,
    /// Data directory; keys, the root certificate and versions stand in its folder `control`.
    pub data_dir: PathBuf,
    /// Where to listen; loopback port 15443 by default, port 0 takes a free one.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Who may come in by the door for people: `people.toml`. The door stays shut when absent.
    #[serde(default)]
    pub people_file: Option<PathBuf>,
    /// Where that door is; loopback port 15444 by default, port 0 takes a free one.
    #[serde(default = "default_people_listen")]
    pub people_listen: SocketAddr,
    /// Certificate chain of that door, PEM; plain HTTP, on loopback only, when absent.
    #[serde(default)]
    pub people_cert_file: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(default)]
    pub people_key_file: Option<PathBuf>,
    /// Name of this process among several of its SPIFFE id.
    #[serde(default = "default_instance")]
    pub instance: String,
    /// `host:port` of the collector's native receiver.
    pub collector: String,
    /// The collector's SPIFFE id; any workload of the trust domain when absent.
    #[serde(default)]
    pub collector_spiffe_id: Option<SpiffeId>,
    /// Spool root of this host.
    pub spool_dir: PathBuf,
    /// Largest size of the spool, bytes.
    #[serde(default = "default_spool_bytes_max")]
    pub spool_bytes_max: u64,
    /// Life of an SVID, seconds.
    #[serde(default = "default_svid_ttl_s")]
    pub svid_ttl_s: u64,
    /// Retention class of operations that name none.
    #[serde(default = "default_class")]
    pub default_class: String,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML of the expected keys.
    #[error("cannot use the configuration {file}: {reason}")]
    Form {
        /// The file.
        file: PathBuf,
        /// Line, key and reason, as the TOML reader gives them.
        reason: String,
    },
    /// A value is not accepted.
    #[error("{key} = {value} is not accepted: {accepted}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is accepted.
        accepted: String,
    },
}

impl ControlConfig {
    /// Reads and checks a TOML file.
    ///
    /// # Errors
    /// [`ConfigError`] with the key, its value and what is accepted.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Read {
            file: file.to_owned(),
            source,
        })?;
        let config: Self = toml::from_str(&text).map_err(|e| ConfigError::Form {
            file: file.to_owned(),
            reason: e.to_string().trim_end().to_owned(),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the first key that is not good.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, value: &dyn std::fmt::Display, accepted: &str| {
            Err(ConfigError::Value {
                key,
                value: value.to_string(),
                accepted: accepted.to_owned(),
            })
        };
        if let Err(error) = self.parsed_id() {
            return refuse("trust_domain", &self.trust_domain, &error.to_string());
        }
        if !(SVID_TTL_S_MIN..=SVID_TTL_S_MAX).contains(&self.svid_ttl_s) {
            return refuse("svid_ttl_s", &self.svid_ttl_s, "10 to 604800");
        }
        if self.spool_bytes_max < SPOOL_BYTES_MIN {
            return refuse("spool_bytes_max", &self.spool_bytes_max, "1048576 or more");
        }
        if RetentionClass::parse(&self.default_class).is_err() {
            return refuse(
                "default_class",
                &self.default_class,
                "permanent, or <name>_<n>d, m or y",
            );
        }
        let is_named = (1..=INSTANCE_MAX).contains(&self.instance.len());
        if !is_named || self.instance.contains(|c: char| !is_instance(c)) {
            return refuse("instance", &self.instance, "1 to 64 of a-z A-Z 0-9 . - _");
        }
        if self.people_cert_file.is_some() != self.people_key_file.is_some() {
            return refuse(
                "people_cert_file",
                &format!("{:?}", self.people_cert_file),
                "give both people_cert_file and people_key_file, or none",
            );
        }
        if !self.people_listen.ip().is_loopback() && self.people_cert_file.is_none() {
            return refuse(
                "people_listen",
                &self.people_listen,
                "outside of loopback it needs people_cert_file and people_key_file",
            );
        }
        if !is_host_port(&self.collector) {
            return refuse("collector", &self.collector, "host:port");
        }
        Ok(())
    }

    /// Control's own SPIFFE id.
    ///
    /// # Errors
    /// [`ConfigError::Value`] when the trust domain is none.
    pub fn spiffe_id(&self) -> Result<SpiffeId, ConfigError> {
        self.parsed_id().map_err(|error| ConfigError::Value {
            key: "trust_domain",
            value: self.trust_domain.clone(),
            accepted: error.to_string(),
        })
    }

    fn parsed_id(&self) -> Result<SpiffeId, counterfoil_trust::SpiffeIdError> {
        let id = SpiffeId::parse(&format!("spiffe://{}{CONTROL_PATH}", self.trust_domain))?;
        // A slash in the trust domain would move its tail into the path.
        if id.trust_domain() == self.trust_domain {
            Ok(id)
        } else {
            Err(counterfoil_trust::SpiffeIdError::TrustDomain)
        }
    }

    /// Folder of keys, root certificate and versions.
    pub(crate) fn control_dir(&self) -> PathBuf {
        self.data_dir.join("control")
    }

    /// SHA-256 over the values in use.
    pub(crate) fn sha256(&self) -> Hash {
        tree::sha256(format!("{self:?}").as_bytes())
    }
}

fn is_instance(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

/// Whether `text` is `host:port` with a port that can be connected to.
pub(crate) fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(|c: char| c.is_whitespace() || c == '/')
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 15443))
}

fn default_people_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 15444))
}

fn default_instance() -> String {
    "control-1".to_owned()
}

fn default_spool_bytes_max() -> u64 {
    SPOOL_BYTES_MAX
}

fn default_svid_ttl_s() -> u64 {
    86_400
}

pub(crate) fn default_class() -> String {
    "ops_90d".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
trust_domain = "bank.test"
data_dir = "/d"
collector = "127.0.0.1:15417"
spool_dir = "/s"
"#;

    fn load(text: &str) -> Result<ControlConfig, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("control.toml");
        std::fs::write(&file, text).unwrap();
        ControlConfig::load(&file)
    }

    #[test]
    fn defaults_are_on_loopback() {
        let config = load(GOOD).unwrap();
        assert!(config.listen.ip().is_loopback());
        assert_eq!(config.listen.port(), 15443);
        assert!(config.people_listen.ip().is_loopback() && config.people_file.is_none());
        assert_eq!(config.people_listen.port(), 15444);
        assert_eq!(
            config.spiffe_id().unwrap().as_str(),
            "spiffe://bank.test/counterfoil/control"
        );
    }

    #[test]
    fn a_bad_value_is_refused_with_its_key_and_what_is_accepted() {
        for (line, key) in [
            ("svid_ttl_s = 9", "svid_ttl_s"),
            ("svid_ttl_s = 604801", "svid_ttl_s"),
            ("spool_bytes_max = 1", "spool_bytes_max"),
            ("default_class = \"long\"", "default_class"),
            ("instance = \"a b\"", "instance"),
            ("listn = \"127.0.0.1:1\"", "listn"),
            ("listen = \"localhost\"", "listen"),
            ("people_listen = \"0.0.0.0:15444\"", "people_listen"),
            ("people_cert_file = \"/c.pem\"", "people_cert_file"),
            ("people_key_file = \"/c.key\"", "people_cert_file"),
        ] {
            let error = load(&format!("{GOOD}{line}\n")).unwrap_err().to_string();
            assert!(error.contains(key), "{line}: {error}");
        }
        for (from, to, key) in [
            ("bank.test", "Bank", "trust_domain"),
            ("bank.test", "bank/test", "trust_domain"),
            ("127.0.0.1:15417", "15417", "collector"),
            ("127.0.0.1:15417", "h:0", "collector"),
        ] {
            let error = load(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(error.starts_with(key), "{to}: {error}");
        }
    }
}

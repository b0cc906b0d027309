//! An estate on one machine: its keys, identities and the configurations of its roles, as files of one data directory.

mod config;
pub(crate) mod people;

use std::{
    fs::{self, File},
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use counterfoil_columns::directory::{DataDirectory, DirectoryError};
use counterfoil_entry::tree;
use counterfoil_ledger::note::LogKey;
use counterfoil_trust::{bundle::BundleKeys, scram::Verifier};
use rand::Rng as _;
use serde::{Deserialize, Serialize};

pub(crate) use config::ProxySpec;

/// User whose password is made with the estate.
pub(crate) const AUDITOR: &str = "auditor";
/// Roles that join with an SVID, beside control.
pub(crate) const ROLES: [&str; 3] = ["collector", "query", "retention"];
/// File in which the estate's own settings stand.
const SITE_FILE: &str = "site.toml";

/// What a new estate is made with; kept in `site.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) trust_domain: String,
    /// Log origin of its collector.
    pub(crate) origin: String,
    /// Seconds between two seals.
    pub(crate) seal_interval_s: u64,
    /// Life of an SVID (s).
    pub(crate) svid_ttl_s: u64,
    /// Members of the Alertmanager cluster that is told.
    #[serde(default)]
    pub(crate) alertmanagers: Vec<String>,
    /// Seconds between two evaluations of alerts.
    #[serde(default = "evaluate_s")]
    pub(crate) evaluate_s: u64,
    pub(crate) ports: RolePorts,
}

const fn evaluate_s() -> u64 {
    30
}

/// Where the roles listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RolePorts {
    /// Control, for workloads.
    pub(crate) control: SocketAddr,
    /// Control, for people.
    pub(crate) people: SocketAddr,
    pub(crate) collector: SocketAddr,
    pub(crate) postgres: SocketAddr,
    pub(crate) http: SocketAddr,
    /// Metrics of the collector; none without it.
    #[serde(default)]
    pub(crate) collector_admin: Option<SocketAddr>,
    /// For foreign systems; without them the collector listens for none.
    #[serde(default)]
    pub(crate) foreign: Option<ForeignPorts>,
}

/// Where the collector listens for OpenTelemetry exporters and Envoys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForeignPorts {
    pub(crate) otlp_grpc: SocketAddr,
    pub(crate) otlp_http: SocketAddr,
    pub(crate) als: SocketAddr,
}

impl std::fmt::Display for ForeignPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "OTLP traces: gRPC {}, HTTP http://{}/v1/traces  Envoy access logs: {}",
            self.otlp_grpc, self.otlp_http, self.als
        )
    }
}

impl RolePorts {
    /// How many they are.
    pub(crate) const COUNT: usize = 9;

    /// The documented ports, on loopback.
    pub(crate) const fn documented() -> Self {
        const fn loopback(port: u16) -> SocketAddr {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
        }
        Self {
            control: loopback(15_443),
            people: loopback(15_444),
            collector: loopback(15_417),
            postgres: loopback(15_432),
            http: loopback(15_480),
            collector_admin: Some(loopback(15_421)),
            foreign: Some(ForeignPorts {
                otlp_grpc: loopback(4317),
                otlp_http: loopback(4318),
                als: loopback(15_418),
            }),
        }
    }
}

/// The files of an estate.
#[derive(Debug)]
pub(crate) struct Site {
    root: PathBuf,
    pub(crate) settings: Settings,
    keys: counterfoil_control::Init,
}

/// Configurations that the roles are started with.
#[derive(Debug)]
pub(crate) struct RoleFiles {
    pub(crate) control: PathBuf,
    pub(crate) collector: PathBuf,
    pub(crate) query: PathBuf,
    /// Directory of the processes' logs.
    pub(crate) logs: PathBuf,
}

/// An identity that control gives an SVID to.
#[derive(Debug, Clone)]
pub(crate) struct Joining {
    /// Short name, by which applications call it.
    pub(crate) name: String,
    pub(crate) spiffe_id: String,
    /// SHA-256 of its join token, in hexadecimal digits.
    pub(crate) token_sha256: String,
}

impl Site {
    /// Prepares a data directory: one that was used before keeps its books, keys and people.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub(crate) fn prepare(data: &DataDirectory, settings: Settings) -> anyhow::Result<Self> {
        let root = data.root();
        for directory in [
            "config",
            "tokens",
            "state",
            "logs",
            "objectives",
            "collector",
            "spool",
        ] {
            let path = root.join(directory);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        }
        let keys = counterfoil_control::init(root, &settings.trust_domain)
            .context("making the certificate authority")?;
        let site = Self {
            root: root.to_owned(),
            settings,
            keys,
        };
        site.write("roots.pem", &site.keys.roots_pem)?;
        let log_key = site.log_key(data)?;
        site.write("policy.toml", &site.policy(&log_key))?;
        if !root.join("people.toml").exists() {
            write_secret(&root.join("people.toml"), "# counterfoil people add\n")?;
        }
        let text = toml::to_string(&site.settings).context("writing the estate's settings")?;
        site.write(SITE_FILE, &text)?;
        Ok(site)
    }

    /// The estate of a directory that [`Site::prepare`] has made.
    ///
    /// # Errors
    /// When there is none, or its files cannot be read.
    pub(crate) fn open(root: &Path) -> anyhow::Result<Self> {
        known_version(root)?;
        let file = root.join(SITE_FILE);
        let text = fs::read_to_string(&file).with_context(|| {
            format!(
                "reading {}; make an estate with `counterfoil init {}`",
                file.display(),
                root.display()
            )
        })?;
        let settings: Settings =
            toml::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
        let keys = counterfoil_control::init(root, &settings.trust_domain)
            .context("reading the certificate authority")?;
        let root = root
            .canonicalize()
            .with_context(|| format!("using {}", root.display()))?;
        Ok(Self {
            root,
            settings,
            keys,
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The keys by which bundles of this estate are believed.
    pub(crate) const fn bundle_keys(&self) -> BundleKeys {
        BundleKeys {
            governance: self.keys.governance_public,
            control: self.keys.control_public,
        }
    }

    /// Makes users and a password for the one who asks the books.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn renew_auditor(&self) -> anyhow::Result<String> {
        let password = password();
        let users = format!(
            "[[user]]\nname = \"{AUDITOR}\"\nrole = \"auditor\"\nverifier = {}\n",
            quoted(&Verifier::of_password(&password).to_string())
        );
        write_secret(&self.root.join("users.toml"), &users)?;
        Ok(password)
    }

    /// Writes the roles' configurations.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn write_roles(&self) -> anyhow::Result<RoleFiles> {
        self.write("config/retention.toml", &self.retention())?;
        if !self.root.join("classes.toml").exists() {
            self.write("classes.toml", config::CLASSES)?;
        }
        Ok(RoleFiles {
            control: self.write("config/control.toml", &self.control())?,
            collector: self.write("config/collector.toml", &self.collector())?,
            query: self.write("config/query.toml", &self.query())?,
            logs: self.root.join("logs"),
        })
    }

    /// The configurations that [`Site::write_roles`] has written.
    pub(crate) fn roles(&self) -> RoleFiles {
        let config = |role: &str| self.root.join("config").join(format!("{role}.toml"));
        RoleFiles {
            control: config("control"),
            collector: config("collector"),
            query: config("query"),
            logs: self.root.join("logs"),
        }
    }

    /// Collector, query and retention, each with a new join token.
    ///
    /// # Errors
    /// When a token cannot be written.
    pub(crate) fn joining_roles(&self) -> anyhow::Result<Vec<Joining>> {
        ROLES
            .iter()
            .map(|role| self.joining(&format!("counterfoil-{role}"), &self.role_id(role)))
            .collect()
    }

    /// A workload with a new join token.
    ///
    /// # Errors
    /// When the token cannot be written.
    pub(crate) fn joining(&self, name: &str, spiffe_id: &str) -> anyhow::Result<Joining> {
        let token = hex::encode(rand::rng().random::<[u8; 32]>());
        write_secret(&self.token_file(name), &token)?;
        Ok(Joining {
            name: name.to_owned(),
            spiffe_id: spiffe_id.to_owned(),
            token_sha256: tree::sha256(token.as_bytes()).to_string(),
        })
    }

    /// SPIFFE id of a workload of this estate.
    pub(crate) fn workload_id(&self, name: &str) -> String {
        format!("spiffe://{}/workload/{name}", self.settings.trust_domain)
    }

    /// SPIFFE id of a role of this estate.
    pub(crate) fn role_id(&self, role: &str) -> String {
        format!("spiffe://{}/counterfoil/{role}", self.settings.trust_domain)
    }

    /// Where the join token of a workload stands.
    pub(crate) fn token_file(&self, name: &str) -> PathBuf {
        self.root.join("tokens").join(name)
    }

    /// Writes a file below the data directory, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, below: &str, text: &str) -> anyhow::Result<PathBuf> {
        let file = self.root.join(below);
        write_whole(&file, text.as_bytes())
            .with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    /// The log's key, made at the first start.
    fn log_key(&self, data: &DataDirectory) -> anyhow::Result<LogKey> {
        let origin = &self.settings.origin;
        let file = self.root.join("collector").join("log.key");
        let reading = || format!("reading the log's key {}", file.display());
        if file.exists() {
            let pem = fs::read_to_string(&file).with_context(reading)?;
            return LogKey::from_pem(origin, &pem).with_context(reading);
        }
        if data.log(origin).is_dir() {
            bail!(
                "{} is not there, and the log {origin} was begun with its key: put that key back",
                file.display()
            );
        }
        let key = LogKey::generate(origin).context("making the log's key")?;
        write_secret(&file, &key.to_pem().context("writing the log's key")?)?;
        Ok(key)
    }
}

/// A new password: 96 random bits as hexadecimal digits.
pub(crate) fn password() -> String {
    hex::encode(rand::rng().random::<[u8; 12]>())
}

/// A TOML string.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Writes beside and renames, so that a half-written file is never read.
///
/// # Errors
/// What the file system says.
pub(crate) fn write_whole(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let staged = file.with_extension("new");
    fs::write(&staged, bytes)?;
    fs::rename(&staged, file)
}

/// Writes a file that only its owner may read.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_secret(file: &Path, text: &str) -> anyhow::Result<()> {
    let writing = || format!("writing {}", file.display());
    let staged = file.with_extension("new");
    let mut out = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&staged)
        .with_context(writing)?;
    out.write_all(text.as_bytes()).with_context(writing)?;
    fs::rename(&staged, file).with_context(writing)
}

/// Objectives to begin with: nearly all calls are answered, and most of them soon.
pub(crate) const OBJECTIVES: &str = r#"apiVersion: openslo/v1
kind: SLO
metadata:
  name: availability
spec:
  description: Of all calls, as many are answered without a server error
  service: "*"
  budgetingMethod: Occurrences
  timeWindow:
    - duration: 30d
      isRolling: true
  indicator:
    metadata:
      name: answered-calls
    spec:
      ratioMetric:
        counter: true
        good:
          metricSource:
            type: counterfoil
            spec:
              measure: answered_calls
        total:
          metricSource:
            type: counterfoil
            spec:
              measure: calls
  objectives:
    - displayName: answered
      target: 0.995
---
apiVersion: openslo/v1
kind: SLO
metadata:
  name: latency
spec:
  description: Of all calls, as many are answered within half a second
  service: "*"
  budgetingMethod: Occurrences
  timeWindow:
    - duration: 30d
      isRolling: true
  indicator:
    metadata:
      name: answered-in-time
    spec:
      thresholdMetric:
        metricSource:
          type: counterfoil
          spec:
            measure: duration_ms
  objectives:
    - displayName: within half a second
      op: lte
      value: 500
      target: 0.95
"#;
/// Refuses a data directory of a later version; there need not be one yet.
///
/// # Errors
/// With its file and both versions.
pub(crate) fn known_version(data_dir: &Path) -> Result<(), DirectoryError> {
    match DataDirectory::open(data_dir) {
        Ok(_) | Err(DirectoryError::NotOne(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

//! Writes what every process of the demo needs: keys, identities, catalogue, configurations, users, objectives, policy.

use std::{
    fs::{self, File},
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use counterfoil_columns::directory::DataDirectory;
use counterfoil_entry::tree;
use counterfoil_ledger::note::LogKey;
use counterfoil_trust::scram::Verifier;
use rand::Rng as _;

use super::{
    catalogue,
    checkpoints::write_whole,
    plan::{DRIVER, System},
    ports::Ports,
};

/// Trust domain of the demo.
pub(crate) const TRUST_DOMAIN: &str = "demo.counterfoil.test";
/// Log origin of the demo's collector.
pub(crate) const ORIGIN: &str = "demo.counterfoil.test/collector-1";
/// User whose password the demo prints.
pub(crate) const AUDITOR: &str = "auditor";
/// The demo seals often, so that an answer about sealed entries need not be waited for.
const SEAL_INTERVAL_S: u64 = 10;

/// An identity that control gives an SVID to.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Short name; last part of the identity.
    pub(crate) slug: String,
    pub(crate) spiffe_id: String,
    /// Where its proxy takes calls.
    pub(crate) address: Option<SocketAddr>,
    /// SHA-256 of its join token, in hexadecimal digits.
    pub(crate) token_sha256: String,
}

/// Files that the processes are started with.
#[derive(Debug)]
pub(crate) struct Provisioned {
    pub(crate) control: PathBuf,
    pub(crate) collector: PathBuf,
    pub(crate) query: PathBuf,
    /// Name and configuration of each proxy; the driver's is the last.
    pub(crate) proxies: Vec<(String, PathBuf)>,
    /// Directory of the processes' logs.
    pub(crate) logs: PathBuf,
    /// Password of the user [`AUDITOR`].
    pub(crate) password: String,
}

/// What the configurations are made from.
struct Site<'a> {
    root: &'a Path,
    ports: &'a Ports,
    keys: counterfoil_control::Init,
}

/// Prepares the data directory; one of an earlier demo keeps its books, keys and identities.
///
/// `apps` are the addresses of the services' applications and, last, of the driver's.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn provision(
    data: &DataDirectory,
    system: &System,
    ports: &Ports,
    apps: &[SocketAddr],
) -> anyhow::Result<Provisioned> {
    let root = data.root();
    for directory in [
        "config",
        "tokens",
        "state",
        "logs",
        "objectives",
        "catalogue",
        "collector",
        "spool",
    ] {
        let path = root.join(directory);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    }
    let keys = counterfoil_control::init(root, TRUST_DOMAIN)
        .context("making the certificate authority")?;
    write(root, "roots.pem", &keys.roots_pem)?;
    let site = Site { root, ports, keys };
    let (workloads, roles) = identities(&site, system)?;
    catalogue::write(&root.join("catalogue"), system, &workloads, &roles)?;
    let log_key = log_key(root, ORIGIN)?;
    write(root, "policy.toml", &policy(&site, &log_key))?;
    write(root, "objectives/demo.yaml", OBJECTIVES)?;
    let password = hex::encode(rand::rng().random::<[u8; 12]>());
    let verifier = Verifier::of_password(&password).to_string();
    let users = format!(
        "[[user]]\nname = \"{AUDITOR}\"\nrole = \"auditor\"\nverifier = {}\n",
        quoted(&verifier)
    );
    write_secret(&root.join("users.toml"), &users)?;
    let mut proxies = Vec::new();
    for ((workload, ports), app) in workloads.iter().zip(&ports.proxies).zip(apps) {
        let text = site.proxy(workload, ports, *app);
        let file = write(root, &format!("config/proxy-{}.toml", workload.slug), &text)?;
        proxies.push((workload.slug.clone(), file));
    }
    Ok(Provisioned {
        control: write(root, "config/control.toml", &site.control())?,
        collector: write(root, "config/collector.toml", &site.collector())?,
        query: write(root, "config/query.toml", &site.query())?,
        proxies,
        logs: root.join("logs"),
        password,
    })
}

/// The identities of the services and, last, of the driver; and those of the collector and query. Each with a new token.
fn identities(site: &Site<'_>, system: &System) -> anyhow::Result<(Vec<Workload>, Vec<Workload>)> {
    let mut workloads = Vec::new();
    let slugs = system
        .services
        .iter()
        .map(|service| service.slug.as_str())
        .chain([DRIVER]);
    for (slug, ports) in slugs.zip(&site.ports.proxies) {
        workloads.push(Workload {
            slug: slug.to_owned(),
            spiffe_id: format!("spiffe://{TRUST_DOMAIN}/workload/{slug}"),
            address: Some(ports.inbound),
            token_sha256: token(&site.token_file(slug))?,
        });
    }
    let mut roles = Vec::new();
    for role in ["collector", "query"] {
        roles.push(Workload {
            slug: format!("counterfoil-{role}"),
            spiffe_id: role_id(role),
            address: None,
            token_sha256: token(&site.token_file(&format!("counterfoil-{role}")))?,
        });
    }
    Ok((workloads, roles))
}

fn role_id(role: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/counterfoil/{role}")
}

/// Makes a join token and returns its hash.
fn token(file: &Path) -> anyhow::Result<String> {
    let token = hex::encode(rand::rng().random::<[u8; 32]>());
    write_secret(file, &token)?;
    Ok(tree::sha256(token.as_bytes()).to_string())
}

/// The log's key, made at the first start.
pub(crate) fn log_key(root: &Path, origin: &str) -> anyhow::Result<LogKey> {
    let file = root.join("collector").join("log.key");
    let reading = || format!("reading the log's key {}", file.display());
    if file.exists() {
        let pem = fs::read_to_string(&file).with_context(reading)?;
        return LogKey::from_pem(origin, &pem).with_context(reading);
    }
    let key = LogKey::generate(origin).context("making the log's key")?;
    write_secret(&file, &key.to_pem().context("writing the log's key")?)?;
    Ok(key)
}

fn policy(site: &Site<'_>, key: &LogKey) -> String {
    format!(
        "# Whose books these are. Keep a copy of this file where the keepers of the books cannot change it.\n\
         # With `freshness_s = 86400`, books whose newest manifest is older than a day do not verify: so a cut tail is found\n\
         # without a saved checkpoint, and with --complete the verdict is \"complete\".\n\
         origins = [{}]\nlog_keys = [{}]\ntrust_roots = \"\"\"\n{}\"\"\"\n",
        quoted(ORIGIN),
        quoted(&key.verifier().to_string()),
        site.keys.roots_pem,
    )
}

impl Site<'_> {
    fn path(&self, below: &str) -> String {
        quoted(&self.root.join(below).display().to_string())
    }

    fn token_file(&self, slug: &str) -> PathBuf {
        self.root.join("tokens").join(slug)
    }

    fn identity(&self, role: &str) -> String {
        format!(
            "[identity]\nspiffe_id = {}\ncontrol = \"{}\"\nroots_pem_file = {}\njoin_token_file = {}\nstate_dir = {}\n",
            quoted(&role_id(role)),
            self.ports.control,
            self.path("roots.pem"),
            self.path(&format!("tokens/counterfoil-{role}")),
            self.path(&format!("state/counterfoil-{role}")),
        )
    }

    fn control(&self) -> String {
        format!(
            "data_dir = {}\ncatalogue_dir = {}\ntrust_domain = \"{TRUST_DOMAIN}\"\nlisten = \"{}\"\ncollector = \"{}\"\n\
             collector_spiffe_id = \"{}\"\nspool_dir = {}\n",
            self.path(""),
            self.path("catalogue"),
            self.ports.control,
            self.ports.collector,
            role_id("collector"),
            self.path("spool"),
        )
    }

    fn collector(&self) -> String {
        format!(
            "data_dir = {}\norigin = \"{ORIGIN}\"\nlisten = \"{}\"\nlog_key_file = {}\n\
             seal_interval_s = {SEAL_INTERVAL_S}\n\n{}",
            self.path(""),
            self.ports.collector,
            self.path("collector/log.key"),
            self.identity("collector"),
        )
    }

    fn query(&self) -> String {
        format!(
            "data_dir = {}\npostgres_listen = \"{}\"\nhttp_listen = \"{}\"\nusers_file = {}\nobjectives_dir = {}\n\
             collector = \"{}\"\ncollector_spiffe_id = \"{}\"\nspool_dir = {}\nsite = \"demo\"\n\n{}",
            self.path(""),
            self.ports.postgres,
            self.ports.http,
            self.path("users.toml"),
            self.path("objectives"),
            self.ports.collector,
            role_id("collector"),
            self.path("spool"),
            self.identity("query"),
        )
    }

    fn proxy(
        &self,
        workload: &Workload,
        ports: &super::ports::ProxyPorts,
        app: SocketAddr,
    ) -> String {
        format!(
            "spiffe_id = {}\ninstance = \"demo-1\"\noutbound_listen = \"{}\"\ninbound_listen = \"{}\"\nadmin_listen = \"{}\"\n\
             app_address = \"{app}\"\ncollector = \"{}\"\ncollector_spiffe_id = \"{}\"\ncontrol = \"{}\"\nroots_file = {}\n\
             join_token_file = {}\ngovernance_key = \"{}\"\ncontrol_key = \"{}\"\nstate_dir = {}\nspool_dir = {}\n\
             site = \"demo\"\nzone = \"loopback\"\ndie_with_parent = true\n",
            quoted(&workload.spiffe_id),
            ports.outbound,
            ports.inbound,
            ports.admin,
            self.ports.collector,
            role_id("collector"),
            self.ports.control,
            self.path("roots.pem"),
            quoted(&self.token_file(&workload.slug).display().to_string()),
            hex::encode(self.keys.governance_public),
            hex::encode(self.keys.control_public),
            self.path(&format!("state/{}", workload.slug)),
            self.path("spool"),
        )
    }
}

/// A TOML string.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn write(root: &Path, below: &str, text: &str) -> anyhow::Result<PathBuf> {
    let file = root.join(below);
    write_whole(&file, text.as_bytes()).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

/// Writes a file that only its owner may read.
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

/// What the demo promises: nearly all calls are answered, and most of them soon.
const OBJECTIVES: &str = r#"apiVersion: openslo/v1
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

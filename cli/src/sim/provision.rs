//! What control, collector and fleet of a simulation are started with.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use counterfoil_columns::directory::DataDirectory;
use counterfoil_entry::{clock, tree};
use counterfoil_estate::{Estate, Workload};
use counterfoil_spool::join::IdentityConfig;
use counterfoil_trust::{bundle::BundleKeys, scram::Verifier};
use rand::Rng as _;
use serde_json::{Value, json};

use crate::{
    client::Server,
    demo::{
        ports,
        provision::{log_key, quoted, write_secret},
    },
    people::Door,
};

/// Trust domain of the simulation.
pub(super) const TRUST_DOMAIN: &str = "sim.counterfoil.test";
const ORIGIN: &str = "sim.counterfoil.test/collector-1";
const COLLECTOR: &str = "spiffe://sim.counterfoil.test/counterfoil/collector";
/// Who imports, moves and revokes.
const PERSON: &str = "sim@sim.counterfoil.test";

/// A provisioned directory, and where its processes listen.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    workloads_door: SocketAddr,
    people_door: SocketAddr,
    collector: SocketAddr,
    password: String,
    keys: BundleKeys,
    _held: Vec<TcpListener>,
}

/// Prepares a new directory. Gives also the body by which control gets the estate and learns the join
/// tokens of its workloads and of the collector.
///
/// # Errors
/// When a file cannot be written, or no port is free.
pub(super) fn provision(root: &Path, estate: &Estate) -> anyhow::Result<(Place, Value)> {
    let (found, held) = ports::free(3)?;
    let [workloads_door, people_door, collector] = found[..] else {
        anyhow::bail!("three ports are needed");
    };
    let data = DataDirectory::create(root.to_owned()).context("making the data directory")?;
    let root = data.root();
    for folder in [
        "logs",
        "tokens",
        "state",
        "spool",
        "fleet-spool",
        "collector",
    ] {
        let path = root.join(folder);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    }
    let init = counterfoil_control::init(root, TRUST_DOMAIN)
        .context("making the certificate authority")?;
    log_key(root, ORIGIN)?;
    let place = Place {
        root: root.to_owned(),
        workloads_door,
        people_door,
        collector,
        password: hex::encode(rand::rng().random::<[u8; 16]>()),
        keys: BundleKeys {
            governance: init.governance_public,
            control: init.control_public,
        },
        _held: held,
    };
    place.write("roots.pem", &init.roots_pem)?;
    place.write("control.toml", &place.control())?;
    place.write("collector.toml", &place.collector_config())?;
    write_secret(&root.join("people.toml"), &place.people(estate))?;
    let import = place.import(estate)?;
    Ok((place, import))
}

impl Place {
    /// The configuration of a role.
    pub(super) fn config(&self, role: &str) -> PathBuf {
        self.root.join(format!("{role}.toml"))
    }

    /// The log of a role.
    pub(super) fn log(&self, role: &str) -> PathBuf {
        self.root.join("logs").join(format!("{role}.log"))
    }

    /// Where a role listens last, so that it can be used.
    pub(super) fn listens(&self, role: &str) -> SocketAddr {
        match role {
            "control" => self.people_door,
            _ => self.collector,
        }
    }

    /// `host:port` of control for workloads.
    pub(super) fn control_address(&self) -> String {
        self.workloads_door.to_string()
    }

    /// The keys by which bundles are believed.
    pub(super) const fn keys(&self) -> BundleKeys {
        self.keys
    }

    /// Spool root of the fleet.
    pub(super) fn fleet_spool(&self) -> PathBuf {
        self.root.join("fleet-spool")
    }

    /// Control's door for people.
    ///
    /// # Errors
    /// When control does not listen.
    pub(super) async fn door(&self) -> anyhow::Result<Door> {
        let server = Server {
            encrypted: false,
            host: self.people_door.ip().to_string(),
            port: self.people_door.port(),
            user: Some(PERSON.to_owned()),
            password: Some(self.password.clone()),
        };
        Ok(Door::connect(&server, None).await?)
    }

    /// How a workload joins.
    pub(super) fn identity(&self, spiffe_id: &str, name: &str) -> IdentityConfig {
        IdentityConfig {
            spiffe_id: spiffe_id.to_owned(),
            control: self.control_address(),
            control_spiffe_id: None,
            roots_pem_file: self.root.join("roots.pem"),
            join_token_file: Some(self.root.join("tokens").join(name)),
            state_dir: self.root.join("state").join(name),
        }
    }

    fn write(&self, below: &str, text: &str) -> anyhow::Result<()> {
        let file = self.root.join(below);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
    }

    fn path(&self, below: &str) -> String {
        quoted(&self.root.join(below).display().to_string())
    }

    fn control(&self) -> String {
        format!(
            "trust_domain = \"{TRUST_DOMAIN}\"\ndata_dir = {}\nlisten = \"{}\"\npeople_listen = \"{}\"\npeople_file = {}\n\
             collector = \"{}\"\ncollector_spiffe_id = \"{COLLECTOR}\"\nspool_dir = {}\n",
            self.path(""),
            self.workloads_door,
            self.people_door,
            self.path("people.toml"),
            self.collector,
            self.path("spool"),
        )
    }

    fn collector_config(&self) -> String {
        format!(
            "data_dir = {}\norigin = \"{ORIGIN}\"\nlisten = \"{}\"\nlog_key_file = {}\nseal_interval_s = 10\n\n\
             [identity]\nspiffe_id = \"{COLLECTOR}\"\ncontrol = \"{}\"\nroots_pem_file = {}\njoin_token_file = {}\n\
             state_dir = {}\n",
            self.path(""),
            self.collector,
            self.path("collector/log.key"),
            self.workloads_door,
            self.path("roots.pem"),
            self.path("tokens/counterfoil-collector"),
            self.path("state/counterfoil-collector"),
        )
    }

    /// One person, of all teams: the simulation revokes grants on any API.
    fn people(&self, estate: &Estate) -> String {
        let verifier = Verifier::of_password(&self.password).to_string();
        let teams: Vec<_> = estate.teams.iter().map(|team| quoted(&team.name)).collect();
        format!(
            "[[person]]\nname = \"{PERSON}\"\nverifier = {}\nadmin = true\nteams = [{}]\n",
            quoted(&verifier),
            teams.join(", ")
        )
    }

    fn import(&self, estate: &Estate) -> anyhow::Result<Value> {
        let mut failed = None;
        let mut import = estate.import(clock::wall(), |workload: &Workload| {
            self.token(&workload.name)
                .map_err(|error| failed = Some(error))
                .ok()
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let collector = json!({
            "spiffe_id": COLLECTOR, "name": "counterfoil-collector", "app": "counterfoil",
            "team": "counterfoil", "addresses": [],
            "join_token_sha256": self.token("counterfoil-collector")?,
        });
        if let Some(workloads) = import.get_mut("workloads").and_then(Value::as_array_mut) {
            workloads.push(collector);
        }
        Ok(import)
    }

    /// Makes a join token and gives its hash.
    fn token(&self, name: &str) -> anyhow::Result<String> {
        let token = hex::encode(rand::rng().random::<[u8; 32]>());
        write_secret(&self.root.join("tokens").join(name), &token)?;
        Ok(tree::sha256(token.as_bytes()).to_string())
    }
}

#[cfg(test)]
mod tests {
    use counterfoil_estate::Size;

    use super::*;

    #[test]
    fn every_workload_and_the_collector_get_a_token_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let estate = Estate::generate(&Size::of_workloads(12), 1, TRUST_DOMAIN);
        let (place, import) = provision(directory.path(), &estate).unwrap();
        let workloads = import["workloads"].as_array().unwrap();
        assert_eq!(workloads.len(), 13);
        let mut hashes = std::collections::HashSet::new();
        for workload in workloads {
            let identity = place.identity("", workload["name"].as_str().unwrap());
            let token = fs::read_to_string(identity.join_token_file.unwrap()).unwrap();
            let hash = tree::sha256(token.as_bytes()).to_string();
            assert_eq!(workload["join_token_sha256"], hash.as_str());
            assert!(hashes.insert(hash));
        }
        let people: toml::Table = fs::read_to_string(directory.path().join("people.toml"))
            .unwrap()
            .parse()
            .unwrap();
        let teams = people["person"][0]["teams"].as_array().unwrap();
        assert_eq!(teams.len(), estate.teams.len());
    }
}

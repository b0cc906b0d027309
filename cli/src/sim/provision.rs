//! What control, collector and fleet of a simulation are started with.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use counterfoil_columns::directory::DataDirectory;
use counterfoil_entry::clock;
use counterfoil_estate::{Estate, Workload};
use counterfoil_spool::join::IdentityConfig;
use counterfoil_trust::bundle::BundleKeys;
use serde_json::Value;

use crate::{
    client::Server,
    demo::ports,
    init,
    people::Door,
    site::{RolePorts, Settings, Site, people},
};

/// Trust domain of the simulation.
pub(super) const TRUST_DOMAIN: &str = "sim.counterfoil.test";
const ORIGIN: &str = "sim.counterfoil.test/collector-1";
/// Who imports, moves and revokes.
const PERSON: &str = "sim@sim.counterfoil.test";

/// A provisioned directory, and where its processes listen.
#[derive(Debug)]
pub(super) struct Place {
    site: Site,
    password: String,
    _held: Vec<TcpListener>,
}

/// Prepares a new directory. Gives also the body by which control gets the estate and learns the join
/// tokens of its workloads and of the roles.
///
/// # Errors
/// When a file cannot be written, or no port is free.
pub(super) fn provision(root: &Path, estate: &Estate) -> anyhow::Result<(Place, Value)> {
    let (found, held) = ports::free(5)?;
    let [control, people, collector, postgres, http] = found[..] else {
        anyhow::bail!("five ports are needed");
    };
    let data = DataDirectory::create(root.to_owned()).context("making the data directory")?;
    let settings = Settings {
        trust_domain: TRUST_DOMAIN.to_owned(),
        origin: ORIGIN.to_owned(),
        seal_interval_s: 10,
        svid_ttl_s: 86_400,
        ports: RolePorts {
            control,
            people,
            collector,
            postgres,
            http,
            collector_admin: None,
            foreign: None,
        },
        alertmanagers: Vec::new(),
        evaluate_s: 30,
    };
    let site = Site::prepare(&data, settings)?;
    let spool = site.root().join("fleet-spool");
    fs::create_dir_all(&spool).with_context(|| format!("making {}", spool.display()))?;
    // One person, of all teams: the simulation revokes grants on any API.
    let teams: Vec<_> = estate.teams.iter().map(|team| team.name.clone()).collect();
    let password = people::add(site.root(), PERSON, &teams, true)?;
    site.write_roles()?;
    let place = Place {
        site,
        password,
        _held: held,
    };
    let import = place.import(estate)?;
    Ok((place, import))
}

impl Place {
    /// The configuration of a role.
    pub(super) fn config(&self, role: &str) -> PathBuf {
        let files = self.site.roles();
        match role {
            "control" => files.control,
            _ => files.collector,
        }
    }

    /// The log of a role.
    pub(super) fn log(&self, role: &str) -> PathBuf {
        self.site.roles().logs.join(format!("{role}.log"))
    }

    /// Where a role listens last, so that it can be used.
    pub(super) fn listens(&self, role: &str) -> SocketAddr {
        let ports = &self.site.settings.ports;
        match role {
            "control" => ports.people,
            _ => ports.collector,
        }
    }

    /// `host:port` of control for workloads.
    pub(super) fn control_address(&self) -> String {
        self.site.settings.ports.control.to_string()
    }

    /// The keys by which bundles are believed.
    pub(super) const fn keys(&self) -> BundleKeys {
        self.site.bundle_keys()
    }

    /// Spool root of the fleet.
    pub(super) fn fleet_spool(&self) -> PathBuf {
        self.site.root().join("fleet-spool")
    }

    /// Control's door for people.
    ///
    /// # Errors
    /// When control does not listen.
    pub(super) async fn door(&self) -> anyhow::Result<Door> {
        let address = self.site.settings.ports.people;
        let server = Server {
            encrypted: false,
            host: address.ip().to_string(),
            port: address.port(),
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
            roots_pem_file: self.site.root().join("roots.pem"),
            join_token_file: Some(self.site.token_file(name)),
            state_dir: self.site.root().join("state").join(name),
        }
    }

    fn import(&self, estate: &Estate) -> anyhow::Result<Value> {
        let mut failed = None;
        let mut import = estate.import(clock::wall(), |workload: &Workload| {
            let joining = self.site.joining(&workload.name, &workload.spiffe_id);
            joining
                .map(|joining| joining.token_sha256)
                .map_err(|error| failed = Some(error))
                .ok()
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let roles = self.site.joining_roles()?;
        if let Some(workloads) = import.get_mut("workloads").and_then(Value::as_array_mut) {
            workloads.extend(roles.iter().map(|role| init::workload(role, "platform")));
        }
        Ok(import)
    }
}

#[cfg(test)]
mod tests {
    use counterfoil_entry::tree;
    use counterfoil_estate::Size;

    use super::*;

    #[test]
    fn every_workload_and_role_gets_a_token_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let estate = Estate::generate(&Size::of_workloads(12), 1, TRUST_DOMAIN);
        let (place, import) = provision(directory.path(), &estate).unwrap();
        let workloads = import["workloads"].as_array().unwrap();
        assert_eq!(workloads.len(), 12 + crate::site::ROLES.len());
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

//! The texts of an estate's configurations.

use std::{net::SocketAddr, path::Path};

use counterfoil_ledger::note::LogKey;

use super::{Site, quoted};

/// How long classes are kept, to begin with.
pub(super) const CLASSES: &str = r#"# How long each class is kept, why, and who answers for it. A class without a rule never ends.
[class.sox_7y]
days   = 2557
reason = "SOX section 802: audit records, seven years"
owner  = "finance"

[class.audit_7y]
days   = 2557
reason = "evidence about the mesh itself, as long as what it is about"
owner  = "security"

[class.ops_13m]
days   = 396
reason = "a year of availability and the month before it"
owner  = "platform"

[class.pci_12m]
days   = 365
reason = "PCI DSS 10.5.1: audit logs, twelve months"
owner  = "cards"

[class.sec_1y]
days   = 365
reason = "refused handshakes: a year of attempts"
owner  = "security"

[class.ops_90d]
days   = 90
reason = "operations"
owner  = "platform"

# Rows in a scope are kept at least as its class: the longest wins.
[scope]
sox = "sox_7y"
pci = "pci_12m"
"#;

/// What is particular to one proxy.
#[derive(Debug)]
pub(crate) struct ProxySpec<'a> {
    /// Name of its workload.
    pub(crate) name: &'a str,
    pub(crate) spiffe_id: &'a str,
    pub(crate) instance: &'a str,
    pub(crate) outbound: SocketAddr,
    pub(crate) inbound: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) app: SocketAddr,
    /// Ends with the process that started it.
    pub(crate) die_with_parent: bool,
}

impl Site {
    pub(super) fn policy(&self, key: &LogKey) -> String {
        format!(
            "# Whose books these are. Keep a copy of this file where the keepers of the books cannot change it.\n\
             # With `freshness_s = 86400`, books whose newest manifest is older than a day do not verify: so a cut tail is found\n\
             # without a saved checkpoint, and with --complete the verdict is \"complete\".\n\
             origins = [{}]\nlog_keys = [{}]\ntrust_roots = \"\"\"\n{}\"\"\"\n",
            quoted(&self.settings.origin),
            quoted(&key.verifier().to_string()),
            self.keys.roots_pem,
        )
    }

    pub(super) fn control(&self) -> String {
        let settings = &self.settings;
        format!(
            "data_dir = {}\ntrust_domain = {}\nlisten = \"{}\"\npeople_listen = \"{}\"\npeople_file = {}\ncollector = \"{}\"\n\
             collector_spiffe_id = {}\nspool_dir = {}\nsvid_ttl_s = {}\n",
            self.path(""),
            quoted(&settings.trust_domain),
            settings.ports.control,
            settings.ports.people,
            self.path("people.toml"),
            settings.ports.collector,
            quoted(&self.role_id("collector")),
            self.path("spool"),
            settings.svid_ttl_s,
        )
    }

    pub(super) fn collector(&self) -> String {
        let settings = &self.settings;
        let admin = settings.ports.collector_admin;
        let admin = admin.map(|admin| format!("admin_listen = \"{admin}\"\n"));
        format!(
            "data_dir = {}\norigin = {}\nlisten = \"{}\"\n{}log_key_file = {}\nseal_interval_s = {}\n\n{}{}",
            self.path(""),
            quoted(&settings.origin),
            settings.ports.collector,
            admin.unwrap_or_default(),
            self.path("collector/log.key"),
            settings.seal_interval_s,
            self.identity("collector"),
            self.foreign(),
        )
    }

    fn foreign(&self) -> String {
        self.settings.ports.foreign.map_or_else(String::new, |ports| {
            format!(
                "\n[otlp]\ngrpc_listen = \"{}\"\nhttp_listen = \"{}\"\n\n[als]\nlisten = \"{}\"\n",
                ports.otlp_grpc, ports.otlp_http, ports.als
            )
        })
    }

    pub(super) fn query(&self) -> String {
        let ports = &self.settings.ports;
        let alertmanagers = self.settings.alertmanagers.iter();
        let alertmanagers: Vec<String> = alertmanagers.map(|url| quoted(url)).collect();
        format!(
            "data_dir = {}\npostgres_listen = \"{}\"\nhttp_listen = \"{}\"\nusers_file = {}\nobjectives_dir = {}\n\
             collector = \"{}\"\ncollector_spiffe_id = {}\nspool_dir = {}\n\n{}\n[alerts]\nalertmanagers = [{}]\nevery_s = {}\n",
            self.path(""),
            ports.postgres,
            ports.http,
            self.path("users.toml"),
            self.path("objectives"),
            ports.collector,
            quoted(&self.role_id("collector")),
            self.path("spool"),
            self.identity("query"),
            alertmanagers.join(", "),
            self.settings.evaluate_s,
        )
    }

    pub(super) fn retention(&self) -> String {
        format!(
            "data_dir = {}\norigin = {}\nlog_key_file = {}\nclasses_file = {}\ncollector = \"{}\"\ncollector_spiffe_id = {}\n\
             spool_dir = {}\n\n{}",
            self.path(""),
            quoted(&self.settings.origin),
            self.path("collector/log.key"),
            self.path("classes.toml"),
            self.settings.ports.collector,
            quoted(&self.role_id("collector")),
            self.path("spool"),
            self.identity("retention"),
        )
    }

    /// The configuration of one proxy of this estate.
    pub(crate) fn proxy(&self, spec: &ProxySpec<'_>) -> String {
        let ports = &self.settings.ports;
        format!(
            "spiffe_id = {}\ninstance = {}\noutbound_listen = \"{}\"\ninbound_listen = \"{}\"\nadmin_listen = \"{}\"\n\
             app_address = \"{}\"\ncollector = \"{}\"\ncollector_spiffe_id = {}\ncontrol = \"{}\"\nroots_file = {}\n\
             join_token_file = {}\ngovernance_key = \"{}\"\ncontrol_key = \"{}\"\nstate_dir = {}\nspool_dir = {}\n\
             die_with_parent = {}\n",
            quoted(spec.spiffe_id),
            quoted(spec.instance),
            spec.outbound,
            spec.inbound,
            spec.admin,
            spec.app,
            ports.collector,
            quoted(&self.role_id("collector")),
            ports.control,
            self.path("roots.pem"),
            file(&self.token_file(spec.name)),
            hex::encode(self.keys.governance_public),
            hex::encode(self.keys.control_public),
            self.path(&format!("state/{}", spec.name)),
            self.path("spool"),
            spec.die_with_parent,
        )
    }

    fn identity(&self, role: &str) -> String {
        format!(
            "[identity]\nspiffe_id = {}\ncontrol = \"{}\"\nroots_pem_file = {}\njoin_token_file = {}\nstate_dir = {}\n",
            quoted(&self.role_id(role)),
            self.settings.ports.control,
            self.path("roots.pem"),
            file(&self.token_file(&format!("counterfoil-{role}"))),
            self.path(&format!("state/counterfoil-{role}")),
        )
    }

    fn path(&self, below: &str) -> String {
        file(&self.root.join(below))
    }
}

fn file(path: &Path) -> String {
    quoted(&path.display().to_string())
}

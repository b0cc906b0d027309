//! Makes an estate: keys, the first people, and the configurations of its roles.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};
use counterfoil_columns::directory::DataDirectory;
use counterfoil_control::offline::Desk;
use counterfoil_trust::SpiffeId;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    args::{InitArgs, PortChoice, ProxyConfigArgs},
    console::{line, word},
    demo::ports,
    exit::{Failure, OK, Outcome},
    site::{AUDITOR, Joining, OBJECTIVES, ProxySpec, RolePorts, Settings, Site, people},
};

/// Who is written down for what is done with the data directory itself.
pub(crate) const OPERATOR: &str = "operator";
/// Person who may register workloads and import anything.
const ADMIN: &str = "admin";

/// Runs `counterfoil init`.
pub(crate) fn run(args: &InitArgs) -> Outcome {
    let directory = &args.directory;
    if directory.join("site.toml").exists() {
        let error = anyhow::anyhow!(
            "{} holds an estate already; start it with `counterfoil up {0}`",
            word(directory)
        );
        return Err(Failure::configuration(error));
    }
    let site = make(directory, args).map_err(Failure::configuration)?;
    let auditor = site.renew_auditor()?;
    let admin = people::add(site.root(), ADMIN, &[], true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(seed(&site, Vec::new()))?;
    let root = word(site.root());
    line(format_args!(
        "{root} holds an estate of trust domain {domain}.\n\
         passwords, which are kept nowhere: {ADMIN} (people's door) {admin}   {AUDITOR} (SQL) {auditor}\n\n\
         next:\n  counterfoil people add tom --team payments --data-dir {root}\n  counterfoil up {root}",
        domain = site.settings.trust_domain,
    ));
    Ok(OK)
}

fn make(directory: &Path, args: &InitArgs) -> anyhow::Result<Site> {
    let domain = &args.trust_domain;
    SpiffeId::parse(&format!("spiffe://{domain}/workload/x"))
        .with_context(|| format!("using the trust domain {domain:?}"))?;
    let using = || format!("using the data directory {}", directory.display());
    fs::create_dir_all(directory).with_context(using)?;
    let path = directory.canonicalize().with_context(using)?;
    let data = DataDirectory::create(path).with_context(using)?;
    let settings = Settings {
        origin: format!("{}/collector-1", args.trust_domain),
        trust_domain: args.trust_domain.clone(),
        seal_interval_s: 30,
        svid_ttl_s: 86_400,
        ports: match args.ports {
            PortChoice::Default => RolePorts::documented(),
            PortChoice::Auto => ports::free_roles()?,
        },
        alertmanagers: args.alertmanagers.clone(),
        evaluate_s: 30,
    };
    let site = Site::prepare(&data, settings)?;
    site.write("objectives/default.yaml", OBJECTIVES)?;
    site.write_roles()?;
    Ok(site)
}

/// Registers collector and query, and whatever `estate` holds, on a directory on which nothing runs.
///
/// # Errors
/// When control runs on it, or something is refused.
pub(crate) async fn seed(site: &Site, workloads: Vec<Value>) -> anyhow::Result<Desk> {
    let desk = Desk::begin(site.root(), OPERATOR, &site.settings.trust_domain)
        .context("opening the governance state")?;
    let roles = site.joining_roles()?;
    let roles = roles.iter().map(|role| workload(role, "platform"));
    let body = json!({ "workloads": roles.chain(workloads).collect::<Vec<_>>() });
    import(&desk, body).await?;
    Ok(desk)
}

/// A workload as the people's door takes it.
pub(crate) fn workload(joining: &Joining, team: &str) -> Value {
    json!({
        "spiffe_id": joining.spiffe_id,
        "name": joining.name,
        "app": joining.name,
        "team": team,
        "join_token_sha256": joining.token_sha256,
    })
}

/// Brings in a part of an estate.
///
/// # Errors
/// What control would say of it.
pub(crate) async fn import(desk: &Desk, body: Value) -> anyhow::Result<()> {
    let (status, answer) = desk.ask(Method::POST, "/v1/import", Some(body)).await;
    if status == StatusCode::OK || status == StatusCode::CREATED {
        return Ok(());
    }
    let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
    bail!(
        "the estate is refused: {} {}",
        text("field"),
        text("detail")
    );
}

/// Runs `counterfoil proxy-config`.
pub(crate) fn proxy_config(args: &ProxyConfigArgs) -> Outcome {
    let site = Site::open(&args.data_dir).map_err(Failure::configuration)?;
    let spec = ProxySpec {
        name: &args.name,
        spiffe_id: &site.workload_id(&args.name),
        instance: "1",
        outbound: args.outbound,
        inbound: args.inbound,
        admin: args.admin,
        app: args.app,
        die_with_parent: false,
    };
    let token = site.token_file(&args.name);
    let file = site.write(
        &format!("config/proxy-{}.toml", args.name),
        &site.proxy(&spec),
    )?;
    let root = word(site.root());
    let (token, file) = (word(&token), word(&file));
    line(format_args!(
        "wrote {file}\nits join token is taken from {token}; register the workload with:\n  \
         counterfoil workload add {id} --team TEAM --address {inbound} --token-file {token} --url http://{ADMIN}@{people}\n\
         then start it (with the data directory {root}):\n  counterfoil-proxy --config {file}",
        id = spec.spiffe_id,
        inbound = args.inbound,
        people = site.settings.ports.people,
    ));
    Ok(OK)
}

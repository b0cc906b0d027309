//! Writes what every process of the demo needs, and brings its estate into the governance state.

use std::{collections::HashSet, net::SocketAddr};

use anyhow::Context as _;
use counterfoil_columns::directory::DataDirectory;
use counterfoil_control::offline::Desk;
use http::Method;
use serde_json::{Value, json};

use super::{
    catalogue,
    plan::{DRIVER, System},
    ports::Ports,
    shop,
};
use crate::{
    args::DemoArgs,
    init,
    site::{OBJECTIVES, ProxySpec, RoleFiles, Settings, Site, people},
};

/// Nobody waits half a minute for the breach that the demo shows.
const EVALUATE_S: u64 = 3;
/// Trust domain of the demo.
pub(crate) const TRUST_DOMAIN: &str = "demo.counterfoil.test";
/// Log origin of the demo's collector.
pub(crate) const ORIGIN: &str = "demo.counterfoil.test/collector-1";
/// The demo seals often, so that an answer about sealed entries need not be waited for.
const SEAL_INTERVAL_S: u64 = 10;
/// Who asks for grants in the demo.
pub(crate) const REQUESTER: &str = "ines";
/// Who owns the demo's APIs, and so decides.
pub(crate) const APPROVER: &str = "tom";

/// Files that the processes are started with.
#[derive(Debug)]
pub(crate) struct Provisioned {
    pub(crate) site: Site,
    pub(crate) roles: RoleFiles,
    /// Name and configuration of each proxy; the driver's is the last.
    pub(crate) proxies: Vec<(String, std::path::PathBuf)>,
    /// Password of the user who asks the books.
    pub(crate) password: String,
    /// Passwords of those who ask for grants and decide.
    pub(crate) requester: String,
    pub(crate) approver: String,
}

/// Prepares the data directory; one of an earlier demo keeps its books, keys and identities.
///
/// `apps` are the addresses of the services' applications and, last, of the driver's.
///
/// # Errors
/// When a file cannot be written, or the estate is refused.
pub(crate) async fn provision(
    data: &DataDirectory,
    system: &System,
    ports: &Ports,
    apps: &[SocketAddr],
    args: &DemoArgs,
) -> anyhow::Result<Provisioned> {
    let settings = Settings {
        trust_domain: TRUST_DOMAIN.to_owned(),
        origin: ORIGIN.to_owned(),
        seal_interval_s: SEAL_INTERVAL_S,
        svid_ttl_s: args.svid_ttl.as_secs(),
        ports: ports.roles,
        alertmanagers: args.alertmanagers.clone(),
        evaluate_s: EVALUATE_S,
    };
    let site = Site::prepare(data, settings)?;
    let of_shop = if args.replay.is_none() {
        shop::OBJECTIVES
    } else {
        ""
    };
    site.write("objectives/demo.yaml", &format!("{OBJECTIVES}{of_shop}"))?;
    let password = site.renew_auditor()?;
    let teams = catalogue::teams(system);
    let requester = people::add(site.root(), REQUESTER, &[], false)?;
    let approver = people::add(site.root(), APPROVER, &teams, false)?;
    let (mut proxies, mut workloads) = (Vec::new(), Vec::new());
    let slugs = system
        .services
        .iter()
        .map(|service| service.slug.as_str())
        .chain([DRIVER]);
    for ((slug, ports), app) in slugs.zip(&ports.proxies).zip(apps) {
        let joining = site.joining(slug, &site.workload_id(slug))?;
        let spec = ProxySpec {
            name: slug,
            spiffe_id: &joining.spiffe_id,
            instance: "demo-1",
            outbound: ports.outbound,
            inbound: ports.inbound,
            admin: ports.admin,
            app: *app,
            die_with_parent: true,
        };
        let file = site.write(&format!("config/proxy-{slug}.toml"), &site.proxy(&spec))?;
        proxies.push((slug.to_owned(), file));
        workloads.push(catalogue::workload(system, &joining, ports.inbound));
    }
    let desk = init::seed(&site, workloads).await?;
    let held = held(&desk).await;
    let grants = catalogue::grants(system);
    let grants: Vec<_> = grants
        .into_iter()
        .filter(|grant| !held.contains(&key(&site, grant)))
        .collect();
    let apis = catalogue::apis(system)?;
    init::import(&desk, json!({ "apis": apis, "grants": grants }))
        .await
        .context("bringing in the demo's catalogue")?;
    if let Some(workloads) = args.estate {
        let body = further(workloads);
        init::import(&desk, body)
            .await
            .context("bringing in the further estate")?;
    }
    drop(desk);
    Ok(Provisioned {
        roles: site.write_roles()?,
        site,
        proxies,
        password,
        requester,
        approver,
    })
}

/// Consumer, API and operations of the grants that an earlier demo has left in force.
async fn held(desk: &Desk) -> HashSet<String> {
    let (_, answer) = desk
        .ask(Method::GET, "/v1/grants?state=approved", None)
        .await;
    let grants = answer.get("grants").and_then(Value::as_array);
    let key = |grant: &Value| {
        let of = |field: &str| grant.get(field).map(Value::to_string).unwrap_or_default();
        format!("{} {} {}", of("consumer"), of("api"), of("operations"))
    };
    grants.into_iter().flatten().map(key).collect()
}

/// As [`held`] names a grant that is to be brought in.
fn key(site: &Site, grant: &Value) -> String {
    let of = |field: &str| grant.get(field).map(Value::to_string).unwrap_or_default();
    let consumer = grant.get("consumer").and_then(Value::as_str);
    let consumer = Value::from(site.workload_id(consumer.unwrap_or_default()));
    format!("{consumer} {} {}", of("api"), of("operations"))
}

/// A synthetic bank beside the demo's services, always the same.
fn further(workloads: usize) -> Value {
    let now = counterfoil_entry::clock::wall();
    counterfoil_estate::import_body(workloads, 1, TRUST_DOMAIN, now)
}

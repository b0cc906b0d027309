//! The demo's catalogue: an OpenAPI document for each service, its workloads, and grants approved by somebody else.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::Context as _;
use counterfoil_entry::{Time, clock};
use serde_json::{Map, Value, json};

use super::{
    checkpoints::write_whole,
    plan::{Caller, DRIVER, System},
    provision::{Workload, quoted},
};

/// Grants of the demo last for a year.
const GRANT_NS: i64 = 365 * 86_400 * 1_000_000_000;
const VERSION: &str = "1.0.0";

/// Writes `apis/`, `workloads.toml` and `grants.toml`.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write(
    directory: &Path,
    system: &System,
    workloads: &[Workload],
    roles: &[Workload],
) -> anyhow::Result<()> {
    let apis = directory.join("apis");
    // Documents of an earlier demo of other services would name workloads that are no more.
    if apis.exists() {
        fs::remove_dir_all(&apis).with_context(|| format!("emptying {}", apis.display()))?;
    }
    fs::create_dir_all(&apis).with_context(|| format!("making {}", apis.display()))?;
    for (index, service) in system.services.iter().enumerate() {
        let file = apis.join(format!("{}.json", service.slug));
        let text = serde_json::to_string_pretty(&document(system, index))?;
        write_whole(&file, text.as_bytes())
            .with_context(|| format!("writing {}", file.display()))?;
    }
    let files = [
        ("workloads.toml", workloads_text(system, workloads, roles)),
        ("grants.toml", grants_text(system, workloads)?),
    ];
    for (name, text) in files {
        let file = directory.join(name);
        write_whole(&file, text.as_bytes())
            .with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// The OpenAPI document of one service: its operations under their recorded names.
fn document(system: &System, service: usize) -> Value {
    let Some(of) = system.services.get(service) else {
        return Value::Null;
    };
    let mut paths = Map::new();
    for operation in system
        .operations
        .iter()
        .filter(|operation| operation.service == service)
    {
        let post = json!({
            "operationId": operation.endpoint,
            "responses": { "200": { "description": "done" } },
        });
        paths.insert(operation.path.clone(), json!({ "post": post }));
    }
    let (class, scopes) = retention(&of.name);
    json!({
        "openapi": "3.0.3",
        "info": { "title": of.name, "version": VERSION },
        "x-counterfoil": { "service": of.slug, "class": class, "scopes": scopes },
        "paths": paths,
    })
}

/// Orders and payments are kept as the law of accounts wants it, the rest for a season.
fn retention(service: &str) -> (&'static str, &'static [&'static str]) {
    let name = service.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    if has(&["payment", "pay-"]) {
        ("sox_7y", &["sox", "pci"])
    } else if has(&["checkout", "order"]) {
        ("sox_7y", &["sox"])
    } else {
        ("ops_90d", &[])
    }
}

fn workloads_text(system: &System, workloads: &[Workload], roles: &[Workload]) -> String {
    let mut text = String::new();
    for workload in workloads.iter().chain(roles) {
        let service = system
            .services
            .iter()
            .find(|service| service.slug == workload.slug);
        let app = service.map_or(workload.slug.as_str(), |service| service.name.as_str());
        let team = if service.is_some() {
            format!("team {app}")
        } else {
            "platform".to_owned()
        };
        let _written = writeln!(
            text,
            "[[workload]]\nspiffe_id = {}\nname = {}\napp = {}\nteam = {}\nsite = \"demo\"\nzone = \"loopback\"",
            quoted(&workload.spiffe_id),
            quoted(&workload.slug),
            quoted(app),
            quoted(&team),
        );
        if let (Some(address), Some(service)) = (workload.address, service) {
            let _written = writeln!(
                text,
                "addresses = [\"{address}\"]\napis = [{}]",
                quoted(&service.name)
            );
        }
        let _written = writeln!(text, "join_token_sha256 = \"{}\"\n", workload.token_sha256);
    }
    text
}

/// One grant for each caller and service, over the operations that it calls.
fn grants_text(system: &System, workloads: &[Workload]) -> anyhow::Result<String> {
    let mut granted: BTreeMap<(Caller, usize), Vec<&str>> = BTreeMap::new();
    for (caller, operation) in &system.calls {
        if let Some(operation) = system.operations.get(*operation) {
            granted
                .entry((*caller, operation.service))
                .or_default()
                .push(&operation.endpoint);
        }
    }
    let today = clock::wall();
    let (from, until) = (
        Time::from_ns(today.as_ns() - 86_400_000_000_000),
        Time::from_ns(today.as_ns() + GRANT_NS),
    );
    let mut text = String::new();
    for (number, ((caller, service), operations)) in granted.into_iter().enumerate() {
        let slug = system.slug(caller);
        let consumer = workloads
            .iter()
            .find(|workload| workload.slug == slug)
            .with_context(|| format!("{slug} calls others and has no identity"))?;
        let Some(service) = system.services.get(service) else {
            continue;
        };
        let names: Vec<_> = operations.into_iter().map(quoted).collect();
        let purpose = if slug == DRIVER {
            "begins the traces"
        } else {
            "serves its own callers"
        };
        let _written = writeln!(
            text,
            "[[grant]]\nid = \"G-{:04}\"\nconsumer = {}\napi = {}\noperations = [{}]\npurpose = {}\nticket = \"DEMO-{}\"\n\
             requested_by = \"ines@demo.counterfoil.test\"\napproved_by = \"tom@demo.counterfoil.test\"\n\
             not_before = \"{from}\"\nexpires = \"{until}\"\n",
            number + 1,
            quoted(&consumer.spiffe_id),
            quoted(&service.name),
            names.join(", "),
            quoted(purpose),
            number + 1,
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::shop::Shop;

    #[test]
    fn an_operation_keeps_its_name_letter_for_letter() {
        let mut system = System::default();
        let service = system.service("ts-order-service");
        let endpoint = "POST  /api/v1/\"orders\"/{id}\\é";
        system.operation(service, endpoint);
        let document = document(&system, service);
        let (path, item) = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .next()
            .unwrap();
        assert_eq!(item["post"]["operationId"], endpoint);
        assert!(path.starts_with("/op/post-api-v1-orders-id"), "{path}");
        assert_eq!(document["x-counterfoil"]["class"], "sox_7y");
    }

    #[test]
    fn grants_cover_what_is_called_and_nothing_else() {
        let (system, _) = Shop::open(1);
        let workload = |slug: &str| Workload {
            slug: slug.to_owned(),
            spiffe_id: format!("spiffe://d/workload/{slug}"),
            address: None,
            token_sha256: String::new(),
        };
        let mut workloads: Vec<_> = system.services.iter().map(|s| workload(&s.slug)).collect();
        workloads.push(workload(DRIVER));
        let text = grants_text(&system, &workloads).unwrap();
        let grants: toml::Table = text.parse().unwrap();
        let grants = grants["grant"].as_array().unwrap();
        let covered: usize = grants
            .iter()
            .map(|g| g["operations"].as_array().unwrap().len())
            .sum();
        assert_eq!(covered, system.calls.len());
        assert!(grants.iter().all(|g| g["requested_by"] != g["approved_by"]));
    }
}

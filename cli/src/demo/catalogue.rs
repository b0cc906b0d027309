//! The demo's catalogue: an OpenAPI document for each service, its workloads, and grants approved by somebody else.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::Context as _;
use counterfoil_entry::{Time, clock};
use serde_json::{Map, Value, json};

use super::{
    plan::{Caller, DRIVER, System},
    provision::{APPROVER, REQUESTER},
};
use crate::site::Joining;

/// Grants of the demo last for a year.
const GRANT_NS: i64 = 365 * 86_400 * 1_000_000_000;
const VERSION: &str = "1.0.0";

/// The teams that own the services.
pub(crate) fn teams(system: &System) -> Vec<String> {
    system.services.iter().map(|one| team(&one.name)).collect()
}

fn team(service: &str) -> String {
    format!("team {service}")
}

/// The documents of all services, as the people's door takes them.
///
/// # Errors
/// When a document cannot be written as JSON.
pub(crate) fn apis(system: &System) -> anyhow::Result<Vec<Value>> {
    let import = |(index, service): (usize, &super::plan::Service)| {
        let text = serde_json::to_string_pretty(&document(system, index))
            .context("writing the document of a service")?;
        Ok(json!({
            "document": text,
            "file": format!("{}.json", service.slug),
            "owner_team": team(&service.name),
            "ticket": "DEMO-0",
        }))
    };
    system.services.iter().enumerate().map(import).collect()
}

/// A workload of the demo, as the people's door takes it.
pub(crate) fn workload(system: &System, joining: &Joining, address: SocketAddr) -> Value {
    let service = system
        .services
        .iter()
        .find(|service| service.slug == joining.name);
    let app = service.map_or(joining.name.as_str(), |service| service.name.as_str());
    let team = service.map_or_else(|| "platform".to_owned(), |service| team(&service.name));
    json!({
        "spiffe_id": joining.spiffe_id,
        "name": joining.name,
        "app": app,
        "team": team,
        "site": "demo",
        "zone": "loopback",
        "addresses": [address.to_string()],
        "join_token_sha256": joining.token_sha256,
    })
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

/// One grant for each caller and service, over the operations that it calls.
pub(crate) fn grants(system: &System) -> Vec<Value> {
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
    let until = Time::from_ns(today.as_ns() + GRANT_NS);
    let grant =
        |(number, ((caller, service), operations)): (usize, ((Caller, usize), Vec<&str>))| {
            let service = system.services.get(service)?;
            let slug = system.slug(caller);
            let purpose = if slug == DRIVER {
                "begins the traces"
            } else {
                "serves its own callers"
            };
            Some(json!({
                "consumer": slug,
                "api": service.name,
                "operations": operations,
                "purpose": purpose,
                "ticket": format!("DEMO-{}", number + 1),
                "expires": until.to_string(),
                "requested_by": REQUESTER,
                "approved_by": APPROVER,
            }))
        };
    granted.into_iter().enumerate().filter_map(grant).collect()
}

#[cfg(test)]
mod tests {
    use counterfoil_control::offline::Desk;
    use http::Method;

    use super::*;
    use crate::{
        demo::{provision::TRUST_DOMAIN, shop::Shop},
        init::{self, OPERATOR},
        site::ROLES,
    };

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

    #[tokio::test]
    async fn services_of_any_name_are_taken_beside_the_demo_s_own_workloads() {
        let directory = tempfile::tempdir().unwrap();
        let desk = Desk::begin(directory.path(), OPERATOR, TRUST_DOMAIN).unwrap();
        let joining = |name: &str, path: &str| Joining {
            name: name.to_owned(),
            spiffe_id: format!("spiffe://{TRUST_DOMAIN}/{path}"),
            token_sha256: "07".repeat(32),
        };
        let mut workloads: Vec<_> = ROLES
            .iter()
            .map(|role| {
                joining(
                    &format!("counterfoil-{role}"),
                    &format!("counterfoil/{role}"),
                )
            })
            .map(|role| init::workload(&role, "platform"))
            .collect();
        let mut system = System::default();
        let names = [
            "counterfoil-query",
            "counterfoil-collector",
            "counterfoil-control",
            "control",
            "collector",
            "driver",
            "Driver",
            "operator",
            "(no name)",
            "a b",
            "a/b",
            "\u{fc}ber",
            "x.y",
        ];
        for name in names {
            let service = system.service(name);
            let operation = system.operation(service, "GET /a");
            system.calls.insert((Caller::Driver, operation));
        }
        let slugs = system.services.iter().map(|service| service.slug.clone());
        for (slug, port) in slugs.chain([DRIVER.to_owned()]).zip(1..) {
            let joining = joining(&slug, &format!("workload/{slug}"));
            workloads.push(workload(
                &system,
                &joining,
                SocketAddr::from(([127, 0, 0, 1], port)),
            ));
        }
        let count = workloads.len();
        let body = json!({
            "workloads": workloads, "apis": apis(&system).unwrap(), "grants": grants(&system),
        });
        init::import(&desk, body).await.unwrap();
        let (_, known) = desk.ask(Method::GET, "/v1/workloads", None).await;
        assert_eq!(known["workloads"].as_array().unwrap().len(), count);
    }

    #[test]
    fn grants_cover_what_is_called_and_nothing_else() {
        let (system, _) = Shop::open(1);
        let grants = grants(&system);
        let covered: usize = grants
            .iter()
            .map(|grant| grant["operations"].as_array().unwrap().len())
            .sum();
        assert_eq!(covered, system.calls.len());
        assert!(
            grants
                .iter()
                .all(|grant| grant["requested_by"] != grant["approved_by"])
        );
    }
}

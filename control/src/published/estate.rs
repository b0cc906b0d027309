//! Estates in memory for tests: a small bank and one of full size, and what a spool holds of them.

use std::path::Path;
use std::sync::Arc;

use counterfoil_entry::frame::FrameReader;
use counterfoil_entry::{Time, clock, tree};
use counterfoil_trust::SpiffeId;
use counterfoil_trust::bundle::{Access, ApiRights, OperationRights};

use crate::catalogue::{Api, Catalogue, GrantRule, GrantState, WorkloadRule};
use crate::fixture::{LEDGER, PORTAL, TOKEN};

const DAY_NS: i64 = 86_400 * 1_000_000_000;

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

pub(crate) fn workload(spiffe_id: &str) -> WorkloadRule {
    let name = spiffe_id.rsplit('/').next().unwrap();
    WorkloadRule {
        spiffe_id: id(spiffe_id),
        name: name.to_owned(),
        app: name.to_owned(),
        team: "core".to_owned(),
        site: Some("fra1".to_owned()),
        zone: None,
        addresses: vec!["127.0.0.1:17101".to_owned()],
        join_token_sha256: Some(tree::sha256(TOKEN.as_bytes())),
        revision: 1,
    }
}

pub(crate) fn api(name: &str, server: &str, access: Access, operations: &[&str]) -> Api {
    let operation = |name: &&str| OperationRights {
        operation: (*name).to_owned(),
        method: "GET".to_owned(),
        route: format!("/{}", name.trim_start_matches("GET /")),
        scopes: vec![],
        retention_class: "ops_30d".to_owned(),
        open: false,
    };
    Api {
        rights: ApiRights {
            api: name.to_owned(),
            api_version: "1".to_owned(),
            protocol: None,
            access,
            operations: operations.iter().map(operation).collect(),
        },
        server: Some(id(server)),
    }
}

pub(crate) fn grant(name: &str, consumer: &str, api: &str, operations: &[&str]) -> GrantRule {
    GrantRule {
        id: name.to_owned(),
        consumer: id(consumer),
        api: api.to_owned(),
        operations: operations.iter().map(|o| (*o).to_owned()).collect(),
        not_before: None,
        expires: in_days(365),
        state: GrantState::Approved,
        revocation_proposed: false,
    }
}

/// Whole days from the beginning of this one, so that the same call gives the same point in time.
pub(crate) fn in_days(days: i64) -> Time {
    let today = clock::wall().as_ns().div_euclid(DAY_NS);
    Time::from_ns((today + days) * DAY_NS)
}

/// `ledger` serves `accounts`; `portal` may list and show them, and not close them.
pub(crate) fn small(access: Access) -> Catalogue {
    let mut catalogue = Catalogue::default();
    for spiffe_id in [LEDGER, PORTAL] {
        catalogue.put_workload(Arc::new(workload(spiffe_id)));
    }
    let operations = ["list", "GET /show", "close"];
    catalogue.put_api(api("accounts", LEDGER, access, &operations));
    catalogue.put_grant(grant("g-1", PORTAL, "accounts", &["list", "GET /show"]));
    catalogue
}

pub(crate) fn number(at: usize) -> String {
    format!("spiffe://bank.test/workload/w-{at}")
}

/// A bank: 1,700 workloads, 2,200 APIs of 6 operations, 6 grants for each workload.
pub(crate) fn bank() -> Catalogue {
    const WORKLOADS: usize = 1_700;
    const APIS: usize = 2_200;
    let mut catalogue = Catalogue::default();
    for at in 0..WORKLOADS {
        catalogue.put_workload(Arc::new(workload(&number(at))));
    }
    let operations: Vec<_> = (0..6).map(|at| format!("operation-{at}")).collect();
    let operations: Vec<_> = operations.iter().map(String::as_str).collect();
    for at in 0..APIS {
        let server = number(at % WORKLOADS);
        let name = format!("api-{at}");
        catalogue.put_api(api(&name, &server, Access::Bundle, &operations));
    }
    for at in 0..WORKLOADS {
        for other in 1..=6 {
            let name = format!("g-{at}-{other}");
            let api = format!("api-{}", (at + other * 331) % APIS);
            catalogue.put_grant(grant(&name, &number(at), &api, &operations[..3]));
        }
    }
    catalogue
}

/// What the spool holds of one table, each as R.
pub(crate) fn spooled(spool: &Path, table: &str) -> Vec<Vec<u8>> {
    let (mut found, mut folders) = (Vec::new(), vec![spool.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.starts_with(&format!("{table}.")) {
                let bytes = std::fs::read(&path).unwrap();
                let frames = FrameReader::new(&bytes[8..]);
                found.extend(frames.map(|frame| frame.payload.to_vec()));
            }
        }
    }
    found
}

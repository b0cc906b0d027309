//! The bundles of the throw-away world: what its caller may call, and whom it believes to call.

use std::net::SocketAddr;

use counterfoil_entry::clock;
use counterfoil_trust::bundle::{
    Access, ApiRights, Consumer, Endpoints, Grant, Instances, OperationRights, PeerRights, Rights,
    TokenKey, TokenRules, Workload,
};
use counterfoil_trust::token::issuer;
use counterfoil_trust::{SpiffeId, SpiffeIdError};

use super::{CALLEE, CALLER, TRUST_DOMAIN};

pub(super) const TOKEN_API: &str = "conform-tokens";
pub(super) const TOKEN_OPERATION: &str = "echoByToken";
pub(super) const TOKEN_ROUTE: &str = "/conform/token";
/// The one token that was taken back.
pub(super) const REVOKED: &str = "revoked-by-conform";
const API: &str = "conform";
const IMPOSTOR: &str = "spiffe://conform.test/workload/impostor";
const CLASS: &str = "ops_90d";

/// What the bundles name.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) callee: SocketAddr,
    pub(super) impostor: SocketAddr,
    pub(super) token_key: TokenKey,
}

fn operation(operation: &str, method: &str, route: &str) -> OperationRights {
    OperationRights {
        operation: operation.to_owned(),
        method: method.to_owned(),
        route: route.to_owned(),
        scopes: Vec::new(),
        retention_class: CLASS.to_owned(),
        open: false,
    }
}

fn apis() -> Vec<ApiRights> {
    vec![
        ApiRights {
            api: API.to_owned(),
            api_version: "1".to_owned(),
            protocol: None,
            access: Access::Bundle,
            operations: vec![
                operation("echo", "GET", "/conform/echo/{id}"),
                operation("upload", "POST", "/conform/upload"),
                operation("secret", "GET", "/conform/secret"),
                operation("reset", "GET", "/conform/reset"),
                operation("hang", "GET", "/conform/hang"),
                operation("shadow", "GET", "/conform/shadow"),
            ],
        },
        ApiRights {
            api: TOKEN_API.to_owned(),
            api_version: "1".to_owned(),
            protocol: None,
            access: Access::Token,
            operations: vec![operation(TOKEN_OPERATION, "GET", TOKEN_ROUTE)],
        },
    ]
}

fn grants(operations: &[&str]) -> Result<Vec<Grant>, SpiffeIdError> {
    let consumer = SpiffeId::parse(CALLER)?;
    Ok(operations
        .iter()
        .map(|operation| Grant {
            grant_id: format!("grant-{operation}"),
            consumer: consumer.clone(),
            api: API.to_owned(),
            operation: (*operation).to_owned(),
            not_before: None,
            expires: None,
        })
        .collect())
}

fn workload(name: &str) -> Workload {
    Workload {
        app: name.to_owned(),
        team: "conform".to_owned(),
        site: None,
        zone: None,
    }
}

fn empty(id: &SpiffeId, name: &str) -> Rights {
    Rights {
        version: 1,
        audience: id.clone(),
        issued_at: clock::wall(),
        workload: workload(name),
        apis: Vec::new(),
        grants: Vec::new(),
        candidate: None,
        tokens: None,
        consumers: Vec::new(),
        peers: Vec::new(),
        default_class: CLASS.to_owned(),
    }
}

/// What the workload under test may be asked, by whom, and what a candidate would change of it.
pub(super) fn callee(places: &Places) -> Result<(Rights, Endpoints), SpiffeIdError> {
    let id = SpiffeId::parse(CALLEE)?;
    let rights = Rights {
        apis: apis(),
        grants: grants(&["echo", "upload", "reset", "hang", "shadow"])?,
        candidate: Some(grants(&["echo", "upload", "reset", "hang", "secret"])?),
        tokens: Some(TokenRules {
            issuer: issuer(TRUST_DOMAIN),
            keys: vec![places.token_key.clone()],
            revoked: vec![REVOKED.to_owned()],
        }),
        consumers: vec![Consumer {
            spiffe_id: SpiffeId::parse(CALLER)?,
            app: "caller".to_owned(),
            team: "conform".to_owned(),
        }],
        ..empty(&id, "callee")
    };
    let endpoints = Endpoints {
        version: 1,
        audience: id,
        instances: Vec::new(),
    };
    Ok((rights, endpoints))
}

/// Whom the caller's proxy reaches: the workload under test, and one at whose place somebody else is.
pub(super) fn caller(places: &Places) -> Result<(Rights, Endpoints), SpiffeIdError> {
    let id = SpiffeId::parse(CALLER)?;
    let peers = [
        ("callee", CALLEE, places.callee),
        ("impostor", IMPOSTOR, places.impostor),
    ];
    let mut rights = empty(&id, "caller");
    let mut instances = Vec::new();
    for (name, peer, address) in peers {
        let spiffe_id = SpiffeId::parse(peer)?;
        rights.peers.push(PeerRights {
            name: name.to_owned(),
            spiffe_id: spiffe_id.clone(),
            app: name.to_owned(),
            team: "conform".to_owned(),
            apis: apis(),
        });
        instances.push(Instances {
            name: name.to_owned(),
            spiffe_id,
            addresses: vec![address.to_string()],
        });
    }
    let endpoints = Endpoints {
        version: 1,
        audience: id,
        instances,
    };
    Ok((rights, endpoints))
}

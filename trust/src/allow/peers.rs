//! The outbound side: which declared dependency a host name means, and which of its operations a request is.

use std::collections::HashMap;
use std::sync::Arc;

use super::routes::{Found, Routes};
use super::{AllowError, Operation, Reason};
use crate::SpiffeId;
use crate::bundle::Bundle;

/// A declared dependency.
#[derive(Debug)]
pub struct Peer {
    /// The host name by which applications call it.
    pub name: Arc<str>,
    /// Whom its instances must prove to be.
    pub spiffe_id: SpiffeId,
    /// Its application.
    pub app: Arc<str>,
    /// Its team.
    pub team: Arc<str>,
    /// `host:port` of each instance; empty when control knows none.
    pub addresses: Arc<[Arc<str>]>,
    routes: Routes,
}

impl Peer {
    /// The operation that a request is, or why it is none.
    ///
    /// # Errors
    /// [`Reason::PathAmbiguous`], [`Reason::RouteUnknown`] or [`Reason::MethodNotDeclared`].
    pub fn operation(&self, method: &str, path: &str) -> Result<Arc<Operation>, Reason> {
        match self.routes.find(method, path) {
            Found::Operation(_, operation) => Ok(Arc::clone(operation)),
            Found::Nothing(reason) => Err(reason),
        }
    }
}

/// All declared dependencies of one workload.
#[derive(Debug, Default)]
pub struct Peers(HashMap<String, Arc<Peer>>);

impl Peers {
    /// Compiles the outbound side of a bundle.
    ///
    /// # Errors
    /// [`AllowError`] names the first element that is not good. Instances of a peer that the rights
    /// do not hold, or under another identity, are such: endpoints cannot widen rights.
    pub fn compile(bundle: &Bundle) -> Result<Self, AllowError> {
        let mut peers = HashMap::new();
        for rights in &bundle.rights.peers {
            let instances = bundle
                .endpoints
                .instances
                .iter()
                .filter(|i| i.name == rights.name);
            let mut addresses = Vec::new();
            for instance in instances {
                if instance.spiffe_id != rights.spiffe_id {
                    return Err(AllowError::Peer(rights.name.clone()));
                }
                addresses.extend(instance.addresses.iter().map(|a| Arc::from(a.as_str())));
            }
            let peer = Peer {
                name: rights.name.as_str().into(),
                spiffe_id: rights.spiffe_id.clone(),
                app: rights.app.as_str().into(),
                team: rights.team.as_str().into(),
                addresses: addresses.into(),
                routes: Routes::compile(&rights.apis)?,
            };
            if peers
                .insert(rights.name.to_ascii_lowercase(), Arc::new(peer))
                .is_some()
            {
                return Err(AllowError::Peer(rights.name.clone()));
            }
        }
        let stray = bundle.endpoints.instances.iter();
        match stray
            .map(|i| &i.name)
            .find(|n| !peers.contains_key(&n.to_ascii_lowercase()))
        {
            Some(name) => Err(AllowError::Peer(name.clone())),
            None => Ok(Self(peers)),
        }
    }

    /// The dependency that a Host or authority names; letter case and the port are not looked at.
    pub fn find(&self, host: &str) -> Option<&Arc<Peer>> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        self.0
            .get(name)
            .or_else(|| self.0.get(&name.to_ascii_lowercase()))
    }

    /// Every dependency, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.0.values()
    }
}

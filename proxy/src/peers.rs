//! One worker's connections to other proxies: one for each instance, kept open and shared.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use counterfoil_entry::Hash;
use counterfoil_trust::allow::Peer;
use counterfoil_trust::{Expect, Identity, Svid, client_config};
use rustls::ClientConfig;

use crate::failure::Failure;
use crate::link::{Dialled, Link, Slot};
use crate::transport::connect_to_proxy;

/// The connections of one worker, by SPIFFE id and address.
#[derive(Debug)]
pub(crate) struct PeerLinks {
    identity: Identity,
    known: Mutex<HashMap<String, Destination>>,
}

#[derive(Debug)]
struct Destination {
    /// The SVID that `tls` shows.
    own: Arc<Svid>,
    tls: Arc<ClientConfig>,
    slots: HashMap<Arc<str>, Arc<Slot>>,
    turn: usize,
}

/// One instance to try: its address, its place, and how to prove who it is.
struct Candidate {
    address: Arc<str>,
    slot: Arc<Slot>,
    own: Arc<Svid>,
    tls: Arc<ClientConfig>,
}

impl PeerLinks {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            known: Mutex::new(HashMap::new()),
        }
    }

    /// A connection to an instance of `peer`. Instances take turns; one that cannot be reached is
    /// passed over, which no request has noticed yet.
    ///
    /// A token goes only over a connection under the certificate `bound_to`: an older connection is
    /// replaced, when a new one would be under that certificate. The caller compares.
    pub(crate) async fn link(
        &self,
        peer: &Peer,
        bound_to: Option<Hash>,
    ) -> Result<(Link, Option<Dialled>), Failure> {
        let mut first_failure = None;
        let current = self.identity.current().cert_sha256();
        let only = bound_to.filter(|cert| *cert == current);
        // the turn is this call's own: another call that begins meanwhile must not move it
        let turn = self.next_turn(peer);
        for at in 0..peer.addresses.len() {
            let Some(candidate) = self.candidate(peer, turn.wrapping_add(at)) else {
                break;
            };
            let Candidate {
                address,
                slot,
                own,
                tls,
            } = &candidate;
            let dial = || connect_to_proxy(address, Arc::clone(tls), own);
            match slot.link(only, dial).await {
                Ok(link) => {
                    // a token that is bound to the certificate before goes over the connection
                    // before: both move when there is a new token
                    if only == bound_to {
                        renew_when_due(&link.0, candidate);
                    }
                    return Ok(link);
                }
                Err(failure) => {
                    first_failure.get_or_insert(failure);
                }
            }
        }
        Err(first_failure.unwrap_or(Failure::NO_INSTANCE))
    }

    fn next_turn(&self, peer: &Peer) -> usize {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get_mut(peer.spiffe_id.as_str())
            .map_or(0, |destination| {
                destination.turn = destination.turn.wrapping_add(1);
                destination.turn
            })
    }

    fn candidate(&self, peer: &Peer, turn: usize) -> Option<Candidate> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(peer.spiffe_id.as_str()) {
            let (own, tls) = self.shown_to(peer);
            let destination = Destination {
                own,
                tls,
                slots: HashMap::new(),
                turn: 0,
            };
            known.insert(peer.spiffe_id.as_str().to_owned(), destination);
        }
        let destination = known.get_mut(peer.spiffe_id.as_str())?;
        if !Arc::ptr_eq(&destination.own, &self.identity.current()) {
            (destination.own, destination.tls) = self.shown_to(peer);
        }
        let at = turn.checked_rem(peer.addresses.len())?;
        let address = peer.addresses.get(at)?;
        if !destination.slots.contains_key(address) {
            destination
                .slots
                .retain(|known, _| peer.addresses.contains(known));
            destination
                .slots
                .insert(Arc::clone(address), Arc::default());
        }
        Some(Candidate {
            address: Arc::clone(address),
            slot: Arc::clone(destination.slots.get(address)?),
            own: Arc::clone(&destination.own),
            tls: Arc::clone(&destination.tls),
        })
    }

    /// What to connect to `peer` with now: this SVID and no later one, so that each connection
    /// knows what it was made with.
    fn shown_to(&self, peer: &Peer) -> (Arc<Svid>, Arc<ClientConfig>) {
        let identity = self.identity.pinned();
        let expect = Expect::Id(peer.spiffe_id.clone());
        let tls = client_config(&identity, expect, &[b"h2"]);
        (identity.current(), tls)
    }
}

/// Makes a new connection beside the calls when certificates have followed those of the open one.
fn renew_when_due(link: &Link, candidate: Candidate) {
    let own_cert = candidate.own.cert_sha256();
    if !candidate.slot.begins_renewal(link, own_cert) {
        return;
    }
    tokio::spawn(async move {
        let Candidate {
            address,
            slot,
            own,
            tls,
        } = candidate;
        let dial = connect_to_proxy(&address, tls, &own);
        Box::pin(slot.renew(dial)).await;
    });
}

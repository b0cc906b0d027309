//! Who a peer is and what it may call: SPIFFE ids, SVIDs, mutual TLS, bundles, the compiled allow-list
//! and access tokens.

pub mod allow;
pub mod bundle;
#[cfg(test)]
mod fixture;
pub mod keys;
mod refusal;
pub mod scram;
mod spiffe;
mod svid;
mod tls;
pub mod token;
mod verify;

pub use refusal::{Refusal, refusal_of, refusal_of_io};
pub use spiffe::{SpiffeId, SpiffeIdError};
pub use svid::{Identity, Svid, SvidError, TrustRoots};
pub use tls::{
    ClientAuth, Expect, client_config, client_config_without_svid, provider, server_config,
    server_name,
};
pub use verify::{Peer, Purpose, peer_of, verify_announcement, verify_chain, verify_chain_for};

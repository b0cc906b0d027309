//! The governance and control plane: catalogue, grants, signed bundles and the certificate authority.

mod authority;
mod catalogue;
mod config;
#[cfg(test)]
mod fixture;
mod governance;
mod issuance;
mod jsonlines;
mod live;
mod metrics;
pub mod offline;
mod people;
mod published;
mod server;
mod slice;
mod store;

pub use authority::{AuthorityError, Init, init};
pub use config::{ConfigError, ControlConfig};
pub use people::{PeopleError, PeopleListenError};
pub use server::{Control, ControlError, run};
pub use store::StoreError;

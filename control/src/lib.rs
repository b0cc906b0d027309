//! The governance and control plane: catalogue, grants, signed bundles and the certificate authority.

mod authority;
mod catalogue;
mod config;
#[cfg(test)]
mod fixture;
mod issuance;
mod jsonlines;
mod live;
mod published;
mod server;
mod slice;

pub use authority::{AuthorityError, Init, init};
pub use catalogue::{Catalogue, CatalogueError};
pub use config::{ConfigError, ControlConfig};
pub use server::{Control, ControlError, run};

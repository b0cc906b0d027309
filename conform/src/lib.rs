//! `counterfoil conform`: asks a mesh proxy on the wire whether it does what it must.
//!
//! A [`Rig`] is everything that checks may use: whom to ask, certificates good and bad, the
//! application behind the proxy, the books. It comes from a [`Profile`] or from a throw-away
//! [`World`]. [`run`] asks each [`Check`] and gives [`Finding`]s, which [`report`] prints and
//! [`keep`] writes into the books.

mod app;
mod books;
mod check;
mod checks;
mod collector;
mod deliver;
mod frames;
mod h1;
mod hail;
mod material;
mod outbound;
mod profile;
pub mod report;
mod rig;
mod runner;
mod sql;
mod tokens;
mod world;

pub use app::{App, Arrived};
pub use check::{Check, Finding, Outcome, Severity};
pub use checks::{UnknownCheck, all, select};
pub use collector::{Receiver, SqlBooks, Stored};
pub use deliver::{BooksConfig, BooksError, keep, run_id};
pub use profile::{Profile, ProfileError};
pub use rig::Rig;
pub use runner::{NoGround, Settings, run};
pub use world::{Kept, Node, Part, World, WorldError};

/// Build that findings name.
pub const BUILD: &str = concat!("counterfoil-conform/", env!("CARGO_PKG_VERSION"));

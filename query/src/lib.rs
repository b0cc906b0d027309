//! SQL over the books: PostgreSQL wire and HTTP, sealed and just-arrived entries alike.

pub mod alerts;
pub mod books;
pub mod burn_rules;
pub mod catalogue;
mod causal;
mod chains;
pub mod config;
mod distinct;
pub mod engine;
pub mod error;
pub mod functions;
pub mod guard;
mod hdr;
mod http;
pub mod json;
mod listing;
pub mod log;
mod metrics;
pub mod objectives;
pub mod offline;
pub mod pg;
mod prober;
pub mod proof;
pub mod public;
pub mod quantile;
pub mod raw;
pub mod reports;
mod schemata;
mod search_path;
pub mod server;
pub mod settings;
mod tail;
pub mod template;
pub mod users;
pub mod views;

pub use books::Books;
pub use config::QueryConfig;
pub use server::{RunError, STACK_BYTES, run};

#[cfg(test)]
mod tests;

//! The proxy beside one workload: mutual TLS, decisions, and an entry for every call.
//!
//! [`run`] is the whole process, [`Proxy`] its data path alone, [`pull`] what keeps the policy fresh. Each worker is a thread with its own
//! runtime, listeners, connections and spool lane; one further thread keeps the books and the policy.

mod admin;
mod answer;
mod app;
mod body;
mod books;
mod call;
mod call_metrics;
mod config;
mod counters;
mod failure;
mod gate;
mod headers;
mod heads;
mod inbound;
mod link;
mod listen;
mod open_calls;
mod outbound;
mod peers;
mod policy;
mod proxy;
pub mod pull;
mod relay;
mod run;
mod scribe;
mod serve;
mod tokens;
mod trace_context;
mod transport;
mod waits;
mod worker;

pub use config::{Config, ConfigError};
pub use listen::ListenError;
pub use policy::{Policy, PolicyCell, PolicyError};
pub use proxy::{BUILD, Figures, Listeners, Proxy};
pub use run::{RunError, run};

//! The door for people: catalogue, grants and explanations over HTTP, described by its own OpenAPI
//! document (docs/adr/0008).

mod answer;
mod ask;
mod login;
mod registry;
mod routes;
mod serve;

pub(crate) use login::Login;
pub(crate) use registry::People;
pub use registry::PeopleError;
pub(crate) use routes::{Door, inner};
pub use serve::PeopleListenError;
pub(crate) use serve::{Listening, server_config};

#[cfg(test)]
mod tests;

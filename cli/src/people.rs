//! What people govern the estate with: APIs, workloads, grants, explanations, by control's door for people.

mod api;
mod door;
mod explain;
mod grant;
mod import;
pub(crate) mod password;
mod show;
mod workload;

use anyhow::Context as _;

use crate::{
    args::{ApiArgs, GrantArgs, PolicyArgs, WorkloadArgs},
    exit::Outcome,
};

pub(crate) use door::Door;

/// Publishes, lists, shows and retires APIs.
pub(crate) fn api(args: &ApiArgs) -> Outcome {
    block_on(api::run(args))
}

/// Registers and lists workloads.
pub(crate) fn workload(args: &WorkloadArgs) -> Outcome {
    block_on(workload::run(args))
}

/// Asks for grants, decides on them, lists them.
pub(crate) fn grant(args: &GrantArgs) -> Outcome {
    block_on(grant::run(args))
}

/// Explains decisions.
pub(crate) fn policy(args: &PolicyArgs) -> Outcome {
    block_on(explain::run(args))
}

fn block_on(work: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(work)
}

#[cfg(test)]
mod tests;

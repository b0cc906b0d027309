//! Objectives in the form of other tools.

use anyhow::anyhow;
use counterfoil_query::{burn_rules, objectives};

use crate::{
    args::{SloArgs, SloCommand},
    console::raw,
    exit::{Failure, OK, Outcome},
};

/// Runs `counterfoil slo`.
pub(crate) fn run(args: &SloArgs) -> Outcome {
    let SloCommand::Export { directory, .. } = &args.command;
    let objectives = objectives::load(directory).map_err(Failure::configuration)?;
    if objectives.is_empty() {
        // Rules for nothing would quietly take the place of those that stand.
        let error = anyhow!("{} holds no objective", directory.display());
        return Err(Failure::configuration(error));
    }
    let rules = burn_rules::rules(&objectives).map_err(Failure::configuration)?;
    raw(rules.trim_end());
    Ok(OK)
}

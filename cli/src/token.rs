//! The access token that a workload of the mesh gets for an API, for those who test or debug.

use anyhow::{Context as _, anyhow};
use counterfoil_proxy::Config;
use counterfoil_spool::{join::load_kept, token::ask_for_token};

use crate::{
    args::{TokenArgs, TokenOutput},
    console::raw,
    exit::{Failure, OK, Outcome},
};

/// Prints the token, and nothing else.
pub(crate) fn run(args: &TokenArgs) -> Outcome {
    let config = Config::load(&args.config).map_err(Failure::configuration)?;
    let state = config.state_dir.display();
    let identity = load_kept(&config.identity())
        .with_context(|| format!("reading the SVID in {state}"))?
        .ok_or_else(|| {
            anyhow!("no SVID in {state} is good now: start the proxy, which gets and renews it")
        })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let operations: Vec<&str> = args.operations.iter().map(String::as_str).collect();
    let asked = ask_for_token(&identity, &config.control, None, &args.api, &operations);
    let answer = runtime.block_on(asked).with_context(|| {
        format!(
            "asking control for a token of {} for {}",
            config.spiffe_id, args.api
        )
    })?;
    match args.output {
        TokenOutput::Text => raw(&answer.access_token),
        TokenOutput::Json => raw(serde_json::to_string_pretty(&answer)?),
    }
    Ok(OK)
}

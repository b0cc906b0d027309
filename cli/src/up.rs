//! Runs control, collector and query of an estate, until a signal ends them.

use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::{
    args::UpArgs,
    console::{Console, line, word},
    exit::{FAILURE, Failure, OK, Outcome},
    role::Signals,
    roles::Roles,
    site::Site,
};

/// Runs the roles.
pub(crate) fn run(args: &UpArgs) -> Outcome {
    let site = Site::open(&args.data_dir).map_err(Failure::configuration)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(up(&site))
}

async fn up(site: &Site) -> Outcome {
    let mut signals = Signals::new()?;
    let console = Arc::new(Console::new());
    let kill = CancellationToken::new();
    let mut roles = Roles::new(Arc::clone(&console), kill.clone());
    let started = tokio::select! {
        started = start(site, &mut roles) => started,
        () = signals.next() => Ok(()),
    };
    if started.is_ok() {
        let ports = &site.settings.ports;
        console.say(format_args!(
            "catalogue and grants: http://{}  SQL: psql -h {} -p {} -U auditor counterfoil  (Ctrl-C stops and seals)",
            ports.people,
            ports.postgres.ip(),
            ports.postgres.port(),
        ));
        if let Some(foreign) = ports.foreign {
            console.say(foreign);
        }
        tokio::select! {
            () = signals.next() => console.say("stopping; once more to kill everything at once"),
            () = roles.given_up() => console.say("stopping: the roles cannot do without each other"),
        }
    }
    tokio::spawn(async move {
        signals.next().await;
        kill.cancel();
    });
    let troubles = roles.stop().await;
    console.finish();
    for trouble in &troubles {
        line(format_args!("attention: {trouble}"));
    }
    started?;
    line(format_args!(
        "stopped; prove the books with: counterfoil verify {0} --policy {1}",
        word(site.root()),
        word(site.root().join("policy.toml")),
    ));
    Ok(if troubles.is_empty() { OK } else { FAILURE })
}

async fn start(site: &Site, roles: &mut Roles) -> anyhow::Result<()> {
    let files = site.roles();
    roles.start_writers(&files, &site.settings.ports).await?;
    roles.start_query(&files, &site.settings.ports).await
}

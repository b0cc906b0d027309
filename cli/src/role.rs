//! Runs a server role in this process: configuration first, then the role until a signal.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use counterfoil_collector::CollectorConfig;
use counterfoil_control::ControlConfig;
use counterfoil_query::config::QueryConfig;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    args::RoleArgs,
    exit::{FAILURE, Failure, INTEGRITY, OK, Outcome},
    site::known_version,
};

/// What an orderly end may take when the parent is gone: the others end at the same time, so that what waits for
/// them waits in vain. Spool and journal hold everything then, as after a crash.
const ORPHAN_MAX: Duration = Duration::from_millis(1_500);

/// Runs control.
pub(crate) fn control(args: &RoleArgs) -> Outcome {
    let parent = follow_parent(args)?;
    let config = ControlConfig::load(&args.config).map_err(|error| refused(&args.config, error))?;
    known_version(&config.data_dir).map_err(|error| refused(&args.config, error))?;
    until_signal(parent, |shutdown| async {
        counterfoil_control::run(config, shutdown)
            .await
            .map_err(|error| failed(&args.config, error.is_config(), error))
    })
}

/// Runs the collector.
pub(crate) fn collector(args: &RoleArgs) -> Outcome {
    let parent = follow_parent(args)?;
    let config =
        CollectorConfig::load(&args.config).map_err(|error| refused(&args.config, error))?;
    until_signal(parent, |shutdown| async {
        counterfoil_collector::run(config, shutdown)
            .await
            .map_err(|error| {
                if error.is_damage() {
                    Failure {
                        code: INTEGRITY,
                        error: error.into(),
                    }
                } else {
                    failed(&args.config, error.is_configuration(), error)
                }
            })
    })
}

/// Runs query.
pub(crate) fn query(args: &RoleArgs) -> Outcome {
    let parent = follow_parent(args)?;
    let config = QueryConfig::load(&args.config).map_err(|error| refused(&args.config, error))?;
    until_signal(parent, |shutdown| async {
        counterfoil_query::run(config, shutdown)
            .await
            .map_err(|error| failed(&args.config, error.is_configuration(), error))
    })
}

/// A configuration that no port is bound for. Its file is always named.
fn refused(file: &Path, error: impl Into<anyhow::Error>) -> Failure {
    let error: anyhow::Error = error.into();
    let named = error.to_string().contains(&file.display().to_string());
    let error = if named {
        error
    } else {
        error.context(format!("reading the configuration {}", file.display()))
    };
    Failure::configuration(error)
}

fn failed(file: &Path, is_configuration: bool, error: impl Into<anyhow::Error>) -> Failure {
    if is_configuration {
        refused(file, error)
    } else {
        Failure::from(error)
    }
}

/// The parent process, when this one is to end with it.
type Parent = Option<Pid>;

fn follow_parent(args: &RoleArgs) -> anyhow::Result<Parent> {
    if args.die_with_parent {
        die_with_parent()
    } else {
        Ok(None)
    }
}

/// Ends this process by SIGTERM when the one that started it ends.
fn die_with_parent() -> anyhow::Result<Parent> {
    let before = getppid();
    set_parent_process_death_signal(Some(Signal::TERM))
        .context("asking to end with the parent process")?;
    // It may have ended before it was asked for.
    if getppid() != before {
        anyhow::bail!("the parent process has ended");
    }
    Ok(before)
}

fn until_signal<R>(parent: Parent, role: impl FnOnce(CancellationToken) -> R) -> Outcome
where
    R: Future<Output = Result<(), Failure>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // A statement is parsed and dropped on these threads, as deep as its longest chain.
        .thread_stack_size(counterfoil_query::STACK_BYTES)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let mut signals = Signals::new()?;
        tokio::spawn(async move {
            loop {
                signals.next().await;
                stop.cancel();
                if parent.is_some() && getppid() != parent {
                    tokio::time::sleep(ORPHAN_MAX).await;
                    tracing::warn!("the parent process is gone, and not all could be delivered: ending as it is");
                    std::process::exit(FAILURE.into());
                }
            }
        });
        role(shutdown).await?;
        Ok(OK)
    })
}

/// SIGTERM and Ctrl-C.
#[derive(Debug)]
pub(crate) struct Signals {
    term: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on the two signals no longer end the process.
    ///
    /// # Errors
    /// When they cannot be listened for.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let doing = "listening for signals";
        Ok(Self {
            term: signal(SignalKind::terminate()).context(doing)?,
            interrupt: signal(SignalKind::interrupt()).context(doing)?,
        })
    }

    /// Waits for the next of them.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

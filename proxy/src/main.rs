//! `counterfoil-proxy`: arguments, logs, signals and exit codes around the library.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use counterfoil_proxy::{BUILD, Config};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The configuration cannot be used (sysexits' EX_USAGE).
const EXIT_CONFIG: u8 = 64;
/// What draining may take when the parent is gone: collector and control end at the same time, so that
/// what waits for them waits in vain. The spool holds everything then, as after a crash.
const ORPHAN_MAX: Duration = Duration::from_millis(1_500);

/// The proxy beside one workload: mutual TLS, decisions, and an entry for every call.
#[derive(Debug, Parser)]
#[command(name = "counterfoil-proxy", version)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and exit: 0 good, 64 not.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let parent = getppid();
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        // they would be printed to the stderr that has just failed, and that panics
        .log_internal_errors(false)
        .init();
    let loaded = Config::load(&arguments.config)
        .and_then(|config| config.check_files(&arguments.config).map(|()| config));
    let config = match loaded {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("{:#}", anyhow::Error::from(error));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if arguments.check {
        return ExitCode::SUCCESS;
    }
    if config.die_with_parent {
        let asked = set_parent_process_death_signal(Some(Signal::TERM));
        // the parent may have ended before it could be watched
        if asked.is_err() || getppid() != parent {
            tracing::error!("the parent process is gone");
            return ExitCode::FAILURE;
        }
    }
    match serve(&config, config.die_with_parent.then_some(parent).flatten()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until a signal; `parent` is the process to end with.
fn serve(config: &Config, parent: Option<Pid>) -> anyhow::Result<()> {
    tracing::info!(build = BUILD, writer = config.writer_name(), "starting");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let (mut term, mut int) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        tokio::spawn({
            let stop = stop.clone();
            async move {
                loop {
                    tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
                    stop.cancel();
                    if parent.is_some() && getppid() != parent {
                        tokio::time::sleep(ORPHAN_MAX).await;
                        tracing::warn!("the parent process is gone: ending, the spool keeps what was not delivered");
                        std::process::exit(1);
                    }
                }
            }
        });
        Ok(counterfoil_proxy::run(config, stop).await?)
    })
}

//! The counterfoil command.

mod args;
mod children;
mod client;
mod conform;
mod console;
mod demo;
mod exit;
mod init;
mod people;
mod rebuild;
mod retain;
mod role;
mod roles;
mod rows;
mod sim;
mod site;
mod sla;
mod slo;
mod sql;
mod token;
mod up;
mod verify;

use std::{io, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, SlaCommand};
use exit::{FAILURE, OK, Outcome};

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(match cli.command {
        Command::Control(_) | Command::Collector(_) | Command::Query(_) => "info",
        // Each of 2,000 proxies warns when control is killed, as it should.
        Command::Sim(_) => "error",
        // That control or collector are away is told by the command itself.
        Command::Retain(_) => "error",
        _ => "warn",
    });
    match run(&cli.command) {
        Ok(OK) if console::is_lost() => {
            console::remark("counterfoil: what was to be told could not be written to stdout");
            ExitCode::from(FAILURE)
        }
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            console::remark(format_args!(
                "counterfoil: {}",
                console::chain(&failure.error)
            ));
            ExitCode::from(failure.code)
        }
    }
}

fn run(command: &Command) -> Outcome {
    match command {
        Command::Demo(args) => demo::run(args),
        Command::Sql(args) => sql::run(args),
        Command::Sla(args) => match &args.command {
            SlaCommand::Check(args) => sla::check(args),
        },
        Command::Verify(args) => verify::run(args),
        Command::Rebuild(args) => rebuild::run(args),
        Command::Retain(args) => retain::run(args),
        Command::Conform(args) => conform::run(args),
        Command::Init(args) => init::run(args),
        Command::Up(args) => up::run(args),
        Command::People(args) => site::people::run(&args.command),
        Command::Verifier => site::people::verifier(),
        Command::ProxyConfig(args) => init::proxy_config(args),
        Command::Api(args) => people::api(args),
        Command::Workload(args) => people::workload(args),
        Command::Grant(args) => people::grant(args),
        Command::Policy(args) => people::policy(args),
        Command::Token(args) => token::run(args),
        Command::Slo(args) => slo::run(args),
        Command::Sim(args) => sim::run(args),
        Command::Control(args) => role::control(args),
        Command::Collector(args) => role::collector(args),
        Command::Query(args) => role::query(args),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "counterfoil", &mut script);
            console::raw(String::from_utf8_lossy(&script).trim_end());
            Ok(OK)
        }
    }
}

/// `RUST_LOG` goes before the default.
fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let color = io::IsTerminal::is_terminal(&io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(color)
        // It would be told to stderr by a macro that panics when stderr is what fails.
        .log_internal_errors(false)
        .init();
}

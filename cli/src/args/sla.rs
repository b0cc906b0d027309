//! Options of `sla`.

use clap::{Args, Subcommand, ValueEnum};

use super::{RowsOutput, SourceArgs};

/// Options of `sla`.
#[derive(Debug, Args)]
pub(crate) struct SlaArgs {
    #[command(subcommand)]
    pub(crate) command: SlaCommand,
}

/// What to do with objectives.
#[derive(Debug, Subcommand)]
pub(crate) enum SlaCommand {
    /// Judge each objective over its own window, or over the one that is given
    Check(SlaCheckArgs),
}

/// Options of `sla check`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  counterfoil sla check --data-dir counterfoil-data --fail-on breach\n  \
                        counterfoil sla check --url http://sre@127.0.0.1:15480 --service payments -o json\n  \
                        counterfoil sla check --data-dir counterfoil-data --from 2026-10-01T00:00:00Z --until 2026-11-01T00:00:00Z\n\n\
                        Exit codes: 0 judged, and nothing that --fail-on names, 1 failure, 2 wrong use, 4 a breach"
)]
pub(crate) struct SlaCheckArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Only this objective
    #[arg(long, value_name = "NAME")]
    pub(crate) objective: Option<String>,
    /// Only this service
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Begin of the window, as in 2026-10-01T00:00:00Z [default: each objective's own]
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// End of the window, which is not in it [default: now]
    #[arg(long, value_name = "TIME", requires = "from")]
    pub(crate) until: Option<String>,
    /// What ends with exit code 4
    #[arg(long, value_enum, default_value_t = FailOn::Never)]
    pub(crate) fail_on: FailOn,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = RowsOutput::Table)]
    pub(crate) output: RowsOutput,
}

/// What ends with exit code 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    /// Nothing
    Never,
    /// An objective that is not kept
    Breach,
    /// That, and an objective without a single call, of which nobody can say that it is kept
    NoData,
}

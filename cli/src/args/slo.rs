//! Options of `slo`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Options of `slo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  counterfoil slo export --prometheus bank/objectives > counterfoil.rules.yaml\n\n\
                  Exit codes: 0 done, 64 an objective that cannot be used"
)]
pub(crate) struct SloArgs {
    #[command(subcommand)]
    pub(crate) command: SloCommand,
}

/// What to do with objectives.
#[derive(Debug, Subcommand)]
pub(crate) enum SloCommand {
    /// Print the objectives of a folder of OpenSLO files in the form of another tool
    Export {
        /// As Prometheus rules: recording rules of seven windows, and alerts of fast and slow burning budgets
        #[arg(long, required = true)]
        prometheus: bool,
        /// Folder of OpenSLO files
        directory: PathBuf,
    },
}

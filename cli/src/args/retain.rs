//! Options of `retain`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use counterfoil_entry::{Time, id::TraceId};
use counterfoil_retention::instant;

use super::RowsOutput;

/// Options of `retain`.
#[derive(Debug, Args)]
#[command(
    after_help = "A disposition: `plan` by one person, `approve` by two others, then, with the collector stopped, `execute`.\n\
                  Every step is a row of retention_actions or legal_holds. What cannot be brought to the collector waits in\n\
                  the spool; `deliver`, or the next command, brings it.\n\n\
                  Examples:\n  counterfoil retain dry-run --data-dir bank\n  \
                  counterfoil retain simulate --as-of 2033-01-01 --data-dir bank -o csv\n  \
                  counterfoil retain plan --data-dir bank --user rita\n  \
                  counterfoil retain approve bank/retention/plans/4be1...json --data-dir bank --user sam\n  \
                  counterfoil retain execute bank/retention/plans/4be1...json --data-dir bank --user rita\n  \
                  counterfoil retain hold --matter 2026/17 --reason \"court order\" --service payments --from 2026-01-01 \\\n      \
                  --data-dir bank --user lea\n  \
                  counterfoil retain release 1f0c... --reason \"case closed\" --data-dir bank --user lea\n\n\
                  Environment: PGPASSWORD is the password of the person; on a terminal it is asked for when missing.\n\
                  COUNTERFOIL_USER stands for --user\n\n\
                  Exit codes: 0 done, 1 failure (also while a collector runs, or a wrong password), 2 wrong use,\n\
                  3 books or journal are damaged, 4 refused: by a hold, for want of approvals or of the right people, or because\n\
                  plan, segments, classes or clock are not as they must be (the refusal is recorded),\n\
                  64 configuration or classes cannot be used"
)]
pub(crate) struct RetainArgs {
    #[command(subcommand)]
    pub(crate) command: RetainCommand,
    /// Data directory of the estate, whose config/retention.toml is read
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Configuration, in TOML, when it is not that of an estate
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "data_dir")]
    pub(crate) config: Option<PathBuf>,
    /// Name of the person, as in people.toml
    #[arg(long, global = true, env = "COUNTERFOIL_USER")]
    pub(crate) user: Option<String>,
    /// Form of the answer
    #[arg(short, long, global = true, value_enum, default_value_t = RowsOutput::Table)]
    pub(crate) output: RowsOutput,
}

/// What to do about retention.
#[derive(Debug, Subcommand)]
pub(crate) enum RetainCommand {
    /// List what may leave the books now, and what only holds or scopes keep
    DryRun,
    /// List what might leave the books at another time; nothing is recorded
    Simulate {
        /// A day, as in 2033-01-01, or an instant in RFC 3339
        #[arg(long, value_name = "DATE", value_parser = instant)]
        as_of: Time,
    },
    /// Write down what is to leave the books, for two others to approve
    Plan,
    /// Agree to a plan that somebody else made
    Approve {
        /// The plan's file
        plan: PathBuf,
    },
    /// Delete what an approved plan names; no collector may run
    Execute {
        /// The plan's file
        plan: PathBuf,
    },
    /// Keep what a case needs, for as long as two people do not release it
    Hold(HoldArgs),
    /// Release a hold; it binds until a second, different person releases it, too
    Release {
        /// The hold's id
        hold: String,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// Bring rows that wait in the spool to the collector
    Deliver,
}

/// Options of `retain hold`. What is given must all be so of a row.
#[derive(Debug, Args)]
pub(crate) struct HoldArgs {
    /// The case that it is for
    #[arg(long)]
    pub(crate) matter: String,
    /// Why
    #[arg(long)]
    pub(crate) reason: String,
    /// Service that called or was called: its short name, or its SPIFFE id
    #[arg(long)]
    pub(crate) service: Option<String>,
    /// Operation called
    #[arg(long)]
    pub(crate) operation: Option<String>,
    /// Trace, 32 hexadecimal digits
    #[arg(long, value_name = "TRACE_ID")]
    pub(crate) trace: Option<TraceId>,
    /// Begin of the time range, inclusive
    #[arg(long, value_name = "DATE", value_parser = instant)]
    pub(crate) from: Option<Time>,
    /// End of the time range, exclusive
    #[arg(long, value_name = "DATE", value_parser = instant)]
    pub(crate) until: Option<Time>,
}

//! Options of `conform`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::parse_duration;

/// Options of `conform`.
#[derive(Debug, Args)]
#[command(
    after_help = "TARGET is `self`: a throw-away mesh of the proxy beside this program, on free loopback ports, with nothing configured;\n\
                  or HOST:PORT of any proxy's mutual-TLS listener, which --profile describes.\n\n\
                  Examples:\n  counterfoil conform self\n  counterfoil conform --list\n  counterfoil conform self --only T,P01 -o json\n  \
                  PGPASSWORD=... counterfoil conform 10.0.0.7:15006 --profile payments.toml -o junit > conform.xml\n\n\
                  Environment: PGPASSWORD is the password of the user that the profile names for its books\n\n\
                  Exit codes: 0 no check failed, 1 a check failed or the target does not serve a good call, 2 wrong use,\n\
                  64 a profile or configuration cannot be used"
)]
pub(crate) struct ConformArgs {
    /// `self`, or HOST:PORT
    #[arg(required_unless_present = "list")]
    pub(crate) target: Option<String>,
    /// What checks need to know of HOST:PORT: identities, certificates, calls, books (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
    /// Form of the findings
    #[arg(short, long, value_enum, default_value_t = ConformOutput::Table)]
    pub(crate) output: ConformOutput,
    /// Only these checks: groups or ids, separated by commas, as in T,P01
    #[arg(long, value_name = "CHECKS", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// List the checks and ask nobody
    #[arg(long)]
    pub(crate) list: bool,
    /// Write the findings into the books, too: where, and as whom (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) books: Option<PathBuf>,
    /// Longest time for one check
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    pub(crate) limit: Duration,
}

/// Form in which findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConformOutput {
    /// One line a check, and what was seen where it did not pass
    Table,
    /// One array of objects
    Json,
    /// JUnit XML, for build servers
    Junit,
}

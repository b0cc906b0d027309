//! The command line of the simulation.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::parse_duration;

/// Options of `sim`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  counterfoil sim\n  counterfoil sim --proxies 2000 --kill-control 60s -o json\n  \
                        counterfoil sim --proxies 20 --estate 1700 --for 10s --kill-control 5s\n\n\
                        Exit codes: 0 no decision failed and everything converged, 1 one did not or something else failed, 2 wrong use"
)]
pub(crate) struct SimArgs {
    /// How many proxies join, poll and decide
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(2..=3_800))]
    pub(crate) proxies: u32,
    /// Workloads of the estate; by default as many as there are proxies
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=20_000))]
    pub(crate) estate: Option<u32>,
    /// How long steady polling is measured
    #[arg(long = "for", value_name = "TIME", default_value = "20s", value_parser = parse_duration)]
    pub(crate) steady: Duration,
    /// How long control is away after it was killed; 0s leaves it alive
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration_or_zero)]
    pub(crate) kill_control: Duration,
    /// Grants that are revoked one after another to see how fast that is obeyed
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) revocations: u32,
    /// Seed of the estate
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Keep everything in this new directory; by default a temporary one, removed at the end
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Form of the figures
    #[arg(short, long, value_enum, default_value_t = FiguresOutput::Table)]
    pub(crate) output: FiguresOutput,
}

/// Form in which figures are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FiguresOutput {
    /// Aligned columns
    Table,
    /// One object
    Json,
}

/// As [`parse_duration`], and zero.
fn parse_duration_or_zero(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        _ => parse_duration(text),
    }
}

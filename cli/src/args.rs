//! The command line: subcommands, options, examples.

mod conform;
mod people;
mod retain;
mod sim;
mod site;
mod sla;
mod slo;
mod token;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use conform::{ConformArgs, ConformOutput};
pub(crate) use people::{
    ApiArgs, ApiCommand, DecideArgs, DoorArgs, GrantArgs, GrantCommand, ImportArgs, PolicyArgs,
    PolicyCommand, RequestArgs, WorkloadAddArgs, WorkloadArgs, WorkloadCommand,
};
pub(crate) use retain::{HoldArgs, RetainArgs, RetainCommand};
pub(crate) use sim::{FiguresOutput, SimArgs};
pub(crate) use site::{InitArgs, PeopleArgs, PeopleCommand, PersonArgs, ProxyConfigArgs, UpArgs};
pub(crate) use sla::{FailOn, SlaArgs, SlaCheckArgs, SlaCommand};
pub(crate) use slo::{SloArgs, SloCommand};
pub(crate) use token::{TokenArgs, TokenOutput};

/// The books of a service mesh: run it, ask it, prove it.
#[derive(Debug, Parser)]
#[command(
    name = "counterfoil",
    version,
    arg_required_else_help = true,
    after_help = "Examples:\n  counterfoil demo --for 30s\n  counterfoil sql --data-dir counterfoil-data \"select * from denials\"\n  \
                  counterfoil verify counterfoil-data --policy counterfoil-data/policy.toml\n  \
                  counterfoil grant list --url http://ines@127.0.0.1:15444 --state requested\n\n\
                  Exit codes: 0 done or proved, 1 failure, 2 wrong use, 3 integrity failure, 4 a breach, 64 wrong configuration"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole mesh on loopback: services, proxies, control, collector, query
    Demo(DemoArgs),
    /// Ask the books in SQL
    Sql(SqlArgs),
    /// Hold the objectives against the calls
    Sla(SlaArgs),
    /// Prove that nobody changed the books
    Verify(VerifyArgs),
    /// Make derived files anew from the books
    Rebuild(RebuildArgs),
    /// Say what may leave the books, hold it, or delete it by a plan that two people approved
    Retain(RetainArgs),
    /// Check that a mesh proxy does what it must
    Conform(ConformArgs),
    /// Make an estate: keys, the first people, configurations of the roles
    Init(InitArgs),
    /// Run control, collector and query of an estate
    Up(UpArgs),
    /// Say who may log in at control's door for people
    People(PeopleArgs),
    /// Print what people.toml and users.toml keep of a password, which is PGPASSWORD or asked for
    Verifier,
    /// Write the configuration of a workload's proxy
    ProxyConfig(ProxyConfigArgs),
    /// Publish OpenAPI documents, list APIs, retire them
    Api(ApiArgs),
    /// Register what may join the mesh
    Workload(WorkloadArgs),
    /// Ask for, decide, review and revoke leave to call operations
    Grant(GrantArgs),
    /// Ask what would be decided on a call, and why
    Policy(PolicyArgs),
    /// Print the access token that a workload gets for an API
    Token(TokenArgs),
    /// Export objectives to other tools
    Slo(SloArgs),
    /// Measure control with a fleet of simulated proxies, killing it once
    Sim(SimArgs),
    /// Run the control plane: catalogue, grants, certificates
    Control(RoleArgs),
    /// Run the collector: receive, check, seal
    Collector(RoleArgs),
    /// Run the SQL endpoint: PostgreSQL wire and HTTP
    Query(RoleArgs),
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Options of `demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  counterfoil demo\n  counterfoil demo --for 2m --rate 20 --data-dir /tmp/books\n  \
                        counterfoil demo --replay hops.parquet --for 60s --ports auto\n  \
                        counterfoil demo --for 4m --svid-ttl 20s --kill-control 60s\n\n\
                        Exit codes: 0 everything sent is in the books, 1 failure or something that needs attention, 64 wrong directory"
)]
pub(crate) struct DemoArgs {
    /// Where books, keys and configurations are kept; an older demo's directory is continued
    #[arg(long, value_name = "DIR", default_value = "counterfoil-data")]
    pub(crate) data_dir: PathBuf,
    /// Stop after this time (30s, 2m, 1h); without it, run until Ctrl-C or SIGTERM
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) run_for: Option<Duration>,
    /// Replay the recorded calls of this Parquet file instead of generating a shop
    #[arg(long, value_name = "HOPS.parquet")]
    pub(crate) replay: Option<PathBuf>,
    /// Traces started in a second
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = parse_rate)]
    pub(crate) rate: f64,
    /// Take the default ports (15432, 15480, 15417, 15443, 15444, 16000 and up) or free ones
    #[arg(long, value_enum, default_value_t = PortChoice::Default)]
    pub(crate) ports: PortChoice,
    /// Bring a synthetic bank of so many further workloads into control's catalogue, without running them
    #[arg(long, value_name = "N")]
    pub(crate) estate: Option<usize>,
    /// Life of a certificate (10s to 7 days); each is renewed at about half of it
    #[arg(long, value_name = "TIME", default_value = "40s", value_parser = parse_svid_ttl)]
    pub(crate) svid_ttl: Duration,
    /// Kill control in the middle of the run, and start it again after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "run_for")]
    pub(crate) kill_control: Option<Duration>,
    /// Alertmanager that is told of breaches; may be given several times, for each member of a cluster
    #[arg(long = "alertmanager", value_name = "URL")]
    pub(crate) alertmanagers: Vec<String>,
}

/// Which ports the demo listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PortChoice {
    /// The documented ports
    Default,
    /// Any free ports
    Auto,
}

/// Options of `rebuild`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  counterfoil rebuild rollups --data-dir bank\n\nNothing may run on the directory: the collector folds while it runs.\n\n\
                  Exit codes: 0 made, 1 failure"
)]
pub(crate) struct RebuildArgs {
    #[command(subcommand)]
    pub(crate) command: RebuildCommand,
}

/// What to make anew.
#[derive(Debug, Subcommand)]
pub(crate) enum RebuildCommand {
    /// Counts and histograms by minute and hour
    Rollups {
        /// Data directory of the estate
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

/// Options of `sql`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  PGPASSWORD=... counterfoil sql --url http://auditor@127.0.0.1:15480 \"select * from sla\"\n  \
                        PGPASSWORD=... counterfoil sql --user auditor \"select count(*) from entries\"\n  \
                        counterfoil sql --data-dir counterfoil-data -o json \"select * from calls limit 3\"\n\n\
                        Environment: COUNTERFOIL_URL and COUNTERFOIL_USER stand for --url and --user when these are not given; with\n\
                        --data-dir nobody is asked, and they count for nothing. PGPASSWORD is the password of a URL without one. RUST_LOG chooses what is logged to stderr (default: warn)"
)]
pub(crate) struct SqlArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = RowsOutput::Table)]
    pub(crate) output: RowsOutput,
    /// The statement
    pub(crate) sql: String,
}

/// Where the books are asked.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// The running server, with the user; better give the password as PGPASSWORD, for arguments are seen by others
    /// [default: http://127.0.0.1:15480, or COUNTERFOIL_URL]
    #[arg(long, conflicts_with = "data_dir")]
    pub(crate) url: Option<String>,
    /// Read this data directory with nothing running; no query log is written then
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Name of the user, when the URL has none
    #[arg(long, env = "COUNTERFOIL_USER")]
    pub(crate) user: Option<String>,
}

/// Form in which rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RowsOutput {
    /// Aligned columns
    Table,
    /// One array of row objects
    Json,
    /// Comma-separated values with a header line; NULL is an empty field, an empty text is ""
    Csv,
}

/// Options of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  counterfoil verify counterfoil-data\n  \
                        counterfoil verify counterfoil-data --policy counterfoil-data/policy.toml --against saved-checkpoint --complete\n\n\
                        Exit codes: 0 proved, 2 wrong use or unreadable policy, 3 integrity failure")]
pub(crate) struct VerifyArgs {
    /// The data directory, or its `books` directory
    pub(crate) directory: PathBuf,
    /// Keys, origins and trust roots to hold the books against
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// A checkpoint saved earlier, which these books must contain
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) against: Option<PathBuf>,
    /// Fail also while a recorded gap is open
    #[arg(long)]
    pub(crate) complete: bool,
    /// Form of the verdict
    #[arg(short, long, value_enum, default_value_t = VerdictOutput::Text)]
    pub(crate) output: VerdictOutput,
}

/// Form in which a verdict is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerdictOutput {
    /// Plain sentences
    Text,
    /// One object
    Json,
}

/// Options of the server roles.
#[derive(Debug, Args)]
#[command(
    after_help = "Environment: RUST_LOG chooses what is logged to stderr (default: info). PGPASSWORD, COUNTERFOIL_URL and\n\
                  COUNTERFOIL_USER are not read here: all else stands in the configuration\n\n\
                  Exit codes: 0 stopped by SIGTERM or Ctrl-C, 1 failure, 64 wrong configuration (no port was bound)"
)]
pub(crate) struct RoleArgs {
    /// Configuration, in TOML
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// End when the process that started this one ends
    #[arg(long)]
    pub(crate) die_with_parent: bool,
}

/// Reads `500ms`, `30s`, `2m`, `1h` or a bare number of seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => {
            return Err(format!(
                "{unit:?} is not a unit; use ms, s, m or h, as in 30s"
            ));
        }
    };
    let count: u64 = digits
        .parse()
        .map_err(|_| "expected a number and a unit, as in 30s".to_owned())?;
    match count.checked_mul(unit_ms) {
        Some(ms) if ms > 0 && ms <= 31 * 86_400_000 => Ok(Duration::from_millis(ms)),
        _ => Err("a time from 1ms to 31 days is expected".to_owned()),
    }
}

/// Reads the life of a certificate, as control takes it.
fn parse_svid_ttl(text: &str) -> Result<Duration, String> {
    let life = parse_duration(text)?;
    if !(10..=604_800).contains(&life.as_secs()) || life.subsec_nanos() > 0 {
        return Err("whole seconds from 10s to 168h (7 days) are expected".to_owned());
    }
    Ok(life)
}

/// Reads a rate of traces a second.
fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=1_000.0).contains(&rate) => Ok(rate),
        _ => Err("a number from 0.01 to 1000 is expected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn durations_need_a_known_unit_and_a_positive_number() {
        let cases = [
            ("30s", Some(30_000)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("500ms", Some(500)),
            ("7", Some(7_000)),
            ("0s", None),
            ("", None),
            ("s", None),
            ("-3s", None),
            ("3 days", None),
            ("99999999999999999999s", None),
            ("800h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                parse_duration(text).ok(),
                expected.map(Duration::from_millis),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_data_directory_and_a_url_exclude_each_other() {
        let both = [
            "counterfoil",
            "sql",
            "--url",
            "http://h",
            "--data-dir",
            "d",
            "select 1",
        ];
        assert!(Cli::try_parse_from(both).is_err());
    }

    #[test]
    fn a_rate_of_nothing_is_refused() {
        assert!(parse_rate("0").is_err());
        assert!(parse_rate("NaN").is_err());
        assert_eq!(parse_rate("12.5"), Ok(12.5));
    }
}

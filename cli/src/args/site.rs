//! Options of the commands that make and run an estate.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};

use super::PortChoice;

/// Options of `init`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  counterfoil init bank --trust-domain bank.test\n\n\
                  Exit codes: 0 made, 64 the directory cannot be used or holds an estate already"
)]
pub(crate) struct InitArgs {
    /// Where books, keys and configurations will be kept
    pub(crate) directory: PathBuf,
    /// Trust domain of the estate, as in bank.test
    #[arg(long)]
    pub(crate) trust_domain: String,
    /// Where control, collector and query will listen: default for the documented ports, auto for free ones
    #[arg(long, value_enum, default_value_t = PortChoice::Default)]
    pub(crate) ports: PortChoice,
    /// Alertmanager that is told of breaches; may be given several times, for each member of a cluster
    #[arg(long = "alertmanager", value_name = "URL")]
    pub(crate) alertmanagers: Vec<String>,
}

/// Options of `up`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  counterfoil up bank\n\nRuns control, collector and query; one that dies is started again. Ctrl-C and SIGTERM stop them \
                  and seal.\n\nExit codes: 0 stopped and sealed, 1 something needs attention, 64 no estate"
)]
pub(crate) struct UpArgs {
    /// Data directory that `counterfoil init` has made
    pub(crate) data_dir: PathBuf,
}

/// Options of `people`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  counterfoil people add tom --team payments --data-dir bank\n  counterfoil people list --data-dir bank\n\n\
                  Exit codes: 0 done, 1 failure, 64 a data directory of a newer version. A running control takes changes within some seconds"
)]
pub(crate) struct PeopleArgs {
    #[command(subcommand)]
    pub(crate) command: PeopleCommand,
}

/// What to do with people.
#[derive(Debug, Subcommand)]
pub(crate) enum PeopleCommand {
    /// Let somebody log in at control's door for people, with a new password
    Add(PersonArgs),
    /// Take somebody's log-in away
    Remove {
        /// Log-in name
        name: String,
        /// Data directory of the estate
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// List who may log in
    List {
        /// Data directory of the estate
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

/// Options of `people add`.
#[derive(Debug, Args)]
pub(crate) struct PersonArgs {
    /// Log-in name; somebody of that name gets a new password and these teams
    pub(crate) name: String,
    /// Team whose APIs this person may decide on; may be given several times
    #[arg(long = "team", value_name = "TEAM")]
    pub(crate) teams: Vec<String>,
    /// May register workloads and bring in APIs of any team
    #[arg(long)]
    pub(crate) admin: bool,
    /// Data directory of the estate
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}

/// Options of `proxy-config`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  counterfoil proxy-config payments --data-dir bank --app 127.0.0.1:9001 --outbound 127.0.0.1:16001 \\\n      \
                  --inbound 127.0.0.1:16002 --admin 127.0.0.1:16003\n\n\
                  Exit codes: 0 written, 1 failure, 64 no estate"
)]
pub(crate) struct ProxyConfigArgs {
    /// Name of the workload: its identity is spiffe://<trust domain>/workload/<name>
    pub(crate) name: String,
    /// Data directory of the estate
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Where its application listens
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) app: SocketAddr,
    /// Where its application sends calls to others
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15001")]
    pub(crate) outbound: SocketAddr,
    /// Where others' proxies come in
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15006")]
    pub(crate) inbound: SocketAddr,
    /// Health and metrics
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15020")]
    pub(crate) admin: SocketAddr,
}

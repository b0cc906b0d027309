//! The commands that people govern the estate with: APIs, workloads, grants, explanations.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::RowsOutput;

/// Which control is asked, as whom, and in which form it answers.
#[derive(Debug, Args)]
pub(crate) struct DoorArgs {
    /// The running control, with the user [default: http://127.0.0.1:15444, or COUNTERFOIL_CONTROL_URL]
    #[arg(long, global = true, conflicts_with = "data_dir")]
    pub(crate) url: Option<String>,
    /// Name of the person, when the URL has none
    #[arg(long, global = true, env = "COUNTERFOIL_USER")]
    pub(crate) user: Option<String>,
    /// Certificates in PEM by which control is believed; for an https URL
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// Work on this data directory while control does not run: reads, `api import` and `grant request`, which take the
    /// person and the password as a running control does
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Form of the answer
    #[arg(short, long, global = true, value_enum, default_value_t = RowsOutput::Table)]
    pub(crate) output: RowsOutput,
}

/// Options of `api`.
#[derive(Debug, Args)]
#[command(after_help = concat!(
    "Examples:\n  counterfoil api import payments.yaml ledger.json --owner-team payments --server payments\n  \
     counterfoil api list --url http://ines@127.0.0.1:15444 -o json\n  counterfoil api show payments\n  \
     counterfoil api retire payments --comment \"replaced by payments-2\"\n\n",
    "Environment: PGPASSWORD is the password of the person; on a terminal it is asked for when missing.\n\
     COUNTERFOIL_CONTROL_URL and COUNTERFOIL_USER stand for --url and --user\n\n\
     Exit codes: 0 done, 1 refused or failed (also when one of several documents was), 2 wrong use, 64 a data directory of a newer version"
))]
pub(crate) struct ApiArgs {
    #[command(subcommand)]
    pub(crate) command: ApiCommand,
    #[command(flatten)]
    pub(crate) door: DoorArgs,
}

/// What to do with APIs.
#[derive(Debug, Subcommand)]
pub(crate) enum ApiCommand {
    /// Publish OpenAPI documents; each is taken whole or refused with file, line and reason
    Import(ImportArgs),
    /// List the APIs
    List,
    /// Show one API with its operations
    Show {
        /// Name of the API
        api: String,
    },
    /// Say that an API should no longer be used; it can still be called
    Deprecate {
        /// Name of the API
        api: String,
        /// Why
        #[arg(long)]
        comment: Option<String>,
    },
    /// Take an API away; it can no longer be called
    Retire {
        /// Name of the API
        api: String,
        /// Why
        #[arg(long)]
        comment: Option<String>,
    },
}

/// Options of `api import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// OpenAPI 3.0 or 3.1 documents, YAML or JSON
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The team that owns them; by default what the document says
    #[arg(long, value_name = "TEAM")]
    pub(crate) owner_team: Option<String>,
    /// The workload that serves them, by name or SPIFFE id
    #[arg(long, value_name = "WORKLOAD")]
    pub(crate) server: Option<String>,
    /// What callers have to show
    #[arg(long, value_enum)]
    pub(crate) access: Option<Access>,
    /// Ticket of the change
    #[arg(long)]
    pub(crate) ticket: Option<String>,
    /// Why
    #[arg(long)]
    pub(crate) comment: Option<String>,
}

/// What callers of an API have to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Access {
    /// Grants decide
    Bundle,
    /// A token decides
    Token,
    /// A grant and a token are needed
    Both,
}

impl Access {
    /// The word for it on the wire.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Token => "token",
            Self::Both => "both",
        }
    }
}

/// Options of `workload`.
#[derive(Debug, Args)]
#[command(after_help = concat!(
    "Examples:\n  counterfoil workload add spiffe://bank.test/workload/shop --team shop --address 127.0.0.1:15006 \
     --token-file shop.token\n  counterfoil workload list -o csv\n\n",
    "Environment: PGPASSWORD is the password of the person; on a terminal it is asked for when missing.\n\
     COUNTERFOIL_CONTROL_URL and COUNTERFOIL_USER stand for --url and --user\n\n\
     Exit codes: 0 done, 1 refused or failed, 2 wrong use, 64 a data directory of a newer version"
))]
pub(crate) struct WorkloadArgs {
    #[command(subcommand)]
    pub(crate) command: WorkloadCommand,
    #[command(flatten)]
    pub(crate) door: DoorArgs,
}

/// What to do with workloads.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkloadCommand {
    /// Register a workload, or change one that is registered
    Add(WorkloadAddArgs),
    /// List the workloads
    List,
}

/// Options of `workload add`.
#[derive(Debug, Args)]
pub(crate) struct WorkloadAddArgs {
    /// Its identity, as in spiffe://bank.test/workload/shop
    pub(crate) spiffe_id: String,
    /// The host name by which it is called; by default the last part of the identity
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Its application; by default the name
    #[arg(long)]
    pub(crate) app: Option<String>,
    /// The team that answers for it
    #[arg(long)]
    pub(crate) team: String,
    /// Where it runs
    #[arg(long)]
    pub(crate) site: Option<String>,
    /// Where in the site
    #[arg(long)]
    pub(crate) zone: Option<String>,
    /// host:port of an inbound listener of its proxies; may be given several times
    #[arg(long = "address", value_name = "HOST:PORT")]
    pub(crate) addresses: Vec<String>,
    /// Write a new join token into this file, which only its owner may read
    #[arg(long, value_name = "FILE", conflicts_with = "join_token")]
    pub(crate) token_file: Option<PathBuf>,
    /// Print a new join token, which is shown this once
    #[arg(long)]
    pub(crate) join_token: bool,
}

/// Options of `grant`.
#[derive(Debug, Args)]
#[command(after_help = concat!(
    "Examples:\n  counterfoil grant request --consumer shop --api payments --operation createPayment \\\n      \
     --purpose \"pays orders\" --ticket CHG-17 --expires 90d\n  \
     counterfoil grant list --state requested --url http://tom@127.0.0.1:15444\n  \
     counterfoil grant approve G-000001 --comment \"as agreed\"\n  counterfoil grant revoke G-000001 --ticket INC-4\n\n",
    "Environment: PGPASSWORD is the password of the person; on a terminal it is asked for when missing.\n\
     COUNTERFOIL_CONTROL_URL and COUNTERFOIL_USER stand for --url and --user\n\n\
     Exit codes: 0 done, 1 refused or failed (also when one of several grants was), 2 wrong use, 64 a data directory of a newer version"
))]
pub(crate) struct GrantArgs {
    #[command(subcommand)]
    pub(crate) command: GrantCommand,
    #[command(flatten)]
    pub(crate) door: DoorArgs,
}

/// What to do with grants.
#[derive(Debug, Subcommand)]
pub(crate) enum GrantCommand {
    /// Ask for leave to call operations; somebody else of the owning team must approve
    Request(RequestArgs),
    /// Approve what somebody else has asked for
    Approve(DecideArgs),
    /// Refuse what was asked for
    Reject(DecideArgs),
    /// Take a grant away at once
    Revoke(DecideArgs),
    /// Confirm that a grant is still needed
    Review(DecideArgs),
    /// Try what a revocation would deny, in the shadow decision of every call
    ProposeRevocation(DecideArgs),
    /// End such a trial
    WithdrawProposal(DecideArgs),
    /// List grants
    List {
        /// Only those in this state, as in requested, approved, revoked
        #[arg(long)]
        state: Option<String>,
        /// Only those of this consumer, by name or SPIFFE id
        #[arg(long)]
        consumer: Option<String>,
        /// Only those on this API
        #[arg(long)]
        api: Option<String>,
    },
    /// Show one grant
    Show {
        /// Its id
        id: String,
    },
}

/// Options of `grant request`.
#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    /// Who wants to call, by name or SPIFFE id
    #[arg(long)]
    pub(crate) consumer: String,
    /// The API
    #[arg(long)]
    pub(crate) api: String,
    /// An operation; may be given several times, * is all of them
    #[arg(long = "operation", value_name = "NAME", required = true)]
    pub(crate) operations: Vec<String>,
    /// What it is needed for
    #[arg(long)]
    pub(crate) purpose: String,
    /// Ticket of the request
    #[arg(long)]
    pub(crate) ticket: String,
    /// Until when: 90d, 2027-06-30 or 2027-06-30T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) expires: String,
    /// From when on, in the same forms; at once when absent
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) not_before: Option<String>,
}

/// Options of the decisions on grants.
#[derive(Debug, Args)]
pub(crate) struct DecideArgs {
    /// Ids of the grants
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Why
    #[arg(long)]
    pub(crate) comment: Option<String>,
    /// Ticket of the decision
    #[arg(long)]
    pub(crate) ticket: Option<String>,
}

/// Options of `policy`.
#[derive(Debug, Args)]
#[command(after_help = concat!(
    "Examples:\n  counterfoil policy explain --as spiffe://bank.test/workload/shop --call \"POST /payments\"\n  \
     counterfoil policy explain --as shop --call \"GET /accounts/17\" --to accounts -o json\n\n",
    "Environment: PGPASSWORD is the password of the person; on a terminal it is asked for when missing.\n\
     COUNTERFOIL_CONTROL_URL and COUNTERFOIL_USER stand for --url and --user\n\n\
     Exit codes: 0 explained, whatever the decision, 1 refused or failed, 2 wrong use, 64 a data directory of a newer version"
))]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
    #[command(flatten)]
    pub(crate) door: DoorArgs,
}

/// What to ask about decisions.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Name the rule by which a call is decided, or the nearest grant and what is missing
    Explain {
        /// Who would call, by SPIFFE id or name
        #[arg(long = "as", value_name = "WORKLOAD")]
        caller: String,
        /// The call, as in "POST /payments"
        #[arg(long, value_name = "METHOD /PATH")]
        call: String,
        /// The workload or API that would be called; by default whatever has such a path
        #[arg(long, value_name = "NAME")]
        to: Option<String>,
    },
}

/// Reads a moment: a time from now, a day, or RFC 3339, which is what comes out.
fn moment(text: &str) -> Result<String, String> {
    use counterfoil_entry::clock;
    use time::{OffsetDateTime, format_description::well_known::Rfc3339};

    let day = format!("{text}T00:00:00Z");
    for candidate in [text, &day] {
        if OffsetDateTime::parse(candidate, &Rfc3339).is_ok() {
            return Ok(candidate.to_owned());
        }
    }
    let from_now = text.strip_suffix('d').and_then(|days| {
        let days = days
            .parse::<i64>()
            .ok()
            .filter(|days| (1..=36_500).contains(days))?;
        Some(clock::wall().plus_ns(days * 86_400_000_000_000).to_string())
    });
    from_now
        .or_else(|| {
            // A bare number would be seconds, which nobody means.
            let has_unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
            let span = super::parse_duration(text).ok().filter(|_| has_unit)?;
            let ns = i64::try_from(span.as_nanos()).ok()?;
            Some(clock::wall().plus_ns(ns).to_string())
        })
        .ok_or_else(|| "expected 90d, 2027-06-30 or 2027-06-30T12:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn moments_are_read_in_three_forms() {
        assert_eq!(moment("2027-06-30").unwrap(), "2027-06-30T00:00:00Z");
        assert_eq!(
            moment("2027-06-30T12:00:00+02:00").unwrap(),
            "2027-06-30T12:00:00+02:00"
        );
        let (soon, later) = (moment("20s").unwrap(), moment("90d").unwrap());
        assert!(
            soon < later && soon > moment("1s").unwrap(),
            "{soon} {later}"
        );
        for wrong in [
            "",
            "d",
            "0d",
            "-3d",
            "tomorrow",
            "2027-13-01",
            "99999999d",
            "90",
            "2027-06-30T12",
        ] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn options_of_the_door_may_stand_before_and_after_the_verb() {
        for words in [
            ["counterfoil", "api", "-o", "json", "--user", "ines", "list"],
            ["counterfoil", "api", "list", "-o", "json", "--user", "ines"],
        ] {
            let Command::Api(args) = Cli::try_parse_from(words).unwrap().command else {
                panic!("another command was read");
            };
            assert_eq!(args.door.output, RowsOutput::Json);
            assert_eq!(args.door.user.as_deref(), Some("ines"));
        }
    }

    #[test]
    fn a_request_without_purpose_or_operation_is_wrong_use() {
        let whole = "counterfoil grant request --consumer shop --api pay --operation a --operation b \
                     --purpose p --ticket t --expires 90d";
        assert!(Cli::try_parse_from(whole.split(' ').filter(|w| !w.is_empty())).is_ok());
        for left_out in [
            "--purpose p",
            "--operation a --operation b",
            "--ticket t",
            "--expires 90d",
        ] {
            let words = whole.replace(left_out, "");
            let words = words.split(' ').filter(|word| !word.is_empty());
            assert!(Cli::try_parse_from(words).is_err(), "{left_out}");
        }
        let both = "counterfoil api list --url http://h --data-dir d";
        assert!(Cli::try_parse_from(both.split(' ')).is_err());
    }
}

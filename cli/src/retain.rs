//! Retention: what may leave the books, plans and approvals, holds, execution.

mod table;

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use counterfoil_control::offline;
use counterfoil_entry::{Time, clock};
use counterfoil_ledger::{log::LogError, manifest::Predicate};
use counterfoil_retention::{
    Delivered, HoldRequest, Office, Person, Released, RetainError, RetentionConfig,
};

use crate::{
    args::{HoldArgs, RetainArgs, RetainCommand},
    console::{Console, remark},
    exit::{Failure, INTEGRITY, OK, Outcome, REFUSED},
    people::password,
    rows::Answer,
};

/// Runs `counterfoil retain`.
pub(crate) fn run(args: &RetainArgs) -> Outcome {
    let file = config_file(args).map_err(Failure::usage)?;
    if let RetainCommand::Hold(hold) = &args.command {
        check(hold).map_err(Failure::usage)?;
    }
    let config = RetentionConfig::load(&file).map_err(Failure::configuration)?;
    let person = match &args.command {
        RetainCommand::DryRun | RetainCommand::Simulate { .. } | RetainCommand::Deliver => None,
        _ => Some(log_in(&config, args.user.as_deref())?),
    };
    let mut office = Office::open(config).map_err(failure)?;
    let console = Console::new();
    let done = act(&mut office, args, person.as_ref(), &console);
    console.finish();
    // A refusal is a row, too. While an execution runs there is no collector to take it.
    let is_recorded = matches!(&done, Ok(_) | Err(RetainError::Refused { .. }));
    let told = match &args.command {
        _ if !is_recorded => Ok(()),
        RetainCommand::Simulate { .. } => Ok(()),
        RetainCommand::Execute { .. } => {
            remark(
                "the rows of this execution wait in the spool: start the collector, then run `counterfoil retain deliver`",
            );
            Ok(())
        }
        command => deliver(office, matches!(command, RetainCommand::Deliver)),
    };
    if let Some(answer) = done.map_err(failure)? {
        answer.print(args.output)?;
    }
    told?;
    Ok(OK)
}

fn config_file(args: &RetainArgs) -> anyhow::Result<PathBuf> {
    match (&args.config, &args.data_dir) {
        (Some(file), _) => Ok(file.clone()),
        (None, Some(directory)) => Ok(directory.join("config").join("retention.toml")),
        (None, None) => Err(anyhow!(
            "say with --data-dir which estate, or with --config which configuration"
        )),
    }
}

/// The person who does it, by `people.toml` and password.
fn log_in(config: &RetentionConfig, user: Option<&str>) -> Result<Person, Failure> {
    let user = user.ok_or_else(|| {
        Failure::usage(anyhow!(
            "say with --user who does this, and give the password as PGPASSWORD"
        ))
    })?;
    let typed = match std::env::var("PGPASSWORD") {
        Ok(password) => Some(password),
        Err(_) => password::prompt(&format!("Password of {user}"))?,
    };
    let typed = typed
        .ok_or_else(|| Failure::usage(anyhow!("give the password of {user} as PGPASSWORD")))?;
    let known = offline::person(&config.data_dir, user, &typed)
        .with_context(|| format!("logging in as {user}"))?;
    Ok(Person {
        name: known.name,
        teams: known.teams,
    })
}

/// Does what is asked; a person stands behind all that needs one.
fn act(
    office: &mut Office,
    args: &RetainArgs,
    person: Option<&Person>,
    console: &Console,
) -> Result<Option<Answer>, RetainError> {
    let now = clock::wall();
    let looked = |done: u64, total: u64| {
        if done > 0 && done.is_multiple_of(64) {
            console.progress(format!("{done} of {total} segments looked at"));
        }
    };
    let nobody = Person {
        name: String::new(),
        teams: Vec::new(),
    };
    let person = person.unwrap_or(&nobody);
    let answer = match &args.command {
        RetainCommand::DryRun => outlook(&office.dry_run(now, looked)?, now),
        RetainCommand::Simulate { as_of } => outlook(&office.simulate(*as_of, looked)?, *as_of),
        RetainCommand::Plan => {
            let (plan, path) = office.plan(person, now, looked)?;
            table::plan(&plan, &path)
        }
        RetainCommand::Approve { plan } => {
            let hash = office.approve(person, plan, now)?;
            table::approval(&hash, &person.name)
        }
        RetainCommand::Execute { plan } => {
            let executed = office.execute(person, plan, now, |done, total| {
                console.progress(format!("{done} of {total} segments have left the books"));
            })?;
            table::executed(&executed)
        }
        RetainCommand::Hold(hold) => {
            let id = office.hold(person, &request(hold), now)?;
            table::hold(&id, "placed")
        }
        RetainCommand::Release { hold, reason } => {
            let state = match office.release(person, hold, reason, now)? {
                Released::Asked => "release_asked",
                Released::Done => "released",
            };
            table::hold(hold, state)
        }
        RetainCommand::Deliver => return Ok(None),
    };
    Ok(Some(answer))
}

fn outlook(outlook: &counterfoil_retention::Outlook, at: Time) -> Answer {
    let records: u64 = outlook.due.iter().map(|due| due.sealed.of.count).sum();
    let bytes: u64 = outlook.due.iter().map(|due| due.sealed.of.bytes).sum();
    remark(format_args!(
        "at {at}: of {} segments {} may go, with {records} records in {bytes} bytes; {} are held, {} kept by a scope, \
         {} not in the roll-ups yet, {} of classes without a rule",
        outlook.segments,
        outlook.due.len(),
        outlook.held.len(),
        outlook.lifted.len(),
        outlook.waiting.len(),
        outlook.unruled,
    ));
    table::outlook(outlook)
}

fn check(args: &HoldArgs) -> anyhow::Result<()> {
    if args.matter.trim().is_empty() || args.reason.trim().is_empty() {
        return Err(anyhow!(
            "say with --matter and --reason what the hold is for"
        ));
    }
    if let (Some(from), Some(until)) = (args.from, args.until)
        && from >= until
    {
        return Err(anyhow!("--until {until} is not after --from {from}"));
    }
    Ok(())
}

fn request(args: &HoldArgs) -> HoldRequest {
    HoldRequest {
        matter: args.matter.clone(),
        reason: args.reason.clone(),
        predicate: Predicate {
            service: args.service.clone(),
            operation: args.operation.clone(),
            trace_id: args.trace,
            from: args.from,
            until: args.until,
        },
    }
}

/// Brings rows into the books. That they wait is a failure only of who asked for nothing else.
fn deliver(office: Office, is_all: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    match runtime.block_on(office.deliver()) {
        Delivered::Done => Ok(()),
        Delivered::Kept(why) if is_all => Err(anyhow!("{why}; the rows stay in the spool")),
        Delivered::Kept(why) => {
            remark(format_args!(
                "the rows wait in the spool ({why}): `counterfoil retain deliver` brings them in"
            ));
            Ok(())
        }
    }
}

fn failure(error: RetainError) -> Failure {
    let code = match &error {
        RetainError::Refused { .. } => REFUSED,
        RetainError::Register { .. } | RetainError::Row { .. } | RetainError::Segment(_) => {
            INTEGRITY
        }
        RetainError::Log(
            LogError::Manifest { .. }
            | LogError::Broken { .. }
            | LogError::Head { .. }
            | LogError::Checkpoint { .. },
        ) => INTEGRITY,
        RetainError::Directory(_) | RetainError::Classes(_) | RetainError::Name { .. } => {
            return Failure::configuration(error);
        }
        RetainError::Key { .. } | RetainError::NoLog(_) => return Failure::configuration(error),
        _ => return error.into(),
    };
    Failure {
        code,
        error: error.into(),
    }
}

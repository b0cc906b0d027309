//! Checks a mesh proxy: one that a profile describes, or the own one in a throw-away mesh.

mod own;

use std::{env, path::Path, sync::Arc};

use anyhow::{Context as _, anyhow, bail};
use counterfoil_conform::{
    BooksConfig, Check, Finding, Profile, Rig, Settings, keep, report, run as ask, run_id, select,
};
use indicatif::ProgressBar;

use crate::{
    args::{ConformArgs, ConformOutput},
    console,
    exit::{FAILURE, Failure, OK, Outcome},
    role::Signals,
};

/// The target that needs no profile.
const SELF: &str = "self";

/// Runs the checks and prints what they found.
pub(crate) fn run(args: &ConformArgs) -> Outcome {
    let checks = select(&args.only).map_err(Failure::usage)?;
    if args.list {
        console::raw(report::list(&checks).trim_end());
        return Ok(OK);
    }
    let target = args.target.as_deref().unwrap_or(SELF);
    let profile = profile(target, args.profile.as_deref()).map_err(Failure::usage)?;
    let books = args
        .books
        .as_deref()
        .map(BooksConfig::load)
        .transpose()
        .map_err(Failure::configuration)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // a statement on the collector's rows is parsed on these threads
        .thread_stack_size(counterfoil_query::STACK_BYTES)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        tokio::select! {
            outcome = conform(args, &checks, target, profile, books) => outcome,
            () = signals.next() => Err(anyhow!("interrupted").into()),
        }
    })
}

/// The profile that goes with a target: none with `self`, and one with every other.
fn profile<'a>(target: &str, file: Option<&'a Path>) -> anyhow::Result<Option<&'a Path>> {
    match (target, file) {
        (SELF, None) => Ok(None),
        (SELF, Some(_)) => bail!("`self` is described by no --profile"),
        (target, _) if !is_address(target) => {
            bail!("{target:?} is neither `self` nor HOST:PORT")
        }
        (_, Some(file)) => Ok(Some(file)),
        (target, None) => bail!("{target} must be described: give --profile FILE"),
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

async fn conform(
    args: &ConformArgs,
    checks: &[Check],
    target: &str,
    profile: Option<&Path>,
    books: Option<BooksConfig>,
) -> Outcome {
    let settings = Settings {
        limit: args.limit,
        ..Settings::default()
    };
    let (name, findings) = match profile {
        None => {
            let world = own::start(checks).await?;
            let findings = asked(&world.rig, checks, settings).await?;
            (SELF, findings)
        }
        Some(file) => {
            let password = env::var("PGPASSWORD").ok();
            let rig = Profile::load(file, target, password.as_deref())
                .await
                .map_err(Failure::configuration)?;
            (target, asked(&Arc::new(rig), checks, settings).await?)
        }
    };
    print(args.output, name, &findings);
    if let Some(books) = books {
        keep(&books, &run_id(), name, &findings)
            .await
            .context("writing the findings into the books")?;
    }
    let failed = report::Tally::of(&findings).failed > 0;
    Ok(if failed { FAILURE } else { OK })
}

/// Runs the checks; their progress shows on a terminal only.
async fn asked(
    rig: &Arc<Rig>,
    checks: &[Check],
    settings: Settings,
) -> anyhow::Result<Vec<Finding>> {
    let bar = ProgressBar::new(u64::try_from(checks.len()).unwrap_or(u64::MAX));
    let findings = ask(rig, checks, settings, |found| {
        bar.set_message(found.check);
        bar.inc(1);
    })
    .await;
    bar.finish_and_clear();
    Ok(findings?)
}

fn print(output: ConformOutput, target: &str, findings: &[Finding]) {
    match output {
        ConformOutput::Table => console::line(report::table(target, findings).trim_end()),
        ConformOutput::Json => console::raw(report::json(findings).trim_end()),
        ConformOutput::Junit => console::raw(report::junit(target, findings).trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_and_its_profile_belong_together() {
        let file = Path::new("p.toml");
        assert_eq!(profile("self", None).unwrap(), None);
        assert_eq!(profile("h:1", Some(file)).unwrap(), Some(file));
        for (target, file) in [
            ("self", Some(file)),
            ("h:1", None),
            ("h", Some(file)),
            (":1", Some(file)),
            ("h:x", Some(file)),
        ] {
            assert!(profile(target, file).is_err(), "{target}");
        }
    }
}

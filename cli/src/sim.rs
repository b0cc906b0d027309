//! `counterfoil sim`: a fleet of simulated proxies against a real control, which is killed once.
//!
//! Each proxy is the real client code without listeners: it joins with a key of its own, holds polls
//! open, compiles its bundles, and decides calls by them, some of which must be allowed and some denied.
//! What is right comes from the estate, not from what control said. The proxies write no books: the
//! rows of their joins lie in a small spool that is never delivered.

mod fleet;
mod limit;
mod member;
mod outcome;
mod process;
mod provision;
mod traffic;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use counterfoil_entry::{Time, clock};
use counterfoil_estate::{Estate, Grant, Size};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    args::SimArgs,
    client::encoded,
    console::Console,
    exit::{FAILURE, Failure, OK, Outcome},
    people::Door,
    role::Signals,
};
use fleet::Fleet;
use outcome::{Figures, Spread, seconds};
use process::Process;
use provision::{Place, TRUST_DOMAIN};

/// All proxies must have joined and have a bundle by then.
const JOIN_TIME_MAX: Duration = Duration::from_secs(300);
/// A change that is not everywhere by then has not converged.
const CHANGE_TIME_MAX: Duration = Duration::from_secs(30);
const REVOCATION_TIME_MAX: Duration = Duration::from_secs(10);
/// All proxies must have polled again by then.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(120);
/// Polls fall out of step before they are counted.
const SETTLE: Duration = Duration::from_secs(10);
/// How often is looked whether something has come about.
const LOOK_EVERY: Duration = Duration::from_millis(2);

const BLOCKING_THREADS: usize = 8;

/// Runs the simulation and prints its figures.
pub(crate) fn run(args: &SimArgs) -> Outcome {
    if args.estate.is_some_and(|estate| estate < args.proxies) {
        let error = anyhow!(
            "--estate must not be less than --proxies: each proxy stands beside one workload"
        );
        return Err(Failure::usage(error));
    }
    limit::raise(args.proxies)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Bundles are compiled on these.
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("starting the runtime")?;
    let console = Arc::new(Console::new());
    let outcome = runtime.block_on(async {
        let mut signals = Signals::new()?;
        tokio::select! {
            figures = simulate(args, &console) => figures,
            () = signals.next() => bail!("interrupted; control and collector were ended"),
        }
    });
    console.finish();
    runtime.shutdown_timeout(Duration::from_secs(1));
    let figures = outcome?;
    figures.print(args.output)?;
    Ok(if figures.are_well() { OK } else { FAILURE })
}

/// The folder of everything, removed at the end when nobody wanted it kept.
struct Folder {
    path: PathBuf,
    _temporary: Option<TempDir>,
}

impl Folder {
    fn make(wanted: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = wanted else {
            let temporary = tempfile::Builder::new()
                .prefix("counterfoil-sim-")
                .tempdir();
            let temporary = temporary.context("making a temporary directory")?;
            return Ok(Self {
                path: temporary.path().to_owned(),
                _temporary: Some(temporary),
            });
        };
        let making = || format!("making {}", path.display());
        if path.exists() {
            return Err(anyhow!("it exists already")).with_context(making);
        }
        std::fs::create_dir_all(path).with_context(making)?;
        let path = path.canonicalize().with_context(making)?;
        Ok(Self {
            path,
            _temporary: None,
        })
    }
}

async fn simulate(args: &SimArgs, console: &Arc<Console>) -> anyhow::Result<Figures> {
    let folder = Folder::make(args.data_dir.as_deref())?;
    let workloads = usize::try_from(args.estate.unwrap_or(args.proxies))?;
    let estate = Estate::generate(&Size::of_workloads(workloads), args.seed, TRUST_DOMAIN);
    console.progress(format!("an estate of {workloads} workloads is made"));
    let (place, import) = provision::provision(&folder.path, &estate)?;
    let mut sim = Sim::start(args, &estate, place, &import, console).await?;
    drop(import);
    let figures = sim.measure().await;
    sim.fleet.stop().await;
    for process in [sim.control.take(), sim.collector.take()]
        .into_iter()
        .flatten()
    {
        process.stop().await;
    }
    figures
}

/// Everything that runs.
struct Sim<'a> {
    args: &'a SimArgs,
    estate: &'a Estate,
    place: Place,
    console: &'a Console,
    control: Option<Process>,
    collector: Option<Process>,
    door: Door,
    fleet: Fleet,
    /// Grants that will be revoked: no proxy expects anything of them.
    doomed: Vec<&'a Grant>,
    /// When nothing happened, when control was away, and until all had found it again.
    steady: Option<(Time, Time)>,
    away: Option<(Time, Time)>,
    recovery: Option<(Time, Time)>,
    figures: Figures,
}

impl<'a> Sim<'a> {
    /// Starts control and collector, and gives control the estate.
    async fn start(
        args: &'a SimArgs,
        estate: &'a Estate,
        place: Place,
        import: &Value,
        console: &'a Arc<Console>,
    ) -> anyhow::Result<Self> {
        let mut figures = Figures::of(args, estate);
        let control = Process::start("control", &place).await?;
        let mut door = place.door().await?;
        console.progress("control takes the estate".to_owned());
        let began = clock::mono_ns();
        door.post("/v1/import", import)
            .await
            .context("importing the estate")?;
        figures.import_s = seconds(began);
        let collector = Process::start("collector", &place).await?;
        let proxies = usize::try_from(args.proxies)?;
        let doomed = doomed(estate, proxies, usize::try_from(args.revocations)?);
        let fleet = Fleet::new(&place, estate, proxies, &doomed)?;
        Ok(Self {
            args,
            estate,
            place,
            console,
            control: Some(control),
            collector: Some(collector),
            door,
            fleet,
            doomed,
            steady: None,
            away: None,
            recovery: None,
            figures,
        })
    }

    async fn measure(&mut self) -> anyhow::Result<Figures> {
        self.join().await?;
        self.steady().await?;
        self.change().await?;
        self.revoke().await?;
        if !self.args.kill_control.is_zero() {
            self.outage().await?;
        }
        self.count().await?;
        let (made, failed) = self.fleet.decisions();
        self.figures.decisions = made;
        self.figures.decisions_failed = failed;
        self.figures.first_failure = self.fleet.first_failure();
        self.figures.clone().checked()
    }

    /// All proxies get an SVID and a bundle.
    async fn join(&mut self) -> anyhow::Result<()> {
        let began = clock::mono_ns();
        self.fleet.start();
        let all = self.args.proxies;
        let joined = self
            .until(JOIN_TIME_MAX, |sim| {
                let ready = sim.fleet.ready();
                let text = format!("{ready} of {all} proxies have an SVID and a bundle");
                (ready >= usize::try_from(all).unwrap_or(usize::MAX), text)
            })
            .await?;
        self.figures.joined = self.fleet.ready();
        self.figures.join_s = seconds(began);
        if !joined {
            let error = self.fleet.join_error().unwrap_or_default();
            bail!(
                "only {} of {all} proxies had an SVID and a bundle within {} s; {error}",
                self.figures.joined,
                JOIN_TIME_MAX.as_secs()
            );
        }
        self.figures.control_mib_joined = self.control_mib();
        Ok(())
    }

    /// Polls when nothing happens.
    async fn steady(&mut self) -> anyhow::Result<()> {
        self.wait(SETTLE, "polls settle").await?;
        let from = clock::wall();
        self.wait(self.args.steady, "steady polling is measured")
            .await?;
        self.steady = Some((from, clock::wall()));
        Ok(())
    }

    /// The platform's most called workload moves: everybody who may call it must hear of it.
    async fn change(&mut self) -> anyhow::Result<()> {
        let called = self.estate.most_called();
        let Some(api) = called.first().and_then(|(name, _)| self.estate.api(name)) else {
            return Ok(());
        };
        let of_server = self
            .estate
            .workloads
            .iter()
            .find(|w| w.spiffe_id == api.server);
        let Some(server) = of_server else {
            return Ok(());
        };
        let affected = self.fleet.callers_of(self.estate, &server.spiffe_id);
        let body = json!({
            "spiffe_id": server.spiffe_id, "name": server.name, "app": server.app,
            "team": server.team, "site": server.site, "zone": server.zone,
            "addresses": ["10.255.0.1:15006"],
        });
        let from = clock::wall();
        self.door
            .post("/v1/workloads", &body)
            .await
            .context("moving a workload")?;
        self.until(CHANGE_TIME_MAX, |sim| {
            let taken = sim.fleet.taken_since(&affected, from).len();
            let all = affected.len();
            (
                taken == all,
                format!("{taken} of {all} proxies have the change"),
            )
        })
        .await?;
        let taken = self.fleet.taken_since(&affected, from);
        self.figures.change = Spread::of(taken, affected.len());
        Ok(())
    }

    /// Grants are revoked, one after the other; each time the callee must deny.
    async fn revoke(&mut self) -> anyhow::Result<()> {
        let mut took = Vec::new();
        let all = self.doomed.len();
        for grant in self.doomed.clone() {
            let path = format!(
                "/v1/grants?consumer={}&api={}",
                encoded(&grant.consumer),
                encoded(&grant.api)
            );
            let found = self.door.get(&path).await.context("looking for a grant")?;
            let id = found.pointer("/grants/0/grant_id").and_then(Value::as_str);
            let id = id.with_context(|| format!("control does not know the grant of {path}"))?;
            let Some(probe) = self.fleet.probe_of(self.estate, grant) else {
                continue;
            };
            if !probe.is_allowed() {
                bail!(
                    "{} could not call {} before the grant was revoked",
                    grant.consumer,
                    grant.api
                );
            }
            let from = clock::wall();
            let path = format!("/v1/grants/{}/revoke", encoded(id));
            let body = json!({ "ticket": "SIM-1", "comment": "simulated" });
            self.door
                .post(&path, &body)
                .await
                .context("revoking a grant")?;
            let done = took.len();
            let denied = self
                .until(REVOCATION_TIME_MAX, |_| {
                    let text = format!("{done} of {all} revocations are obeyed");
                    (!probe.is_allowed(), text)
                })
                .await?;
            if denied {
                took.push(clock::wall().since_ns(from));
            }
        }
        self.figures.revocation = Spread::of(took, all);
        Ok(())
    }

    /// Control is killed and comes back.
    async fn outage(&mut self) -> anyhow::Result<()> {
        let away = self.args.kill_control;
        self.figures.control_mib_before_kill = self.control_mib();
        let (made, failed) = self.fleet.decisions();
        if let Some(control) = self.control.take() {
            control.kill().await?;
        }
        let killed = clock::wall();
        self.wait(away, "control is away").await?;
        let (made_since, failed_since) = self.fleet.decisions();
        let back = clock::wall();
        self.figures.outage_s = away.as_secs_f64();
        self.figures.outage_decisions = made_since - made;
        self.figures.outage_decisions_failed = failed_since - failed;
        let began = clock::mono_ns();
        self.control = Some(Process::start("control", &self.place).await?);
        self.figures.recovery_ready_s = seconds(began);
        let all = usize::try_from(self.args.proxies)?;
        self.until(RECOVERY_TIME_MAX, |sim| {
            let polled = sim.fleet.polled_since(back);
            (
                polled == all,
                format!("{polled} of {all} proxies have polled again"),
            )
        })
        .await?;
        self.figures.recovered = self.fleet.polled_since(back);
        self.figures.recovery_s = seconds(began);
        self.figures.control_mib_recovered = self.control_mib();
        self.away = Some((killed, back));
        self.recovery = Some((back, clock::wall()));
        Ok(())
    }

    /// A poll is told when it ends and counted when it began, so that this comes last.
    async fn count(&mut self) -> anyhow::Result<()> {
        self.wait(SETTLE, "the last polls end").await?;
        let counted = |span: Option<(Time, Time)>| {
            let span = span.map(|(from, until)| self.fleet.traffic().between(from, until));
            span.unwrap_or_default()
        };
        let (steady, away) = (counted(self.steady), counted(self.away));
        let recovery = counted(self.recovery);
        self.figures.steady_requests_per_s = steady.per_s;
        self.figures.steady_peak_per_100ms = steady.peak;
        self.figures.outage_requests_per_s = away.per_s;
        self.figures.recovery_peak_per_100ms = recovery.peak;
        Ok(())
    }

    fn control_mib(&self) -> Option<f64> {
        self.control.as_ref().and_then(Process::resident_mib)
    }

    /// Waits a time, and fails when control or collector ends meanwhile.
    async fn wait(&mut self, time: Duration, what: &str) -> anyhow::Result<()> {
        let end = end_of(time);
        let full = time.as_secs_f64();
        self.until(time + LOOK_EVERY, |_| {
            let left = end.since_ns(clock::wall()).max(0);
            let left_s = Duration::from_nanos(left.unsigned_abs()).as_secs_f64();
            (
                left == 0,
                format!("{what}: {:.0} of {full:.0} s", full - left_s),
            )
        })
        .await
        .map(drop)
    }

    /// Waits until something has come about, no longer than `time`, showing how far it is.
    async fn until(
        &mut self,
        time: Duration,
        mut look: impl FnMut(&Self) -> (bool, String),
    ) -> anyhow::Result<bool> {
        let end = end_of(time);
        let interval = i64::try_from(self.console.interval().as_nanos())?;
        let mut shown = Time::from_ns(0);
        loop {
            let (is_so, text) = look(self);
            if is_so {
                return Ok(true);
            }
            let now = clock::wall();
            if now >= end {
                return Ok(false);
            }
            if now.since_ns(shown) > interval {
                shown = now;
                let (made, failed) = self.fleet.decisions();
                let decided = format!("{made} decisions, {failed} failed");
                self.console.progress(format!("{text}; {decided}"));
                self.check_children()?;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn check_children(&mut self) -> anyhow::Result<()> {
        for process in [&mut self.control, &mut self.collector]
            .into_iter()
            .flatten()
        {
            if let Some(end) = process.ended() {
                bail!("{end}");
            }
        }
        Ok(())
    }
}

fn end_of(time: Duration) -> Time {
    let ns = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    clock::wall().plus_ns(ns)
}

/// Grants on workloads that have a proxy, spread over the estate.
fn doomed(estate: &Estate, proxies: usize, wanted: usize) -> Vec<&Grant> {
    let simulated: std::collections::HashSet<&str> = estate
        .workloads
        .iter()
        .take(proxies)
        .map(|workload| workload.spiffe_id.as_str())
        .collect();
    let servers: std::collections::HashMap<&str, &str> = estate
        .apis
        .iter()
        .map(|api| (api.name.as_str(), api.server.as_str()))
        .collect();
    let held: Vec<&Grant> = estate
        .grants
        .iter()
        .filter(|grant| {
            let server = servers.get(grant.api.as_str());
            server.is_some_and(|server| simulated.contains(server))
        })
        .collect();
    let step = (held.len() / wanted.max(1)).max(1);
    held.into_iter().step_by(step).take(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doomed_grants_are_on_simulated_workloads_and_differ() {
        let estate = Estate::generate(&Size::of_workloads(100), 1, TRUST_DOMAIN);
        let doomed = doomed(&estate, 30, 20);
        assert_eq!(doomed.len(), 20);
        for grant in &doomed {
            let server = &estate.api(&grant.api).unwrap().server;
            let at = estate.workloads.iter().position(|w| w.spiffe_id == *server);
            assert!(at.unwrap() < 30);
        }
        let different: std::collections::HashSet<_> = doomed
            .iter()
            .map(|grant| (&grant.consumer, &grant.api))
            .collect();
        assert_eq!(different.len(), 20);
    }

    #[test]
    fn a_folder_that_exists_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Folder::make(Some(directory.path())).is_err());
        let new = directory.path().join("a/b");
        assert!(Folder::make(Some(&new)).unwrap().path.is_dir());
        let temporary = Folder::make(None).unwrap();
        let path = temporary.path.clone();
        drop(temporary);
        assert!(!path.exists());
    }
}

//! A whole mesh on loopback: applications, one real proxy for each service, control, collector, query, and a driver.

mod app;
pub(crate) mod binary;
mod call;
mod catalogue;
mod checkpoints;
mod driver;
mod estate;
mod forbidden;
mod held;
mod plan;
pub(crate) mod ports;
pub(crate) mod provision;
mod replay;
mod retention;
mod shop;
mod story;
mod summary;
mod timer;

use std::{
    fs::{self, File, TryLockError},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use counterfoil_columns::directory::DataDirectory;
use counterfoil_entry::clock;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    args::DemoArgs,
    children::Outage,
    console::{Console, line},
    exit::{FAILURE, Failure, OK, Outcome},
    role::Signals,
    site::Site,
};
use checkpoints::Checkpoints;
use driver::Tally;
use estate::Estate;
use plan::{DRIVER, System, Traces};
use ports::Ports;

/// Forbidden calls of each kind come this often when the demo has no end.
const FORBIDDEN_EVERY: Duration = Duration::from_secs(20);

/// Runs the demo.
pub(crate) fn run(args: &DemoArgs) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let outcome = runtime.block_on(demo(args));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn demo(args: &DemoArgs) -> Outcome {
    let mut signals = Signals::new()?;
    let (system, mut traces) = open_traces_or_signal(args, &mut signals).await?;
    let program = binary::proxy().await?;
    let (data, _lock) = open_when_free(&args.data_dir)
        .await
        .map_err(Failure::configuration)?;
    held::wait_or_signal(&data, &mut signals).await?;
    let from = clock::wall();
    let services = system.services.iter().map(|s| s.slug.as_str());
    let slugs: Vec<&str> = services.chain([DRIVER]).collect();
    let ports = Ports::choose(args.ports, &slugs)?;
    let (listeners, apps) = listen(slugs.len()).await?;
    let files = provision::provision(&data, &system, &ports, &apps, args).await?;
    let console = Arc::new(Console::new());
    let switches = Switches::new(signals, Arc::clone(&console));
    let stage = stage(system, &ports)?;
    let mut run = Run {
        args,
        inbound: forbidden::first_inbound(&stage.system, &ports.proxies)
            .context("the demo has no first service")?,
        story: story::Story::new(&files, &stage, &console),
        stage,
        tally: Arc::default(),
        console,
        switches,
    };
    let (tasks, apps_stop) = (TaskTracker::new(), CancellationToken::new());
    app::serve(&run.stage, listeners, &tasks, &apps_stop);
    let checkpoints = Checkpoints::new(
        data.log(provision::ORIGIN).join("checkpoint"),
        data.root().join("checkpoints"),
    )?;
    let stopped = CancellationToken::new();
    let work = async {
        let mut estate = Estate::new(Arc::clone(&run.console), run.switches.kill.clone());
        let started = estate
            .start(&program, &files, &ports, &run.switches.time_up)
            .await;
        let driven = match started {
            Ok(()) => run.drive_and_hold(&estate, &mut traces, &files.site).await,
            Err(error) => Err(error),
        };
        let troubles = estate.stop().await;
        stopped.cancel();
        driven.map(|unfinished| (unfinished, troubles))
    };
    let (driven, ()) = tokio::join!(work, checkpoints.watch(stopped.clone()));
    apps_stop.cancel();
    tasks.close();
    tasks.wait().await;
    run.console.finish();
    let (unfinished, troubles) = driven?;
    run.switches.unless_killed()?;
    let mut figures = summary::Figures {
        data: &data,
        tally: &run.tally,
        unfinished,
        left_out: traces.left_out(),
        checkpoint: None,
        from,
        answered: run.stage.answered(),
        troubles,
    };
    figures.save(&checkpoints);
    let well = summary::print(&figures).await?;
    Ok(if well { OK } else { FAILURE })
}

/// Takes a port for each application.
async fn listen(services: usize) -> anyhow::Result<(Vec<TcpListener>, Vec<SocketAddr>)> {
    let listeners = app::bind(services)
        .await
        .context("taking ports for the applications")?;
    let addresses = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<Result<_, _>>()?;
    Ok((listeners, addresses))
}

fn stage(system: System, ports: &Ports) -> anyhow::Result<Arc<app::Stage>> {
    let (driver, services) = ports
        .proxies
        .split_last()
        .context("the demo has no proxies")?;
    let outbounds: Vec<_> = services.iter().map(|ports| ports.outbound).collect();
    let stage = app::Stage::new(system, &outbounds, driver.outbound);
    Ok(Arc::new(stage.context("starting a thread")?))
}

/// What signals and the clock bring about.
#[derive(Debug)]
struct Switches {
    /// No further trace is begun.
    time_up: CancellationToken,
    /// Children are killed, not asked to stop.
    kill: CancellationToken,
}

impl Switches {
    /// The first signal ends the time, the second one kills.
    fn new(mut signals: Signals, console: Arc<Console>) -> Self {
        let (time_up, kill) = (CancellationToken::new(), CancellationToken::new());
        let switches = Self {
            time_up: time_up.clone(),
            kill: kill.clone(),
        };
        tokio::spawn(async move {
            signals.next().await;
            console.say("stopping; once more to kill everything at once");
            time_up.cancel();
            signals.next().await;
            kill.cancel();
        });
        switches
    }

    fn unless_killed(&self) -> anyhow::Result<()> {
        if self.kill.is_cancelled() {
            bail!(
                "killed before everything was sealed; what was spooled is delivered at the next start"
            );
        }
        Ok(())
    }
}

/// What is needed while calls are driven.
struct Run<'a> {
    args: &'a DemoArgs,
    story: Option<story::Story>,
    stage: Arc<app::Stage>,
    /// Inbound port of the first service's proxy.
    inbound: SocketAddr,
    tally: Arc<Tally>,
    console: Arc<Console>,
    switches: Switches,
}

impl Run<'_> {
    /// Drives calls, and places a legal hold while the roles still run to write it down.
    async fn drive_and_hold(
        &mut self,
        estate: &Estate,
        traces: &mut Traces,
        site: &Site,
    ) -> anyhow::Result<u64> {
        let driven = self.drive_on(estate, traces).await;
        if self.args.replay.is_none() && !self.switches.kill.is_cancelled() {
            retention::hold(site, &self.console).await;
        }
        driven
    }

    /// Drives calls until the time is up, or a process is not started again.
    async fn drive_on(&mut self, estate: &Estate, traces: &mut Traces) -> anyhow::Result<u64> {
        let time_up = self.switches.time_up.clone();
        let ending = async {
            estate.given_up().await;
            time_up.cancel();
            std::future::pending().await
        };
        tokio::select! {
            driven = self.drive(traces, estate.control_outage()) => driven,
            () = ending => Ok(0),
        }
    }

    /// Drives calls until the time is up; returns how many traces did not end.
    async fn drive(&mut self, traces: &mut Traces, control: Option<Outage>) -> anyhow::Result<u64> {
        let time_up = &self.switches.time_up;
        if time_up.is_cancelled() {
            return Ok(0);
        }
        let time = self.args.run_for;
        let length = time
            .map(|time| format!(" for {} s", time.as_secs_f64()))
            .unwrap_or_default();
        self.console.say(format_args!(
            "driving {} traces a second{length}; Ctrl-C stops",
            self.args.rate
        ));
        let every = time.map_or(FORBIDDEN_EVERY, |time| {
            (time / 4).clamp(Duration::from_secs(1), FORBIDDEN_EVERY)
        });
        let (stage, tally) = (Arc::clone(&self.stage), Arc::clone(&self.tally));
        let forbidden = tokio::spawn(forbidden::run(
            stage,
            self.inbound,
            every,
            tally,
            time_up.clone(),
        ));
        let story = self.story.take();
        let story = story.map(|story| tokio::spawn(story.tell(time_up.clone())));
        let ended = CancellationToken::new();
        let clock = async {
            if let Some(time) = time {
                // Also a signal ends the time.
                let _sooner = time_up.run_until_cancelled(self.pass(time, control)).await;
                time_up.cancel();
            }
        };
        let driving = async {
            let out = || {
                self.console
                    .say("the file has no more traces; waiting until the time is up")
            };
            let open = driver::drive(
                &self.stage,
                traces,
                self.args.rate,
                &self.tally,
                time_up,
                out,
            )
            .await;
            ended.cancel();
            open
        };
        let (open, (), ()) = tokio::join!(driving, clock, self.show(&ended));
        forbidden
            .await
            .context("making calls that must be denied")??;
        if let Some(story) = story {
            story.await.context("telling the story of a grant")??;
        }
        Ok(open)
    }

    /// Lets the time pass, with control away in the middle of it when that was asked for.
    async fn pass(&self, time: Duration, control: Option<Outage>) {
        if let (Some(away), Some(control)) = (self.args.kill_control, control) {
            let before = time.saturating_sub(away) / 2;
            tokio::time::sleep(before).await;
            control.begin(away).await;
            tokio::time::sleep(time.saturating_sub(before)).await;
        } else {
            tokio::time::sleep(time).await;
        }
    }

    /// Shows the counts until the calls have ended.
    async fn show(&self, ended: &CancellationToken) {
        let interval = self.console.interval();
        while ended
            .run_until_cancelled(tokio::time::sleep(interval))
            .await
            .is_some()
        {
            let count = |value: &AtomicU64| value.load(Ordering::Relaxed);
            let forbidden = count(&self.tally.forbidden);
            self.console.progress(format!(
                "{} traces started, {} open, {} with a failed call; {} calls, {forbidden} of them made to be denied",
                count(&self.tally.started),
                self.tally.open(),
                count(&self.tally.failed),
                count(&self.tally.calls) + forbidden,
            ));
        }
    }
}

/// The shop, or the recorded traces of a file; reading a large one must not keep the demo from ending at a signal.
async fn open_traces_or_signal(
    args: &DemoArgs,
    signals: &mut Signals,
) -> anyhow::Result<(System, Traces)> {
    let file = args.replay.clone();
    let (send, opened) = tokio::sync::oneshot::channel();
    // A thread of the runtime would be waited for.
    std::thread::Builder::new()
        .name("traces".to_owned())
        .spawn(move || drop(send.send(open_traces(file.as_deref()))))
        .context("starting a thread")?;
    tokio::select! {
        opened = opened => opened.context("the thread that reads traces is gone")?,
        () = signals.next() => bail!("stopped before anything was started"),
    }
}

/// The shop, or the recorded traces of a file.
fn open_traces(replay: Option<&Path>) -> anyhow::Result<(System, Traces)> {
    let Some(file) = replay else {
        let (system, shop) = shop::Shop::open(rand::random());
        line(format_args!(
            "generating calls of a shop of {} services",
            system.services.len()
        ));
        return Ok((system, Traces::Shop(Box::new(shop))));
    };
    line(format_args!("reading {}", file.display()));
    let (system, replay) = replay::Replay::open(file)?;
    line(format_args!(
        "{} services, {} operations, {} traces to replay, {} left out because they are longer than 5 s",
        system.services.len(),
        system.operations.len(),
        replay.traces(),
        replay.left_out(),
    ));
    line(
        "recorded are times and structure; status, identities and decisions are those of the replay",
    );
    Ok((system, Traces::Replay(Box::new(replay))))
}

/// Another demo uses the data directory.
#[derive(Debug, thiserror::Error)]
#[error("another demo is running on {}; stop it or give another --data-dir", .0.display())]
struct Busy(PathBuf);

/// Opens the data directory; one that was killed just now takes a moment to let go of it.
async fn open_when_free(path: &Path) -> anyhow::Result<(DataDirectory, File)> {
    for _ in 0..10 {
        match open_directory(path) {
            Err(error) if error.is::<Busy>() => {
                tokio::time::sleep(Duration::from_millis(200)).await
            }
            opened => return opened,
        }
    }
    open_directory(path)
}

/// Opens the data directory, new or of an earlier demo, for this process alone.
fn open_directory(path: &Path) -> anyhow::Result<(DataDirectory, File)> {
    let using = || format!("using the data directory {}", path.display());
    let known = path.join("format").exists();
    let empty = match fs::read_dir(path) {
        Ok(mut files) => files.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(error).with_context(using),
    };
    if !known && !empty {
        bail!(
            "{} is not empty and no data directory of counterfoil; give another one with --data-dir",
            path.display()
        );
    }
    fs::create_dir_all(path).with_context(using)?;
    let path: PathBuf = path.canonicalize().with_context(using)?;
    let data = DataDirectory::create(path).with_context(using)?;
    let lock = File::create(data.root().join("demo.lock")).with_context(using)?;
    match lock.try_lock() {
        Ok(()) => Ok((data, lock)),
        Err(TryLockError::WouldBlock) => Err(Busy(data.root().to_owned()).into()),
        Err(TryLockError::Error(error)) => Err(error).with_context(using),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_or_one_of_ours_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let new = directory.path().join("a").join("b");
        let (data, lock) = open_directory(&new).unwrap();
        assert!(data.root().join("format").exists());
        let busy = open_directory(&new).unwrap_err().to_string();
        assert!(busy.contains("another demo is running"), "{busy}");
        drop(lock);
        assert!(open_directory(&new).is_ok(), "an older demo is continued");

        fs::write(new.join("format"), "counterfoil-data 999\n").unwrap();
        let newer = format!("{:#}", open_directory(&new).unwrap_err());
        assert!(newer.contains("999"), "{newer}");

        let foreign = directory.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("letter.txt"), "dear").unwrap();
        let refused = open_directory(&foreign).unwrap_err().to_string();
        assert!(refused.contains("--data-dir"), "{refused}");
        assert!(
            !foreign.join("format").exists(),
            "nothing is written into it"
        );
    }
}

//! Child processes: started, watched, started again when they die, stopped.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{anyhow, bail};
use counterfoil_entry::clock;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{console::Console, exit::CONFIGURATION};

/// How long a child may take until it answers.
const READY_MAX: Duration = Duration::from_secs(90);
/// How long a child may take to stop: the collector's last seal is the longest.
const STOP_MAX: Duration = Duration::from_secs(45);
/// A child that refuses its configuration this often will not take it later. Others may have to wait until the children
/// of a killed demo have let go of the books.
const REFUSALS_MAX: u32 = 2;
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A child that lived this long starts again without a pause.
const LIVED_NS: u64 = 10_000_000_000;

/// What is to be run.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) ready: Ready,
    /// Takes what the child writes to stdout and stderr.
    pub(crate) log: PathBuf,
}

/// When a child can be used.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ready {
    /// Something listens on the port.
    Port(SocketAddr),
    /// `GET /ready` answers 200.
    Http(SocketAddr),
}

/// A child that is kept running until it is stopped.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    ready: Ready,
    log: PathBuf,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Debug, Default, Clone)]
struct State {
    starts: u32,
    refusals: u32,
    last_end: Option<String>,
}

impl Child {
    /// Starts the program and keeps it running. When `kill` is cancelled it is killed instead of asked to stop.
    pub(crate) fn start(spec: Spec, console: Arc<Console>, kill: CancellationToken) -> Self {
        let (sender, state) = watch::channel(State::default());
        let stop = CancellationToken::new();
        let (name, ready, log) = (spec.name.clone(), spec.ready, spec.log.clone());
        let task = tokio::spawn(keep_running(spec, console, stop.clone(), kill, sender));
        Self {
            name,
            ready,
            log,
            state,
            stop,
            task,
        }
    }

    /// Waits until the child can be used.
    ///
    /// # Errors
    /// When it ends again and again, or does not answer in time; with the end of its log.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        let waiting = async {
            loop {
                let state = self.state.borrow().clone();
                if state.refusals >= REFUSALS_MAX
                    && let Some(end) = state.last_end
                {
                    bail!("{} ended with {end} before it was ready", self.name);
                }
                if answers(self.ready).await {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let outcome = timeout(READY_MAX, waiting).await;
        let outcome = outcome.unwrap_or_else(|_| {
            bail!(
                "{} was not ready within {} s",
                self.name,
                READY_MAX.as_secs()
            )
        });
        outcome.map_err(|error| {
            anyhow!(
                "{error}; the end of {}:\n{}",
                self.log.display(),
                tail(&self.log)
            )
        })
    }

    /// Asks the child to stop and waits for that.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, name = self.name, "watching a child failed");
        }
    }
}

async fn keep_running(
    spec: Spec,
    console: Arc<Console>,
    stop: CancellationToken,
    kill: CancellationToken,
    state: watch::Sender<State>,
) {
    let mut pause = PAUSE_MIN;
    loop {
        let from = clock::mono_ns();
        let mut child = match spawn(&spec) {
            Ok(child) => child,
            Err(error) => {
                state.send_modify(|state| {
                    state.refusals = REFUSALS_MAX;
                    state.last_end = Some(format!(
                        "{error} when {} was started",
                        spec.program.display()
                    ));
                });
                console.say(format_args!(
                    "{}: cannot start {}: {error}",
                    spec.name,
                    spec.program.display()
                ));
                return;
            }
        };
        let pid = child.id().unwrap_or(0);
        state.send_modify(|state| state.starts += 1);
        let again = if state.borrow().starts > 1 {
            " again"
        } else {
            ""
        };
        console.say(format_args!("  {:<28} process {pid}{again}", spec.name));
        let ended = tokio::select! {
            ended = child.wait() => ended,
            () = stop.cancelled() => {
                end(&mut child, pid, &spec.name, &console, &kill).await;
                return;
            }
        };
        let refused = ended
            .as_ref()
            .is_ok_and(|status| status.code() == Some(CONFIGURATION.into()));
        let ended = ended.map_or_else(|error| error.to_string(), describe);
        console.say(format_args!(
            "  {} (process {pid}) ended with {ended}; starting it again",
            spec.name
        ));
        state.send_modify(|state| {
            state.refusals += u32::from(refused);
            state.last_end = Some(ended);
        });
        pause = if clock::mono_ns() - from > LIVED_NS {
            PAUSE_MIN
        } else {
            (pause * 2).min(PAUSE_MAX)
        };
        if stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return;
        }
    }
}

fn spawn(spec: &Spec) -> io::Result<tokio::process::Child> {
    let log = File::options().create(true).append(true).open(&spec.log)?;
    Command::new(&spec.program)
        .args(&spec.arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C in a terminal goes to a whole group; the children are stopped in order instead.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

async fn end(
    child: &mut tokio::process::Child,
    pid: u32,
    name: &str,
    console: &Console,
    kill: &CancellationToken,
) {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(process) = process
        && let Err(error) = kill_process(process, Signal::TERM)
    {
        tracing::debug!(%error, name, "the child had ended already");
    }
    let waited = kill
        .run_until_cancelled(timeout(STOP_MAX, child.wait()))
        .await;
    match waited {
        Some(Ok(Ok(status))) if status.success() => {}
        Some(Ok(ended)) => {
            let ended = ended.map_or_else(|error| error.to_string(), describe);
            console.say(format_args!(
                "  {name} (process {pid}) stopped with {ended}"
            ));
        }
        Some(Err(_)) | None => {
            console.say(format_args!(
                "  {name} (process {pid}) did not stop and is killed"
            ));
            if let Err(error) = child.kill().await {
                tracing::error!(%error, name, "killing a child failed");
            }
        }
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

async fn answers(ready: Ready) -> bool {
    let asked = async {
        match ready {
            Ready::Port(address) => TcpStream::connect(address).await.map(|_| true),
            Ready::Http(address) => {
                let mut stream = TcpStream::connect(address).await?;
                stream
                    .write_all(
                        b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
                    )
                    .await?;
                let mut head = [0; 12];
                stream.read_exact(&mut head).await?;
                Ok(head.ends_with(b" 200"))
            }
        }
    };
    matches!(
        timeout(Duration::from_secs(2), asked).await,
        Ok(Ok::<bool, io::Error>(true))
    )
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let kept = lines.len().saturating_sub(8);
    lines.get(kept..).unwrap_or_default().join("\n")
}

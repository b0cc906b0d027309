//! Child processes: started, watched, started again when they die, stopped.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
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
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    console::{Console, escaped},
    exit::{CONFIGURATION, INTEGRITY},
};

/// How long a child may take until it answers.
const READY_MAX: Duration = Duration::from_secs(90);
/// How long a child may take to stop: the collector's last seal is the longest.
const STOP_MAX: Duration = Duration::from_secs(45);
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// No more of a log is read to quote its end.
const TAIL_MAX: u64 = 64 * 1024;
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
    outages: mpsc::Sender<Duration>,
    task: JoinHandle<Option<String>>,
}

/// Kills a child and keeps it away for a while.
#[derive(Debug, Clone)]
pub(crate) struct Outage(mpsc::Sender<Duration>);

impl Outage {
    /// Kills the child with SIGKILL, and lets it be started again when the time is over. Does not wait.
    pub(crate) async fn begin(&self, length: Duration) {
        // A child that is not kept running any more is away already.
        let _gone = self.0.send(length).await;
    }
}

#[derive(Debug, Default, Clone)]
struct State {
    starts: u32,
    /// It will not be started again.
    is_given_up: bool,
    last_end: Option<String>,
}

impl Child {
    /// Starts the program and keeps it running. When `kill` is cancelled it is killed instead of asked to stop.
    pub(crate) fn start(spec: Spec, console: Arc<Console>, kill: CancellationToken) -> Self {
        let (sender, state) = watch::channel(State::default());
        let stop = CancellationToken::new();
        let (outages, ordered) = mpsc::channel(1);
        let (name, ready, log) = (spec.name.clone(), spec.ready, spec.log.clone());
        let watched = keep_running(spec, console, stop.clone(), kill, sender, ordered);
        let task = tokio::spawn(watched);
        Self {
            name,
            ready,
            log,
            state,
            stop,
            outages,
            task,
        }
    }

    /// What kills this child for a while.
    pub(crate) fn outage(&self) -> Outage {
        Outage(self.outages.clone())
    }

    /// Waits until the child can be used.
    ///
    /// # Errors
    /// When it ends again and again, or does not answer in time; with the end of its log.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        let waiting = async {
            loop {
                let state = self.state.borrow().clone();
                if state.is_given_up
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
                tail(&self.log, 0, 8)
            )
        })
    }

    /// Waits until the child will not be started again, which it need never be.
    pub(crate) async fn given_up(&self) {
        let mut state = self.state.clone();
        // Without a sender nobody starts it again either, but then it was stopped.
        if state.wait_for(|state| state.is_given_up).await.is_err() {
            std::future::pending().await
        }
    }

    /// Asks the child to stop and waits for that. Returns what went wrong, when it did not run or did not end well.
    pub(crate) async fn stop(self) -> Option<String> {
        self.stop.cancel();
        self.task.await.unwrap_or_else(|error| {
            tracing::error!(%error, name = self.name, "watching a child failed");
            Some(format!("{} was not watched any more", self.name))
        })
    }
}

/// Waits until one of the children will not be started again; for ever when there are none.
pub(crate) async fn any_given_up(children: impl Iterator<Item = &Child>) {
    let waiting: Vec<_> = children.map(|child| Box::pin(child.given_up())).collect();
    if waiting.is_empty() {
        std::future::pending().await
    }
    futures::future::select_all(waiting).await;
}

async fn keep_running(
    spec: Spec,
    console: Arc<Console>,
    stop: CancellationToken,
    kill: CancellationToken,
    state: watch::Sender<State>,
    mut outages: mpsc::Receiver<Duration>,
) -> Option<String> {
    let mut pause = PAUSE_MIN;
    loop {
        let from = clock::mono_ns();
        let logged = log_length(&spec.log);
        let mut child = match spawn(&spec) {
            Ok(child) => child,
            Err(error) => {
                let trouble = cannot_start(&spec, &error, &state);
                console.say(&trouble);
                return Some(trouble);
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
            Some(length) = outages.recv() => {
                if !keep_away(&mut child, pid, &spec.name, length, &console, &stop).await {
                    return None;
                }
                continue;
            }
            () = stop.cancelled() => {
                let ended = end(&mut child, pid, &spec.name, &kill).await?;
                let trouble = format!("{ended}; {}", last_words(&spec.log, logged));
                console.say(format_args!("  {trouble}"));
                return Some(trouble);
            }
        };
        let is_given_up = ended.as_ref().is_ok_and(refuses);
        let trouble = told(&spec, pid, ended, is_given_up, logged, &console, &state);
        if is_given_up {
            return Some(trouble);
        }
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
            return Some(trouble);
        }
    }
}

/// Who refuses configuration or books does so again; others may have to wait until the children of a killed demo have
/// let go of the books.
fn refuses(status: &ExitStatus) -> bool {
    let code = status.code();
    [CONFIGURATION, INTEGRITY]
        .into_iter()
        .any(|refusal| code == Some(refusal.into()))
}

/// Says how the child ended; returns it as something that went wrong.
fn told(
    spec: &Spec,
    pid: u32,
    ended: io::Result<ExitStatus>,
    is_given_up: bool,
    logged: u64,
    console: &Console,
    state: &watch::Sender<State>,
) -> String {
    let ended = ended.map_or_else(|error| error.to_string(), describe);
    let words = last_words(&spec.log, logged);
    let then = if is_given_up {
        "it is not started again"
    } else {
        "starting it again"
    };
    let name = &spec.name;
    console.say(format_args!(
        "  {name} (process {pid}) ended with {ended}; {words}; {then}"
    ));
    let trouble = format!("{name} could not be kept running: it ended with {ended}; {words}");
    state.send_modify(|state| {
        state.is_given_up = is_given_up;
        state.last_end = Some(ended);
    });
    trouble
}

/// Kills the child and waits. Returns whether it is to be started again.
async fn keep_away(
    child: &mut tokio::process::Child,
    pid: u32,
    name: &str,
    length: Duration,
    console: &Console,
    stop: &CancellationToken,
) -> bool {
    if let Err(error) = child.kill().await {
        tracing::error!(%error, name, "killing a child failed");
    }
    console.say(format_args!(
        "  {name} (process {pid}) was killed on purpose; it comes back in {} s",
        length.as_secs_f64()
    ));
    stop.run_until_cancelled(tokio::time::sleep(length))
        .await
        .is_some()
}

fn cannot_start(spec: &Spec, error: &io::Error, state: &watch::Sender<State>) -> String {
    let program = spec.program.display();
    state.send_modify(|state| {
        state.is_given_up = true;
        state.last_end = Some(format!("{error} when {program} was started"));
    });
    format!(
        "{}: cannot start {program}, which logs to {}: {error}",
        spec.name,
        spec.log.display()
    )
}

/// Starts the program once, in a process group of its own; dropping the child kills it.
///
/// # Errors
/// When it or its log cannot be opened.
pub(crate) fn spawn(spec: &Spec) -> io::Result<tokio::process::Child> {
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

/// Ends a child; returns how, when it was not as it should be.
async fn end(
    child: &mut tokio::process::Child,
    pid: u32,
    name: &str,
    kill: &CancellationToken,
) -> Option<String> {
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
        Some(Ok(Ok(status))) if status.success() => None,
        Some(Ok(ended)) => {
            let ended = ended.map_or_else(|error| error.to_string(), describe);
            Some(format!("{name} (process {pid}) stopped with {ended}"))
        }
        Some(Err(_)) | None => {
            if let Err(error) = child.kill().await {
                tracing::error!(%error, name, "killing a child failed");
            }
            Some(format!(
                "{name} (process {pid}) did not stop and was killed"
            ))
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

/// Whether the child can be used.
pub(crate) async fn answers(ready: Ready) -> bool {
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

/// What a child wrote last, after that many bytes of its log.
pub(crate) fn last_words(log: &Path, from: u64) -> String {
    let last = escaped(&tail(log, from, 1));
    let log = log.display();
    if last.is_empty() {
        format!("nothing is in its log {log}")
    } else {
        format!("the end of {log}: {last}")
    }
}

fn log_length(log: &Path) -> u64 {
    log.metadata().map_or(0, |of| of.len())
}

/// The last lines of a log, of those after `from`.
fn tail(log: &Path, from: u64, lines: usize) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let from = from.max(file.metadata()?.len().saturating_sub(TAIL_MAX));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // Without a log there is nothing to quote.
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<_> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let kept = all.len().saturating_sub(lines);
    all.get(kept..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn shell(directory: &Path, script: &str) -> Spec {
        Spec {
            name: "worker".to_owned(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            // Nobody asks.
            ready: Ready::Port(SocketAddr::from(([127, 0, 0, 1], 1))),
            log: directory.join("worker.log"),
        }
    }

    async fn stopped(spec: Spec, until: impl Fn(&State) -> bool) -> Option<String> {
        let console = Arc::new(Console::new());
        let mut child = Child::start(spec, console, CancellationToken::new());
        child.state.wait_for(until).await.unwrap();
        child.stop().await
    }

    #[tokio::test]
    async fn a_child_that_cannot_be_kept_running_is_told_with_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let spec = shell(
            directory.path(),
            "printf 'first\\nno \\033[31mspace left\\n\\n' >&2; exit 1",
        );
        let told = stopped(spec, |state| state.last_end.is_some()).await;
        let told = told.unwrap();
        assert!(told.contains("worker could not be kept running"), "{told}");
        assert!(told.contains("exit code 1"), "{told}");
        assert!(
            told.ends_with("worker.log: no \\u{1b}[31mspace left"),
            "{told}"
        );
    }

    #[tokio::test]
    async fn a_child_that_refuses_its_configuration_is_not_started_again() {
        let directory = tempfile::tempdir().unwrap();
        let spec = shell(directory.path(), "echo wrong key; exit 64");
        let console = Arc::new(Console::new());
        let child = Child::start(spec, console, CancellationToken::new());
        let refused = child.ready().await.unwrap_err().to_string();
        assert!(refused.contains("wrong key"), "{refused}");
        assert_eq!(child.state.borrow().starts, 1);
        assert!(child.stop().await.unwrap().contains("exit code 64"));
    }

    #[tokio::test]
    async fn a_child_that_ends_well_when_asked_is_no_trouble() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("worker.log");
        let spec = shell(
            directory.path(),
            "tail -f /dev/null & trap 'kill $!; exit 0' TERM; echo up; wait",
        );
        let console = Arc::new(Console::new());
        let child = Child::start(spec, console, CancellationToken::new());
        while log_length(&log) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(child.stop().await, None);
    }

    #[test]
    fn only_what_is_new_in_a_log_is_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        fs::write(&log, "old\n").unwrap();
        let from = log_length(&log);
        assert!(last_words(&log, from).starts_with("nothing is in its log"));
        fs::write(&log, "old\nnew\n").unwrap();
        assert!(last_words(&log, from).ends_with(": new"));
    }
}

//! Control and collector as child processes, which end with this one.

use std::{env, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use counterfoil_entry::clock;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{process::Child, time::timeout};

use super::provision::Place;
use crate::children::{Ready, Spec, answers, last_words, spawn};

const READY_TIME_MAX: Duration = Duration::from_secs(60);
const STOP_TIME_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running role.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    /// Bytes of the log that are older than this process.
    logged: u64,
}

impl Process {
    /// Starts a role and waits until it can be used.
    ///
    /// # Errors
    /// When it ends or does not listen in time; with the end of its log.
    pub(super) async fn start(name: &'static str, place: &Place) -> anyhow::Result<Self> {
        let log = place.log(name);
        let logged = log.metadata().map_or(0, |of| of.len());
        let listens: SocketAddr = place.listens(name);
        let spec = Spec {
            name: name.to_owned(),
            program: env::current_exe().context("looking for the path of this program")?,
            arguments: vec![
                name.into(),
                "--config".into(),
                place.config(name).into(),
                "--die-with-parent".into(),
            ],
            ready: Ready::Port(listens),
            log: log.clone(),
        };
        let child = spawn(&spec).with_context(|| format!("starting {name}"))?;
        let mut process = Self {
            name,
            child,
            log,
            logged,
        };
        let from = clock::mono_ns();
        loop {
            if let Some(end) = process.ended() {
                bail!("{end}");
            }
            if answers(spec.ready).await {
                return Ok(process);
            }
            if Duration::from_nanos(clock::mono_ns() - from) > READY_TIME_MAX {
                let words = last_words(&process.log, logged);
                bail!(
                    "{name} was not ready within {} s; {words}",
                    READY_TIME_MAX.as_secs()
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How it ended, when it did and nobody asked it to.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let words = last_words(&self.log, self.logged);
        Some(format!("{} ended with {status}; {words}", self.name))
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub(super) async fn kill(mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("killing {}", self.name))
    }

    /// Asks it to stop, and kills it when it does not.
    pub(super) async fn stop(mut self) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id.and_then(Pid::from_raw)
            && let Err(error) = kill_process(id, Signal::TERM)
        {
            tracing::debug!(%error, name = self.name, "it had ended already");
        }
        if timeout(STOP_TIME_MAX, self.child.wait()).await.is_err() {
            tracing::warn!(name = self.name, "it does not stop and is killed");
        }
    }

    /// Memory that it holds (MiB).
    pub(super) fn resident_mib(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u32 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(f64::from(kib) / 1_024.0)
    }
}

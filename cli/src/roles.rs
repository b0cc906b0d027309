//! Control, collector and query of one estate as child processes of this one.

use std::{env, path::Path, sync::Arc};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::{
    children::{Child, Outage, Ready, Spec, any_given_up},
    console::Console,
    site::{RoleFiles, RolePorts},
};

/// The roles' processes, in order of their start.
#[derive(Debug)]
pub(crate) struct Roles {
    console: Arc<Console>,
    kill: CancellationToken,
    children: Vec<(&'static str, Child)>,
}

impl Roles {
    /// Nothing runs yet. When `kill` is cancelled, children are killed instead of asked to stop.
    pub(crate) const fn new(console: Arc<Console>, kill: CancellationToken) -> Self {
        Self {
            console,
            kill,
            children: Vec::new(),
        }
    }

    /// Starts control and collector, and waits until both can be used.
    ///
    /// # Errors
    /// When one does not become ready.
    pub(crate) async fn start_writers(
        &mut self,
        files: &RoleFiles,
        ports: &RolePorts,
    ) -> anyhow::Result<()> {
        self.start("control", &files.control, &files.logs, ports.control)
            .await?;
        let collector = (&files.collector, ports.collector);
        self.start("collector", collector.0, &files.logs, collector.1)
            .await
    }

    /// Starts query, and waits until it can be asked.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(crate) async fn start_query(
        &mut self,
        files: &RoleFiles,
        ports: &RolePorts,
    ) -> anyhow::Result<()> {
        self.start("query", &files.query, &files.logs, ports.postgres)
            .await
    }

    async fn start(
        &mut self,
        name: &'static str,
        config: &Path,
        logs: &Path,
        port: std::net::SocketAddr,
    ) -> anyhow::Result<()> {
        let program = env::current_exe().context("looking for the path of this program")?;
        let spec = Spec {
            name: name.to_owned(),
            program,
            arguments: vec![
                name.into(),
                "--config".into(),
                config.into(),
                "--die-with-parent".into(),
            ],
            ready: Ready::Port(port),
            log: logs.join(format!("{name}.log")),
        };
        let child = Child::start(spec, Arc::clone(&self.console), self.kill.clone());
        // Kept before the wait: a signal ends the wait, and the child must be stopped then too.
        self.children.push((name, child));
        match self.children.last() {
            Some((_, child)) => child.ready().await,
            None => Ok(()),
        }
    }

    /// What kills control for a while; nothing when it was not started.
    pub(crate) fn control_outage(&self) -> Option<Outage> {
        let control = self.children.iter().find(|(name, _)| *name == "control");
        control.map(|(_, child)| child.outage())
    }

    /// Waits until one of them will not be started again: the others cannot do without it for long.
    pub(crate) async fn given_up(&self) {
        any_given_up(self.children.iter().map(|(_, child)| child)).await;
    }

    /// Stops query, control and, last, the collector, which takes and seals what the others deliver. Returns what did not
    /// go well.
    pub(crate) async fn stop(&mut self) -> Vec<String> {
        let mut troubles = Vec::new();
        for name in ["query", "control", "collector"] {
            while let Some(at) = self.children.iter().position(|(of, _)| *of == name) {
                let (_, child) = self.children.swap_remove(at);
                troubles.extend(child.stop().await);
            }
        }
        troubles
    }
}

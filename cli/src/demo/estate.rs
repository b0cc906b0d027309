//! The processes of the demo: started in order, ready before they are used, stopped so that everything gets sealed.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::future::{join_all, try_join_all};
use tokio_util::sync::CancellationToken;

use super::{ports::Ports, provision::Provisioned};
use crate::{
    children::{Child, Outage, Ready, Spec, any_given_up},
    console::Console,
    roles::Roles,
    site::AUDITOR,
};

/// All child processes.
#[derive(Debug)]
pub(crate) struct Estate {
    console: Arc<Console>,
    kill: CancellationToken,
    proxies: Vec<Child>,
    roles: Roles,
}

impl Estate {
    /// Nothing runs yet. When `kill` is cancelled, children are killed instead of asked to stop.
    pub(crate) fn new(console: Arc<Console>, kill: CancellationToken) -> Self {
        Self {
            roles: Roles::new(Arc::clone(&console), kill.clone()),
            console,
            kill,
            proxies: Vec::new(),
        }
    }

    /// Starts everything and waits until calls can be made, or until `time_up`.
    ///
    /// # Errors
    /// When a process does not become ready.
    pub(crate) async fn start(
        &mut self,
        program: &Path,
        files: &Provisioned,
        ports: &Ports,
        time_up: &CancellationToken,
    ) -> anyhow::Result<()> {
        let started = time_up
            .run_until_cancelled(self.start_all(program, files, ports))
            .await;
        started.unwrap_or(Ok(()))
    }

    async fn start_all(
        &mut self,
        program: &Path,
        files: &Provisioned,
        ports: &Ports,
    ) -> anyhow::Result<()> {
        self.console.say("starting");
        self.roles.start_writers(&files.roles, &ports.roles).await?;
        for ((slug, config), ports) in files.proxies.iter().zip(&ports.proxies) {
            let logs = &files.roles.logs;
            let spec = proxy(program, slug, config, logs, Ready::Http(ports.admin));
            let child = Child::start(spec, Arc::clone(&self.console), self.kill.clone());
            self.proxies.push(child);
        }
        self.roles.start_query(&files.roles, &ports.roles).await?;
        let (password, address) = (&files.password, ports.roles.postgres);
        self.console.say(format_args!(
            "ask the books at any time:\n  PGPASSWORD={password} psql -h {} -p {} -U {AUDITOR} counterfoil\n  \
             PGPASSWORD={password} counterfoil sql --url http://{AUDITOR}@{} \"select * from denials\"",
            address.ip(),
            address.port(),
            ports.roles.http,
        ));
        if let Some(foreign) = ports.roles.foreign {
            self.console.say(foreign);
        }
        try_join_all(self.proxies.iter().map(Child::ready)).await?;
        self.console
            .say(format_args!("{} proxies are ready", self.proxies.len()));
        Ok(())
    }

    /// Waits until a process will not be started again.
    pub(crate) async fn given_up(&self) {
        tokio::select! {
            () = self.roles.given_up() => {}
            () = any_given_up(self.proxies.iter()) => {}
        }
    }

    /// What kills control for a while; nothing when it was not started.
    pub(crate) fn control_outage(&self) -> Option<Outage> {
        self.roles.control_outage()
    }

    /// Stops the proxies, query, control and, last, the collector, which takes and seals what the others deliver.
    /// Returns what did not go well.
    pub(crate) async fn stop(&mut self) -> Vec<String> {
        self.console.say("stopping proxies, query, control, collector; the last entries are delivered and sealed");
        let proxies = join_all(self.proxies.drain(..).map(Child::stop)).await;
        let roles = self.roles.stop().await;
        proxies.into_iter().flatten().chain(roles).collect()
    }
}

fn proxy(program: &Path, slug: &str, config: &Path, logs: &Path, ready: Ready) -> Spec {
    let arguments: Vec<OsString> = vec!["--config".into(), config.into()];
    let name = format!("proxy {slug}");
    let log: PathBuf = logs.join(format!("proxy-{slug}.log"));
    Spec {
        name,
        program: program.to_owned(),
        arguments,
        ready,
        log,
    }
}

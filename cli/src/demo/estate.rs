//! The processes of the demo: started in order, ready before they are used, stopped so that everything gets sealed.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use futures::future::{join_all, try_join_all};
use tokio_util::sync::CancellationToken;

use super::{
    ports::Ports,
    provision::{AUDITOR, Provisioned},
};
use crate::{
    children::{Child, Ready, Spec},
    console::Console,
};

/// All child processes.
#[derive(Debug)]
pub(crate) struct Estate {
    console: Arc<Console>,
    kill: CancellationToken,
    proxies: Vec<Child>,
    /// In order of their start: control, collector, query.
    roles: Vec<Child>,
}

impl Estate {
    /// Nothing runs yet. When `kill` is cancelled, children are killed instead of asked to stop.
    pub(crate) fn new(console: Arc<Console>, kill: CancellationToken) -> Self {
        Self {
            console,
            kill,
            proxies: Vec::new(),
            roles: Vec::new(),
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
        let own = env::current_exe().context("looking for the path of this program")?;
        let role = |name: &str, config: &Path, ready| Spec {
            name: name.to_owned(),
            program: own.clone(),
            arguments: vec![
                name.into(),
                "--config".into(),
                config.into(),
                "--die-with-parent".into(),
            ],
            ready,
            log: files.logs.join(format!("{name}.log")),
        };
        self.role(role("control", &files.control, Ready::Port(ports.control)))
            .await?;
        self.role(role(
            "collector",
            &files.collector,
            Ready::Port(ports.collector),
        ))
        .await?;
        for ((slug, config), ports) in files.proxies.iter().zip(&ports.proxies) {
            self.proxies.push(self.child(proxy(
                program,
                slug,
                config,
                &files.logs,
                Ready::Http(ports.admin),
            )));
        }
        self.role(role("query", &files.query, Ready::Port(ports.postgres)))
            .await?;
        let (password, address) = (&files.password, ports.postgres);
        self.console.say(format_args!(
            "ask the books at any time:\n  PGPASSWORD={password} psql -h {} -p {} -U {AUDITOR} counterfoil\n  \
             PGPASSWORD={password} counterfoil sql --url http://{AUDITOR}@{} \"select * from denials\"",
            address.ip(),
            address.port(),
            ports.http,
        ));
        try_join_all(self.proxies.iter().map(Child::ready)).await?;
        self.console
            .say(format_args!("{} proxies are ready", self.proxies.len()));
        Ok(())
    }

    async fn role(&mut self, spec: Spec) -> anyhow::Result<()> {
        let child = self.child(spec);
        // Kept before the wait: a signal ends the wait, and the child must be stopped then too.
        self.roles.push(child);
        match self.roles.last() {
            Some(child) => child.ready().await,
            None => Ok(()),
        }
    }

    fn child(&self, spec: Spec) -> Child {
        Child::start(spec, Arc::clone(&self.console), self.kill.clone())
    }

    /// Stops the proxies, query, control and, last, the collector, which takes and seals what the others deliver.
    /// Returns what did not go well.
    pub(crate) async fn stop(&mut self) -> Vec<String> {
        self.console.say("stopping proxies, query, control, collector; the last entries are delivered and sealed");
        let mut troubles = join_all(self.proxies.drain(..).map(Child::stop)).await;
        let mut roles: Vec<Option<Child>> = self.roles.drain(..).map(Some).collect();
        for index in [2, 0, 1] {
            if let Some(child) = roles.get_mut(index).and_then(Option::take) {
                troubles.push(child.stop().await);
            }
        }
        troubles.into_iter().flatten().collect()
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

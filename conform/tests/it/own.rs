//! The real proxy, in this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use counterfoil_conform::{Finding, Kept, Outcome, Rig, Settings, World, all, run};
use counterfoil_proxy::Config;
use tokio_util::sync::CancellationToken;

/// Longest wait for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Proxies on threads of their own, stopped when dropped.
pub(crate) struct Proxies {
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Proxies {
    pub(crate) fn start(configs: &[PathBuf]) -> Self {
        let stop = CancellationToken::new();
        let threads = configs
            .iter()
            .map(|file| {
                let config = Config::load(file).unwrap();
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    runtime
                        .block_on(counterfoil_proxy::run(&config, stop))
                        .unwrap();
                })
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

pub(crate) async fn start() -> (Arc<Rig>, Kept, Proxies) {
    let mut world = World::prepare().await.unwrap();
    let configs = world.proxies().each_ref().map(|node| node.config.clone());
    world.let_go();
    let proxies = Proxies::start(&configs);
    let (rig, kept) = world.ready(PATIENCE).await.unwrap();
    (rig, kept, proxies)
}

pub(crate) fn failures(findings: &[Finding]) -> Vec<String> {
    findings
        .iter()
        .filter(|found| found.outcome != Outcome::Pass)
        .map(|found| format!("{} {}: {}", found.check, found.outcome.as_str(), found.saw))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_proxy_passes_every_check() {
    let (rig, _kept, _proxies) = start().await;
    let findings = run(&rig, all(), Settings::default(), |_| {}).await.unwrap();
    let failures = failures(&findings);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

//! The real proxy, in this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use counterfoil_conform::{Finding, Kept, Outcome, Rig, Settings, World, all, run};
use counterfoil_proxy::Config;
use tokio_util::sync::CancellationToken;

use crate::collector;

/// Longest wait for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Proxies on threads of their own, told to stop when dropped.
pub(crate) struct Proxies {
    stop: CancellationToken,
}

impl Proxies {
    pub(crate) fn start(configs: &[PathBuf]) -> Self {
        let stop = CancellationToken::new();
        for file in configs {
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
            });
        }
        Self { stop }
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        // they would wait for a collector that never comes: the process ends before
        self.stop.cancel();
    }
}

/// A world of the real proxy and the real collector.
async fn start() -> (Arc<Rig>, Kept, Proxies) {
    let mut world = World::prepare().await.unwrap();
    let configs = world.proxies().each_ref().map(|node| node.config.clone());
    world.let_go();
    let proxies = Proxies::start(&configs);
    collector::start(&mut world);
    world.ready(PATIENCE).await.unwrap();
    let (rig, kept) = world.into_rig();
    (rig, kept, proxies)
}

pub(crate) fn failures(findings: &[Finding]) -> Vec<String> {
    findings
        .iter()
        .filter(|found| found.outcome != Outcome::Pass)
        .map(|found| format!("{} {}: {}", found.check, found.outcome.as_str(), found.saw))
        .collect()
}

/// The slowest checks, to see in a failed run what took so long.
pub(crate) fn slowest(findings: &[Finding]) -> String {
    let mut all: Vec<_> = findings.iter().collect();
    all.sort_by_key(|found| std::cmp::Reverse(found.duration_ms));
    let some = all.iter().take(9);
    some.map(|found| format!("{} {} ms", found.check, found.duration_ms))
        .collect::<Vec<_>>()
        .join(", ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_proxy_passes_every_check() {
    let (rig, _kept, _proxies) = start().await;
    let findings = run(&rig, all(), Settings::default(), |_| {}).await.unwrap();
    eprintln!("slowest: {}", slowest(&findings));
    let failures = failures(&findings);
    assert!(
        failures.is_empty(),
        "{}\nslowest: {}",
        failures.join("\n"),
        slowest(&findings)
    );
}

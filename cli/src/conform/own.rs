//! The own proxy under test: its processes in a throw-away world, and a collector beside them.

use std::{fs::File, path::Path, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use counterfoil_conform::{Check, Kept, Node, Receiver, Rig, Stored, World};
use counterfoil_trust::SpiffeId;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{console::shown, demo::binary, sql::offline::Offline};

const READY_MAX: Duration = Duration::from_secs(60);
/// Lines of a log that an error quotes.
const TAIL_LINES: usize = 6;

/// A running world. Its processes end when it is dropped.
pub(super) struct Own {
    pub(super) rig: Arc<Rig>,
    _processes: Vec<Child>,
    _kept: Kept,
}

/// Starts two proxies, and a collector when one of the checks asks for it.
///
/// # Errors
/// When a process does not start or serve; with the end of its log.
pub(super) async fn start(checks: &[Check]) -> anyhow::Result<Own> {
    let proxy = binary::proxy().await?;
    let mut world = World::prepare().await?;
    world.let_go();
    let mut processes = Vec::new();
    let mut nodes = world.proxies().to_vec();
    for node in &nodes {
        processes.push(spawn(&proxy, &[], node)?);
    }
    if checks.iter().any(|check| check.id == "A07") {
        let (node, receiver) = collector(&world)?;
        let own = std::env::current_exe().context("looking for the path of this program")?;
        processes.push(spawn(&own, &["collector", "--die-with-parent"], &node)?);
        nodes.push(node);
        world.watch(receiver);
    }
    let ended = async {
        let waiting = processes.iter_mut().map(|process| Box::pin(process.wait()));
        let (status, at, _) = futures::future::select_all(waiting).await;
        (at, status)
    };
    let ready = tokio::select! {
        ready = world.ready(READY_MAX) => ready.map_err(anyhow::Error::from),
        (at, status) = ended => {
            let name = nodes.get(at).map_or("a process", |node| node.name);
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(anyhow!("{name} ended with {status}"))
        }
    };
    ready.map_err(|error| {
        let logs: Vec<String> = nodes.iter().map(tail).collect();
        anyhow!("{error:#}; the ends of the logs:\n{}", logs.join("\n"))
    })?;
    let (rig, kept) = world.into_rig();
    Ok(Own {
        rig,
        _processes: processes,
        _kept: kept,
    })
}

fn spawn(program: &Path, arguments: &[&str], node: &Node) -> anyhow::Result<Child> {
    let starting = || format!("starting {}", node.name);
    let log = File::create(&node.log).with_context(starting)?;
    Command::new(program)
        .args(arguments)
        .arg("--config")
        .arg(&node.config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().with_context(starting)?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(starting)
}

/// A collector whose rows are counted as an auditor would count them.
fn collector(world: &World) -> anyhow::Result<(Node, Receiver)> {
    let (node, address, data) = world.collector();
    let data = data.to_owned();
    let receiver = Receiver {
        address: address.to_string(),
        spiffe_id: Some(SpiffeId::parse(World::collector_id())?),
        stored: Stored::Counted(Arc::new(move |writer| {
            count(&data, writer).map_err(|error| format!("{error:#}"))
        })),
    };
    Ok((node.clone(), receiver))
}

fn count(data: &Path, writer: &str) -> anyhow::Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // a writer's name holds no quote
    let sql = format!("SELECT count(*) FROM conformance_results WHERE writer = '{writer}'");
    let answer = runtime.block_on(async { Offline::open(data)?.ask(&sql).await })?;
    let first = answer.rows.first().and_then(|row| row.first());
    first.and_then(Value::as_u64).context("counting rows")
}

fn tail(node: &Node) -> String {
    let text = std::fs::read_to_string(&node.log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let some = lines.iter().skip(lines.len().saturating_sub(TAIL_LINES));
    let end: Vec<&str> = some.copied().collect();
    format!("{}: {}", node.name, shown(&end.join("\n")))
}

//! The driver: starts traces at a steady rate, whether the earlier ones have ended or not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::Rng;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    app::Stage,
    plan::{Plan, Traces},
};

/// How long the last traces may take after the time is up.
const END_MAX: Duration = Duration::from_secs(10);
/// More open traces than this mean that the machine cannot keep up; further ones wait.
const OPEN_MAX: u64 = 2_000;

/// Counts of a running demo.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) started: AtomicU64,
    pub(crate) ended: AtomicU64,
    /// Of the ended ones, those in which a call failed.
    pub(crate) failed: AtomicU64,
    /// Calls of the started traces.
    pub(crate) calls: AtomicU64,
    /// Calls made to be denied.
    pub(crate) forbidden: AtomicU64,
}

impl Tally {
    /// Traces that have not ended.
    pub(crate) fn open(&self) -> u64 {
        let ended = self.ended.load(Ordering::Relaxed);
        self.started.load(Ordering::Relaxed).saturating_sub(ended)
    }
}

/// Starts traces until `time_up`, then gives those that are open some seconds to end.
///
/// Returns how many were still open then, and whether a recording ran out of traces.
pub(crate) async fn drive(
    stage: &Arc<Stage>,
    traces: &mut Traces,
    rate: f64,
    tally: &Arc<Tally>,
    time_up: &CancellationToken,
    out_of_traces: impl Fn(),
) -> u64 {
    let tasks = TaskTracker::new();
    let dropped = CancellationToken::new();
    let from = tokio::time::Instant::now();
    let mut number = 0_u32;
    loop {
        let due = from + Duration::from_secs_f64(f64::from(number) / rate);
        if time_up
            .run_until_cancelled(tokio::time::sleep_until(due))
            .await
            .is_none()
        {
            break;
        }
        if tally.open() >= OPEN_MAX {
            number = number.saturating_add(1);
            continue;
        }
        let Some(plan) = traces.next_plan() else {
            out_of_traces();
            time_up.cancelled().await;
            break;
        };
        number = number.saturating_add(1);
        tally.started.fetch_add(1, Ordering::Relaxed);
        tally.calls.fetch_add(
            u64::try_from(plan.calls.len()).unwrap_or(0),
            Ordering::Relaxed,
        );
        tasks.spawn(trace(
            Arc::clone(stage),
            plan,
            Arc::clone(tally),
            dropped.clone(),
        ));
    }
    tasks.close();
    let ended = tokio::time::timeout(END_MAX, tasks.wait()).await;
    let open = if ended.is_err() { tally.open() } else { 0 };
    dropped.cancel();
    tasks.wait().await;
    open
}

async fn trace(stage: Arc<Stage>, plan: Plan, tally: Arc<Tally>, dropped: CancellationToken) {
    let traceparent = traceparent(&plan.trace_id.to_string());
    let running = stage.run(plan);
    if let Some(good) = dropped
        .run_until_cancelled(running.drive(&traceparent))
        .await
    {
        tally.ended.fetch_add(1, Ordering::Relaxed);
        if !good {
            tally.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The header of a caller whose own span nobody records.
pub(crate) fn traceparent(trace_id: &str) -> String {
    // Zero would be no span.
    let span = rand::rng().random::<u64>() | 1;
    format!("00-{trace_id}-{span:016x}-01")
}

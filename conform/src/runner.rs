//! Runs checks, some at a time, between two looks whether the target lives.

use std::sync::Arc;
use std::time::Duration;

use counterfoil_entry::clock;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::check::{Check, Finding, Outcome, Stop, chain};
use crate::frames;
use crate::rig::{Probe, Rig};

/// How checks are run.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Longest time for one check.
    pub limit: Duration,
    /// Checks at a time.
    pub at_once: usize,
}

impl Default for Settings {
    /// 60 s a check, which is some times what the slowest takes, and eight at a time.
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(60),
            at_once: 8,
        }
    }
}

/// The target does not serve a good caller, so that a refusal of bad ones would prove nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{target} does not serve the allowed call {when}: {saw}")]
pub struct NoGround {
    /// Whom was asked.
    pub target: String,
    /// When that was.
    pub when: &'static str,
    /// What was seen.
    pub saw: String,
}

/// Asks every one of `checks`, and tells `progress` each finding as it comes. The findings are in
/// the order of `checks`.
///
/// # Errors
/// [`NoGround`] when a good call is not served before or after them: then no finding counts.
pub async fn run(
    rig: &Arc<Rig>,
    checks: &[Check],
    settings: Settings,
    mut progress: impl FnMut(&Finding) + Send,
) -> Result<Vec<Finding>, NoGround> {
    serves(rig, "before the checks").await?;
    let room = Arc::new(Semaphore::new(settings.at_once.max(1)));
    let mut running = JoinSet::new();
    for (at, check) in checks.iter().copied().enumerate() {
        let (rig, room) = (Arc::clone(rig), Arc::clone(&room));
        running.spawn(async move {
            let _place = room.acquire_owned().await;
            (at, ask(&rig, check, settings.limit).await)
        });
    }
    let mut findings = Vec::new();
    while let Some(joined) = running.join_next().await {
        match joined {
            Ok((at, finding)) => {
                progress(&finding);
                findings.push((at, finding));
            }
            Err(error) => tracing::error!(%error, "a check died"),
        }
    }
    serves(rig, "after the checks").await?;
    for (at, check) in checks.iter().enumerate() {
        if !findings.iter().any(|(found, _)| *found == at) {
            let died = finding(
                *check,
                (Outcome::Fail, String::new(), "the check died".to_owned()),
                0,
            );
            findings.push((at, died));
        }
    }
    findings.sort_by_key(|(at, _)| *at);
    Ok(findings.into_iter().map(|(_, finding)| finding).collect())
}

async fn ask(rig: &Rig, check: Check, limit: Duration) -> Finding {
    let began_ns = clock::mono_ns();
    let judged = check.ask(rig, limit).await;
    let took_ns = clock::mono_ns().saturating_sub(began_ns);
    finding(check, judged, took_ns / 1_000_000)
}

fn finding(check: Check, (outcome, sent, saw): (Outcome, String, String), took_ms: u64) -> Finding {
    Finding {
        check: check.id,
        title: check.title,
        severity: check.severity,
        outcome,
        sent,
        saw,
        duration_ms: took_ms,
        checked_at: clock::wall(),
    }
}

/// Whether the target serves a good caller now.
pub(crate) async fn serves(rig: &Rig, when: &'static str) -> Result<(), NoGround> {
    let none = |saw: String| NoGround {
        target: rig.target.address.clone(),
        when,
        saw,
    };
    let probe = Probe::new();
    let (good, saw) = match rig.ask(&probe, &rig.calls.allowed, "").await {
        Ok(said) => rig.served(&probe, &said).await,
        // a target that speaks HTTP/2 only
        Err(Stop::Skipped(_)) => {
            let host = rig.target.host.as_bytes();
            let fields = frames::fields(&probe, &rig.calls.allowed, host);
            match frames::ask(rig, &fields, None).await {
                Ok(answered) => (!answered.is_refusal(), answered.words()),
                Err(stop) => return Err(none(words(&stop))),
            }
        }
        Err(stop) => return Err(none(words(&stop))),
    };
    if good { Ok(()) } else { Err(none(saw)) }
}

fn words(stop: &Stop) -> String {
    match stop {
        Stop::Skipped(why) => why.clone(),
        Stop::Trouble(trouble) => chain(trouble),
    }
}

//! The evaluator: judges objectives and the mesh by the books, again and again, and tells Alertmanager.
//!
//! It reads roll-ups and what those do not count yet. What is late freezes: nothing ends by it (ADR 17).
//! Each evaluation first writes what changed into the books (table `alerts`), then keeps the states on
//! the disk, and then tells: a crash between any two of these tells nothing twice and forgets nothing.

mod alertmanager;
mod burn;
mod config;
mod finding;
mod gauges;
mod lateness;
mod mesh;
mod revisions;
mod rows;
mod state;
mod store;
mod verifier;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::table::TableId;
use counterfoil_entry::{Time, clock};
use counterfoil_spool::Lane;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use alertmanager::{Member, Standing};
use finding::{Finding, Severity};
use lateness::{Lateness, lateness};
use revisions::Revisions;
use state::{Alerts, Stage};
use store::Store;
use verifier::Verifier;

use crate::config::{ConfigError, QueryConfig};
use crate::engine::Engine;
use crate::error::SqlError;
use crate::objectives::{self, Objective};

pub use config::AlertsConfig;
pub(crate) use gauges::Gauges;
pub use store::StoreError;

/// Memory of the evaluator's own questions (bytes).
const MEMORY_BYTES: usize = 256 << 20;
/// Long windows are judged at least this often: they change slowly, and cost more.
const LONG_EVERY_NS: i64 = 300_000_000_000;
/// How long an evaluation may take. A longer one is given up, so that the next one is not late, too.
const EVALUATION_MAX: Duration = Duration::from_secs(120);

/// Judges, writes down, and tells.
pub(crate) struct Evaluator {
    engine: Engine,
    objectives_dir: Option<PathBuf>,
    members: Vec<Member>,
    every: Duration,
    verifier: Verifier,
    store: Store,
    alerts: Alerts,
    gauges: Arc<Gauges>,
}

/// Why the evaluator cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum AlertsError {
    /// Section `[alerts]` was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What was kept cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its engine cannot be made.
    #[error("making the engine of the evaluator: {0}")]
    Engine(#[from] SqlError),
}

impl Evaluator {
    /// Reads what was kept, and checks the configuration; nothing runs yet.
    ///
    /// # Errors
    /// [`AlertsError`]
    pub(crate) fn open(config: &QueryConfig, engine: &Engine) -> Result<Self, AlertsError> {
        let members = config.alerts.members()?;
        let file = config.alerts.state_file.clone();
        let default = || config.identity.state_dir.join("alerts.json");
        let (store, alerts) = Store::open(file.unwrap_or_else(default))?;
        Ok(Self {
            engine: engine.beside(MEMORY_BYTES)?,
            objectives_dir: config.objectives_dir.clone(),
            members,
            every: Duration::from_secs(config.alerts.every_s),
            verifier: Verifier::new(config.data_dir.join("books"), config.alerts.verify_every_s),
            store,
            alerts,
            gauges: Arc::default(),
        })
    }

    /// Counts of its work.
    pub(crate) fn gauges(&self) -> Arc<Gauges> {
        Arc::clone(&self.gauges)
    }

    /// Evaluates until `stop`, and writes rows of `objectives` and `alerts` to `lane`.
    ///
    /// Not cancel safe: like a crash, after which nothing is forgotten or told twice.
    pub(crate) async fn run(mut self, lane: Lane, stop: CancellationToken) {
        let (told, standing) = watch::channel(Standing::default());
        let mut members = JoinSet::new();
        for member in self.members.drain(..) {
            let gauges = Arc::clone(&self.gauges);
            members.spawn(member.run(standing.clone(), gauges, stop.clone()));
        }
        drop(standing);
        self.tell(&told, None);
        let mut pen = Pen {
            lane,
            class: class(),
            is_failing: false,
        };
        let mut revisions = None;
        let mut long_at: Option<Time> = None;
        let mut judged: Option<Arc<Vec<Objective>>> = None;
        let mut failures = Failures::default();
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let now = clock::wall();
            self.take_objectives(&mut revisions, &mut pen, now, &mut failures)
                .await;
            let in_force = self.engine.objectives();
            if judged.as_ref().is_some_and(|before| *before != in_force) {
                long_at = None;
            }
            judged = Some(in_force);
            let with_long = long_at.is_none_or(|at| now.since_ns(at) >= LONG_EVERY_NS);
            let evaluation = self.evaluate(with_long, now, &mut pen, &mut failures);
            let evaluated = tokio::select! {
                () = stop.cancelled() => break,
                evaluated = tokio::time::timeout(EVALUATION_MAX, evaluation) => evaluated,
            };
            match evaluated {
                Ok(true) if with_long => long_at = Some(now),
                Ok(_) => {}
                Err(_) => failures.note("an evaluation took too long", None),
            }
            if let Err(error) = self.store.keep(&self.alerts) {
                // People are told all the same: after a restart they may be told once more.
                failures.note("the alerts cannot be kept", Some(&error));
            }
            let is_whole = failures.end_of_evaluation(&self.gauges, now);
            self.tell(&told, is_whole.then_some(now));
        }
        while members.join_next().await.is_some() {}
    }

    /// What stands from now on; an evaluation that was not whole does not feed the dead-man's switch.
    fn tell(&self, told: &watch::Sender<Standing>, evaluated_at: Option<Time>) {
        let firing = || {
            self.alerts
                .iter()
                .filter(|alert| alert.stage == Stage::Firing)
        };
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.gauges.firing.set(count(firing().count()));
        let frozen = firing().filter(|alert| alert.frozen);
        self.gauges.frozen.set(count(frozen.count()));
        told.send_if_modified(|standing| {
            let is_same = *standing.alerts == self.alerts;
            standing.evaluated_at = evaluated_at.or(standing.evaluated_at);
            if !is_same {
                standing.alerts = Arc::new(self.alerts.clone());
            }
            !is_same
        });
    }

    /// Reads the folder of objectives again, and writes down what changed. What cannot be used leaves
    /// those in force that are.
    async fn take_objectives(
        &self,
        revisions: &mut Option<Revisions>,
        pen: &mut Pen,
        now: Time,
        failures: &mut Failures,
    ) {
        let Some(directory) = self.objectives_dir.clone() else {
            return;
        };
        let loaded = tokio::task::spawn_blocking(move || objectives::load(&directory)).await;
        match loaded {
            Ok(Ok(loaded)) if loaded != *self.engine.objectives() => {
                tracing::info!(objectives = loaded.len(), "objectives changed");
                self.engine.set_objectives(loaded);
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => failures.note("the objectives cannot be read again", Some(&error)),
            Err(error) => failures.note("the objectives cannot be read again", Some(&error)),
        }
        if revisions.is_none() {
            match Revisions::of_books(&self.engine).await {
                Ok(known) => *revisions = Some(known),
                Err(error) => {
                    failures.note("the revisions of objectives cannot be read", Some(&error));
                }
            }
        }
        if let Some(revisions) = revisions {
            for row in revisions.change(&self.engine.objectives(), now) {
                pen.write(TableId::Objectives, |header, out| row.encode(header, out));
            }
        }
    }

    /// Judges every group that is due; whether all of them could be.
    async fn evaluate(
        &mut self,
        with_long: bool,
        now: Time,
        pen: &mut Pen,
        failures: &mut Failures,
    ) -> bool {
        let late = match lateness(&self.engine, now).await {
            Ok(late) => late,
            Err(error) => {
                failures.note("the writers' statements cannot be read", Some(&error));
                return false;
            }
        };
        let groups: &[&str] = if with_long {
            &["page", "mesh", "books", "ticket", "window"]
        } else {
            &["page", "mesh", "books"]
        };
        let mut is_whole = true;
        for group in groups {
            // Not the begin of the evaluation: on a busy machine that is long ago.
            let now = clock::wall();
            match self.judge(group, &late, now).await {
                Ok(findings) => self.step(group, &findings, &late, now, pen),
                Err(error) => {
                    is_whole = false;
                    failures.note("a group of alerts cannot be judged", Some(&error));
                }
            }
        }
        is_whole
    }

    async fn judge(
        &mut self,
        group: &str,
        late: &Lateness,
        now: Time,
    ) -> Result<Vec<Finding>, SqlError> {
        let engine = &self.engine;
        match group {
            "page" => burn::burning(engine, group, Severity::Page, &burn::PAGES, late).await,
            "ticket" => burn::burning(engine, group, Severity::Ticket, &burn::TICKETS, late).await,
            "books" => Ok(self.verifier.findings(group, now)),
            "window" => burn::breached(engine, group, late, now).await,
            _ => mesh::mesh(engine, group, late, now).await,
        }
    }

    fn step(
        &mut self,
        group: &str,
        findings: &[Finding],
        late: &Lateness,
        now: Time,
        pen: &mut Pen,
    ) {
        let is_frozen = |labels: &std::collections::BTreeMap<String, String>| {
            late.is_late(labels.get("service").map(String::as_str))
        };
        let objectives = self.engine.objectives();
        let why_gone = |labels: &std::collections::BTreeMap<String, String>| {
            let named = |one: &Objective| labels.get("objective") == Some(&one.name);
            let is_withdrawn = labels.contains_key("objective") && !objectives.iter().any(named);
            if is_withdrawn {
                "withdrawn"
            } else {
                "no_calls"
            }
        };
        for row in self
            .alerts
            .step(group, findings, is_frozen, why_gone, now, late.until)
        {
            tracing::info!(alert = row.labels, state = row.state, "{}", row.summary);
            pen.write(TableId::Alerts, |header, out| row.encode(header, out));
        }
    }
}

/// What went wrong in one evaluation, logged when it begins and when it is over.
#[derive(Debug, Default)]
struct Failures {
    was: bool,
    now: Vec<String>,
}

impl Failures {
    fn note(&mut self, what: &'static str, error: Option<&dyn std::error::Error>) {
        let text = error.map_or_else(|| what.to_owned(), |error| format!("{what}: {error}"));
        self.now.push(text);
    }

    /// Counts and logs; whether the evaluation that began at `now` was whole.
    fn end_of_evaluation(&mut self, gauges: &Gauges, now: Time) -> bool {
        let took = Duration::from_nanos(clock::wall().since_ns(now).unsigned_abs());
        gauges.seconds.observe(took.as_secs_f64());
        let failed = std::mem::take(&mut self.now);
        let is_whole = failed.is_empty();
        if is_whole {
            gauges.evaluations.inc();
            gauges
                .evaluated_at_s
                .set(clock::wall().as_ns() / 1_000_000_000);
        } else {
            gauges.evaluations_failed.inc();
        }
        match (self.was, is_whole) {
            (false, false) => {
                tracing::error!(failed = failed.join("; "), "alerts cannot be judged")
            }
            (true, true) => tracing::info!("alerts are judged again"),
            _ => {}
        }
        self.was = !is_whole;
        is_whole
    }
}

/// Writes rows; what does not fit is dropped and counted by the spool.
struct Pen {
    lane: Lane,
    class: RetentionClass,
    is_failing: bool,
}

impl Pen {
    fn write(
        &mut self,
        table: TableId,
        encode: impl FnOnce(&counterfoil_entry::record::HeaderRef<'_>, &mut Vec<u8>),
    ) {
        let failed = self.lane.append(table, &self.class, encode).err();
        if self.is_failing == failed.is_some() {
            return;
        }
        self.is_failing = failed.is_some();
        match failed {
            None => tracing::info!("the spool takes rows on alerts again"),
            Some(error) => tracing::error!(%error, "rows on alerts are dropped and counted"),
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "the text is a constant and a test parses it"
)]
fn class() -> RetentionClass {
    RetentionClass::parse("audit_7y").expect("a constant class")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_class_of_alerts_is_one() {
        assert_eq!(super::class().to_string(), "audit_7y");
    }
}

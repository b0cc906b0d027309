//! Counts of the evaluator's own work.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// What the evaluator did since it began.
#[derive(Debug)]
pub(crate) struct Gauges {
    /// How long an evaluation takes.
    pub(crate) seconds: Histogram,
    /// Evaluations that judged everything.
    pub(crate) evaluations: Counter,
    /// Evaluations of which a part failed.
    pub(crate) evaluations_failed: Counter,
    /// End of the last whole one (s since the Unix epoch).
    pub(crate) evaluated_at_s: Gauge,
    /// Alerts that fire now.
    pub(crate) firing: Gauge,
    /// Alerts that fire and cannot end, for their data are late.
    pub(crate) frozen: Gauge,
    /// Requests that an Alertmanager took.
    pub(crate) pushes: Counter,
    /// Requests that none took.
    pub(crate) pushes_failed: Counter,
}

impl Default for Gauges {
    fn default() -> Self {
        Self {
            // From a millisecond to the time after which an evaluation is given up.
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 18)),
            evaluations: Counter::default(),
            evaluations_failed: Counter::default(),
            evaluated_at_s: Gauge::default(),
            firing: Gauge::default(),
            frozen: Gauge::default(),
            pushes: Counter::default(),
            pushes_failed: Counter::default(),
        }
    }
}

impl Gauges {
    /// Shows them in `registry`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "How long an evaluation took";
        registry.register("alert_evaluation_seconds", help, self.seconds.clone());
        let mut counter = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        counter(
            "alert_evaluations",
            "Evaluations that judged everything",
            &self.evaluations,
        );
        counter(
            "alert_evaluations_failed",
            "Evaluations of which a part failed",
            &self.evaluations_failed,
        );
        counter(
            "alert_pushes",
            "Requests that an Alertmanager took",
            &self.pushes,
        );
        counter(
            "alert_pushes_failed",
            "Requests that none took",
            &self.pushes_failed,
        );
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| {
            registry.register(name, help, gauge.clone());
        };
        gauge(
            "alert_evaluated_at_seconds",
            "End of the last whole evaluation since the Unix epoch",
            &self.evaluated_at_s,
        );
        gauge("alerts_firing", "Alerts that fire now", &self.firing);
        gauge(
            "alerts_frozen",
            "Alerts that fire and cannot end because their data are late",
            &self.frozen,
        );
    }
}

//! What the query role counts about itself, for `/metrics`.

use std::fmt;

use counterfoil_entry::rows::QueryLogRow;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::alerts::Gauges;

/// Content type of the answer.
pub(crate) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How a statement ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    /// `postgres` or `http`.
    endpoint: String,
    /// As in `query_log`.
    outcome: String,
}

/// Counts of statements.
#[derive(Debug, Clone, Default)]
pub(crate) struct Statements {
    ended: Family<Ended, Counter>,
    rows: Counter,
    running: Gauge,
}

impl Statements {
    /// Counts a row of the log.
    pub(crate) fn logged(&self, row: &QueryLogRow) {
        if row.phase == "start" {
            self.running.inc();
            return;
        }
        if row.phase == "end" {
            self.running.dec();
        }
        let ended = Ended {
            endpoint: row.endpoint.clone(),
            outcome: row.outcome.clone().unwrap_or_default(),
        };
        self.ended.get_or_create(&ended).inc();
        self.rows.inc_by(row.rows.unwrap_or_default());
    }
}

/// Everything that the role shows.
pub(crate) struct Metrics {
    registry: Registry,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Of these parts.
    pub(crate) fn new(statements: &Statements, alerts: &Gauges) -> Self {
        let mut registry = Registry::with_prefix("counterfoil_query");
        registry.register(
            "statements",
            "Statements that ended",
            statements.ended.clone(),
        );
        registry.register("rows", "Rows sent", statements.rows.clone());
        registry.register(
            "statements_running",
            "Statements that run now",
            statements.running.clone(),
        );
        alerts.register(&mut registry);
        Self { registry }
    }

    /// OpenMetrics text.
    ///
    /// # Errors
    /// Never in practice: text is written to memory.
    pub(crate) fn render(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

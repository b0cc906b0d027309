//! Rows about what was promised, and about how it was kept.

use crate::record::{self, HeaderRef};
use crate::table::TableId;
use crate::{Hash, Time};

/// One row of `objectives`: one revision of one target. Field names are the column names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectiveRow {
    /// `metadata.name` of the OpenSLO document.
    pub objective: String,
    /// Place of the target among those of its document, from 0.
    pub ordinal: u64,
    /// 0 when first seen, then 1, 2 ..
    pub revision: u64,
    /// `in_force` or `withdrawn`.
    pub state: String,
    /// Called service; null means each by itself.
    pub service: Option<String>,
    /// Operation that alone counts; null means all.
    pub operation: Option<String>,
    /// Longest duration of a good call; null for availability.
    pub threshold_ns: Option<u64>,
    /// Promised share of good calls, as a decimal number.
    pub target: String,
    /// `30d` for a rolling window, `1M from 2026-01-01T00:00:00 Europe/Amsterdam` for a calendar one.
    pub time_window: String,
    /// Calls that a window must hold before it can raise an alert.
    pub events_min: u64,
    /// Hash of the columns objective, ordinal, service to `events_min`: what makes a revision.
    pub sha256: Hash,
    /// When the change was seen: from then on this revision judges.
    pub recorded_at: Time,
}

impl ObjectiveRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::Objectives, header, out);
        w.text(5, &self.objective)
            .u64(6, self.ordinal)
            .u64(7, self.revision)
            .text(8, &self.state);
        w.text_opt(9, self.service.as_deref())
            .text_opt(10, self.operation.as_deref())
            .u64_opt(11, self.threshold_ns);
        w.text(12, &self.target)
            .text(13, &self.time_window)
            .u64(14, self.events_min);
        w.bytes(15, self.sha256.as_bytes())
            .time(16, self.recorded_at);
    }
}

/// One row of `alerts`: one change of the state of one alert. Field names are the column names.
///
/// A row that was written right before a crash may be there twice, with equal `alert_id` and
/// `revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertRow {
    /// One episode of one alert: hash of its labels and of `active_since`, 16 hex digits.
    pub alert_id: String,
    /// 0 at its begin, then 1, 2 .. with every change.
    pub revision: u64,
    /// As Alertmanager gets it.
    pub alertname: String,
    /// `page`, `ticket` or `none`.
    pub severity: String,
    /// `pending`, `inactive` (never fired), `firing`, `resolved`.
    pub state: String,
    /// Service that it is about.
    pub service: Option<String>,
    /// Objective that is breached.
    pub objective: Option<String>,
    /// Operation of that objective.
    pub operation: Option<String>,
    /// Window of the judgement, as in `1h/5m`.
    pub window: Option<String>,
    /// Since when the condition has held.
    pub active_since: Time,
    /// When the state changed.
    pub changed_at: Time,
    /// Until when the data were whole that it was judged by.
    pub evaluated_until: Time,
    /// Figure that was judged, as a decimal number.
    pub value: Option<String>,
    /// Figure that it was held against.
    pub threshold: Option<String>,
    /// Target of the objective then.
    pub target: Option<String>,
    /// All labels as sent, `name=value`, separated by commas.
    pub labels: String,
    /// One sentence for people.
    pub summary: String,
    /// Why it ended: `recovered`, `no_calls`, `withdrawn`.
    pub reason: Option<String>,
}

impl AlertRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::Alerts, header, out);
        w.text(5, &self.alert_id)
            .u64(6, self.revision)
            .text(7, &self.alertname)
            .text(8, &self.severity)
            .text(9, &self.state);
        w.text_opt(10, self.service.as_deref())
            .text_opt(11, self.objective.as_deref())
            .text_opt(12, self.operation.as_deref())
            .text_opt(13, self.window.as_deref());
        w.time(14, self.active_since)
            .time(15, self.changed_at)
            .time(16, self.evaluated_until);
        w.text_opt(17, self.value.as_deref())
            .text_opt(18, self.threshold.as_deref())
            .text_opt(19, self.target.as_deref());
        w.text(20, &self.labels)
            .text(21, &self.summary)
            .text_opt(22, self.reason.as_deref());
    }
}

//! The states of alerts: inactive, pending, firing, resolved. Pure; time is an argument.

use std::collections::{BTreeMap, BTreeSet};

use counterfoil_entry::Time;
use counterfoil_entry::rows::AlertRow;
use counterfoil_entry::tree::sha256;
use serde::{Deserialize, Serialize};

use super::finding::{Finding, Verdict};

/// How long a resolved alert is still sent, so that a receiver that was away hears of it.
pub(super) const RESOLVED_KEPT_NS: i64 = 15 * 60 * 1_000_000_000;
/// Alerts that are kept at once; more would drown whoever is on call.
const ALERTS_MAX: usize = 20_000;

/// Where an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// The condition holds, but not for long enough.
    Pending,
    /// It holds, and people are told.
    Firing,
    /// It held; people are told that it does not any more.
    Resolved,
    /// It ended before anybody was told.
    Inactive,
}

impl Stage {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
            Self::Inactive => "inactive",
        }
    }
}

/// An alert that is, or not long ago was, active.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Alert {
    /// Labels that tell it from others, `alertname` among them.
    pub(super) labels: BTreeMap<String, String>,
    pub(super) stage: Stage,
    /// Since when the condition has held (ns since the Unix epoch).
    pub(super) active_since_ns: i64,
    /// When the stage changed.
    pub(super) changed_at_ns: i64,
    pub(super) value: Option<f64>,
    pub(super) threshold: Option<f64>,
    pub(super) target: Option<f64>,
    pub(super) window: String,
    pub(super) summary: String,
    /// Whether its data are late: then it cannot end.
    pub(super) frozen: bool,
    revision: u64,
}

impl Alert {
    /// Whether its condition holds, for all that is known.
    const fn is_active(&self) -> bool {
        matches!(self.stage, Stage::Pending | Stage::Firing)
    }
}

/// All alerts that are known, by the text of their labels.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Alerts {
    alerts: BTreeMap<String, Alert>,
}

impl Alerts {
    /// The alerts, in the order of their labels.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Alert> {
        self.alerts.values()
    }

    /// Moves every alert of the groups that were judged on by one evaluation, and gives what changed.
    ///
    /// `is_frozen` says of labels whether data of theirs are late: an alert that no finding speaks of
    /// any more then stays as it is, and ends otherwise, for the reason that `why_gone` gives.
    pub(super) fn step(
        &mut self,
        group: &str,
        findings: &[Finding],
        is_frozen: impl Fn(&BTreeMap<String, String>) -> bool,
        why_gone: impl Fn(&BTreeMap<String, String>) -> &'static str,
        now: Time,
        until: Time,
    ) -> Vec<AlertRow> {
        let mut rows = Vec::new();
        let mut seen = BTreeSet::new();
        for finding in findings {
            let key = text_of(&finding.labels);
            self.judge(&key, finding, now, &mut |alert| {
                rows.push(row(alert, until, None))
            });
            seen.insert(key);
        }
        let gone: Vec<String> = self
            .alerts
            .iter()
            .filter(|(key, alert)| {
                !seen.contains(*key)
                    && alert.labels.get(GROUP).is_some_and(|of| of == group)
                    && alert.is_active()
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            let Some(alert) = self.alerts.get_mut(&key) else {
                continue;
            };
            alert.frozen = is_frozen(&alert.labels);
            if !alert.frozen {
                end(alert, now);
                let why = why_gone(&alert.labels);
                rows.push(row(alert, until, Some(why)));
            }
        }
        self.alerts.retain(|_, alert| match alert.stage {
            Stage::Pending | Stage::Firing => true,
            Stage::Inactive => false,
            Stage::Resolved => now.as_ns() - alert.changed_at_ns < RESOLVED_KEPT_NS,
        });
        rows
    }

    fn judge(&mut self, key: &str, finding: &Finding, now: Time, told: &mut dyn FnMut(&Alert)) {
        let room = self.alerts.len() < ALERTS_MAX;
        match self.alerts.get_mut(key) {
            Some(alert) if alert.is_active() => {
                let has_changed = go_on(alert, finding, now);
                if has_changed {
                    told(alert);
                }
            }
            known if finding.verdict == Verdict::Holds && (room || known.is_some()) => {
                let alert = begun(finding, now);
                told(&alert);
                self.alerts.insert(key.to_owned(), alert);
            }
            _ => {}
        }
    }
}

/// Moves an active alert on; whether its stage changed.
fn go_on(alert: &mut Alert, finding: &Finding, now: Time) -> bool {
    alert.frozen = finding.verdict == Verdict::Unknown;
    if alert.frozen {
        return false;
    }
    alert.value = finding.value;
    alert.threshold = finding.threshold;
    alert.window.clone_from(&finding.window);
    alert.summary.clone_from(&finding.summary);
    if finding.verdict == Verdict::Clear {
        end(alert, now);
        return true;
    }
    let is_due = now.as_ns() - alert.active_since_ns >= finding.for_ns;
    if alert.stage == Stage::Pending && is_due {
        change(alert, Stage::Firing, now);
        return true;
    }
    false
}

/// Label by which the alerts of one evaluation are found again; it is not sent.
pub(super) const GROUP: &str = "group";

fn begun(finding: &Finding, now: Time) -> Alert {
    Alert {
        labels: finding.labels.clone(),
        stage: if finding.for_ns > 0 {
            Stage::Pending
        } else {
            Stage::Firing
        },
        active_since_ns: now.as_ns(),
        changed_at_ns: now.as_ns(),
        value: finding.value,
        threshold: finding.threshold,
        target: finding.target,
        window: finding.window.clone(),
        summary: finding.summary.clone(),
        frozen: false,
        revision: 0,
    }
}

fn change(alert: &mut Alert, stage: Stage, now: Time) {
    alert.revision += 1;
    alert.stage = stage;
    alert.changed_at_ns = now.as_ns();
}

fn end(alert: &mut Alert, now: Time) {
    let stage = if alert.stage == Stage::Firing {
        Stage::Resolved
    } else {
        Stage::Inactive
    };
    change(alert, stage, now);
}

/// `name=value` of each label, separated by commas, in the order of the names.
pub(super) fn text_of(labels: &BTreeMap<String, String>) -> String {
    let each = labels.iter().map(|(name, value)| format!("{name}={value}"));
    each.collect::<Vec<_>>().join(",")
}

fn row(alert: &Alert, until: Time, reason: Option<&str>) -> AlertRow {
    let label = |name: &str| alert.labels.get(name).cloned();
    let has_ended = matches!(alert.stage, Stage::Resolved | Stage::Inactive);
    let recovered = has_ended.then_some("recovered");
    let reason = reason.or(recovered);
    let mut sent = alert.labels.clone();
    sent.remove(GROUP);
    let number = |value: Option<f64>| value.map(|value| format!("{value}"));
    AlertRow {
        alert_id: sha256(format!("{},{}", text_of(&sent), alert.active_since_ns).as_bytes())
            .to_string()
            .chars()
            .take(16)
            .collect(),
        revision: alert.revision,
        alertname: label("alertname").unwrap_or_default(),
        severity: label("severity").unwrap_or_default(),
        state: alert.stage.as_str().to_owned(),
        service: label("service"),
        objective: label("objective"),
        operation: label("operation"),
        window: Some(alert.window.clone()).filter(|window| !window.is_empty()),
        active_since: Time::from_ns(alert.active_since_ns),
        changed_at: Time::from_ns(alert.changed_at_ns),
        evaluated_until: until,
        value: number(alert.value),
        threshold: number(alert.threshold),
        target: number(alert.target),
        labels: text_of(&sent),
        summary: alert.summary.clone(),
        reason: reason.map(ToOwned::to_owned),
    }
}

#[cfg(test)]
mod tests;

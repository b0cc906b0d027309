//! How fast error budgets burn: two windows each, so that an alert begins soon and ends soon.
//!
//! The pairs are those of the SRE workbook: 2 % of a 30 days' budget in an hour, 5 % in six hours, 10 %
//! in a day and in three days.

use std::collections::BTreeMap;

use counterfoil_entry::Time;

use super::finding::{Finding, Severity, Verdict};
use super::lateness::Lateness;
use super::rows::{as_f64, rows};
use crate::engine::Engine;
use crate::error::SqlError;
use crate::objectives::Objective;
use crate::views::{Promised, counts, counts_since};

const MINUTE_NS: i64 = 60_000_000_000;
const HOUR_NS: i64 = 60 * MINUTE_NS;
const DAY_NS: i64 = 24 * HOUR_NS;

/// Budget burning `factor` times as fast as allowed, over both windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    factor: f64,
    long_ns: i64,
    short_ns: i64,
    name: &'static str,
}

/// Somebody must look now.
pub(super) const PAGES: [Pair; 2] = [
    Pair {
        factor: 14.4,
        long_ns: HOUR_NS,
        short_ns: 5 * MINUTE_NS,
        name: "1h/5m",
    },
    Pair {
        factor: 6.0,
        long_ns: 6 * HOUR_NS,
        short_ns: 30 * MINUTE_NS,
        name: "6h/30m",
    },
];

/// Somebody must look within days.
pub(super) const TICKETS: [Pair; 2] = [
    Pair {
        factor: 3.0,
        long_ns: DAY_NS,
        short_ns: 2 * HOUR_NS,
        name: "1d/2h",
    },
    Pair {
        factor: 1.0,
        long_ns: 3 * DAY_NS,
        short_ns: 6 * HOUR_NS,
        name: "3d/6h",
    },
];

/// Objective, place among its document's targets, service.
type Key = (String, u64, String);

/// Calls of one window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    total: i64,
    good: i64,
}

impl Counts {
    /// How many times as fast as allowed the budget burns; none without calls.
    fn burn(self, target: f64) -> Option<f64> {
        let bad = as_f64(self.total - self.good);
        (self.total > 0).then(|| bad / as_f64(self.total) / (1.0 - target))
    }
}

type Window = BTreeMap<Key, Counts>;

async fn count(engine: &Engine, sql: &str) -> Result<Window, SqlError> {
    let mut window = Window::new();
    for row in rows(&engine.answer(sql).await?.1) {
        let (Some(objective), Some(ordinal), Some(service)) = (
            row.text("objective"),
            row.integer("ordinal"),
            row.text("service"),
        ) else {
            continue;
        };
        let key = (
            objective.to_owned(),
            ordinal.unsigned_abs(),
            service.to_owned(),
        );
        let counts = Counts {
            total: row.integer("total").unwrap_or_default(),
            good: row.integer("good").unwrap_or_default(),
        };
        window.insert(key, counts);
    }
    Ok(window)
}

/// What `pairs` say of every objective and service; one finding each, for the worst of the pairs.
///
/// # Errors
/// When the books cannot be asked.
pub(super) async fn burning(
    engine: &Engine,
    group: &str,
    severity: Severity,
    pairs: &[Pair],
    late: &Lateness,
) -> Result<Vec<Finding>, SqlError> {
    let objectives = engine.objectives();
    let promised = Promised::of(&objectives);
    let lengths = pairs.iter().flat_map(|pair| [pair.long_ns, pair.short_ns]);
    let mut windows = BTreeMap::new();
    for length_ns in lengths {
        let sql = counts_since(late.until.plus_ns(-length_ns), promised);
        windows.insert(length_ns, count(engine, &sql).await?);
    }
    let mut findings = Vec::new();
    let mut keys: Vec<&Key> = windows.values().flat_map(BTreeMap::keys).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let of = |one: &&Objective| (&one.name, one.ordinal) == (&key.0, key.1);
        let Some(objective) = objectives.iter().find(of) else {
            continue;
        };
        let judged: Vec<Judged> = pairs
            .iter()
            .filter(|pair| pair.long_ns <= objective.window.length_ns())
            .map(|pair| {
                let calls = |length_ns| {
                    let window: Option<&Window> = windows.get(&length_ns);
                    let calls = window.and_then(|window| window.get(key));
                    calls.copied().unwrap_or_default()
                };
                judge(*pair, objective, calls(pair.long_ns), calls(pair.short_ns))
            })
            .collect();
        findings.extend(worst(group, severity, key, objective, &judged, late));
    }
    Ok(findings)
}

/// What one pair says.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Judged {
    verdict: Verdict,
    /// Burn rate of the longer window.
    burn: Option<f64>,
    factor: f64,
    name: &'static str,
}

/// Both windows must burn too fast. An end needs calls that went well, or none at all in the longer
/// window: no data is not good data.
fn judge(pair: Pair, objective: &Objective, long: Counts, short: Counts) -> Judged {
    let burn = long.burn(objective.target);
    let too_fast = |burn: Option<f64>| burn.is_some_and(|burn| burn >= pair.factor);
    let is_enough = u64::try_from(long.total).is_ok_and(|total| total >= objective.events_min);
    let verdict = match (too_fast(burn), short.burn(objective.target)) {
        (true, None) => Verdict::Unknown,
        (true, short) if too_fast(short) && is_enough => Verdict::Holds,
        (true, short) if too_fast(short) => Verdict::Unknown,
        _ => Verdict::Clear,
    };
    Judged {
        verdict,
        burn,
        factor: pair.factor,
        name: pair.name,
    }
}

fn worst(
    group: &str,
    severity: Severity,
    key: &Key,
    objective: &Objective,
    judged: &[Judged],
    late: &Lateness,
) -> Option<Finding> {
    let with = |verdict| judged.iter().find(|one| one.verdict == verdict);
    let one = with(Verdict::Holds)
        .or_else(|| with(Verdict::Unknown))
        .or_else(|| judged.first())?;
    let (_, _, service) = key;
    let verdict = match one.verdict {
        Verdict::Clear if late.is_late(Some(service)) => Verdict::Unknown,
        verdict => verdict,
    };
    let summary = format!(
        "{service} burns the error budget of {} {:.2} times as fast as allowed ({}, alarm from {})",
        objective.name,
        one.burn.unwrap_or_default(),
        one.name,
        one.factor,
    );
    let finding = Finding::new(group, "SloBurnRate", severity, verdict, summary)
        .figures(one.burn, one.factor);
    Some(of_objective(finding, key, objective, Some(one.name)))
}

fn of_objective(
    finding: Finding,
    key: &Key,
    objective: &Objective,
    window: Option<&'static str>,
) -> Finding {
    let (name, ordinal, service) = key;
    // The first target of a document goes by the document's name alone.
    let ordinal = (*ordinal > 0).then(|| ordinal.to_string());
    Finding {
        target: Some(objective.target),
        window: window.map_or_else(|| objective.window.to_string(), ToOwned::to_owned),
        ..finding
            .label("objective", Some(name))
            .label("ordinal", ordinal.as_deref())
            .label("service", Some(service))
            .label("operation", objective.operation.as_deref())
    }
}

/// Objectives that their own windows, rolling or of a calendar, show as not kept.
///
/// # Errors
/// When the books cannot be asked.
pub(super) async fn breached(
    engine: &Engine,
    group: &str,
    late: &Lateness,
    now: Time,
) -> Result<Vec<Finding>, SqlError> {
    let objectives = engine.objectives();
    let sql = counts(None, Promised::of(&objectives), now);
    let window = count(engine, &sql).await?;
    let mut findings = Vec::new();
    for (key, calls) in &window {
        let of = |one: &&Objective| (&one.name, one.ordinal) == (&key.0, key.1);
        let Some(objective) = objectives.iter().find(of) else {
            continue;
        };
        let sli = (calls.total > 0).then(|| as_f64(calls.good) / as_f64(calls.total));
        let is_enough = u64::try_from(calls.total).is_ok_and(|total| total >= objective.events_min);
        let verdict = match sli {
            Some(sli) if sli < objective.target && is_enough => Verdict::Holds,
            Some(sli) if sli < objective.target => Verdict::Unknown,
            _ if late.is_late(Some(&key.2)) => Verdict::Unknown,
            _ => Verdict::Clear,
        };
        let summary = format!(
            "{} kept {} for {:.6} of {} calls, and {} was promised ({})",
            key.2,
            objective.name,
            sli.unwrap_or(1.0),
            calls.total,
            objective.target,
            objective.window,
        );
        let finding = Finding::new(group, "SloBreached", Severity::Ticket, verdict, summary)
            .figures(sli, objective.target);
        findings.push(of_objective(finding, key, objective, None));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests;

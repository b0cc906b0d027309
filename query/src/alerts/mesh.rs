//! Conditions of the mesh itself: its cost, its certificates, its control plane, its books.

use counterfoil_entry::Time;

use super::finding::{Finding, Severity, Verdict};
use super::lateness::Lateness;
use super::rows::{Row, as_f64, rows};
use crate::engine::Engine;
use crate::error::SqlError;

const MINUTE_NS: i64 = 60_000_000_000;
const HOUR_NS: i64 = 60 * MINUTE_NS;
const DAY_NS: i64 = 24 * HOUR_NS;
/// The user's own figures.
const OVERHEAD_P99_MAX_NS: i64 = 2_000_000;
const ROTATION_FAILURES_MAX: f64 = 0.001;
const CONTROL_DOWN_MAX: f64 = 0.000_5;
/// A P99 of fewer calls says little.
const OVERHEAD_CALLS_MIN: i64 = 1_000;
/// Slots of control's health that must be told of before they are judged: a minute.
const SLOTS_MIN: i64 = 6;
/// Denials in five minutes that make a spike, when they are so many times as many as before.
const DENIALS_MIN: i64 = 20;
const DENIALS_TIMES: f64 = 3.0;

/// What is found of the mesh.
///
/// # Errors
/// When the books cannot be asked.
pub(super) async fn mesh(
    engine: &Engine,
    group: &str,
    late: &Lateness,
    now: Time,
) -> Result<Vec<Finding>, SqlError> {
    let mut findings = vec![watchdog(group), lateness(group, late)];
    let ended = |finding: Finding| match finding.verdict {
        Verdict::Clear if late.is_late(None) => Finding {
            verdict: Verdict::Unknown,
            ..finding
        },
        _ => finding,
    };
    let (_, batches) = engine.answer(&overhead_sql(now)).await?;
    findings.extend(rows(&batches).map(|row| ended(overhead(group, row))));
    let (_, batches) = engine.answer(&rotations_sql(now)).await?;
    findings.extend(rows(&batches).map(|row| ended(rotations(group, row))));
    let (_, batches) = engine.answer(&control_sql(now)).await?;
    findings.extend(rows(&batches).map(|row| ended(control(group, row))));
    let (_, batches) = engine.answer(&gaps_sql()).await?;
    findings.extend(rows(&batches).map(|row| ended(gaps(group, row))));
    let (_, batches) = engine.answer(&denials_sql(now)).await?;
    findings.extend(rows(&batches).map(|row| ended(denials(group, row))));
    Ok(findings)
}

fn since(now: Time, length_ns: i64) -> String {
    let from = now.as_ns() - length_ns;
    format!("arrow_cast({from}, 'Timestamp(Nanosecond, Some(\"UTC\"))')")
}

fn verdict(holds: bool) -> Verdict {
    if holds {
        Verdict::Holds
    } else {
        Verdict::Clear
    }
}

/// Always there: who does not get it any more knows that alerts do not come through.
fn watchdog(group: &str) -> Finding {
    let summary =
        "alerts are evaluated and sent; when this one is missing, they are not".to_owned();
    Finding::new(group, WATCHDOG, Severity::None, Verdict::Holds, summary)
}

/// Name of the dead-man's switch.
pub(super) const WATCHDOG: &str = "Watchdog";

fn lateness(group: &str, late: &Lateness) -> Finding {
    let summary = if late.everybody {
        "no writer was heard of for a minute: is the collector running?".to_owned()
    } else {
        format!(
            "{} writers are late: alerts of their services cannot end until they are heard of",
            late.writers
        )
    };
    let is_late = late.everybody || late.writers > 0;
    let severity = if late.everybody {
        Severity::Page
    } else {
        Severity::Ticket
    };
    let name = if late.everybody {
        "MeshDataMissing"
    } else {
        "MeshDataLate"
    };
    Finding::new(group, name, severity, verdict(is_late), summary)
        .figures(i64::try_from(late.writers).ok().map(as_f64), 0.0)
        .holding_for_s(120)
}

fn overhead_sql(now: Time) -> String {
    format!(
        "SELECT hdr_count(h) AS n, hdr_quantile(h, 0.99) AS p99_ns FROM (
  SELECT hdr_merge(overhead) AS h FROM raw.rollup_1m WHERE side = 'call' AND measured AND time >= {}
)",
        since(now, HOUR_NS)
    )
}

fn overhead(group: &str, row: Row<'_>) -> Finding {
    let n = row.integer("n").unwrap_or_default();
    let p99_ns = row.integer("p99_ns").filter(|_| n >= OVERHEAD_CALLS_MIN);
    let summary = format!(
        "the proxies of 1 call in 100 cost {:.2} ms or more within the last hour, of {n} calls; promised are 2 ms",
        as_f64(p99_ns.unwrap_or_default()) / 1e6
    );
    let verdict = verdict(p99_ns.is_some_and(|p99_ns| p99_ns > OVERHEAD_P99_MAX_NS));
    Finding::new(
        group,
        "MeshOverheadHigh",
        Severity::Ticket,
        verdict,
        summary,
    )
    .figures(p99_ns.map(as_f64), as_f64(OVERHEAD_P99_MAX_NS))
    .holding_for_s(300)
}

fn rotations_sql(now: Time) -> String {
    format!(
        "SELECT count(*) AS n, count(CASE WHEN outcome <> 'success' THEN 1 END) AS failed
FROM raw.cert_rotations WHERE ended_at >= {}",
        since(now, DAY_NS)
    )
}

fn rotations(group: &str, row: Row<'_>) -> Finding {
    let count = |name| as_f64(row.integer(name).unwrap_or_default());
    let (n, failed) = (count("n"), count("failed"));
    let share = (n > 0.0).then(|| failed / n);
    let summary = format!(
        "{failed} of {n} attempts to renew a certificate failed within a day; promised is less than 1 in 1,000"
    );
    let verdict = verdict(share.is_some_and(|share| share > ROTATION_FAILURES_MAX));
    Finding::new(
        group,
        "CertificateRotationFailing",
        Severity::Ticket,
        verdict,
        summary,
    )
    .figures(share, ROTATION_FAILURES_MAX)
}

fn control_sql(now: Time) -> String {
    let from = now.plus_ns(-HOUR_NS);
    format!(
        "SELECT count(*) AS n, count(CASE WHEN state = 'down' THEN 1 END) AS down
FROM control_slots('{from}') WHERE slot_start < {}",
        since(now, 2 * MINUTE_NS)
    )
}

fn control(group: &str, row: Row<'_>) -> Finding {
    let count = |name| row.integer(name).unwrap_or_default();
    let (n, down) = (count("n"), count("down"));
    let share = (n >= SLOTS_MIN).then(|| as_f64(down) / as_f64(n));
    let summary = format!(
        "the control plane was down in {down} of {n} slots of ten seconds within the last hour; promised is 99.95 %"
    );
    let verdict = match share {
        None => Verdict::Unknown,
        Some(share) => verdict(share > CONTROL_DOWN_MAX),
    };
    Finding::new(
        group,
        "ControlPlaneUnavailable",
        Severity::Page,
        verdict,
        summary,
    )
    .figures(share, CONTROL_DOWN_MAX)
}

fn gaps_sql() -> String {
    "SELECT count(*) AS n FROM (
  SELECT closed_at, explanation, row_number() OVER (PARTITION BY gap_id ORDER BY revision DESC) AS newest
  FROM raw.gaps
) WHERE newest = 1 AND closed_at IS NULL AND explanation IS NULL"
        .to_owned()
}

fn gaps(group: &str, row: Row<'_>) -> Finding {
    let n = row.integer("n").unwrap_or_default();
    let summary = format!("{n} gaps in the books are open and unexplained: SELECT * FROM gaps");
    Finding::new(
        group,
        "BooksGapOpen",
        Severity::Page,
        verdict(n > 0),
        summary,
    )
    .figures(Some(as_f64(n)), 0.0)
    .holding_for_s(60)
}

fn denials_sql(now: Time) -> String {
    format!(
        "SELECT destination_app AS service, CAST(sum(n) AS BIGINT) AS hour,
  CAST(sum(CASE WHEN time >= {} THEN n ELSE 0 END) AS BIGINT) AS recent
FROM raw.rollup_1m WHERE side = 'call' AND decision = 'deny' AND destination_app IS NOT NULL AND time >= {}
GROUP BY destination_app",
        since(now, 5 * MINUTE_NS),
        since(now, 65 * MINUTE_NS)
    )
}

fn denials(group: &str, row: Row<'_>) -> Finding {
    let count = |name| row.integer(name).unwrap_or_default();
    let (recent, hour) = (count("recent"), count("hour"));
    let usual = as_f64(hour - recent) / 12.0;
    let is_spike = recent >= DENIALS_MIN && as_f64(recent) > DENIALS_TIMES * usual;
    let service = row.text("service").unwrap_or_default();
    let summary = format!(
        "{recent} calls to {service} were denied within 5 minutes, {usual:.1} is usual: SELECT * FROM denials"
    );
    Finding::new(
        group,
        "DenialSpike",
        Severity::Ticket,
        verdict(is_spike),
        summary,
    )
    .label("service", Some(service))
    .figures(
        Some(as_f64(recent)),
        (DENIALS_TIMES * usual).max(as_f64(DENIALS_MIN)),
    )
}

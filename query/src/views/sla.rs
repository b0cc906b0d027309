//! Objectives against the calls, and what is left of their error budgets: short windows from the
//! entries themselves, long ones from roll-ups and what those do not count yet.

use counterfoil_entry::Time;

use super::{CALLS, Window, within};
use crate::objectives::Objective;

const MINUTE_NS: i64 = 60_000_000_000;
const HOUR_NS: i64 = 60 * MINUTE_NS;
/// From this length on a window is answered from roll-ups, and begins at a full hour.
const LONG_NS: i64 = 48 * HOUR_NS;

/// What the objectives are like, as far as their view depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promised {
    /// Some are for each service.
    star: bool,
    /// Some have a long window.
    long: bool,
    /// Some have a short window.
    short: bool,
}

impl Promised {
    /// Of these objectives.
    #[must_use]
    pub fn of(objectives: &[Objective]) -> Self {
        let is_long = |one: &Objective| one.window.length_ns() > LONG_NS;
        // Where a calendar's period begins shows only when it is asked.
        let is_short = |one: &Objective| !is_long(one) || !one.window.is_rolling();
        Self {
            star: objectives.iter().any(|one| one.service.is_none()),
            long: objectives.iter().any(is_long),
            short: objectives.iter().any(is_short),
        }
    }
}

/// Where the calls of a window come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Entries,
    Minutes,
    Rollups,
}

/// Objectives against the calls that count: not denied, and not given up by the caller.
///
/// Good for availability: answered, `ok` or `client_error`. Good for latency: answered within the
/// threshold, by the caller's clock where its entry is there. Without arguments each objective is
/// judged over its own rolling window. Windows of more than two days begin at a full hour, and count
/// calls within a threshold to the precision of the histograms, a thousandth of it.
pub(super) fn sla(window: Option<Window>, promised: Promised, now: Time) -> String {
    format!(
        "
SELECT objective, service, operation,
  CASE WHEN threshold_ns IS NULL THEN 'availability' ELSE 'latency' END AS measure,
  threshold_ns, window_days, good, total,
  CASE WHEN total > 0 THEN CAST(good AS DOUBLE) / total END AS sli,
  target,
  CASE WHEN total > 0 THEN 1.0 - (CAST(total - good AS DOUBLE) / total) / (1.0 - target) END AS error_budget_left,
  CASE WHEN total > 0 THEN CAST(good AS DOUBLE) / total < target END AS breached
FROM ({}) summed
ORDER BY objective, service, threshold_ns",
        counts(window, promised, now)
    )
}

/// The calls of each objective's own window, or of `window`: one row an objective, target and service.
pub(crate) fn counts(window: Option<Window>, promised: Promised, now: Time) -> String {
    let each = match window {
        Some(window) => vec![judged(
            from(&window, now),
            Some(window),
            promised.star,
            "true",
        )],
        None => {
            let length = format!(
                "(CAST(o.window_days * 86400e9 AS BIGINT) > {LONG_NS}
    AND (o.rolling OR date_trunc('hour', o.from_time) = o.from_time))"
            );
            let long = promised.long || !promised.short;
            let long = long.then(|| judged(From::Rollups, None, promised.star, &length));
            let length = format!("NOT {length}");
            let short = promised.short;
            let short = short.then(|| judged(From::Entries, None, promised.star, &length));
            long.into_iter().chain(short).collect()
        }
    };
    let summed: Vec<_> = each.iter().map(|sql| format!("({sql})")).collect();
    summed.join("\nUNION ALL\n")
}

/// The same since the full minute of `from`, from the roll-ups of minutes and what those do not count yet.
pub(crate) fn counts_since(from: Time, promised: Promised) -> String {
    let minute = from.plus_ns(-from.as_ns().rem_euclid(MINUTE_NS));
    let window = Window {
        from: Some(minute),
        until: None,
    };
    judged(From::Minutes, Some(window), promised.star, "true")
}

/// What each objective allowed in the window, and what was used of it, in calls and as a share.
///
/// `burn_rate`: how many times as fast as allowed; 1 uses a budget up exactly at the window's end.
pub(super) fn error_budget(window: Option<Window>, promised: Promised, now: Time) -> String {
    format!(
        "
SELECT objective, service, operation, measure, threshold_ns, window_days, target, total,
  total - good AS bad,
  CAST(total AS DOUBLE) * (1.0 - target) AS budget,
  CAST(total AS DOUBLE) * (1.0 - target) - (total - good) AS budget_left,
  error_budget_left AS budget_left_share,
  1.0 - error_budget_left AS burn_rate,
  breached
FROM ({}) budgets
ORDER BY budget_left_share, objective, service, threshold_ns",
        sla(window, promised, now)
    )
}

/// Roll-ups answer for windows that are long and end at a full hour or not at all.
pub(super) fn from(window: &Window, now: Time) -> From {
    let is_full = |at: Time| at.as_ns().rem_euclid(HOUR_NS) == 0;
    let until = window.until.unwrap_or(now);
    let is_long = window
        .from
        .is_none_or(|from| until.since_ns(from) > LONG_NS);
    if is_long && window.until.is_none_or(is_full) {
        From::Rollups
    } else {
        From::Entries
    }
}

/// The window that is told from `source`: roll-ups begin at a full hour.
pub(super) fn widened(window: Window, source: From) -> Window {
    let full = |at: Time| at.plus_ns(-at.as_ns().rem_euclid(HOUR_NS));
    match source {
        From::Entries | From::Minutes => window,
        From::Rollups => Window {
            from: window.from.map(full),
            ..window
        },
    }
}

/// The calls that are read one by one: all, or those that no roll-up counts yet.
pub(super) fn calls(source: From) -> String {
    match source {
        From::Entries => "public.calls".to_owned(),
        From::Minutes | From::Rollups => format!(
            "({})",
            CALLS.replace("public.entries", "public.fresh_entries")
        ),
    }
}

/// One row an objective and service: how many calls, and how many good ones.
fn judged(source: From, window: Option<Window>, star: bool, which: &str) -> String {
    let bounds = match (window, source) {
        (None, From::Entries | From::Minutes) => "c.start_time >= o.from_time".to_owned(),
        (None, From::Rollups) => "c.start_time >= date_trunc('hour', o.from_time)".to_owned(),
        (Some(window), source) => within(Some(widened(window, source)), "c.start_time"),
    };
    let columns = "o.objective, o.ordinal, {service} AS service, o.operation, o.threshold_ns, o.target, \
                   o.window_days, c.n, c.good, c.duration_ns, c.histogram";
    let one = columns.replace("{service}", "o.service");
    let each = if star {
        format!(
            "
  UNION ALL
  SELECT {}
  FROM objectives o JOIN counted c ON o.each = c.one AND {bounds}
    AND (o.operation IS NULL OR o.operation = c.operation)
  WHERE o.each = 1",
            columns.replace("{service}", "c.destination")
        )
    } else {
        String::new()
    };
    format!(
        "
WITH counted AS ({counted}), objectives AS (
  SELECT * FROM public.objectives o WHERE {which}
), judged AS (
  SELECT {one}
  FROM objectives o LEFT JOIN counted c ON o.service = c.destination AND {bounds}
    AND (o.operation IS NULL OR o.operation = c.operation)
  WHERE o.each = 0{each}
)
SELECT objective, ordinal, service, operation, threshold_ns, target, window_days,
  coalesce(sum(n), 0) AS total,
  coalesce(sum(CASE WHEN NOT good THEN 0 WHEN threshold_ns IS NULL THEN n
    WHEN histogram IS NOT NULL THEN hdr_count_at_or_below(histogram, threshold_ns)
    WHEN duration_ns <= threshold_ns THEN n ELSE 0 END), 0) AS good
FROM judged GROUP BY objective, ordinal, service, operation, threshold_ns, target, window_days",
        counted = counted(source)
    )
}

/// Calls that count, or groups of them: `n`, whether good, and one duration or a histogram of them.
fn counted(source: From) -> String {
    let calls = calls(source);
    let counts = "decision <> 'deny' AND coalesce(outcome, 'unknown') <> 'aborted'";
    let good = "coalesce(outcome, 'unknown') IN ('ok', 'client_error') AS good";
    let calls = format!(
        "
  SELECT start_time, destination, operation, 1 AS one, CAST(1 AS BIGINT) AS n, {good},
    coalesce(client_duration_ns, server_duration_ns) AS duration_ns, CAST(NULL AS BYTEA) AS histogram
  FROM {calls} calls WHERE {counts} AND destination IS NOT NULL"
    );
    let rollups = match source {
        From::Entries => return calls,
        From::Minutes => "raw.rollup_1m",
        From::Rollups => "raw.rollups_once",
    };
    format!(
        "{calls}
  UNION ALL
  SELECT time, destination_app, operation, 1, CAST(n AS BIGINT), {good}, CAST(NULL AS BIGINT), duration
  FROM {rollups} WHERE side = 'call' AND {counts} AND destination_app IS NOT NULL"
    )
}

//! What was promised over time, and when it was found broken.

/// Every change of the state of an alert. A crash may have written a change twice: it counts once.
pub(super) const ALERTS: &str = "
SELECT alert_id, revision, alertname, severity, state, service, objective, operation, \"window\",
  active_since, changed_at, evaluated_until, CAST(value AS DOUBLE) AS value,
  CAST(threshold AS DOUBLE) AS threshold, CAST(target AS DOUBLE) AS target, labels, summary, reason
FROM (
  SELECT *, row_number() OVER (PARTITION BY alert_id, revision ORDER BY epoch, seq) AS copy
  FROM raw.alerts
) WHERE copy = 1";

/// Alerts that are pending or firing by what is in the books.
pub(super) const ALERTS_ACTIVE: &str = "
SELECT alert_id, alertname, severity, state, service, objective, operation, \"window\", active_since,
  changed_at, evaluated_until, value, threshold, target, labels, summary
FROM (
  SELECT *, row_number() OVER (PARTITION BY alert_id ORDER BY revision DESC) AS newest
  FROM public.alerts
) WHERE newest = 1 AND state IN ('pending', 'firing')";

/// Every revision of every objective, and until when it judged.
pub(super) const OBJECTIVE_REVISIONS: &str = "
SELECT objective, ordinal, revision, state, service, operation, threshold_ns,
  CAST(target AS DOUBLE) AS target, time_window, events_min, recorded_at AS valid_from,
  lead(recorded_at) OVER (PARTITION BY objective, ordinal ORDER BY revision) AS valid_until
FROM (
  SELECT *, row_number() OVER (PARTITION BY objective, ordinal, revision ORDER BY epoch, seq) AS copy
  FROM raw.objectives
) WHERE copy = 1";

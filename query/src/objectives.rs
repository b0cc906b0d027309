//! Service level objectives from OpenSLO v1 files.
//!
//! Read are documents of kind `SLO` with an inline indicator whose metric source has the type
//! `counterfoil`; other kinds may stand beside them and are left alone. `docs` of the demo show both
//! shapes: a `ratioMetric` is availability (answered calls of all calls), a `thresholdMetric` is
//! latency (calls answered within `value` milliseconds). Windows are rolling, or periods of a calendar, as
//! contracts have them.

mod window;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

pub use window::{Calendar, TimeWindow};

/// Annotation of an SLO: calls that a window must hold before it can raise an alert.
const EVENTS_MIN: &str = "counterfoil/events-min";
/// Of fewer calls one error would be a page.
pub(crate) const EVENTS_MIN_DEFAULT: u64 = 100;
/// Targets that all files together may hold: an evaluation looks at each.
const OBJECTIVES_MAX: usize = 10_000;

/// One target for one service.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    /// `metadata.name` of the document.
    pub name: String,
    /// Called service by its short name; `None` means each service by itself.
    pub service: Option<String>,
    /// Operation that alone counts; `None` means all.
    pub operation: Option<String>,
    /// Longest duration of a good call, in ns; `None` for availability.
    pub threshold_ns: Option<i64>,
    /// Share of good calls that is promised, between 0 and 1.
    pub target: f64,
    /// Place among the targets of its document, from 0.
    pub ordinal: u64,
    /// Over which time it is judged.
    pub window: TimeWindow,
    /// Calls that a window must hold before it can raise an alert.
    pub events_min: u64,
}

/// Why the objectives were refused, as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ObjectiveError {
    /// The folder or a file cannot be read.
    #[error("reading objectives from {file}")]
    Read {
        /// File or folder.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not YAML, or not OpenSLO.
    #[error("reading objectives from {file}: {detail}")]
    Form {
        /// File.
        file: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// An objective makes no sense.
    #[error("reading objectives from {file}, {name}: {field} {detail}")]
    Senseless {
        /// File.
        file: PathBuf,
        /// `metadata.name`
        name: String,
        /// Field, by its path in the document.
        field: &'static str,
        /// What is wrong and what would be right.
        detail: String,
    },
}

/// Reads every `.yaml` and `.yml` file of `directory`, in the order of their names.
///
/// One bad file refuses all: an objective that silently disappears would look like one that is met.
///
/// # Errors
/// [`ObjectiveError`]
pub fn load(directory: &Path) -> Result<Vec<Objective>, ObjectiveError> {
    let read = |file: &Path| {
        let file = file.to_owned();
        move |source| ObjectiveError::Read { file, source }
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(read(directory))? {
        let path = entry.map_err(read(directory))?.path();
        if path
            .extension()
            .is_some_and(|ending| ending == "yaml" || ending == "yml")
        {
            files.push(path);
        }
    }
    files.sort();
    let mut objectives = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(read(&file))?;
        for objective in parse(&file, &text)? {
            refuse_second(&objectives, &objective, &file)?;
            objectives.push(objective);
        }
    }
    Ok(objectives)
}

/// A second document of one name would share its history with the first.
fn refuse_second(
    before: &[Objective],
    objective: &Objective,
    file: &Path,
) -> Result<(), ObjectiveError> {
    let same = |one: &&Objective| (&one.name, one.ordinal) == (&objective.name, objective.ordinal);
    let detail = match before.iter().find(same) {
        Some(_) => "is the name of two objectives; each needs its own".to_owned(),
        None if before.len() == OBJECTIVES_MAX => {
            format!("would be more than {OBJECTIVES_MAX} objectives")
        }
        None => return Ok(()),
    };
    Err(ObjectiveError::Senseless {
        file: file.to_owned(),
        name: objective.name.clone(),
        field: "metadata.name",
        detail,
    })
}

/// Reads the documents of one file.
///
/// # Errors
/// [`ObjectiveError`]
pub fn parse(file: &Path, text: &str) -> Result<Vec<Objective>, ObjectiveError> {
    let form = |detail: String| ObjectiveError::Form {
        file: file.to_owned(),
        detail,
    };
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| form(error.to_string()))?;
    let mut objectives = Vec::new();
    for document in documents {
        if document.get("kind").and_then(Value::as_str) != Some("SLO") {
            continue;
        }
        let slo: Slo = serde_json::from_value(document).map_err(|error| form(error.to_string()))?;
        objectives.extend(objectives_of(file, &slo)?);
    }
    Ok(objectives)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slo {
    api_version: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    #[serde(rename = "description")]
    _description: Option<String>,
    service: String,
    indicator: Option<Indicator>,
    #[serde(rename = "budgetingMethod")]
    budgeting_method: Option<String>,
    #[serde(default)]
    time_window: Vec<WindowSpec>,
    #[serde(default)]
    objectives: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Indicator {
    spec: IndicatorSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndicatorSpec {
    ratio_metric: Option<RatioMetric>,
    threshold_metric: Option<Metric>,
}

#[derive(Debug, Deserialize)]
struct RatioMetric {
    good: Metric,
    total: Metric,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metric {
    metric_source: MetricSource,
}

#[derive(Debug, Deserialize)]
struct MetricSource {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    spec: MetricSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricSpec {
    measure: Option<String>,
    operation: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WindowSpec {
    duration: String,
    #[serde(default)]
    is_rolling: bool,
    calendar: Option<CalendarSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CalendarSpec {
    start_time: String,
    time_zone: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Target {
    #[serde(rename = "displayName")]
    _display_name: Option<String>,
    op: Option<String>,
    value: Option<f64>,
    target: Option<f64>,
    target_percent: Option<f64>,
}

fn objectives_of(file: &Path, slo: &Slo) -> Result<Vec<Objective>, ObjectiveError> {
    let name = slo.metadata.name.as_str();
    let senseless = |field: &'static str, detail: String| ObjectiveError::Senseless {
        file: file.to_owned(),
        name: name.to_owned(),
        field,
        detail,
    };
    if slo.api_version != "openslo/v1" {
        return Err(senseless(
            "apiVersion",
            format!("is {:?}, not openslo/v1", slo.api_version),
        ));
    }
    let method = slo
        .spec
        .budgeting_method
        .as_deref()
        .unwrap_or("Occurrences");
    if method != "Occurrences" {
        return Err(senseless(
            "spec.budgetingMethod",
            format!("is {method:?}; calls are counted, so only Occurrences has a meaning"),
        ));
    }
    let window =
        time_window(&slo.spec.time_window).map_err(|(field, detail)| senseless(field, detail))?;
    let events_min =
        events_min(&slo.metadata).map_err(|(field, detail)| senseless(field, detail))?;
    let indicator = slo.spec.indicator.as_ref().ok_or_else(|| {
        senseless(
            "spec.indicator",
            "is missing; it must stand in the SLO itself".to_owned(),
        )
    })?;
    let (latency, operation) =
        measure(&indicator.spec).map_err(|(field, detail)| senseless(field, detail))?;
    let service = Some(slo.spec.service.trim()).filter(|service| *service != "*");
    if service == Some("") {
        return Err(senseless(
            "spec.service",
            "is empty; * means each service".to_owned(),
        ));
    }
    if slo.spec.objectives.is_empty() {
        return Err(senseless("spec.objectives", "is empty".to_owned()));
    }
    let objective = |(ordinal, target): (u64, &Target)| {
        let (share, threshold_ns) =
            promised(target, latency).map_err(|(field, detail)| senseless(field, detail))?;
        Ok(Objective {
            name: name.to_owned(),
            service: service.map(ToOwned::to_owned),
            operation: operation.clone(),
            threshold_ns,
            target: share,
            ordinal,
            window,
            events_min,
        })
    };
    (0..).zip(&slo.spec.objectives).map(objective).collect()
}

type Senseless = (&'static str, String);

/// Whether the indicator is latency, and the operation that alone counts.
fn measure(spec: &IndicatorSpec) -> Result<(bool, Option<String>), Senseless> {
    let check = |metric: &Metric, field, expected: &str| {
        let source = &metric.metric_source;
        let kind = source.kind.as_deref().unwrap_or_default();
        if kind != "counterfoil" {
            return Err((
                field,
                format!("has metricSource.type {kind:?}, not counterfoil"),
            ));
        }
        match source.spec.measure.as_deref() {
            Some(found) if found == expected => Ok(source.spec.operation.clone()),
            found => Err((
                field,
                format!("has metricSource.spec.measure {found:?}, expected {expected:?}"),
            )),
        }
    };
    match (&spec.ratio_metric, &spec.threshold_metric) {
        (Some(ratio), None) => {
            let good = check(
                &ratio.good,
                "spec.indicator.spec.ratioMetric.good",
                "answered_calls",
            )?;
            let total = check(
                &ratio.total,
                "spec.indicator.spec.ratioMetric.total",
                "calls",
            )?;
            if good != total {
                return Err((
                    "spec.indicator.spec.ratioMetric",
                    "counts different operations in good and total".to_owned(),
                ));
            }
            Ok((false, total))
        }
        (None, Some(metric)) => {
            let field = "spec.indicator.spec.thresholdMetric";
            Ok((true, check(metric, field, "duration_ms")?))
        }
        _ => Err((
            "spec.indicator.spec",
            "must hold either ratioMetric or thresholdMetric".to_owned(),
        )),
    }
}

fn promised(target: &Target, latency: bool) -> Result<(f64, Option<i64>), Senseless> {
    let share = match (target.target, target.target_percent) {
        (Some(share), None) => share,
        (None, Some(percent)) => percent / 100.0,
        _ => {
            return Err((
                "spec.objectives.target",
                "or targetPercent must be given, not both".to_owned(),
            ));
        }
    };
    if !(share > 0.0 && share < 1.0) {
        return Err((
            "spec.objectives.target",
            format!("is {share}; it must lie between 0 and 1, for 1 leaves no error budget"),
        ));
    }
    match (latency, target.op.as_deref(), target.value) {
        (false, None, None) => Ok((share, None)),
        (false, ..) => Err((
            "spec.objectives.value",
            "has no meaning for a ratioMetric".to_owned(),
        )),
        (true, Some("lte"), Some(ms)) if ms > 0.0 && ms <= 86_400_000.0 => {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a day of nanoseconds fits an i64"
            )]
            let ns = (ms * 1e6).round() as i64;
            Ok((share, Some(ns)))
        }
        (true, op, value) => Err((
            "spec.objectives.value",
            format!(
                "and op are {value:?} and {op:?}; latency needs lte and milliseconds above 0, up to a day"
            ),
        )),
    }
}

/// The one window, rolling or of a calendar.
fn time_window(windows: &[WindowSpec]) -> Result<TimeWindow, Senseless> {
    let field = "spec.timeWindow";
    let [window] = windows else {
        return Err((field, "must hold exactly one window".to_owned()));
    };
    let duration = window.duration.as_str();
    match (&window.calendar, window.is_rolling) {
        (None, true) => TimeWindow::rolling(duration).ok_or_else(|| {
            let detail = format!("{duration:?} is no rolling window such as 30d, 4w or 12h");
            (field, detail)
        }),
        (Some(calendar), false) => {
            TimeWindow::calendar(duration, &calendar.start_time, &calendar.time_zone)
                .map_err(|detail| ("spec.timeWindow.calendar", detail))
        }
        (None, false) => Err((
            field,
            format!("{duration:?} is no rolling window (isRolling: true), and has no calendar"),
        )),
        (Some(_), true) => Err((
            field,
            "is rolling and has a calendar; it can be only one of them".to_owned(),
        )),
    }
}

/// How many calls a window must hold before it can raise an alert.
fn events_min(metadata: &Metadata) -> Result<u64, Senseless> {
    let Some(text) = metadata.annotations.get(EVENTS_MIN) else {
        return Ok(EVENTS_MIN_DEFAULT);
    };
    text.parse().map_err(|_| {
        let detail = format!("{EVENTS_MIN} is {text:?}, which is no number of calls");
        ("metadata.annotations", detail)
    })
}

#[cfg(test)]
mod tests;

//! Prometheus rules that page when an error budget burns too fast, made from the same objectives that
//! the view `sla` judges.
//!
//! They read what the proxies count themselves, by the caller's side. For each objective there are
//! recording rules of the share of failed calls over seven windows, and four alerts, each of which wants
//! a long and a short window to burn, so that it begins soon and ends soon.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::objectives::Objective;

/// Windows over which the share of failed calls is recorded.
const WINDOWS: [&str; 7] = ["5m", "30m", "1h", "2h", "6h", "1d", "3d"];

/// An alert: how many times as fast as allowed the budget burns, and over which windows.
#[derive(Debug)]
struct Burn {
    factor: &'static str,
    long: &'static str,
    short: &'static str,
    severity: &'static str,
}

/// Of a budget of 30 days they use 2 % in an hour, 5 % in six hours, 10 % in a day and in three days.
const BURNS: [Burn; 4] = [
    Burn {
        factor: "14.4",
        long: "1h",
        short: "5m",
        severity: "page",
    },
    Burn {
        factor: "6",
        long: "6h",
        short: "30m",
        severity: "page",
    },
    Burn {
        factor: "3",
        long: "1d",
        short: "2h",
        severity: "ticket",
    },
    Burn {
        factor: "1",
        long: "3d",
        short: "6h",
        severity: "ticket",
    },
];

/// So many calls must have failed in the long window: one failure among few calls is no reason to call
/// anybody.
const FAILURES_MIN: u32 = 3;

/// Stands for the window in an expression. No name can bring it in, for quoting writes it otherwise.
const WINDOW: &str = "\u{0}";

/// Upper bounds of the buckets of the proxies' histogram of durations (s).
const BUCKETS_S: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Why there are no rules for an objective.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RulesError {
    /// The proxies count no bucket that ends there.
    #[error(
        "making rules for the objective {name}: the proxies' histogram has no bound of {threshold_ms} ms; use one of {bounds} ms"
    )]
    NoBucket {
        /// The objective.
        name: String,
        /// Its threshold.
        threshold_ms: f64,
        /// What could be used.
        bounds: String,
    },
    /// Two objectives would have the same rules.
    #[error(
        "making rules for the objective {name}: there is another one of that name; give each its own metadata.name"
    )]
    Twice {
        /// The objective.
        name: String,
    },
}

/// The rules file for `objectives`, in YAML.
///
/// # Errors
/// [`RulesError`]
pub fn rules(objectives: &[Objective]) -> Result<String, RulesError> {
    let mut out = String::from(
        "# Made from OpenSLO objectives by `counterfoil slo export --prometheus`; change those instead.\n\
         # Failed are calls that were not answered, or with a server error; denied calls and those given up by\n\
         # their callers do not count. Of latency, calls that took longer than the objective allows; there every\n\
         # call counts, for the histogram does not know how calls ended.\n",
    );
    if objectives.is_empty() {
        out.push_str("groups: []\n");
        return Ok(out);
    }
    out.push_str("groups:\n");
    let mut names = BTreeSet::new();
    for objective in objectives {
        let measure = Measure::of(objective)?;
        group(&mut out, &measure);
        if !names.insert(measure.name) {
            let name = objective.name.clone();
            return Err(RulesError::Twice { name });
        }
    }
    Ok(out)
}

/// An objective in the words of Prometheus.
#[derive(Debug)]
struct Measure<'a> {
    objective: &'a Objective,
    /// `cart-availability`, or with the threshold where there may be several.
    name: String,
    /// Labels that tell it from others.
    labels: Vec<(&'static str, String)>,
    /// Rate of failed calls over [`WINDOW`], by service.
    failed: String,
    /// Rate of all calls over [`WINDOW`], by service.
    all: String,
}

impl<'a> Measure<'a> {
    fn of(objective: &'a Objective) -> Result<Self, RulesError> {
        let mut matchers = "side=\"client\"".to_owned();
        for (label, value) in [
            ("service", &objective.service),
            ("operation", &objective.operation),
        ] {
            if let Some(value) = value {
                matchers.push_str(&format!(",{label}={}", quoted(value)));
            }
        }
        let rate = |metric: &str, more: &str| {
            format!("sum by (service) (rate({metric}{{{matchers}{more}}}[{WINDOW}]))")
        };
        let mut labels = vec![("objective", objective.name.clone())];
        if let Some(operation) = &objective.operation {
            labels.push(("operation", operation.clone()));
        }
        let mut name = objective.name.clone();
        let (all, failed) = match objective.threshold_ns {
            None => {
                let metric = "counterfoil_calls_total";
                (
                    rate(metric, ",outcome!~\"denied|aborted\""),
                    rate(metric, ",outcome!~\"ok|client_error|denied|aborted\""),
                )
            }
            Some(threshold_ns) => {
                let bound = bound(objective, threshold_ns)?;
                name.push_str(&format!("-{bound}s"));
                let metric = "counterfoil_call_duration_seconds";
                let all = rate(&format!("{metric}_count"), "");
                // Some writers say 1, others 1.0.
                let matcher = format!(",le=~\"{0}|{0}[.]0\"", bound.replace('.', "[.]"));
                let fast = rate(&format!("{metric}_bucket"), &matcher);
                let failed = format!("clamp_min({all} - {fast}, 0)");
                labels.push(("threshold_s", bound));
                (all, failed)
            }
        };
        Ok(Self {
            objective,
            name,
            labels,
            failed,
            all,
        })
    }

    /// Share of failed calls over `window`; a service without a failure has no series of failures.
    fn ratio(&self, window: &str) -> String {
        let Self { failed, all, .. } = self;
        format!("({failed} or {all} * 0) / {all}").replace(WINDOW, window)
    }

    /// How many calls failed in `window`.
    fn failures(&self, window: &str) -> String {
        let rate = self.failed.replace(WINDOW, window);
        format!("{rate} * {}", seconds(window))
    }

    fn record(kind: &str, window: &str) -> String {
        format!("counterfoil:slo_{kind}{window}")
    }
}

/// The bucket's bound as the metric's label has it.
fn bound(objective: &Objective, threshold_ns: i64) -> Result<String, RulesError> {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a threshold of a day has fewer digits than a double"
    )]
    let threshold_s = threshold_ns as f64 / 1e9;
    let found = BUCKETS_S
        .iter()
        .find(|bound| (*bound - threshold_s).abs() < 1e-9);
    found.map(ToString::to_string).ok_or_else(|| {
        let bounds = BUCKETS_S.iter().map(|bound| (bound * 1e3).to_string());
        RulesError::NoBucket {
            name: objective.name.clone(),
            threshold_ms: threshold_s * 1e3,
            bounds: bounds.collect::<Vec<_>>().join(", "),
        }
    })
}

fn seconds(window: &str) -> u32 {
    match window {
        "5m" => 300,
        "30m" => 1_800,
        "1h" => 3_600,
        "2h" => 7_200,
        "6h" => 21_600,
        "1d" => 86_400,
        _ => 259_200,
    }
}

fn group(out: &mut String, measure: &Measure<'_>) {
    let mut line = |indent: usize, text: String| {
        let _infallible = writeln!(out, "{:indent$}{text}", "");
    };
    line(
        2,
        format!(
            "- name: {}",
            quoted(&format!("counterfoil-slo-{}", measure.name))
        ),
    );
    line(4, "rules:".to_owned());
    let mut record = |kind: &str, window: &str, expr: String| {
        line(6, format!("- record: {}", Measure::record(kind, window)));
        line(8, format!("expr: {}", quoted(&expr)));
        line(8, "labels:".to_owned());
        for (label, value) in &measure.labels {
            line(10, format!("{label}: {}", quoted(value)));
        }
    };
    for window in WINDOWS {
        record("failed:ratio_rate", window, measure.ratio(window));
    }
    for burn in &BURNS {
        record("failed:increase", burn.long, measure.failures(burn.long));
    }
    for burn in &BURNS {
        alert(out, measure, burn);
    }
}

fn alert(out: &mut String, measure: &Measure<'_>, burn: &Burn) {
    let objective = measure.objective;
    let allowed = share(1.0 - objective.target);
    let labels = measure.labels.iter();
    let labels: Vec<String> = labels
        .map(|(label, value)| format!("{label}={}", quoted(value)))
        .collect();
    let labels = labels.join(",");
    let series =
        |kind: &str, window: &str| format!("{}{{{labels}}}", Measure::record(kind, window));
    let burning = |window: &str| {
        let ratio = series("failed:ratio_rate", window);
        format!("{ratio} > {} * {allowed}", burn.factor)
    };
    let enough = format!("{} >= {FAILURES_MIN}", series("failed:increase", burn.long));
    let expr = format!(
        "{} and {} and {enough}",
        burning(burn.long),
        burning(burn.short)
    );
    let summary = format!(
        "{{{{ $labels.objective }}}} of {{{{ $labels.service }}}} burns its error budget {} times too fast",
        burn.factor
    );
    let description = format!(
        "In the last {} and {} more than {} times as many calls failed as a target of {} allows. In the last {}: {{{{ $value | humanizePercentage }}}}.",
        burn.long,
        burn.short,
        burn.factor,
        share(objective.target),
        burn.long
    );
    let lines = [
        (6, "- alert: CounterfoilErrorBudgetBurn".to_owned()),
        (8, format!("expr: {}", quoted(&expr))),
        (8, "labels:".to_owned()),
        (10, format!("severity: {}", burn.severity)),
        (10, format!("window: {}", quoted(burn.long))),
    ];
    let told = [
        (8, "annotations:".to_owned()),
        (10, format!("summary: {}", quoted(&summary))),
        (10, format!("description: {}", quoted(&description))),
        (
            10,
            "dashboard: \"/d/counterfoil-service?var-service={{ $labels.service }}\"".to_owned(),
        ),
    ];
    // The series bring these labels; written out they tell the rules of two objectives apart.
    let own = measure.labels.iter();
    let own = own.map(|(label, value)| (10, format!("{label}: {}", quoted(value))));
    for (indent, text) in lines.into_iter().chain(own).chain(told) {
        let _infallible = writeln!(out, "{:indent$}{text}", "");
    }
}

/// A share without the noise of binary fractions.
fn share(value: f64) -> String {
    let text = format!("{value:.9}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A text as YAML and PromQL both write it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::TimeWindow;

    fn objective(service: Option<&str>, threshold_ns: Option<i64>) -> Objective {
        Objective {
            name: "fast".into(),
            service: service.map(Into::into),
            operation: None,
            threshold_ns,
            target: 0.9995,
            ordinal: 0,
            window: TimeWindow::rolling("30d").unwrap(),
            events_min: 100,
        }
    }

    #[test]
    fn an_objective_becomes_eleven_records_and_four_alerts() {
        let text = rules(&[objective(Some("cart"), None)]).unwrap();
        let document: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        let rules = document["groups"][0]["rules"].as_array().unwrap();
        let of = |key: &str| rules.iter().filter(|rule| rule.get(key).is_some()).count();
        assert_eq!((of("record"), of("alert")), (11, 4));
        let pairs: Vec<&str> = rules[11..]
            .iter()
            .map(|rule| rule["labels"]["window"].as_str().unwrap())
            .collect();
        assert_eq!(pairs, ["1h", "6h", "1d", "3d"]);
        let page = rules[11]["expr"].as_str().unwrap();
        assert!(
            page.contains("ratio_rate1h")
                && page.contains("ratio_rate5m")
                && page.contains("> 14.4 * 0.0005 "),
            "{page}"
        );
    }

    #[test]
    fn a_latency_objective_needs_a_bucket_that_ends_there() {
        assert!(rules(&[objective(None, Some(500_000_000))]).is_ok());
        let error = rules(&[objective(None, Some(300_000_000))]).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("300 ms") && said.contains("250, 500"),
            "{said}"
        );
    }

    #[test]
    fn two_objectives_of_one_name_are_refused_and_two_thresholds_are_not() {
        let of = |threshold_ns| objective(Some("cart"), threshold_ns);
        assert!(rules(&[of(Some(250_000_000)), of(Some(500_000_000))]).is_ok());
        let error = rules(&[of(None), of(None)]).unwrap_err();
        assert!(error.to_string().contains("fast"), "{error}");
    }

    #[test]
    fn no_objectives_make_a_file_without_groups() {
        let document: serde_json::Value = serde_saphyr::from_str(&rules(&[]).unwrap()).unwrap();
        assert_eq!(document["groups"], serde_json::json!([]));
    }

    #[test]
    fn names_cannot_break_out_of_their_quotes() {
        let mut odd = objective(Some("a\"} or vector(1) %w#"), None);
        odd.name = "x\n- alert: y".into();
        let text = rules(&[odd]).unwrap();
        let document: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(document["groups"].as_array().unwrap().len(), 1);
        let expr = document["groups"][0]["rules"][0]["expr"].as_str().unwrap();
        assert!(
            expr.contains(r#"service="a\"} or vector(1) %w#""#),
            "{expr}"
        );
    }
}

//! What one evaluation found of one condition.

use std::collections::BTreeMap;

use super::state::GROUP;

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It holds, and enough was seen to say so.
    Holds,
    /// It does not, and that was seen.
    Clear,
    /// Too little is known, or data are late: nothing begins, and nothing ends.
    Unknown,
}

/// One condition as it was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) verdict: Verdict,
    pub(super) value: Option<f64>,
    pub(super) threshold: Option<f64>,
    pub(super) target: Option<f64>,
    /// Window of the judgement, for people; empty when there is none.
    pub(super) window: String,
    /// One sentence for people.
    pub(super) summary: String,
    /// For how long it must hold before people are told.
    pub(super) for_ns: i64,
}

/// How soon somebody must look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// Now.
    Page,
    /// Within days.
    Ticket,
    /// Nobody: it is there so that its absence is noticed.
    None,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Ticket => "ticket",
            Self::None => "none",
        }
    }
}

impl Finding {
    /// A finding of `alertname` in the evaluation `group`, with nothing but its verdict yet.
    pub(super) fn new(
        group: &str,
        alertname: &str,
        severity: Severity,
        verdict: Verdict,
        summary: String,
    ) -> Self {
        let labels = [
            (GROUP, group),
            ("alertname", alertname),
            ("severity", severity.as_str()),
        ];
        Self {
            labels: labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            verdict,
            value: None,
            threshold: None,
            target: None,
            window: String::new(),
            summary,
            for_ns: 0,
        }
    }

    /// With a label more, when there is one.
    pub(super) fn label(mut self, name: &str, value: Option<&str>) -> Self {
        if let Some(value) = value {
            self.labels.insert(name.to_owned(), value.to_owned());
        }
        self
    }

    /// With the figure that was judged, and what it was held against.
    pub(super) fn figures(mut self, value: Option<f64>, threshold: f64) -> Self {
        self.value = value;
        self.threshold = Some(threshold);
        self
    }

    /// It must hold for so many seconds before people are told.
    pub(super) fn holding_for_s(mut self, seconds: i64) -> Self {
        self.for_ns = seconds * 1_000_000_000;
        self
    }
}

//! A check, the cases that it tries, and what it found.

use std::pin::Pin;
use std::time::Duration;

use counterfoil_entry::Time;
use serde::Serialize;

use crate::rig::Rig;

/// How bad it is when a check fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Calls can be made or hidden that must not be.
    Critical,
    /// A defence is missing on which others rest.
    High,
    /// It is untidy, or defends in depth.
    Medium,
}

impl Severity {
    /// The word in reports and books.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
        }
    }
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every case was as it must be.
    Pass,
    /// A case was not, or could not be tried.
    Fail,
    /// The target was not described well enough to try; the reason says what is missing.
    Skipped,
}

impl Outcome {
    /// The word in reports and books.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skipped => "skipped",
        }
    }
}

/// What one check of one run found. In JSON an object of these members.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The check, as in `T01`.
    pub check: &'static str,
    /// What it demands.
    pub title: &'static str,
    /// How bad a failure is.
    pub severity: Severity,
    /// What came of it.
    pub outcome: Outcome,
    /// What was sent, in short; no secret.
    pub sent: String,
    /// What was seen: for a failure the cases that failed, for a skipped check the reason.
    pub saw: String,
    /// How long it took (ms).
    pub duration_ms: u64,
    /// When it ended, RFC 3339 in JSON.
    #[serde(serialize_with = "as_text")]
    pub checked_at: Time,
}

fn as_text<S: serde::Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// One demand on a proxy.
#[derive(Clone, Copy)]
pub struct Check {
    /// Its stable id: a letter for the group, and a number.
    pub id: &'static str,
    /// What it demands, as a sentence.
    pub title: &'static str,
    /// How bad a failure is.
    pub severity: Severity,
    pub(crate) run: for<'a> fn(&'a Rig) -> Running<'a>,
}

/// A check that runs.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Result<Cases, Stop>> + Send + 'a>>;

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Check").field(&self.id).finish()
    }
}

impl Check {
    /// Asks the target, within `limit`.
    pub(crate) async fn ask(&self, rig: &Rig, limit: Duration) -> (Outcome, String, String) {
        match tokio::time::timeout(limit, (self.run)(rig)).await {
            Ok(Ok(cases)) => cases.judged(),
            Ok(Err(Stop::Skipped(why))) => (Outcome::Skipped, String::new(), why),
            Ok(Err(Stop::Trouble(trouble))) => (Outcome::Fail, String::new(), chain(&trouble)),
            Err(_elapsed) => {
                let saw = format!("no result within {} s", limit.as_secs());
                (Outcome::Fail, String::new(), saw)
            }
        }
    }
}

/// Why a check ended before it had an answer.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It cannot be tried on this target.
    Skipped(String),
    /// Asking failed, which is no proof that anything was refused.
    Trouble(Trouble),
}

impl Stop {
    pub(crate) fn skip(why: impl Into<String>) -> Self {
        Self::Skipped(why.into())
    }
}

impl<T: Into<Trouble>> From<T> for Stop {
    fn from(trouble: T) -> Self {
        Self::Trouble(trouble.into())
    }
}

/// Why a question could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// Nobody takes the connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A good caller was refused.
    #[error("the handshake of a good caller failed")]
    Handshake(#[source] std::io::Error),
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A certificate or key could not be used.
    #[error("cannot use a certificate")]
    Svid(#[from] counterfoil_trust::SvidError),
    /// TLS could not be configured so.
    #[error("cannot configure TLS")]
    Tls(#[from] rustls::Error),
    /// A token could not be signed.
    #[error("cannot sign a token")]
    Token(#[from] jsonwebtoken::errors::Error),
    /// The books could not be asked.
    #[error("cannot read the books")]
    Books(#[from] crate::books::ReadError),
    /// The collector could not be asked.
    #[error("cannot talk to the collector: {0}")]
    Collector(String),
    /// A task of the check died.
    #[error("a task of the check died")]
    Task(#[from] tokio::task::JoinError),
}

/// A error with its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The cases that a check tried.
#[derive(Debug, Default)]
pub(crate) struct Cases(Vec<Case>);

#[derive(Debug)]
struct Case {
    sent: String,
    saw: String,
    good: bool,
}

/// Longest text about one case (characters).
const CASE_CHARS_MAX: usize = 160;
/// Longest text about a check (characters).
const TEXT_CHARS_MAX: usize = 1_200;

impl Cases {
    /// One case: what was sent, whether what came of it is right, and what that was.
    pub(crate) fn add(&mut self, sent: impl Into<String>, good: bool, saw: impl Into<String>) {
        self.0.push(Case {
            sent: printable(&sent.into(), CASE_CHARS_MAX),
            saw: printable(&saw.into(), CASE_CHARS_MAX),
            good,
        });
    }

    /// As [`Self::add`], for what [`crate::rig`] judged already.
    pub(crate) fn judge(&mut self, sent: impl Into<String>, (good, saw): (bool, String)) {
        self.add(sent, good, saw);
    }

    fn judged(self) -> (Outcome, String, String) {
        let all: Vec<&str> = self.0.iter().map(|case| case.sent.as_str()).collect();
        let sent = printable(&all.join("; "), TEXT_CHARS_MAX);
        let bad: Vec<String> = self
            .0
            .iter()
            .filter(|case| !case.good)
            .map(|case| format!("{}: {}", case.sent, case.saw))
            .collect();
        if self.0.is_empty() {
            return (Outcome::Fail, sent, "nothing was tried".to_owned());
        }
        if bad.is_empty() {
            return (
                Outcome::Pass,
                sent,
                printable(&self.summary(), TEXT_CHARS_MAX),
            );
        }
        (
            Outcome::Fail,
            sent,
            printable(&bad.join("; "), TEXT_CHARS_MAX),
        )
    }

    /// Each thing that was seen once, with how often.
    fn summary(&self) -> String {
        let mut seen: Vec<(&str, usize)> = Vec::new();
        for case in &self.0 {
            match seen.iter_mut().find(|(saw, _)| *saw == case.saw) {
                Some((_, times)) => *times += 1,
                None => seen.push((&case.saw, 1)),
            }
        }
        let words: Vec<String> = seen
            .iter()
            .map(|(saw, times)| match times {
                1 => (*saw).to_owned(),
                times => format!("{saw} ({times} times)"),
            })
            .collect();
        words.join("; ")
    }
}

/// `text` as it can stand in any report: no control characters, not longer than `max` characters.
pub(crate) fn printable(text: &str, max: usize) -> String {
    let mut out = String::new();
    for (at, one) in text.chars().enumerate() {
        if at == max {
            out.push_str(" ..");
            break;
        }
        if one.is_control() {
            out.extend(one.escape_default());
        } else {
            out.push(one);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_case_fails_a_check_and_is_named() {
        let mut cases = Cases::default();
        cases.add("a", true, "400");
        cases.add("b\r\n", false, "200");
        let (outcome, sent, saw) = cases.judged();
        assert_eq!(outcome, Outcome::Fail);
        assert_eq!(
            (sent.as_str(), saw.as_str()),
            ("a; b\\r\\n", "b\\r\\n: 200")
        );
    }

    #[test]
    fn good_cases_are_summed_up() {
        let mut cases = Cases::default();
        for (sent, saw) in [("a", "400"), ("b", "403"), ("c", "400")] {
            cases.add(sent, true, saw);
        }
        let (outcome, _, saw) = cases.judged();
        assert_eq!(
            (outcome, saw.as_str()),
            (Outcome::Pass, "400 (2 times); 403")
        );
    }

    #[test]
    fn a_check_that_tried_nothing_fails() {
        assert_eq!(Cases::default().judged().0, Outcome::Fail);
    }
}

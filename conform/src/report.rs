//! Findings as a table for people, as JSON, and as JUnit XML for build servers.

use std::fmt::Write as _;

use crate::check::{Check, Finding, Outcome};

/// Findings counted by what came of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// As they must be.
    pub passed: usize,
    /// Not so.
    pub failed: usize,
    /// Not tried.
    pub skipped: usize,
}

impl Tally {
    /// Counts `findings`.
    #[must_use]
    pub fn of(findings: &[Finding]) -> Self {
        let count = |outcome| {
            findings
                .iter()
                .filter(|found| found.outcome == outcome)
                .count()
        };
        Self {
            passed: count(Outcome::Pass),
            failed: count(Outcome::Fail),
            skipped: count(Outcome::Skipped),
        }
    }
}

/// Lines for people: one a check, and what was seen where it did not pass; then the sums.
#[must_use]
pub fn table(target: &str, findings: &[Finding]) -> String {
    let mut out = String::new();
    for found in findings {
        let outcome = match found.outcome {
            Outcome::Pass => "pass",
            Outcome::Fail => "FAIL",
            Outcome::Skipped => "skipped",
        };
        let severity = found.severity.as_str();
        put(
            &mut out,
            &format!(
                "{}  {outcome:7}  {severity:8}  {}",
                found.check, found.title
            ),
        );
        if found.outcome != Outcome::Pass {
            put(&mut out, &format!("     {}", found.saw));
        }
    }
    let Tally {
        passed,
        failed,
        skipped,
    } = Tally::of(findings);
    let all = findings.len();
    put(
        &mut out,
        &format!("{target}: {all} checks, {passed} passed, {failed} failed, {skipped} skipped"),
    );
    out
}

/// The list of checks, one a line.
#[must_use]
pub fn list(checks: &[Check]) -> String {
    let mut out = String::new();
    for check in checks {
        let severity = check.severity.as_str();
        put(
            &mut out,
            &format!("{}  {severity:8}  {}", check.id, check.title),
        );
    }
    out
}

/// One array of objects: the members of [`Finding`].
#[must_use]
pub fn json(findings: &[Finding]) -> String {
    let mut out = String::from("[");
    for (at, found) in findings.iter().enumerate() {
        let separator = if at == 0 { "\n " } else { ",\n " };
        out.push_str(separator);
        // plain texts and numbers, which always can be written
        out.push_str(&serde_json::to_string(found).unwrap_or_default());
    }
    out.push_str(if findings.is_empty() { "]\n" } else { "\n]\n" });
    out
}

/// JUnit XML as build servers read it: one suite a group, one case a check.
#[must_use]
pub fn junit(target: &str, findings: &[Finding]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let sums = sums(findings);
    put(
        &mut out,
        &format!(
            "<testsuites name=\"counterfoil conform {}\" {sums}>",
            xml(target)
        ),
    );
    let mut rest = findings;
    while let Some(first) = rest.first() {
        let group = group_of(first);
        let end = rest
            .iter()
            .position(|found| group_of(found) != group)
            .unwrap_or(rest.len());
        let (of_group, others) = rest.split_at(end);
        suite(&mut out, group, of_group);
        rest = others;
    }
    put(&mut out, "</testsuites>");
    out
}

fn group_of(found: &Finding) -> &str {
    found
        .check
        .split_at_checked(1)
        .map_or("", |(group, _)| group)
}

fn suite(out: &mut String, group: &str, findings: &[Finding]) {
    let name = xml(group_name(group));
    put(
        out,
        &format!(" <testsuite name=\"{name}\" {}>", sums(findings)),
    );
    for found in findings {
        put(
            out,
            &format!(
                "  <testcase classname=\"counterfoil.conform.{group}\" name=\"{} {}\" time=\"{}\">",
                found.check,
                xml(found.title),
                seconds(found.duration_ms)
            ),
        );
        let saw = xml(&found.saw);
        match found.outcome {
            Outcome::Pass => {}
            Outcome::Fail => {
                let severity = found.severity.as_str();
                put(
                    out,
                    &format!("   <failure type=\"{severity}\" message=\"{saw}\"/>"),
                );
            }
            Outcome::Skipped => put(out, &format!("   <skipped message=\"{saw}\"/>")),
        }
        let sent = xml(&found.sent);
        put(
            out,
            &format!("   <system-out>sent: {sent}\nsaw: {saw}</system-out>"),
        );
        put(out, "  </testcase>");
    }
    put(out, " </testsuite>");
}

/// What a group is about.
fn group_name(group: &str) -> &str {
    match group {
        "T" => "T transport",
        "J" => "J tokens",
        "P" => "P paths",
        "S" => "S smuggling",
        "H" => "H headers",
        "A" => "A books",
        other => other,
    }
}

fn sums(findings: &[Finding]) -> String {
    let tally = Tally::of(findings);
    let took_ms = findings.iter().map(|found| found.duration_ms).sum();
    format!(
        "tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\" time=\"{}\"",
        findings.len(),
        tally.failed,
        tally.skipped,
        seconds(took_ms)
    )
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

/// Text as it may stand in XML: five characters written by name, and none that XML 1.0 forbids.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\u{9}' | '\u{a}' | '\u{d}' | '\u{20}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}' => {
                out.push(one);
            }
            _ => out.push('\u{fffd}'),
        }
    }
    out
}

#[expect(
    clippy::let_underscore_must_use,
    reason = "writing to a string cannot fail"
)]
fn put(out: &mut String, line: &str) {
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use counterfoil_entry::Time;

    use super::*;
    use crate::check::Severity;

    fn found(check: &'static str, outcome: Outcome, saw: &str) -> Finding {
        Finding {
            check,
            title: "a title with <marks> & \"quotes\"",
            severity: Severity::High,
            outcome,
            sent: "something".to_owned(),
            saw: saw.to_owned(),
            duration_ms: 1_234,
            checked_at: Time::from_ns(0),
        }
    }

    fn findings() -> Vec<Finding> {
        vec![
            found("T01", Outcome::Pass, "400"),
            found("T02", Outcome::Fail, "200 <b> & '\u{1}'"),
            found("P01", Outcome::Skipped, "no [app]"),
        ]
    }

    #[test]
    fn people_see_what_failed_and_the_sums() {
        let text = table("127.0.0.1:1", &findings());
        assert!(text.contains("T01  pass     high      a title"), "{text}");
        assert!(text.contains("T02  FAIL     high      a title"), "{text}");
        assert!(text.contains("\n     200 <b>"), "{text}");
        let sums = "127.0.0.1:1: 3 checks, 1 passed, 1 failed, 1 skipped\n";
        assert!(text.ends_with(sums), "{text}");
    }

    #[test]
    fn json_is_one_array_of_objects() {
        let read: serde_json::Value = serde_json::from_str(&json(&findings())).unwrap();
        assert_eq!(read[1]["check"], "T02");
        assert_eq!(read[1]["outcome"], "fail");
        assert_eq!(read[1]["severity"], "high");
        assert_eq!(read[1]["duration_ms"], 1_234);
        assert_eq!(read[1]["checked_at"], "1970-01-01T00:00:00.000000000Z");
        assert_eq!(json(&[]), "[]\n");
    }

    /// Reads XML as strictly as a small reader can: every element closed in order, attributes
    /// quoted, no stray marks. Gives the elements' names in the order in which they begin.
    fn elements(text: &str) -> Vec<String> {
        let body = text
            .strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")
            .unwrap();
        let (mut open, mut seen) = (Vec::new(), Vec::new());
        let mut rest = body;
        while let Some(at) = rest.find('<') {
            let (before, from) = rest.split_at(at);
            plain(before);
            let (tag, after) = from.strip_prefix('<').unwrap().split_once('>').unwrap();
            rest = after;
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
                continue;
            }
            let (tag, is_empty) = match tag.strip_suffix('/') {
                Some(tag) => (tag, true),
                None => (tag, false),
            };
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            let parts: Vec<_> = attributes.split('"').collect();
            assert_eq!(parts.len() % 2, 1, "{tag}");
            for pair in parts.chunks_exact(2) {
                assert!(pair[0].trim().strip_suffix('=').is_some(), "{tag}");
                plain(pair[1]);
            }
            seen.push(name.to_owned());
            if !is_empty {
                open.push(name.to_owned());
            }
        }
        assert!(open.is_empty() && rest.trim().is_empty());
        seen
    }

    fn plain(text: &str) {
        for part in text.split('&').skip(1) {
            let known = ["amp;", "lt;", "gt;", "quot;", "apos;"];
            assert!(known.iter().any(|name| part.starts_with(name)), "{text}");
        }
        assert!(
            !text.chars().any(|c| c.is_control() && c != '\n'),
            "{text:?}"
        );
    }

    #[test]
    fn junit_is_well_formed_and_counts_right() {
        let text = junit("a<b", &findings());
        let seen = elements(&text);
        let count = |name: &str| seen.iter().filter(|seen| *seen == name).count();
        assert_eq!(
            (count("testsuites"), count("testsuite"), count("testcase")),
            (1, 2, 3)
        );
        assert_eq!(
            (count("failure"), count("skipped"), count("system-out")),
            (1, 1, 3)
        );
        let sums = "tests=\"3\" failures=\"1\" errors=\"0\" skipped=\"1\" time=\"3.702\"";
        assert!(text.contains(sums), "{text}");
        assert!(
            text.contains("message=\"200 &lt;b&gt; &amp; &apos;\u{fffd}&apos;\""),
            "{text}"
        );
    }
}

//! What this proxy counts about itself, and its text form for `/metrics`.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use counterfoil_entry::entry::Entry;
use counterfoil_entry::word::{Kind, Outcome, Side};

use crate::pull::Seen;

/// Counters since the process began, and gauges. Relaxed: each stands for itself.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    client: ByOutcome,
    server: ByOutcome,
    refused_handshakes: AtomicU64,
    entries: AtomicU64,
    entries_dropped: AtomicU64,
    connections: AtomicU64,
    overhead_ns: AtomicU64,
    bundles_applied: AtomicU64,
    bundles_refused: AtomicU64,
    bundle_polls_failed: AtomicU64,
}

#[derive(Debug, Default)]
struct ByOutcome([AtomicU64; Outcome::ALL.len()]);

impl ByOutcome {
    fn count(&self, outcome: Outcome) {
        let at = Outcome::ALL.iter().position(|known| *known == outcome);
        if let Some(counter) = at.and_then(|at| self.0.get(at)) {
            add(counter, 1);
        }
    }
}

impl Counters {
    pub(crate) fn ended(&self, entry: &Entry, appended: bool) {
        add(
            if appended {
                &self.entries
            } else {
                &self.entries_dropped
            },
            1,
        );
        if entry.kind == Kind::TlsFailure {
            add(&self.refused_handshakes, 1);
            return;
        }
        let side = match entry.side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        };
        side.count(entry.outcome.unwrap_or(Outcome::Unknown));
        add(&self.overhead_ns, entry.overhead_ns.unwrap_or(0));
    }

    pub(crate) fn connected(&self) {
        add(&self.connections, 1);
    }

    pub(crate) fn disconnected(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts what the pull told.
    pub(crate) fn pulled(&self, seen: &Seen) {
        match seen {
            Seen::Acked(row) if row.reason.is_none() => add(&self.bundles_applied, 1),
            Seen::Acked(_) => add(&self.bundles_refused, 1),
            Seen::Polled(polled) if polled.answer.is_err() => add(&self.bundle_polls_failed, 1),
            Seen::Polled(_) | Seen::Health(_) => {}
        }
    }

    /// Prometheus' text format.
    pub(crate) fn render(&self, out: &mut String) {
        family(
            out,
            "counterfoil_proxy_calls_total",
            "counter",
            "calls ended, by side and outcome",
        );
        for (side, counts) in [("client", &self.client), ("server", &self.server)] {
            for (outcome, count) in Outcome::ALL.iter().zip(&counts.0) {
                let labels = format!("{{side=\"{side}\",outcome=\"{}\"}}", outcome.as_str());
                sample(out, "counterfoil_proxy_calls_total", &labels, count);
            }
        }
        let plain = [
            (
                "counterfoil_proxy_refused_handshakes_total",
                "counter",
                &self.refused_handshakes,
            ),
            ("counterfoil_proxy_entries_total", "counter", &self.entries),
            (
                "counterfoil_proxy_entries_dropped_total",
                "counter",
                &self.entries_dropped,
            ),
            (
                "counterfoil_proxy_overhead_ns_total",
                "counter",
                &self.overhead_ns,
            ),
            ("counterfoil_proxy_connections", "gauge", &self.connections),
            (
                "counterfoil_proxy_bundles_applied_total",
                "counter",
                &self.bundles_applied,
            ),
            (
                "counterfoil_proxy_bundles_refused_total",
                "counter",
                &self.bundles_refused,
            ),
            (
                "counterfoil_proxy_bundle_polls_failed_total",
                "counter",
                &self.bundle_polls_failed,
            ),
        ];
        for (name, kind, count) in plain {
            let words = name
                .trim_start_matches("counterfoil_proxy_")
                .replace('_', " ");
            family(out, name, kind, &words);
            sample(out, name, "", count);
        }
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Writing to a `String` cannot fail.
#[expect(
    clippy::let_underscore_must_use,
    reason = "writing to a string cannot fail"
)]
fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

#[expect(
    clippy::let_underscore_must_use,
    reason = "writing to a string cannot fail"
)]
fn sample(out: &mut String, name: &str, labels: &str, count: &AtomicU64) {
    let _ = writeln!(out, "{name}{labels} {}", count.load(Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use counterfoil_entry::Time;

    use super::*;

    #[test]
    fn ended_calls_show_under_their_side_and_outcome() {
        let counters = Counters::default();
        let mut entry = Entry::new(Side::Server, Kind::Http, Time::from_ns(0));
        entry.outcome = Some(Outcome::Denied);
        counters.ended(&entry, true);
        counters.ended(&entry, false);
        let mut text = String::new();
        counters.render(&mut text);
        let line = "counterfoil_proxy_calls_total{side=\"server\",outcome=\"denied\"} 2\n";
        assert!(text.contains(line), "{text}");
        assert!(
            text.contains("counterfoil_proxy_entries_dropped_total 1\n"),
            "{text}"
        );
    }
}

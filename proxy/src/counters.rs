//! What this proxy counts about itself, and its text form for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

use counterfoil_entry::entry::Entry;
use counterfoil_entry::word::{Kind, Outcome, Side};

use crate::call_metrics::{CallMetrics, family, line};
use crate::pull::Seen;

/// Counters since the process began, and gauges. Relaxed: each stands for itself.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Calls by service and operation.
    pub(crate) calls: CallMetrics,
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

    /// OpenMetrics text of everything, without its end.
    pub(crate) fn render(&self, out: &mut String) {
        self.calls.render(out);
        let name = "counterfoil_proxy_calls";
        family(
            out,
            name,
            "counter",
            "Calls that ended, by side and outcome",
        );
        for (side, counts) in [("client", &self.client), ("server", &self.server)] {
            for (outcome, count) in Outcome::ALL.iter().zip(&counts.0) {
                let (outcome, n) = (outcome.as_str(), count.load(Ordering::Relaxed));
                line(
                    out,
                    format_args!("{name}_total{{side=\"{side}\",outcome=\"{outcome}\"}} {n}"),
                );
            }
        }
        for (name, help, count) in [
            (
                "refused_handshakes",
                "Handshakes that were refused",
                &self.refused_handshakes,
            ),
            ("entries", "Entries that the spool took", &self.entries),
            (
                "entries_dropped",
                "Entries that it did not take",
                &self.entries_dropped,
            ),
            (
                "overhead_ns",
                "What this proxy cost all calls together",
                &self.overhead_ns,
            ),
            (
                "bundles_applied",
                "Bundles put in force",
                &self.bundles_applied,
            ),
            (
                "bundles_refused",
                "Bundles that were refused",
                &self.bundles_refused,
            ),
            (
                "bundle_polls_failed",
                "Polls for bundles that failed",
                &self.bundle_polls_failed,
            ),
        ] {
            let name = format!("counterfoil_proxy_{name}");
            family(out, &name, "counter", help);
            let n = count.load(Ordering::Relaxed);
            line(out, format_args!("{name}_total {n}"));
        }
        let name = "counterfoil_proxy_connections";
        family(out, name, "gauge", "Connections that are open");
        let n = self.connections.load(Ordering::Relaxed);
        line(out, format_args!("{name} {n}"));
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
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

//! The figures of a simulation, for people and for programs.

use counterfoil_entry::clock;
use counterfoil_estate::Estate;
use serde::Serialize;
use serde_json::Value;

use crate::{
    args::{FiguresOutput, RowsOutput, SimArgs},
    console::raw,
    rows::Answer,
};

/// How fast something reached those whom it should reach.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Spread {
    /// How many it should reach.
    pub(super) due: usize,
    /// How many it reached in time.
    pub(super) reached: usize,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

impl Spread {
    /// Of times in nanoseconds.
    pub(super) fn of(mut took_ns: Vec<i64>, due: usize) -> Self {
        took_ns.sort_unstable();
        let at = |percent: usize| {
            // The nearest rank.
            let rank = (took_ns.len() * percent).div_ceil(100).max(1);
            let ns = took_ns.get(rank - 1).copied().unwrap_or(0);
            #[expect(clippy::cast_precision_loss, reason = "microseconds are enough")]
            let ms = (ns / 1_000) as f64 / 1_000.0;
            ms
        };
        Self {
            due,
            reached: took_ns.len(),
            p50_ms: at(50),
            p99_ms: at(99),
            max_ms: at(100),
        }
    }

    const fn is_whole(&self) -> bool {
        self.due == self.reached
    }
}

/// Everything that is measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Figures {
    pub(super) ok: bool,
    pub(super) proxies: u32,
    pub(super) estate_workloads: usize,
    pub(super) estate_apis: usize,
    pub(super) estate_operations: usize,
    pub(super) estate_grants: usize,
    pub(super) import_s: f64,
    pub(super) joined: usize,
    pub(super) join_s: f64,
    pub(super) steady_requests_per_s: f64,
    pub(super) steady_peak_per_100ms: u32,
    pub(super) change: Spread,
    pub(super) revocation: Spread,
    pub(super) outage_s: f64,
    pub(super) outage_decisions: u64,
    pub(super) outage_decisions_failed: u64,
    pub(super) outage_requests_per_s: f64,
    pub(super) recovery_ready_s: f64,
    pub(super) recovered: usize,
    pub(super) recovery_s: f64,
    pub(super) recovery_peak_per_100ms: u32,
    pub(super) control_mib_joined: Option<f64>,
    pub(super) control_mib_before_kill: Option<f64>,
    pub(super) control_mib_recovered: Option<f64>,
    pub(super) decisions: u64,
    pub(super) decisions_failed: u64,
    pub(super) first_failure: Option<String>,
}

/// Seconds since a moment of the monotonic clock.
pub(super) fn seconds(since_ns: u64) -> f64 {
    std::time::Duration::from_nanos(clock::mono_ns().saturating_sub(since_ns)).as_secs_f64()
}

impl Figures {
    pub(super) fn of(args: &SimArgs, estate: &Estate) -> Self {
        Self {
            proxies: args.proxies,
            estate_workloads: estate.workloads.len(),
            estate_apis: estate.apis.len(),
            estate_operations: estate.apis.iter().map(|api| api.operations.len()).sum(),
            estate_grants: estate.grants.len(),
            ..Self::default()
        }
    }

    /// With the judgement on them.
    pub(super) fn checked(mut self) -> anyhow::Result<Self> {
        let all = usize::try_from(self.proxies)?;
        let recovered = self.outage_s == 0.0 || self.recovered == all;
        self.ok = self.joined == all
            && self.change.is_whole()
            && self.revocation.is_whole()
            && recovered
            && self.decisions > 0
            && self.decisions_failed == 0
            && self.first_failure.is_none();
        Ok(self)
    }

    /// No decision failed and everything converged.
    pub(super) const fn are_well(&self) -> bool {
        self.ok
    }

    /// Prints them.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(super) fn print(&self, output: FiguresOutput) -> anyhow::Result<()> {
        match output {
            FiguresOutput::Json => raw(serde_json::to_string_pretty(self)?),
            FiguresOutput::Table => self.table().print(RowsOutput::Table)?,
        }
        Ok(())
    }

    fn table(&self) -> Answer {
        let mut rows: Vec<(String, String)> = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        row("proxies", self.proxies.to_string());
        row(
            "estate",
            format!(
                "{} workloads, {} APIs, {} operations, {} grants; imported in {:.1} s",
                self.estate_workloads,
                self.estate_apis,
                self.estate_operations,
                self.estate_grants,
                self.import_s
            ),
        );
        row(
            "SVID and first bundle",
            format!("{} proxies within {:.1} s", self.joined, self.join_s),
        );
        row(
            "steady polling",
            format!(
                "{:.0} requests/s, at most {} in 100 ms",
                self.steady_requests_per_s, self.steady_peak_per_100ms
            ),
        );
        row("a change reaches all who need it", spread(&self.change));
        row("a revocation is obeyed", spread(&self.revocation));
        if self.outage_s > 0.0 {
            row(
                "control killed",
                format!(
                    "for {:.0} s: {} decisions, {} failed; {:.0} attempts/s",
                    self.outage_s,
                    self.outage_decisions,
                    self.outage_decisions_failed,
                    self.outage_requests_per_s
                ),
            );
            row(
                "recovery",
                format!(
                    "control ready after {:.1} s, {} proxies polled within {:.1} s, at most {} requests in 100 ms",
                    self.recovery_ready_s,
                    self.recovered,
                    self.recovery_s,
                    self.recovery_peak_per_100ms
                ),
            );
        }
        row("memory of control", self.memory());
        row(
            "decisions",
            format!("{}, {} failed", self.decisions, self.decisions_failed),
        );
        if let Some(failure) = &self.first_failure {
            row("first failure", failure.clone());
        }
        row(
            "outcome",
            if self.ok { "well" } else { "not well" }.to_owned(),
        );
        Answer {
            columns: ["figure", "value"].map(ToOwned::to_owned).to_vec(),
            rows: rows
                .into_iter()
                .map(|(name, value)| vec![Value::String(name), Value::String(value)])
                .collect(),
        }
    }

    fn memory(&self) -> String {
        let mib = |value: Option<f64>| {
            let mib = value.map(|mib| format!("{mib:.0} MiB"));
            mib.unwrap_or_else(|| "unknown".to_owned())
        };
        let mut text = format!("{} with all proxies", mib(self.control_mib_joined));
        if self.outage_s > 0.0 {
            text.push_str(&format!(
                ", {} before it was killed, {} after",
                mib(self.control_mib_before_kill),
                mib(self.control_mib_recovered)
            ));
        }
        text
    }
}

fn spread(of: &Spread) -> String {
    format!(
        "{} of {}: P50 {:.0} ms, P99 {:.0} ms, at most {:.0} ms",
        of.reached, of.due, of.p50_ms, of.p99_ms, of.max_ms
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let spread = Spread::of((1..=200).rev().map(|ms| ms * 1_000_000).collect(), 201);
        assert_eq!(
            (spread.p50_ms, spread.p99_ms, spread.max_ms),
            (100.0, 198.0, 200.0)
        );
        assert_eq!((spread.due, spread.reached), (201, 200));
        assert!(!spread.is_whole());
        assert_eq!(Spread::of(Vec::new(), 0), Spread::default());
        let one = Spread::of(vec![1_500_000], 1);
        assert_eq!((one.p50_ms, one.p99_ms), (1.5, 1.5));
    }

    fn well() -> Figures {
        Figures {
            proxies: 2,
            joined: 2,
            outage_s: 60.0,
            recovered: 2,
            decisions: 100,
            ..Figures::default()
        }
    }

    #[test]
    fn one_failed_decision_or_one_proxy_left_behind_is_not_well() {
        assert!(well().checked().unwrap().are_well());
        let worse: [fn(&mut Figures); 7] = [
            |f| f.decisions_failed = 1,
            |f| f.decisions = 0,
            |f| f.joined = 1,
            |f| f.recovered = 1,
            |f| f.change.due = 1,
            |f| f.revocation.due = 1,
            |f| f.first_failure = Some("refused".to_owned()),
        ];
        for make_worse in worse {
            let mut figures = well();
            make_worse(&mut figures);
            assert!(!figures.checked().unwrap().are_well());
        }
    }

    #[test]
    fn a_table_tells_of_an_outage_only_when_there_was_one() {
        let told = |figures: Figures| format!("{:?}", figures.table().rows);
        assert!(told(well()).contains("for 60 s: 0 decisions, 0 failed"));
        let calm = Figures {
            outage_s: 0.0,
            ..well()
        };
        assert!(!told(calm).contains("recovery"));
    }
}

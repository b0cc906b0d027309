//! A ten-service shop generated from figures: call graph, shares and latencies of a real one, without a file.

mod figures;

use counterfoil_entry::{clock, id::TraceId};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::plan::{Call, Caller, ENTRY, Plan, Steps, System};
use figures::{CALLS_MAX, FIGURES, Figure, LENGTH};

/// Own time of `frontend` between two calls, in nanoseconds.
const FRONTEND_GAP_NS: i64 = 400_000;

/// The breach that the demo shows: in these traces, the first ones after those that visit every service,
/// this service answers so much later.
const SLOW_TRACES: std::ops::RangeInclusive<u64> = 3..=12;
const SLOW_SERVICE: &str = "currencyservice";
const SLOW_NS: i64 = 300_000_000;

/// What is promised of that service, beside what is promised of all.
pub(crate) const OBJECTIVES: &str = r#"---
apiVersion: openslo/v1
kind: SLO
metadata:
  name: currency-conversion
  annotations:
    counterfoil/events-min: "20"
spec:
  description: Of all conversions, as many are answered within a quarter of a second
  service: currencyservice
  budgetingMethod: Occurrences
  timeWindow:
    - duration: 1M
      isRolling: false
      calendar:
        startTime: 2026-01-01 00:00:00
        timeZone: Europe/Amsterdam
  indicator:
    metadata:
      name: converted-in-time
    spec:
      thresholdMetric:
        metricSource:
          type: counterfoil
          spec:
            measure: duration_ms
  objectives:
    - displayName: within a quarter of a second
      op: lte
      value: 250
      target: 0.99
"#;

/// Generates traces of the shop.
#[derive(Debug)]
pub(crate) struct Shop {
    random: StdRng,
    /// Index of the operation of each figure.
    operations: Vec<usize>,
    entry: usize,
    begun: u64,
}

impl Shop {
    /// The shop's services and operations, and its generator; the same seed gives the same shapes and times.
    pub(crate) fn open(seed: u64) -> (System, Self) {
        let mut system = System::default();
        let frontend = system.service("frontend");
        let entry = system.operation(frontend, ENTRY);
        system.calls.insert((Caller::Driver, entry));
        let mut operations = Vec::with_capacity(FIGURES.len());
        for figure in &FIGURES {
            let source = system.service(figure.source);
            let destination = system.service(figure.destination);
            let operation = system.operation(destination, figure.endpoint);
            system.calls.insert((Caller::Service(source), operation));
            operations.push(operation);
        }
        (
            system,
            Self {
                random: StdRng::seed_from_u64(seed),
                operations,
                entry,
                begun: 0,
            },
        )
    }

    /// The next trace; there is always one.
    pub(crate) fn next_plan(&mut self) -> Option<Plan> {
        let target = self.length();
        let mut plan = Plan {
            trace_id: self.trace_id()?,
            calls: vec![Call {
                operation: self.entry,
                steps: Steps::default(),
            }],
            start: Steps::from_intervals(&[(0, 0, 1)], 0, 1),
        };
        let mut intervals = Vec::new();
        let mut now = FRONTEND_GAP_NS;
        self.begun += 1;
        // The second trace visits every service, so that also a short demo has seen them all.
        let mut tour = if self.begun == 2 {
            0..FIGURES.len()
        } else {
            0..0
        };
        loop {
            let visited = tour.find(|at| FIGURES.get(*at).is_some_and(|f| f.source == "frontend"));
            if visited.is_none() && plan.calls.len() > target {
                break;
            }
            let figure = visited.unwrap_or_else(|| self.draw());
            let inside = self.inside(figure, visited.is_some());
            if plan.calls.len() + 1 + inside.len() > CALLS_MAX + 1 {
                continue;
            }
            let call = plan.calls.len();
            let length = self.add_call(&mut plan, figure, &inside);
            intervals.push((call, now, now + length));
            now += length + FRONTEND_GAP_NS;
        }
        let steps = Steps::from_intervals(&intervals, 0, now);
        if let Some(entry) = plan.calls.first_mut() {
            entry.steps = steps;
        }
        Some(plan)
    }

    /// Adds a call with those inside it and returns how long it takes, in nanoseconds.
    fn add_call(&mut self, plan: &mut Plan, figure: usize, inside: &[usize]) -> i64 {
        let own = self.latency_ns(figure) + self.slowness_ns(figure);
        let at = plan.calls.len();
        plan.calls.push(Call {
            operation: self.operation(figure),
            steps: Steps::default(),
        });
        let mut lengths = Vec::new();
        for inner in inside {
            let call = plan.calls.len();
            let length = self.add_call(plan, *inner, &[]);
            lengths.push((call, length));
        }
        let others: i64 = lengths.iter().map(|(_, length)| length).sum();
        let parts = i64::try_from(lengths.len() + 1).unwrap_or(1);
        let gap = ((own - others) / parts).max(50_000);
        let mut now = gap;
        let mut intervals = Vec::new();
        for (call, length) in lengths {
            intervals.push((call, now, now + length));
            now += length + gap;
        }
        let until = if intervals.is_empty() { own } else { now };
        if let Some(call) = plan.calls.get_mut(at) {
            call.steps = Steps::from_intervals(&intervals, 0, until);
        }
        until
    }

    fn operation(&self, figure: usize) -> usize {
        self.operations.get(figure).copied().unwrap_or(self.entry)
    }

    /// One of the calls of `frontend`, by share.
    fn draw(&mut self) -> usize {
        let frontend = || {
            FIGURES
                .iter()
                .enumerate()
                .filter(|(_, f)| f.source == "frontend")
        };
        let all: f64 = frontend().map(|(_, f)| f.share).sum();
        let mut left = self.random.random_range(0.0..all);
        for (at, figure) in frontend() {
            left -= figure.share;
            if left < 0.0 {
                return at;
            }
        }
        0
    }

    /// The calls that one call makes, by their shares against its own; `all` leaves none of them out.
    fn inside(&mut self, outer: usize, all: bool) -> Vec<usize> {
        let Some(outer) = FIGURES.get(outer) else {
            return Vec::new();
        };
        let mut inside = Vec::new();
        for (at, figure) in FIGURES.iter().enumerate() {
            let made_here = figure.source == outer.destination && outer.source == "frontend";
            if !made_here {
                continue;
            }
            let mut expected = figure.share / outer.share;
            if all && expected < 1.0 {
                expected = 1.0;
            }
            while expected > 0.0 {
                if self.random.random_bool(expected.min(1.0)) {
                    inside.push(at);
                }
                expected -= 1.0;
            }
        }
        inside
    }

    fn length(&mut self) -> usize {
        let drawn = quantile(&LENGTH, self.random.random_range(0.0..1.0));
        usize::try_from(whole(drawn))
            .unwrap_or(12)
            .clamp(1, CALLS_MAX)
    }

    fn latency_ns(&mut self, figure: usize) -> i64 {
        let Some(Figure { p50, p90, p99, .. }) = FIGURES.get(figure) else {
            return 0;
        };
        let points = [
            (0.0, p50 * 0.6),
            (0.5, *p50),
            (0.9, *p90),
            (0.99, *p99),
            (1.0, p99 * 1.1),
        ];
        whole(quantile(&points, self.random.random_range(0.0..1.0)) * 1_000.0)
    }

    fn slowness_ns(&self, figure: usize) -> i64 {
        let is_of_it = |figure: &Figure| figure.destination == SLOW_SERVICE;
        let is_slow =
            SLOW_TRACES.contains(&self.begun) && FIGURES.get(figure).is_some_and(is_of_it);
        if is_slow { SLOW_NS } else { 0 }
    }

    /// An id that begins with the time: 6 bytes milliseconds, 10 random.
    fn trace_id(&mut self) -> Option<TraceId> {
        let ms = clock::wall().as_ns() / 1_000_000;
        let mut id: [u8; 16] = rand::rng().random();
        for (to, from) in id.iter_mut().zip(ms.to_be_bytes().into_iter().skip(2)) {
            *to = from;
        }
        TraceId::new(id)
    }
}

/// The value at `u` of a distribution given by points (share, value), with straight lines between the logarithms.
fn quantile(points: &[(f64, f64)], u: f64) -> f64 {
    for pair in points.windows(2) {
        if let [(from, low), (until, high)] = pair
            && u <= *until
        {
            let part = ((u - from) / (until - from)).clamp(0.0, 1.0);
            return (low.ln() + part * (high.ln() - low.ln())).exp();
        }
    }
    points.last().map_or(0.0, |(_, value)| *value)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounds a latency or a count far below 2^53"
)]
fn whole(value: f64) -> i64 {
    value.round() as i64
}

#[cfg(test)]
mod tests;

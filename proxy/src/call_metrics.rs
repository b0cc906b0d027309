//! Calls by service and operation for `/metrics`: counts, durations, and traces to look at.
//!
//! Each worker counts in series of its own, which nobody else writes, and looks them up in a map of its
//! own: nothing is locked that another thread could hold. A scrape adds the workers' series up.
//! OpenMetrics 1.0; exemplars are the reason that the text is made here (ADR 17).

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use counterfoil_entry::Time;
use counterfoil_entry::entry::Entry;
use counterfoil_entry::id::TraceId;
use counterfoil_entry::word::{Outcome, Side};

/// Upper bounds of the durations (ns).
const DURATIONS_NS: [u64; 14] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// Upper bounds of what a proxy costs (ns); the target is 2 ms.
const OVERHEADS_NS: [u64; 10] = [
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
];
/// Series of a worker. What comes after them counts under no name, so that names cannot fill memory.
const SERIES_MAX: usize = 4_096;

/// What a series is about; without a name where none is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    is_server: bool,
    service: Arc<str>,
    operation: Arc<str>,
}

impl Key {
    const fn side(&self) -> &'static str {
        side(self.is_server)
    }
}

const fn side(is_server: bool) -> &'static str {
    if is_server { "server" } else { "client" }
}

/// Counts of values up to each bound, of those above, and their sum.
#[derive(Debug)]
struct Histogram<const N: usize> {
    upto: [AtomicU64; N],
    above: AtomicU64,
    sum_ns: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            upto: std::array::from_fn(|_| AtomicU64::new(0)),
            above: AtomicU64::new(0),
            sum_ns: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Histogram<N> {
    /// Counts `ns`, and gives the number of its bucket.
    fn count(&self, bounds: &[u64; N], ns: u64) -> usize {
        let at = bounds.partition_point(|bound| *bound < ns);
        let bucket = self.upto.get(at).unwrap_or(&self.above);
        bucket.fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
        at
    }

    fn add_to(&self, sums: &mut Sums) {
        sums.buckets.resize(N + 1, 0);
        let all = self.upto.iter().chain([&self.above]);
        for (sum, bucket) in sums.buckets.iter_mut().zip(all) {
            *sum += bucket.load(Ordering::Relaxed);
        }
        sums.sum_ns += self.sum_ns.load(Ordering::Relaxed);
    }
}

/// A call to look at.
#[derive(Debug, Clone, Copy)]
struct Exemplar {
    trace_id: TraceId,
    ns: u64,
    at: Time,
}

#[derive(Debug, Default)]
struct Series {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    durations: Histogram<{ DURATIONS_NS.len() }>,
    /// The newest call of each bucket. A scrape that reads one makes a call skip it, never wait.
    exemplars: [Mutex<Option<Exemplar>>; DURATIONS_NS.len() + 1],
}

type Shared = Arc<Mutex<Vec<(Key, Arc<Series>)>>>;

/// One worker's series. Its thread alone counts in them.
#[derive(Debug)]
pub(crate) struct WorkerCalls {
    known: HashMap<Key, Arc<Series>>,
    shared: Shared,
    overheads: Arc<[Histogram<{ OVERHEADS_NS.len() }>; 2]>,
    nameless: Arc<str>,
}

impl WorkerCalls {
    /// Counts a call that ended.
    pub(crate) fn ended(&mut self, entry: &Entry) {
        let is_server = entry.side == Side::Server;
        let name = |name: &Option<Arc<str>>| Arc::clone(name.as_ref().unwrap_or(&self.nameless));
        let mut key = Key {
            is_server,
            service: name(&entry.destination_app),
            operation: name(&entry.operation),
        };
        if self.known.len() >= SERIES_MAX && !self.known.contains_key(&key) {
            key.service = Arc::clone(&self.nameless);
            key.operation = Arc::clone(&self.nameless);
        }
        let shared = &self.shared;
        let series = self.known.entry(key).or_insert_with_key(|key| {
            let series = Arc::<Series>::default();
            let mut all = shared.lock().unwrap_or_else(PoisonError::into_inner);
            all.push((key.clone(), Arc::clone(&series)));
            series
        });
        let outcome = entry.outcome.unwrap_or(Outcome::Unknown);
        let at = Outcome::ALL.iter().position(|known| *known == outcome);
        if let Some(counter) = at.and_then(|at| series.outcomes.get(at)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(ns) = entry.duration_ns {
            let bucket = series.durations.count(&DURATIONS_NS, ns);
            if let (Some(slot), Some(trace_id)) = (series.exemplars.get(bucket), entry.trace_id)
                && let Ok(mut slot) = slot.try_lock()
            {
                let at = entry.end_time.unwrap_or(entry.start_time);
                *slot = Some(Exemplar { trace_id, ns, at });
            }
        }
        if let Some(ns) = entry.overhead_ns
            && let Some(overheads) = self.overheads.get(usize::from(is_server))
        {
            overheads.count(&OVERHEADS_NS, ns);
        }
    }
}

type Overheads = Arc<[Histogram<{ OVERHEADS_NS.len() }>; 2]>;

/// The series of all workers.
#[derive(Debug, Default)]
pub(crate) struct CallMetrics {
    shared: Shared,
    overheads: Mutex<Vec<Overheads>>,
}

#[derive(Debug, Default)]
struct Sums {
    outcomes: [u64; Outcome::ALL.len()],
    buckets: Vec<u64>,
    sum_ns: u64,
    exemplars: Vec<Option<Exemplar>>,
}

impl CallMetrics {
    /// Series for one more worker.
    pub(crate) fn worker(&self) -> WorkerCalls {
        let overheads = Overheads::default();
        let mut all = self
            .overheads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&overheads));
        WorkerCalls {
            known: HashMap::new(),
            shared: Arc::clone(&self.shared),
            overheads,
            nameless: Arc::from(""),
        }
    }

    /// OpenMetrics text of all of them, without its end.
    pub(crate) fn render(&self, out: &mut String) {
        let sums = self.sums();
        family(out, "counterfoil_calls", "counter", "Calls that ended");
        for (key, sums) in &sums {
            for (outcome, n) in Outcome::ALL.iter().zip(sums.outcomes) {
                if n > 0 {
                    let labels = labels(key);
                    let outcome = outcome.as_str();
                    line(
                        out,
                        format_args!(
                            "counterfoil_calls_total{{{labels},outcome=\"{outcome}\"}} {n}"
                        ),
                    );
                }
            }
        }
        let name = "counterfoil_call_duration_seconds";
        family(
            out,
            name,
            "histogram",
            "From the first byte of the request to the last of the answer",
        );
        for (key, sums) in &sums {
            histogram(out, name, &labels(key), &DURATIONS_NS, sums);
        }
        let name = "counterfoil_call_overhead_seconds";
        family(out, name, "histogram", "What this proxy itself cost");
        for is_server in [false, true] {
            let labels = format!("side=\"{}\"", side(is_server));
            histogram(out, name, &labels, &OVERHEADS_NS, &self.overhead(is_server));
        }
    }

    fn sums(&self) -> BTreeMap<Key, Sums> {
        let all = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums: BTreeMap<Key, Sums> = BTreeMap::new();
        for (key, series) in all.iter() {
            let sums = sums.entry(key.clone()).or_default();
            for (sum, counter) in sums.outcomes.iter_mut().zip(&series.outcomes) {
                *sum += counter.load(Ordering::Relaxed);
            }
            series.durations.add_to(sums);
            sums.exemplars.resize(series.exemplars.len(), None);
            for (newest, slot) in sums.exemplars.iter_mut().zip(&series.exemplars) {
                let found = *slot.lock().unwrap_or_else(PoisonError::into_inner);
                if found.map(|one| one.at) > newest.map(|one| one.at) {
                    *newest = found;
                }
            }
        }
        sums
    }

    fn overhead(&self, is_server: bool) -> Sums {
        let all = self
            .overheads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut sums = Sums::default();
        for overheads in all.iter() {
            if let Some(of_side) = overheads.get(usize::from(is_server)) {
                of_side.add_to(&mut sums);
            }
        }
        sums
    }
}

fn labels(key: &Key) -> String {
    format!(
        "side=\"{}\",service=\"{}\",operation=\"{}\"",
        key.side(),
        escaped(&key.service),
        escaped(&key.operation)
    )
}

/// A label's value as OpenMetrics writes it.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn histogram(out: &mut String, name: &str, labels: &str, bounds_ns: &[u64], sums: &Sums) {
    let mut n = 0;
    let bounds = bounds_ns
        .iter()
        .map(|ns| seconds(*ns))
        .chain(["+Inf".to_owned()]);
    for (at, (bound, count)) in bounds.zip(&sums.buckets).enumerate() {
        n += count;
        let exemplar = sums.exemplars.get(at).copied().flatten();
        let exemplar = exemplar.map(|one| {
            let at_s = seconds(one.at.as_ns().unsigned_abs());
            format!(
                " # {{trace_id=\"{}\"}} {} {at_s}",
                one.trace_id,
                seconds(one.ns)
            )
        });
        let exemplar = exemplar.unwrap_or_default();
        line(
            out,
            format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {n}{exemplar}"),
        );
    }
    line(
        out,
        format_args!("{name}_sum{{{labels}}} {}", seconds(sums.sum_ns)),
    );
    line(out, format_args!("{name}_count{{{labels}}} {n}"));
}

/// Nanoseconds as a decimal number of seconds.
fn seconds(ns: u64) -> String {
    let text = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    let text = text.trim_end_matches('0');
    if text.ends_with('.') {
        format!("{text}0")
    } else {
        text.to_owned()
    }
}

/// Begins a family; `name` is without the suffix of its samples.
pub(crate) fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    line(out, format_args!("# HELP {name} {help}"));
    line(out, format_args!("# TYPE {name} {kind}"));
}

#[expect(
    clippy::let_underscore_must_use,
    reason = "writing to a string cannot fail"
)]
pub(crate) fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use counterfoil_entry::word::Kind;

    use super::*;

    fn entry(service: &str, ns: u64) -> Entry {
        let mut entry = Entry::new(Side::Server, Kind::Http, Time::from_ns(1_500_000_000));
        entry.outcome = Some(Outcome::Ok);
        entry.destination_app = Some(Arc::from(service));
        entry.operation = Some(Arc::from("get\"Cart"));
        entry.duration_ns = Some(ns);
        entry.overhead_ns = Some(60_000);
        entry.trace_id = TraceId::new([7; 16]);
        entry
    }

    fn text(metrics: &CallMetrics) -> String {
        let mut out = String::new();
        metrics.render(&mut out);
        out
    }

    #[test]
    fn workers_are_added_up_and_buckets_hold_all_below_them() {
        let metrics = CallMetrics::default();
        let (mut one, mut other) = (metrics.worker(), metrics.worker());
        one.ended(&entry("cart", 400_000));
        one.ended(&entry("cart", 20_000_000_000));
        other.ended(&entry("cart", 1_000_000));
        let said = text(&metrics);
        let labels = "side=\"server\",service=\"cart\",operation=\"get\\\"Cart\"";
        let trace = "# {trace_id=\"07070707070707070707070707070707\"}";
        for line in [
            format!("counterfoil_calls_total{{{labels},outcome=\"ok\"}} 3"),
            format!(
                "counterfoil_call_duration_seconds_bucket{{{labels},le=\"0.0005\"}} 1 {trace} 0.0004 1.5"
            ),
            format!(
                "counterfoil_call_duration_seconds_bucket{{{labels},le=\"0.001\"}} 2 {trace} 0.001 1.5"
            ),
            format!("counterfoil_call_duration_seconds_bucket{{{labels},le=\"10.0\"}} 2"),
            format!(
                "counterfoil_call_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 3 {trace} 20.0 1.5"
            ),
            format!("counterfoil_call_duration_seconds_sum{{{labels}}} 20.0014"),
            format!("counterfoil_call_duration_seconds_count{{{labels}}} 3"),
            "counterfoil_call_overhead_seconds_bucket{side=\"server\",le=\"0.0001\"} 3".to_owned(),
            "counterfoil_call_overhead_seconds_count{side=\"client\"} 0".to_owned(),
        ] {
            assert!(said.lines().any(|one| one == line), "{line}\n{said}");
        }
    }

    #[test]
    fn names_without_end_do_not_take_memory_without_end() {
        let metrics = CallMetrics::default();
        let mut worker = metrics.worker();
        for number in 0..SERIES_MAX + 100 {
            worker.ended(&entry(&number.to_string(), 1));
        }
        assert_eq!(worker.known.len(), SERIES_MAX + 1);
        let said = text(&metrics);
        assert!(
            said.contains("service=\"\",operation=\"\",outcome=\"ok\"} 100"),
            "{}",
            said.len()
        );
    }
}

//! Structure of a recorded trace: which call was made inside which, and when.

mod inbound;

use counterfoil_entry::id::TraceId;

use super::{
    super::plan::{Call, Plan, Steps},
    Recorded,
};
use inbound::Inbound;

/// A call and its start and end.
type Interval = (usize, i64, i64);

/// For each call of a trace the call inside which it was made; nothing for calls of the first services. The calls stand in
/// order of their start, and an outer one before an inner one that begins together with it.
///
/// A recording links a call to its caller by ids only when the parent span of a call is the server span of another. Else
/// the parent is the innermost call to the calling service that was open when the call began.
pub(super) fn parents(calls: &[Recorded]) -> Vec<Option<usize>> {
    debug_assert!(calls.is_sorted_by_key(|call| (call.start, std::cmp::Reverse(call.end))));
    let inbound = Inbound::of_each_service(calls);
    let mut outermost = Outermost::new(calls.len());
    let mut parents = Vec::with_capacity(calls.len());
    for (at, call) in calls.iter().enumerate() {
        let candidates = inbound.get(&call.source);
        // A call is not made inside one that was made inside it.
        let found = candidates.and_then(|of| of.around(call, |other| outermost.of(other) != at));
        if let Some(parent) = found {
            outermost.put_inside(at, parent);
        }
        parents.push(found);
    }
    parents
}

/// In which outermost call a call was made, as far as parents are known.
struct Outermost(Vec<usize>);

impl Outermost {
    fn new(calls: usize) -> Self {
        Self((0..calls).collect())
    }

    /// Shortens the way for those who ask later.
    fn of(&mut self, call: usize) -> usize {
        let mut at = call;
        loop {
            let above = self.above(at);
            if above == at {
                return at;
            }
            let next = self.above(above);
            self.put_inside(at, next);
            at = next;
        }
    }

    fn above(&self, call: usize) -> usize {
        self.0.get(call).copied().unwrap_or(call)
    }

    fn put_inside(&mut self, call: usize, outer: usize) {
        if let Some(above) = self.0.get_mut(call) {
            *above = outer;
        }
    }
}

/// The trace as a plan: `entries` holds the operation under which the driver calls each first service.
pub(super) fn plan(trace_id: TraceId, recorded: &[Recorded], entries: &[Option<usize>]) -> Plan {
    let parents = parents(recorded);
    let interval = |at: usize, call: &Recorded| (at, call.start, call.end);
    let mut inner: Vec<Vec<Interval>> = vec![Vec::new(); recorded.len()];
    let mut first: Vec<(usize, Vec<Interval>)> = Vec::new();
    for ((at, call), parent) in recorded.iter().enumerate().zip(&parents) {
        let list = parent.and_then(|parent| inner.get_mut(parent));
        match list {
            Some(list) => list.push(interval(at, call)),
            None => {
                let service = call.source as usize;
                match first.iter_mut().find(|(known, _)| *known == service) {
                    Some((_, list)) => list.push(interval(at, call)),
                    None => first.push((service, vec![interval(at, call)])),
                }
            }
        }
    }
    let mut calls: Vec<Call> = recorded
        .iter()
        .zip(&inner)
        .map(|(call, inner)| Call {
            operation: call.operation as usize,
            steps: steps(call, inner),
        })
        .collect();
    let mut groups = Vec::new();
    for (service, list) in first {
        let Some(operation) = entries.get(service).copied().flatten() else {
            continue;
        };
        let from = list.iter().map(|(_, start, _)| *start).min().unwrap_or(0);
        let until = list.iter().map(|(_, _, end)| *end).max().unwrap_or(from);
        groups.push((calls.len(), from, until));
        calls.push(Call {
            operation,
            steps: Steps::from_intervals(&list, from, until),
        });
    }
    let from = groups.first().map_or(0, |(_, from, _)| *from);
    let until = groups
        .iter()
        .map(|(_, _, until)| *until)
        .max()
        .unwrap_or(from);
    Plan {
        trace_id,
        calls,
        start: Steps::from_intervals(&groups, from, until),
    }
}

/// What the called service did: its own time, and its calls at the recorded distances.
fn steps(call: &Recorded, inner: &[Interval]) -> Steps {
    // The request is taken to have travelled for half of the time that the caller saw and the service did not.
    let travel = call
        .end
        .saturating_sub(call.start)
        .saturating_sub(call.server_ns)
        .max(0)
        / 2;
    let from = call.start.saturating_add(travel);
    Steps::from_intervals(inner, from, from.saturating_add(call.server_ns))
}

#[cfg(test)]
mod tests;

//! Structure of a recorded trace: which call was made inside which, and when.

use counterfoil_entry::id::TraceId;

use super::{
    super::plan::{Call, Plan, Steps},
    Recorded,
};

/// A call and its start and end.
type Interval = (usize, i64, i64);

/// How far the clocks of two hosts may be apart when a call is looked for around another.
const SKEW_MAX_NS: i64 = 50_000_000;

/// For each call of a trace the call inside which it was made; nothing for calls of the first services.
///
/// A recording links a call to its caller by ids only when the parent span of a call is the server span of another. Else
/// the parent is the innermost call to the calling service that was open when the call began.
pub(super) fn parents(calls: &[Recorded]) -> Vec<Option<usize>> {
    let mut parents: Vec<Option<usize>> = Vec::with_capacity(calls.len());
    for (at, call) in calls.iter().enumerate() {
        let found = calls
            .iter()
            .enumerate()
            .filter(|(other, candidate)| *other != at && candidate.destination == call.source)
            .filter_map(|(other, candidate)| Some((closeness(candidate, call)?, other)))
            .filter(|(_, other)| !leads_back(&parents, *other, at))
            .min();
        parents.push(found.map(|(_, other)| other));
    }
    parents
}

/// How likely a call was made inside another, the least the likeliest; nothing when it cannot be.
fn closeness(outer: &Recorded, inner: &Recorded) -> Option<(u8, i64)> {
    if outer.span != 0 && outer.span == inner.parent {
        return Some((0, 0));
    }
    let behind = inner.start.saturating_sub(outer.start);
    let beyond = inner.start.saturating_sub(outer.end);
    if behind >= 0 && beyond < 0 {
        // One that is still open when the inner call ends goes before one that is not.
        let rank = if inner.end <= outer.end { 1 } else { 2 };
        return Some((rank, behind));
    }
    let apart = beyond.max(behind.saturating_neg());
    (apart <= SKEW_MAX_NS).then_some((3, apart))
}

/// Whether the chain of parents from `from` on comes to `target`.
fn leads_back(parents: &[Option<usize>], from: usize, target: usize) -> bool {
    let mut at = from;
    for _ in 0..=parents.len() {
        if at == target {
            return true;
        }
        match parents.get(at).copied().flatten() {
            Some(parent) => at = parent,
            None => return false,
        }
    }
    true
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

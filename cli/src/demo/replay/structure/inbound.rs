//! The calls of a trace to one service, sorted so that the one around another call is found without looking at all.

use std::{cmp::Reverse, collections::HashMap};

use super::super::Recorded;

/// How far the clocks of two hosts may be apart when a call is looked for around another.
const SKEW_MAX_NS: i64 = 50_000_000;

/// Calls to one service.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// In order of start; of those that begin together the outer ones, which end later, go first.
    by_start: Vec<Interval>,
    /// In order of end; of those that end together the first of the trace goes last.
    by_end: Vec<Interval>,
    /// The calls of each server span, in order of the trace.
    by_span: HashMap<u64, Vec<usize>>,
    ends: Ends,
}

/// A call by its place in the trace, and when it was.
#[derive(Debug, Clone, Copy)]
struct Interval {
    at: usize,
    start: i64,
    end: i64,
}

impl Inbound {
    /// The calls to each service, from those of a trace in order of start.
    pub(super) fn of_each_service(calls: &[Recorded]) -> HashMap<u32, Self> {
        let mut services: HashMap<u32, Self> = HashMap::new();
        for (at, call) in calls.iter().enumerate() {
            let of = services.entry(call.destination).or_default();
            of.by_start.push(Interval {
                at,
                start: call.start,
                end: call.end,
            });
            if call.span != 0 {
                of.by_span.entry(call.span).or_default().push(at);
            }
        }
        for of in services.values_mut() {
            of.by_end.clone_from(&of.by_start);
            of.by_end.sort_by_key(|call| (call.end, Reverse(call.at)));
            of.ends = Ends::of(&of.by_start);
        }
        services
    }

    /// The likeliest of the calls that `may` take to be the one inside which `inner` was made: by its ids; the innermost one
    /// that was open from begin to end; one that was open at the begin; the nearest one, when clocks are a little apart.
    pub(super) fn around(
        &self,
        inner: &Recorded,
        mut may: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        let linked = self.by_span.get(&inner.parent).into_iter().flatten();
        let linked = linked.copied().find(|at| may(*at));
        let open = inner.start.saturating_add(1);
        linked
            .or_else(|| self.innermost(inner.start, inner.end.max(open), &mut may))
            .or_else(|| self.innermost(inner.start, open, &mut may))
            .or_else(|| self.nearest(inner.start, &mut may))
    }

    /// Of the calls that began at `start` or before and ended at `end` or later the one that began last.
    fn innermost(
        &self,
        start: i64,
        end: i64,
        may: &mut impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        let mut before = self.by_start.partition_point(|call| call.start <= start);
        loop {
            let last = self.ends.last_from(end, before)?;
            let begun = self.by_start.get(last)?.start;
            let first = self.by_start.partition_point(|call| call.start < begun);
            // Those that began together with it end later than it does.
            let together = self.by_start.get(first..=last)?;
            if let Some(call) = together.iter().find(|call| may(call.at)) {
                return Some(call.at);
            }
            before = first;
        }
    }

    /// Of the calls that ended shortly before `time` or began shortly after it the nearest one.
    fn nearest(&self, time: i64, may: &mut impl FnMut(usize) -> bool) -> Option<usize> {
        let ended = self.by_end.partition_point(|call| call.end <= time);
        let ended = self.by_end.get(..ended)?.iter().rev();
        let ended = ended.map(|call| (time.saturating_sub(call.end), call.at));
        let begun = self.by_start.partition_point(|call| call.start <= time);
        let begun = self.by_start.get(begun..)?.iter();
        let begun = begun.map(|call| (call.start.saturating_sub(time), call.at));
        let near = |(apart, _): &(i64, usize)| *apart <= SKEW_MAX_NS;
        let ended = ended.take_while(near).find(|(_, at)| may(*at));
        let begun = begun.take_while(near).find(|(_, at)| may(*at));
        Some(ended.into_iter().chain(begun).min()?.1)
    }
}

/// The ends of calls in a row, as a tree of the latest end of each half, quarter and so on.
#[derive(Debug, Default)]
struct Ends {
    /// The root is at 1; below the node at `n` are `2n` and `2n + 1`, and the calls themselves from `leaves` on.
    latest: Vec<i64>,
    leaves: usize,
}

impl Ends {
    fn of(calls: &[Interval]) -> Self {
        // One leaf is left over, so that there is a node behind the last call.
        let leaves = (calls.len() + 1).next_power_of_two();
        let mut latest = vec![i64::MIN; 2 * leaves];
        for (slot, call) in latest.iter_mut().skip(leaves).zip(calls) {
            *slot = call.end;
        }
        let mut ends = Self { latest, leaves };
        for node in (1..leaves).rev() {
            let below = ends.at(2 * node).max(ends.at(2 * node + 1));
            if let Some(slot) = ends.latest.get_mut(node) {
                *slot = below;
            }
        }
        ends
    }

    fn at(&self, node: usize) -> i64 {
        self.latest.get(node).copied().unwrap_or(i64::MIN)
    }

    /// The last of the first `before` calls that ended at `end` or later.
    fn last_from(&self, end: i64, before: usize) -> Option<usize> {
        let mut node = self.leaves + before;
        loop {
            // Up to where something stands to the left, and over to it.
            node >>= node.trailing_zeros();
            if node <= 1 {
                return None;
            }
            node -= 1;
            if self.at(node) >= end {
                break;
            }
        }
        while node < self.leaves {
            node = 2 * node + 1;
            if self.at(node) < end {
                node -= 1;
            }
        }
        Some(node - self.leaves)
    }
}

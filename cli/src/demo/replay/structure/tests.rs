use proptest::prelude::*;

use super::*;

const MS: i64 = 1_000_000;

fn call(source: u32, destination: u32, start_ms: i64, length_ms: i64) -> Recorded {
    Recorded {
        trace: 0,
        start: start_ms * MS,
        end: (start_ms + length_ms) * MS,
        server_ns: (length_ms - 2).max(0) * MS,
        span: 0,
        parent: 0,
        source,
        destination,
        operation: destination,
    }
}

fn trace_id() -> TraceId {
    TraceId::new([7; 16]).unwrap()
}

#[test]
fn a_call_belongs_to_the_innermost_open_call_of_its_caller() {
    // 0 calls 1 twice, side by side; 1 calls 2 inside the second; 2 calls 3.
    let calls = [
        call(0, 1, 0, 100),
        call(0, 1, 10, 40),
        call(1, 2, 20, 20),
        call(2, 3, 25, 5),
    ];
    assert_eq!(parents(&calls), [None, None, Some(1), Some(2)]);
}

#[test]
fn a_call_that_ends_later_than_the_inner_candidate_belongs_to_the_outer_one() {
    let calls = [call(0, 1, 0, 100), call(0, 1, 10, 20), call(1, 2, 15, 60)];
    assert_eq!(parents(&calls), [None, None, Some(0)]);
}

#[test]
fn ids_go_before_times() {
    let mut calls = [call(0, 1, 0, 100), call(0, 1, 10, 40), call(1, 2, 20, 20)];
    calls[0].span = 5;
    calls[2].parent = 5;
    assert_eq!(parents(&calls), [None, None, Some(0)]);
}

#[test]
fn clocks_apart_by_a_little_still_find_the_parent() {
    let calls = [call(1, 2, 0, 5), call(0, 1, 3, 50)];
    assert_eq!(parents(&calls), [Some(1), None]);
}

#[test]
fn two_services_that_call_each_other_make_no_circle() {
    let calls = [call(0, 1, 0, 10), call(1, 0, 0, 10)];
    let parents = parents(&calls);
    assert_eq!(
        parents.iter().filter(|parent| parent.is_none()).count(),
        1,
        "{parents:?}"
    );
}

#[test]
fn the_driver_calls_each_first_service_once() {
    let calls = [call(0, 1, 0, 10), call(0, 2, 20, 10), call(5, 1, 40, 10)];
    let entries = [Some(100), None, None, None, None, Some(105)];
    let plan = plan(trace_id(), &calls, &entries);
    let begun: Vec<_> = plan
        .start
        .calls
        .iter()
        .map(|step| plan.calls[step.call].operation)
        .collect();
    assert_eq!(begun, [100, 105]);
    assert_eq!(plan.start.calls[1].gap_ns, 10 * MS.unsigned_abs());
    let first = &plan.calls[plan.start.calls[0].call].steps;
    assert_eq!(first.calls.len(), 2);
    assert_eq!(first.calls[1].gap_ns, 10 * MS.unsigned_abs());
}

#[test]
fn a_service_that_calls_nobody_takes_its_recorded_time() {
    let plan = plan(trace_id(), &[call(0, 1, 0, 10)], &[Some(9), None]);
    assert_eq!(plan.calls[0].steps.tail_ns, 8 * MS.unsigned_abs());
}

/// Who is around whom, by looking at all of them: how likely `inner` was made inside `outer`, the least the likeliest.
fn closeness(outer: &Recorded, inner: &Recorded) -> Option<(u8, i64)> {
    if outer.span != 0 && outer.span == inner.parent {
        return Some((0, 0));
    }
    let behind = inner.start - outer.start;
    let beyond = inner.start - outer.end;
    if behind >= 0 && beyond < 0 {
        // One that is still open when the inner call ends goes before one that is not.
        return Some((if inner.end <= outer.end { 1 } else { 2 }, behind));
    }
    let apart = beyond.max(-behind);
    (apart <= 50 * MS).then_some((3, apart))
}

fn leads_back(parents: &[Option<usize>], from: usize, target: usize) -> bool {
    let mut way = std::iter::successors(Some(from), |at| parents.get(*at).copied().flatten());
    way.any(|at| at == target)
}

fn parents_by_definition(calls: &[Recorded]) -> Vec<Option<usize>> {
    let mut parents = Vec::new();
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

#[test]
fn a_trace_of_very_many_calls_is_understood_as_well() {
    // Rows of calls side by side, each with one inside that ends too late for all but the first; then a row of ids that
    // lead from each call to the next. Looking at all pairs would take hours.
    let mut calls = vec![call(0, 1, 0, 400_000)];
    for at in 0..100_000 {
        calls.push(call(0, 1, at, 1));
        calls.push(call(1, 2, at, 1_000));
    }
    for at in 0..100_000_u32 {
        let mut own = call(3, 3, 600_000 + i64::from(at), 1);
        (own.span, own.parent) = (u64::from(at) + 1, u64::from(at) + 2);
        calls.push(own);
    }
    calls.sort_by_key(|call| (call.start, std::cmp::Reverse(call.end)));
    let parents = parents(&calls);
    let inside = |service| {
        let of_service = calls
            .iter()
            .zip(&parents)
            .filter(move |(call, _)| call.source == service);
        of_service.filter(|(_, parent)| parent.is_some()).count()
    };
    assert_eq!((inside(0), inside(1), inside(3)), (0, 100_000, 99_999));
}

proptest! {
    #[test]
    fn the_parent_is_the_closest_of_all(
        shape in prop::collection::vec(
            (0_u32..4, 0_u32..4, 0_i64..200, 0_i64..120, 0_u64..8, 0_u64..8), 1..60)
    ) {
        let mut calls: Vec<_> = shape
            .into_iter()
            .map(|(source, destination, at, length, span, parent)| Recorded {
                span: span.saturating_sub(3),
                parent: parent.saturating_sub(3),
                ..call(source, destination, at, length + 1)
            })
            .collect();
        calls.sort_by_key(|call| (call.start, std::cmp::Reverse(call.end)));
        prop_assert_eq!(parents(&calls), parents_by_definition(&calls));
    }

    #[test]
    fn every_recorded_call_is_made_exactly_once(
        shape in prop::collection::vec((0_u32..5, 0_u32..5, 0_i64..200, 0_i64..100), 1..40)
    ) {
        let mut calls: Vec<_> = shape.into_iter().map(|(s, d, at, len)| call(s, d, at, len + 1)).collect();
        calls.sort_by_key(|call| (call.start, std::cmp::Reverse(call.end)));
        let entries: Vec<_> = (0..5).map(|service| Some(100 + service)).collect();
        let plan = plan(trace_id(), &calls, &entries);
        let mut made = vec![0; plan.calls.len()];
        let mut open = vec![&plan.start];
        while let Some(steps) = open.pop() {
            for step in &steps.calls {
                made[step.call] += 1;
                prop_assert!(step.after <= step.end_rank, "a call waits for itself: {steps:?}");
                open.push(&plan.calls[step.call].steps);
            }
        }
        prop_assert!(made.iter().all(|times| *times == 1), "{made:?} {plan:?}");
        for (recorded, call) in calls.iter().zip(&plan.calls) {
            prop_assert_eq!(recorded.operation as usize, call.operation);
        }
    }
}

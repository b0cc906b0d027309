use counterfoil_entry::clock;
use proptest::prelude::*;

use super::*;

fn hop(number: usize, parent: Option<String>) -> Hop {
    Hop {
        client_span: Some(format!("c{number}")),
        server_span: Some(format!("s{number}")),
        parent_span: parent,
        start: i64::try_from(number).ok(),
        caller: Some(format!("w{number}")),
        callee: Some(format!("w{}", number + 1)),
    }
}

/// Place, depth, place of the parent and link of each.
fn told(hops: &[Hop]) -> Vec<(i64, i64, i64, &'static str)> {
    let tell = |one: &Placed| {
        (
            one.place,
            one.depth,
            one.parent_place.unwrap_or(0),
            one.link.as_str(),
        )
    };
    order(hops).iter().map(tell).collect()
}

#[test]
fn a_caller_stands_before_what_it_called_and_siblings_by_their_start() {
    let under = |parent: usize| Some(format!("s{parent}"));
    let hops = [
        hop(0, None),
        hop(3, under(0)),
        hop(1, under(0)),
        hop(4, under(1)),
        // The span of a caller whose callee is not there.
        hop(5, Some("c3".to_owned())),
    ];
    assert_eq!(
        told(&hops),
        [
            (1, 0, 0, "root"),
            (4, 1, 1, "called"),
            (2, 1, 1, "called"),
            (3, 2, 2, "called"),
            (5, 2, 4, "called"),
        ]
    );
}

#[test]
fn a_parent_that_is_nowhere_begins_the_trace_or_is_a_hole() {
    let unknown = || Some("ff".to_owned());
    let mut again = hop(1, unknown());
    again.caller = Some("w0".to_owned());
    let hops = [hop(0, unknown()), again, hop(2, unknown())];
    assert_eq!(
        told(&hops),
        [
            (1, 0, 0, "outside"),
            (2, 0, 0, "outside"),
            (3, 0, 0, "parent_unknown"),
        ]
    );
    // Who was called in this trace did not begin it.
    let mut back = hop(3, Some("s0".to_owned()));
    back.callee = Some("w0".to_owned());
    assert_eq!(told(&[hop(0, unknown()), back])[0].3, "parent_unknown");
}

#[test]
fn circles_have_an_end_and_everybody_a_place() {
    let under = |parent: usize| Some(format!("s{parent}"));
    let hops = [
        hop(0, under(0)),
        hop(1, under(3)),
        hop(2, under(1)),
        hop(3, under(2)),
        hop(4, under(2)),
    ];
    assert_eq!(
        told(&hops),
        [
            (1, 0, 0, "cycle"),
            (2, 0, 0, "cycle"),
            (3, 1, 2, "called"),
            (4, 2, 3, "called"),
            (5, 2, 3, "called"),
        ]
    );
}

#[test]
fn a_chain_and_a_fan_of_hundred_thousand_hops_take_no_time_and_no_stack() {
    let began_ns = clock::mono_ns();
    let chain: Vec<Hop> = (0..100_000_usize)
        .map(|n| hop(n, n.checked_sub(1).map(|above| format!("s{above}"))))
        .collect();
    assert_eq!(
        told(&chain).last(),
        Some(&(100_000, 99_999, 99_999, "called"))
    );
    let fan: Vec<Hop> = (0..100_000_usize)
        .map(|n| hop(n, Some("s0".to_owned()).filter(|_| n > 0)))
        .collect();
    assert_eq!(told(&fan).last(), Some(&(100_000, 1, 1, "called")));
    let same: Vec<Hop> = (0..100_000_usize)
        .map(|_| hop(7, Some("s7".to_owned())))
        .collect();
    assert_eq!(told(&same).len(), 100_000);
    let took_ns = clock::mono_ns() - began_ns;
    assert!(took_ns < 60_000_000_000, "{took_ns}");
}

proptest! {
    #[test]
    fn whatever_the_spans_say_places_are_a_numbering_and_parents_stand_before(
        spans in prop::collection::vec((0_u8..8, 0_u8..8, 0_u8..12, any::<i64>()), 0..60),
    ) {
        let hops: Vec<Hop> = spans
            .iter()
            .map(|(client, server, parent, start)| Hop {
                client_span: (*client > 0).then(|| format!("c{client}")),
                server_span: (*server > 0).then(|| format!("s{server}")),
                parent_span: match *parent {
                    0 => None,
                    odd if odd % 2 == 1 => Some(format!("c{odd}")),
                    even => Some(format!("s{even}")),
                },
                start: Some(*start),
                ..Hop::default()
            })
            .collect();
        let placed = order(&hops);
        let mut places: Vec<i64> = placed.iter().map(|one| one.place).collect();
        places.sort_unstable();
        prop_assert!(places.iter().copied().eq(1..=i64::try_from(hops.len()).unwrap()));
        for one in &placed {
            match one.parent_place {
                Some(above) => {
                    let above = placed.iter().find(|other| other.place == above).unwrap();
                    prop_assert!(above.place < one.place && above.depth + 1 == one.depth);
                }
                None => prop_assert_eq!(one.depth, 0),
            }
        }
    }
}

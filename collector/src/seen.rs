//! Which numbers of a sequence have arrived: everything below `next` but the holes.

use std::collections::BTreeMap;

/// The numbers that arrived, as one prefix with holes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    next: u64,
    /// Holes `[from, until)` below `next`, apart from each other.
    missing: BTreeMap<u64, u64>,
}

impl Seen {
    /// One above the highest number that arrived.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// Whether `number` arrived.
    pub(crate) fn has(&self, number: u64) -> bool {
        number < self.next && self.missing_in(number, number + 1).is_empty()
    }

    /// The holes, ascending, as `[from, until)`.
    pub(crate) fn missing(&self) -> impl Iterator<Item = (u64, u64)> {
        self.missing.iter().map(|(from, until)| (*from, *until))
    }

    /// The parts of the holes that lie in `[from, until)`.
    pub(crate) fn missing_in(&self, from: u64, until: u64) -> Vec<(u64, u64)> {
        self.missing
            .range(..until)
            .rev()
            .take_while(|(_, end)| **end > from)
            .map(|(begin, end)| ((*begin).max(from), (*end).min(until)))
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect()
    }

    /// Notes that all numbers below `until` are due: those that have not come are holes from now on.
    pub(crate) fn expect(&mut self, until: u64) {
        if until > self.next {
            self.missing.insert(self.next, until);
            self.next = until;
        }
    }

    /// Takes the numbers of `[from, until)`, in any order of calls.
    pub(crate) fn insert(&mut self, from: u64, until: u64) {
        if from >= until {
            return;
        }
        for (begin, end) in self.missing_in(from, until) {
            let Some((hole, hole_end)) = self
                .missing
                .range(..=begin)
                .next_back()
                .map(|(hole, end)| (*hole, *end))
            else {
                continue;
            };
            self.missing.remove(&hole);
            if hole < begin {
                self.missing.insert(hole, begin);
            }
            if end < hole_end {
                self.missing.insert(end, hole_end);
            }
        }
        self.expect(from);
        self.next = self.next.max(until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_come_in_any_order_and_holes_close() {
        let orders: [&[(u64, u64)]; 3] = [
            &[(0, 3), (5, 8), (10, 11), (6, 7)],
            &[(10, 11), (5, 8), (0, 3)],
            &[(5, 6), (10, 11), (0, 3), (6, 8)],
        ];
        for order in orders {
            let mut seen = Seen::default();
            order
                .iter()
                .for_each(|(from, until)| seen.insert(*from, *until));
            assert_eq!(seen.next(), 11, "{order:?}");
            assert_eq!(
                seen.missing().collect::<Vec<_>>(),
                [(3, 5), (8, 10)],
                "{order:?}"
            );
            assert_eq!(seen.missing_in(4, 9), [(4, 5), (8, 9)]);
            assert!(seen.has(7) && !seen.has(4) && !seen.has(11));
            seen.insert(3, 10);
            assert_eq!(seen.missing().count(), 0);
        }
    }

    #[test]
    fn the_middle_of_a_hole_splits_it() {
        let mut seen = Seen::default();
        seen.insert(10, 11);
        seen.insert(4, 5);
        assert_eq!(seen.missing().collect::<Vec<_>>(), [(0, 4), (5, 10)]);
    }
}

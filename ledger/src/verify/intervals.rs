//! Sets of half-open ranges `[from, until)` of sequence numbers.

use std::collections::BTreeMap;

/// A set of numbers, kept as disjoint ranges that do not touch: as many as there are holes.
#[derive(Debug, Clone, Default)]
pub(super) struct Intervals {
    /// Start to end, exclusive.
    ranges: BTreeMap<u64, u64>,
}

impl Intervals {
    /// Adds `[from, until)`; `false`, and nothing is added, when a part is in the set already.
    pub(super) fn add_new(&mut self, from: u64, until: u64) -> bool {
        if self.touches(from, until) {
            return false;
        }
        self.add(from, until);
        true
    }

    /// Adds `[from, until)`, whatever of it is in the set already.
    pub(super) fn add(&mut self, from: u64, until: u64) {
        let (mut from, mut until) = (from, until);
        if from >= until {
            return;
        }
        // Ranges that overlap or touch melt into one.
        while let Some((&start, &end)) = self.ranges.range(..=until).next_back() {
            if end < from {
                break;
            }
            from = from.min(start);
            until = until.max(end);
            self.ranges.remove(&start);
        }
        self.ranges.insert(from, until);
    }

    /// Whether a part of `[from, until)` is in the set.
    pub(super) fn touches(&self, from: u64, until: u64) -> bool {
        from < until
            && self
                .ranges
                .range(..until)
                .next_back()
                .is_some_and(|(_, end)| *end > from)
    }

    /// Whether all of `[from, until)` is in the set.
    pub(super) fn holds(&self, from: u64, until: u64) -> bool {
        from >= until
            || self
                .ranges
                .range(..=from)
                .next_back()
                .is_some_and(|(_, end)| *end >= until)
    }

    /// The end of the last range; 0 for the empty set.
    pub(super) fn end(&self) -> u64 {
        self.ranges.last_key_value().map_or(0, |(_, end)| *end)
    }

    /// The parts of `[0, until)` that are not in the set, in order.
    pub(super) fn holes(&self, until: u64) -> Vec<(u64, u64)> {
        let (mut holes, mut at) = (Vec::new(), 0);
        for (&start, &end) in self.ranges.range(..until) {
            if start > at {
                holes.push((at, start));
            }
            at = end;
        }
        if at < until {
            holes.push((at, until));
        }
        holes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_of_ranges_behaves_as_a_set_of_numbers(
            ranges in proptest::collection::vec((0_u64..40, 0_u64..8), 0..12),
            (from, len) in (0_u64..40, 0_u64..8),
        ) {
            let mut set = Intervals::default();
            let mut plain = std::collections::BTreeSet::new();
            for (start, count) in ranges {
                let is_new = (start..start + count).all(|n| !plain.contains(&n));
                prop_assert_eq!(set.clone().add_new(start, start + count), is_new);
                set.add(start, start + count);
                plain.extend(start..start + count);
            }
            prop_assert_eq!(set.holds(from, from + len), (from..from + len).all(|n| plain.contains(&n)));
            prop_assert_eq!(set.touches(from, from + len), (from..from + len).any(|n| plain.contains(&n)));
            prop_assert_eq!(set.end(), plain.last().map_or(0, |n| n + 1));
            let holes: Vec<u64> = set.holes(50).into_iter().flat_map(|(a, b)| a..b).collect();
            prop_assert_eq!(holes, (0..50).filter(|n| !plain.contains(n)).collect::<Vec<_>>());
        }
    }
}

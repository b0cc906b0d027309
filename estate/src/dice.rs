//! Chance that is the same on every machine and in every version.

/// A generator of pseudo-random numbers (SplitMix64). Not for secrets.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `[0, bound)`; 0 when `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // The high half of a product is as even as 64 bits can make it for the small bounds used here.
        let wide = u128::from(self.next()) * bound as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// Whether something of probability `in_favour / of` happens.
    pub(crate) fn happens(&mut self, in_favour: usize, of: usize) -> bool {
        self.below(of) < in_favour
    }

    /// A number of `[1, most]` whose mean is about `mean` and which is small as a rule and large at times.
    pub(crate) fn skewed(&mut self, mean: usize, most: usize) -> usize {
        let mut number = 1;
        while number < most && self.below(mean) != 0 {
            number += 1;
        }
        number
    }

    /// One of `items`.
    pub(crate) fn one<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }
}

/// Ranks drawn so that the k-th comes 1/k as often as the first (Zipf).
#[derive(Debug)]
pub(crate) struct Ranks {
    /// Sums of the weights up to each rank.
    sums: Vec<usize>,
}

impl Ranks {
    pub(crate) fn new(ranks: usize) -> Self {
        let mut sum = 0_usize;
        let weigh = |rank: usize| {
            sum += (1_000_000 / rank).max(1);
            sum
        };
        Self {
            sums: (1..=ranks).map(weigh).collect(),
        }
    }

    /// A rank from 0.
    pub(crate) fn draw(&self, dice: &mut Dice) -> usize {
        let total = self.sums.last().copied().unwrap_or(0);
        let drawn = dice.below(total);
        self.sums.partition_point(|sum| *sum <= drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut dice = Dice::new(7);
        let mut seen = [0; 6];
        for _ in 0..600 {
            seen[dice.below(6)] += 1;
        }
        assert!(
            seen.iter().all(|count| (60..150).contains(count)),
            "{seen:?}"
        );
        assert_eq!(dice.below(0), 0);
        assert_eq!(dice.below(1), 0);
    }

    #[test]
    fn skewed_numbers_have_their_mean() {
        let mut dice = Dice::new(7);
        let drawn: Vec<usize> = (0..10_000).map(|_| dice.skewed(6, 40)).collect();
        let sum: usize = drawn.iter().sum();
        assert!((55_000..65_000).contains(&sum), "{sum}");
        assert!(drawn.iter().all(|n| (1..=40).contains(n)));
        assert!(drawn.iter().any(|n| *n > 25));
    }

    #[test]
    fn the_first_rank_comes_most_often() {
        let (ranks, mut dice) = (Ranks::new(10), Dice::new(7));
        let mut seen = [0_usize; 10];
        for _ in 0..10_000 {
            seen[ranks.draw(&mut dice)] += 1;
        }
        assert!(seen[0] > 3 * seen[4] && seen[4] > seen[9], "{seen:?}");
        assert!(seen[9] > 200, "{seen:?}");
    }
}

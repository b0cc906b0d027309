//! HDR histograms of nanoseconds in their V2 form, kept sparse while they are added up.

use std::collections::BTreeMap;

use hdrhistogram::Histogram as Dense;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};

/// Significant digits: a value is known to 0.1 %.
pub(super) const DIGITS: u8 = 3;
/// Greatest value that is told apart: an hour. Longer ones count as that.
pub(super) const NS_MAX: u64 = 3_600_000_000_000;
/// First bytes of the V2 form.
const COOKIE: [u8; 4] = [0x1c, 0x84, 0x93, 0x13];
/// Bytes before the counts.
const HEADER: usize = 40;

/// Why bytes are no histogram.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistogramError {
    /// They are not in the V2 form, or of more digits than roll-ups have.
    #[error("this is no HDR histogram in the V2 form with up to {DIGITS} digits")]
    Form,
    /// They say something that cannot be.
    #[error("this HDR histogram is damaged")]
    Damaged,
    /// The histogram cannot be written.
    #[error("an HDR histogram cannot be written")]
    Write,
}

/// Counts by value. A histogram that holds few values takes little room, however large they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// By the greatest value that counts as the same.
    counts: BTreeMap<u64, u64>,
}

impl Histogram {
    /// Adds one value (ns).
    pub fn record(&mut self, ns: u64) {
        self.add(upper(ns.min(NS_MAX)), 1);
    }

    /// Adds what `bytes` hold, in the V2 form.
    ///
    /// # Errors
    /// [`HistogramError`]; nothing is added then. Foreign bytes take up to half a megabyte while they
    /// are read, whatever they say.
    pub fn merge(&mut self, bytes: &[u8]) -> Result<(), HistogramError> {
        for (value, count) in decode(bytes)? {
            self.add(value, count);
        }
        Ok(())
    }

    fn add(&mut self, value: u64, count: u64) {
        let kept = self.counts.entry(value).or_default();
        *kept = kept.saturating_add(count);
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Memory that it takes, about (bytes).
    #[must_use]
    pub fn size(&self) -> usize {
        self.counts.len() * 4 * size_of::<u64>()
    }

    /// How many values were added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts
            .values()
            .fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// How many of them were at most `ns`, to the precision of the histogram.
    #[must_use]
    pub fn count_at_or_below(&self, ns: u64) -> u64 {
        let until = upper(ns.min(NS_MAX));
        let below = self.counts.range(..=until);
        below.fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }

    /// The value (ns) at rank `ceil(q * count)`, the greatest that counts as the same; `None` when
    /// there is none. `q` is taken as 0 to 1.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank is positive, and counts of calls are far below 2^53"
    )]
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let count = self.count();
        // Without the margin, 0.99 * 100 = 99.00000000000001 would be rank 100.
        let rank = (count as f64 * q.clamp(0.0, 1.0) - 1e-9).ceil() as u64;
        self.at_rank(rank.clamp(1, count.max(1)))
    }

    /// The value (ns) at `rank`, counted from 1, the greatest that counts as the same; `None` beyond the
    /// last one.
    #[must_use]
    pub fn at_rank(&self, rank: u64) -> Option<u64> {
        let mut seen = 0_u64;
        self.counts.iter().find_map(|(value, n)| {
            seen = seen.saturating_add(*n);
            (seen >= rank).then_some(*value)
        })
    }

    /// The histogram in the V2 form.
    ///
    /// # Errors
    /// [`HistogramError::Write`] when it cannot be written.
    pub fn encode(&self) -> Result<Vec<u8>, HistogramError> {
        let most = self.counts.keys().next_back().copied().unwrap_or(0).max(2);
        let mut dense =
            Dense::<u64>::new_with_max(most, DIGITS).map_err(|_| HistogramError::Write)?;
        for (value, count) in &self.counts {
            dense
                .record_n(*value, *count)
                .map_err(|_| HistogramError::Write)?;
        }
        let mut bytes = Vec::new();
        V2Serializer::new()
            .serialize(&dense, &mut bytes)
            .map_err(|_| HistogramError::Write)?;
        Ok(bytes)
    }
}

fn decode(bytes: &[u8]) -> Result<Vec<(u64, u64)>, HistogramError> {
    let header = bytes.get(..HEADER).ok_or(HistogramError::Form)?;
    // Read before memory is taken: so many digits and such values bound it.
    let word = |at: usize| {
        let four = header.get(at..at + 4).and_then(|four| four.try_into().ok());
        four.map_or(u32::MAX, u32::from_be_bytes)
    };
    let digits = word(12);
    if !header.starts_with(&COOKIE) || digits == 0 || digits > u32::from(DIGITS) {
        return Err(HistogramError::Form);
    }
    let dense: Dense<u64> = Deserializer::new()
        .deserialize(&mut &bytes[..])
        .map_err(|_| HistogramError::Damaged)?;
    let recorded = dense.iter_recorded();
    Ok(recorded
        .map(|step| {
            (
                upper(step.value_iterated_to().min(NS_MAX)),
                step.count_since_last_iteration(),
            )
        })
        .collect())
}

/// The greatest value that counts as the same as `ns`: as a dense histogram with [`DIGITS`] has it.
const fn upper(ns: u64) -> u64 {
    // 2,048 steps of 1 below 2,048, then steps that double each time the value does.
    let width = 64 - ns.leading_zeros();
    let shift = width.saturating_sub(11);
    ((ns >> shift) + 1).wrapping_shl(shift).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|ns| histogram.record(*ns));
        histogram
    }

    proptest! {
        #[test]
        fn values_are_told_apart_as_by_a_dense_histogram(ns in 0_u64..=NS_MAX) {
            let dense = Dense::<u64>::new_with_max(NS_MAX, DIGITS).unwrap();
            prop_assert_eq!(upper(ns), dense.highest_equivalent(ns));
        }

        #[test]
        fn what_is_written_is_read_again(values in prop::collection::vec(0_u64..=NS_MAX, 0..200)) {
            let histogram = of(&values);
            let mut read = Histogram::default();
            read.merge(&histogram.encode().unwrap()).unwrap();
            prop_assert_eq!(&read, &histogram);
            prop_assert_eq!(read.count(), values.len() as u64);
        }

        #[test]
        fn quantiles_are_those_of_the_values_to_a_thousandth(
            mut values in prop::collection::vec(0_u64..=NS_MAX, 1..200), q in 0_u32..=1_000,
        ) {
            let found = of(&values).quantile(f64::from(q) / 1_000.0).unwrap();
            values.sort_unstable();
            let rank = (values.len() * q as usize).div_ceil(1_000).max(1);
            let exact = values[rank - 1];
            prop_assert!(found >= exact && found - exact <= exact / 1_000 + 1, "{} {}", found, exact);
        }

        #[test]
        fn foreign_bytes_are_refused_or_read_and_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200), flips in 0_usize..300,
        ) {
            let _refused = Histogram::default().merge(&bytes);
            let mut damaged = of(&[1, 5_000, 70_000_000]).encode().unwrap();
            let at = flips % damaged.len();
            damaged[at] ^= 1 << (flips % 8);
            damaged.truncate(damaged.len() - flips % 3);
            let _refused = Histogram::default().merge(&damaged);
        }
    }

    #[test]
    fn what_lasts_longer_than_an_hour_counts_as_an_hour() {
        let histogram = of(&[u64::MAX, 1]);
        assert_eq!(histogram.count(), 2);
        assert!(histogram.quantile(1.0).unwrap() >= NS_MAX);
        assert_eq!(histogram.count_at_or_below(u64::MAX), 2);
        assert_eq!(histogram.count_at_or_below(1_000), 1);
    }

    #[test]
    fn nothing_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        let mut read = Histogram::default();
        read.merge(&Histogram::default().encode().unwrap()).unwrap();
        assert!(read.is_empty());
    }
}

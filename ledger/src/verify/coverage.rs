//! One segment's rows against its coverage: every row in one range, every range whole.

use std::collections::BTreeMap;

use counterfoil_entry::Hash;
use counterfoil_entry::id::Stream;
use counterfoil_entry::record::HeaderRef;
use counterfoil_entry::tree::Accumulator;

use super::Envelope;
use crate::coverage::CoverageRow;
use crate::manifest::SegmentRef;

/// The coverage rows of one segment, and the leaf hashes met so far in each.
///
/// Memory: 33 bytes a row of the segment.
#[derive(Debug)]
pub(super) struct Ranges<'a> {
    ranges: Vec<Range<'a>>,
    /// Writer, epoch, stream to places in `ranges`, by first seq.
    places: BTreeMap<&'a str, BTreeMap<u64, BTreeMap<String, Vec<usize>>>>,
}

#[derive(Debug)]
struct Range<'a> {
    row: &'a CoverageRow,
    leaves: Vec<Option<Hash>>,
}

impl<'a> Ranges<'a> {
    /// Checks that the coverage rows can cover the segment, and prepares for its rows.
    pub(super) fn new(rows: &[&'a CoverageRow], segment: &SegmentRef) -> Result<Self, String> {
        let mut total = 0_u64;
        for row in rows {
            let is_fitting = row.stream.table == segment.table && row.stream.class == segment.class;
            if !is_fitting {
                return Err(format!("it is said to hold rows of stream {}", row.stream));
            }
            if row.count == 0 || row.first_seq.checked_add(row.count).is_none() {
                return Err(format!("a range of {} is empty or too long", row.stream));
            }
            let told = (row.delivery.as_str(), row.attribution.as_str());
            if Stream::provenance(row.stream.lane) != Some(told) {
                return Err(format!(
                    "rows of {} cannot be {} and {}",
                    row.stream, told.0, told.1
                ));
            }
            if row.statement_epoch == Some(row.epoch) {
                return Err("a range names its own epoch as another one".to_owned());
            }
            total = total.saturating_add(row.count);
        }
        // Checked before memory is taken for the ranges.
        if total != segment.count {
            return Err(format!(
                "{total} rows are covered, and it has {}",
                segment.count
            ));
        }
        Self::index(rows)
    }

    fn index(rows: &[&'a CoverageRow]) -> Result<Self, String> {
        let mut sorted = rows.to_vec();
        sorted.sort_by_key(|row| row.first_seq);
        let mut all = Self {
            ranges: Vec::new(),
            places: BTreeMap::new(),
        };
        for row in sorted {
            let place = all.ranges.len();
            let ranges = all
                .places
                .entry(row.writer.as_str())
                .or_default()
                .entry(row.epoch.0)
                .or_default()
                .entry(row.stream.to_string())
                .or_default();
            let before = ranges.last().and_then(|place| all.ranges.get(*place));
            if before.is_some_and(|r| r.row.first_seq + r.row.count > row.first_seq) {
                return Err(format!("two ranges of {} overlap", row.stream));
            }
            ranges.push(place);
            let count = usize::try_from(row.count).map_err(|_| "a range is too long")?;
            all.ranges.push(Range {
                row,
                leaves: vec![None; count],
            });
        }
        Ok(all)
    }

    /// Takes one row's leaf hash.
    pub(super) fn take(
        &mut self,
        header: &HeaderRef<'_>,
        envelope: &Envelope<'_>,
        leaf: Hash,
    ) -> Result<(), String> {
        let range = self.find(header).ok_or("no coverage row holds it")?;
        let row = range.row;
        let slot = header
            .seq
            .checked_sub(row.first_seq)
            .and_then(|at| usize::try_from(at).ok())
            .and_then(|at| range.leaves.get_mut(at))
            .ok_or("no coverage row holds it")?;
        if slot.replace(leaf).is_some() {
            return Err("it stands twice in the segment".to_owned());
        }
        if envelope.statement != Some(row.statement) {
            return Err(format!(
                "its statement is not {}, as coverage says",
                row.statement
            ));
        }
        if envelope.delivery != row.delivery || envelope.attribution != row.attribution {
            return Err("its delivery or attribution is not what coverage says".to_owned());
        }
        Ok(())
    }

    fn find(&mut self, header: &HeaderRef<'_>) -> Option<&mut Range<'a>> {
        let places = self
            .places
            .get(header.writer)?
            .get(&header.epoch.0)?
            .get(header.stream)?;
        let first_seq = |place: &usize| {
            self.ranges
                .get(*place)
                .map_or(0, |range| range.row.first_seq)
        };
        let at = places
            .partition_point(|place| first_seq(place) <= header.seq)
            .checked_sub(1)?;
        self.ranges.get_mut(*places.get(at)?)
    }

    /// The coverage rows, whose rows cannot be read any more.
    pub(super) fn rows(&self) -> impl Iterator<Item = &'a CoverageRow> {
        self.ranges.iter().map(|range| range.row)
    }

    /// The coverage rows with the root over their rows in seq order; the error is the first row
    /// that the segment does not hold.
    pub(super) fn roots(self) -> Result<Vec<(&'a CoverageRow, Hash)>, (&'a CoverageRow, u64)> {
        let mut roots = Vec::with_capacity(self.ranges.len());
        for range in self.ranges {
            let mut tree = Accumulator::default();
            for (seq, leaf) in (range.row.first_seq..).zip(range.leaves) {
                tree.push(leaf.ok_or((range.row, seq))?);
            }
            roots.push((range.row, tree.root()));
        }
        Ok(roots)
    }
}

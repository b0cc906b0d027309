//! The recorded gaps: the newest revision of each, and whether they explain a hole.

use std::collections::BTreeMap;

use counterfoil_entry::rows::GapRow;

use super::intervals::Intervals;

/// All gaps that the books record, by id.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    newest: BTreeMap<String, GapRow>,
}

impl Gaps {
    /// Takes a row; an older revision than the known one changes nothing.
    pub(super) fn add(&mut self, row: GapRow) {
        match self.newest.get(&row.gap_id) {
            Some(known) if known.revision >= row.revision => {}
            _ => {
                self.newest.insert(row.gap_id.clone(), row);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &GapRow> {
        self.newest.values()
    }

    /// Statement numbers of an epoch that gaps record as missing and not come since.
    pub(super) fn statements(&self, writer: &str, epoch: u64) -> Intervals {
        self.ranges(writer, epoch, |gap| {
            gap.from_statement.map(|from| (from, gap.until_statement))
        })
    }

    /// Sequence numbers of a stream that gaps record as missing and not come since.
    pub(super) fn seqs(&self, writer: &str, epoch: u64, stream: &str) -> Intervals {
        self.ranges(writer, epoch, |gap| {
            let is_same = gap.subject_stream.as_deref() == Some(stream);
            gap.from_seq
                .filter(|_| is_same)
                .map(|from| (from, gap.until_seq))
        })
    }

    fn ranges(
        &self,
        writer: &str,
        epoch: u64,
        pick: impl Fn(&GapRow) -> Option<(u64, Option<u64>)>,
    ) -> Intervals {
        let mut ranges = Intervals::default();
        // What closed because it came must be there; what a person explained may stay away.
        let explains = |gap: &&GapRow| gap.closed_at.is_none() || gap.explanation.is_some();
        let subject = self
            .newest
            .values()
            .filter(|gap| gap.subject_writer == writer && gap.subject_epoch == epoch)
            .filter(explains);
        for (from, until) in subject.filter_map(pick) {
            // A gap whose end is unknown reaches on.
            ranges.add(from, until.unwrap_or(u64::MAX));
        }
        ranges
    }
}

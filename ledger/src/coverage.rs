//! Coverage objects: which statement covers which sealed entries. Small, and kept for ever.

use counterfoil_entry::Time;
use counterfoil_entry::id::{Epoch, Stream, Writer};
use counterfoil_entry::tlv::{Encoder, Fields, TlvError};

/// Domain string of a coverage object.
pub const DOMAIN: &[u8] = b"counterfoil/coverage/v1\0";

/// Why bytes are not a coverage object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoverageError {
    /// A field is missing, unknown or ill-formed.
    #[error("reading a coverage object: {0}")]
    Field(#[from] TlvError),
    /// A field of a row is missing, unknown or ill-formed.
    #[error("reading row {at} of a coverage object: {source}")]
    Row {
        /// Place in the list, from 0.
        at: usize,
        /// What is wrong.
        source: TlvError,
    },
    /// Bytes that another encoding of the same rows would give.
    #[error("reading a coverage object: it is not in its canonical form")]
    Form,
}

/// The coverage of one manifest's segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// The log's origin.
    pub origin: String,
    /// Number of the manifest.
    pub manifest: u64,
    /// The rows.
    pub rows: Vec<CoverageRow>,
}

/// Sealed entries of one stream, in one segment, that one statement covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoverageRow {
    /// Who wrote the entries.
    pub writer: Writer,
    /// The epoch of the entries.
    pub epoch: Epoch,
    /// Their stream.
    pub stream: Stream,
    /// First sequence number.
    pub first_seq: u64,
    /// Entries, without holes from `first_seq`.
    pub count: u64,
    /// Number of the statement.
    pub statement: u64,
    /// The segment that holds them all.
    pub segment: u64,
    /// When the collector had the last of them.
    pub received_at: Time,
    /// `acked` or `best_effort`.
    pub delivery: String,
    /// `native`, `als` or `otlp`.
    pub attribution: String,
    /// Epoch of the statement when it is another one: the statement is a recovery then.
    pub statement_epoch: Option<Epoch>,
}

impl Coverage {
    /// The object's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let rows: Vec<Vec<u8>> = self.rows.iter().map(CoverageRow::encode).collect();
        let mut out = DOMAIN.to_vec();
        Encoder::new(&mut out)
            .text(1, &self.origin)
            .u64(2, self.manifest)
            .list_bytes(3, &rows);
        out
    }

    /// Reads an object; only the bytes that [`Coverage::encode`] gives are taken.
    ///
    /// # Errors
    /// Any [`CoverageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CoverageError> {
        let fields = Fields::parse_after(DOMAIN, bytes)?;
        fields.only(&[1, 2, 3])?;
        let rows = fields
            .list_bytes(3)?
            .into_iter()
            .enumerate()
            .map(|(at, row)| {
                CoverageRow::decode(row).map_err(|source| CoverageError::Row { at, source })
            })
            .collect::<Result<_, _>>()?;
        let coverage = Self {
            origin: fields.text(1)?.to_owned(),
            manifest: fields.u64(2)?,
            rows,
        };
        if coverage.encode() == bytes {
            Ok(coverage)
        } else {
            Err(CoverageError::Form)
        }
    }
}

impl CoverageRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        Encoder::new(&mut out)
            .text(1, self.writer.as_str())
            .u64(2, self.epoch.0)
            .text(3, &self.stream.to_string())
            .u64(4, self.first_seq)
            .u64(5, self.count)
            .u64(6, self.statement)
            .u64(7, self.segment)
            .time(8, self.received_at)
            .text(9, &self.delivery)
            .text(10, &self.attribution)
            .u64_opt(11, self.statement_epoch.map(|epoch| epoch.0));
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, TlvError> {
        let fields = Fields::parse(bytes)?;
        fields.only(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])?;
        Ok(Self {
            writer: Writer::parse(fields.text(1)?).map_err(|_| TlvError::Wrong(1))?,
            epoch: Epoch(fields.u64(2)?),
            stream: Stream::parse(fields.text(3)?).map_err(|_| TlvError::Wrong(3))?,
            first_seq: fields.u64(4)?,
            count: fields.u64(5)?,
            statement: fields.u64(6)?,
            segment: fields.u64(7)?,
            received_at: fields.time(8)?,
            delivery: fields.text(9)?.to_owned(),
            attribution: fields.text(10)?.to_owned(),
            statement_epoch: fields.u64_opt(11)?.map(Epoch),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn coverage() -> Coverage {
        let row = CoverageRow {
            writer: Writer::parse("spiffe://bank.test/workload/pay#1").unwrap(),
            epoch: Epoch(7),
            stream: Stream::parse("entries/ops_90d/0").unwrap(),
            first_seq: 10,
            count: 5,
            statement: 3,
            segment: 2,
            received_at: Time::from_ns(-1),
            delivery: "acked".to_owned(),
            attribution: "native".to_owned(),
            statement_epoch: None,
        };
        let recovered = CoverageRow {
            statement_epoch: Some(Epoch(9)),
            delivery: String::new(),
            ..row.clone()
        };
        Coverage {
            origin: "bank.test/c".to_owned(),
            manifest: 4,
            rows: vec![row, recovered],
        }
    }

    #[test]
    fn coverage_comes_back_as_it_was() {
        for rows in [Vec::new(), coverage().rows] {
            let coverage = Coverage { rows, ..coverage() };
            assert_eq!(Coverage::decode(&coverage.encode()), Ok(coverage));
        }
    }

    proptest! {
        #[test]
        fn no_changed_byte_gives_the_same_coverage(at in 0_usize..2000, bit in 0_u8..8) {
            let coverage = coverage();
            let mut bytes = coverage.encode();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert_ne!(Coverage::decode(&bytes), Ok(coverage));
        }
    }
}

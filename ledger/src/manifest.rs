//! Manifests: the leaves of a log, which name the segments of the books.

use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::table::TableId;
use counterfoil_entry::tlv::{Encoder, Fields, TlvError};
use counterfoil_entry::tree::{leaf_hash, sha256};
use counterfoil_entry::{Hash, Time};

mod deletion;
mod hold;

pub use deletion::{
    APPROVALS, ClassRule, DAY_NS, DeletedSegment, Deletion, RULES_MAX, SEGMENTS_MAX, allowed_from,
    may_end,
};
pub use hold::{Hold, HoldState, Predicate};

/// Domain string of a manifest.
pub const DOMAIN: &[u8] = b"counterfoil/manifest/v1\0";
/// Longest manifest, in bytes: an entry bundle holds its length in 16 bits.
pub const BYTES_MAX: usize = 65_535;

const COMMON: [u16; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
const SEAL: [u16; 4] = [16, 17, 18, 19];
const KEY: [u16; 2] = [32, 33];
const DELETION: [u16; 4] = [48, 49, 50, 51];
const HOLD: [u16; 9] = [64, 65, 66, 67, 68, 69, 70, 71, 72];

/// Why bytes are not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A field is missing, unknown or ill-formed.
    #[error("reading a manifest: {0}")]
    Field(#[from] TlvError),
    /// A field of a segment item is missing, unknown or ill-formed.
    #[error("reading segment item {at} of a manifest: {source}")]
    Segment {
        /// Place in the list, from 0.
        at: usize,
        /// What is wrong.
        source: TlvError,
    },
    /// A kind that this version does not know.
    #[error("reading a manifest: its kind {0:?} is unknown to this version")]
    Kind(String),
    /// Fields that cannot stand together, or bytes that another encoding would give.
    #[error("reading a manifest: {0}")]
    Form(&'static str),
    /// The manifest is longer than a log entry may be.
    #[error("a manifest of {0} bytes is too long: 65535 are allowed, seal fewer segments at once")]
    TooLong(usize),
}

/// One leaf of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The log's origin.
    pub origin: String,
    /// Place in the log, from 0.
    pub number: u64,
    /// Hash of the manifest before; `None` for number 0.
    pub previous: Option<Hash>,
    /// Start of the interval, by the collector's clock.
    pub from: Time,
    /// End of the interval, exclusive.
    pub until: Time,
    /// Build that made it.
    pub build: String,
    /// SHA-256 of the newest cosigned checkpoint, when there is one.
    pub cosigned: Option<Hash>,
    /// What the manifest says.
    pub body: Body,
}

/// What a manifest says, by its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Kind `key`: the key and the trust roots from here on.
    Key {
        /// C2SP verifier key of the log.
        log_key: String,
        /// DER certificates of the SPIFFE roots.
        trust_roots: Vec<Vec<u8>>,
    },
    /// Kind `seal`: the segments of an interval.
    Seal {
        /// First journal file that this manifest does not cover.
        journal_file: u64,
        /// The segments, none for an idle interval.
        segments: Vec<SegmentRef>,
        /// The coverage file; there is one exactly when there are segments.
        coverage: Option<CoverageRef>,
    },
    /// Kind `deletion`: segments that left the books lawfully.
    Deletion(Deletion),
    /// Kind `hold`: a legal hold, placed or released.
    Hold(Hold),
}

/// A segment as its manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRef {
    /// The table of all its rows.
    pub table: TableId,
    /// The retention class of all its rows.
    pub class: RetentionClass,
    /// Schema version of all its rows.
    pub schema_version: u16,
    /// Rows, at least 1.
    pub count: u64,
    /// Least `start_time` of the rows; least `received_at` where the table has no `start_time`.
    pub first_time: Time,
    /// Greatest time of the same column.
    pub last_time: Time,
    /// RFC 6962 root over the leaf hashes by leaf index.
    pub root: Hash,
    /// Path relative to `books/`.
    pub file: String,
    /// Size of the file.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: Hash,
    /// Number of the segment, counted 1, 2, .. over the origin.
    pub segment: u64,
}

/// A coverage file as its manifest names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoverageRef {
    /// SHA-256 of the file.
    pub sha256: Hash,
    /// Size of the file.
    pub bytes: u64,
}

impl Manifest {
    /// The manifest's bytes.
    ///
    /// # Errors
    /// [`ManifestError::TooLong`] above 65535 bytes.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        let mut out = DOMAIN.to_vec();
        let mut to = Encoder::new(&mut out);
        to.text(1, &self.origin).u64(2, self.number);
        to.bytes_opt(3, self.previous.as_ref().map(|hash| hash.0.as_slice()));
        to.time(4, self.from).time(5, self.until);
        to.text(6, self.body.kind()).text(7, &self.build);
        to.bytes_opt(8, self.cosigned.as_ref().map(|hash| hash.0.as_slice()));
        match &self.body {
            Body::Seal {
                journal_file,
                segments,
                coverage,
            } => {
                let items: Vec<Vec<u8>> = segments.iter().map(SegmentRef::encode).collect();
                to.u64(16, *journal_file).list_bytes(17, &items);
                if let Some(coverage) = coverage {
                    to.bytes(18, &coverage.sha256.0).u64(19, coverage.bytes);
                }
            }
            Body::Key {
                log_key,
                trust_roots,
            } => {
                to.text(32, log_key).list_bytes(33, trust_roots);
            }
            Body::Deletion(deletion) => deletion.encode(&mut to),
            Body::Hold(hold) => hold.encode(&mut to),
        }
        if out.len() > BYTES_MAX {
            Err(ManifestError::TooLong(out.len()))
        } else {
            Ok(out)
        }
    }

    /// Reads a manifest; only the bytes that [`Manifest::encode`] gives are taken.
    ///
    /// # Errors
    /// Any [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let fields = Fields::parse_after(DOMAIN, bytes)?;
        let kind = fields.text(6)?;
        let body = match kind {
            "seal" => {
                fields.only(&[COMMON.as_slice(), &SEAL].concat())?;
                seal_body(&fields)?
            }
            "key" => {
                fields.only(&[COMMON.as_slice(), &KEY].concat())?;
                Body::Key {
                    log_key: fields.text(32)?.to_owned(),
                    trust_roots: fields
                        .list_bytes(33)?
                        .into_iter()
                        .map(<[u8]>::to_vec)
                        .collect(),
                }
            }
            "deletion" => {
                fields.only(&[COMMON.as_slice(), &DELETION].concat())?;
                Body::Deletion(Deletion::decode(&fields)?)
            }
            "hold" => {
                fields.only(&[COMMON.as_slice(), &HOLD].concat())?;
                Body::Hold(Hold::decode(&fields)?)
            }
            other => return Err(ManifestError::Kind(other.to_owned())),
        };
        let manifest = Self {
            origin: fields.text(1)?.to_owned(),
            number: fields.u64(2)?,
            previous: fields.hash_opt(3)?,
            from: fields.time(4)?,
            until: fields.time(5)?,
            build: fields.text(7)?.to_owned(),
            cosigned: fields.hash_opt(8)?,
            body,
        };
        if manifest.previous.is_none() != (manifest.number == 0) {
            return Err(ManifestError::Form(
                "exactly number 0 has no previous manifest",
            ));
        }
        if manifest.until < manifest.from {
            return Err(ManifestError::Form("the interval ends before it begins"));
        }
        if manifest.encode()? != bytes {
            return Err(ManifestError::Form("it is not in its canonical form"));
        }
        Ok(manifest)
    }
}

/// Hash of a manifest's bytes, which the next manifest names.
#[must_use]
pub fn manifest_hash(bytes: &[u8]) -> Hash {
    sha256(bytes)
}

/// Leaf hash of a manifest's bytes in its log.
#[must_use]
pub fn manifest_leaf(bytes: &[u8]) -> Hash {
    leaf_hash(bytes)
}

fn seal_body(fields: &Fields<'_>) -> Result<Body, ManifestError> {
    let segments = fields
        .list_bytes(17)?
        .into_iter()
        .enumerate()
        .map(|(at, item)| {
            SegmentRef::decode(item).map_err(|source| ManifestError::Segment { at, source })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let coverage = match (fields.hash_opt(18)?, fields.u64_opt(19)?) {
        (Some(sha256), Some(bytes)) => Some(CoverageRef { sha256, bytes }),
        (None, None) => None,
        _ => {
            return Err(ManifestError::Form(
                "a coverage hash and its size stand together",
            ));
        }
    };
    if coverage.is_some() == segments.is_empty() {
        return Err(ManifestError::Form(
            "a seal has coverage exactly when it has segments",
        ));
    }
    Ok(Body::Seal {
        journal_file: fields.u64(16)?,
        segments,
        coverage,
    })
}

impl Body {
    /// The kind's name in the manifest.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Key { .. } => "key",
            Self::Seal { .. } => "seal",
            Self::Deletion(_) => "deletion",
            Self::Hold(_) => "hold",
        }
    }
}

impl SegmentRef {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        Encoder::new(&mut out)
            .u64(1, u64::from(self.table.number()))
            .text(2, self.class.as_str())
            .u64(3, u64::from(self.schema_version))
            .u64(4, self.count)
            .time(5, self.first_time)
            .time(6, self.last_time)
            .bytes(7, &self.root.0)
            .text(8, &self.file)
            .u64(9, self.bytes)
            .bytes(10, &self.sha256.0)
            .u64(11, self.segment);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, TlvError> {
        let fields = Fields::parse(bytes)?;
        fields.only(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])?;
        let table = fields
            .u16_opt(1)?
            .and_then(TableId::from_number)
            .ok_or(TlvError::Wrong(1))?;
        Ok(Self {
            table,
            class: RetentionClass::parse(fields.text(2)?).map_err(|_| TlvError::Wrong(2))?,
            schema_version: fields.u16_opt(3)?.ok_or(TlvError::Missing(3))?,
            count: fields.u64(4)?,
            first_time: fields.time(5)?,
            last_time: fields.time(6)?,
            root: fields.hash(7)?,
            file: fields.text(8)?.to_owned(),
            bytes: fields.u64(9)?,
            sha256: fields.hash(10)?,
            segment: fields.u64(11)?,
        })
    }
}

#[cfg(test)]
mod tests;

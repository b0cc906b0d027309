//! What the log says: segments that are in the books, those that were deleted, holds that were noted.

use std::collections::BTreeMap;
use std::path::Path;

use counterfoil_entry::{Hash, Time};
use counterfoil_ledger::log::{read_checkpoint, read_manifest};
use counterfoil_ledger::manifest::{Body, HoldState, SegmentRef};

use crate::error::RetainError;

/// A segment that is in the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The manifest that sealed it.
    pub manifest: u64,
    /// End of that manifest's interval.
    pub until: Time,
    /// How it is described there.
    pub of: SegmentRef,
}

/// The log of one origin, as far as retention looks at it.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Manifests, and the root over them.
    pub(crate) log: (u64, Hash),
    /// End of the newest interval that a collector sealed.
    pub(crate) newest: Time,
    /// By number.
    pub(crate) live: BTreeMap<u64, Sealed>,
    /// The plan under which a segment was deleted.
    pub(crate) deleted: BTreeMap<u64, Hash>,
    /// Newest revision and state of each hold that the log holds.
    pub(crate) holds: BTreeMap<String, (u64, HoldState)>,
}

impl Survey {
    /// Reads every manifest of `origin`.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(crate) fn read(books: &Path, origin: &str) -> Result<Self, RetainError> {
        let head =
            read_checkpoint(books, origin)?.ok_or_else(|| RetainError::NoLog(origin.to_owned()))?;
        let mut survey = Self {
            log: (head.size, head.root),
            newest: Time::from_ns(i64::MIN),
            live: BTreeMap::new(),
            deleted: BTreeMap::new(),
            holds: BTreeMap::new(),
        };
        for number in 0..head.size {
            let (manifest, _) = read_manifest(books, origin, number)?;
            match manifest.body {
                Body::Key { .. } => survey.newest = manifest.until,
                Body::Seal { segments, .. } => {
                    survey.newest = manifest.until;
                    for of in segments {
                        let sealed = Sealed {
                            manifest: number,
                            until: manifest.until,
                            of,
                        };
                        survey.live.insert(sealed.of.segment, sealed);
                    }
                }
                Body::Deletion(deletion) => {
                    for segment in deletion.segments {
                        survey.live.remove(&segment.segment);
                        survey.deleted.insert(segment.segment, deletion.plan_sha256);
                    }
                }
                Body::Hold(hold) => {
                    survey
                        .holds
                        .insert(hold.hold_id, (hold.revision, hold.state));
                }
            }
        }
        Ok(survey)
    }
}

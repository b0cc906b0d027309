//! The numbers of bundles: each greater than the last, on disk before anything with it is served.

use std::collections::HashMap;
use std::path::Path;

use counterfoil_entry::{Time, tree};
use counterfoil_trust::SpiffeId;
use counterfoil_trust::bundle::{BundleError, Endpoints, Rights};
use serde::{Deserialize, Serialize};

use super::PublishError;
use crate::jsonlines::JsonLines;

const FILE: &str = "versions.jsonl";
const MODE: u32 = 0o644;

/// The last version of one part of one bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Version {
    pub(super) number: u64,
    pub(super) issued_at_ns: i64,
    /// Of the part at version 0 and time 0.
    sha256: String,
}

/// The last versions of one bundle: a line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Versions {
    pub(super) audience: SpiffeId,
    pub(super) rights: Version,
    pub(super) endpoints: Version,
}

/// The last versions of all bundles.
#[derive(Debug)]
pub(super) struct Numbering {
    file: JsonLines<Versions>,
    last: HashMap<SpiffeId, Versions>,
}

impl Numbering {
    /// Goes on where the numbers in `dir` stand.
    pub(super) fn open(dir: &Path) -> Result<Self, PublishError> {
        let (file, lines) = JsonLines::open(&dir.join(FILE), MODE)?;
        let mut numbering = Self {
            file,
            last: HashMap::new(),
        };
        for versions in lines {
            numbering.last.insert(versions.audience.clone(), versions);
        }
        numbering.tidy()?;
        Ok(numbering)
    }

    /// The numbers of a slice that has version 0 and time 0, and whether they are new: a part that
    /// did not change keeps its own.
    pub(super) fn number(
        &self,
        rights: &Rights,
        endpoints: &Endpoints,
        now: Time,
    ) -> Result<(Versions, bool), PublishError> {
        let last = self.last.get(&rights.audience);
        let versions = Versions {
            audience: rights.audience.clone(),
            rights: next(last.map(|last| &last.rights), "rights", rights, now)?,
            endpoints: next(
                last.map(|last| &last.endpoints),
                "endpoints",
                endpoints,
                now,
            )?,
        };
        let is_new = last != Some(&versions);
        Ok((versions, is_new))
    }

    /// Keeps new numbers. What has them may be served when this returns.
    pub(super) fn keep(&mut self, new: &[Versions]) -> Result<(), PublishError> {
        self.tidy()?;
        self.file.append(new, true)?;
        for versions in new {
            self.last
                .insert(versions.audience.clone(), versions.clone());
        }
        Ok(())
    }

    /// Comes before anything is appended: a line that was written in part ends here.
    fn tidy(&mut self) -> Result<(), PublishError> {
        if self.file.is_due(self.last.len()) {
            self.file.renew(self.last.values())?;
        }
        Ok(())
    }
}

/// The number of `part`: the one it has, or a greater one when it has changed. Numbers begin at the
/// wall clock's seconds, so that they grow even when the file that holds them was lost.
fn next<T: Serialize>(
    last: Option<&Version>,
    name: &'static str,
    part: &T,
    now: Time,
) -> Result<Version, PublishError> {
    let bytes = serde_json::to_vec(part).map_err(|source| BundleError::Malformed {
        part: name,
        source: Box::new(source),
    })?;
    let sha256 = tree::sha256(&bytes).to_string();
    if let Some(version) = last.filter(|version| version.sha256 == sha256) {
        return Ok(version.clone());
    }
    let seconds = u64::try_from(now.as_ns() / 1_000_000_000).unwrap_or_default();
    let next = last.map_or(0, |version| version.number.saturating_add(1));
    Ok(Version {
        number: next.max(seconds),
        issued_at_ns: now.as_ns(),
        sha256,
    })
}

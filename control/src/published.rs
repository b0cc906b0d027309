//! What control publishes: one signed bundle a workload, each version greater than the last.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use counterfoil_entry::{Hash, Time, tree};
use counterfoil_trust::SpiffeId;
use counterfoil_trust::bundle::{BundleError, SignedBundle};
use serde::{Deserialize, Serialize};

use crate::authority::{Authority, replace};
use crate::catalogue::{Catalogue, WorkloadRule};
use crate::slice;

/// Everything that requests are answered from; made anew and swapped when the catalogue changes.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) workloads: BTreeMap<SpiffeId, Arc<WorkloadRule>>,
    pub(crate) bundles: HashMap<SpiffeId, Served>,
}

/// What made a new catalogue.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    /// The governance event.
    pub(crate) event_id: String,
    /// Who did it.
    pub(crate) author: String,
    /// Whether a right is taken away.
    pub(crate) urgent: bool,
    /// Workloads whose slices may have changed; all when absent.
    pub(crate) touched: Option<BTreeSet<SpiffeId>>,
}

/// One bundle, ready to be served.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) body: Bytes,
    /// Quoted, as the header wants it.
    pub(crate) etag: Arc<str>,
}

/// Why a catalogue could not be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("cannot use {file}")]
    File {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{file} does not hold versions: {reason}")]
    Content { file: PathBuf, reason: String },
    #[error("cannot sign a bundle")]
    Seal(#[from] BundleError),
}

/// The last version of one part of one bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Version {
    number: u64,
    issued_at_ns: i64,
    /// Of the part at version 0 and time 0.
    sha256: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Versions {
    rights: BTreeMap<SpiffeId, Version>,
    endpoints: BTreeMap<SpiffeId, Version>,
}

/// Numbers and signs bundles. The numbers are on disk before anything with them is served.
#[derive(Debug)]
pub(crate) struct Publisher {
    file: PathBuf,
    versions: Versions,
    default_class: String,
}

impl Publisher {
    /// Goes on where the numbers in `dir` stand.
    pub(crate) fn open(dir: &Path, default_class: &str) -> Result<Self, PublishError> {
        let file = dir.join("versions.json");
        let versions = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| PublishError::Content {
                file: file.clone(),
                reason: e.to_string(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Versions::default(),
            Err(source) => return Err(PublishError::File { file, source }),
        };
        Ok(Self {
            file,
            versions,
            default_class: default_class.to_owned(),
        })
    }

    /// The bundles of `catalogue`. What did not change keeps its number, date and bytes.
    pub(crate) fn publish(
        &mut self,
        catalogue: &Catalogue,
        authority: &Authority,
        now: Time,
    ) -> Result<Published, PublishError> {
        let mut versions = self.versions.clone();
        let mut bundles = HashMap::new();
        for (id, workload) in &catalogue.workloads {
            let (mut rights, mut endpoints) = slice::cut(catalogue, workload, &self.default_class);
            let version = number(&mut versions.rights, id, &rights, now)?;
            rights.version = version.number;
            rights.issued_at = Time::from_ns(version.issued_at_ns);
            endpoints.version = number(&mut versions.endpoints, id, &endpoints, now)?.number;
            let body = SignedBundle::seal(
                &rights,
                &endpoints,
                &authority.governance,
                &authority.control,
            )?;
            let etag = format!("\"{}\"", tree::sha256(&body)).into();
            bundles.insert(
                id.clone(),
                Served {
                    body: body.into(),
                    etag,
                },
            );
        }
        if versions != self.versions {
            let bytes = serde_json::to_vec(&versions).map_err(|e| PublishError::Content {
                file: self.file.clone(),
                reason: e.to_string(),
            })?;
            replace(&self.file, &bytes, 0o644).map_err(|source| PublishError::File {
                file: self.file.clone(),
                source,
            })?;
            self.versions = versions;
        }
        Ok(Published {
            workloads: catalogue.workloads.clone(),
            bundles,
        })
    }
}

/// The number of `part`: the one it has, or a greater one when it has changed. Numbers begin at the
/// wall clock's seconds, so that they grow even when the file that holds them was lost.
fn number<T: Serialize>(
    versions: &mut BTreeMap<SpiffeId, Version>,
    id: &SpiffeId,
    part: &T,
    now: Time,
) -> Result<Version, PublishError> {
    let bytes = serde_json::to_vec(part).map_err(|source| BundleError::Malformed {
        part: "parts",
        source: Box::new(source),
    })?;
    let sha256: Hash = tree::sha256(&bytes);
    let sha256 = sha256.to_string();
    let last = versions.get(id);
    if let Some(version) = last.filter(|version| version.sha256 == sha256) {
        return Ok(version.clone());
    }
    let seconds = u64::try_from(now.as_ns() / 1_000_000_000).unwrap_or_default();
    let next = last.map_or(0, |version| version.number.saturating_add(1));
    let version = Version {
        number: next.max(seconds),
        issued_at_ns: now.as_ns(),
        sha256,
    };
    versions.insert(id.clone(), version.clone());
    Ok(version)
}

#[cfg(test)]
mod tests;

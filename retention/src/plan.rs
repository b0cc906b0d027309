//! A plan: the exact segments that are to leave the books. Its bytes are canonical, so that people approve a hash.

use std::path::{Path, PathBuf};

use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::table::TableId;
use counterfoil_entry::tree::sha256;
use counterfoil_entry::{Hash, Time};
use counterfoil_ledger::manifest::{ClassRule, DeletedSegment};
use counterfoil_ledger::paths;
use serde::{Deserialize, Serialize};

use crate::judge::Due;
use crate::when::instant;

const FORMAT: &str = "counterfoil-plan 1";

/// Why bytes are no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file cannot be read.
    #[error("reading the plan {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bytes are not what this program writes.
    #[error("{path} is no plan: {why}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What is to leave the books, by which rules, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    format: String,
    /// The disposition.
    pub action_id: String,
    /// Origin of the log.
    pub origin: String,
    /// Manifests of the log when the plan was made.
    pub log_size: u64,
    /// Root of the log then, hexadecimal.
    pub log_root: String,
    /// Who made it.
    pub planned_by: String,
    /// When, RFC 3339.
    pub planned_at: String,
    /// SHA-256 of the classes file, hexadecimal.
    pub classes_sha256: String,
    /// The rules that are applied.
    pub rules: Vec<PlannedRule>,
    /// Records of all segments.
    pub records: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// The segments, ascending.
    pub segments: Vec<PlannedSegment>,
}

/// A rule as a plan states it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedRule {
    /// The class.
    pub class: String,
    /// Days.
    pub days: u64,
    /// Why that long.
    pub reason: String,
    /// Who answers for it.
    pub owner: String,
    /// Why fewer days than the name promises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortened_because: Option<String>,
}

/// A segment as a plan names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedSegment {
    /// Its number.
    pub segment: u64,
    /// The manifest that sealed it.
    pub manifest: u64,
    /// Table of its rows.
    pub table: String,
    /// Class of its rows.
    pub class: String,
    /// Rows.
    pub records: u64,
    /// Size of its file.
    pub bytes: u64,
    /// Least time of its rows.
    pub oldest: String,
    /// Greatest time of its rows.
    pub newest: String,
    /// When it was sealed.
    pub sealed: String,
    /// Class whose rule is applied.
    pub rule: String,
    /// From when it may go.
    pub allowed_from: String,
    /// Root over its rows, hexadecimal.
    pub root: String,
    /// SHA-256 of its file, hexadecimal.
    pub sha256: String,
    /// Its file, relative to `books/`.
    pub file: String,
}

/// What a plan is made from, besides the segments.
#[derive(Debug)]
pub(crate) struct Heading<'a> {
    pub(crate) action_id: String,
    pub(crate) origin: &'a str,
    pub(crate) log: (u64, Hash),
    pub(crate) planned_by: &'a str,
    pub(crate) planned_at: Time,
    pub(crate) classes_sha256: Hash,
}

impl Plan {
    pub(crate) fn new(heading: Heading<'_>, mut rules: Vec<PlannedRule>, due: &[Due]) -> Self {
        rules.sort_by(|a, b| a.class.cmp(&b.class));
        let segments: Vec<PlannedSegment> = due.iter().map(PlannedSegment::of).collect();
        Self {
            format: FORMAT.to_owned(),
            action_id: heading.action_id,
            origin: heading.origin.to_owned(),
            log_size: heading.log.0,
            log_root: heading.log.1.to_string(),
            planned_by: heading.planned_by.to_owned(),
            planned_at: heading.planned_at.to_string(),
            classes_sha256: heading.classes_sha256.to_string(),
            rules,
            records: segments.iter().map(|one| one.records).sum(),
            bytes: segments.iter().map(|one| one.bytes).sum(),
            segments,
        }
    }

    /// The plan's bytes, as its file holds them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // A structure of texts and numbers always has a JSON.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// SHA-256 of the plan's bytes: what people approve.
    #[must_use]
    pub fn sha256(&self) -> Hash {
        sha256(&self.to_bytes())
    }

    /// Reads a plan file; only the bytes that [`Plan::to_bytes`] gives are taken.
    ///
    /// # Errors
    /// [`PlanError`], naming the file.
    pub fn load(path: &Path) -> Result<Self, PlanError> {
        let bytes = std::fs::read(path).map_err(|source| PlanError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::read(&bytes).map_err(|why| PlanError::Form {
            path: path.to_owned(),
            why,
        })
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let plan: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if plan.format != FORMAT {
            return Err(format!("its format is {:?}, not {FORMAT:?}", plan.format));
        }
        if plan.to_bytes() != bytes {
            return Err("it was edited, or written by another program".to_owned());
        }
        let sums = plan.segments.iter().fold((0_u64, 0_u64), |sums, one| {
            let add = |sum: u64, more: u64| sum.saturating_add(more);
            (add(sums.0, one.records), add(sums.1, one.bytes))
        });
        if sums != (plan.records, plan.bytes) {
            return Err("its totals are not those of its segments".to_owned());
        }
        let ascends = plan
            .segments
            .iter()
            .zip(plan.segments.iter().skip(1))
            .all(|(one, next)| one.segment < next.segment);
        if !ascends || plan.segments.is_empty() {
            return Err("its segments do not ascend, or there are none".to_owned());
        }
        for segment in &plan.segments {
            let of = segment.deleted()?;
            let (number, file) = (segment.segment, &segment.file);
            if !paths::is_segment(file, &plan.origin, of.table, &of.class, number) {
                return Err(format!("segment {number}: its file's name is not its own"));
            }
        }
        for rule in &plan.rules {
            rule.rule()?;
        }
        Ok(plan)
    }

    /// Earliest and latest time of its rows.
    #[must_use]
    pub fn times(&self) -> Option<(Time, Time)> {
        let oldest = self
            .segments
            .iter()
            .filter_map(|one| instant(&one.oldest).ok());
        let newest = self
            .segments
            .iter()
            .filter_map(|one| instant(&one.newest).ok());
        oldest.min().zip(newest.max())
    }
}

impl PlannedRule {
    /// The rule as a manifest states it.
    pub(crate) fn rule(&self) -> Result<ClassRule, String> {
        Ok(ClassRule {
            class: class(&self.class)?,
            days: self.days,
            reason: self.reason.clone(),
        })
    }
}

impl PlannedSegment {
    fn of(due: &Due) -> Self {
        let of = &due.sealed.of;
        Self {
            segment: of.segment,
            manifest: due.sealed.manifest,
            table: of.table.name().to_owned(),
            class: of.class.to_string(),
            records: of.count,
            bytes: of.bytes,
            oldest: of.first_time.to_string(),
            newest: of.last_time.to_string(),
            sealed: due.sealed.until.to_string(),
            rule: due.rule.to_string(),
            allowed_from: due.allowed_from.to_string(),
            root: of.root.to_string(),
            sha256: of.sha256.to_string(),
            file: of.file.clone(),
        }
    }

    /// Whether the books have it as the plan names it.
    pub(crate) fn is_of(&self, due: &Due) -> bool {
        *self == Self::of(due)
    }

    /// The item of a manifest.
    pub(crate) fn deleted(&self) -> Result<DeletedSegment, String> {
        let wrong = |what: &str| format!("segment {}: its {what} is none", self.segment);
        Ok(DeletedSegment {
            segment: self.segment,
            table: TableId::from_name(&self.table).ok_or_else(|| wrong("table"))?,
            class: class(&self.class)?,
            count: self.records,
            root: self.root.parse().map_err(|_| wrong("root"))?,
            bytes: self.bytes,
            rule: class(&self.rule)?,
            allowed_from: instant(&self.allowed_from).map_err(|error| error.to_string())?,
        })
    }
}

fn class(name: &str) -> Result<RetentionClass, String> {
    RetentionClass::parse(name).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;

//! The walk: every log by manifest number, then what only the whole can show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use counterfoil_entry::Time;
use counterfoil_entry::tree::sha256;

use super::conflicts::Conflicts;
use super::deletions::{DeletedSegments, Deletions};
use super::epochs::Epochs;
use super::files::Files;
use super::gaps::Gaps;
use super::intact;
use super::report::{Checked, Failure, Place, Report};
use super::segment::{self, Described};
use super::walk::{Due, Walk};
use super::{ChainTrust, Request, SegmentRows};
use crate::coverage::{Coverage, CoverageRow};
use crate::manifest::{
    self, Body, CoverageRef, Hold, Manifest, SegmentRef, manifest_hash, manifest_leaf,
};
use crate::note::VerifierKey;
use crate::paths;

/// A verification in progress.
pub(super) struct Audit<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) rows: &'a dyn SegmentRows,
    pub(super) trust: &'a dyn ChainTrust,
    pub(super) files: Files,
    pub(super) epochs: Epochs,
    pub(super) gaps: Gaps,
    pub(super) conflicts: Conflicts,
    pub(super) deletions: Deletions,
    /// The highest revision of each hold.
    pub(super) holds: BTreeMap<String, Hold>,
    /// SPIFFE ids and epochs that control saw, by its `issuance` rows.
    pub(super) seen: BTreeSet<(String, u64)>,
    pub(super) report: Report,
}

/// The checkpoints as they stand now, to see whether the logs grew meanwhile.
pub(super) fn heads(books: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut heads = BTreeMap::new();
    if let Ok(logs) = fs::read_dir(books.join("log")) {
        for log in logs.flatten() {
            let head = fs::read(log.path().join("checkpoint")).unwrap_or_default();
            heads.insert(log.file_name().to_string_lossy().into_owned(), head);
        }
    }
    heads
}

/// Verifies once.
pub(super) fn audit(
    request: &Request<'_>,
    rows: &dyn SegmentRows,
    trust: &dyn ChainTrust,
) -> Report {
    let mut report = Report {
        keys_from_store: request.policy.is_none(),
        ..Report::default()
    };
    let files = Files::list(request.books, &mut report);
    let (epochs, gaps, conflicts) = (Epochs::default(), Gaps::default(), Conflicts::default());
    let mut audit = Audit {
        request,
        rows,
        trust,
        files,
        epochs,
        gaps,
        conflicts,
        deletions: Deletions::default(),
        holds: BTreeMap::new(),
        seen: BTreeSet::new(),
        report,
    };
    let mut until: Option<Time> = None;
    let mut against_origins = Vec::new();
    for log in audit.logs() {
        audit.report.counts.origins += 1;
        match audit.log(&log) {
            Ok(end) => until = Some(until.map_or(end, |known| known.min(end))),
            Err(failure) => audit.push(*failure),
        }
        against_origins.push(paths::slug(&log.name));
    }
    if let Some(saved) = request.against {
        let origin = &saved.checkpoint.origin;
        if !against_origins.contains(&paths::slug(origin)) {
            let place = Place {
                origin: Some(origin.clone()),
                ..Place::default()
            };
            audit.report.fail(
                "against",
                place,
                "the saved checkpoint's log is not in the books",
            );
        }
    }
    super::verdict::conclude(audit, until)
}

impl Audit<'_> {
    fn push(&mut self, failure: Failure) {
        self.report
            .fail(failure.what, failure.place, failure.detail);
    }

    /// The logs of the policy; without one, those that are there.
    fn logs(&mut self) -> Vec<Due> {
        if let Some(policy) = self.request.policy {
            let due = |key: &VerifierKey| Due {
                name: key.name().to_owned(),
                key: Some(key.clone()),
            };
            return policy.log_keys.iter().map(due).collect();
        }
        let folders = self.files.log_folders();
        if folders.is_empty() {
            self.report.fail(
                "missing",
                Place::file("log"),
                "there is no log in this folder",
            );
        }
        folders
            .into_iter()
            .map(|name| Due { name, key: None })
            .collect()
    }

    /// Walks one log; gives the end of its last interval.
    fn log(&mut self, due: &Due) -> Checked<Time> {
        let mut walk = self.begin(due)?;
        let changed = intact::changed(&self.files, &walk.origin, &walk.head);
        walk.deleted = DeletedSegments::find(&self.files, &walk.origin, walk.head.size);
        for number in 0..walk.head.size {
            let file = paths::manifest(&walk.origin, number);
            let place = Place::file(&file).in_manifest(&walk.origin, number);
            let read = self.files.read(&file, manifest::BYTES_MAX as u64);
            let taken = match read {
                Err(failed) => Err(failed),
                // What it says now would only lead to files that are as they were.
                Ok(_) if changed.contains(&number) => Err((
                    "manifest",
                    "the file is not the manifest that the log holds".to_owned(),
                )),
                Ok(bytes) => Manifest::decode(&bytes)
                    .map(|manifest| (manifest, bytes))
                    .map_err(|error| ("manifest", error.to_string())),
            };
            match taken {
                Ok((manifest, bytes)) => self.manifest(&mut walk, &manifest, &bytes, &place)?,
                Err((what, detail)) => {
                    walk.is_broken = true;
                    walk.previous = None;
                    self.report.fail(what, place, detail);
                }
            }
        }
        self.end(&walk)?;
        let origin = Some(walk.origin);
        let place = Place {
            origin,
            ..Place::default()
        };
        let detail = "the log has no manifest".to_owned();
        walk.until
            .ok_or_else(|| Failure::at("missing", place, detail))
    }

    /// Takes one manifest: its link, its tiles, its segments.
    fn manifest(
        &mut self,
        walk: &mut Walk,
        manifest: &Manifest,
        bytes: &[u8],
        place: &Place,
    ) -> Checked<()> {
        self.report.counts.manifests += 1;
        if let Err(detail) = walk.link(manifest, place.manifest.unwrap_or_default()) {
            self.report.fail("manifest", place.clone(), detail);
        }
        walk.previous = Some(manifest_hash(bytes));
        walk.until = Some(manifest.until);
        let full = walk
            .edge
            .push(bytes, manifest_leaf(bytes))
            .map_err(|error| Failure::at("manifest", place.clone(), error.to_string()))?;
        if !walk.is_broken {
            for (tile, bytes) in full {
                self.tile(&walk.origin, &tile.path(), &bytes);
            }
            self.meet_saved(walk);
        }
        match &manifest.body {
            Body::Seal {
                segments,
                coverage: Some(due),
                ..
            } => {
                // Without its coverage no row of a segment has a place: the first failure says why.
                match self.coverage(manifest, due) {
                    Ok(coverage) => self.segments(manifest, segments, &coverage.rows, walk),
                    Err(failure) => self.push(*failure),
                }
            }
            Body::Deletion(deletion) if !walk.is_broken => {
                self.deletions.take(
                    manifest,
                    deletion,
                    (&walk.deleted, &self.holds),
                    place,
                    &mut self.report,
                );
            }
            Body::Hold(hold) => self.hold(hold),
            _ => {}
        }
        Ok(())
    }

    /// Keeps the highest revision of each hold.
    fn hold(&mut self, hold: &Hold) {
        let known = self.holds.get(&hold.hold_id);
        if known.is_none_or(|known| known.revision <= hold.revision) {
            self.holds.insert(hold.hold_id.clone(), hold.clone());
        }
    }

    fn segments(
        &mut self,
        manifest: &Manifest,
        segments: &[SegmentRef],
        rows: &[CoverageRow],
        walk: &mut Walk,
    ) {
        let mut by_segment = group(rows);
        for segment in segments {
            let coverage = by_segment.remove(&segment.segment).unwrap_or_default();
            let described = Described {
                origin: &manifest.origin,
                manifest: manifest.number,
                segment,
                coverage: &coverage,
            };
            let is_deleted = walk.deleted.takes(segment, manifest.number, manifest.until);
            let checked = if is_deleted {
                segment::check_deleted(self, &described)
            } else {
                segment::check(self, &described, &walk.roots)
            };
            if let Err(failure) = checked {
                self.push(*failure);
            }
        }
        for number in by_segment.keys() {
            let file = paths::coverage(&manifest.origin, manifest.number);
            let place = Place::file(&file).in_manifest(&manifest.origin, manifest.number);
            let detail = format!("it covers segment {number}, which its manifest does not name");
            self.report.fail("coverage", place, detail);
        }
    }

    fn coverage(&mut self, manifest: &Manifest, due: &CoverageRef) -> Checked<Coverage> {
        let file = paths::coverage(&manifest.origin, manifest.number);
        let place = Place::file(&file).in_manifest(&manifest.origin, manifest.number);
        let bytes = match self.files.read(&file, due.bytes) {
            Ok(bytes) => bytes,
            Err((what, detail)) => return Err(Failure::at(what, place, detail)),
        };
        if bytes.len() as u64 != due.bytes || sha256(&bytes) != due.sha256 {
            return Err(Failure::at(
                "changed",
                place,
                "the file is not the one that was sealed",
            ));
        }
        match Coverage::decode(&bytes) {
            Err(error) => Err(Failure::at("coverage", place, error.to_string())),
            Ok(coverage)
                if (&coverage.origin, coverage.manifest) != (&manifest.origin, manifest.number) =>
            {
                Err(Failure::at("coverage", place, "it is of another manifest"))
            }
            Ok(coverage) => Ok(coverage),
        }
    }
}

fn group(rows: &[CoverageRow]) -> BTreeMap<u64, Vec<&CoverageRow>> {
    let mut groups: BTreeMap<u64, Vec<&CoverageRow>> = BTreeMap::new();
    for row in rows {
        groups.entry(row.segment).or_default().push(row);
    }
    groups
}

//! The walk: every log by manifest number, then what only the whole can show.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use counterfoil_entry::tree::sha256;
use counterfoil_entry::{Hash, Time};

use super::epochs::Epochs;
use super::files::Files;
use super::gaps::Gaps;
use super::report::{Failure, Place, Report};
use super::segment::{self, Described};
use super::{ChainTrust, Request, SegmentRows};
use crate::checkpoint::Checkpoint;
use crate::coverage::{Coverage, CoverageRow};
use crate::manifest::{self, Body, Manifest, manifest_hash, manifest_leaf};
use crate::note::VerifierKey;
use crate::paths;
use crate::tile::Edge;

/// Longest checkpoint file that is read, in bytes.
const CHECKPOINT_BYTES_MAX: u64 = 64 * 1024;
const NS_PER_S: i64 = 1_000_000_000;

/// A verification in progress.
pub(super) struct Audit<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) rows: &'a dyn SegmentRows,
    pub(super) trust: &'a dyn ChainTrust,
    pub(super) files: Files,
    pub(super) epochs: Epochs,
    pub(super) gaps: Gaps,
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
    let (epochs, gaps) = (Epochs::default(), Gaps::default());
    let mut audit = Audit {
        request,
        rows,
        trust,
        files,
        epochs,
        gaps,
        report,
    };
    let mut until: Option<Time> = None;
    let mut against_origins = Vec::new();
    for log in audit.logs() {
        audit.report.counts.origins += 1;
        match audit.log(&log) {
            Ok(end) => until = Some(until.map_or(end, |known| known.min(end))),
            Err(failure) => audit.push(failure),
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

/// A log that must be walked.
pub(super) struct Due {
    /// Its origin by the policy; else the name of its folder.
    name: String,
    key: Option<VerifierKey>,
}

/// What the walk of one log knows so far.
struct Walk {
    origin: String,
    head: Checkpoint,
    edge: Edge,
    previous: Option<Hash>,
    until: Option<Time>,
    next_segment: u64,
    journal_file: u64,
    /// Whether a manifest could not be read: what comes after is not linked then.
    is_broken: bool,
    roots: Vec<Vec<u8>>,
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
    fn log(&mut self, due: &Due) -> Result<Time, Failure> {
        let mut walk = self.begin(due)?;
        for number in 0..walk.head.size {
            let file = paths::manifest(&walk.origin, number);
            let place = Place::file(&file).in_manifest(&walk.origin, number);
            let read = self.files.read(&file, manifest::BYTES_MAX as u64);
            let taken = match read {
                Err(detail) => Err(("missing", detail)),
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
        walk.until.ok_or(Failure {
            what: "missing",
            place,
            detail,
        })
    }

    /// Reads the checkpoint and manifest 0, which tell what to walk.
    fn begin(&mut self, due: &Due) -> Result<Walk, Failure> {
        let first = paths::manifest(&due.name, 0);
        let place = Place {
            origin: Some(due.name.clone()),
            manifest: Some(0),
            ..Place::file(&first)
        };
        let fail = |what, place: &Place, detail: String| Failure {
            what,
            place: place.clone(),
            detail,
        };
        // It is read again by the walk, so it is not crossed off here.
        let genesis = fs::read(self.files.path(&first)).map_err(|error| {
            fail(
                "missing",
                &place,
                format!("the file cannot be read: {error}"),
            )
        })?;
        let genesis = Manifest::decode(&genesis)
            .map_err(|error| fail("manifest", &place, error.to_string()))?;
        let Body::Key {
            log_key,
            trust_roots,
        } = genesis.body
        else {
            return Err(fail(
                "manifest",
                &place,
                "manifest 0 is not of kind key".to_owned(),
            ));
        };
        let stored = VerifierKey::parse(&log_key)
            .map_err(|error| fail("manifest", &place, error.to_string()))?;
        let key = due.key.as_ref().unwrap_or(&stored);
        if stored != *key {
            let detail = "its log key is not the one of the policy".to_owned();
            return Err(fail("key", &place, detail));
        }
        if genesis.origin != key.name() || paths::slug(key.name()) != paths::slug(&due.name) {
            return Err(fail(
                "manifest",
                &place,
                "it is of another origin".to_owned(),
            ));
        }
        let roots = match self.request.policy {
            Some(policy)
                if trust_roots
                    .iter()
                    .all(|root| policy.trust_roots.contains(root)) =>
            {
                policy.trust_roots.clone()
            }
            Some(_) => {
                let detail = "it names a trust root that the policy does not".to_owned();
                return Err(fail("key", &place, detail));
            }
            None => trust_roots,
        };
        let file = paths::checkpoint(key.name());
        let place = Place {
            origin: Some(key.name().to_owned()),
            ..Place::file(&file)
        };
        let text = self
            .files
            .read(&file, CHECKPOINT_BYTES_MAX)
            .map_err(|detail| fail("missing", &place, detail))?;
        let head = String::from_utf8(text)
            .map_err(|error| error.to_string())
            .and_then(|text| Checkpoint::open_only(&text, key).map_err(|error| error.to_string()))
            .map_err(|detail| fail("checkpoint", &place, detail))?;
        if head.size == 0 {
            return Err(fail(
                "checkpoint",
                &place,
                "it covers no manifest".to_owned(),
            ));
        }
        self.check_saved(key, &head)?;
        Ok(Walk {
            origin: key.name().to_owned(),
            head,
            edge: Edge::default(),
            previous: None,
            until: None,
            next_segment: 1,
            journal_file: 0,
            is_broken: false,
            roots,
        })
    }

    /// Checks the signature and size of the saved checkpoint; its root is met during the walk.
    fn check_saved(&self, key: &VerifierKey, head: &Checkpoint) -> Result<(), Failure> {
        let Some(saved) = self.request.against else {
            return Ok(());
        };
        if saved.checkpoint.origin != key.name() {
            return Ok(());
        }
        let fail = |detail: String| {
            let place = Place {
                origin: Some(key.name().to_owned()),
                ..Place::default()
            };
            Err(Failure {
                what: "against",
                place,
                detail,
            })
        };
        if let Err(error) = saved.note.verify(key) {
            return fail(format!("the saved checkpoint: {error}"));
        }
        if saved.checkpoint.size > head.size {
            return fail(format!(
                "the log was cut: the saved checkpoint covers {} manifests, the books {}",
                saved.checkpoint.size, head.size
            ));
        }
        Ok(())
    }

    /// Takes one manifest: its link, its tiles, its segments.
    fn manifest(
        &mut self,
        walk: &mut Walk,
        manifest: &Manifest,
        bytes: &[u8],
        place: &Place,
    ) -> Result<(), Failure> {
        self.report.counts.manifests += 1;
        if let Err(detail) = walk.link(manifest, place.manifest.unwrap_or_default()) {
            self.report.fail("manifest", place.clone(), detail);
        }
        walk.previous = Some(manifest_hash(bytes));
        walk.until = Some(manifest.until);
        let full = walk
            .edge
            .push(bytes, manifest_leaf(bytes))
            .map_err(|error| Failure {
                what: "manifest",
                place: place.clone(),
                detail: error.to_string(),
            })?;
        if !walk.is_broken {
            for (tile, bytes) in full {
                self.tile(&walk.origin, &tile.path(), &bytes);
            }
            self.meet_saved(walk);
        }
        if let Body::Seal {
            segments,
            coverage: Some(due),
            ..
        } = &manifest.body
        {
            let rows = match self.coverage(manifest, due.bytes, &due.sha256) {
                Ok(coverage) => coverage.rows,
                Err(failure) => {
                    self.push(failure);
                    Vec::new()
                }
            };
            let by_segment = group(&rows);
            for (number, _) in by_segment
                .iter()
                .filter(|(number, _)| segments.iter().all(|s| s.segment != **number))
            {
                let detail =
                    format!("it covers segment {number}, which its manifest does not name");
                let file = paths::coverage(&walk.origin, manifest.number);
                let place = Place::file(&file).in_manifest(&walk.origin, manifest.number);
                self.report.fail("coverage", place, detail);
            }
            for segment in segments {
                let none = Vec::new();
                let described = Described {
                    origin: &walk.origin,
                    manifest: manifest.number,
                    segment,
                    coverage: by_segment.get(&segment.segment).unwrap_or(&none),
                };
                if let Err(failure) = segment::check(self, &described, &walk.roots) {
                    self.push(failure);
                }
            }
        }
        Ok(())
    }

    fn coverage(
        &mut self,
        manifest: &Manifest,
        bytes_due: u64,
        sha256_due: &Hash,
    ) -> Result<Coverage, Failure> {
        let file = paths::coverage(&manifest.origin, manifest.number);
        let place = Place::file(&file).in_manifest(&manifest.origin, manifest.number);
        let fail = |what, detail: String| Failure {
            what,
            place: place.clone(),
            detail,
        };
        let bytes = self
            .files
            .read(&file, bytes_due)
            .map_err(|detail| fail("missing", detail))?;
        if bytes.len() as u64 != bytes_due || sha256(&bytes) != *sha256_due {
            let detail = "the file is not the one that was sealed".to_owned();
            return Err(fail("changed", detail));
        }
        let coverage =
            Coverage::decode(&bytes).map_err(|error| fail("coverage", error.to_string()))?;
        if coverage.origin != manifest.origin || coverage.manifest != manifest.number {
            return Err(fail("coverage", "it is of another manifest".to_owned()));
        }
        Ok(coverage)
    }

    fn tile(&mut self, origin: &str, path: &str, due: &[u8]) {
        let file = format!("{}/{path}", paths::log_folder(origin));
        let place = Place {
            origin: Some(origin.to_owned()),
            ..Place::file(&file)
        };
        match self.files.read(&file, due.len() as u64) {
            Err(detail) => self.report.fail("missing", place, detail),
            Ok(bytes) if bytes != due => {
                self.report
                    .fail("tile", place, "the tile is not that of the manifests");
            }
            Ok(_) => {}
        }
    }

    /// Compares with the saved checkpoint when the walk has reached its size.
    fn meet_saved(&mut self, walk: &Walk) {
        let Some(saved) = self.request.against.map(|saved| &saved.checkpoint) else {
            return;
        };
        let is_here = saved.origin == walk.origin && saved.size == walk.edge.size();
        if is_here && saved.root != walk.edge.root() {
            let place = Place {
                origin: Some(saved.origin.clone()),
                ..Place::default()
            };
            let place = Place {
                manifest: saved.size.checked_sub(1),
                ..place
            };
            let detail = "history was rewritten: the manifests do not have the saved root";
            self.report.fail("against", place, detail);
        }
    }

    /// Checks the partial tiles and the root, when every manifest was there.
    fn end(&mut self, walk: &Walk) -> Result<(), Failure> {
        if walk.is_broken {
            return Ok(());
        }
        let file = paths::checkpoint(&walk.origin);
        let place = Place {
            origin: Some(walk.origin.clone()),
            ..Place::file(&file)
        };
        if walk.edge.root() != walk.head.root {
            let detail = "its root is not that of the manifests".to_owned();
            return Err(Failure {
                what: "checkpoint",
                place,
                detail,
            });
        }
        for (tile, bytes) in walk.edge.partial() {
            self.tile(&walk.origin, &tile.path(), &bytes);
        }
        let freshness_s = self.request.policy.and_then(|policy| policy.freshness_s);
        if let (Some(freshness_s), Some(until)) = (freshness_s, walk.until) {
            let age_s = self.request.now.since_ns(until) / NS_PER_S;
            if u64::try_from(age_s).is_ok_and(|age_s| age_s > freshness_s) {
                let detail = format!(
                    "the newest manifest is {age_s} s old, the policy allows {freshness_s}"
                );
                return Err(Failure {
                    what: "freshness",
                    place,
                    detail,
                });
            }
        }
        Ok(())
    }
}

impl Walk {
    /// Checks that the manifest follows the one before.
    fn link(&mut self, manifest: &Manifest, number: u64) -> Result<(), String> {
        if manifest.origin != self.origin || manifest.number != number {
            return Err(format!(
                "it is manifest {} of {}",
                manifest.number, manifest.origin
            ));
        }
        if self.previous.is_some() && manifest.previous != self.previous {
            return Err("it does not name the manifest before it by its hash".to_owned());
        }
        if self.until.is_some_and(|until| until != manifest.from) && !self.is_broken {
            return Err("its interval does not begin where the one before ends".to_owned());
        }
        match (&manifest.body, number) {
            (Body::Key { .. }, 0) => Ok(()),
            (
                Body::Seal {
                    journal_file,
                    segments,
                    ..
                },
                1..,
            ) => {
                let first = segments.first().map_or(self.next_segment, |s| s.segment);
                let is_next = self.is_broken || first == self.next_segment;
                let is_run = (first..).zip(segments).all(|(at, s)| s.segment == at);
                let is_back = *journal_file < self.journal_file;
                self.next_segment = first + segments.len() as u64;
                self.journal_file = *journal_file;
                if !is_next || !is_run {
                    return Err("its segments are not numbered on without holes".to_owned());
                }
                if is_back {
                    return Err("its journal file is before that of the manifest before".to_owned());
                }
                Ok(())
            }
            _ => Err("exactly manifest 0 is of kind key".to_owned()),
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

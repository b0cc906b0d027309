//! One log of the walk: how it begins, how its manifests are linked, how it ends.

use std::fs;

use counterfoil_entry::{Hash, Time};

use super::deletions::DeletedSegments;
use super::intact;
use super::origin::Audit;
use super::report::{Checked, Failure, Place};
use crate::checkpoint::Checkpoint;
use crate::manifest::{Body, Manifest};
use crate::note::{Note, VerifierKey};
use crate::paths;
use crate::tile::Edge;

/// Longest checkpoint file that is read, in bytes.
const CHECKPOINT_BYTES_MAX: u64 = 64 * 1024;
const NS_PER_S: i64 = 1_000_000_000;

/// A log that must be walked.
pub(super) struct Due {
    /// Its origin by the policy; else the name of its folder.
    pub(super) name: String,
    pub(super) key: Option<VerifierKey>,
}

/// What the walk of one log knows so far.
pub(super) struct Walk {
    pub(super) origin: String,
    pub(super) head: Checkpoint,
    pub(super) edge: Edge,
    pub(super) previous: Option<Hash>,
    pub(super) until: Option<Time>,
    next_segment: u64,
    journal_file: u64,
    /// Whether a manifest could not be read: what comes after is not linked then.
    pub(super) is_broken: bool,
    /// The SPIFFE roots for this log's announcements.
    pub(super) roots: Vec<Vec<u8>>,
    /// What its manifests delete.
    pub(super) deleted: DeletedSegments,
}

impl Audit<'_> {
    /// Reads manifest 0 and the checkpoint, which tell what to walk.
    pub(super) fn begin(&mut self, due: &Due) -> Checked<Walk> {
        let (key, roots) = self.genesis(due)?;
        let file = paths::checkpoint(key.name());
        let place = Place {
            origin: Some(key.name().to_owned()),
            ..Place::file(&file)
        };
        let text = self
            .files
            .read(&file, CHECKPOINT_BYTES_MAX)
            .map_err(|(what, detail)| Failure::at(what, place.clone(), detail))?;
        let text = String::from_utf8_lossy(&text);
        let head = Checkpoint::open_only(&text, &key)
            .map_err(|error| error.to_string())
            .map_err(|detail| self.unopened(&key, &text, place.clone(), detail))?;
        if head.size == 0 {
            return Err(Failure::at("checkpoint", place, "it covers no manifest"));
        }
        self.check_saved(&key, &head)?;
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
            deleted: DeletedSegments::default(),
        })
    }

    /// Why a checkpoint does not open: it was changed, or manifest 0 was, which holds the key.
    fn unopened(
        &self,
        key: &VerifierKey,
        text: &str,
        place: Place,
        detail: String,
    ) -> Box<Failure> {
        let said = Note::parse(text)
            .ok()
            .and_then(|note| Checkpoint::parse_text(note.text()).ok());
        let is_first =
            said.is_some_and(|head| intact::is_first_changed(&self.files, key.name(), head.size));
        if !is_first {
            return Failure::at("checkpoint", place, detail);
        }
        let file = paths::manifest(key.name(), 0);
        let place = Place::file(&file).in_manifest(key.name(), 0);
        Failure::at(
            "manifest",
            place,
            "the file is not the manifest that the log holds",
        )
    }

    /// The log's key and the SPIFFE roots: those of manifest 0, which must be those of the policy.
    fn genesis(&self, due: &Due) -> Checked<(VerifierKey, Vec<Vec<u8>>)> {
        let file = paths::manifest(&due.name, 0);
        let fail = |what, detail: String| {
            let place = Place::file(&file).in_manifest(&due.name, 0);
            Err(Failure::at(what, place, detail))
        };
        // The walk reads it again, so it is not crossed off here.
        let bytes = match fs::read(self.files.path(&file)) {
            Ok(bytes) => bytes,
            Err(error) => return fail("missing", format!("the file cannot be read: {error}")),
        };
        let manifest = match Manifest::decode(&bytes) {
            Ok(manifest) => manifest,
            Err(error) => return fail("manifest", error.to_string()),
        };
        let Body::Key {
            log_key,
            trust_roots,
        } = manifest.body
        else {
            return fail("manifest", "manifest 0 is not of kind key".to_owned());
        };
        let stored = match VerifierKey::parse(&log_key) {
            Ok(key) => key,
            Err(error) => return fail("manifest", error.to_string()),
        };
        if due.key.as_ref().is_some_and(|key| *key != stored) {
            return fail("key", "its log key is not the one of the policy".to_owned());
        }
        let is_own = paths::slug(stored.name()) == paths::slug(&due.name);
        if manifest.origin != stored.name() || !is_own {
            return fail("manifest", "it is of another origin".to_owned());
        }
        let Some(policy) = self.request.policy else {
            return Ok((stored, trust_roots));
        };
        if trust_roots
            .iter()
            .all(|root| policy.trust_roots.contains(root))
        {
            Ok((stored, policy.trust_roots.clone()))
        } else {
            fail(
                "key",
                "it names a trust root that the policy does not".to_owned(),
            )
        }
    }

    /// Checks the signature and size of the saved checkpoint; its root is met during the walk.
    fn check_saved(&self, key: &VerifierKey, head: &Checkpoint) -> Checked<()> {
        let Some(saved) = self.request.against else {
            return Ok(());
        };
        if saved.checkpoint.origin != key.name() {
            return Ok(());
        }
        let place = Place {
            origin: Some(key.name().to_owned()),
            ..Place::default()
        };
        if let Err(error) = saved.note.verify(key) {
            return Err(Failure::at(
                "against",
                place,
                format!("the saved checkpoint: {error}"),
            ));
        }
        if saved.checkpoint.size > head.size {
            let detail = format!(
                "the log was cut: the saved checkpoint covers {} manifests, the books {}",
                saved.checkpoint.size, head.size
            );
            return Err(Failure::at("against", place, detail));
        }
        Ok(())
    }

    pub(super) fn tile(&mut self, origin: &str, path: &str, due: &[u8]) {
        let file = format!("{}/{path}", paths::log_folder(origin));
        let place = Place {
            origin: Some(origin.to_owned()),
            ..Place::file(&file)
        };
        match self.files.read(&file, due.len() as u64) {
            Err((what, detail)) => self.report.fail(what, place, detail),
            Ok(bytes) if bytes != due => {
                self.report
                    .fail("tile", place, "the tile is not that of the manifests");
            }
            Ok(_) => {}
        }
    }

    /// Compares with the saved checkpoint when the walk has reached its size.
    pub(super) fn meet_saved(&mut self, walk: &Walk) {
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
    pub(super) fn end(&mut self, walk: &Walk) -> Checked<()> {
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
            return Err(Failure::at("checkpoint", place, detail));
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
                return Err(Failure::at("freshness", place, detail));
            }
        }
        Ok(())
    }
}

impl Walk {
    /// Checks that the manifest follows the one before.
    pub(super) fn link(&mut self, manifest: &Manifest, number: u64) -> Result<(), String> {
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
            (Body::Key { .. }, 0) | (Body::Deletion(_) | Body::Hold(_), 1..) => Ok(()),
            (
                Body::Seal {
                    journal_file,
                    segments,
                    ..
                },
                1..,
            ) => {
                let first = segments.first().map_or(self.next_segment, |s| s.segment);
                let Some(next) = first.checked_add(segments.len() as u64) else {
                    return Err("its segments have numbers that are too high".to_owned());
                };
                let is_next = self.is_broken || first == self.next_segment;
                let is_run = (first..next).zip(segments).all(|(at, s)| s.segment == at);
                let is_back = *journal_file < self.journal_file;
                self.next_segment = next;
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

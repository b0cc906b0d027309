//! What control publishes: one signed bundle a workload, cut anew only where something changed.

mod shelf;
mod versions;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::rows::BundleRow;
use counterfoil_entry::table::TableId;
use counterfoil_entry::{Time, clock, tree};
use counterfoil_spool::{AppendError, Lane};
use counterfoil_trust::SpiffeId;
use counterfoil_trust::bundle::{BundleError, SignedBundle, TokenRules};
use counterfoil_trust::token;

use crate::authority::Authority;
use crate::catalogue::{Catalogue, WorkloadRule};
use crate::jsonlines::LinesError;
use crate::live::LiveTokens;
use crate::slice;
use shelf::Sheet;
pub(crate) use shelf::{Served, Shelf};
use versions::{Numbering, Versions};

/// So many slices are signed, written down and put in force together: the first of 2,000 workloads
/// do not wait for the last, and one sync of the disk serves many.
const BATCH: usize = 128;

/// What made the catalogue change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    /// The governance event.
    pub(crate) event_id: String,
    /// Who did it.
    pub(crate) author: String,
    /// Whether it takes a right away: polls are then answered at once.
    pub(crate) urgent: bool,
    /// The workloads whose slices may have changed; all of them when `None`.
    pub(crate) touched: Option<BTreeSet<SpiffeId>>,
}

/// What publishing took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Slices that were cut and compared.
    pub(crate) cut: usize,
    /// Bundles that were signed.
    pub(crate) signed: usize,
    /// Bundles that got new numbers, and a row in the books.
    pub(crate) changed: usize,
}

/// Why a catalogue could not be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("cannot write to the books which bundles are published")]
    Append(#[from] AppendError),
    #[error("cannot bring the books onto the disk")]
    Sync(#[source] io::Error),
    #[error("cannot keep the numbers of bundles")]
    Lines(#[from] LinesError),
    #[error("cannot sign a bundle")]
    Seal(#[from] BundleError),
}

/// Numbers and signs bundles and gives them to the polls that wait.
#[derive(Debug)]
pub(crate) struct Publisher {
    authority: Arc<Authority>,
    default_class: String,
    catalogue: ArcSwap<Catalogue>,
    shelf: Shelf,
    tokens: LiveTokens,
    press: Mutex<Press>,
    is_behind: AtomicBool,
}

/// What one publisher at a time works with.
#[derive(Debug)]
struct Press {
    numbering: Numbering,
    lane: Lane,
    class: RetentionClass,
    due: Due,
}

/// What is to be cut, also after the books could not be written for a while.
#[derive(Debug, Default)]
struct Due {
    all: bool,
    touched: BTreeSet<SpiffeId>,
    urgent: bool,
    event_id: Option<String>,
    author: Option<String>,
}

/// A bundle that is not on the shelf yet.
#[derive(Debug)]
struct Print {
    sheet: Sheet,
    /// What is to be written down before it may be served, when it was never served before.
    new: Option<(Versions, BundleRow)>,
}

impl Publisher {
    /// Goes on where the numbers in `dir` stand; nothing is published yet. Rows go to `lane`.
    pub(crate) fn open(
        dir: &Path,
        default_class: &str,
        authority: Arc<Authority>,
        lane: Lane,
    ) -> Result<Self, PublishError> {
        let press = Press {
            numbering: Numbering::open(dir)?,
            lane,
            class: RetentionClass::permanent(),
            due: Due::default(),
        };
        Ok(Self {
            authority,
            default_class: default_class.to_owned(),
            catalogue: ArcSwap::default(),
            shelf: Shelf::default(),
            tokens: LiveTokens::open(dir, clock::wall())?,
            press: Mutex::new(press),
            is_behind: AtomicBool::new(false),
        })
    }

    /// Publishes the first catalogue of this process.
    pub(crate) fn publish_first(&self, catalogue: Arc<Catalogue>) -> Result<Work, PublishError> {
        let mut press = self.press();
        press.due.all = true;
        self.catalogue.store(catalogue);
        self.work(&mut press)
    }

    /// Puts `catalogue` in force: what changed is signed, written to the books and given to the polls
    /// that wait. What did not change keeps its number, date and bytes. Blocks on the disk.
    ///
    /// No token is given out for what `catalogue` does not grant as soon as this is called; the rest
    /// is done by [`Publisher::catch_up`] when it fails.
    pub(crate) fn publish(
        &self,
        catalogue: Arc<Catalogue>,
        cause: &Cause,
    ) -> Result<Work, PublishError> {
        let mut press = self.press();
        press.due.add(cause);
        self.catalogue.store(catalogue);
        self.work(&mut press)
    }

    /// Publishes what could not be published before. Blocks on the disk.
    pub(crate) fn catch_up(&self) -> Result<Work, PublishError> {
        self.work(&mut self.press())
    }

    /// Whether something could not be published yet.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Acquire)
    }

    /// The bundles as they are in force.
    pub(crate) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// The newest catalogue.
    pub(crate) fn catalogue(&self) -> Arc<Catalogue> {
        self.catalogue.load_full()
    }

    /// The tokens that are good still.
    pub(crate) fn tokens(&self) -> &LiveTokens {
        &self.tokens
    }

    /// A panic elsewhere leaves what is due marked as due.
    fn press(&self) -> MutexGuard<'_, Press> {
        self.press.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, press: &mut Press) -> Result<Work, PublishError> {
        self.is_behind.store(true, Ordering::Release);
        let catalogue = self.catalogue.load_full();
        let due = press.due.list(&catalogue, &self.shelf);
        let mut work = Work::default();
        for batch in due.chunks(BATCH) {
            self.publish_batch(press, &catalogue, batch, &mut work)?;
            // A list of all begins anew after an error: what is done already is found unchanged.
            for audience in batch {
                press.due.touched.remove(audience);
            }
        }
        press.due = Due::default();
        self.is_behind.store(false, Ordering::Release);
        Ok(work)
    }

    fn publish_batch(
        &self,
        press: &mut Press,
        catalogue: &Catalogue,
        batch: &[SpiffeId],
        work: &mut Work,
    ) -> Result<(), PublishError> {
        let now = clock::wall();
        let (mut sheets, mut rows, mut new, mut gone) = (vec![], vec![], vec![], vec![]);
        for audience in batch {
            let Some(workload) = catalogue.workloads.get(audience) else {
                gone.push(audience.clone());
                continue;
            };
            work.cut += 1;
            let print = self.print(&press.numbering, catalogue, workload, now)?;
            let Some(print) = print else {
                continue;
            };
            work.signed += 1;
            sheets.push(print.sheet);
            if let Some((versions, row)) = print.new {
                work.changed += 1;
                new.push(versions);
                rows.push(row);
            }
        }
        for mut row in rows {
            row.event_id.clone_from(&press.due.event_id);
            row.author.clone_from(&press.due.author);
            press
                .lane
                .append(TableId::Bundles, &press.class, |header, out| {
                    row.encode(header, out);
                })?;
        }
        if !new.is_empty() {
            // A number that survives a loss of power has its row: it would not be written again.
            press.lane.sync().map_err(PublishError::Sync)?;
            press.numbering.keep(&new)?;
        }
        self.shelf.put(sheets, press.due.urgent);
        self.shelf.clear(&gone);
        Ok(())
    }

    /// The bundle of one workload; nothing when it lies on the shelf already.
    fn print(
        &self,
        numbering: &Numbering,
        catalogue: &Catalogue,
        workload: &WorkloadRule,
        now: Time,
    ) -> Result<Option<Print>, PublishError> {
        let audience = &workload.spiffe_id;
        let tokens = || TokenRules {
            issuer: token::issuer(audience.trust_domain()),
            keys: vec![self.authority.token_signer.public().clone()],
            revoked: self.tokens.revoked(catalogue, audience, now),
        };
        let (mut rights, mut endpoints) =
            slice::cut(catalogue, workload, &self.default_class, tokens);
        let (versions, is_new) = numbering.number(&rights, &endpoints, now)?;
        if !is_new && self.shelf.holds(audience) {
            return Ok(None);
        }
        rights.version = versions.rights.number;
        rights.issued_at = Time::from_ns(versions.rights.issued_at_ns);
        endpoints.version = versions.endpoints.number;
        let authority = &self.authority;
        let body = SignedBundle::seal(
            &rights,
            &endpoints,
            &authority.governance,
            &authority.control,
        )?;
        let sha256 = tree::sha256(&body);
        let sheet = Sheet {
            audience: audience.clone(),
            body: body.into(),
            etag: format!("\"{sha256}\"").into(),
        };
        if !is_new {
            return Ok(Some(Print { sheet, new: None }));
        }
        let signed = serde_json::to_vec(&rights).map_err(|source| BundleError::Malformed {
            part: "rights",
            source: Box::new(source),
        })?;
        let row = BundleRow {
            audience: audience.to_string(),
            rights_version: rights.version,
            endpoints_version: endpoints.version,
            sha256,
            rights_sha256: tree::sha256(&signed),
            published_at: now,
            event_id: None,
            author: None,
            grants: u64::try_from(rights.grants.len()).unwrap_or(u64::MAX),
        };
        let new = Some((versions, row));
        Ok(Some(Print { sheet, new }))
    }
}

impl Due {
    fn add(&mut self, cause: &Cause) {
        match &cause.touched {
            None => self.all = true,
            Some(touched) => self.touched.extend(touched.iter().cloned()),
        }
        self.urgent |= cause.urgent;
        self.event_id = Some(cause.event_id.clone());
        self.author = Some(cause.author.clone());
    }

    fn list(&self, catalogue: &Catalogue, shelf: &Shelf) -> Vec<SpiffeId> {
        if !self.all {
            return self.touched.iter().cloned().collect();
        }
        let mut all: BTreeSet<_> = shelf.audiences().into_iter().collect();
        all.extend(catalogue.workloads.keys().cloned());
        all.into_iter().collect()
    }
}

#[cfg(test)]
pub(crate) mod estate;
#[cfg(test)]
mod tests;

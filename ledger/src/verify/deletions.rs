//! Lawful deletion against loss: a segment may be absent when a later manifest of its log deletes it, by a rule
//! that was due, under a plan that three different people made and approved.

use std::collections::BTreeMap;
use std::fs;

use counterfoil_entry::record::HeaderRef;
use counterfoil_entry::rows::{OUTCOME_DONE, RetentionActionRow, STEP_APPROVED, STEP_PLANNED};
use counterfoil_entry::{Hash, Time};

use super::files::Files;
use super::report::{DeletedPlan, Place, Report};
use crate::manifest::{
    Body, DeletedSegment, Deletion, Hold, HoldState, Manifest, SegmentRef, allowed_from,
};
use crate::paths;

/// How the SPIFFE id of the only writer of `retention_actions` ends.
const WRITER_ENDING: &str = "/counterfoil/retention";

/// A segment that some manifest of the log deletes.
#[derive(Debug)]
pub(super) struct Named {
    /// The manifest that deletes it.
    by: u64,
    /// What its seal said, and until when that sealed; once it was met.
    sealed: Option<(SegmentRef, Time)>,
}

/// The segments that the log's manifests delete; found before the walk, which checks those manifests themselves.
#[derive(Debug, Default)]
pub(super) struct DeletedSegments(BTreeMap<u64, Named>);

impl DeletedSegments {
    /// Reads the manifests of `origin` below `size` that can be read.
    pub(super) fn find(files: &Files, origin: &str, size: u64) -> Self {
        let mut named = BTreeMap::new();
        for number in 0..size {
            let read = fs::read(files.path(&paths::manifest(origin, number)));
            let manifest = read.ok().and_then(|bytes| Manifest::decode(&bytes).ok());
            let Some(Body::Deletion(deletion)) = manifest.map(|manifest| manifest.body) else {
                continue;
            };
            for segment in deletion.segments {
                named.entry(segment.segment).or_insert(Named {
                    by: number,
                    sealed: None,
                });
            }
        }
        Self(named)
    }

    /// Whether a later manifest than `sealed_by` deletes `segment`; keeps what its seal says.
    pub(super) fn takes(&mut self, segment: &SegmentRef, sealed_by: u64, until: Time) -> bool {
        match self.0.get_mut(&segment.segment) {
            Some(named) if named.by > sealed_by => {
                named.sealed = Some((segment.clone(), until));
                true
            }
            _ => false,
        }
    }

    /// A hold that is about times alone, so that it can be seen to forbid a deletion whose rows are gone.
    fn held<'h>(
        &self,
        segment: &DeletedSegment,
        holds: &'h BTreeMap<String, Hold>,
    ) -> Option<&'h Hold> {
        let (sealed, _) = self.0.get(&segment.segment)?.sealed.as_ref()?;
        holds.values().find(|hold| {
            hold.state == HoldState::Placed
                && hold.predicate.is_of_times()
                && hold.predicate.overlaps(sealed.first_time, sealed.last_time)
        })
    }

    /// Checks one item of the deletion in manifest `number`, which ends `until`.
    fn check(
        &self,
        number: u64,
        until: Time,
        deletion: &Deletion,
        segment: &DeletedSegment,
    ) -> Result<(), String> {
        let of = segment.segment;
        let named = self.0.get(&of).ok_or("it is deleted twice")?;
        if named.by != number {
            return Err(format!(
                "segment {of} was deleted before, by manifest {}",
                named.by
            ));
        }
        let Some((sealed, sealed_until)) = &named.sealed else {
            return Err(format!("segment {of} was not sealed before it"));
        };
        if !segment.is_of(sealed) {
            return Err(format!(
                "segment {of} is not described as its seal describes it"
            ));
        }
        let rule = deletion
            .rule_of(segment)
            .ok_or("it states no rule for a segment")?;
        if segment.allowed_from < allowed_from(sealed.last_time, *sealed_until, rule.days) {
            return Err(format!(
                "segment {of} is not due by the rule of {} days that is stated",
                rule.days
            ));
        }
        if segment.allowed_from > until {
            return Err(format!(
                "segment {of} was deleted before it might be: it may go from {} on",
                segment.allowed_from
            ));
        }
        Ok(())
    }
}

/// Deletions met in the logs, and who agreed to plans.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    done: Vec<Done>,
    /// By leaf hash.
    approvals: BTreeMap<Hash, Consent>,
    /// By plan.
    planners: BTreeMap<Hash, String>,
}

#[derive(Debug)]
struct Done {
    plan_sha256: Hash,
    approvals: [Hash; 2],
    segments: u64,
    rows: u64,
    place: Place,
}

#[derive(Debug)]
struct Consent {
    plan_sha256: Hash,
    actor: String,
    origin: String,
    manifest: u64,
}

impl Deletions {
    /// Takes a deletion of the log of `named`, in which `holds` stood before it.
    pub(super) fn take(
        &mut self,
        manifest: &Manifest,
        deletion: &Deletion,
        (named, holds): (&DeletedSegments, &BTreeMap<String, Hold>),
        place: &Place,
        report: &mut Report,
    ) {
        for segment in &deletion.segments {
            let place = || Place {
                segment: Some(segment.segment),
                ..place.clone()
            };
            let checked = named.check(manifest.number, manifest.until, deletion, segment);
            if let Err(detail) = checked {
                report.fail("deletion", place(), detail);
            }
            if let Some(hold) = named.held(segment, holds) {
                let detail = format!("the legal hold {} forbade it", hold.hold_id);
                report.fail("held", place(), detail);
            }
        }
        self.done.push(Done {
            plan_sha256: deletion.plan_sha256,
            approvals: deletion.approvals,
            segments: deletion.segments.len() as u64,
            rows: deletion.segments.iter().map(|one| one.count).sum(),
            place: place.clone(),
        });
    }

    /// Takes a row of `retention_actions`, sealed by manifest `manifest` of `origin`.
    pub(super) fn consent(
        &mut self,
        header: &HeaderRef<'_>,
        row: RetentionActionRow,
        leaf: Hash,
        (origin, manifest): (&str, u64),
    ) {
        let writer = header.writer.split('#').next().unwrap_or_default();
        let (Some(plan_sha256), Some(actor)) = (row.plan_sha256, row.actor) else {
            return;
        };
        if row.outcome != OUTCOME_DONE || !writer.ends_with(WRITER_ENDING) {
            return;
        }
        if row.step == STEP_PLANNED {
            self.planners.insert(plan_sha256, actor);
        } else if row.step == STEP_APPROVED {
            let origin = origin.to_owned();
            let consent = Consent {
                plan_sha256,
                actor,
                origin,
                manifest,
            };
            self.approvals.insert(leaf, consent);
        }
    }

    /// Checks, when all was read, that people agreed to each deletion before it.
    pub(super) fn finish(&self, report: &mut Report) {
        for done in &self.done {
            if let Err(detail) = self.agreed(done) {
                report.fail("approval", done.place.clone(), detail);
            }
        }
    }

    fn agreed(&self, done: &Done) -> Result<(), String> {
        let mut actors = Vec::new();
        for leaf in &done.approvals {
            let consent = self.approvals.get(leaf).ok_or_else(|| {
                format!("it names the approval {leaf}, and no entry in the books is that approval")
            })?;
            if consent.plan_sha256 != done.plan_sha256 {
                return Err(format!("the approval {leaf} is of another plan"));
            }
            let is_same_log = done.place.origin.as_ref() == Some(&consent.origin);
            if is_same_log && done.place.manifest <= Some(consent.manifest) {
                return Err(format!("the approval {leaf} was sealed after the deletion"));
            }
            // People's names are told apart as they log in: without regard to case.
            actors.push(consent.actor.to_lowercase());
        }
        let planner = self
            .planners
            .get(&done.plan_sha256)
            .ok_or("no entry in the books says who made its plan")?;
        actors.push(planner.to_lowercase());
        actors.sort();
        actors.dedup();
        if actors.len() == done.approvals.len() + 1 {
            Ok(())
        } else {
            Err("its plan was not made and approved by three different people".to_owned())
        }
    }

    /// What was deleted, by plan.
    pub(super) fn plans(&self) -> Vec<DeletedPlan> {
        let mut plans: BTreeMap<Hash, DeletedPlan> = BTreeMap::new();
        for done in &self.done {
            let plan = plans.entry(done.plan_sha256).or_insert(DeletedPlan {
                plan_sha256: done.plan_sha256,
                segments: 0,
                rows: 0,
            });
            plan.segments += done.segments;
            plan.rows += done.rows;
        }
        plans.into_values().collect()
    }
}

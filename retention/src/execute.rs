//! Executing an approved plan: everything is checked again, then segments leave the books.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use counterfoil_columns::lock::lock_folder;
use counterfoil_entry::rows::{OUTCOME_DONE, RetentionActionRow, STEP_PLANNED};
use counterfoil_entry::tree::sha256;
use counterfoil_entry::{Hash, Time};
use counterfoil_ledger::log::{Genesis, Log, LogError};
use counterfoil_ledger::manifest::{APPROVALS, Deletion, SEGMENTS_MAX};
use counterfoil_ledger::note::LogKey;

use crate::error::{Refusal, RetainError};
use crate::judge::Fate;
use crate::office::{Office, Person, Read, approvers, wide};
use crate::plan::{Plan, PlanError, PlannedSegment};
use crate::survey::Sealed;
use crate::{BUILD, clock};

/// What an execution came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// SHA-256 of the plan.
    pub plan_sha256: Hash,
    /// Segments that left the books now.
    pub segments: u64,
    /// Segments that had left them before, under the same plan.
    pub before: u64,
    /// Records of the segments that left now.
    pub records: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// The manifests that say so.
    pub manifests: Vec<u64>,
    /// The log's signed checkpoint after that.
    pub checkpoint: String,
}

/// Why a plan is not executed, before it is recorded.
type Objection = (Refusal, String);

impl Office {
    /// Executes the plan in `file`; no collector may run. A plan that was begun is gone on with. `each` is told how
    /// many of how many segments have left the books.
    ///
    /// # Errors
    /// [`RetainError::Lock`] while a collector runs; [`RetainError::Refused`] when the plan is not as it was made and
    /// approved, or a segment of it is not due, was changed, or is held: nothing has left the books then.
    pub fn execute(
        &mut self,
        person: &Person,
        file: &Path,
        now: Time,
        each: impl FnMut(u64, u64),
    ) -> Result<Executed, RetainError> {
        let _books = lock_folder(&self.data.journal(&self.config.origin))?;
        let row = self.row_of("executing", String::new(), now, person);
        let plan = match Plan::load(file) {
            Ok(plan) => plan,
            Err(error @ PlanError::Read { .. }) => return Err(error.into()),
            Err(error) => {
                let row = RetentionActionRow {
                    action_id: crate::office::new_id(),
                    ..row
                };
                return Err(self.refuse(row, Refusal::PlanChanged, error.to_string()));
            }
        };
        let mut row = RetentionActionRow {
            action_id: plan.action_id.clone(),
            plan_sha256: Some(plan.sha256()),
            segments: Some(wide(plan.segments.len())),
            records: Some(plan.records),
            bytes: Some(plan.bytes),
            ..row
        };
        (row.oldest, row.newest) = plan.times().unzip();
        self.admit(person, &row)?;
        // What a crash left of an earlier execution is finished by the opening.
        let mut log = self.open_log()?;
        let read = self.read()?;
        let checked = self.check(&plan, &read, now)?;
        let (approvals, left) = match checked {
            Ok(checked) => checked,
            Err((reason, detail)) => return Err(self.refuse(row, reason, detail)),
        };
        self.recorder.action(&row)?;
        note_holds(&mut log, &read, now)?;
        let manifests = self.delete(&mut log, &plan, (approvals, &left), now, each)?;
        self.see_gone(&plan)?;
        let executed = Executed {
            plan_sha256: plan.sha256(),
            segments: wide(left.len()),
            before: wide(plan.segments.len() - left.len()),
            records: left.iter().map(|one| one.records).sum(),
            bytes: left.iter().map(|one| one.bytes).sum(),
            checkpoint: log.checkpoint().to_owned(),
            manifests,
        };
        row.step = "executed".to_owned();
        row.manifest = executed.manifests.last().copied();
        (row.segments, row.records) = (Some(executed.segments), Some(executed.records));
        row.bytes = Some(executed.bytes);
        self.recorder.action(&row)?;
        Ok(executed)
    }

    fn open_log(&self) -> Result<Log, RetainError> {
        let origin = &self.config.origin;
        // A log is only ever begun by its collector.
        if !self.data.log(origin).join("checkpoint").is_file() {
            return Err(RetainError::NoLog(origin.clone()));
        }
        let path = self.config.log_key_path();
        let pem = fs::read_to_string(&path).map_err(RetainError::file("reading", &path))?;
        let key =
            LogKey::from_pem(origin, &pem).map_err(|source| RetainError::Key { path, source })?;
        let genesis = Genesis {
            trust_roots: Vec::new(),
            build: BUILD.to_owned(),
            at: Time::default(),
        };
        let (books, staging) = (self.data.books(), self.data.staging(origin));
        Ok(Log::open(&books, &staging, key, &genesis)?)
    }

    /// Everything that must be so: gives the approvals, and the segments that are left to delete.
    fn check(
        &self,
        plan: &Plan,
        read: &Read,
        now: Time,
    ) -> Result<Result<Checked, Objection>, RetainError> {
        let hash = plan.sha256();
        let approvals = match self.agreed(plan, &hash, read, now) {
            Ok(approvals) => approvals,
            Err(objection) => return Ok(Err(objection)),
        };
        let judge = self.judge(read, now);
        let mut left = Vec::new();
        for segment in &plan.segments {
            let number = segment.segment;
            if read.survey.deleted.get(&number) == Some(&hash) {
                continue;
            }
            let changed = || {
                let detail = format!("segment {number} is not in the books as the plan names it");
                Ok(Err((Refusal::SegmentsChanged, detail)))
            };
            let Some(sealed) = read.survey.live.get(&number) else {
                return changed();
            };
            // Who could change a file could hide that by having it deleted, or make a hold miss its rows.
            if !self.is_as_sealed(sealed)? {
                return changed();
            }
            let objection = match judge.judge(sealed)? {
                Fate::Due(due) if segment.is_of(&due) => {
                    left.push(segment.clone());
                    continue;
                }
                Fate::Due(_) => return changed(),
                Fate::Held(held) => (
                    Refusal::Held,
                    format!(
                        "segment {number} is bound by the legal holds {}",
                        held.holds.join(", ")
                    ),
                ),
                Fate::Waiting(_) => (
                    Refusal::NotRolledUp,
                    format!(
                        "the roll-ups do not count segment {number} yet: let the collector run"
                    ),
                ),
                Fate::Lifted(_) | Fate::Unruled | Fate::Kept => {
                    (Refusal::NotDue, format!("segment {number} is not due"))
                }
            };
            return Ok(Err(objection));
        }
        Ok(Ok((approvals, left)))
    }

    /// Whether a segment's file is the one that the log names, byte by byte.
    fn is_as_sealed(&self, sealed: &Sealed) -> Result<bool, RetainError> {
        let path = self.data.books().join(&sealed.of.file);
        match fs::read(&path) {
            Ok(bytes) => Ok(sha256(&bytes) == sealed.of.sha256),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(RetainError::file("reading", &path)(error)),
        }
    }

    /// Who agreed, by rows that are sealed in the books.
    fn agreed(
        &self,
        plan: &Plan,
        hash: &Hash,
        read: &Read,
        now: Time,
    ) -> Result<[Hash; APPROVALS], Objection> {
        clock::check(now, read.survey.newest).map_err(|detail| (Refusal::Clock, detail))?;
        if plan.origin != self.config.origin {
            let detail = format!("the plan is for the log {}", plan.origin);
            return Err((Refusal::PlanChanged, detail));
        }
        let made = read.actions.iter().find(|one| {
            one.row.step == STEP_PLANNED
                && one.row.outcome == OUTCOME_DONE
                && one.row.plan_sha256.as_ref() == Some(hash)
        });
        let planner = made.and_then(|one| one.row.actor.as_deref()).ok_or_else(|| {
            let is_known = |one: &&crate::record::SealedAction| one.row.action_id == plan.action_id;
            match read.actions.iter().find(is_known) {
                Some(_) => (
                    Refusal::PlanChanged,
                    "the plan is not the one that was made under its number".to_owned(),
                ),
                None => (
                    Refusal::NotApproved,
                    "the books do not have the making of this plan: run `counterfoil retain deliver`, and let the \
                     collector seal"
                        .to_owned(),
                ),
            }
        })?;
        let mut names = BTreeSet::from([planner.to_lowercase()]);
        let mut leaves = approvers(&read.actions, hash)
            .filter(|(_, name)| names.insert(name.to_lowercase()))
            .map(|(leaf, _)| leaf);
        let (Some(first), Some(second)) = (leaves.next(), leaves.next()) else {
            let detail = "fewer than two people beside its maker approved the plan, by what the books have sealed: approve \
                          it, and let the collector seal";
            return Err((Refusal::NotApproved, detail.to_owned()));
        };
        if plan.classes_sha256 != self.classes.sha256().to_string() {
            let detail = "the classes file was changed since the plan was made: make a new plan";
            return Err((Refusal::ClassesChanged, detail.to_owned()));
        }
        Ok([first, second])
    }

    fn delete(
        &self,
        log: &mut Log,
        plan: &Plan,
        (approvals, left): ([Hash; APPROVALS], &[PlannedSegment]),
        now: Time,
        mut each: impl FnMut(u64, u64),
    ) -> Result<Vec<u64>, RetainError> {
        let mut manifests = Vec::new();
        let (mut done, total) = (0, wide(left.len()));
        for part in left.chunks(SEGMENTS_MAX) {
            each(done, total);
            let deletion = deletion(plan, approvals, part).map_err(|why| LogError::Seal {
                number: log.size(),
                why,
            })?;
            let names: Vec<String> = part.iter().map(|one| one.file.clone()).collect();
            manifests.push(log.delete(now, BUILD, deletion, &names)?);
            done += wide(part.len());
        }
        each(done, total);
        Ok(manifests)
    }

    /// Looks whether all files are gone, and removes those of earlier executions that came back.
    fn see_gone(&self, plan: &Plan) -> Result<(), RetainError> {
        for segment in &plan.segments {
            let path = self.data.books().join(&segment.file);
            match fs::remove_file(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(RetainError::file("removing", &path)(error)),
                Ok(()) if path.exists() => return Err(RetainError::StillThere(path)),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

type Checked = ([Hash; APPROVALS], Vec<PlannedSegment>);

fn deletion(
    plan: &Plan,
    approvals: [Hash; APPROVALS],
    part: &[PlannedSegment],
) -> Result<Deletion, String> {
    let applied: BTreeSet<&str> = part.iter().map(|one| one.rule.as_str()).collect();
    let mut rules = plan
        .rules
        .iter()
        .filter(|rule| applied.contains(rule.class.as_str()))
        .map(|rule| rule.rule())
        .collect::<Result<Vec<_>, _>>()?;
    rules.sort_by(|a, b| a.class.cmp(&b.class));
    let segments = part.iter().map(PlannedSegment::deleted);
    Ok(Deletion {
        plan_sha256: plan.sha256(),
        approvals,
        rules,
        segments: segments.collect::<Result<_, _>>()?,
    })
}

/// Writes into the log what holds were found, so that it tells by itself what was known when segments left.
fn note_holds(log: &mut Log, read: &Read, now: Time) -> Result<(), RetainError> {
    for hold in read.holds.manifests() {
        let noted = read.survey.holds.get(&hold.hold_id);
        if noted != Some(&(hold.revision, hold.state)) {
            log.note_hold(now, BUILD, hold)?;
        }
    }
    Ok(())
}

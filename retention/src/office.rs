//! One command's work on a data directory: what is due, plans, approvals, holds.

use std::fs::File;
use std::path::{Path, PathBuf};

use counterfoil_columns::DataDirectory;
use counterfoil_columns::lock::lock_folder;
use counterfoil_columns::rollup::{Covered, RollupFiles};
use counterfoil_entry::rows::{
    LegalHoldRow, OUTCOME_DONE, OUTCOME_REFUSED, RetentionActionRow, STEP_APPROVED, STEP_PLANNED,
};
use counterfoil_entry::{Hash, Time};

use crate::classes::Classes;
use crate::clock;
use crate::config::RetentionConfig;
use crate::deliver::{Delivered, deliver};
use crate::error::{Refusal, RetainError};
use crate::holds::{
    HoldRequest, Holds, RELEASE_ASKED, RELEASED, Register, Released, is_same_person, placed,
};
use crate::judge::{Due, Judge, Outlook};
use crate::plan::{Heading, Plan};
use crate::plans::Plans;
use crate::record::{Recorder, SealedAction, sealed_actions, sealed_holds};
use crate::survey::Survey;

/// Somebody who has logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Log-in name.
    pub name: String,
    /// Teams.
    pub teams: Vec<String>,
}

/// The books of one data directory, for one command of retention.
#[derive(Debug)]
pub struct Office {
    pub(crate) config: RetentionConfig,
    pub(crate) classes: Classes,
    pub(crate) data: DataDirectory,
    pub(crate) recorder: Recorder,
    /// One command at a time.
    _lock: File,
}

/// What is read before anything is judged.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) survey: Survey,
    pub(crate) holds: Holds,
    pub(crate) rolled: Covered,
    pub(crate) actions: Vec<SealedAction>,
}

impl Office {
    /// Opens the data directory, the classes and the spool of `config`.
    ///
    /// # Errors
    /// [`RetainError`], also while another command of retention works on the directory.
    pub fn open(config: RetentionConfig) -> Result<Self, RetainError> {
        let data = DataDirectory::open(&config.data_dir)?;
        let classes = Classes::load(&config.classes_file)?;
        let lock = lock_folder(&config.folder())?;
        let recorder = Recorder::new(&config)?;
        Ok(Self {
            config,
            classes,
            data,
            recorder,
            _lock: lock,
        })
    }

    /// What is due now, and records that somebody looked. `each` is told how many segments were looked at.
    ///
    /// # Errors
    /// [`RetainError`]; refused when the clock cannot be believed.
    pub fn dry_run(
        &mut self,
        now: Time,
        each: impl FnMut(u64, u64),
    ) -> Result<Outlook, RetainError> {
        let read = self.read()?;
        let mut row = self.row("dry_run", new_id(), now);
        if let Err(detail) = clock::check(now, read.survey.newest) {
            return Err(self.refuse(row, Refusal::Clock, detail));
        }
        let outlook = self.judge(&read, now).all(&read.survey, each)?;
        count(&mut row, &outlook.due);
        self.recorder.action(&row)?;
        Ok(outlook)
    }

    /// What would be due at another instant. Nothing is recorded, and nothing can be planned from it.
    ///
    /// # Errors
    /// [`RetainError`] when the books cannot be read.
    pub fn simulate(
        &self,
        as_of: Time,
        each: impl FnMut(u64, u64),
    ) -> Result<Outlook, RetainError> {
        let read = self.read()?;
        self.judge(&read, as_of).all(&read.survey, each)
    }

    /// Makes a plan of all that is due, and gives its file.
    ///
    /// # Errors
    /// [`RetainError`]; refused to who may not, when the clock cannot be believed, and when nothing is due.
    pub fn plan(
        &mut self,
        person: &Person,
        now: Time,
        each: impl FnMut(u64, u64),
    ) -> Result<(Plan, PathBuf), RetainError> {
        let action_id = new_id();
        let mut row = self.row_of(STEP_PLANNED, action_id.clone(), now, person);
        self.admit(person, &row)?;
        let read = self.read()?;
        if let Err(detail) = clock::check(now, read.survey.newest) {
            return Err(self.refuse(row, Refusal::Clock, detail));
        }
        let outlook = self.judge(&read, now).all(&read.survey, each)?;
        if outlook.due.is_empty() {
            let held = outlook.held.len();
            let detail = format!("nothing may go; legal holds keep {held} segments");
            return Err(self.refuse(row, Refusal::NothingDue, detail));
        }
        count(&mut row, &outlook.due);
        let heading = Heading {
            action_id,
            origin: &self.config.origin,
            log: read.survey.log,
            planned_by: &person.name,
            planned_at: now,
            classes_sha256: self.classes.sha256(),
        };
        let plan = Plan::new(heading, self.classes.planned(&outlook.due), &outlook.due);
        row.plan_sha256 = Some(plan.sha256());
        let path = self.plans().keep(&plan)?;
        self.recorder.action(&row)?;
        Ok((plan, path))
    }

    /// Records that a person agrees to the plan in `file`, and gives its hash.
    ///
    /// # Errors
    /// [`RetainError`]; refused to who may not, and to who made the plan or approved it already.
    pub fn approve(
        &mut self,
        person: &Person,
        file: &Path,
        now: Time,
    ) -> Result<Hash, RetainError> {
        let plan = Plan::load(file)?;
        let hash = plan.sha256();
        let mut row = self.row_of(STEP_APPROVED, plan.action_id.clone(), now, person);
        row.plan_sha256 = Some(hash);
        self.admit(person, &row)?;
        if plan.origin != self.config.origin {
            let detail = format!("the plan is for the log {}", plan.origin);
            return Err(self.refuse(row, Refusal::PlanChanged, detail));
        }
        if !self.plans().path(&hash).is_file() {
            let detail =
                "no plan with these bytes was made here: approve the file that `plan` named";
            return Err(self.refuse(row, Refusal::PlanChanged, detail.to_owned()));
        }
        if is_same_person(&plan.planned_by, &person.name) {
            let detail = format!(
                "{} made the plan: somebody else must approve it",
                person.name
            );
            return Err(self.refuse(row, Refusal::FourEyes, detail));
        }
        let read = self.read()?;
        let mut earlier = self.plans().approved(&hash)?;
        earlier.extend(approvers(&read.actions, &hash).map(|(_, name)| name.to_owned()));
        if earlier
            .iter()
            .any(|name| is_same_person(name, &person.name))
        {
            let detail = format!(
                "{} approved the plan already: somebody else must, too",
                person.name
            );
            return Err(self.refuse(row, Refusal::FourEyes, detail));
        }
        row.segments = Some(wide(plan.segments.len()));
        (row.records, row.bytes) = (Some(plan.records), Some(plan.bytes));
        self.recorder.action(&row)?;
        self.plans().note_approval(&hash, &person.name)?;
        Ok(hash)
    }

    /// Places a hold and gives its id. It binds when this returns.
    ///
    /// # Errors
    /// [`RetainError`]; refused to who may not.
    pub fn hold(
        &mut self,
        person: &Person,
        request: &HoldRequest,
        now: Time,
    ) -> Result<String, RetainError> {
        let hold_id = new_id();
        let row = self.row_of("hold_placed", hold_id.clone(), now, person);
        self.admit(person, &row)?;
        let revision = placed(request, hold_id.clone(), &person.name, now);
        self.change_hold(&revision)?;
        Ok(hold_id)
    }

    /// Releases a hold, or asks a second person to.
    ///
    /// # Errors
    /// [`RetainError`]; refused to who may not, and to who asked for the release already.
    pub fn release(
        &mut self,
        person: &Person,
        hold_id: &str,
        reason: &str,
        now: Time,
    ) -> Result<Released, RetainError> {
        let row = self.row_of("hold_released", hold_id.to_owned(), now, person);
        self.admit(person, &row)?;
        let read = self.read()?;
        let known = read.holds.find(hold_id).filter(|row| row.state != RELEASED);
        let Some(known) = known.cloned() else {
            let detail =
                format!("there is no hold {hold_id} that binds: see `select * from legal_holds`");
            return Err(self.refuse(row, Refusal::NoHold, detail));
        };
        let is_asked = known.state == RELEASE_ASKED;
        if is_asked && is_same_person(&known.actor, &person.name) {
            let detail = format!(
                "{} asked for the release already: somebody else must release it, too",
                person.name
            );
            return Err(self.refuse(row, Refusal::FourEyes, detail));
        }
        let state = if is_asked { RELEASED } else { RELEASE_ASKED };
        self.change_hold(&LegalHoldRow {
            revision: known.revision.saturating_add(1),
            state: state.to_owned(),
            actor: person.name.clone(),
            reason: reason.to_owned(),
            occurred_at: now,
            ..known
        })?;
        Ok(if is_asked {
            Released::Done
        } else {
            Released::Asked
        })
    }

    /// Brings rows into the books: this command's, and those that earlier ones had to keep.
    ///
    /// Not cancel safe for this command's rows: what is not delivered waits in the spool.
    pub async fn deliver(mut self) -> Delivered {
        deliver(&self.config, &mut self.recorder).await
    }

    /// Register first: what binds without a row is the safer half of a crash.
    fn change_hold(&mut self, revision: &LegalHoldRow) -> Result<(), RetainError> {
        Register::new(&self.config.folder()).append(revision)?;
        self.recorder.hold(revision)
    }

    pub(crate) fn read(&self) -> Result<Read, RetainError> {
        let books = self.data.books();
        let survey = Survey::read(&books, &self.config.origin)?;
        let sealed = sealed_holds(&books, &survey)?;
        let register = Register::new(&self.config.folder()).read()?;
        let actions = sealed_actions(&books, &survey)?;
        let rolled = RollupFiles::new(&self.data, &self.config.origin).covered()?;
        Ok(Read {
            holds: Holds::of(sealed, register),
            survey,
            rolled,
            actions,
        })
    }

    pub(crate) fn judge<'a>(&'a self, read: &'a Read, now: Time) -> Judge<'a> {
        Judge {
            books: self.data.books(),
            classes: &self.classes,
            holds: &read.holds,
            rolled: &read.rolled,
            now,
        }
    }

    pub(crate) fn plans(&self) -> Plans {
        Plans::new(&self.config.folder())
    }

    /// Refuses who is not of the team.
    pub(crate) fn admit(
        &mut self,
        person: &Person,
        row: &RetentionActionRow,
    ) -> Result<(), RetainError> {
        if person.teams.contains(&self.config.team) {
            return Ok(());
        }
        let (name, team) = (&person.name, &self.config.team);
        let detail = format!("{name} is not of the team {team}, whose people may do this");
        Err(self.refuse(row.clone(), Refusal::NotRecords, detail))
    }

    /// Records a refusal, and gives it.
    pub(crate) fn refuse(
        &mut self,
        row: RetentionActionRow,
        reason: Refusal,
        detail: String,
    ) -> RetainError {
        let row = RetentionActionRow {
            outcome: OUTCOME_REFUSED.to_owned(),
            reason: Some(reason.as_str().to_owned()),
            detail: Some(detail.clone()),
            ..row
        };
        match self.recorder.action(&row) {
            Ok(()) => RetainError::Refused { reason, detail },
            Err(error) => error,
        }
    }

    pub(crate) fn row_of(
        &self,
        step: &str,
        action_id: String,
        now: Time,
        person: &Person,
    ) -> RetentionActionRow {
        RetentionActionRow {
            actor: Some(person.name.clone()),
            ..self.row(step, action_id, now)
        }
    }

    fn row(&self, step: &str, action_id: String, now: Time) -> RetentionActionRow {
        RetentionActionRow {
            action_id,
            step: step.to_owned(),
            occurred_at: now,
            actor: None,
            plan_sha256: None,
            outcome: OUTCOME_DONE.to_owned(),
            reason: None,
            detail: None,
            segments: None,
            records: None,
            bytes: None,
            oldest: None,
            newest: None,
            classes_sha256: Some(self.classes.sha256()),
            log_origin: Some(self.config.origin.clone()),
            manifest: None,
        }
    }
}

/// Who approved the plan of that hash, by rows that are sealed in the books: leaf hashes and names.
pub(crate) fn approvers<'a>(
    actions: &'a [SealedAction],
    plan: &'a Hash,
) -> impl Iterator<Item = (Hash, &'a str)> {
    actions
        .iter()
        .filter(|one| one.row.step == STEP_APPROVED && one.row.outcome == OUTCOME_DONE)
        .filter(|one| one.row.plan_sha256.as_ref() == Some(plan))
        .filter_map(|one| Some((one.leaf, one.row.actor.as_deref()?)))
}

/// Puts what segments amount to into a row.
fn count(row: &mut RetentionActionRow, due: &[Due]) {
    let of = || due.iter().map(|one| &one.sealed.of);
    row.segments = Some(wide(due.len()));
    row.records = Some(of().map(|one| one.count).sum());
    row.bytes = Some(of().map(|one| one.bytes).sum());
    row.oldest = of().map(|one| one.first_time).min();
    row.newest = of().map(|one| one.last_time).max();
}

/// A name that no other disposition or hold has.
pub(crate) fn new_id() -> String {
    hex::encode(rand::random::<[u8; 8]>())
}

pub(crate) fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

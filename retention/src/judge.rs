//! Which segments are due, and what keeps those that are not.

use std::path::PathBuf;

use counterfoil_columns::rollup::Covered;
use counterfoil_entry::Time;
use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::table::TableId;
use counterfoil_ledger::manifest::{allowed_from, may_end};

use crate::classes::Classes;
use crate::error::RetainError;
use crate::holds::Holds;
use crate::scan::scan;
use crate::survey::{Sealed, Survey};

/// A segment that may leave the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The segment.
    pub sealed: Sealed,
    /// Class whose rule is applied.
    pub rule: RetentionClass,
    /// From when it may go.
    pub allowed_from: Time,
}

/// A segment that would be due, and that legal holds bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What would be due.
    pub due: Due,
    /// The holds.
    pub holds: Vec<String>,
}

/// A segment that would be due by its own class, and that a scope of its rows keeps longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifted {
    /// The segment.
    pub sealed: Sealed,
    /// Class whose rule is applied.
    pub rule: RetentionClass,
    /// From when it may go.
    pub allowed_from: Time,
}

/// What is due at an instant, and what is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlook {
    /// What may go.
    pub due: Vec<Due>,
    /// What only holds keep.
    pub held: Vec<Held>,
    /// What only scopes keep.
    pub lifted: Vec<Lifted>,
    /// What only waits to be counted by the roll-ups.
    pub waiting: Vec<Due>,
    /// Segments of classes that have no rule: they never end.
    pub unruled: u64,
    /// Segments in the books.
    pub segments: u64,
}

/// What segments are judged by.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    pub(crate) books: PathBuf,
    pub(crate) classes: &'a Classes,
    pub(crate) holds: &'a Holds,
    pub(crate) rolled: &'a Covered,
    pub(crate) now: Time,
}

/// How a segment stands.
#[derive(Debug)]
pub(crate) enum Fate {
    Due(Due),
    Held(Held),
    Lifted(Lifted),
    Waiting(Due),
    Unruled,
    Kept,
}

impl Judge<'_> {
    /// How one segment stands.
    ///
    /// # Errors
    /// When its rows cannot be read.
    pub(crate) fn judge(&self, sealed: &Sealed) -> Result<Fate, RetainError> {
        let of = &sealed.of;
        if !may_end(of.table, &of.class) {
            return Ok(Fate::Kept);
        }
        let Some(own) = self.classes.rule(&of.class) else {
            return Ok(Fate::Unruled);
        };
        if allowed_from(of.last_time, sealed.until, own.days) > self.now {
            return Ok(Fate::Kept);
        }
        let scanned = scan(
            &self.books,
            sealed,
            self.holds.binding(),
            self.classes.has_scopes(),
        )?;
        let scopes = scanned.scopes.iter().map(String::as_str);
        let Some((class, rule)) = self.classes.governing(&of.class, scopes) else {
            return Ok(Fate::Unruled);
        };
        let due = Due {
            sealed: sealed.clone(),
            rule: class.clone(),
            allowed_from: allowed_from(of.last_time, sealed.until, rule.days),
        };
        Ok(if due.allowed_from > self.now {
            Fate::Lifted(Lifted {
                sealed: due.sealed,
                rule: due.rule,
                allowed_from: due.allowed_from,
            })
        } else if !scanned.holds.is_empty() {
            Fate::Held(Held {
                due,
                holds: scanned.holds.into_iter().collect(),
            })
        } else if of.table == TableId::Entries && self.rolled.until < Some(sealed.manifest) {
            Fate::Waiting(due)
        } else {
            Fate::Due(due)
        })
    }

    /// How all segments stand; `each` is told how many were looked at.
    ///
    /// # Errors
    /// When rows cannot be read.
    pub(crate) fn all(
        &self,
        survey: &Survey,
        mut each: impl FnMut(u64, u64),
    ) -> Result<Outlook, RetainError> {
        let total = u64::try_from(survey.live.len()).unwrap_or(u64::MAX);
        let mut outlook = Outlook {
            segments: total,
            ..Outlook::default()
        };
        for (done, sealed) in (0..).zip(survey.live.values()) {
            each(done, total);
            match self.judge(sealed)? {
                Fate::Due(due) => outlook.due.push(due),
                Fate::Held(held) => outlook.held.push(held),
                Fate::Lifted(lifted) => outlook.lifted.push(lifted),
                Fate::Waiting(due) => outlook.waiting.push(due),
                Fate::Unruled => outlook.unruled += 1,
                Fate::Kept => {}
            }
        }
        Ok(outlook)
    }
}

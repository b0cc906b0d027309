//! Legal holds: placed by one person, released by two different ones.
//!
//! A hold binds from the moment that the register on this disk has it, until the books have the revisions by
//! which two different people released it. So neither a lost register nor an edited one frees anything that the
//! books hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use counterfoil_columns::directory::{create_directory, sync_directory};
use counterfoil_entry::Time;
use counterfoil_entry::id::TraceId;
use counterfoil_entry::rows::LegalHoldRow;
use counterfoil_ledger::manifest::{Hold, HoldState, Predicate};
use serde::{Deserialize, Serialize};

use crate::error::RetainError;
use crate::when::instant;

/// Word of a hold that was placed.
pub(crate) const PLACED: &str = "placed";
/// Word of a hold whose release one person asked for: it binds yet.
pub(crate) const RELEASE_ASKED: &str = "release_asked";
/// Word of a hold that two people released.
pub(crate) const RELEASED: &str = "released";

/// What is to be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRequest {
    /// The case that it is for.
    pub matter: String,
    /// Why.
    pub reason: String,
    /// What it holds.
    pub predicate: Predicate,
}

/// What a release came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// A second, different person must release it, too; it binds until then.
    Asked,
    /// It binds no more.
    Done,
}

/// All that is known of holds: the newest revision of each, and those that were released.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    newest: BTreeMap<String, LegalHoldRow>,
    released: BTreeSet<String>,
}

impl Holds {
    /// What the books say, and what the register adds.
    pub(crate) fn of(sealed: Vec<LegalHoldRow>, register: Vec<LegalHoldRow>) -> Self {
        let released = sealed.iter().filter(|row| row.state == RELEASED);
        let by_two = released.filter(|row| {
            sealed.iter().any(|other| {
                other.hold_id == row.hold_id
                    && other.state == RELEASE_ASKED
                    && !is_same_person(&other.actor, &row.actor)
            })
        });
        let released = by_two.map(|row| row.hold_id.clone()).collect();
        let mut newest: BTreeMap<String, LegalHoldRow> = BTreeMap::new();
        for row in sealed.into_iter().chain(register) {
            let known = newest.get(&row.hold_id);
            if known.is_none_or(|known| known.revision < row.revision) {
                newest.insert(row.hold_id.clone(), row);
            }
        }
        Self { newest, released }
    }

    /// The newest revision of a hold.
    pub(crate) fn find(&self, hold_id: &str) -> Option<&LegalHoldRow> {
        self.newest.get(hold_id)
    }

    /// Those that bind.
    pub(crate) fn binding(&self) -> impl Iterator<Item = &LegalHoldRow> {
        let is_binding = |row: &&LegalHoldRow| !self.released.contains(&row.hold_id);
        self.newest.values().filter(is_binding)
    }

    /// All of them, as manifests tell them.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = Hold> {
        self.newest.values().map(|row| Hold {
            hold_id: row.hold_id.clone(),
            revision: row.revision,
            state: if self.released.contains(&row.hold_id) {
                HoldState::Released
            } else {
                HoldState::Placed
            },
            matter: row.matter.clone(),
            predicate: predicate(row),
        })
    }
}

/// Whether two names are one person's: a capital letter makes no other person.
pub(crate) fn is_same_person(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// What a hold holds.
pub(crate) fn predicate(row: &LegalHoldRow) -> Predicate {
    Predicate {
        service: row.service.clone(),
        operation: row.operation.clone(),
        trace_id: row.trace_id,
        from: row.from_time,
        until: row.until_time,
    }
}

/// The register of holds on this disk: one JSON object a line, appended and synced.
#[derive(Debug)]
pub(crate) struct Register {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    hold_id: String,
    revision: u64,
    state: String,
    matter: String,
    service: Option<String>,
    operation: Option<String>,
    trace_id: Option<String>,
    from_time: Option<String>,
    until_time: Option<String>,
    actor: String,
    reason: String,
    occurred_at: String,
}

impl Register {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            path: folder.join("holds.jsonl"),
        }
    }

    /// Every revision. A last line without its end was never confirmed to anybody, and does not count.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is none.
    pub(crate) fn read(&self) -> Result<Vec<LegalHoldRow>, RetainError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(RetainError::file("reading", &self.path)(error)),
        };
        // Cut as bytes: a crash may have parted a letter of several.
        let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        lines.pop();
        lines
            .into_iter()
            .enumerate()
            .map(|(at, line)| {
                let text = std::str::from_utf8(line).map_err(|error| error.to_string());
                text.and_then(read_line)
                    .map_err(|why| RetainError::Register {
                        path: self.path.clone(),
                        line: at + 1,
                        why,
                    })
            })
            .collect()
    }

    /// Appends a revision; it is on the disk when this returns.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn append(&self, row: &LegalHoldRow) -> Result<(), RetainError> {
        let line = Line {
            hold_id: row.hold_id.clone(),
            revision: row.revision,
            state: row.state.clone(),
            matter: row.matter.clone(),
            service: row.service.clone(),
            operation: row.operation.clone(),
            trace_id: row.trace_id.map(|id| id.to_string()),
            from_time: row.from_time.map(|at| at.to_string()),
            until_time: row.until_time.map(|at| at.to_string()),
            actor: row.actor.clone(),
            reason: row.reason.clone(),
            occurred_at: row.occurred_at.to_string(),
        };
        let append = || {
            let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
            create_directory(folder)?;
            self.cut_torn_line()?;
            let mut text = serde_json::to_string(&line).map_err(std::io::Error::other)?;
            text.push('\n');
            let mut file = File::options().create(true).append(true).open(&self.path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            sync_directory(folder)
        };
        append().map_err(RetainError::file("writing", &self.path))
    }

    fn cut_torn_line(&self) -> std::io::Result<()> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |at| at + 1);
        if whole == bytes.len() {
            return Ok(());
        }
        let file = File::options().write(true).open(&self.path)?;
        file.set_len(u64::try_from(whole).unwrap_or(u64::MAX))
    }
}

fn read_line(text: &str) -> Result<LegalHoldRow, String> {
    let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let at = |text: &str| instant(text).map_err(|error| error.to_string());
    let at_opt = |text: &Option<String>| text.as_deref().map(at).transpose();
    let trace_id = line.trace_id.as_deref().map(str::parse::<TraceId>);
    if ![PLACED, RELEASE_ASKED, RELEASED].contains(&line.state.as_str()) {
        return Err(format!("{:?} is no state of a hold", line.state));
    }
    Ok(LegalHoldRow {
        from_time: at_opt(&line.from_time)?,
        until_time: at_opt(&line.until_time)?,
        occurred_at: at(&line.occurred_at)?,
        trace_id: trace_id.transpose().map_err(|error| error.to_string())?,
        hold_id: line.hold_id,
        revision: line.revision,
        state: line.state,
        matter: line.matter,
        service: line.service,
        operation: line.operation,
        actor: line.actor,
        reason: line.reason,
    })
}

/// The revision with which a hold begins.
pub(crate) fn placed(
    request: &HoldRequest,
    hold_id: String,
    actor: &str,
    at: Time,
) -> LegalHoldRow {
    let of = &request.predicate;
    LegalHoldRow {
        hold_id,
        revision: 1,
        state: PLACED.to_owned(),
        matter: request.matter.clone(),
        service: of.service.clone(),
        operation: of.operation.clone(),
        trace_id: of.trace_id,
        from_time: of.from,
        until_time: of.until,
        actor: actor.to_owned(),
        reason: request.reason.clone(),
        occurred_at: at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(hold_id: &str, revision: u64, state: &str) -> LegalHoldRow {
        let request = HoldRequest {
            matter: "2026/17 \"Müller\"\n".to_owned(),
            reason: "court order".to_owned(),
            predicate: Predicate {
                trace_id: "0af7651916cd43dd8448eb211c80319c".parse().ok(),
                from: Some(Time::from_ns(-1)),
                ..Predicate::default()
            },
        };
        LegalHoldRow {
            revision,
            state: state.to_owned(),
            ..placed(&request, hold_id.to_owned(), "lea", Time::from_ns(7))
        }
    }

    #[test]
    fn a_hold_binds_until_the_books_have_its_release_by_two_people() {
        let by = |actor: &str, row: LegalHoldRow| LegalHoldRow {
            actor: actor.to_owned(),
            ..row
        };
        let (one, asked) = (row("a", 1, PLACED), row("a", 2, RELEASE_ASKED));
        let done = by("max", row("a", 3, RELEASED));
        let binds = |sealed: &[&LegalHoldRow], register: &[&LegalHoldRow]| {
            let rows = |of: &[&LegalHoldRow]| of.iter().map(|row| (*row).clone()).collect();
            Holds::of(rows(sealed), rows(register)).binding().count() == 1
        };
        assert!(binds(&[], &[&one]));
        assert!(binds(&[&one, &asked], &[]));
        assert!(
            binds(&[&one], &[&asked, &done]),
            "the register frees nothing"
        );
        assert!(!binds(&[&one, &asked, &done], &[]));
        assert!(!binds(&[&one, &asked, &done], &[&one]));
        let alone = by("LEA", done.clone());
        assert!(binds(&[&one, &asked, &alone], &[]), "one person twice");
        let released = Holds::of(vec![one, asked, done], Vec::new());
        let states: Vec<_> = released.manifests().map(|hold| hold.state).collect();
        assert_eq!(states, [HoldState::Released]);
        assert_eq!(released.find("a").map(|row| row.revision), Some(3));
    }

    #[test]
    fn a_line_that_was_cut_by_a_crash_does_not_count_and_a_damaged_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let register = Register::new(folder.path());
        assert!(register.read().unwrap().is_empty());
        register.append(&row("a", 1, PLACED)).unwrap();
        let whole = fs::read(&register.path).unwrap();
        for cut in 1..=whole.len() {
            let torn = [whole.as_slice(), &whole[..cut - 1]].concat();
            fs::write(&register.path, torn).unwrap();
            assert_eq!(register.read().unwrap(), [row("a", 1, PLACED)], "{cut}");
        }
        register.append(&row("b", 1, PLACED)).unwrap();
        assert_eq!(
            register.read().unwrap(),
            [row("a", 1, PLACED), row("b", 1, PLACED)]
        );
        fs::write(&register.path, b"{}\n").unwrap();
        let error = register.read().unwrap_err().to_string();
        assert!(error.contains("holds.jsonl, line 1"), "{error}");
    }

    proptest! {
        #[test]
        fn foreign_lines_never_panic(text in ".{0,200}") {
            drop(read_line(&text));
        }
    }
}

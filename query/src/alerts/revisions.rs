//! Objectives in the books: each change is a revision, so that an old breach is judged by the old target.

use std::collections::BTreeMap;

use counterfoil_entry::rows::ObjectiveRow;
use counterfoil_entry::tree::sha256;
use counterfoil_entry::{Hash, Time};

use super::rows::rows;
use crate::engine::Engine;
use crate::error::SqlError;
use crate::objectives::Objective;

const IN_FORCE: &str = "in_force";
const WITHDRAWN: &str = "withdrawn";

/// The newest revision of each objective.
#[derive(Debug, Default)]
pub(super) struct Revisions(BTreeMap<(String, u64), ObjectiveRow>);

impl Revisions {
    /// As the books tell them.
    ///
    /// # Errors
    /// When the books cannot be asked.
    pub(super) async fn of_books(engine: &Engine) -> Result<Self, SqlError> {
        let sql = "SELECT objective, CAST(ordinal AS BIGINT) AS ordinal,
  CAST(revision AS BIGINT) AS revision, state, service, operation,
  CAST(threshold_ns AS BIGINT) AS threshold_ns, target, time_window,
  CAST(events_min AS BIGINT) AS events_min, sha256, recorded_at
FROM (
  SELECT *, row_number() OVER (PARTITION BY objective, ordinal ORDER BY revision DESC) AS newest
  FROM raw.objectives
) WHERE newest = 1";
        let mut newest = BTreeMap::new();
        for row in rows(&engine.answer(sql).await?.1) {
            let text = |name| row.text(name).map(ToOwned::to_owned);
            let number = |name| row.integer(name).map(i64::unsigned_abs);
            let objective = text("objective").unwrap_or_default();
            let ordinal = number("ordinal").unwrap_or_default();
            let of_row = ObjectiveRow {
                objective: objective.clone(),
                ordinal,
                revision: number("revision").unwrap_or_default(),
                state: text("state").unwrap_or_default(),
                service: text("service"),
                operation: text("operation"),
                threshold_ns: number("threshold_ns"),
                target: text("target").unwrap_or_default(),
                time_window: text("time_window").unwrap_or_default(),
                events_min: number("events_min").unwrap_or_default(),
                sha256: row
                    .bytes("sha256")
                    .and_then(Hash::from_slice)
                    .unwrap_or_default(),
                recorded_at: Time::from_ns(row.time_ns("recorded_at").unwrap_or_default()),
            };
            newest.insert((objective, ordinal), of_row);
        }
        Ok(Self(newest))
    }

    /// What changed when `objectives` came in force: rows to be written, which are then the newest.
    pub(super) fn change(&mut self, objectives: &[Objective], now: Time) -> Vec<ObjectiveRow> {
        let mut changed = Vec::new();
        for objective in objectives {
            let key = (objective.name.clone(), objective.ordinal);
            let before = self.0.get(&key);
            let row = row(objective, now);
            let same =
                |before: &ObjectiveRow| before.sha256 == row.sha256 && before.state == IN_FORCE;
            if !before.is_some_and(same) {
                let revision = before.map_or(0, |before| before.revision + 1);
                changed.push(ObjectiveRow { revision, ..row });
            }
        }
        let is_kept = |key: &(String, u64)| {
            let same = |one: &Objective| (&one.name, one.ordinal) == (&key.0, key.1);
            objectives.iter().any(same)
        };
        let gone = self
            .0
            .iter()
            .filter(|(key, before)| before.state == IN_FORCE && !is_kept(key));
        let gone = gone.map(|(_, before)| ObjectiveRow {
            revision: before.revision + 1,
            state: WITHDRAWN.to_owned(),
            recorded_at: now,
            ..before.clone()
        });
        changed.extend(gone);
        for row in &changed {
            self.0
                .insert((row.objective.clone(), row.ordinal), row.clone());
        }
        changed
    }
}

fn row(objective: &Objective, now: Time) -> ObjectiveRow {
    let mut row = ObjectiveRow {
        objective: objective.name.clone(),
        ordinal: objective.ordinal,
        revision: 0,
        state: IN_FORCE.to_owned(),
        service: objective.service.clone(),
        operation: objective.operation.clone(),
        threshold_ns: objective.threshold_ns.map(i64::unsigned_abs),
        target: objective.target.to_string(),
        time_window: objective.window.to_string(),
        events_min: objective.events_min,
        sha256: Hash::default(),
        recorded_at: now,
    };
    row.sha256 = hash(&row);
    row
}

/// Each part on a line of its own, null as `-`, text quoted.
fn hash(row: &ObjectiveRow) -> Hash {
    let quoted = |text: &Option<String>| {
        text.as_ref()
            .map_or_else(|| "-".to_owned(), |text| format!("{text:?}"))
    };
    let text = format!(
        "{:?}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n",
        row.objective,
        row.ordinal,
        quoted(&row.service),
        quoted(&row.operation),
        row.threshold_ns
            .map_or_else(|| "-".to_owned(), |ns| ns.to_string()),
        row.target,
        row.time_window,
        row.events_min,
    );
    sha256(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::TimeWindow;

    fn objective(target: f64) -> Objective {
        Objective {
            name: "answered".to_owned(),
            service: None,
            operation: None,
            threshold_ns: None,
            target,
            ordinal: 0,
            window: TimeWindow::rolling("30d").unwrap(),
            events_min: 100,
        }
    }

    fn change(revisions: &mut Revisions, objectives: &[Objective]) -> Vec<String> {
        let rows = revisions.change(objectives, Time::from_ns(0));
        rows.into_iter()
            .map(|row| format!("{} {} {}", row.revision, row.state, row.target))
            .collect()
    }

    #[test]
    fn each_change_of_an_objective_is_one_revision() {
        let mut revisions = Revisions::default();
        assert_eq!(
            change(&mut revisions, &[objective(0.99)]),
            ["0 in_force 0.99"]
        );
        assert!(change(&mut revisions, &[objective(0.99)]).is_empty());
        assert_eq!(
            change(&mut revisions, &[objective(0.999)]),
            ["1 in_force 0.999"]
        );
        assert_eq!(change(&mut revisions, &[]), ["2 withdrawn 0.999"]);
        assert!(change(&mut revisions, &[]).is_empty());
        assert_eq!(
            change(&mut revisions, &[objective(0.999)]),
            ["3 in_force 0.999"]
        );
    }
}

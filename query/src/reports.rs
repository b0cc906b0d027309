//! The named reports: what each tells, which controls it answers, and on which tables it rests.
//!
//! A report is a view and a table function of its name. Each of its rows says whether the tables that
//! it rests on are `complete`, and `report_summary` says how much of them was due and present.

use counterfoil_entry::table::TableId;
use datafusion::arrow::array::RecordBatch;
use datafusion::common::Result;

use crate::listing;
use crate::views::frame::Frame;

mod access;
mod auditors;
mod change;
mod credentials;
mod figures;
mod flows;
mod list;
mod logging;
mod standing;

pub use list::REPORTS;
pub(crate) use logging::e11 as completeness_of;
use standing::{complete, per_table};

/// What the rows of a report are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Each row is something that should not be: no rows is clean.
    Finding,
    /// Each row is something that happened.
    Population,
    /// Each row is something that happened, and its column `finding` is true where it should not have.
    Marked,
    /// Each row is a measured figure with its target and a verdict.
    Figure,
}

impl Kind {
    /// The word in SQL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finding => "finding",
            Self::Population | Self::Marked => "population",
            Self::Figure => "figure",
        }
    }
}

/// One named report.
#[derive(Debug)]
pub struct Report {
    /// Number in the list of controls and evidence, as in `E01`.
    pub id: &'static str,
    /// What it is called.
    pub name: &'static str,
    /// View and table function of schema `public`.
    pub view: &'static str,
    /// Ids of the controls that it helps to answer.
    pub controls: &'static [&'static str],
    /// What its rows are.
    pub kind: Kind,
    /// One plain sentence.
    pub meaning: &'static str,
    /// What one row is.
    pub grain: &'static str,
    /// Tables that it rests on.
    pub tables: &'static [TableId],
    query: fn(&Frame) -> String,
}

/// The report whose view is `view`.
pub(crate) fn of_view(view: &str) -> Option<&'static Report> {
    REPORTS.iter().find(|report| report.view == view)
}

impl Report {
    /// The report's query, with what its completeness is beside each row.
    pub(crate) fn sql(&self, frame: &Frame) -> String {
        if self.is_of_completeness() {
            return (self.query)(frame);
        }
        format!(
            "SELECT r.*, s.complete FROM ({}) r CROSS JOIN ({}) s",
            (self.query)(frame),
            complete(self.tables, frame),
        )
    }

    /// Whether its rows have a column `complete` of their own.
    fn is_of_completeness(&self) -> bool {
        self.id == "E11"
    }

    /// The scope of the row whose verdict is that of the whole figure.
    fn whole(&self) -> Option<&'static str> {
        match self.id {
            "E11" | "E48" => Some("total"),
            "E47" => Some("mesh"),
            _ => None,
        }
    }

    /// A row for each row of the report: its id, and its verdict if it has one.
    fn tagged(&self, frame: &Frame) -> String {
        let query = (self.query)(frame);
        let verdict = match self.kind {
            Kind::Finding => "'findings'".to_owned(),
            Kind::Population => "CAST(NULL AS VARCHAR)".to_owned(),
            Kind::Marked => "CASE WHEN finding THEN 'findings' END".to_owned(),
            Kind::Figure => self.whole().map_or_else(
                || "verdict".to_owned(),
                |scope| format!("CASE WHEN scope = '{scope}' THEN verdict END"),
            ),
        };
        format!(
            "SELECT '{}' AS id, {verdict} AS verdict FROM ({query})",
            self.id
        )
    }
}

/// One row a report: the rows that it has, its verdict, and how complete the tables are on which it
/// rests.
///
/// `due`, `present`, `missing`, `dropped` and `gaps_open` are as in `completeness`, over those tables.
/// `verdict`: of a finding, and of a population that marks findings, `clean` or `findings`; of a figure its
/// own. A clean report over books that are not `complete` is no proof.
pub(crate) fn summary(frame: &Frame) -> String {
    // Counted by id, not each in a query of its own: a filter on the id of a count without groups would
    // be pushed below the count, and leave a row of zero.
    let rows: Vec<String> = REPORTS.iter().map(|report| report.tagged(frame)).collect();
    let list: Vec<String> = REPORTS
        .iter()
        .map(|report| {
            let clean = match report.kind {
                Kind::Finding | Kind::Marked => "'clean'",
                _ => "CAST(NULL AS VARCHAR)",
            };
            let (id, name, kind) = (report.id, report.name, report.kind.as_str());
            format!("('{id}', '{name}', '{kind}', {clean})")
        })
        .collect();
    let mut tables: Vec<TableId> = REPORTS
        .iter()
        .flat_map(|report| report.tables.iter().copied())
        .collect();
    tables.sort_unstable();
    tables.dedup();
    let rests: Vec<String> = REPORTS
        .iter()
        .flat_map(|report| {
            let names = report.tables.iter().map(|table| table.name());
            // What is missing of an unknown table may be missing of each.
            let names = names.chain([standing::ANY]);
            names.map(|name| format!("('{}', '{name}')", report.id))
        })
        .collect();
    format!(
        "WITH list AS (
  SELECT * FROM (VALUES {}) AS v(id, name, kind, clean)
), counts AS (
  SELECT id, count(*) AS rows, max(verdict) AS verdict FROM ({}) GROUP BY id
), rests AS (
  SELECT * FROM (VALUES {}) AS v(id, table_name)
), standing AS ({}), stood AS (
  SELECT r.id, {} FROM rests r JOIN standing s ON r.table_name = s.table_name GROUP BY r.id
)
SELECT l.id, l.name, l.kind, coalesce(c.rows, 0) AS rows, coalesce(c.verdict, l.clean) AS verdict,
  coalesce(s.due, 0) AS due, coalesce(s.present, 0) AS present, coalesce(s.missing, 0) AS missing,
  coalesce(s.dropped, 0) AS dropped, coalesce(s.gaps_open, 0) AS gaps_open,
  coalesce(s.complete, false) AS complete
FROM list l LEFT JOIN counts c ON l.id = c.id LEFT JOIN stood s ON l.id = s.id",
        list.join(", "),
        rows.join("\nUNION ALL\n"),
        rests.join(", "),
        per_table(&tables, frame),
        standing::SUMS,
    )
}

/// The table `reports`.
///
/// # Errors
/// When columns do not fit together.
pub(crate) fn table() -> Result<RecordBatch> {
    let column = |name: &str, value: fn(&Report) -> String| {
        listing::text(name, REPORTS.iter().map(|report| Some(value(report))))
    };
    listing::batch(vec![
        column("id", |report| report.id.to_owned()),
        column("name", |report| report.name.to_owned()),
        column("view", |report| report.view.to_owned()),
        column("controls", |report| report.controls.join(", ")),
        column("kind", |report| report.kind.as_str().to_owned()),
        column("meaning", |report| report.meaning.to_owned()),
        column("grain", |report| report.grain.to_owned()),
        column("tables", |report| {
            let names: Vec<&str> = report.tables.iter().map(|table| table.name()).collect();
            names.join(", ")
        }),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_names_and_views_are_unique_and_in_order() {
        assert!(REPORTS.windows(2).all(|pair| pair[0].id < pair[1].id));
        for report in REPORTS {
            assert_eq!(report.view, report.id.to_lowercase());
            assert_eq!(of_view(report.view).map(|found| found.id), Some(report.id));
            assert!(!report.controls.is_empty() && !report.tables.is_empty());
        }
    }

    /// `docs/reports.md` has a section a report: `## E01 allow_without_valid_grant`, then `Controls: ..`.
    #[test]
    fn the_document_names_every_report_with_its_controls_and_no_other() {
        let text = include_str!("../../docs/reports.md");
        let sections: Vec<&str> = text.split("\n## E").skip(1).collect();
        assert_eq!(sections.len(), REPORTS.len());
        for (section, report) in sections.iter().zip(REPORTS) {
            let mut lines = section.lines();
            let title = format!("{} {}", report.id.trim_start_matches('E'), report.name);
            assert_eq!(lines.next(), Some(title.as_str()));
            let controls = section
                .lines()
                .find_map(|line| line.strip_prefix("Controls: "));
            assert_eq!(
                controls,
                Some(report.controls.join(", ").as_str()),
                "{}",
                report.id
            );
            let kind = format!("Kind: {}, {}.", report.kind.as_str(), report.grain);
            assert!(section.contains(&kind), "{}: {kind}", report.id);
            assert!(section.contains(report.meaning), "{}", report.id);
        }
    }
}

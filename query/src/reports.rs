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
mod change;
mod credentials;
mod figures;
mod standing;

use standing::{complete, per_table};

/// What the rows of a report are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Each row is something that should not be: no rows is clean.
    Finding,
    /// Each row is something that happened.
    Population,
    /// Each row is a measured figure with its target and a verdict.
    Figure,
}

impl Kind {
    /// The word in SQL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finding => "finding",
            Self::Population => "population",
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

/// The reports, by id.
pub const REPORTS: &[Report] = &[
    Report {
        id: "E01",
        name: "allow_without_valid_grant",
        view: "e01",
        controls: &[
            "SOX-AC-1",
            "PCI DSS 7.2.2",
            "DORA RTS 2024/1774 art. 21",
            "NIST AC-3",
            "NIST AC-6",
        ],
        kind: Kind::Finding,
        meaning: "A call was let through although no grant for that consumer and operation was in force when it began.",
        grain: "one allowed call",
        tables: &[
            TableId::Entries,
            TableId::Grants,
            TableId::Operations,
            TableId::Apis,
            TableId::Issuance,
        ],
        query: access::e01,
    },
    Report {
        id: "E02",
        name: "grant_approval",
        view: "e02",
        controls: &[
            "SOX-AC-2",
            "PCI DSS 7.2.3",
            "DORA RTS 2024/1774 art. 21",
            "NIST AC-5",
            "NIST AC-2",
        ],
        kind: Kind::Finding,
        meaning: "A grant was approved by the person who asked for it, without a ticket, by nobody known, or after it had been used.",
        grain: "one grant and finding",
        tables: &[TableId::Grants, TableId::Entries],
        query: access::e02,
    },
    Report {
        id: "E03",
        name: "periodic_review",
        view: "e03",
        controls: &[
            "SOX-AC-3",
            "PCI DSS 7.2.4",
            "PCI DSS 7.2.5.1",
            "DORA RTS 2024/1774 art. 21",
            "NIST AC-6(7)",
        ],
        kind: Kind::Finding,
        meaning: "A grant is in force that nobody reviewed, or nobody used, for more than 90 days.",
        grain: "one grant and finding",
        tables: &[TableId::Grants, TableId::Entries],
        query: access::e03,
    },
    Report {
        id: "E04",
        name: "timely_removal",
        view: "e04",
        controls: &[
            "SOX-AC-4",
            "PCI DSS 8.2.5",
            "DORA RTS 2024/1774 art. 21",
            "NIST AC-3(8)",
            "NIST AC-2",
        ],
        kind: Kind::Finding,
        meaning: "A revoked grant still let calls through, or a proxy enforced the revocation later than two seconds after it.",
        grain: "one revoked grant, proxy process and finding",
        tables: &[
            TableId::Entries,
            TableId::Grants,
            TableId::Bundles,
            TableId::BundleAcks,
            TableId::Apis,
        ],
        query: access::e04,
    },
    Report {
        id: "E08",
        name: "no_unauthorised_change",
        view: "e08",
        controls: &[
            "SOX-CM-3",
            "PCI DSS 6.5.1",
            "PCI DSS 11.5.2",
            "DORA RTS 2024/1774 art. 17",
            "NIST CM-3",
            "NIST SI-7",
        ],
        kind: Kind::Finding,
        meaning: "A proxy decided by rights that control never published for it, or changed its configuration or build while it ran.",
        grain: "one proxy process, bundle, configuration and finding",
        tables: &[TableId::Entries, TableId::Bundles],
        query: change::e08,
    },
    Report {
        id: "E18",
        name: "invalid_access",
        view: "e18",
        controls: &[
            "PCI DSS 10.2.1.4",
            "DORA RTS 2024/1774 art. 12",
            "DORA RTS 2024/1774 art. 23",
            "NIST AU-2",
            "NIST SI-4",
        ],
        kind: Kind::Population,
        meaning: "Access that was refused: calls, tokens, handshakes, and acts of people on catalogue and rights.",
        grain: "one kind, reason, source and destination",
        tables: &[TableId::Entries, TableId::GovernanceEvents],
        query: credentials::e18,
    },
    Report {
        id: "E19",
        name: "credential_changes",
        view: "e19",
        controls: &[
            "PCI DSS 10.2.1.5",
            "DORA RTS 2024/1774 art. 7",
            "NIST IA-5",
            "NIST SC-12",
        ],
        kind: Kind::Population,
        meaning: "Certificates and tokens issued, certificates renewed or not, keys that appeared, and certificates in use that control did not issue.",
        grain: "one event, or one certificate in use that control did not issue",
        tables: &[
            TableId::Issuance,
            TableId::CertRotations,
            TableId::Statements,
            TableId::Entries,
        ],
        query: credentials::e19,
    },
    Report {
        id: "E46",
        name: "availability",
        view: "e46",
        controls: &["SOX-OP-1", "DORA RTS 2024/1774 art. 9"],
        kind: Kind::Figure,
        meaning: "The share of time in which the control plane answered, against 99.95 %, beside the share of calls that the proxies did not fail.",
        grain: "one row",
        tables: &[TableId::ControlHealth, TableId::Entries],
        query: figures::e46,
    },
    Report {
        id: "E48",
        name: "rotation_success",
        view: "e48",
        controls: &[
            "SOX-OP-1",
            "PCI DSS 4.2.1",
            "DORA RTS 2024/1774 art. 7",
            "NIST IA-5",
            "NIST SC-17",
        ],
        kind: Kind::Figure,
        meaning: "The share of attempts to renew a certificate that succeeded, against 99.9 %, and of certificates renewed before they expired.",
        grain: "one row in all, and one a workload",
        tables: &[TableId::CertRotations],
        query: figures::e48,
    },
];

/// The report whose view is `view`.
pub(crate) fn of_view(view: &str) -> Option<&'static Report> {
    REPORTS.iter().find(|report| report.view == view)
}

impl Report {
    /// The report's query, with what its completeness is beside each row.
    pub(crate) fn sql(&self, frame: &Frame) -> String {
        format!(
            "SELECT r.*, s.complete FROM ({}) r CROSS JOIN ({}) s",
            (self.query)(frame),
            complete(self.tables, frame),
        )
    }

    /// A row for each row of the report: its id, and its verdict if it has one.
    fn tagged(&self, frame: &Frame) -> String {
        let query = (self.query)(frame);
        let verdict = match self.kind {
            Kind::Finding => "'findings'",
            Kind::Population => "CAST(NULL AS VARCHAR)",
            Kind::Figure if self.id == "E48" => "CASE WHEN scope = 'total' THEN verdict END",
            Kind::Figure => "verdict",
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
/// `verdict`: of a finding `clean` or `findings`, of a figure its own; a clean report over books that
/// are not `complete` is no proof.
pub(crate) fn summary(frame: &Frame) -> String {
    // Counted by id, not each in a query of its own: a filter on the id of a count without groups would
    // be pushed below the count, and leave a row of zero.
    let rows: Vec<String> = REPORTS.iter().map(|report| report.tagged(frame)).collect();
    let list: Vec<String> = REPORTS
        .iter()
        .map(|report| {
            let clean = match report.kind {
                Kind::Finding => "'clean'",
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

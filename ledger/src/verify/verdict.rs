//! What only the whole shows, and the verdict in words.

use counterfoil_entry::Time;

use super::origin::Audit;
use super::report::{Place, Report};
use crate::manifest::HoldState;

/// Makes the checks that need everything, and the report.
pub(super) fn conclude(mut audit: Audit<'_>, until: Option<Time>) -> Report {
    let is_whole = audit.report.is_proved();
    if is_whole {
        audit
            .epochs
            .finish(&audit.gaps, &audit.conflicts, &mut audit.report);
        audit.deletions.finish(&mut audit.report);
        let left: Vec<String> = audit.files.left().map(str::to_owned).collect();
        for file in left {
            audit
                .report
                .fail("unlisted", Place::file(&file), "no log names this file");
        }
    } else {
        // What is missing already would show up again as holes and unlisted files.
        audit
            .report
            .note("checks that need the whole were left out, for a part of it failed");
    }
    audit.report.counts.conflicts = audit.conflicts.count();
    audit.report.deleted = audit.deletions.plans();
    note_holds(&mut audit);
    for gap in audit.gaps.iter() {
        audit.report.counts.gaps += 1;
        if gap.closed_at.is_none() {
            audit.report.counts.gaps_open += 1;
            let place = Place::default().of_writer(&gap.subject_writer, gap.subject_epoch);
            let note = format!("open gap {}: {place}: {}", gap.gap_id, gap.cause);
            audit.report.note(note);
        }
    }
    for (id, epoch) in &audit.seen {
        if !audit.epochs.knows(id, *epoch) {
            audit.report.counts.epochs_absent += 1;
            let note = format!("control saw epoch {epoch} of {id}, and the books have none of it");
            audit.report.note(note);
        }
    }
    let abandoned = audit.epochs.abandoned();
    let freshness_s = audit.request.policy.and_then(|policy| policy.freshness_s);
    let mut report = audit.report;
    report.consistent_until = until;
    let open = open_matters(&report, abandoned);
    if audit.request.complete && !open.is_empty() {
        let detail = format!(
            "completeness was asked for, and there are {}",
            open.join(", ")
        );
        report.fail("incomplete", Place::default(), detail);
    }
    if report.counts.dropped > 0 {
        report.note(format!(
            "writers declared {} entries dropped",
            report.counts.dropped
        ));
    }
    report.is_complete = report.is_proved() && open.is_empty() && freshness_s.is_some();
    report.verdict = verdict(&report, &open, freshness_s);
    report
}

fn note_holds(audit: &mut Audit<'_>) {
    for hold in audit.holds.values() {
        audit.report.counts.holds += 1;
        if hold.state == HoldState::Placed {
            audit.report.counts.holds_placed += 1;
            let note = format!("legal hold {}: matter {}", hold.hold_id, hold.matter);
            audit.report.note(note);
        }
    }
}

fn open_matters(report: &Report, abandoned: usize) -> Vec<String> {
    [
        (report.counts.gaps_open, "open gaps"),
        (report.counts.dropped, "entries declared dropped"),
        (report.counts.unverified, "unverified announcements"),
        (report.counts.conflicts, "statements in conflict"),
        (abandoned as u64, "epochs without an end"),
        (report.counts.epochs_absent, "epochs that only control saw"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect()
}

fn verdict(report: &Report, open: &[String], freshness_s: Option<u64>) -> String {
    if let Some(first) = report.failures.first() {
        let more = report.failures.len() as u64 - 1 + report.failures_more;
        let rest = if more == 0 {
            String::new()
        } else {
            format!(" ({more} more)")
        };
        return format!("not proved: {first}{rest}");
    }
    let until = report
        .consistent_until
        .map_or_else(|| "?".to_owned(), |time| time.to_string());
    let mut text = if report.is_complete {
        format!("complete up to {until}")
    } else {
        format!("consistent up to {until}")
    };
    if !open.is_empty() {
        text.push_str("; not complete, there are ");
        text.push_str(&open.join(", "));
    } else if freshness_s.is_none() {
        text.push_str("; whether newer manifests were cut off was not checked, for no policy demands freshness");
    }
    for plan in &report.deleted {
        text.push_str(&format!("; {plan}"));
    }
    if report.keys_from_store {
        text.push_str("; keys were taken from the store itself");
    }
    text
}

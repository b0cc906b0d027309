//! What retention answers, as rows.

use std::path::Path;

use counterfoil_entry::Hash;
use counterfoil_entry::Time;
use counterfoil_entry::id::RetentionClass;
use counterfoil_retention::{Executed, Outlook, Plan, Sealed};
use serde_json::{Value, json};

use crate::rows::Answer;

/// What may go, and what is only kept by holds, scopes or roll-ups: a row a segment.
pub(super) fn outlook(outlook: &Outlook) -> Answer {
    let row = |state: &str,
               sealed: &Sealed,
               (rule, from): (&RetentionClass, Time),
               holds: Option<String>| {
        let of = &sealed.of;
        vec![
            json!(of.segment),
            json!(state),
            json!(of.table.name()),
            json!(of.class.as_str()),
            json!(rule.as_str()),
            json!(of.count),
            json!(of.bytes),
            json!(of.first_time.to_string()),
            json!(of.last_time.to_string()),
            json!(from.to_string()),
            json!(holds),
            json!(of.file),
        ]
    };
    let due = |state, due: &counterfoil_retention::Due, holds| {
        row(state, &due.sealed, (&due.rule, due.allowed_from), holds)
    };
    let mut rows: Vec<Vec<Value>> = outlook
        .due
        .iter()
        .map(|one| due("due", one, None))
        .collect();
    rows.extend(
        outlook
            .held
            .iter()
            .map(|held| due("held", &held.due, Some(held.holds.join(" ")))),
    );
    rows.extend(outlook.lifted.iter().map(|one| {
        row(
            "kept_by_scope",
            &one.sealed,
            (&one.rule, one.allowed_from),
            None,
        )
    }));
    let waiting = outlook.waiting.iter();
    rows.extend(waiting.map(|one| due("not_rolled_up", one, None)));
    Answer {
        columns: columns(&[
            "segment",
            "state",
            "table",
            "class",
            "rule",
            "records",
            "bytes",
            "oldest",
            "newest",
            "allowed_from",
            "holds",
            "file",
        ]),
        rows,
    }
}

/// A plan that was made.
pub(super) fn plan(plan: &Plan, path: &Path) -> Answer {
    let (oldest, newest) = plan.times().unzip();
    let at = |time: Option<Time>| time.map(|time| time.to_string());
    Answer {
        columns: columns(&[
            "plan_sha256",
            "segments",
            "records",
            "bytes",
            "oldest",
            "newest",
            "file",
        ]),
        rows: vec![vec![
            json!(plan.sha256().to_string()),
            json!(plan.segments.len()),
            json!(plan.records),
            json!(plan.bytes),
            json!(at(oldest)),
            json!(at(newest)),
            json!(path.display().to_string()),
        ]],
    }
}

/// An approval.
pub(super) fn approval(plan: &Hash, name: &str) -> Answer {
    Answer {
        columns: columns(&["plan_sha256", "approved_by"]),
        rows: vec![vec![json!(plan.to_string()), json!(name)]],
    }
}

/// A hold, and how it stands.
pub(super) fn hold(id: &str, state: &str) -> Answer {
    Answer {
        columns: columns(&["hold_id", "state"]),
        rows: vec![vec![json!(id), json!(state)]],
    }
}

/// What left the books.
pub(super) fn executed(executed: &Executed) -> Answer {
    let manifests: Vec<String> = executed.manifests.iter().map(u64::to_string).collect();
    Answer {
        columns: columns(&[
            "plan_sha256",
            "segments",
            "records",
            "bytes",
            "deleted_before",
            "manifests",
        ]),
        rows: vec![vec![
            json!(executed.plan_sha256.to_string()),
            json!(executed.segments),
            json!(executed.records),
            json!(executed.bytes),
            json!(executed.before),
            json!(manifests.join(" ")),
        ]],
    }
}

fn columns(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

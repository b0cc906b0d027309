//! What verification found, for people and as JSON.

use std::fmt;

use counterfoil_entry::{Hash, Time};
use serde_json::{Value, json};

/// Failures that a report lists; the rest is counted.
const LISTED_MAX: usize = 100;

/// The outcome of a verification.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The verdict, in one plain sentence or two.
    pub verdict: String,
    /// What failed, in the order in which it was met; the first 100.
    pub failures: Vec<Failure>,
    /// Failures beyond those listed.
    pub failures_more: u64,
    /// What an auditor should know though it is no failure.
    pub notes: Vec<String>,
    /// What lawful deletions removed, by plan.
    pub deleted: Vec<DeletedPlan>,
    /// What was checked.
    pub counts: Counts,
    /// Until when every log's manifests reach; `None` when that is unknown.
    pub consistent_until: Option<Time>,
    /// Whether the policy's freshness holds and nothing is open, dropped or unverified.
    pub is_complete: bool,
    /// Whether keys and roots were taken from the books themselves, for want of a policy.
    pub keys_from_store: bool,
}

/// What was deleted under one plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeletedPlan {
    /// SHA-256 of the plan.
    pub plan_sha256: Hash,
    /// Segments.
    pub segments: u64,
    /// Rows in them.
    pub rows: u64,
}

/// What a verification looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Logs.
    pub origins: u64,
    /// Manifests.
    pub manifests: u64,
    /// Segments whose rows were read.
    pub segments: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of segment files.
    pub bytes: u64,
    /// Statements whose signature was checked.
    pub statements: u64,
    /// Epochs of writers.
    pub epochs: u64,
    /// Epochs without a final statement or a recovery.
    pub epochs_open: u64,
    /// Epochs that control saw, and of which the books have nothing.
    pub epochs_absent: u64,
    /// Gaps recorded.
    pub gaps: u64,
    /// Of them open.
    pub gaps_open: u64,
    /// Statements under a number that another one has.
    pub conflicts: u64,
    /// Entries that writers declared dropped.
    pub dropped: u64,
    /// Announcements that could not be verified when they came.
    pub unverified: u64,
    /// Legal holds, as manifests tell them.
    pub holds: u64,
    /// Of them not released.
    pub holds_placed: u64,
}

/// One failed check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A stable word for the check.
    pub what: &'static str,
    /// Where.
    pub place: Place,
    /// What is wrong, in words.
    pub detail: String,
}

/// A place in the books, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Origin of the log.
    pub origin: Option<String>,
    /// Number of the manifest.
    pub manifest: Option<u64>,
    /// Number of the segment.
    pub segment: Option<u64>,
    /// The writer.
    pub writer: Option<String>,
    /// Its epoch.
    pub epoch: Option<u64>,
    /// Its stream.
    pub stream: Option<String>,
    /// Sequence number in the stream, or the statement's number where no stream is named.
    pub seq: Option<u64>,
    /// File relative to `books/`.
    pub file: Option<String>,
}

impl Place {
    /// The place of a file.
    #[must_use]
    pub fn file(file: &str) -> Self {
        Self {
            file: Some(file.to_owned()),
            ..Self::default()
        }
    }

    /// The same place, in manifest `number` of `origin`.
    #[must_use]
    pub fn in_manifest(self, origin: &str, number: u64) -> Self {
        Self {
            origin: Some(origin.to_owned()),
            manifest: Some(number),
            ..self
        }
    }

    /// The same place, of a writer's epoch.
    #[must_use]
    pub fn of_writer(self, writer: &str, epoch: u64) -> Self {
        Self {
            writer: Some(writer.to_owned()),
            epoch: Some(epoch),
            ..self
        }
    }

    /// The same place, at `seq` of a stream.
    #[must_use]
    pub fn at_seq(self, stream: &str, seq: u64) -> Self {
        Self {
            stream: Some(stream.to_owned()),
            seq: Some(seq),
            ..self
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u64>| n.map(|n| n.to_string());
        let parts = [
            ("origin", self.origin.clone()),
            ("manifest", number(self.manifest)),
            ("segment", number(self.segment)),
            ("writer", self.writer.clone()),
            ("epoch", number(self.epoch)),
            ("stream", self.stream.clone()),
            ("seq", number(self.seq)),
            ("file", self.file.clone()),
        ];
        let known: Vec<String> = parts
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| format!("{name} {value}")))
            .collect();
        f.write_str(&known.join(", "))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place == Place::default() {
            f.write_str(&self.detail)
        } else {
            write!(f, "{}: {}", self.place, self.detail)
        }
    }
}

impl Report {
    /// Whether nothing failed: exit status 0, else 3.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        self.failures.is_empty()
    }

    /// The report as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let failures: Vec<Value> = self.failures.iter().map(Failure::to_json).collect();
        let deleted: Vec<Value> = self.deleted.iter().map(|plan| plan.to_json()).collect();
        let counts = &self.counts;
        json!({
            "verdict": self.verdict,
            "proved": self.is_proved(),
            "complete": self.is_complete,
            "consistent_until": self.consistent_until.map(|time| time.to_string()),
            "keys_from_store": self.keys_from_store,
            "failures": failures,
            "failures_more": self.failures_more,
            "notes": self.notes,
            "deleted": deleted,
            "counts": {
                "origins": counts.origins,
                "manifests": counts.manifests,
                "segments": counts.segments,
                "rows": counts.rows,
                "bytes": counts.bytes,
                "statements": counts.statements,
                "epochs": counts.epochs,
                "epochs_open": counts.epochs_open,
                "epochs_absent": counts.epochs_absent,
                "gaps": counts.gaps,
                "gaps_open": counts.gaps_open,
                "conflicts": counts.conflicts,
                "dropped": counts.dropped,
                "unverified": counts.unverified,
                "holds": counts.holds,
                "holds_placed": counts.holds_placed,
            },
        })
    }

    pub(super) fn fail(&mut self, what: &'static str, place: Place, detail: impl Into<String>) {
        if self.failures.len() < LISTED_MAX {
            self.failures.push(Failure {
                what,
                place,
                detail: detail.into(),
            });
        } else {
            self.failures_more += 1;
        }
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        if self.notes.len() < LISTED_MAX {
            self.notes.push(note.into());
        }
    }
}

impl DeletedPlan {
    fn to_json(self) -> Value {
        json!({
            "plan_sha256": self.plan_sha256.to_string(),
            "segments": self.segments,
            "rows": self.rows,
        })
    }
}

impl fmt::Display for DeletedPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (segments, rows) = (self.segments, self.rows);
        let plan = self.plan_sha256;
        write!(
            f,
            "deleted lawfully: {segments} segments, {rows} records, plan {plan}"
        )
    }
}

/// A check's outcome: what it gives, or what failed and where.
pub(super) type Checked<T> = Result<T, Box<Failure>>;

impl Failure {
    pub(super) fn at(what: &'static str, place: Place, detail: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            what,
            place,
            detail: detail.into(),
        })
    }

    fn to_json(&self) -> Value {
        let place = &self.place;
        json!({
            "what": self.what,
            "origin": place.origin,
            "manifest": place.manifest,
            "segment": place.segment,
            "writer": place.writer,
            "epoch": place.epoch,
            "stream": place.stream,
            "seq": place.seq,
            "file": place.file,
            "detail": self.detail,
        })
    }
}

//! Books that do not verify any more are an alert, too: they are proved again and again.

use std::path::{Path, PathBuf};

use counterfoil_entry::{Time, clock};
use counterfoil_ledger::verify::Request;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::finding::{Finding, Severity, Verdict};
use super::rows::as_f64;
use crate::proof::verify;

const SECOND_NS: i64 = 1_000_000_000;
/// A collector that seals meanwhile can make books look wrong for a moment: once is not believed.
const BELIEVED_AFTER: i64 = 3;

/// Proves the books from time to time, on a thread of its own.
#[derive(Debug)]
pub(super) struct Verifier {
    books: PathBuf,
    every_ns: i64,
    running: Option<oneshot::Receiver<Option<String>>>,
    /// When the last proof ended, and how many in a row failed.
    ended: Option<(Time, i64)>,
    /// Why the last one failed.
    failure: String,
}

impl Verifier {
    /// Of the books in `books`; never when `every_s` is 0.
    pub(super) fn new(books: PathBuf, every_s: u64) -> Self {
        let every_s = i64::try_from(every_s).unwrap_or(i64::MAX);
        Self {
            books,
            every_ns: every_s.saturating_mul(SECOND_NS),
            running: None,
            ended: None,
            failure: String::new(),
        }
    }

    /// Begins a proof when one is due, and tells what the last ones found. Waits for none.
    pub(super) fn findings(&mut self, group: &str, now: Time) -> Vec<Finding> {
        if self.every_ns == 0 {
            return Vec::new();
        }
        if let Some(found) = self.ended_now() {
            let failed = self.ended.map_or(0, |(_, failed)| failed);
            self.ended = Some((now, if found.is_some() { failed + 1 } else { 0 }));
            self.failure = found.unwrap_or_default();
        }
        let is_due = self.ended.is_none_or(|(at, failed)| {
            let doubted = (1..BELIEVED_AFTER).contains(&failed);
            doubted || now.since_ns(at) >= self.every_ns
        });
        if self.running.is_none() && is_due {
            self.running = begun(self.books.clone());
        }
        let failed = self.ended.map(|(_, failed)| failed);
        let verdict = match failed {
            Some(0) => Verdict::Clear,
            Some(failed) if failed >= BELIEVED_AFTER => Verdict::Holds,
            _ => Verdict::Unknown,
        };
        let summary = format!(
            "the books do not verify: {}: run counterfoil verify, and keep a copy of them",
            self.failure
        );
        let finding = Finding::new(group, "BooksNotProved", Severity::Page, verdict, summary);
        vec![finding.figures(failed.map(as_f64), as_f64(BELIEVED_AFTER))]
    }
}

impl Verifier {
    /// What a proof found that ended since the last look.
    fn ended_now(&mut self) -> Option<Option<String>> {
        let found = match self.running.as_mut()?.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Closed) => Some("it ended early".to_owned()),
            Ok(found) => found,
        };
        self.running = None;
        Some(found)
    }
}

/// Begins a proof on a thread of its own: it may take hours, and the process must not wait for it to end.
fn begun(books: PathBuf) -> Option<oneshot::Receiver<Option<String>>> {
    let (tell, told) = oneshot::channel();
    let thread = std::thread::Builder::new().name("verify".to_owned());
    let begun = thread.spawn(move || {
        // Nobody listens when the role has ended.
        let _unheard = tell.send(failure(&books));
    });
    match begun {
        Ok(_detached) => Some(told),
        Err(error) => {
            tracing::warn!(%error, "the books are not verified: no thread");
            None
        }
    }
}

/// What is wrong first; `None` when all is proved.
fn failure(books: &Path) -> Option<String> {
    let report = verify(&Request {
        books,
        policy: None,
        against: None,
        complete: false,
        now: clock::wall(),
    });
    if report.is_proved() {
        return None;
    }
    let first = report.failures.first();
    Some(first.map_or_else(
        || report.verdict.to_string(),
        |failure| format!("{}: {failure}", failure.what),
    ))
}

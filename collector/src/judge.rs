//! Whether a statement is taken: signature, chain, numbers, ranges, roots.

use counterfoil_entry::Hash;
use counterfoil_entry::id::Epoch;
use counterfoil_entry::statement::{
    Signed, Statement, StatementKind, StreamRange, statement_hash, verify_statement,
};

use crate::answer::{Reason, Refused};
use crate::state::{EpochState, State, StreamState};

/// What becomes of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is taken.
    Take,
    /// It was taken before.
    Known,
    /// Another one was taken under its number: this one.
    Conflict(Hash),
    /// Not now; sending it again may help.
    Wait(Refused),
    /// Never; the cause goes into a gap.
    Flawed(Refused, &'static str),
}

/// Judges a statement against what is known; changes nothing.
pub(crate) fn judge(state: &State, statement: &Statement, signed: &Signed) -> Verdict {
    let number = statement.number;
    let Some(epoch) = state.find(&statement.writer, statement.epoch) else {
        return not_announced(statement);
    };
    let Some(announced) = &epoch.announced else {
        return not_announced(statement);
    };
    if !verify_statement(signed, &announced.audit_key) {
        let detail = format!("statement {number} is not signed by the announced key of its epoch");
        return flawed(Reason::Signature, detail, "signature");
    }
    if epoch.statements.has(number) {
        let hash = statement_hash(&signed.bytes);
        return match epoch.hashes.get(&number) {
            Some(kept) if *kept != hash => Verdict::Conflict(*kept),
            _ => Verdict::Known,
        };
    }
    if let Some(detail) = chain_flaw(state, epoch, statement, signed) {
        return flawed(Reason::Malformed, detail, "chain");
    }
    for (of, range) in statement.covered() {
        let stream = state
            .find(&statement.writer, of)
            .and_then(|epoch| epoch.streams.get(&range.stream));
        let until = range.first_seq.saturating_add(range.count);
        // A recovery may state again what its writer could not know to be stated.
        let is_proved = stream.is_some_and(|stream| stream.is_proved(range.first_seq, until));
        if of != statement.epoch && is_proved {
            continue;
        }
        if let Some(verdict) = judge_range(stream, of, range) {
            return verdict;
        }
    }
    Verdict::Take
}

/// What is wrong with the statement's place in its epoch's chain, or with the one that it gives the
/// end of another; a verifier would never take books in which that stood.
fn chain_flaw(
    state: &State,
    epoch: &EpochState,
    statement: &Statement,
    signed: &Signed,
) -> Option<String> {
    let number = statement.number;
    let before = number
        .checked_sub(1)
        .and_then(|before| epoch.hashes.get(&before));
    if let (Some(before), Some(previous)) = (before, statement.previous)
        && *before != previous
        && !epoch.others.contains(&previous)
    {
        return Some(format!(
            "statement {number} names another predecessor than the one kept"
        ));
    }
    let hash = statement_hash(&signed.bytes);
    let is_named = |named: &Hash| *named == hash || epoch.others.contains(named);
    if !epoch.named.get(&number).is_none_or(is_named) {
        return Some(format!(
            "statement {number} is not the one that a later statement names"
        ));
    }
    if let Some(end) = epoch.end.filter(|end| number >= *end) {
        return Some(format!(
            "statement {number} comes after the end of its epoch, which has {end} statements"
        ));
    }
    let highest = |epoch: &EpochState| epoch.hashes.last_key_value().map(|(at, h)| (*at, *h));
    match &statement.kind {
        StatementKind::Regular => None,
        StatementKind::Final => highest(epoch)
            .filter(|(highest, _)| number < *highest)
            .map(|_| format!("statement {number} is final, and later ones are here")),
        StatementKind::Recovery(recovery) => {
            let old = state.find(&statement.writer, recovery.old_epoch);
            let is_right = match (recovery.last, old.and_then(highest)) {
                (Some((u64::MAX, _)), _) | (None, Some(_)) => false,
                (_, None) => true,
                (Some((last, hash)), Some((highest, kept))) => {
                    let is_other = || old.is_some_and(|old| old.others.contains(&hash));
                    last > highest || last == highest && (hash == kept || is_other())
                }
            };
            let is_before = recovery.old_epoch < statement.epoch;
            (!is_right || !is_before).then(|| {
                format!("statement {number} recovers an epoch that did not begin before its own, or did not end so")
            })
        }
    }
}

/// What speaks against taking `range`, if anything.
fn judge_range(stream: Option<&StreamState>, of: Epoch, range: &StreamRange) -> Option<Verdict> {
    let none = StreamState::default();
    let stream = stream.unwrap_or(&none);
    let (from, until) = (range.first_seq, range.first_seq.saturating_add(range.count));
    let place = || format!("{}, epoch {}, {from} to {}", range.stream, of.0, until - 1);
    let below = until.min(stream.proved.next()).saturating_sub(from);
    let free: u64 = stream
        .proved
        .missing_in(from, until)
        .iter()
        .map(|(from, until)| until - from)
        .sum();
    let is_held = stream
        .held
        .iter()
        .any(|held| held.from < until && from < held.until);
    if is_held || free < below {
        let detail = format!(
            "{}: an earlier statement covers entries of this range",
            place()
        );
        return Some(flawed(Reason::Root, detail, "root"));
    }
    let next = stream.seen.next();
    if until > next {
        let detail = format!(
            "{}: the next entry due is {next}; send the entries first",
            place()
        );
        return Some(Verdict::Wait(Refused::new(Reason::EntriesMissing, detail)));
    }
    // With a hole there is no root to compute yet: the range is held, and a gap says so.
    let is_whole = stream.seen.missing_in(from, until).is_empty();
    if is_whole && stream.root(from, until) != range.root {
        let detail = format!("{}: the root is not that of the entries received", place());
        return Some(flawed(Reason::Root, detail, "root"));
    }
    None
}

fn not_announced(statement: &Statement) -> Verdict {
    let detail = format!("epoch {} has not said hello here", statement.epoch.0);
    Verdict::Wait(Refused::new(Reason::NotAnnounced, detail))
}

fn flawed(reason: Reason, detail: String, cause: &'static str) -> Verdict {
    Verdict::Flawed(Refused::new(reason, detail), cause)
}

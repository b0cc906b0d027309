//! The time that a windowed view looks at, as conditions of SQL.

use counterfoil_entry::Time;

use super::{DEFAULT_DAYS, Window};

const DAY_NS: i64 = 86_400 * 1_000_000_000;

/// The window of one use of a view, and the instant of that use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    window: Option<Window>,
    /// When the statement began.
    pub(crate) now: Time,
}

impl Frame {
    pub(crate) const fn new(window: Option<Window>, now: Time) -> Self {
        Self { window, now }
    }

    /// The window, when one was given.
    pub(crate) const fn window(&self) -> Option<Window> {
        self.window
    }

    /// First instant; without a window, that many days before now.
    pub(crate) fn from(&self) -> Option<Time> {
        match self.window {
            Some(window) => window.from,
            None => Some(self.now.plus_ns(-DEFAULT_DAYS * DAY_NS)),
        }
    }

    /// First instant, when one was given.
    pub(crate) fn given_from(&self) -> Option<Time> {
        self.window.and_then(|window| window.from)
    }

    /// First instant after the window, when one was given.
    pub(crate) fn given_until(&self) -> Option<Time> {
        self.window.and_then(|window| window.until)
    }

    /// The instant as at which a state is told: the window's end, or now.
    pub(crate) fn as_at(&self) -> Time {
        self.given_until().unwrap_or(self.now)
    }

    /// That `column`, a raw time, lies in the window, or in the last days without one.
    pub(crate) fn holds(&self, column: &str) -> String {
        between(column, self.from(), self.given_until())
    }

    /// That `column` lies in the window; everything does without one.
    pub(crate) fn holds_if_given(&self, column: &str) -> String {
        between(column, self.given_from(), self.given_until())
    }
}

/// That `column`, a raw time, lies in `[from, until)`.
pub(crate) fn between(column: &str, from: Option<Time>, until: Option<Time>) -> String {
    let from = from.map(|at| format!("{column} >= {}", instant(at)));
    let until = until.map(|at| format!("{column} < {}", instant(at)));
    match (from, until) {
        (Some(from), Some(until)) => format!("({from} AND {until})"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "true".to_owned(),
    }
}

/// A time as a literal of the raw columns' type.
pub(crate) fn instant(at: Time) -> String {
    format!(
        "arrow_cast({}, 'Timestamp(Nanosecond, Some(\"UTC\"))')",
        at.as_ns()
    )
}

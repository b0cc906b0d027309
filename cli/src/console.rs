//! What people read while something runs: lines on stdout, progress on stderr.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Writes a line to stdout. A reader that has gone away is not a failure of what is being done.
pub(crate) fn line(text: impl Display) {
    let mut out = io::stdout().lock();
    // Nobody reads any more.
    let _closed = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes a line to stderr.
pub(crate) fn remark(text: impl Display) {
    // There is no further place to complain to.
    let _closed = writeln!(io::stderr().lock(), "{text}");
}

/// Lines and progress that do not overwrite each other.
#[derive(Debug)]
pub(crate) struct Console {
    bar: Option<ProgressBar>,
}

impl Console {
    /// Draws progress when stderr is a terminal, else says it in lines.
    pub(crate) fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar }
    }

    /// Writes a line to stdout, above the progress.
    pub(crate) fn say(&self, text: impl Display) {
        match &self.bar {
            Some(bar) => bar.suspend(|| line(text)),
            None => line(text),
        }
    }

    /// How often progress is worth showing.
    pub(crate) const fn interval(&self) -> Duration {
        Duration::from_millis(if self.bar.is_some() { 250 } else { 5_000 })
    }

    /// Shows how far things are.
    pub(crate) fn progress(&self, text: String) {
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => remark(text),
        }
    }

    /// Takes the progress away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

//! What people read while something runs: lines on stdout, progress on stderr.

use std::{
    ffi::OsStr,
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Writes lines to stdout. A reader that has gone away is not a failure of what is being done.
pub(crate) fn line(text: impl Display) {
    raw(shown(&text.to_string()));
}

/// Writes to stdout what no terminal must be kept from, as JSON.
pub(crate) fn raw(text: impl Display) {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    // Nobody reads any more: that is the reader's will. Anything else lost what was to be told.
    if written.is_err_and(|error| error.kind() != io::ErrorKind::BrokenPipe) {
        IS_LOST.store(true, Ordering::Relaxed);
    }
}

static IS_LOST: AtomicBool = AtomicBool::new(false);

/// Whether something that was written to stdout did not get there.
pub(crate) fn is_lost() -> bool {
    IS_LOST.load(Ordering::Relaxed)
}

/// Writes lines to stderr.
pub(crate) fn remark(text: impl Display) {
    // There is no further place to complain to.
    let _closed = writeln!(io::stderr().lock(), "{}", shown(&text.to_string()));
}

/// Foreign text as a part of one line: control characters, and those that turn the direction of writing, as `\u{..}`.
pub(crate) fn escaped(text: &str) -> String {
    escaped_but(text, &[])
}

/// Whole lines, in which nothing else steers a terminal.
pub(crate) fn shown(text: &str) -> String {
    escaped_but(text, &['\n', '\t'])
}

fn escaped_but(text: &str, kept: &[char]) -> String {
    let mut out = String::with_capacity(text.len());
    for one in text.chars() {
        let steers = one.is_control()
            || matches!(one, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if steers && !kept.contains(&one) {
            out.extend(one.escape_default());
        } else {
            out.push(one);
        }
    }
    out
}

/// An error with its causes, each text once: some errors end with the text of their cause already.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = text.trim();
        let said = out.strip_suffix(text).is_some_and(|before| {
            before.is_empty() || before.ends_with(|last: char| !last.is_alphanumeric())
        });
        if said {
            continue;
        }
        if !out.is_empty() {
            out.push_str(": ");
        }
        out.push_str(text);
    }
    out
}

/// A path as one word of a POSIX shell; one with control characters or other bytes, of bash or zsh.
pub(crate) fn word(path: impl AsRef<OsStr>) -> String {
    let path = path.as_ref();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match path.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(plain) => text.to_owned(),
        Some(text) if escaped(text) == text => format!("'{}'", text.replace('\'', "'\\''")),
        _ => {
            let mut out = "$'".to_owned();
            for byte in path.as_encoded_bytes() {
                out.extend(byte.escape_ascii().map(char::from));
            }
            out.push('\'');
            out
        }
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use anyhow::anyhow;

    use super::*;

    #[test]
    fn nothing_foreign_steers_a_terminal() {
        let foreign = "a\u{1b}[2Jb\nc\u{9b}d\u{202e}\u{7f}é\t";
        assert_eq!(
            escaped(foreign),
            "a\\u{1b}[2Jb\\nc\\u{9b}d\\u{202e}\\u{7f}é\\t"
        );
        assert_eq!(shown(foreign), "a\\u{1b}[2Jb\nc\\u{9b}d\\u{202e}\\u{7f}é\t");
    }

    #[test]
    fn each_text_of_a_chain_is_said_once() {
        let cases = [
            (anyhow!("in use").context("in use"), "in use"),
            (
                anyhow!("in use\n")
                    .context("binding: in use")
                    .context("starting"),
                "starting: binding: in use",
            ),
            (anyhow!("foot").context("a barefoot"), "a barefoot: foot"),
            (anyhow!("b").context("a"), "a: b"),
        ];
        for (error, expected) in cases {
            assert_eq!(chain(&error), expected);
        }
    }

    #[test]
    fn words_are_what_a_shell_reads() {
        let cases: [(&[u8], &str); 5] = [
            (b"/tmp/a-b_c.d", "/tmp/a-b_c.d"),
            (b"/tmp/my books", "'/tmp/my books'"),
            (b"/tmp/it's $HOME", r"'/tmp/it'\''s $HOME'"),
            (b"/tmp/\x1b[2J'\xff\n", r"$'/tmp/\x1b[2J\'\xff\n'"),
            (b"", "''"),
        ];
        for (bytes, expected) in cases {
            let path = OsStr::from_bytes(bytes);
            assert_eq!(word(path), expected);
            let said = std::process::Command::new("bash")
                .args(["-c", &format!("printf %s {expected}")])
                .output();
            // Not every machine has bash.
            if let Ok(said) = said {
                assert_eq!(said.stdout, bytes, "{expected}");
            }
        }
    }
}

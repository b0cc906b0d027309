//! A password from the terminal, which does not show it.

use std::io::{self, BufRead, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::console::escaped;

const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const CTRL_U: u8 = 0x15;
const DELETE: [u8; 2] = [0x08, 0x7f];

/// Asks for a password when a person sits there; nothing otherwise.
///
/// # Errors
/// When the terminal cannot be read, or Ctrl-C is typed.
pub(crate) fn prompt(question: &str) -> anyhow::Result<Option<String>> {
    let (input, output) = (io::stdin(), io::stderr());
    if !input.is_terminal() || !output.is_terminal() {
        return Ok(None);
    }
    let asking = "asking for the password";
    let before = tcgetattr(&input).context(asking)?;
    let mut silent = before.clone();
    // Ctrl-C comes as a character, so that it cannot leave a terminal behind that shows nothing.
    silent
        .local_modes
        .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    write!(output.lock(), "{}: ", escaped(question)).context(asking)?;
    tcsetattr(&input, OptionalActions::Flush, &silent).context(asking)?;
    let typed = typed(input.lock());
    restore(&before);
    writeln!(output.lock()).context(asking)?;
    match typed.context(asking)? {
        Typed::Line(bytes) => {
            let password = String::from_utf8(bytes).context("the password must be UTF-8")?;
            Ok(Some(password))
        }
        Typed::Interrupted => bail!("interrupted"),
    }
}

fn restore(before: &Termios) {
    if let Err(error) = tcsetattr(io::stdin(), OptionalActions::Flush, before) {
        tracing::warn!(%error, "the terminal stays silent; type: stty sane");
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Typed {
    Line(Vec<u8>),
    Interrupted,
}

/// Reads up to the end of a line.
fn typed(input: impl BufRead) -> io::Result<Typed> {
    let mut line = Vec::new();
    for byte in input.bytes() {
        match byte? {
            b'\n' | b'\r' | CTRL_D => break,
            CTRL_C => return Ok(Typed::Interrupted),
            CTRL_U => line.clear(),
            byte if DELETE.contains(&byte) => {
                // A letter may have several bytes: all but the first begin with the bits 10.
                while line.pop().is_some_and(|gone| gone & 0xc0 == 0x80) {}
            }
            byte => line.push(byte),
        }
    }
    Ok(Typed::Line(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_can_be_corrected_and_given_up() {
        let line = |text: &str| Typed::Line(text.as_bytes().to_vec());
        let cases: [(&[u8], Typed); 6] = [
            (b"secret\nrest", line("secret")),
            ("sé\x7fecret\r".as_bytes(), line("secret")),
            (b"wrong\x15right\n", line("right")),
            (b"\x7f\x08a\x04", line("a")),
            (b"no end", line("no end")),
            (b"sec\x03", Typed::Interrupted),
        ];
        for (bytes, expected) in cases {
            assert_eq!(typed(bytes).unwrap(), expected);
        }
    }
}

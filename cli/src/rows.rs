//! Answers in rows, and how they reach a terminal, a file or a program.

mod print;

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use serde_json::Value;

use crate::{args::RowsOutput, console::shown};

/// Rows of named columns. Integers are JSON numbers, null is null, what JSON has no form for is text.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Value>>,
}

impl Answer {
    /// The values of row objects, in the order of the columns.
    pub(crate) fn of_objects(columns: Vec<String>, objects: Vec<Value>) -> Self {
        let row = |mut object: Value| {
            let mut value =
                |column: &String| object.get_mut(column).map_or(Value::Null, Value::take);
            columns.iter().map(&mut value).collect()
        };
        let rows = objects.into_iter().map(row).collect();
        Self { columns, rows }
    }

    /// The value in the first row of that name.
    pub(crate) fn first(&self, column: &str) -> Option<&Value> {
        self.rows.first().and_then(|row| self.value(row, column))
    }

    /// The value of a row under that name.
    pub(crate) fn value<'a>(&self, row: &'a [Value], column: &str) -> Option<&'a Value> {
        let at = self.columns.iter().position(|name| name == column)?;
        row.get(at).filter(|value| !value.is_null())
    }

    /// Writes it to stdout. A reader that has gone away is not a failure.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(crate) fn print(&self, output: RowsOutput) -> anyhow::Result<()> {
        match write(self, output) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(error).context("writing the answer")
            }
            _ => Ok(()),
        }
    }
}

fn write(answer: &Answer, output: RowsOutput) -> io::Result<()> {
    let stdout = io::stdout();
    if output == RowsOutput::Csv && stdout.is_terminal() {
        // A file gets the values as they are, a terminal must not.
        let mut text = Vec::new();
        print::answer(answer, output, &mut text)?;
        return stdout
            .lock()
            .write_all(shown(&String::from_utf8_lossy(&text)).as_bytes());
    }
    let mut out = io::BufWriter::new(stdout.lock());
    print::answer(answer, output, &mut out)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_stand_in_the_order_of_the_columns() {
        let columns = ["b", "a"].map(ToOwned::to_owned).to_vec();
        let answer =
            Answer::of_objects(columns, vec![json!({"a": 1, "b": [2]}), json!({"a": null})]);
        assert_eq!(
            answer.rows,
            [vec![json!([2]), json!(1)], vec![json!(null), json!(null)]]
        );
        assert_eq!(answer.first("a"), Some(&json!(1)));
        assert_eq!(answer.first("c"), None);
        assert_eq!(answer.value(&answer.rows[1], "a"), None, "null is no value");
    }
}

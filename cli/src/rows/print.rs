//! Answers as a table, as JSON, as CSV.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use serde_json::{Map, Value};

use super::Answer;
use crate::{args::RowsOutput, console::escaped};

/// Writes the whole answer.
///
/// # Errors
/// When the writer fails.
pub(crate) fn answer(answer: &Answer, output: RowsOutput, out: &mut impl Write) -> io::Result<()> {
    match output {
        RowsOutput::Table => table(answer, out),
        RowsOutput::Json => json(answer, out),
        RowsOutput::Csv => csv(answer, out),
    }
}

fn table(answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new();
    table
        .load_preset(ASCII_MARKDOWN)
        .set_header(answer.columns.iter().map(|name| escaped(name)));
    for row in &answer.rows {
        table.add_row(row.iter().map(|value| escaped(&plain(value))));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        let numbers =
            |row: &Vec<Value>| row.get(index).is_none_or(|v| v.is_number() || v.is_null());
        if answer.rows.iter().all(numbers) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(out, "{table}")?;
    let rows = answer.rows.len();
    writeln!(out, "({rows} {})", if rows == 1 { "row" } else { "rows" })
}

fn json(answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    write!(out, "[")?;
    for (number, row) in answer.rows.iter().enumerate() {
        let separator = if number == 0 { "\n " } else { ",\n " };
        let object: Map<String, Value> = answer
            .columns
            .iter()
            .cloned()
            .zip(row.iter().cloned())
            .collect();
        write!(out, "{separator}{}", Value::Object(object))?;
    }
    let end = if answer.rows.is_empty() { "]" } else { "\n]" };
    writeln!(out, "{end}")
}

fn csv(answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    let line = |out: &mut dyn Write, cells: &mut dyn Iterator<Item = String>| {
        writeln!(out, "{}", cells.collect::<Vec<_>>().join(","))
    };
    line(out, &mut answer.columns.iter().map(|name| quoted(name)))?;
    for row in &answer.rows {
        line(out, &mut row.iter().map(cell))?;
    }
    Ok(())
}

/// Null is nothing at all, and so told from a text that is empty, as PostgreSQL does it.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        value => quoted(&plain(value)),
    }
}

/// A text as RFC 4180 wants it; lines end as in other text.
fn quoted(cell: &str) -> String {
    if cell.is_empty() || cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(output: RowsOutput, rows: Vec<Vec<Value>>) -> String {
        let columns = ["n", "s", "x"].map(ToOwned::to_owned).to_vec();
        let mut out = Vec::new();
        answer(&Answer { columns, rows }, output, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn rows() -> Vec<Vec<Value>> {
        vec![
            vec![
                json!(9_007_199_254_740_993_i64),
                json!("a,\"b\"\nc"),
                json!(null),
            ],
            vec![json!(-1), json!(""), json!(true)],
        ]
    }

    #[test]
    fn json_is_one_array_of_row_objects_with_integers_as_numbers() {
        let text = printed(RowsOutput::Json, rows());
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            read,
            json!([
                {"n": 9_007_199_254_740_993_i64, "s": "a,\"b\"\nc", "x": null},
                {"n": -1, "s": "", "x": true}
            ])
        );
        assert!(text.contains("\"n\":9007199254740993,"), "{text}");
        assert_eq!(printed(RowsOutput::Json, Vec::new()), "[]\n");
    }

    #[test]
    fn csv_quotes_what_needs_it_and_tells_nothing_from_an_empty_text() {
        assert_eq!(
            printed(RowsOutput::Csv, rows()),
            "n,s,x\n9007199254740993,\"a,\"\"b\"\"\nc\",\n-1,\"\",true\n"
        );
    }

    #[test]
    fn a_table_says_how_many_rows_it_has() {
        let text = printed(RowsOutput::Table, rows());
        assert!(
            text.contains("| 9007199254740993 |") && text.ends_with("(2 rows)\n"),
            "{text}"
        );
        assert!(printed(RowsOutput::Table, rows()[..1].to_vec()).ends_with("(1 row)\n"));
    }
}

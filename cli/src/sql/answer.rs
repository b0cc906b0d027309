//! What a statement gives: columns and rows, or an error with a place.

use serde_json::Value;

/// Rows of named columns. Integers are JSON numbers, null is null, what JSON has no form for is text.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Value>>,
}

/// A statement that was refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message} (SQLSTATE {sqlstate})")]
pub(crate) struct SqlError {
    pub(crate) sqlstate: String,
    pub(crate) message: String,
    /// Counts characters of the statement from 1, as PostgreSQL does.
    pub(crate) position: Option<usize>,
}

impl SqlError {
    /// The message; when the place is known, with the line of the statement and a caret below it.
    pub(crate) fn with_caret(&self, sql: &str) -> String {
        let mut text = format!("ERROR {}: {}", self.sqlstate, self.message);
        let Some(mut left) = self.position.and_then(|position| position.checked_sub(1)) else {
            return text;
        };
        for (number, line) in sql.split('\n').enumerate() {
            let length = line.chars().count();
            if left <= length {
                let head = format!("LINE {}: ", number + 1);
                let blanks = " ".repeat(head.len() + left);
                text.push_str(&format!("\n{head}{line}\n{blanks}^"));
                break;
            }
            left -= length + 1;
        }
        text
    }
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

    #[test]
    fn a_caret_stands_below_the_place_also_in_a_later_line_and_after_wide_letters() {
        let error = |position| SqlError {
            sqlstate: "42703".to_owned(),
            message: "no column x".to_owned(),
            position,
        };
        let sql = "select é,\n  x from t";
        assert_eq!(
            error(Some(13)).with_caret(sql),
            "ERROR 42703: no column x\nLINE 2:   x from t\n          ^"
        );
        assert_eq!(
            error(Some(8)).with_caret(sql),
            "ERROR 42703: no column x\nLINE 1: select é,\n               ^"
        );
        assert_eq!(error(None).with_caret(sql), "ERROR 42703: no column x");
        assert_eq!(error(Some(900)).with_caret(sql), "ERROR 42703: no column x");
    }
}

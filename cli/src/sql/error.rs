//! A statement that gave no rows: what is wrong with it, and where.

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

#[cfg(test)]
mod tests {
    use super::*;

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

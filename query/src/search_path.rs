//! How tools ask whether a schema is on the search path: by a series over an array, which the planner
//! does not know, rewritten to a question that it does.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Query, SetExpr, Statement, TableFactor, visit_expressions_mut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

/// Turns each `x IN (SELECT .. FROM string_to_array(current_setting('search_path'), ',') s ..)` into a
/// question to the array itself. Tells whether there was one.
pub(crate) fn rewrite(statements: &mut Vec<Statement>) -> bool {
    let mut found = false;
    let _never_stopped = visit_expressions_mut(statements, |expr| {
        if let Expr::InSubquery {
            expr: asked,
            subquery,
            negated: false,
        } = expr
            && reads_search_path(subquery)
            && let Some(rewritten) = on_search_path(asked)
        {
            *expr = rewritten;
            found = true;
        }
        ControlFlow::<()>::Continue(())
    });
    found
}

/// Whether the query reads the array of the search path, and no table.
fn reads_search_path(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return false;
    };
    let factors = select.from.iter().flat_map(|from| {
        std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation))
    });
    let mut of_path = false;
    for factor in factors {
        // A table function is a table with arguments.
        let TableFactor::Table { args: Some(_), .. } = factor else {
            return false;
        };
        let text = factor.to_string().replace(' ', "").to_ascii_lowercase();
        of_path |= text.starts_with("string_to_array(current_setting('search_path'),',')");
    }
    of_path && query.with.is_none() && select.selection.is_none()
}

fn on_search_path(asked: &Expr) -> Option<Expr> {
    let sql = format!(
        "array_has(string_to_array(replace(current_setting('search_path'), ' ', ''), ','), {asked})"
    );
    let parser = Parser::new(&PostgreSqlDialect {}).try_with_sql(&sql);
    parser.and_then(|mut parser| parser.parse_expr()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(sql: &str) -> (bool, String) {
        let mut statements = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap();
        let found = rewrite(&mut statements);
        (found, statements[0].to_string())
    }

    #[test]
    fn a_series_over_the_search_path_becomes_a_question_to_the_array() {
        let path = "string_to_array(current_setting('search_path'),',')";
        let sql = format!(
            "SELECT 1 WHERE quote_ident(a) IN (SELECT trim(s[i]) FROM generate_series(array_lower({path},1),
             array_upper({path},1)) as i, {path} s)"
        );
        let (found, text) = rewritten(&sql);
        assert!(found);
        let expected = "SELECT 1 WHERE array_has(string_to_array(replace(current_setting('search_path'), ' ', ''), ','), quote_ident(a))";
        assert_eq!(text, expected);
    }

    #[test]
    fn no_other_subquery_is_touched() {
        let path = "string_to_array(current_setting('search_path'),',')";
        for sql in [
            "SELECT 1 WHERE a IN (SELECT b FROM c)".to_owned(),
            "SELECT 1 WHERE a IN (SELECT b FROM string_to_array('x,y', ',') AS b)".to_owned(),
            format!("SELECT 1 WHERE a IN (SELECT b FROM c, {path} AS s)"),
            format!("SELECT 1 WHERE a IN (SELECT b FROM {path} AS s WHERE b = 'x')"),
            format!("SELECT 1 WHERE a NOT IN (SELECT b FROM {path} AS s)"),
        ] {
            assert!(!rewritten(&sql).0, "{sql}");
        }
    }
}

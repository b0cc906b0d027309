//! How long the chains of a statement are: what stands in a row becomes a tree as deep as it is long,
//! and a deep enough tree ends the process when its thread's stack is full.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{ObjectName, Statement, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::error::SqlError;

/// Operators, casts and `CASE` branches in a statement. A list of values counts for nothing.
const OPERATORS_MAX: usize = 500;
/// Sets joined by `UNION` and the like, joins, and queries named by `WITH`, in a statement.
const RELATIONS_MAX: usize = 150;

/// Refuses a text whose chains are too long to be planned on the threads' stacks.
///
/// # Errors
/// 54001. A text that has no tokens at all is left to the parser.
pub(crate) fn check(sql: &str) -> Result<(), SqlError> {
    let Ok(tokens) = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize() else {
        return Ok(());
    };
    let words = || {
        tokens
            .iter()
            .filter(|token| !matches!(token, Token::Whitespace(_)))
    };
    let before = std::iter::once(&Token::Comma).chain(words());
    // The sign of a number in a list is no link of a chain.
    let is_sign = |before: &Token, token: &Token| {
        *token == Token::Minus && matches!(before, Token::Comma | Token::LParen)
    };
    let operators = before
        .zip(words())
        .filter(|(before, token)| is_operator(token) && !is_sign(before, token))
        .count();
    if operators > OPERATORS_MAX {
        return Err(too_long(
            "operators",
            OPERATORS_MAX,
            "use a list: a in (1, 2, ..)",
        ));
    }
    few_enough(words().filter(|token| is_relation(token)).count())
}

/// Refuses statements that read too many tables: those of a `FROM` list are joined in a chain.
///
/// # Errors
/// 54001.
pub(crate) fn check_tables(statements: &[Statement]) -> Result<(), SqlError> {
    struct Tables(usize);
    impl Visitor for Tables {
        type Break = ();
        fn pre_visit_relation(&mut self, _: &ObjectName) -> ControlFlow<()> {
            self.0 += 1;
            ControlFlow::Continue(())
        }
    }
    let mut tables = Tables(0);
    for statement in statements {
        let _never_stopped = statement.visit(&mut tables);
    }
    few_enough(tables.0)
}

fn few_enough(relations: usize) -> Result<(), SqlError> {
    if relations > RELATIONS_MAX {
        return Err(too_long(
            "queries and tables",
            RELATIONS_MAX,
            "ask in several statements",
        ));
    }
    Ok(())
}

fn too_long(what: &str, most: usize, instead: &str) -> SqlError {
    SqlError::new(
        "54001",
        format!("the statement has more than {most} {what}; {instead}"),
    )
}

fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND | Keyword::OR | Keyword::NOT | Keyword::WHEN | Keyword::IS | Keyword::LIKE
        ),
        Token::Whitespace(_)
        | Token::Comma
        | Token::Period
        | Token::SemiColon
        | Token::LParen
        | Token::RParen
        | Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::EscapedStringLiteral(_)
        | Token::HexStringLiteral(_)
        | Token::Placeholder(_)
        | Token::LBracket
        | Token::RBracket
        | Token::EOF => false,
        _ => true,
    }
}

fn is_relation(token: &Token) -> bool {
    matches!(token, Token::Word(word) if matches!(
        word.keyword,
        Keyword::SELECT | Keyword::JOIN | Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(sql: &str) -> Option<&'static str> {
        check(sql).err().map(|error| error.sqlstate)
    }

    #[test]
    fn long_chains_are_refused_and_long_lists_are_not() {
        for item in ["'a'", "-1", "$1"] {
            let list = vec![item; 50_000].join(", ");
            assert_eq!(state(&format!("select 1 where a in ({list})")), None);
        }
        for (frame, link) in [
            ("select 1{}", "+1"),
            ("select 1{}", "::int"),
            ("select 'a'{}", "||'a'"),
            ("select 1 where true{}", " or true"),
            ("select {} true", "not "),
            ("select 1{}", " union all select 1"),
            ("select 1 from gaps{}", " cross join gaps"),
            ("with a as (select 1){} select 1", ", b as (select 1)"),
        ] {
            let of = |n: usize| frame.replace("{}", &link.repeat(n));
            assert_eq!(state(&of(70)), None, "{link}");
            assert_eq!(state(&of(5_000)), Some("54001"), "{link}");
        }
    }

    #[test]
    fn tables_that_stand_in_a_row_are_counted() {
        let of = |tables: usize| {
            let sql = format!("select 1 from {}", vec!["gaps"; tables].join(", "));
            check_tables(&crate::guard::parse(&sql)?)
        };
        assert!(of(100).is_ok());
        assert_eq!(of(1_000).unwrap_err().sqlstate, "54001");
    }
}

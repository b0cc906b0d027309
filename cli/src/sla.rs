//! `counterfoil sla check`: the objectives against the calls, for people and for pipelines.

use anyhow::anyhow;
use serde_json::Value;

use crate::{
    args::{FailOn, SlaCheckArgs},
    console::remark,
    exit::{BREACH, Failure, OK, Outcome},
    sql,
};

/// Judges, prints, and ends as `--fail-on` says.
pub(crate) fn check(args: &SlaCheckArgs) -> Outcome {
    let answer = match sql::ask(&args.source, &statement(args))? {
        Ok(answer) => answer,
        Err(error) => return Err(Failure::from(error)),
    };
    if answer.rows.is_empty() {
        let which = "no objective of that name and service: SELECT * FROM objectives";
        return Err(Failure::usage(anyhow!(which)));
    }
    let count = |is: &dyn Fn(Option<&Value>) -> bool, column| {
        let rows = answer.rows.iter();
        rows.filter(|row| is(answer.value(row, column))).count()
    };
    let breached = count(&|value| value == Some(&Value::Bool(true)), "breached");
    let empty = count(&|value| value.is_none_or(Value::is_null), "sli");
    answer.print(args.output)?;
    if breached > 0 {
        remark(format!("{breached} objectives are not kept"));
    }
    if empty > 0 {
        remark(format!("{empty} objectives have no call to be judged by"));
    }
    let has_failed = match args.fail_on {
        FailOn::Never => false,
        FailOn::Breach => breached > 0,
        FailOn::NoData => breached + empty > 0,
    };
    Ok(if has_failed { BREACH } else { OK })
}

fn statement(args: &SlaCheckArgs) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let window = match (&args.from, &args.until) {
        (None, _) => String::new(),
        (Some(from), None) => format!("({})", quoted(from)),
        (Some(from), Some(until)) => format!("({}, {})", quoted(from), quoted(until)),
    };
    let is = |column: &str, value: &Option<String>| {
        let value = value.as_ref()?;
        Some(format!("{column} = {}", quoted(value)))
    };
    let chosen = [
        is("objective", &args.objective),
        is("service", &args.service),
    ];
    let chosen: Vec<String> = chosen.into_iter().flatten().collect();
    let chosen = if chosen.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", chosen.join(" AND "))
    };
    // Of a window that is given the objective's own length would be a lie.
    let length = if args.from.is_some() {
        ""
    } else {
        "window_days, "
    };
    format!(
        "SELECT objective, service, operation, measure, {length}good, total, sli, target, error_budget_left, breached \
         FROM sla{window}{chosen} ORDER BY breached DESC NULLS LAST, error_budget_left, objective, service"
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command, SlaCommand};

    fn statement_of(line: &str) -> String {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Sla(sla) = cli.command else {
            panic!("{line}");
        };
        let SlaCommand::Check(args) = sla.command;
        statement(&args)
    }

    #[test]
    fn what_is_given_is_quoted_and_what_is_not_is_left_out() {
        let text = statement_of(
            "counterfoil sla check --service o'brien --from 2026-10-01 --until 2026-11-01",
        );
        assert!(
            text.contains(
                "FROM sla('2026-10-01', '2026-11-01') WHERE service = 'o''brien' ORDER BY"
            ),
            "{text}"
        );
        assert!(statement_of("counterfoil sla check").contains("FROM sla ORDER BY"));
    }
}

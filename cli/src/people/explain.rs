//! `counterfoil policy explain`.

use serde_json::Value;

use super::{
    door::Door,
    show::{self, failed},
};
use crate::{
    args::{PolicyArgs, PolicyCommand, RowsOutput},
    client::encoded,
    console::{escaped, line},
    exit::{OK, Outcome},
};

const COLUMNS: [&str; 6] = ["decision", "reason", "api", "operation", "grant_id", "rule"];

pub(super) async fn run(args: &PolicyArgs) -> Outcome {
    let PolicyCommand::Explain { caller, call, to } = &args.command;
    let mut door = Door::open(&args.door).await?;
    let mut path = format!(
        "/v1/policy/explain?as={}&call={}",
        encoded(caller),
        encoded(call)
    );
    if let Some(to) = to {
        path.push_str("&to=");
        path.push_str(&encoded(to));
    }
    let answer = door.get(&path).await.map_err(failed)?;
    match args.door.output {
        RowsOutput::Table => line(told(&answer)),
        RowsOutput::Json => show::object(answer, RowsOutput::Json)?,
        RowsOutput::Csv => {
            let columns = COLUMNS.map(|name| {
                let value = answer.get(name).cloned().unwrap_or(Value::Null);
                (name.to_owned(), value)
            });
            let row = Value::Object(columns.into_iter().collect());
            show::rows(vec![row], &COLUMNS, RowsOutput::Csv)?;
        }
    }
    Ok(OK)
}

/// An explanation in sentences.
fn told(answer: &Value) -> String {
    let text = |of: &Value, name: &str| {
        let text = of.get(name).and_then(Value::as_str);
        text.filter(|text| !text.is_empty()).map(escaped)
    };
    let mut out = format!(
        "{}: {}",
        text(answer, "decision").unwrap_or_default(),
        text(answer, "reason").unwrap_or_default()
    );
    for (label, name) in [
        ("api", "api"),
        ("operation", "operation"),
        ("grant", "grant_id"),
        ("rule", "rule"),
    ] {
        if let Some(value) = text(answer, name) {
            out.push_str(&format!("\n  {label:<10} {value}"));
        }
    }
    let nearest = answer.get("nearest").and_then(Value::as_array);
    for near in nearest.into_iter().flatten() {
        let id = text(near, "grant_id")
            .map(|id| format!("{id}: "))
            .unwrap_or_default();
        let what = text(near, "what").unwrap_or_default();
        out.push_str(&format!("\n  {:<10} {id}{what}", "nearest"));
        if let Some(missing) = text(near, "missing") {
            out.push_str(&format!("\n  {:<10} {missing}", "  missing"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_denial_names_the_nearest_grant_and_what_is_missing() {
        let said = told(&json!({
            "decision": "deny", "reason": "grant_none", "api": "pay", "operation": "create",
            "grant_id": null, "rule": "no grant lets shop call create",
            "nearest": [{"grant_id": "G-4", "what": "lets shop call list", "missing": "create is not among its operations\u{1b}"}],
        }));
        assert_eq!(
            said,
            "deny: grant_none\n  api        pay\n  operation  create\n  \
             rule       no grant lets shop call create\n  \
             nearest    G-4: lets shop call list\n    missing  create is not among its operations\\u{1b}"
        );
    }
}

//! Objects of control as rows: what people read, what programs read.

use serde_json::Value;

use super::door::DoorError;
use crate::{args::RowsOutput, console::raw, exit::Failure, rows::Answer};

/// Prints objects: a table has `columns`, the other forms everything that the objects have.
pub(super) fn rows(
    objects: Vec<Value>,
    columns: &[&str],
    output: RowsOutput,
) -> anyhow::Result<()> {
    answer(objects, columns, output).print(output)
}

fn answer(objects: Vec<Value>, columns: &[&str], output: RowsOutput) -> Answer {
    let short: Vec<String> = columns.iter().map(ToString::to_string).collect();
    match output {
        RowsOutput::Table => Answer::of_objects(short, objects.into_iter().map(flat).collect()),
        RowsOutput::Csv => {
            let names = names(&objects).unwrap_or(short);
            Answer::of_objects(names, objects.into_iter().map(flat).collect())
        }
        RowsOutput::Json => Answer::of_objects(names(&objects).unwrap_or(short), objects),
    }
}

/// Prints one object: in a table its fields below each other, those that are lists of objects left out.
pub(super) fn object(object: Value, output: RowsOutput) -> anyhow::Result<()> {
    match output {
        RowsOutput::Json => {
            raw(serde_json::to_string_pretty(&object)?);
            Ok(())
        }
        RowsOutput::Csv => rows(vec![object], &[], output),
        RowsOutput::Table => fields(object).print(output),
    }
}

fn fields(object: Value) -> Answer {
    let Value::Object(fields) = flat(object) else {
        return Answer::default();
    };
    let rows = fields
        .into_iter()
        .filter(|(_, value)| !value.is_array() && !value.is_null())
        // As text, so that numbers do not stand at the right alone.
        .map(|(name, value)| vec![Value::String(name), value])
        .collect();
    Answer {
        columns: ["field", "value"].map(ToOwned::to_owned).to_vec(),
        rows,
    }
}

/// The list under `name` of an answer.
pub(super) fn list(mut answer: Value, name: &str) -> Result<Vec<Value>, DoorError> {
    match answer.get_mut(name).map(Value::take) {
        Some(Value::Array(items)) => Ok(items),
        _ => Err(DoorError::Form(http::StatusCode::OK, name.to_owned())),
    }
}

/// What has no answer ends the command.
pub(super) fn failed(error: DoorError) -> Failure {
    match error {
        DoorError::Nameless => Failure::usage(error),
        other => other.into(),
    }
}

/// Adds a field to a body when it was given.
pub(super) fn put(body: &mut Value, name: &str, value: Option<&str>) {
    if let (Some(value), Some(body)) = (value, body.as_object_mut()) {
        body.insert(name.to_owned(), Value::String(value.to_owned()));
    }
}

/// The names of all fields, in the order in which they come.
fn names(objects: &[Value]) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for name in objects
        .iter()
        .filter_map(Value::as_object)
        .flat_map(|o| o.keys())
    {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    (!names.is_empty()).then_some(names)
}

/// Lists of texts as one text.
fn flat(object: Value) -> Value {
    let Value::Object(fields) = object else {
        return object;
    };
    let joined = |value: Value| match &value {
        Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            texts.map_or_else(|| value.clone(), |texts| Value::String(texts.join(", ")))
        }
        _ => value,
    };
    Value::Object(
        fields
            .into_iter()
            .map(|(name, value)| (name, joined(value)))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_are_short_and_the_rest_is_whole() {
        let objects = || vec![json!({"a": 1, "b": ["x", "y"]}), json!({"a": 2, "c": null})];
        let table = answer(objects(), &["a", "b"], RowsOutput::Table);
        assert_eq!(table.columns, ["a", "b"]);
        assert_eq!(table.rows[0], [json!(1), json!("x, y")]);
        let csv = answer(objects(), &["a"], RowsOutput::Csv);
        assert_eq!(csv.columns, ["a", "b", "c"]);
        assert_eq!(csv.rows[0][1], json!("x, y"));
        let whole = answer(objects(), &["a"], RowsOutput::Json);
        assert_eq!(whole.rows[0], [json!(1), json!(["x", "y"]), json!(null)]);
        let nothing = answer(Vec::new(), &["a"], RowsOutput::Csv);
        assert_eq!(nothing.columns, ["a"], "a header also without rows");
    }

    #[test]
    fn an_object_stands_below_itself_without_what_is_empty() {
        let shown = fields(json!({"id": "G-1", "n": 3, "gone": null, "list": [{"x": 1}]}));
        let expected = [[json!("id"), json!("G-1")], [json!("n"), json!(3)]];
        assert_eq!(shown.rows, expected);
    }

    #[test]
    fn an_answer_without_its_list_is_no_answer() {
        assert_eq!(list(json!({"apis": [1]}), "apis").unwrap(), [json!(1)]);
        assert!(list(json!({}), "apis").is_err());
        assert!(list(json!({"apis": {}}), "apis").is_err());
    }
}

//! The values that a client binds to the parameters of a prepared statement.

use arrow_pg::datatypes::df::deserialize_parameters;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::common::{ParamValues, ScalarValue};
use pgwire::api::Type;
use pgwire::api::portal::Portal;
use pgwire::error::PgWireResult;

use super::answer::wire;
use crate::error::SqlError;

/// The values of `$1`, `$2`, .. in order. One whose type nobody told is text.
pub(super) fn bound<S: Clone>(
    portal: &Portal<S>,
    types: &[Option<&DataType>],
) -> PgWireResult<Vec<ScalarAndMetadata>> {
    let told = |place: usize| {
        let hint = portal.statement.parameter_types.get(place).cloned();
        hint.flatten().filter(|hint| *hint != Type::UNKNOWN)
    };
    let untold: Vec<bool> = (0..portal.parameter_len())
        .map(|place| told(place).is_none() && types.get(place).copied().flatten().is_none())
        .collect();
    let mut values = Vec::with_capacity(untold.len());
    // The decoder leaves out a null of a type that it does not know, which would move those behind it.
    let known = deserialize_parameters(portal, types)?;
    let mut known = match known {
        ParamValues::List(list) => list.into_iter(),
        ParamValues::Map(_) => Vec::new().into_iter(),
    };
    for (place, is_untold) in untold.into_iter().enumerate() {
        let is_null = portal.parameters.get(place).is_some_and(Option::is_none);
        if !is_untold {
            values.extend(known.next());
        } else if is_null {
            values.push(ScalarValue::Utf8(None).into());
        } else {
            // It would take a text that begins with a brace for a list.
            let _as_guessed = known.next();
            values.push(ScalarValue::Utf8(portal.parameter::<String>(place, &Type::TEXT)?).into());
        }
    }
    if values.len() != portal.parameter_len() {
        let text = "a parameter is null and of a type that is not known here: cast it to text";
        return Err(wire(SqlError::new("42P18", text)));
    }
    Ok(values)
}

//! Scalar functions of the views, and what clients expect a PostgreSQL server to know.

use std::collections::BTreeMap;
use std::sync::Arc;

use counterfoil_entry::statement::{Statement, StatementKind};
use datafusion::arrow::array::{
    ArrayRef, AsArray, Int64Builder, ListBuilder, StringBuilder, StructBuilder,
};
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::public::AsText;

/// `version()` and `server_version`: a PostgreSQL number, for drivers parse it.
pub const SERVER_VERSION: &str = "16.6";

/// Functions that are the same for every session.
#[must_use]
pub fn scalars() -> Vec<ScalarUDF> {
    let mut functions = vec![
        ScalarUDF::new_from_impl(AsText::new()),
        ScalarUDF::new_from_impl(OfStatement::new(Part::Ranges)),
        ScalarUDF::new_from_impl(OfStatement::new(Part::Drops)),
        ScalarUDF::new_from_impl(OfStatement::new(Part::OldEpoch)),
        ScalarUDF::new_from_impl(Constant::new(
            "version",
            format!(
                "PostgreSQL {SERVER_VERSION} (Counterfoil {})",
                env!("CARGO_PKG_VERSION")
            ),
        )),
    ];
    functions.extend(crate::hdr::scalars());
    functions
}

/// Functions that tell a session about itself.
#[must_use]
pub fn of_session(user: &str, settings: &BTreeMap<String, String>) -> Vec<ScalarUDF> {
    let user = || user.to_owned();
    vec![
        ScalarUDF::new_from_impl(Constant::new("session_user", user())),
        ScalarUDF::new_from_impl(Constant::new("current_user", user())),
        ScalarUDF::new_from_impl(Constant::new("user", user())),
        ScalarUDF::new_from_impl(CurrentSetting {
            settings: settings.clone(),
            signature: Signature::one_of(
                vec![
                    datafusion::logical_expr::TypeSignature::String(1),
                    datafusion::logical_expr::TypeSignature::Any(2),
                ],
                Volatility::Stable,
            ),
        }),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Ranges,
    Drops,
    OldEpoch,
}

/// `statement_ranges`, `statement_drops` and `statement_old_epoch` of a signed statement's bytes.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OfStatement {
    part: Part,
    signature: Signature,
}

impl OfStatement {
    fn new(part: Part) -> Self {
        let signature = Signature::exact(vec![DataType::Binary], Volatility::Immutable);
        Self { part, signature }
    }

    fn fields(&self) -> Fields {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        match self.part {
            Part::Ranges => vec![
                field("epoch", DataType::Int64),
                field("stream", DataType::Utf8),
                field("first_seq", DataType::Int64),
                field("until_seq", DataType::Int64),
            ],
            _ => vec![
                field("stream", DataType::Utf8),
                field("reason", DataType::Utf8),
                field("dropped", DataType::Int64),
            ],
        }
        .into()
    }
}

impl ScalarUDFImpl for OfStatement {
    fn name(&self) -> &str {
        match self.part {
            Part::Ranges => "statement_ranges",
            Part::Drops => "statement_drops",
            Part::OldEpoch => "statement_old_epoch",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(match self.part {
            Part::OldEpoch => DataType::Int64,
            _ => DataType::List(Arc::new(Field::new_list_field(
                DataType::Struct(self.fields()),
                true,
            ))),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [array] = arrays.as_slice() else {
            return Err(DataFusionError::Plan(format!(
                "{} takes one argument",
                self.name()
            )));
        };
        let statements = array.as_binary::<i32>().iter().map(|bytes| {
            bytes.map(Statement::decode).transpose().map_err(|error| {
                DataFusionError::Execution(format!("decoding a statement of the books: {error}"))
            })
        });
        match self.part {
            Part::OldEpoch => old_epochs(statements),
            Part::Ranges | Part::Drops => self.lists(statements),
        }
    }
}

fn old_epochs(
    statements: impl Iterator<Item = Result<Option<Statement>>>,
) -> Result<ColumnarValue> {
    let mut out = Int64Builder::new();
    for statement in statements {
        let epoch = statement?.and_then(|statement| match statement.kind {
            StatementKind::Recovery(recovery) => Some(number(recovery.old_epoch.0)),
            _ => None,
        });
        out.append_option(epoch);
    }
    Ok(ColumnarValue::Array(Arc::new(out.finish())))
}

impl OfStatement {
    fn lists(
        &self,
        statements: impl Iterator<Item = Result<Option<Statement>>>,
    ) -> Result<ColumnarValue> {
        let item = StructBuilder::from_fields(self.fields(), 0);
        let mut out = ListBuilder::new(item);
        for statement in statements {
            let Some(statement) = statement? else {
                out.append_null();
                continue;
            };
            let rows: Vec<Vec<Cell>> = match self.part {
                Part::Ranges => statement
                    .covered()
                    .map(|(epoch, range)| {
                        vec![
                            Cell::Number(number(epoch.0)),
                            Cell::Text(range.stream.to_string()),
                            Cell::Number(number(range.first_seq)),
                            Cell::Number(number(range.first_seq.saturating_add(range.count))),
                        ]
                    })
                    .collect(),
                _ => statement
                    .drops
                    .iter()
                    .map(|drop| {
                        vec![
                            Cell::Text(drop.stream.to_string()),
                            Cell::Text(drop.reason.clone()),
                            Cell::Number(number(drop.dropped)),
                        ]
                    })
                    .collect(),
            };
            for row in rows {
                append(out.values(), row);
            }
            out.append(true);
        }
        let list: ArrayRef = Arc::new(out.finish());
        Ok(ColumnarValue::Array(list))
    }
}

enum Cell {
    Number(i64),
    Text(String),
}

fn append(row: &mut StructBuilder, cells: Vec<Cell>) {
    for (place, cell) in cells.into_iter().enumerate() {
        match cell {
            Cell::Number(value) => {
                if let Some(builder) = row.field_builder::<Int64Builder>(place) {
                    builder.append_value(value);
                }
            }
            Cell::Text(value) => {
                if let Some(builder) = row.field_builder::<StringBuilder>(place) {
                    builder.append_value(value);
                }
            }
        }
    }
    row.append(true);
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A function without arguments that returns one text.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Constant {
    name: &'static str,
    value: String,
    signature: Signature,
}

impl Constant {
    fn new(name: &'static str, value: String) -> Self {
        Self {
            name,
            value,
            signature: Signature::nullary(Volatility::Stable),
        }
    }
}

impl ScalarUDFImpl for Constant {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(ScalarValue::Utf8(Some(
            self.value.clone(),
        ))))
    }
}

/// `current_setting(name [, missing_ok])`
#[derive(Debug, PartialEq, Eq, Hash)]
struct CurrentSetting {
    settings: BTreeMap<String, String>,
    signature: Signature,
}

impl ScalarUDFImpl for CurrentSetting {
    fn name(&self) -> &str {
        "current_setting"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let name = match args.args.first() {
            Some(ColumnarValue::Scalar(value)) => value.try_as_str().flatten(),
            _ => None,
        };
        let name = name.unwrap_or_default().to_ascii_lowercase();
        let value = self.settings.get(&name).cloned();
        if value.is_none() && args.args.len() == 1 {
            return Err(DataFusionError::Plan(format!(
                "unrecognized configuration parameter \"{name}\""
            )));
        }
        Ok(ColumnarValue::Scalar(ScalarValue::Utf8(value)))
    }
}

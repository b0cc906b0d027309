//! `counterfoil api`.

use serde_json::{Value, json};

use super::{
    door::Door,
    import,
    show::{self, failed},
};
use crate::{
    args::{ApiArgs, ApiCommand, RowsOutput},
    client::encoded,
    exit::{OK, Outcome},
};

/// What a table of APIs shows.
pub(super) const COLUMNS: [&str; 9] = [
    "api",
    "api_version",
    "status",
    "owner_team",
    "server",
    "access",
    "operations",
    "retention_class",
    "scopes",
];
const OPERATION_COLUMNS: [&str; 6] = [
    "operation",
    "method",
    "route",
    "scopes",
    "retention_class",
    "open",
];

pub(super) async fn run(args: &ApiArgs) -> Outcome {
    let output = args.door.output;
    let mut door = Door::open(&args.door).await?;
    match &args.command {
        ApiCommand::Import(files) => return import::run(&mut door, files, output).await,
        ApiCommand::List => {
            let answer = door.get("/v1/apis").await.map_err(failed)?;
            show::rows(
                show::list(answer, "apis").map_err(failed)?,
                &COLUMNS,
                output,
            )?;
        }
        ApiCommand::Show { api } => {
            let path = format!("/v1/apis/{}", encoded(api));
            show_one(door.get(&path).await.map_err(failed)?, output)?;
        }
        ApiCommand::Deprecate { api, comment } => {
            set_status(&mut door, api, "deprecated", comment.as_deref(), output).await?;
        }
        ApiCommand::Retire { api, comment } => {
            set_status(&mut door, api, "retired", comment.as_deref(), output).await?;
        }
    }
    Ok(OK)
}

/// The API, and in a table below it its operations; in CSV these alone.
fn show_one(api: Value, output: RowsOutput) -> anyhow::Result<()> {
    if output == RowsOutput::Json {
        return show::object(api, output);
    }
    let operations = api
        .get("operation_list")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if output == RowsOutput::Table {
        show::object(api, output)?;
    }
    show::rows(operations, &OPERATION_COLUMNS, output)
}

async fn set_status(
    door: &mut Door,
    api: &str,
    status: &str,
    comment: Option<&str>,
    output: RowsOutput,
) -> Outcome {
    let mut body = json!({ "status": status });
    show::put(&mut body, "comment", comment);
    let path = format!("/v1/apis/{}/status", encoded(api));
    let answer = door.post(&path, &body).await.map_err(failed)?;
    show::rows(vec![answer], &COLUMNS, output)?;
    Ok(OK)
}

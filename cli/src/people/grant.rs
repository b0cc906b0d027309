//! `counterfoil grant`.

use serde_json::{Value, json};

use super::{
    door::{Door, DoorError},
    show::{self, failed},
};
use crate::{
    args::{DecideArgs, GrantArgs, GrantCommand, RequestArgs, RowsOutput},
    client::encoded,
    console::remark,
    exit::{FAILURE, OK, Outcome},
};

const COLUMNS: [&str; 9] = [
    "grant_id",
    "state",
    "consumer",
    "api",
    "operations",
    "ticket",
    "requested_by",
    "decided_by",
    "expires",
];

pub(super) async fn run(args: &GrantArgs) -> Outcome {
    let mut door = Door::open(&args.door).await?;
    let (door, output) = (&mut door, args.door.output);
    let verb = match &args.command {
        GrantCommand::Request(request) => {
            let granted = door.post("/v1/grants", &body(request)).await;
            show::rows(vec![granted.map_err(failed)?], &COLUMNS, output)?;
            if door.is_directory() {
                remark("those who decide hear of it when control starts");
            }
            return Ok(OK);
        }
        GrantCommand::List {
            state,
            consumer,
            api,
        } => {
            let filters = [("state", state), ("consumer", consumer), ("api", api)];
            let answer = door.get(&list_path(&filters)).await.map_err(failed)?;
            show::rows(
                show::list(answer, "grants").map_err(failed)?,
                &COLUMNS,
                output,
            )?;
            return Ok(OK);
        }
        GrantCommand::Show { id } => {
            let path = format!("/v1/grants/{}", encoded(id));
            show::object(door.get(&path).await.map_err(failed)?, output)?;
            return Ok(OK);
        }
        GrantCommand::Approve(decide) => ("approve", decide),
        GrantCommand::Reject(decide) => ("reject", decide),
        GrantCommand::Revoke(decide) => ("revoke", decide),
        GrantCommand::Review(decide) => ("review", decide),
        GrantCommand::ProposeRevocation(decide) => ("propose-revocation", decide),
        GrantCommand::WithdrawProposal(decide) => ("withdraw-proposal", decide),
    };
    decide(door, verb.0, verb.1, output).await
}

fn body(request: &RequestArgs) -> Value {
    let mut body = json!({
        "consumer": request.consumer,
        "api": request.api,
        "operations": request.operations,
        "purpose": request.purpose,
        "ticket": request.ticket,
        "expires": request.expires,
    });
    show::put(&mut body, "not_before", request.not_before.as_deref());
    body
}

fn list_path(filters: &[(&str, &Option<String>)]) -> String {
    let given: Vec<_> = filters
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", encoded(value.as_deref()?))))
        .collect();
    if given.is_empty() {
        "/v1/grants".to_owned()
    } else {
        format!("/v1/grants?{}", given.join("&"))
    }
}

/// Does the same to each grant; one that is refused does not keep the others back.
async fn decide(door: &mut Door, verb: &str, args: &DecideArgs, output: RowsOutput) -> Outcome {
    let mut body = json!({});
    show::put(&mut body, "comment", args.comment.as_deref());
    show::put(&mut body, "ticket", args.ticket.as_deref());
    let mut decided = Vec::new();
    let mut refused = 0_usize;
    for id in &args.ids {
        let path = format!("/v1/grants/{}/{verb}", encoded(id));
        match door.post(&path, &body).await {
            Ok(grant) => decided.push(grant),
            Err(DoorError::Problem(problem)) if !problem.is_login() => {
                refused += 1;
                remark(format_args!("refused: {id}: {problem}"));
            }
            Err(error) => {
                show::rows(decided, &COLUMNS, output)?;
                return Err(failed(error));
            }
        }
    }
    if !decided.is_empty() || output != RowsOutput::Table {
        show::rows(decided, &COLUMNS, output)?;
    }
    Ok(if refused == 0 { OK } else { FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_a_query() {
        assert_eq!(list_path(&[("state", &None), ("api", &None)]), "/v1/grants");
        let (state, consumer) = (
            Some("requested".to_owned()),
            Some("spiffe://b/w".to_owned()),
        );
        assert_eq!(
            list_path(&[("state", &state), ("consumer", &consumer), ("api", &None)]),
            "/v1/grants?state=requested&consumer=spiffe%3A%2F%2Fb%2Fw"
        );
    }
}

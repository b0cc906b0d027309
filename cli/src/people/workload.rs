//! `counterfoil workload`.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};

use super::{
    door::Door,
    show::{self, failed},
};
use crate::{
    args::{WorkloadAddArgs, WorkloadArgs, WorkloadCommand},
    console::remark,
    exit::{Failure, OK, Outcome},
};

const COLUMNS: [&str; 7] = [
    "name",
    "spiffe_id",
    "app",
    "team",
    "site",
    "zone",
    "addresses",
];
const TOKEN: &str = "join_token";

pub(super) async fn run(args: &WorkloadArgs) -> Outcome {
    let mut door = Door::open(&args.door).await?;
    let output = args.door.output;
    match &args.command {
        WorkloadCommand::List => {
            let answer = door.get("/v1/workloads").await.map_err(failed)?;
            show::rows(
                show::list(answer, "workloads").map_err(failed)?,
                &COLUMNS,
                output,
            )?;
        }
        WorkloadCommand::Add(workload) => {
            let added = add(&mut door, workload).await?;
            let mut columns = COLUMNS.to_vec();
            if added.get(TOKEN).is_some() {
                columns.push(TOKEN);
            }
            show::rows(vec![added], &columns, output)?;
        }
    }
    Ok(OK)
}

async fn add(door: &mut Door, args: &WorkloadAddArgs) -> Result<Value, Failure> {
    let body = body(args)?;
    // Before control is asked: a token that cannot be kept is lost.
    let kept = args.token_file.as_deref().map(|file| (file, create(file)));
    let Some((file, created)) = kept else {
        return door.post("/v1/workloads", &body).await.map_err(failed);
    };
    let mut out = created?;
    let added = door.post("/v1/workloads", &body).await.map_err(failed);
    let written = added.and_then(|mut added| {
        let token = added
            .as_object_mut()
            .and_then(|fields| fields.remove(TOKEN));
        let token = token.as_ref().and_then(Value::as_str);
        let token = token.ok_or_else(|| anyhow!("control gave no join token"))?;
        let written = out
            .write_all(token.as_bytes())
            .and_then(|()| out.sync_all());
        written.with_context(|| format!("writing {}", file.display()))?;
        Ok(added)
    });
    match &written {
        Ok(_) => remark(format_args!("the join token is in {}", file.display())),
        // It is empty, or not whole.
        Err(_) => drop(fs::remove_file(file)),
    }
    written
}

fn body(args: &WorkloadAddArgs) -> Result<Value, Failure> {
    let last = args
        .spiffe_id
        .rsplit('/')
        .next()
        .filter(|last| !last.is_empty());
    let name = args.name.as_deref().or(last).ok_or_else(|| {
        Failure::usage(anyhow!(
            "{:?} does not end in a name; give --name",
            args.spiffe_id
        ))
    })?;
    let mut body = json!({
        "spiffe_id": args.spiffe_id,
        "name": name,
        "app": args.app.as_deref().unwrap_or(name),
        "team": args.team,
        "addresses": args.addresses,
    });
    show::put(&mut body, "site", args.site.as_deref());
    show::put(&mut body, "zone", args.zone.as_deref());
    if (args.join_token || args.token_file.is_some())
        && let Some(body) = body.as_object_mut()
    {
        body.insert(TOKEN.to_owned(), Value::Bool(true));
    }
    Ok(body)
}

/// A new file that only its owner may read.
fn create(file: &Path) -> anyhow::Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("making {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(spiffe_id: &str) -> WorkloadAddArgs {
        WorkloadAddArgs {
            spiffe_id: spiffe_id.to_owned(),
            name: None,
            app: None,
            team: "shop".to_owned(),
            site: None,
            zone: Some("a".to_owned()),
            addresses: vec!["127.0.0.1:15006".to_owned()],
            token_file: None,
            join_token: false,
        }
    }

    #[test]
    fn what_is_not_said_follows_from_the_identity() {
        let expected = json!({
            "spiffe_id": "spiffe://bank.test/workload/shop", "name": "shop", "app": "shop",
            "team": "shop", "addresses": ["127.0.0.1:15006"], "zone": "a",
        });
        assert_eq!(
            body(&args("spiffe://bank.test/workload/shop")).unwrap(),
            expected
        );
        assert!(body(&args("spiffe://bank.test/")).is_err());
    }

    #[test]
    fn a_token_never_overwrites_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        create(&file).unwrap();
        assert!(create(&file).is_err());
    }
}

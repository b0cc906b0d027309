//! `counterfoil sql`: asks a running server, or a data directory with nothing running.

mod error;
pub(crate) mod offline;
mod remote;

use anyhow::{Context as _, anyhow};

use crate::{
    args::{SourceArgs, SqlArgs},
    client::Server,
    console::remark,
    exit::{FAILURE, Failure, OK, Outcome},
    rows::Answer,
};
use error::SqlError;

/// Asks and prints the answer, or the error with its SQLSTATE and place.
pub(crate) fn run(args: &SqlArgs) -> Outcome {
    match ask(&args.source, &args.sql)? {
        Ok(answer) => {
            answer.print(args.output)?;
            Ok(OK)
        }
        Err(error) => {
            remark(error.with_caret(&args.sql));
            Ok(FAILURE)
        }
    }
}

/// Asks one statement of the server or directory that was named; the inner error is the statement's own.
///
/// # Errors
/// When nothing could be asked.
pub(crate) fn ask(source: &SourceArgs, sql: &str) -> Result<Result<Answer, SqlError>, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // A statement is parsed and dropped on these threads, as deep as its longest chain.
        .thread_stack_size(counterfoil_query::STACK_BYTES)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let asked = runtime.block_on(async {
        if let Some(directory) = &source.data_dir {
            remark("reading the data directory itself: no query_log is written");
            let books = offline::Offline::open(directory).map_err(Failure::of_directory)?;
            return books.ask(sql).await.map_err(Failure::from);
        }
        let server = server(source)?;
        let asked = remote::ask(&server, sql).await;
        asked.map_err(|error| match error {
            remote::RemoteError::Sql(error) => Failure::from(error),
            other => Failure::from(other),
        })
    });
    match asked {
        Ok(answer) => Ok(Ok(answer)),
        Err(Failure { error, code }) => match error.downcast::<SqlError>() {
            Ok(error) => Ok(Err(error)),
            Err(error) => Err(Failure { code, error }),
        },
    }
}

fn server(source: &SourceArgs) -> Result<Server, Failure> {
    let given = source.url.clone();
    let url = given.or_else(|| std::env::var("COUNTERFOIL_URL").ok());
    let url = url.unwrap_or_else(|| format!("http://127.0.0.1:{}", remote::PORT));
    let password = std::env::var("PGPASSWORD").ok();
    let user = source.user.as_deref();
    let server =
        Server::parse(&url, remote::PORT, user, password.as_deref()).map_err(Failure::usage)?;
    if server.encrypted {
        let error = anyhow!("query has no TLS: the URL must begin with http://");
        return Err(Failure::usage(error));
    }
    Ok(server)
}

//! `counterfoil sql`: asks a running server, or a data directory with nothing running.

mod error;
pub(crate) mod offline;
mod remote;

use anyhow::{Context as _, anyhow};

use crate::{
    args::SqlArgs,
    client::Server,
    console::remark,
    exit::{FAILURE, Failure, OK, Outcome},
};
use error::SqlError;

/// Asks and prints the answer, or the error with its SQLSTATE and place.
pub(crate) fn run(args: &SqlArgs) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // A statement is parsed and dropped on these threads, as deep as its longest chain.
        .thread_stack_size(counterfoil_query::STACK_BYTES)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let asked = runtime.block_on(async {
        if let Some(directory) = &args.data_dir {
            remark("reading the data directory itself: no query_log is written");
            let books = offline::Offline::open(directory).map_err(Failure::of_directory)?;
            return books.ask(&args.sql).await.map_err(Failure::from);
        }
        let url = args
            .url
            .clone()
            .or_else(|| std::env::var("COUNTERFOIL_URL").ok());
        let url = url.unwrap_or_else(|| format!("http://127.0.0.1:{}", remote::PORT));
        let password = std::env::var("PGPASSWORD").ok();
        let user = args.user.as_deref();
        let server =
            Server::parse(&url, remote::PORT, user, password.as_deref()).map_err(Failure::usage)?;
        if server.encrypted {
            let error = anyhow!("query has no TLS: the URL must begin with http://");
            return Err(Failure::usage(error));
        }
        let asked = remote::ask(&server, &args.sql).await;
        asked.map_err(|error| match error {
            remote::RemoteError::Sql(error) => Failure::from(error),
            other => Failure::from(other),
        })
    });
    match asked {
        Ok(answer) => {
            answer.print(args.output)?;
            Ok(OK)
        }
        Err(Failure { error, code }) => match error.downcast::<SqlError>() {
            Ok(error) => {
                remark(error.with_caret(&args.sql));
                Ok(FAILURE)
            }
            Err(error) => Err(Failure { code, error }),
        },
    }
}

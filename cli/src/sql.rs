//! `counterfoil sql`: asks a running server, or a data directory with nothing running.

pub(crate) mod answer;
pub(crate) mod offline;
mod print;
mod remote;

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;

use crate::{
    args::{SqlArgs, SqlOutput},
    console::{remark, shown},
    exit::{FAILURE, Failure, OK, Outcome},
};
use answer::{Answer, SqlError};

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
            let books = offline::Offline::open(directory)?;
            return books.ask(&args.sql).await.map_err(Failure::from);
        }
        let password = std::env::var("PGPASSWORD").ok();
        let server = remote::Server::parse(&args.url, args.user.as_deref(), password.as_deref())
            .map_err(Failure::usage)?;
        server.ask(&args.sql).await.map_err(|error| match error {
            remote::RemoteError::Sql(error) => Failure::from(error),
            other => Failure::from(other),
        })
    });
    match asked {
        Ok(answer) => {
            let printed = write(&answer, args.output);
            match printed {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error)
                    .context("writing the answer")
                    .map_err(Failure::from),
                _ => Ok(OK),
            }
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

fn write(answer: &Answer, output: SqlOutput) -> io::Result<()> {
    let stdout = io::stdout();
    if output == SqlOutput::Csv && stdout.is_terminal() {
        // A file gets the values as they are, a terminal must not.
        let mut text = Vec::new();
        print::answer(answer, output, &mut text)?;
        return stdout
            .lock()
            .write_all(shown(&String::from_utf8_lossy(&text)).as_bytes());
    }
    let mut out = io::BufWriter::new(stdout.lock());
    print::answer(answer, output, &mut out)?;
    out.flush()
}

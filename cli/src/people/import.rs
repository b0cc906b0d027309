//! `counterfoil api import`: each document by itself, so that a bad one does not keep the good ones out.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::{
    api::COLUMNS,
    door::{Door, DoorError},
    show,
};
use crate::{
    args::{ImportArgs, RowsOutput},
    console::{chain, escaped, remark},
    exit::{FAILURE, OK, Outcome},
};

/// Control takes no larger document.
const DOCUMENT_BYTES_MAX: u64 = 8 << 20;
/// Nor a longer name of its file.
const FILE_BYTES_MAX: usize = 200;

pub(super) async fn run(door: &mut Door, args: &ImportArgs, output: RowsOutput) -> Outcome {
    let bar = progress(args.files.len());
    let (mut taken, mut refused) = (Vec::new(), 0_usize);
    for file in &args.files {
        bar.set_message(escaped(&file.display().to_string()));
        match import(door, args, file).await {
            Ok(api) => taken.push(api),
            Err(Refused::Document(reason)) => {
                refused += 1;
                bar.suspend(|| remark(format_args!("refused: {reason}")));
            }
            Err(Refused::Door(error)) => {
                bar.finish_and_clear();
                print_taken(taken, output)?;
                return Err(show::failed(error));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let imported = taken.len();
    print_taken(taken, output)?;
    if imported > 0 && door.is_directory() {
        remark("the mesh hears of it when control starts");
    }
    if refused == 0 {
        return Ok(OK);
    }
    remark(format_args!(
        "{imported} of {} documents imported, {refused} refused",
        args.files.len()
    ));
    Ok(FAILURE)
}

fn print_taken(taken: Vec<Value>, output: RowsOutput) -> anyhow::Result<()> {
    if taken.is_empty() && output == RowsOutput::Table {
        return Ok(());
    }
    show::rows(taken, &COLUMNS, output)
}

/// Drawn only on a terminal.
fn progress(files: usize) -> ProgressBar {
    let target = if files > 1 {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(u64::try_from(files).ok(), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}

enum Refused {
    /// This document alone; with its file.
    Document(String),
    /// No further one would be taken.
    Door(DoorError),
}

async fn import(door: &mut Door, args: &ImportArgs, file: &Path) -> Result<Value, Refused> {
    let name = file.display().to_string();
    let text = read(file).map_err(|error| Refused::Document(format!("{name}: {error}")))?;
    let mut body = json!({ "document": text, "file": short(file) });
    show::put(&mut body, "owner_team", args.owner_team.as_deref());
    show::put(&mut body, "server", args.server.as_deref());
    show::put(
        &mut body,
        "access",
        args.access.map(|access| access.as_str()),
    );
    show::put(&mut body, "ticket", args.ticket.as_deref());
    show::put(&mut body, "comment", args.comment.as_deref());
    door.post("/v1/apis", &body)
        .await
        .map_err(|error| match error {
            DoorError::Problem(problem) if !problem.is_login() => {
                let said = chain(&problem.into());
                // Control names the file itself where it knows the line.
                Refused::Document(if said.contains(&name) {
                    said
                } else {
                    format!("{name}: {said}")
                })
            }
            other => Refused::Door(other),
        })
}

/// The path as it was given; of a long one the last part, which decides between YAML and JSON.
fn short(file: &Path) -> String {
    let last = file
        .file_name()
        .map_or_else(Default::default, |name| name.to_string_lossy());
    let whole = file.to_string_lossy();
    let fits = |name: &str| name.len() <= FILE_BYTES_MAX;
    [whole, last]
        .into_iter()
        .find(|name| fits(name))
        .map_or_else(|| "document".to_owned(), |name| name.into_owned())
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    let mut open = File::open(file)?.take(DOCUMENT_BYTES_MAX + 1);
    open.read_to_end(&mut text)?;
    if text.len() as u64 > DOCUMENT_BYTES_MAX {
        let error = format!("the file has more than {DOCUMENT_BYTES_MAX} bytes");
        return Err(io::Error::other(error));
    }
    String::from_utf8(text).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error
            .as_bytes()
            .iter()
            .take(at)
            .filter(|b| **b == b'\n')
            .count();
        io::Error::other(format!("line {line} is not UTF-8"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_text_is_refused_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        std::fs::write(&file, b"openapi: 3.1.0\ninfo: \xff\n").unwrap();
        assert_eq!(read(&file).unwrap_err().to_string(), "line 2 is not UTF-8");
        assert!(read(directory.path()).is_err(), "a folder");
        assert!(read(&directory.path().join("missing")).is_err());
        let large = vec![b' '; 1 + (8 << 20)];
        std::fs::write(&file, large).unwrap();
        assert!(
            read(&file)
                .unwrap_err()
                .to_string()
                .contains("more than 8388608")
        );
    }
}

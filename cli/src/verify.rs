//! `counterfoil verify`: proves a directory of books, with nothing but the directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use counterfoil_columns::DataDirectory;
use counterfoil_entry::clock;
use counterfoil_ledger::{
    policy::Policy,
    verify::{Report, Request, Saved},
};
use counterfoil_query::proof;

use crate::{
    args::{VerdictOutput, VerifyArgs},
    console::{escaped, line, raw},
    exit::{Failure, INTEGRITY, OK, Outcome},
};

/// Verifies and prints the verdict.
pub(crate) fn run(args: &VerifyArgs) -> Outcome {
    let books = books_of(&args.directory).map_err(Failure::usage)?;
    let policy = args
        .policy
        .as_deref()
        .map(read_policy)
        .transpose()
        .map_err(Failure::usage)?;
    let against = args
        .against
        .as_deref()
        .map(read_checkpoint)
        .transpose()
        .map_err(Failure::usage)?;
    let request = Request {
        books: &books,
        policy: policy.as_ref(),
        against: against.as_ref(),
        complete: args.complete,
        now: clock::wall(),
    };
    let report = proof::verify(&request);
    match args.output {
        VerdictOutput::Text => print(&report),
        VerdictOutput::Json => raw(serde_json::to_string_pretty(&report.to_json())?),
    }
    Ok(if report.is_proved() { OK } else { INTEGRITY })
}

/// The books of a data directory, or the directory itself when it is one of books.
fn books_of(directory: &Path) -> anyhow::Result<PathBuf> {
    let opening = || format!("opening {}", directory.display());
    if !fs::metadata(directory).with_context(opening)?.is_dir() {
        return Err(anyhow!("it is no directory")).with_context(opening);
    }
    if directory.join("format").exists() {
        // Books that are missing there are a finding, not wrong use.
        return Ok(DataDirectory::open(directory)
            .with_context(opening)?
            .books());
    }
    let below = directory.join("books");
    if below.is_dir() {
        return Ok(below);
    }
    if directory.join("log").is_dir() || directory.file_name().is_some_and(|name| name == "books") {
        return Ok(directory.to_owned());
    }
    Err(anyhow!(
        "it is neither a data directory nor a directory of books"
    ))
    .with_context(opening)
}

fn read_policy(file: &Path) -> anyhow::Result<Policy> {
    let reading = || format!("reading the policy {}", file.display());
    let text = fs::read_to_string(file).with_context(reading)?;
    Policy::parse(&text).with_context(reading)
}

fn read_checkpoint(file: &Path) -> anyhow::Result<Saved> {
    let reading = || format!("reading the saved checkpoint {}", file.display());
    let text = fs::read_to_string(file).with_context(reading)?;
    Saved::parse(&text).with_context(reading)
}

fn print(report: &Report) {
    line(escaped(&report.verdict.to_string()));
    for failure in &report.failures {
        let text = format!("failed: {}: {failure}", failure.what);
        line(escaped(&text));
    }
    if report.failures_more > 0 {
        line(format_args!(
            "and {} further failures",
            report.failures_more
        ));
    }
    for note in &report.notes {
        line(escaped(&format!("note: {note}")));
    }
    let counts = &report.counts;
    line(format_args!(
        "looked at: {} logs, {} manifests, {} segments with {} rows, {} statements of {} epochs; {} gaps, {} of them open; \
         {} entries declared dropped",
        counts.origins,
        counts.manifests,
        counts.segments,
        counts.rows,
        counts.statements,
        counts.epochs,
        counts.gaps,
        counts.gaps_open,
        counts.dropped,
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_are_found_in_a_data_directory_and_by_themselves() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert!(books_of(root).is_err(), "an empty directory is neither");
        assert!(books_of(&root.join("missing")).is_err());
        fs::create_dir_all(root.join("copy/books/log")).unwrap();
        assert_eq!(
            books_of(&root.join("copy")).unwrap(),
            root.join("copy/books")
        );
        assert_eq!(
            books_of(&root.join("copy/books")).unwrap(),
            root.join("copy/books")
        );
        DataDirectory::create(root.join("data")).unwrap();
        assert_eq!(
            books_of(&root.join("data")).unwrap(),
            root.join("data/books")
        );
        fs::write(root.join("data/format"), "counterfoil-data 77\n").unwrap();
        assert!(format!("{:#}", books_of(&root.join("data")).unwrap_err()).contains("77"));
    }
}

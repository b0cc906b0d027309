//! Opening a log: its manifests are walked, and a commit that a crash cut short is finished.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use counterfoil_entry::Hash;

use super::files::{self, io_error};
use super::{Genesis, Log, LogError, read_manifest};
use crate::checkpoint::Checkpoint;
use crate::manifest::{Body, Manifest};
use crate::note::LogKey;
use crate::paths;
use crate::tile::Edge;

pub(super) fn open(
    books: &Path,
    staging: &Path,
    key: LogKey,
    genesis: &Genesis,
) -> Result<Log, LogError> {
    files::create_folder(books)?;
    files::create_folder(staging)?;
    let mut log = Log {
        books: books.to_owned(),
        staging: staging.to_owned(),
        key,
        edge: Edge::default(),
        last_hash: Hash::default(),
        last_until: genesis.at,
        last_segment: 0,
        journal_file: 0,
        checkpoint: String::new(),
        is_unfinished: false,
    };
    let manifests = count_manifests(books, log.origin())?;
    let head = signed_head(&log, manifests)?;
    if manifests == 0 {
        begin(&mut log, genesis)?;
    } else {
        walk(&mut log, manifests, head.as_ref())?;
        log.write_head()?;
    }
    remove_stale_tiles(&log)?;
    log.finish_deletion()?;
    clear(staging)?;
    Ok(log)
}

/// Manifests in the folder; their numbers run from 0 without holes.
fn count_manifests(books: &Path, origin: &str) -> Result<u64, LogError> {
    let folder = books.join(paths::log_folder(origin)).join("manifests");
    let mut names = BTreeSet::new();
    if folder.is_dir() {
        for item in fs::read_dir(&folder).map_err(io_error("listing", &folder))? {
            let item = item.map_err(io_error("listing", &folder))?;
            names.insert(item.file_name().to_string_lossy().into_owned());
        }
    }
    for (number, name) in (0_u64..).zip(&names) {
        if *name != format!("{number:012}") {
            let why = format!("it is missing, and {name} is there");
            return Err(LogError::Broken { number, why });
        }
    }
    Ok(names.len() as u64)
}

/// The checkpoint, signed by this log's key; only a log that was just begun has none.
fn signed_head(log: &Log, manifests: u64) -> Result<Option<Checkpoint>, LogError> {
    let path = log.books.join(paths::checkpoint(log.origin()));
    let broken = |why: &str| {
        Err(LogError::Head {
            path: path.clone(),
            why: why.to_owned(),
        })
    };
    if !path.exists() {
        return if manifests > 1 {
            broken("it is missing")
        } else {
            Ok(None)
        };
    }
    let text = fs::read_to_string(&path).map_err(io_error("reading", &path))?;
    let head =
        Checkpoint::open(&text, log.key.verifier()).map_err(|source| LogError::Checkpoint {
            path: path.clone(),
            source,
        })?;
    if head.size == 0 || head.size > manifests {
        let why = format!(
            "it covers {} manifests and {manifests} are there",
            head.size
        );
        return broken(&why);
    }
    Ok(Some(head))
}

/// Writes manifest 0, the first tiles and the first checkpoint.
fn begin(log: &mut Log, genesis: &Genesis) -> Result<(), LogError> {
    let manifest = Manifest {
        origin: log.origin().to_owned(),
        number: 0,
        previous: None,
        from: genesis.at,
        until: genesis.at,
        build: genesis.build.clone(),
        cosigned: None,
        body: Body::Key {
            log_key: log.key.verifier().to_string(),
            trust_roots: genesis.trust_roots.clone(),
        },
    };
    let bytes = manifest
        .encode()
        .map_err(|source| LogError::Manifest { number: 0, source })?;
    log.place(&paths::manifest(log.origin(), 0), &bytes)?;
    log.take(&manifest, &bytes)
}

/// Walks all manifests by number. What the checkpoint covers must fit it; what comes after is a
/// commit that a crash cut short, and is finished.
fn walk(log: &mut Log, manifests: u64, head: Option<&Checkpoint>) -> Result<(), LogError> {
    let covered = head.map_or(0, |head| head.size);
    for number in 0..manifests {
        let (manifest, bytes) = read_manifest(&log.books, log.origin(), number)?;
        check_link(log, &manifest)?;
        if number >= covered {
            redo_renames(log, &manifest)?;
        }
        for (path, tile) in log.append(&manifest, &bytes)? {
            if number >= covered {
                log.place(&path, &tile)?;
            }
        }
        if head.is_some_and(|head| head.size == number + 1 && head.root != log.edge.root()) {
            let path = log.books.join(paths::checkpoint(log.origin()));
            let why = "its root is not that of the manifests".to_owned();
            return Err(LogError::Head { path, why });
        }
    }
    Ok(())
}

fn check_link(log: &Log, manifest: &Manifest) -> Result<(), LogError> {
    let number = manifest.number;
    let broken = |why: &str| {
        Err(LogError::Broken {
            number,
            why: why.to_owned(),
        })
    };
    if manifest.origin != log.origin() {
        return broken("it is of another origin");
    }
    match (&manifest.body, number) {
        (Body::Key { log_key, .. }, 0) => {
            if *log_key != log.key.verifier().to_string() {
                return broken("it names another log key than the one configured");
            }
        }
        (Body::Seal { .. } | Body::Deletion(_) | Body::Hold(_), 1..) => {
            if manifest.previous != Some(log.last_hash) {
                return broken("it does not name the manifest before");
            }
            if manifest.from != log.last_until {
                return broken("its interval does not begin where the last one ended");
            }
            if !is_numbered_on(log, &manifest.body) {
                return broken("its segments are not numbered on");
            }
        }
        _ => return broken("exactly number 0 is of kind key"),
    }
    Ok(())
}

fn is_numbered_on(log: &Log, body: &Body) -> bool {
    match body {
        Body::Seal { segments, .. } => (log.next_segment()..)
            .zip(segments)
            .all(|(at, segment)| segment.segment == at),
        _ => true,
    }
}

/// Renames what is still staged; every file that the manifest names must be there in the end.
fn redo_renames(log: &Log, manifest: &Manifest) -> Result<(), LogError> {
    let Body::Seal {
        segments, coverage, ..
    } = &manifest.body
    else {
        return Ok(());
    };
    let number = manifest.number;
    let mut due: Vec<(PathBuf, String, u64, Hash)> = Vec::new();
    if let Some(coverage) = coverage {
        let from = files::staged_coverage(&log.staging, number);
        due.push((
            from,
            paths::coverage(log.origin(), number),
            coverage.bytes,
            coverage.sha256,
        ));
    }
    for segment in segments {
        let from = log.staged_path(&segment.file);
        due.push((from, segment.file.clone(), segment.bytes, segment.sha256));
    }
    for (from, to, bytes, sha256) in due {
        let expected = Some((bytes, sha256));
        if files::fingerprint(&log.books.join(&to))? == expected {
            continue;
        }
        if files::fingerprint(&from)? != expected {
            return Err(LogError::Broken {
                number,
                why: format!("its file {to} is lost"),
            });
        }
        files::rename(&from, &log.books, &to)?;
    }
    Ok(())
}

/// Removes partial tiles of other sizes than the current one.
fn remove_stale_tiles(log: &Log) -> Result<(), LogError> {
    let kept: BTreeSet<PathBuf> = log
        .partial_paths()
        .iter()
        .map(|path| log.books.join(path))
        .collect();
    let mut folders = vec![log.books.join(paths::log_folder(log.origin())).join("tile")];
    while let Some(folder) = folders.pop() {
        let is_partial = folder.extension().is_some_and(|ending| ending == "p");
        for item in fs::read_dir(&folder).map_err(io_error("listing", &folder))? {
            let path = item.map_err(io_error("listing", &folder))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if is_partial && !kept.contains(&path) {
                files::remove_partial(&path)?;
            }
        }
    }
    Ok(())
}

fn clear(staging: &Path) -> Result<(), LogError> {
    for item in fs::read_dir(staging).map_err(io_error("listing", staging))? {
        let path = item.map_err(io_error("listing", staging))?.path();
        if path.is_file() {
            fs::remove_file(&path).map_err(io_error("removing", &path))?;
        }
    }
    Ok(())
}

//! What a demo leaves: matched calls, sealed books that prove themselves, and no byte that could be changed unseen.

use std::path::Path;
use std::process::Command;

use counterfoil_ledger::manifest::{Body, Manifest, manifest_leaf};
use counterfoil_ledger::tile::{Edge, Tile};

use crate::world::{Demo, copy, files, number, rows, text, verify};

/// Entries that an independent engine counts in the sealed files.
fn counted_by_duckdb(books: &Path) -> i64 {
    let python = std::env::var("COUNTERFOIL_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let code = format!(
        "import duckdb; print(duckdb.sql(\"select count(*) from read_parquet('{}/entries/**/*.parquet', hive_partitioning=true)\").fetchall()[0][0])",
        books.display()
    );
    let output = Command::new(python).args(["-c", &code]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().parse().unwrap()
}

#[test]
fn a_demo_matches_every_call_and_its_books_prove_themselves() {
    let mut demo = Demo::start(&["--for", "8s", "--rate", "5"]);
    let said = demo.finish_well();
    let data = demo.data().to_owned();

    let due = number(&data, "select count(*) from calls where due");
    assert!(due > 100, "{due} calls\n{said}");
    assert_eq!(
        number(
            &data,
            "select count(*) from calls where due and not (matched and agrees)"
        ),
        0
    );
    assert_eq!(number(&data, "select count(*) from gaps"), 0);
    for (view, reason) in [
        ("denials", "grant_none"),
        ("denials", "route_unknown"),
        ("tls_failures", "tls_untrusted"),
        ("tls_failures", "tls_no_client_cert"),
    ] {
        let denied = format!("select count(*) from {view} where reason = '{reason}'");
        assert!(number(&data, &denied) > 0, "{reason}\n{said}");
    }
    assert_eq!(
        number(
            &data,
            "select count(distinct destination) from calls where due"
        ),
        10
    );
    let overhead = rows(&data, "select * from latency_overhead");
    assert!(!overhead.is_empty());
    assert!(!rows(&data, "select * from sla").is_empty());

    assert_eq!(
        counted_by_duckdb(&demo.books()),
        number(&data, "select count(*) from entries")
    );

    let policy = data.join("policy.toml");
    let policy = policy.to_str().unwrap();
    for args in [
        &[][..],
        &["--policy", policy],
        &["--policy", policy, "--complete"],
    ] {
        let (code, verdict) = verify(&data, args);
        assert_eq!(code, 0, "{args:?}: {verdict}");
    }
    no_change_goes_unseen(&data);
    a_cut_tail_is_found(&data);
}

/// Flips one byte of each file, removes it, and adds one beside it.
fn no_change_goes_unseen(data: &Path) {
    let books = data.join("books");
    for (at, file) in files(&books).into_iter().enumerate() {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let before = std::fs::read(&file).unwrap();
        let mut changed = before.clone();
        let at = (at * 7_919 + 13) % changed.len();
        changed[at] ^= 1 << (at % 8);
        std::fs::write(&file, &changed).unwrap();
        let (code, verdict) = verify(data, &[]);
        assert_eq!(code, 3, "byte {at} of {name} flipped: {verdict}");
        std::fs::remove_file(&file).unwrap();
        let (code, verdict) = verify(data, &[]);
        assert_eq!(code, 3, "{name} removed: {verdict}");
        std::fs::write(&file, &before).unwrap();
    }
    for folder in ["", "log", "entries"] {
        let stranger = books.join(folder).join("stranger");
        std::fs::write(&stranger, b"").unwrap();
        let (code, verdict) = verify(data, &[]);
        assert_eq!(code, 3, "a file added in {folder:?}: {verdict}");
        assert!(verdict.contains("stranger"), "{verdict}");
        std::fs::remove_file(&stranger).unwrap();
    }
    assert_eq!(verify(data, &[]).0, 0);
}

/// The newest manifests cut off, with the older checkpoint that matches what is left.
fn a_cut_tail_is_found(data: &Path) {
    let saved = files(&data.join("checkpoints"));
    let size = |path: &Path| -> u64 {
        std::fs::read_to_string(path)
            .unwrap()
            .lines()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    };
    let newest = saved.iter().max_by_key(|path| size(path)).unwrap();
    let older = saved
        .iter()
        .filter(|path| size(path) < size(newest))
        .max_by_key(|path| size(path));
    let older = older.expect("the demo saved more than one checkpoint");

    let cut = tempfile::tempdir().unwrap();
    copy(&data.join("books"), &cut.path().join("books"));
    std::fs::copy(data.join("format"), cut.path().join("format")).unwrap();
    cut_log(&cut.path().join("books"), older, size(older));
    let (code, verdict) = verify(cut.path(), &[]);
    assert_eq!(
        code, 0,
        "an older whole log is consistent by itself: {verdict}"
    );
    let (code, verdict) = verify(cut.path(), &["--against", newest.to_str().unwrap()]);
    assert_eq!(code, 3, "{verdict}");
    assert_eq!(verify(data, &["--against", older.to_str().unwrap()]).0, 0);
}

/// Makes the books those of an older checkpoint, as a thief would who knows the formats.
fn cut_log(books: &Path, checkpoint: &Path, size: u64) {
    let log = std::fs::read_dir(books.join("log"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::remove_dir_all(log.join("tile")).unwrap();
    let write = |(tile, bytes): (Tile, Vec<u8>)| {
        let path = log.join(tile.path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let mut edge = Edge::default();
    for file in files(&log.join("manifests")) {
        let bytes = std::fs::read(&file).unwrap();
        let manifest = Manifest::decode(&bytes).unwrap();
        if manifest.number < size {
            edge.push(&bytes, manifest_leaf(&bytes))
                .unwrap()
                .into_iter()
                .for_each(write);
            continue;
        }
        if let Body::Seal { segments, .. } = manifest.body {
            for segment in segments {
                std::fs::remove_file(books.join(&segment.file)).unwrap();
            }
        }
        std::fs::remove_file(&file).unwrap();
        drop(std::fs::remove_file(
            log.join("coverage").join(file.file_name().unwrap()),
        ));
    }
    edge.partial().into_iter().for_each(write);
    std::fs::copy(checkpoint, log.join("checkpoint")).unwrap();
}

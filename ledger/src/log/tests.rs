use std::fs;

use counterfoil_entry::id::{Epoch, RetentionClass, Stream, Writer};
use counterfoil_entry::table::TableId;
use tempfile::TempDir;

use super::*;

const ORIGIN: &str = "bank.test/collector-1";

struct World {
    folder: TempDir,
    pem: String,
}

impl World {
    fn new() -> Self {
        let pem = LogKey::generate(ORIGIN).unwrap().to_pem().unwrap();
        Self {
            folder: TempDir::new().unwrap(),
            pem,
        }
    }

    fn books(&self) -> PathBuf {
        self.folder.path().join("books")
    }

    fn try_open(&self) -> Result<Log, LogError> {
        let key = LogKey::from_pem(ORIGIN, &self.pem).unwrap();
        let genesis = Genesis {
            trust_roots: vec![b"root".to_vec()],
            build: "test".to_owned(),
            at: Time::from_ns(100),
        };
        Log::open(
            &self.books(),
            &self.folder.path().join("staging"),
            key,
            &genesis,
        )
    }

    fn open(&self) -> Log {
        self.try_open().unwrap()
    }

    /// Every file under the books, by path, with its bytes.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let (mut files, mut folders) = (Vec::new(), vec![self.books()]);
        while let Some(folder) = folders.pop() {
            for item in fs::read_dir(folder).unwrap() {
                let path = item.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push((path.clone(), fs::read(path).unwrap()));
                }
            }
        }
        files.sort();
        files
    }
}

/// A seal with one staged segment, whose bytes are just its number.
fn seal(log: &Log) -> Seal {
    let segment = log.next_segment();
    let class = RetentionClass::parse("ops_90d").unwrap();
    let until = log.until().plus_ns(10);
    let bytes = segment.to_be_bytes();
    let file = paths::segment(ORIGIN, TableId::Entries, &class, until, segment, 7);
    fs::write(log.staged_path(&file), bytes).unwrap();
    let segments = vec![SegmentRef {
        table: TableId::Entries,
        class,
        schema_version: 1,
        count: 1,
        first_time: until,
        last_time: until,
        root: sha256(b"root"),
        file,
        bytes: bytes.len() as u64,
        sha256: sha256(&bytes),
        segment,
    }];
    let coverage = vec![CoverageRow {
        writer: Writer::parse("spiffe://bank.test/workload/pay#1").unwrap(),
        epoch: Epoch(1),
        stream: Stream::parse("entries/ops_90d/0").unwrap(),
        first_seq: segment,
        count: 1,
        statement: segment,
        segment,
        received_at: until,
        delivery: "acked".to_owned(),
        attribution: "native".to_owned(),
        statement_epoch: None,
    }];
    Seal {
        until,
        build: "test".to_owned(),
        journal_file: segment,
        segments,
        coverage,
    }
}

fn idle(log: &Log) -> Seal {
    Seal {
        segments: Vec::new(),
        coverage: Vec::new(),
        ..seal(log)
    }
}

#[test]
fn a_log_goes_on_where_it_was_after_opening_again() {
    let world = World::new();
    let mut log = world.open();
    assert_eq!((log.size(), log.next_segment()), (1, 1));
    for _ in 0..5 {
        let next = seal(&log);
        log.commit(next).unwrap();
        let next = idle(&log);
        log.commit(next).unwrap();
    }
    let before = (
        log.size(),
        log.next_segment(),
        log.until(),
        log.journal_file(),
    );
    let (head, files) = (log.checkpoint().to_owned(), world.files());
    drop(log);
    let log = world.open();
    assert_eq!(
        (
            log.size(),
            log.next_segment(),
            log.until(),
            log.journal_file()
        ),
        before
    );
    assert_eq!((log.checkpoint(), world.files()), (head.as_str(), files));
}

#[test]
fn on_disk_stand_exactly_the_tiles_of_the_size() {
    let world = World::new();
    let mut log = world.open();
    while log.size() < 258 {
        let next = idle(&log);
        log.commit(next).unwrap();
        if [2, 255, 256, 257, 258].contains(&log.size()) {
            let mut due: Vec<String> = tlog_tiles::Tile::new_tiles(8, 0, log.size())
                .into_iter()
                .flat_map(|tile| {
                    let path = tile.path().replacen("tile/8/", "tile/", 1);
                    let data = path.replacen("tile/0/", "tile/entries/", 1);
                    [Some(path), (tile.level() == 0).then_some(data)]
                        .into_iter()
                        .flatten()
                })
                .collect();
            due.sort();
            let folder = world.books().join(paths::log_folder(ORIGIN));
            let there: Vec<String> = world
                .files()
                .iter()
                .filter_map(|(path, _)| path.strip_prefix(&folder).ok())
                .filter(|path| path.starts_with("tile"))
                .map(|path| path.to_str().unwrap().to_owned())
                .collect();
            assert_eq!(there, due, "size {}", log.size());
        }
    }
}

/// Runs one commit up to `step` and drops the log there, as a crash does.
fn crash(log: &mut Log, step: usize) {
    let seal = seal(log);
    let number = log.size();
    if step == 0 {
        return;
    }
    let coverage = log.stage(number, &seal).unwrap();
    if step == 1 {
        return;
    }
    let manifest = Manifest {
        origin: ORIGIN.to_owned(),
        number,
        previous: Some(log.last_hash),
        from: log.last_until,
        until: seal.until,
        build: seal.build.clone(),
        cosigned: None,
        body: Body::Seal {
            journal_file: seal.journal_file,
            segments: seal.segments.clone(),
            coverage,
        },
    };
    let bytes = manifest.encode().unwrap();
    log.place(&paths::manifest(ORIGIN, number), &bytes).unwrap();
    if step == 2 {
        return;
    }
    if step == 3 {
        let file = &seal.segments[0].file;
        return files::rename(&log.staged_path(file), &log.books, file).unwrap();
    }
    log.place_staged(&manifest).unwrap();
    if step == 4 {
        return;
    }
    let mut tiles = log.append(&manifest, &bytes).unwrap();
    let folder = paths::log_folder(ORIGIN);
    tiles.extend(
        log.edge
            .partial()
            .into_iter()
            .map(|(t, b)| (format!("{folder}/{}", t.path()), b)),
    );
    for (path, tile) in tiles {
        log.place(&path, &tile).unwrap();
    }
    if step == 5 {
        return;
    }
    log.write_head().unwrap();
}

/// A log of `size` manifests, for tests that need many copies of it.
fn grown(size: u64) -> World {
    let world = World::new();
    let mut log = world.open();
    while log.size() < size {
        let next = idle(&log);
        log.commit(next).unwrap();
    }
    world
}

fn copy(world: &World) -> World {
    let twin = World {
        folder: TempDir::new().unwrap(),
        pem: world.pem.clone(),
    };
    for (path, bytes) in world.files() {
        let to = twin
            .folder
            .path()
            .join(path.strip_prefix(world.folder.path()).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
    twin
}

#[test]
fn a_crash_at_any_step_of_a_commit_is_undone_or_finished() {
    for size in [1, 255, 256] {
        let template = grown(size);
        let undisturbed = copy(&template);
        let mut log = undisturbed.open();
        let next = seal(&log);
        log.commit(next).unwrap();
        let due = relative(&undisturbed);
        for step in 0..=6 {
            let world = copy(&template);
            crash(&mut world.open(), step);
            let mut log = world.open();
            let committed = u64::from(step >= 2);
            assert_eq!(log.size(), size + committed, "step {step}");
            assert_eq!(log.next_segment(), 1 + committed, "step {step}");
            assert_eq!(
                fs::read_dir(&log.staging).unwrap().count(),
                0,
                "step {step}"
            );
            if committed == 0 {
                let next = seal(&log);
                log.commit(next).unwrap();
            }
            // As if nothing had happened: the books are those of an undisturbed log.
            assert!(relative(&world) == due, "size {size}, step {step}");
        }
    }
}

fn relative(world: &World) -> Vec<(PathBuf, Vec<u8>)> {
    let books = world.books();
    let files = world.files().into_iter();
    files
        .map(|(path, bytes)| (path.strip_prefix(&books).unwrap().to_owned(), bytes))
        .collect()
}

#[test]
fn a_damaged_or_cut_log_is_never_signed_again() {
    let world = World::new();
    let mut log = world.open();
    for _ in 0..3 {
        let next = seal(&log);
        log.commit(next).unwrap();
    }
    drop(log);
    let books = world.books();
    let at = |number| books.join(paths::manifest(ORIGIN, number));
    let head = books.join(paths::checkpoint(ORIGIN));
    for path in [at(0), at(1), at(3), head.clone()] {
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(world.try_open().is_err(), "without {}", path.display());
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1;
            fs::write(&path, flipped).unwrap();
            assert!(
                world.try_open().is_err(),
                "byte {place} of {}",
                path.display()
            );
        }
        fs::write(&path, bytes).unwrap();
    }
    assert_eq!(world.open().size(), 4);
}

#[test]
fn another_key_cannot_go_on() {
    let world = World::new();
    drop(world.open());
    let other = World {
        pem: World::new().pem,
        folder: world.folder,
    };
    assert!(matches!(other.try_open(), Err(LogError::Checkpoint { .. })));
}

#[test]
fn a_seal_that_does_not_fit_changes_nothing() {
    let world = World::new();
    let mut log = world.open();
    let next = seal(&log);
    log.commit(next).unwrap();
    let before = world.files();
    let mut skipped = seal(&log);
    skipped.segments[0].segment += 1;
    let mut misnamed = seal(&log);
    misnamed.segments[0].file = "entries/elsewhere.parquet".to_owned();
    let mut unstaged = seal(&log);
    unstaged.segments[0].file = unstaged.segments[0].file.replace("00000007", "00000008");
    let stale = Seal {
        journal_file: 0,
        ..idle(&log)
    };
    for bad in [skipped, misnamed, unstaged, stale] {
        assert!(matches!(log.commit(bad), Err(LogError::Seal { .. })));
    }
    assert_eq!(world.files(), before);
    let next = seal(&log);
    assert_eq!(log.commit(next).unwrap(), 2);
}

#[test]
fn a_clock_that_went_back_gives_an_empty_interval() {
    let world = World::new();
    let mut log = world.open();
    let at = log.until();
    let back = Seal {
        until: at.plus_ns(-5),
        ..idle(&log)
    };
    let number = log.commit(back).unwrap();
    let (manifest, _) = read_manifest(&world.books(), ORIGIN, number).unwrap();
    assert_eq!((manifest.from, manifest.until), (at, at));
}

#[test]
fn readers_see_what_the_checkpoint_covers() {
    let world = World::new();
    assert!(read_checkpoint(&world.books(), ORIGIN).unwrap().is_none());
    let mut log = world.open();
    let next = seal(&log);
    let rows = next.coverage.clone();
    let number = log.commit(next).unwrap();
    let head = read_checkpoint(&world.books(), &paths::slug(ORIGIN))
        .unwrap()
        .unwrap();
    assert_eq!((head.origin.as_str(), head.size), (ORIGIN, 2));
    assert_eq!(
        read_coverage(&world.books(), ORIGIN, number).unwrap().rows,
        rows
    );
}

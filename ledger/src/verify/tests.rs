//! Tampering with books that an honest collector made.

mod deleting;
mod world;
mod writers;

use std::fs;

use world::{ENTRIES, ORIGIN, Pen, START, World};

use super::*;
use crate::paths;

/// Two writers, three seals (one idle), one clean end.
fn honest() -> World {
    let mut world = World::new();
    let (mut pay, mut cart) = (Pen::new("pay", 5), Pen::new("cart", 6));
    world.announce(&pay);
    world.announce(&cart);
    pay.write(ENTRIES, 3);
    pay.write("entries/sox_7y/0", 1);
    world.take(&pay.state());
    world.seal();
    world.seal();
    pay.write(ENTRIES, 2);
    cart.write(ENTRIES, 1);
    world.take(&pay.end());
    world.take(&cart.state());
    world.seal();
    world
}

#[test]
fn honest_books_are_proved_with_and_without_a_policy() {
    let world = honest();
    let report = world.verify_with(Some(&world.policy()), Some(world.checkpoint()), true);
    assert!(report.is_proved(), "{}", report.verdict);
    assert!(
        report.is_complete
            && report
                .verdict
                .starts_with("complete up to 2023-11-14T22:13:23")
    );
    let counts = report.counts;
    assert_eq!((counts.origins, counts.manifests, counts.rows), (1, 4, 12));
    assert_eq!(
        (counts.statements, counts.epochs, counts.epochs_open),
        (3, 2, 1)
    );

    let report = world.verify_with(None, None, false);
    assert!(report.is_proved() && !report.is_complete);
    assert!(
        report
            .verdict
            .ends_with("keys were taken from the store itself"),
        "{}",
        report.verdict
    );
    assert_eq!(report.to_json()["keys_from_store"], true);
}

#[test]
fn a_flip_of_any_byte_of_any_file_is_found_and_named() {
    let world = honest();
    let books = world.books();
    for path in world.files() {
        let name = path
            .strip_prefix(&books)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, flipped).unwrap();
            // With and without a policy take turns, for both make the same checks.
            let policy = world.policy();
            let policy = (at % 2 == 0).then_some(&policy);
            let report = world.verify_with(policy, None, false);
            let first = report
                .failures
                .first()
                .unwrap_or_else(|| panic!("{name}, byte {at}"));
            let named = first.place.file.as_deref();
            assert_eq!(named, Some(&*name), "byte {at}: {first}");
        }
        fs::write(&path, bytes).unwrap();
    }
    assert!(world.verify().is_proved());
}

#[test]
fn a_removed_cut_or_emptied_file_is_found_and_named() {
    let world = honest();
    for path in world.files() {
        let bytes = fs::read(&path).unwrap();
        let name = path
            .strip_prefix(world.books())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        fs::remove_file(&path).unwrap();
        let (_, text) = world.first_failure();
        assert!(text.contains(&name), "{name}: {text}");
        assert!(!world.verify_with(None, None, false).is_proved(), "{name}");
        for shorter in [&bytes[..bytes.len() - 1], &[]] {
            fs::write(&path, shorter).unwrap();
            assert!(!world.verify().is_proved(), "{name}");
        }
        fs::write(&path, &bytes).unwrap();
    }
    assert!(world.verify().is_proved());
}

#[test]
fn an_added_file_is_found_wherever_it_stands() {
    let world = honest();
    let mut folders: Vec<_> = world
        .files()
        .iter()
        .map(|path| path.parent().unwrap().to_owned())
        .collect();
    folders.push(world.books());
    folders.push(world.books().join("log"));
    folders.dedup();
    for folder in folders {
        for name in ["stray", "000000000004", ".hidden"] {
            let path = folder.join(name);
            fs::write(&path, b"x").unwrap();
            let (what, text) = world.first_failure();
            assert_eq!(what, "unlisted");
            assert!(text.contains(name), "{text}");
            assert!(!world.verify_with(None, None, false).is_proved());
            fs::remove_file(path).unwrap();
        }
    }
    let link = world.books().join("link");
    std::os::unix::fs::symlink(world.books().join("log"), &link).unwrap();
    assert_eq!(world.first_failure().0, "unlisted");
}

/// Copies the log's tail files away as an attacker does: back to the state of `older`.
fn cut_back(world: &World, older: &[(std::path::PathBuf, Vec<u8>)]) {
    for path in world.files() {
        fs::remove_file(path).unwrap();
    }
    for (path, bytes) in older {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_cut_tail_is_found_with_a_saved_checkpoint_or_by_freshness() {
    let mut world = honest();
    let older: Vec<_> = world
        .files()
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    for _ in 0..100 {
        world.seal();
    }
    let saved = world.checkpoint().to_owned();
    cut_back(&world, &older);
    // The older state is genuine: without a newer checkpoint nothing shows the cut.
    assert!(world.verify_with(None, None, false).is_proved());
    let report = world.verify_with(None, Some(&saved), false);
    assert!(
        report.verdict.contains("the log was cut"),
        "{}",
        report.verdict
    );
    assert_eq!(world.first_failure().0, "freshness");
}

#[test]
fn a_saved_checkpoint_must_be_of_this_log_and_this_history() {
    let world = honest();
    let stranger = honest();
    let report = world.verify_with(None, Some(stranger.checkpoint()), false);
    assert_eq!(report.failures[0].what, "against");
    // The same key signs another history of the same size.
    let head = Checkpoint::parse_text(Note::parse(world.checkpoint()).unwrap().text()).unwrap();
    for size in 1..=head.size {
        let forked = Checkpoint {
            size,
            root: Hash([7; 32]),
            ..head.clone()
        };
        let report = world.verify_with(None, Some(&world.sign(&forked)), false);
        assert!(
            report.verdict.contains("history was rewritten"),
            "{}",
            report.verdict
        );
    }
    let elsewhere = World::new().beside("elsewhere");
    let report = world.verify_with(None, Some(elsewhere.checkpoint()), false);
    assert_eq!(report.failures[0].what, "against");
}

#[test]
fn another_key_or_root_than_the_policy_pins_is_refused() {
    let world = honest();
    let mut other_key = world.policy();
    other_key.log_keys = honest().policy().log_keys;
    let mut other_root = world.policy();
    other_root.trust_roots = vec![b"other".to_vec()];
    for policy in [other_key, other_root] {
        assert_eq!(
            world.verify_with(Some(&policy), None, false).failures[0].what,
            "key"
        );
    }
}

#[test]
fn every_origin_of_the_policy_is_there_and_no_other() {
    let mut both = honest().policy();
    let world = honest();
    both.log_keys = world.policy().log_keys;
    let first = world.policy();
    let second = world.beside("bank.test/collector-2");
    both.log_keys.push(second.key());
    let report = second.verify_with(Some(&both), None, false);
    assert!(report.is_proved(), "{}", report.verdict);
    assert_eq!(report.counts.origins, 2);
    assert_eq!(
        second.verify_with(Some(&first), None, false).failures[0].what,
        "unlisted"
    );
    fs::remove_dir_all(
        second
            .books()
            .join(paths::log_folder("bank.test/collector-2")),
    )
    .unwrap();
    let report = second.verify_with(Some(&both), None, false);
    assert_eq!(
        report.failures[0].place.origin.as_deref(),
        Some("bank.test/collector-2")
    );
}

#[test]
fn books_that_are_empty_or_absent_are_not_proved() {
    let world = World::new();
    assert!(world.verify().is_proved());
    fs::remove_dir_all(world.books()).unwrap();
    assert!(!world.verify().is_proved());
    assert!(!world.verify_with(None, None, false).is_proved());
    fs::create_dir(world.books()).unwrap();
    assert!(!world.verify_with(None, None, false).is_proved());
}

/// Lets the log grow while its first segment is read.
struct Growing {
    world: std::cell::RefCell<World>,
    is_grown: std::cell::Cell<bool>,
}

impl SegmentRows for Growing {
    fn read(
        &self,
        file: &Path,
        table: TableId,
        each: &mut dyn FnMut(SealedRow<'_>) -> ControlFlow<()>,
    ) -> Result<FileMeta, RowsError> {
        if !self.is_grown.replace(true) {
            self.world.borrow_mut().seal();
        }
        world::PlainRows.read(file, table, each)
    }
}

#[test]
fn books_that_grow_meanwhile_are_read_again() {
    let growing = Growing {
        world: honest().into(),
        is_grown: false.into(),
    };
    let books = growing.world.borrow().books();
    let request = Request {
        books: &books,
        policy: None,
        against: None,
        complete: false,
        now: START,
    };
    let report = verify(&request, &growing, &world::FakeTrust);
    assert!(report.is_proved(), "{}", report.verdict);
    assert_eq!(report.counts.manifests, 5);
}

#[test]
fn a_report_names_the_first_failing_place_in_json() {
    let world = honest();
    let path = world
        .files()
        .into_iter()
        .find(|path| path.to_str().unwrap().contains("sox"))
        .unwrap();
    fs::write(&path, b"other").unwrap();
    let json = world.verify().to_json();
    assert_eq!(json["proved"], false);
    let first = &json["failures"][0];
    assert_eq!(
        (first["what"].as_str(), first["origin"].as_str()),
        (Some("changed"), Some(ORIGIN))
    );
    assert_eq!(first["manifest"], 1);
    assert!(
        json["verdict"]
            .as_str()
            .unwrap()
            .starts_with("not proved: origin bank.test")
    );
}

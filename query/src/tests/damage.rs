//! Books that were damaged or stand in odd places: an answer is whole, or it is none.

use std::fs;
use std::path::Path;

use super::shop::Shop;
use crate::{Books, offline};

/// Two sealed calls, one that is not sealed yet, in a journal of one file.
fn books() -> Shop {
    let mut shop = Shop::open();
    let (mut web, mut cart) = (shop.proxy("web"), shop.proxy("cart"));
    shop.matched(&mut web, &mut cart, "A");
    shop.matched(&mut web, &mut cart, "B");
    shop.seal(true);
    shop.matched(&mut web, &mut cart, "C");
    shop
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

async fn count(data: &Path) -> Result<String, String> {
    let asked = offline::query(data.to_owned(), None, "select count(*) from calls").await;
    let (schema, batches) = asked.map_err(|error| error.to_string())?;
    let rows = crate::json::rows(&schema, &batches[0]).unwrap();
    Ok(rows[0].to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_may_be_named_from_where_one_stands() {
    let shop = books();
    let here = std::env::current_dir().unwrap();
    let up = "../".repeat(here.components().count() - 1);
    let absolute = shop.path().canonicalize().unwrap();
    let relative = Path::new(&up).join(absolute.strip_prefix("/").unwrap());
    assert!(relative.is_relative());
    let found = count(&relative).await;
    assert_eq!(
        found.as_deref(),
        Ok("{\"count\":3}"),
        "{}",
        relative.display()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_may_have_any_name() {
    let shop = books();
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "d\u{e4}ten",
        "\u{65e5}\u{672c}",
        "a#b",
        "a%20b",
        "a?b",
        "~",
        "a[1]{2}*",
        "q\"q",
        "a\\b",
        "a b=c",
    ] {
        let data = folder.path().join(name);
        copy(&shop.path(), &data);
        let found = count(&data).await;
        assert_eq!(found.as_deref(), Ok("{\"count\":3}"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_or_cut_segment_file_is_an_error_that_names_it() {
    let shop = books();
    let books = Books::open(shop.path()).unwrap();
    let snapshot = books.snapshot().unwrap();
    let (_, segment) = snapshot
        .segments(counterfoil_entry::table::TableId::Entries)
        .next()
        .unwrap();
    let file = snapshot.books.join(&segment.file);
    let whole = fs::read(&file).unwrap();
    let counted = "select count(*) from entries";
    for damage in [None, Some(&whole[..whole.len() - 1])] {
        match damage {
            None => fs::remove_file(&file).unwrap(),
            Some(bytes) => fs::write(&file, bytes).unwrap(),
        }
        let error = offline::query(shop.path(), None, counted).await;
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(&segment.file) && error.contains("verify"),
            "{error}"
        );
    }
    fs::write(&file, &whole).unwrap();
    assert!(offline::query(shop.path(), None, counted).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_journal_is_an_error_and_a_torn_one_is_not() {
    let shop = books();
    let file = shop.journal();
    let whole = fs::read(&file).unwrap();
    for at in [0, 5, 20, whole.len() / 3] {
        let mut changed = whole.clone();
        changed[at] ^= 0x20;
        fs::write(&file, &changed).unwrap();
        let error = count(&shop.path()).await.unwrap_err();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(
            error.contains("damaged at byte") && error.contains(name),
            "{at}: {error}"
        );
    }
    fs::write(&file, &whole[..whole.len() - 3]).unwrap();
    assert!(count(&shop.path()).await.is_ok(), "a torn tail");
    fs::write(&file, &whole[..4]).unwrap();
    assert!(count(&shop.path()).await.is_ok(), "torn in its first bytes");
}

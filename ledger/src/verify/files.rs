//! Every file under the books, crossed off when a log accounts for it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::report::{Place, Report};

/// The files of a books folder that no log has accounted for yet.
#[derive(Debug)]
pub(super) struct Files {
    books: PathBuf,
    left: BTreeSet<String>,
}

impl Files {
    /// Lists the folder. What is neither a file nor a folder, or has an odd name, is a failure.
    pub(super) fn list(books: &Path, report: &mut Report) -> Self {
        let mut files = Self {
            books: books.to_owned(),
            left: BTreeSet::new(),
        };
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            if let Err(error) = files.list_folder(&folder, &mut folders, report) {
                let detail = format!("the folder cannot be listed: {error}");
                report.fail("unreadable", Place::file(&folder), detail);
            }
        }
        files
    }

    fn list_folder(
        &mut self,
        folder: &str,
        folders: &mut Vec<String>,
        report: &mut Report,
    ) -> std::io::Result<()> {
        for item in fs::read_dir(self.books.join(folder))? {
            let item = item?;
            let kind = item.file_type()?;
            let name = item.file_name();
            let path = match (name.to_str(), folder) {
                (Some(name), "") => name.to_owned(),
                (Some(name), folder) => format!("{folder}/{name}"),
                (None, _) => {
                    let path = format!("{folder}/{}", name.to_string_lossy());
                    report.fail("unlisted", Place::file(&path), "its name is not UTF-8");
                    continue;
                }
            };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                self.left.insert(path);
            } else {
                report.fail("unlisted", Place::file(&path), "it is not a plain file");
            }
        }
        Ok(())
    }

    /// Crosses a file off; `false` when it is not there (any more).
    pub(super) fn take(&mut self, file: &str) -> bool {
        self.left.remove(file)
    }

    /// The files that no log accounted for.
    pub(super) fn left(&self) -> impl Iterator<Item = &str> {
        self.left.iter().map(String::as_str)
    }

    /// Names of the folders in `log/` that hold files.
    pub(super) fn log_folders(&self) -> BTreeSet<String> {
        self.left
            .iter()
            .filter_map(|file| file.strip_prefix("log/")?.split_once('/'))
            .map(|(slug, _)| slug.to_owned())
            .collect()
    }

    /// Crosses a file off and reads it; a file longer than `bytes_max` is refused. The error is
    /// the word for the check and the reason.
    pub(super) fn read(
        &mut self,
        file: &str,
        bytes_max: u64,
    ) -> Result<Vec<u8>, (&'static str, String)> {
        if !self.take(file) {
            return Err(("missing", "the file is missing".to_owned()));
        }
        let mut bytes = Vec::new();
        File::open(self.books.join(file))
            .and_then(|open| {
                open.take(bytes_max.saturating_add(1))
                    .read_to_end(&mut bytes)
            })
            .map_err(|error| ("unreadable", format!("the file cannot be read: {error}")))?;
        if bytes.len() as u64 > bytes_max {
            return Err((
                "changed",
                format!("the file is longer than {bytes_max} bytes"),
            ));
        }
        Ok(bytes)
    }

    /// The file's path on disk.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.books.join(file)
    }
}

//! The data directory: which file lies where, and whether this version may open it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Version of the data directory that this build reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The file system refused.
    #[error("{doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no data directory.
    #[error("{0} is no data directory of counterfoil: it holds no file named format")]
    NotOne(PathBuf),
    /// The file `format` holds something else.
    #[error(
        "reading {path}: expected the line \"counterfoil-data {FORMAT_VERSION}\", found {found:?}"
    )]
    Unreadable {
        /// The file `format`.
        path: PathBuf,
        /// Its first line, shortened.
        found: String,
    },
    /// A later version wrote it.
    #[error(
        "{path} has version {found}, this build reads versions up to {FORMAT_VERSION}; \
         open it with a newer counterfoil"
    )]
    Newer {
        /// The file `format`.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
}

/// A data directory whose version this build knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDirectory {
    root: PathBuf,
}

impl DataDirectory {
    /// Opens an existing data directory.
    ///
    /// # Errors
    /// [`DirectoryError::Newer`] when a later version wrote it; the others as they say.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, DirectoryError> {
        let root = root.into();
        let path = root.join("format");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DirectoryError::NotOne(root));
            }
            Err(source) => {
                return Err(DirectoryError::Io {
                    doing: "reading",
                    path,
                    source,
                });
            }
        };
        let line = text.lines().next().unwrap_or_default();
        let version = line
            .strip_prefix("counterfoil-data ")
            .and_then(|v| v.parse::<u32>().ok());
        match version {
            Some(found) if found > FORMAT_VERSION => Err(DirectoryError::Newer { path, found }),
            Some(1..) => Ok(Self { root }),
            _ => Err(DirectoryError::Unreadable {
                path,
                found: line.chars().take(80).collect(),
            }),
        }
    }

    /// Opens a data directory, and makes it when there is none.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn create(root: impl Into<PathBuf>) -> Result<Self, DirectoryError> {
        let root = root.into();
        let io = |doing, path: &Path, source| DirectoryError::Io {
            doing,
            path: path.to_owned(),
            source,
        };
        create_directory(&root).map_err(|source| io("making", &root, source))?;
        let path = root.join("format");
        if !path.exists() {
            write_format(&root, &path).map_err(|source| io("writing", &path, source))?;
        }
        Self::open(root)
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `books/`: segments and logs, nothing else.
    #[must_use]
    pub fn books(&self) -> PathBuf {
        self.root.join("books")
    }

    /// `books/log/<origin slug>/`.
    #[must_use]
    pub fn log(&self, origin: &str) -> PathBuf {
        self.books().join("log").join(origin_slug(origin))
    }

    /// `journal/<origin slug>/`.
    #[must_use]
    pub fn journal(&self, origin: &str) -> PathBuf {
        self.root.join("journal").join(origin_slug(origin))
    }

    /// `staging/<origin slug>/`: files on their way into `books/`, on the same file system.
    #[must_use]
    pub fn staging(&self, origin: &str) -> PathBuf {
        self.root.join("staging").join(origin_slug(origin))
    }

    /// `spool/`: of the writers of this host.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }
}

/// The origin as part of a file name: every byte outside `[a-z0-9.-]` becomes `_`.
#[must_use]
pub fn origin_slug(origin: &str) -> String {
    let safe = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-');
    origin
        .bytes()
        .map(|byte| if safe(byte) { char::from(byte) } else { '_' })
        .collect()
}

/// Writes the file `format`; it has its name only when it is whole, for other processes start too.
fn write_format(root: &Path, path: &Path) -> io::Result<()> {
    static STAGED: AtomicU64 = AtomicU64::new(0);
    let own = STAGED.fetch_add(1, Ordering::Relaxed);
    let staged = root.join(format!("format.{}.{own}", std::process::id()));
    let mut file = fs::File::create(&staged)?;
    file.write_all(format!("counterfoil-data {FORMAT_VERSION}\n").as_bytes())?;
    file.sync_all()?;
    match fs::hard_link(&staged, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::remove_file(&staged)?;
    sync_directory(root)
}

/// Makes `directory` and those above it as needed; each new name is durable.
///
/// # Errors
/// What the file system says.
pub fn create_directory(directory: &Path) -> io::Result<()> {
    let Some(parent) = directory.parent().filter(|_| !directory.is_dir()) else {
        return Ok(());
    };
    // The parent of a plain name is the working directory.
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    create_directory(parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_directory(parent),
    }
}

/// Makes the names in `directory` durable.
///
/// # Errors
/// What the file system says.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_directory_is_refused_and_named() {
        let folder = tempfile::tempdir().unwrap();
        DataDirectory::create(folder.path()).unwrap();
        fs::write(folder.path().join("format"), "counterfoil-data 2\n").unwrap();
        let error = DataDirectory::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("has version 2"), "{error}");
        assert!(DataDirectory::create(folder.path()).is_err());
    }

    #[test]
    fn processes_that_start_together_never_see_half_a_format_file() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..100 {
            let root = folder.path().join(format!("a/{round}"));
            let one = || DataDirectory::create(&root).map(drop);
            let made: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
                threads.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert!(made.iter().all(Result::is_ok), "{made:?}");
            assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_folder_without_a_format_file_is_no_data_directory() {
        let folder = tempfile::tempdir().unwrap();
        let error = DataDirectory::open(folder.path()).unwrap_err();
        assert!(matches!(error, DirectoryError::NotOne(_)), "{error}");
        fs::write(folder.path().join("format"), "something else\n").unwrap();
        let error = DataDirectory::open(folder.path()).unwrap_err();
        assert!(
            matches!(error, DirectoryError::Unreadable { .. }),
            "{error}"
        );
    }

    #[test]
    fn an_origin_becomes_a_safe_folder_name() {
        let data = DataDirectory {
            root: PathBuf::from("d"),
        };
        assert_eq!(
            data.journal("Demo.test/c 1"),
            PathBuf::from("d/journal/_emo.test_c_1")
        );
        assert_eq!(
            data.log("demo.test/c-1"),
            PathBuf::from("d/books/log/demo.test_c-1")
        );
    }
}

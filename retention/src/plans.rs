//! The plans that were made here, by hash, and who said to have approved each.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use counterfoil_columns::directory::{create_directory, sync_directory};
use counterfoil_entry::Hash;

use crate::error::RetainError;
use crate::plan::Plan;

/// The folder of plans.
#[derive(Debug)]
pub(crate) struct Plans {
    folder: PathBuf,
}

impl Plans {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.join("plans"),
        }
    }

    /// Where the plan of that hash is kept.
    pub(crate) fn path(&self, hash: &Hash) -> PathBuf {
        self.folder.join(format!("{hash}.json"))
    }

    /// Keeps a plan; it is on the disk when this returns.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn keep(&self, plan: &Plan) -> Result<PathBuf, RetainError> {
        let path = self.path(&plan.sha256());
        let staged = path.with_extension("new");
        let write = || {
            create_directory(&self.folder)?;
            let mut file = File::create(&staged)?;
            file.write_all(&plan.to_bytes())?;
            file.sync_all()?;
            fs::rename(&staged, &path)?;
            sync_directory(&self.folder)
        };
        write().map_err(RetainError::file("writing", &path))?;
        Ok(path)
    }

    /// Who approved here, whether or not the books have it yet. It spares people a refusal later, and decides nothing.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn approved(&self, hash: &Hash) -> Result<Vec<String>, RetainError> {
        let path = self.path(hash).with_extension("approved");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(RetainError::file("reading", &path)(error)),
        }
    }

    /// Notes an approval.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn note_approval(&self, hash: &Hash, name: &str) -> Result<(), RetainError> {
        let path = self.path(hash).with_extension("approved");
        let write = || {
            let mut file = File::options().create(true).append(true).open(&path)?;
            file.write_all(format!("{name}\n").as_bytes())?;
            file.sync_all()
        };
        write().map_err(RetainError::file("writing", &path))
    }
}

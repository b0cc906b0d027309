//! The collector's own files: the lock of the books and the log's key; and whom it takes for control.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use counterfoil_columns::DataDirectory;
use counterfoil_columns::directory::{create_directory, sync_directory};
use counterfoil_columns::lock::{LockError, lock_folder};
use counterfoil_ledger::note::{LogKey, Note, NoteError};
use counterfoil_spool::join::IdentityConfig;
use counterfoil_trust::SpiffeId;

use super::CollectorError;
use crate::config::{CollectorConfig, ConfigError};

/// The SPIFFE id of control; the same default as for joining.
pub(super) fn control_id(identity: &IdentityConfig) -> String {
    let given = identity.control_spiffe_id.clone();
    given.unwrap_or_else(|| role_id(identity, "control"))
}

/// The SPIFFE id of query.
pub(super) fn query_id(config: &CollectorConfig) -> String {
    let given = config.query_spiffe_id.clone();
    given.unwrap_or_else(|| role_id(&config.identity, "query"))
}

/// SPIFFE id that a role of this trust domain has when nothing else is configured.
fn role_id(identity: &IdentityConfig, role: &str) -> String {
    let domain = SpiffeId::parse(&identity.spiffe_id).map(|id| id.trust_domain().to_owned());
    format!("spiffe://{}/counterfoil/{role}", domain.unwrap_or_default())
}

/// The SPIFFE id of retention, in the collector's own trust domain.
pub(super) fn retention_id(own: &SpiffeId) -> String {
    format!("spiffe://{}/counterfoil/retention", own.trust_domain())
}

/// Takes the lock of the books for as long as the file is held.
pub(crate) fn lock(directory: &Path) -> Result<File, CollectorError> {
    lock_folder(directory).map_err(|error| match error {
        LockError::Held(path) => CollectorError::Locked(path),
        LockError::File {
            doing,
            path,
            source,
        } => CollectorError::File {
            doing,
            path,
            source,
        },
    })
}

/// A log that was begun has its key: a mistyped name must not make another one, nor name one.
pub(super) fn check_log_key(
    config: &CollectorConfig,
    data: &DataDirectory,
) -> Result<(), ConfigError> {
    let (path, origin) = (config.log_key_path(), config.origin.clone());
    let log = data.log(&origin);
    let pem = match fs::read_to_string(&path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return if log.is_dir() {
                Err(ConfigError::LogKeyLost { path, origin })
            } else {
                Ok(())
            };
        }
        Err(error) => {
            let detail = error.to_string();
            return Err(ConfigError::LogKey {
                path,
                detail,
                origin,
            });
        }
    };
    let detail = match LogKey::from_pem(&origin, &pem) {
        // A checkpoint that cannot be read is damage, and told by the recovery.
        Ok(key) => match fs::read_to_string(log.join("checkpoint")) {
            Ok(note) if is_by_another_key(&note, &key) => {
                "the log's checkpoint is not signed by it".to_owned()
            }
            _ => return Ok(()),
        },
        Err(error) => error.to_string(),
    };
    Err(ConfigError::LogKey {
        path,
        detail,
        origin,
    })
}

fn is_by_another_key(note: &str, key: &LogKey) -> bool {
    let verified = Note::parse(note).and_then(|note| note.verify(key.verifier()));
    matches!(verified, Err(NoteError::Unsigned(_)))
}

/// Reads the log's key, and makes it at the first start.
pub(super) fn log_key(config: &CollectorConfig) -> Result<LogKey, CollectorError> {
    let path = config.log_key_path();
    let error = |doing, source| CollectorError::File {
        doing,
        path: path.clone(),
        source,
    };
    match fs::read_to_string(&path) {
        Ok(pem) => {
            return LogKey::from_pem(&config.origin, &pem)
                .map_err(|source| error("reading the log key", io::Error::other(source)));
        }
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(error("reading the log key", source));
        }
        Err(_) => {}
    }
    let key = LogKey::generate(&config.origin)
        .map_err(|source| error("making the log key", io::Error::other(source)))?;
    let pem = key
        .to_pem()
        .map_err(|source| error("making the log key", io::Error::other(source)))?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    // Under its name stands a whole key or none: a start that was killed here leaves no half one.
    let staged = path.with_extension("new");
    let written = create_directory(folder)
        .and_then(|()| {
            File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&staged)
        })
        .and_then(|mut file| {
            file.write_all(pem.as_bytes())
                .and_then(|()| file.sync_all())
        })
        .and_then(|()| fs::hard_link(&staged, &path))
        .and_then(|()| fs::remove_file(&staged))
        .and_then(|()| sync_directory(folder));
    written.map_err(|source| error("writing the log key", source))?;
    Ok(key)
}

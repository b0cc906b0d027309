//! The SVID on disk, by which a restart needs no control.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use counterfoil_entry::{Time, clock};
use counterfoil_trust::{Identity, Svid, TrustRoots};
use serde::{Deserialize, Serialize};

use super::{IdentityConfig, JoinError};

/// Name of the kept SVID in `state_dir`.
const KEPT_FILE: &str = "svid.json";
/// A kept SVID is not begun with when less than a tenth of its life is left, or less than this for
/// a long life.
const USABLE_NS_MAX: i64 = 60 * 1_000_000_000;

/// Key, chain and roots in one file, so that they always fit together.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) key: String,
    pub(super) chain: String,
    pub(super) roots: String,
    /// When it was received, nanoseconds of the wall clock: `not_before` lies in the past, so that
    /// peers whose clocks are behind take it.
    #[serde(default)]
    pub(super) received_ns: Option<i64>,
}

impl Kept {
    pub(super) fn write(&self, config: &IdentityConfig) -> Result<(), JoinError> {
        let path = path(config);
        write_secret(&config.state_dir, &path, self)
            .map_err(|source| JoinError::File { path, source })
    }
}

/// The identity that `state_dir` keeps, when it is of this workload and good for a while.
///
/// # Errors
/// [`JoinError::File`] when there is one that cannot be read.
pub fn load(config: &IdentityConfig) -> Result<Option<Identity>, JoinError> {
    let Some(kept) = read(config)? else {
        return Ok(None);
    };
    let svid = Svid::from_pem(&kept.chain, &kept.key);
    match (svid, TrustRoots::from_pem(&kept.roots)) {
        (Ok(svid), Ok(roots))
            if svid.spiffe_id().as_str() == config.spiffe_id
                && is_usable(&svid, kept.received_ns) =>
        {
            Ok(Some(Identity::new(svid, roots)))
        }
        _ => Ok(None),
    }
}

/// When the kept SVID was received, as far as the file tells.
pub(super) fn received(config: &IdentityConfig) -> Option<Time> {
    let kept = read(config).ok().flatten()?;
    kept.received_ns.map(Time::from_ns)
}

fn is_usable(svid: &Svid, received_ns: Option<i64>) -> bool {
    let begin = received_ns.map_or_else(|| svid.not_before(), Time::from_ns);
    let life_ns = svid.not_after().since_ns(begin);
    let left_ns = svid.not_after().since_ns(clock::wall());
    left_ns > (life_ns / 10).clamp(0, USABLE_NS_MAX)
}

fn read(config: &IdentityConfig) -> Result<Option<Kept>, JoinError> {
    let path = path(config);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(JoinError::File { path, source }),
    };
    let kept = serde_json::from_str(&text).ok();
    if kept.is_none() {
        tracing::warn!(path = %path.display(), "the kept SVID cannot be read; asks for a new one");
    }
    Ok(kept)
}

fn path(config: &IdentityConfig) -> PathBuf {
    config.state_dir.join(KEPT_FILE)
}

fn write_secret(directory: &Path, path: &Path, kept: &Kept) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let new = path.with_extension("new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

//! Which manifest files are not those of the log, found before anything that they say is believed.
//!
//! A changed manifest would send the walk to intact files and have it blame them. The tiles of level 0 hold the leaf
//! hash of every manifest; when they have the checkpoint's root, a manifest with another hash is the one that changed.

use std::collections::BTreeSet;
use std::fs;

use counterfoil_entry::Hash;
use counterfoil_entry::tree::root;

use super::files::Files;
use crate::checkpoint::Checkpoint;
use crate::manifest::manifest_leaf;
use crate::paths;
use crate::tile::{TILE_WIDTH, Tile};

const HASH_BYTES: usize = 32;

/// Numbers of the manifests of `origin` that differ from what the log under `head` holds; none when its tiles cannot
/// tell. A file that cannot be read is not among them: the walk says so itself.
pub(super) fn changed(files: &Files, origin: &str, head: &Checkpoint) -> BTreeSet<u64> {
    let Some(leaves) = leaves(files, origin, head.size) else {
        return BTreeSet::new();
    };
    if root(&leaves) != head.root {
        return BTreeSet::new();
    }
    (0..)
        .zip(&leaves)
        .filter(|(number, leaf)| {
            leaf_of(files, origin, *number).is_some_and(|found| found != **leaf)
        })
        .map(|(number, _)| number)
        .collect()
}

/// Whether manifest 0 differs from what the tiles of a log of any size hold. For a log whose checkpoint no key opens:
/// then either of the two has changed.
pub(super) fn is_first_changed(files: &Files, origin: &str, size: u64) -> bool {
    let first = leaves(files, origin, size).and_then(|leaves| leaves.first().copied());
    first.is_some_and(|leaf| leaf_of(files, origin, 0).is_some_and(|found| found != leaf))
}

fn leaf_of(files: &Files, origin: &str, number: u64) -> Option<Hash> {
    let bytes = fs::read(files.path(&paths::manifest(origin, number))).ok()?;
    Some(manifest_leaf(&bytes))
}

/// The leaf hashes that the tiles of level 0 hold for a log of `size`.
fn leaves(files: &Files, origin: &str, size: u64) -> Option<Vec<Hash>> {
    let width = u64::from(TILE_WIDTH);
    let mut leaves = Vec::new();
    for index in 0..size.div_ceil(width) {
        let tile = Tile {
            level: Some(0),
            index,
            width: u16::try_from((size - index * width).min(width)).ok()?,
        };
        let file = format!("{}/{}", paths::log_folder(origin), tile.path());
        let bytes = fs::read(files.path(&file)).ok()?;
        if bytes.len() != usize::from(tile.width) * HASH_BYTES {
            return None;
        }
        let (hashes, _) = bytes.as_chunks::<HASH_BYTES>();
        leaves.extend(hashes.iter().map(|hash| Hash(*hash)));
    }
    Some(leaves)
}

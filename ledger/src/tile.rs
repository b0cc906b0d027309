//! C2SP tlog-tiles: which tiles a log of a size has, and what stands in them.

use counterfoil_entry::Hash;
use counterfoil_entry::tree::{node_hash, root};

/// Hashes in a full tile, and entries in a full bundle.
pub const TILE_WIDTH: u16 = 256;

/// A tile: `width` hashes of tree level `8 * level`, or as many entries of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    /// Tile level; `None` for an entry bundle.
    pub level: Option<u8>,
    /// Place in the level, from 0.
    pub index: u64,
    /// Hashes or entries in it, 1 to 256; below 256 the tile is partial.
    pub width: u16,
}

impl Tile {
    /// The tile's path, `tile/<L>/<N>[.p/<W>]` or `tile/entries/<N>[.p/<W>]`.
    #[must_use]
    pub fn path(&self) -> String {
        let mut name = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest > 0 {
            name = format!("x{:03}/{name}", rest % 1000);
            rest /= 1000;
        }
        let level = self
            .level
            .map_or_else(|| "entries".to_owned(), |level| level.to_string());
        if self.width < TILE_WIDTH {
            format!("tile/{level}/{name}.p/{}", self.width)
        } else {
            format!("tile/{level}/{name}")
        }
    }

    /// Whether it holds fewer than 256 hashes or entries.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        self.width < TILE_WIDTH
    }
}

/// The right edge of a tree of tiles: what is needed to append to it.
///
/// Memory: at most 255 hashes a level, and the entries of one partial bundle.
#[derive(Debug, Clone, Default)]
pub struct Edge {
    size: u64,
    /// Hashes of the partial tile of each level, lowest first.
    levels: Vec<Vec<Hash>>,
    bundle: Vec<u8>,
}

/// An entry too long for a bundle (64 KiB and more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a log entry of {0} bytes is too long: 65535 are allowed")]
pub struct TooLong(pub usize);

impl Edge {
    /// Leaves so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends an entry and its leaf hash; gives the tiles and the bundle that it completed.
    ///
    /// # Errors
    /// [`TooLong`] when the entry does not fit into a bundle; nothing is appended then.
    pub fn push(&mut self, entry: &[u8], leaf: Hash) -> Result<Vec<(Tile, Vec<u8>)>, TooLong> {
        let len = u16::try_from(entry.len()).map_err(|_| TooLong(entry.len()))?;
        self.bundle.extend_from_slice(&len.to_be_bytes());
        self.bundle.extend_from_slice(entry);
        self.size += 1;
        let mut full = Vec::new();
        let (mut hash, mut count) = (leaf, self.size);
        for level in 0_u8.. {
            let at = usize::from(level);
            if self.levels.len() == at {
                self.levels.push(Vec::new());
            }
            let Some(hashes) = self.levels.get_mut(at) else {
                break;
            };
            hashes.push(hash);
            if count % u64::from(TILE_WIDTH) != 0 {
                break;
            }
            // The tile is full: its root is one hash of the level above.
            count /= u64::from(TILE_WIDTH);
            hash = root(hashes);
            let tile = Tile {
                level: Some(level),
                index: count - 1,
                width: TILE_WIDTH,
            };
            full.push((tile, concat(hashes)));
            hashes.clear();
            if level == 0 {
                full.push((
                    Tile {
                        level: None,
                        ..tile
                    },
                    std::mem::take(&mut self.bundle),
                ));
            }
        }
        Ok(full)
    }

    /// The partial tiles and the partial bundle of the current size.
    #[must_use]
    pub fn partial(&self) -> Vec<(Tile, Vec<u8>)> {
        let mut tiles = Vec::new();
        let mut count = self.size;
        for (level, hashes) in (0_u8..).zip(&self.levels) {
            let index = count / u64::from(TILE_WIDTH);
            if let (false, Ok(width)) = (hashes.is_empty(), u16::try_from(hashes.len())) {
                let tile = Tile {
                    level: Some(level),
                    index,
                    width,
                };
                tiles.push((tile, concat(hashes)));
                if level == 0 {
                    tiles.push((
                        Tile {
                            level: None,
                            ..tile
                        },
                        self.bundle.clone(),
                    ));
                }
            }
            count = index;
        }
        tiles
    }

    /// RFC 6962 root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        // From the lowest level up, each level's peaks stand left of all below it.
        let mut levels = self.levels.iter().filter(|hashes| !hashes.is_empty());
        let Some(lowest) = levels.next() else {
            return root(&[]);
        };
        levels.fold(root(lowest), |right, hashes| join(hashes, right))
    }
}

/// Root over complete subtrees `hashes` of one size and a smaller tree `right` of them.
fn join(hashes: &[Hash], right: Hash) -> Hash {
    let mut rest = hashes;
    let mut peaks = Vec::new();
    while !rest.is_empty() {
        let size = 1_usize << rest.len().ilog2();
        let Some((peak, tail)) = rest.split_at_checked(size) else {
            break;
        };
        peaks.push(root(peak));
        rest = tail;
    }
    peaks
        .iter()
        .rev()
        .fold(right, |right, left| node_hash(left, &right))
}

fn concat(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use counterfoil_entry::tree::leaf_hash;
    use std::collections::BTreeMap;

    /// All tiles of a log of `size` entries, by path, as appending one by one leaves them.
    fn tiles(size: u64) -> (Edge, BTreeMap<String, Vec<u8>>) {
        let mut edge = Edge::default();
        let mut tiles = BTreeMap::new();
        for n in 0..size {
            let entry = n.to_be_bytes();
            for (tile, bytes) in edge.push(&entry, leaf_hash(&entry)).unwrap() {
                tiles.insert(tile.path(), bytes);
            }
        }
        tiles.extend(
            edge.partial()
                .into_iter()
                .map(|(tile, bytes)| (tile.path(), bytes)),
        );
        (edge, tiles)
    }

    #[test]
    fn tiles_and_roots_are_those_of_the_other_implementation() {
        for size in [
            1, 2, 3, 255, 256, 257, 511, 512, 700, 65_536, 65_537, 66_049,
        ] {
            let (edge, ours) = tiles(size);
            let leaves: Vec<Hash> = (0..size).map(|n| leaf_hash(&n.to_be_bytes())).collect();
            assert_eq!(edge.root(), root(&leaves), "{size}");
            let mut theirs: Vec<String> = Vec::new();
            for tile in tlog_tiles::Tile::new_tiles(8, 0, size) {
                // Its paths name the tile height and call bundles `data`, as Go's sumdb does.
                let path = tile.path().replacen("tile/8/", "tile/", 1);
                if tile.level() == 0 {
                    theirs.push(path.replacen("tile/0/", "tile/entries/", 1));
                }
                theirs.push(path);
            }
            theirs.sort();
            assert_eq!(ours.keys().cloned().collect::<Vec<_>>(), theirs, "{size}");
        }
    }

    #[test]
    fn a_tile_holds_the_roots_of_the_tiles_below() {
        let (_, tiles) = tiles(512);
        let top = &tiles["tile/1/000.p/2"];
        for (at, name) in ["tile/0/000", "tile/0/001"].iter().enumerate() {
            let hashes: Vec<Hash> = tiles[*name]
                .chunks(32)
                .map(|chunk| Hash::from_slice(chunk).unwrap())
                .collect();
            assert_eq!(&top[32 * at..32 * (at + 1)], root(&hashes).as_bytes());
        }
    }

    #[test]
    fn paths_group_the_index_by_thousands() {
        let tile = |index, width| {
            Tile {
                level: Some(0),
                index,
                width,
            }
            .path()
        };
        assert_eq!(tile(0, 256), "tile/0/000");
        assert_eq!(tile(1_234_067, 5), "tile/0/x001/x234/067.p/5");
        assert_eq!(
            Tile {
                level: None,
                index: 1000,
                width: 256
            }
            .path(),
            "tile/entries/x001/000"
        );
    }

    #[test]
    fn an_entry_of_64_kib_is_refused() {
        let mut edge = Edge::default();
        assert!(edge.push(&vec![0; 65_536], Hash::default()).is_err());
        assert_eq!(edge.size(), 0);
        assert!(edge.push(&vec![0; 65_535], Hash::default()).is_ok());
    }
}

//! RFC 6962 hashing: leaves, nodes, roots.

use aws_lc_rs::digest::{Context, SHA256, digest};

use crate::Hash;

/// SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Hash {
    finish(digest(&SHA256, bytes).as_ref())
}

/// Leaf hash: `SHA-256(00 | record)`, RFC 6962 section 2.1.
#[must_use]
pub fn leaf_hash(record: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[0]);
    context.update(record);
    finish(context.finish().as_ref())
}

/// Node hash: `SHA-256(01 | left | right)`, RFC 6962 section 2.1.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [1; 65];
    bytes[1..33].copy_from_slice(&left.0);
    bytes[33..].copy_from_slice(&right.0);
    sha256(&bytes)
}

/// Root over `leaves` in order; of no leaves, the hash of nothing.
#[must_use]
pub fn root(leaves: &[Hash]) -> Hash {
    let mut accumulator = Accumulator::default();
    leaves.iter().for_each(|leaf| accumulator.push(*leaf));
    accumulator.root()
}

/// A root that grows leaf by leaf in logarithmic memory.
#[derive(Debug, Clone, Default)]
pub struct Accumulator {
    /// Roots of the complete subtrees, largest first; the set bits of `len` are their sizes.
    peaks: Vec<Hash>,
    len: u64,
}

impl Accumulator {
    /// Adds the next leaf hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.len.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.len += 1;
    }

    /// Leaves pushed so far.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether no leaf was pushed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Root over the leaves pushed so far.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return sha256(&[]);
        };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// Turns a digest into a [`Hash`]; SHA-256 always yields 32 bytes.
fn finish(bytes: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.0.copy_from_slice(bytes);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 6962 section 2.1 as it is written: split at the largest power of two below the size.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => sha256(&[]),
            [one] => *one,
            more => {
                let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
                node_hash(&by_definition(left), &by_definition(right))
            }
        }
    }

    #[test]
    fn the_empty_root_is_the_hash_of_nothing() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(root(&[]).to_string(), empty);
    }

    proptest! {
        #[test]
        fn the_accumulator_follows_the_definition(n in 0_usize..300) {
            let leaves: Vec<Hash> = (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect();
            prop_assert_eq!(root(&leaves), by_definition(&leaves));
        }
    }
}

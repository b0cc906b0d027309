//! Inclusion and consistency proofs of RFC 6962, section 2.1, made and checked.

use counterfoil_entry::Hash;
use counterfoil_entry::tree::{node_hash, root};

/// Why a proof was refused or could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf or the older size lies beyond the tree.
    #[error("place {at} lies beyond a tree of {size} leaves")]
    Beyond {
        /// The leaf's index, or the older size.
        at: u64,
        /// Leaves in the tree.
        size: u64,
    },
    /// The proof has too few or too many hashes.
    #[error("the proof has {found} hashes where {expected} are needed")]
    Length {
        /// Hashes that a proof of these sizes has.
        expected: usize,
        /// Hashes that it has.
        found: usize,
    },
    /// The proof leads to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// Proof that leaf `index` is in the tree over `leaves`: hashes from leaf to root, at most 64.
///
/// # Errors
/// [`ProofError::Beyond`] if `index` is not below the number of leaves.
pub fn prove_inclusion(leaves: &[Hash], index: u64) -> Result<Vec<Hash>, ProofError> {
    let size = leaves.len() as u64;
    let at = usize::try_from(index).ok().filter(|at| *at < leaves.len());
    let Some(mut at) = at else {
        return Err(ProofError::Beyond { at: index, size });
    };
    let (mut rest, mut proof) = (leaves, Vec::new());
    while let Some((left, right)) = halves(rest) {
        if at < left.len() {
            proof.push(root(right));
            rest = left;
        } else {
            proof.push(root(left));
            at -= left.len();
            rest = right;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that a leaf hash stands at `index` of the tree with `size` leaves and this root.
///
/// # Errors
/// Any [`ProofError`].
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    expected: &Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Beyond { at: index, size });
    }
    let sides = path(index, size);
    check_length(sides.len(), proof.len())?;
    let found = sides
        .iter()
        .zip(proof)
        .fold(*leaf, |hash, (is_left, other)| {
            if *is_left {
                node_hash(&hash, other)
            } else {
                node_hash(other, &hash)
            }
        });
    if found == *expected {
        Ok(())
    } else {
        Err(ProofError::Root)
    }
}

/// Proof that the tree over the first `old` leaves is a prefix of the tree over `leaves`.
/// Empty when both are one, or when `old` is 0.
///
/// # Errors
/// [`ProofError::Beyond`] if `old` is larger than the number of leaves.
pub fn prove_consistency(leaves: &[Hash], old: u64) -> Result<Vec<Hash>, ProofError> {
    let size = leaves.len() as u64;
    let at = usize::try_from(old).ok().filter(|at| *at <= leaves.len());
    let Some(mut old) = at else {
        return Err(ProofError::Beyond { at: old, size });
    };
    let (mut rest, mut proof, mut is_whole) = (leaves, Vec::new(), true);
    // SUBPROOF of RFC 6962, walked from the root down.
    while old != 0 && old < rest.len() {
        let Some((left, right)) = halves(rest) else {
            break;
        };
        if old <= left.len() {
            proof.push(root(right));
            rest = left;
        } else {
            proof.push(root(left));
            old -= left.len();
            rest = right;
            is_whole = false;
        }
    }
    if old != 0 && !is_whole {
        proof.push(root(rest));
    }
    proof.reverse();
    Ok(proof)
}

/// A root and the number of leaves under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Leaves.
    pub size: u64,
    /// RFC 6962 root.
    pub root: Hash,
}

/// Checks that the tree `old` is a prefix of the tree `new`.
///
/// # Errors
/// Any [`ProofError`].
pub fn verify_consistency(old: &Head, new: &Head, proof: &[Hash]) -> Result<(), ProofError> {
    if old.size > new.size {
        return Err(ProofError::Beyond {
            at: old.size,
            size: new.size,
        });
    }
    if old.size == 0 || old.size == new.size {
        check_length(0, proof.len())?;
        let is_right = if old.size == 0 {
            old.root == root(&[])
        } else {
            old.root == new.root
        };
        return if is_right {
            Ok(())
        } else {
            Err(ProofError::Root)
        };
    }
    // The largest complete subtree that ends where the old tree ends begins the proof; it is the
    // old tree itself when that has a power of two leaves.
    let level = old.size.trailing_zeros();
    let sides = path((old.size - 1) >> level, ((new.size - 1) >> level) + 1);
    let (first, rest) = if old.size.is_power_of_two() {
        check_length(sides.len(), proof.len())?;
        (old.root, proof)
    } else {
        check_length(sides.len() + 1, proof.len())?;
        proof
            .split_first()
            .map(|(first, rest)| (*first, rest))
            .ok_or(ProofError::Root)?
    };
    let (mut old_root, mut new_root) = (first, first);
    for (is_left, other) in sides.iter().zip(rest) {
        if *is_left {
            new_root = node_hash(&new_root, other);
        } else {
            old_root = node_hash(other, &old_root);
            new_root = node_hash(other, &new_root);
        }
    }
    if old_root == old.root && new_root == new.root {
        Ok(())
    } else {
        Err(ProofError::Root)
    }
}

/// From leaf to root: whether the node on the way is the left child of its parent.
fn path(index: u64, size: u64) -> Vec<bool> {
    let (mut at, mut last) = (index, size - 1);
    let mut sides = Vec::new();
    while last > 0 {
        if at & 1 == 1 {
            sides.push(false);
        } else if at < last {
            sides.push(true);
        }
        // A node without a sibling moves up unchanged.
        at >>= 1;
        last >>= 1;
    }
    sides
}

fn check_length(expected: usize, found: usize) -> Result<(), ProofError> {
    if expected == found {
        Ok(())
    } else {
        Err(ProofError::Length { expected, found })
    }
}

/// Splits at the largest power of two below the length; `None` for a single leaf.
fn halves(leaves: &[Hash]) -> Option<(&[Hash], &[Hash])> {
    let half = leaves.len().next_power_of_two() / 2;
    if leaves.len() < 2 {
        None
    } else {
        leaves.split_at_checked(half)
    }
}

#[cfg(test)]
mod tests;

//! The transparency log: notes, checkpoints, tiles, manifests, coverage, proofs, verification.

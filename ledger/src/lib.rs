//! The transparency log: notes, checkpoints, tiles, manifests, coverage, proofs, verification.
//!
//! Bytes in, hashes, proofs and verdicts out; no network, no runtime. An auditor can link this
//! crate alone. `docs/format.md` gives the bytes, sections 5 and 6.

pub mod checkpoint;
pub mod coverage;
pub mod log;
pub mod manifest;
pub mod note;
pub mod paths;
pub mod policy;
pub mod proof;
pub mod tile;
pub mod verify;

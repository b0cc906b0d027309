//! Entries and statements: fields, ids, canonical bytes, leaf and tree hashing.
//!
//! What a writer signs and what a verifier recomputes lives here, and nothing else: no network, no
//! columns, no runtime. `docs/format.md` gives the bytes.

pub mod announcement;
pub mod clock;
pub mod ed25519;
pub mod entry;
pub mod frame;
pub mod hash;
pub mod id;
pub mod record;
pub mod rows;
pub mod statement;
pub mod table;
pub mod time;
pub mod tlv;
pub mod tree;
pub mod word;

pub use hash::Hash;
pub use time::Time;

//! Entries and statements: fields, ids, canonical bytes, leaf and tree hashing.

//! Arrow schema of the tables, segment files, the journal's frames and the layout of the data directory.
//!
//! A row is built straight from an entry's canonical bytes and becomes the same bytes again.

pub mod directory;
pub mod journal;
pub mod lock;
pub mod record;
pub mod rollup;
pub mod row;
pub mod schema;
pub mod segment;

pub use directory::DataDirectory;
pub use record::RowReader;
pub use row::RowBuilder;
pub use schema::{Attribution, Delivery, Envelope, provenance, schema};

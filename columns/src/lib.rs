//! Arrow schema of the tables, Parquet properties, segment files and the journal.

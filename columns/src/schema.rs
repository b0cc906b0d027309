//! The Arrow schema of a table: the columns that its writer signs, then the envelope.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use counterfoil_entry::Time;
use counterfoil_entry::id::Stream;
use counterfoil_entry::table::{Column, Shape, TableId};

/// Time zone of every timestamp column.
pub const UTC: &str = "UTC";
/// Envelope column with the number of the statement that covers the row.
pub(crate) const STATEMENT: &str = "statement";

/// How an entry came to the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Spooled by its writer and acknowledged after `fsync`.
    Acked,
    /// Sent by a system that does not wait for acknowledgements.
    BestEffort,
}

/// Who vouches for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribution {
    /// A Counterfoil writer, by its signed statements.
    Native,
    /// An Envoy access-log service stream; unsigned.
    Als,
    /// An OTLP exporter; unsigned.
    Otlp,
}

/// How rows of `lane` came, and who vouches for them.
#[must_use]
pub fn provenance(lane: u16) -> (Delivery, Attribution) {
    let words = Stream::provenance(lane);
    let known = words.and_then(|(delivery, attribution)| {
        Some((Delivery::parse(delivery)?, Attribution::parse(attribution)?))
    });
    known.unwrap_or((Delivery::Acked, Attribution::Native))
}

impl Delivery {
    /// The text in the books.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acked => "acked",
            Self::BestEffort => "best_effort",
        }
    }

    /// The delivery whose text is `text`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Acked, Self::BestEffort]
            .into_iter()
            .find(|one| one.as_str() == text)
    }
}

impl Attribution {
    /// The text in the books.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Als => "als",
            Self::Otlp => "otlp",
        }
    }

    /// The attribution whose text is `text`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Native, Self::Als, Self::Otlp]
            .into_iter()
            .find(|one| one.as_str() == text)
    }
}

/// What the collector adds to an entry; not part of its canonical bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// When the collector took the entry, by its own wall clock.
    pub received_at: Time,
    /// Log origin of the collector.
    pub origin: &'a str,
    /// Number of the statement that covers the entry; `None` before it, and for statements themselves.
    pub statement: Option<u64>,
    /// Segment, counted from 1 over the origin; `None` until sealed.
    pub segment: Option<u64>,
    /// Place in the segment, from 0; `None` until sealed.
    pub leaf_index: Option<u64>,
    /// Retention class of the entry's stream.
    pub retention_class: &'a str,
    /// How the entry came.
    pub delivery: Delivery,
    /// Who vouches for it.
    pub attribution: Attribution,
}

/// The Arrow schema of `id`: columns of the canonical bytes in field order, then the envelope's.
///
/// The envelope: `received_at`, `origin`, `statement`, `segment`, `leaf_index`, `retention_class`,
/// `delivery`, `attribution`, `unknown_fields`. The table `statements` has no envelope column
/// `statement`: no statement covers its rows, and its own column of that name holds their bytes.
#[must_use]
pub fn schema(id: TableId) -> SchemaRef {
    let envelope = [
        Field::new("received_at", time(), false),
        Field::new("origin", DataType::Utf8, false),
        Field::new(STATEMENT, DataType::UInt64, true),
        Field::new("segment", DataType::UInt64, true),
        Field::new("leaf_index", DataType::UInt64, true),
        Field::new("retention_class", DataType::Utf8, false),
        Field::new("delivery", DataType::Utf8, false),
        Field::new("attribution", DataType::Utf8, false),
        Field::new("unknown_fields", DataType::Binary, true),
    ];
    let envelope = envelope
        .into_iter()
        .filter(|field| field.name() != STATEMENT || has_statement(id));
    let body = id.table().columns.iter().map(field);
    Arc::new(Schema::new(body.chain(envelope).collect::<Vec<_>>()))
}

/// Whether the envelope of `id` has the column `statement`.
pub(crate) fn has_statement(id: TableId) -> bool {
    id.table()
        .columns
        .iter()
        .all(|column| column.name != STATEMENT)
}

fn field(column: &Column) -> Field {
    let data_type = match column.shape {
        Shape::Bool => DataType::Boolean,
        Shape::I64 => DataType::Int64,
        Shape::U64 => DataType::UInt64,
        Shape::U16 => DataType::UInt16,
        Shape::Text => DataType::Utf8,
        Shape::Time => time(),
        Shape::Fixed(bytes) => DataType::FixedSizeBinary(i32::from(bytes)),
        Shape::Binary => DataType::Binary,
        Shape::TextList => DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))),
    };
    Field::new(column.name, data_type, column.nullable)
}

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some(Arc::from(UTC)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use counterfoil_entry::table::TABLES;

    use super::*;

    #[test]
    fn no_column_has_the_name_of_another_or_of_the_envelope() {
        for table in TABLES {
            let schema = schema(table.id);
            let names: HashSet<_> = schema.fields().iter().map(|field| field.name()).collect();
            assert_eq!(names.len(), schema.fields().len(), "{}", table.id.name());
        }
    }
}

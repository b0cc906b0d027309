//! R: the canonical bytes of a row of any table.

use crate::id::{Epoch, IdError, Stream, Writer};
use crate::table::TableId;
use crate::tlv::{Decoder, Encoder, Fields, TlvError};

/// What R begins with.
pub const DOMAIN: &[u8] = b"counterfoil/entry/v1\0";

/// The place of a row in its writer's sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Who wrote it.
    pub writer: Writer,
    /// In which start of its process.
    pub epoch: Epoch,
    /// In which stream.
    pub stream: Stream,
    /// At which place, from 0 without holes in (writer, epoch, stream).
    pub seq: u64,
}

/// A [`Header`] as texts that the writer keeps ready, so that a row costs no allocation.
#[derive(Debug, Clone, Copy)]
pub struct HeaderRef<'a> {
    /// [`Writer`] as text.
    pub writer: &'a str,
    /// The epoch.
    pub epoch: Epoch,
    /// [`Stream`] as text.
    pub stream: &'a str,
    /// The place.
    pub seq: u64,
}

/// Why bytes are no row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes do not begin with [`DOMAIN`] and a table and version.
    #[error("the bytes are no entry: they do not begin with its domain, table and version")]
    NotAnEntry,
    /// The row is of another table or of a schema version that this build does not know.
    #[error("the entry is of table {table} version {version}, which is not expected here")]
    Table {
        /// Table number found.
        table: u16,
        /// Schema version found.
        version: u16,
    },
    /// A field is not what it must be.
    #[error(transparent)]
    Field(#[from] TlvError),
    /// An id in the header is malformed.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// Begins R in `out`: domain, table, version, and the header's four fields. The caller goes on with
/// field 5.
pub fn begin<'o>(table: TableId, header: &HeaderRef<'_>, out: &'o mut Vec<u8>) -> Encoder<'o> {
    out.extend_from_slice(DOMAIN);
    out.extend_from_slice(&table.number().to_be_bytes());
    out.extend_from_slice(&table.table().schema_version.to_be_bytes());
    let mut encoder = Encoder::new(out);
    encoder
        .text(1, header.writer)
        .u64(2, header.epoch.0)
        .text(3, header.stream)
        .u64(4, header.seq);
    encoder
}

/// R taken apart, borrowing its bytes.
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    /// Table number.
    pub table: u16,
    /// Schema version.
    pub schema_version: u16,
    /// The fields.
    pub body: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Takes R apart without reading its fields.
    ///
    /// # Errors
    /// [`RecordError::NotAnEntry`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let rest = bytes.strip_prefix(DOMAIN).ok_or(RecordError::NotAnEntry)?;
        let (table, rest) = rest.split_first_chunk().ok_or(RecordError::NotAnEntry)?;
        let (version, body) = rest.split_first_chunk().ok_or(RecordError::NotAnEntry)?;
        Ok(Self {
            table: u16::from_be_bytes(*table),
            schema_version: u16::from_be_bytes(*version),
            body,
        })
    }

    /// Checks that the row is of `table` in the version that this build knows.
    ///
    /// # Errors
    /// [`RecordError::Table`].
    pub fn expect(&self, table: TableId) -> Result<(), RecordError> {
        if self.table == table.number() && self.schema_version == table.table().schema_version {
            return Ok(());
        }
        Err(RecordError::Table {
            table: self.table,
            version: self.schema_version,
        })
    }

    /// The fields one by one.
    #[must_use]
    pub const fn decoder(&self) -> Decoder<'a> {
        Decoder::new(self.body)
    }

    /// The row's place: reads the first four fields only.
    ///
    /// # Errors
    /// When one of them is missing or malformed.
    pub fn header(&self) -> Result<Header, RecordError> {
        let parts = self.header_ref()?;
        Ok(Header {
            writer: Writer::parse(parts.writer)?,
            epoch: parts.epoch,
            stream: Stream::parse(parts.stream)?,
            seq: parts.seq,
        })
    }

    /// The row's place as unchecked texts: reads the first four fields only.
    ///
    /// # Errors
    /// When one of them is missing or of another kind.
    pub fn header_ref(&self) -> Result<HeaderRef<'a>, RecordError> {
        use crate::tlv::Field::{Text, U64};
        let mut fields = self.decoder();
        let mut next = |id: u16| match fields.next() {
            Some(Ok((at, field))) if at == id => Ok(field),
            Some(Err(error)) => Err(error),
            _ => Err(TlvError::Missing(id)),
        };
        let (Text(writer), U64(epoch), Text(stream), U64(seq)) =
            (next(1)?, next(2)?, next(3)?, next(4)?)
        else {
            return Err(TlvError::Wrong(1).into());
        };
        Ok(HeaderRef {
            writer,
            epoch: Epoch(epoch),
            stream,
            seq,
        })
    }
}

/// Refuses fields that `table` does not have.
///
/// # Errors
/// [`TlvError::Unknown`] with the first such id.
pub fn only_known(table: TableId, fields: &Fields<'_>) -> Result<(), TlvError> {
    let known: Vec<u16> = table
        .table()
        .columns
        .iter()
        .map(|column| column.id)
        .collect();
    fields.only(&known)
}

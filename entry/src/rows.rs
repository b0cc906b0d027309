//! The typed rows of the small tables.

mod governance;
mod health;
mod retention;
mod service_levels;
mod span;

use crate::announcement::{Announcement, AnnouncementError};
use crate::id::{RetentionClass, Stream};
use crate::record::{self, Header, HeaderRef, RecordError, RecordView};
use crate::statement::{Signed, Statement, StatementError, statement_hash};
use crate::table::TableId;
use crate::tlv::Fields;
use crate::tree::sha256;
use crate::{Hash, Time};

pub use governance::{ApiRow, BundleAckRow, BundleRow, GovernanceEventRow, GrantRow, OperationRow};
pub use health::{CertRotationRow, ConformanceRow, ControlHealthRow, SLOT_S};
pub use retention::{
    LegalHoldRow, OUTCOME_DONE, OUTCOME_REFUSED, RetentionActionRow, STEP_APPROVED, STEP_PLANNED,
};
pub use service_levels::{AlertRow, ObjectiveRow};
pub use span::SpanRow;

/// One row of `query_log`. Field names are the column names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryLogRow {
    /// The query.
    pub query_id: String,
    /// `start`, `end` or `refused`.
    pub phase: String,
    /// `postgres` or `http`.
    pub endpoint: String,
    /// Who asked.
    pub principal: String,
    /// In which role.
    pub role: String,
    /// What for, when said.
    pub purpose: Option<String>,
    /// The text as it came.
    pub sql: String,
    /// Parameters as text.
    pub parameters: Vec<String>,
    /// Tables that it reads.
    pub tables: Vec<String>,
    /// When it began.
    pub start_time: Time,
    /// When it ended.
    pub end_time: Option<Time>,
    /// Rows sent.
    pub rows: Option<u64>,
    /// Bytes sent.
    pub bytes: Option<u64>,
    /// Checkpoint of the books that it read.
    pub checkpoint: Option<String>,
    /// Hash of the result.
    pub result_sha256: Option<Hash>,
    /// `ok` or a stable word.
    pub outcome: Option<String>,
    /// SQLSTATE of an error.
    pub sqlstate: Option<String>,
    /// Network peer.
    pub peer_address: Option<String>,
}

impl QueryLogRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::QueryLog, header, out);
        w.text(5, &self.query_id)
            .text(6, &self.phase)
            .text(7, &self.endpoint);
        w.text(8, &self.principal)
            .text(9, &self.role)
            .text_opt(10, self.purpose.as_deref());
        w.text(11, &self.sql)
            .texts(12, &self.parameters)
            .texts(13, &self.tables);
        w.time(14, self.start_time).time_opt(15, self.end_time);
        w.u64_opt(16, self.rows).u64_opt(17, self.bytes);
        w.text_opt(18, self.checkpoint.as_deref());
        w.bytes_opt(19, hash(&self.result_sha256));
        w.text_opt(20, self.outcome.as_deref())
            .text_opt(21, self.sqlstate.as_deref());
        w.text_opt(22, self.peer_address.as_deref());
    }
}

/// One row of `gaps`. Field names are the column names; ranges are `[from, until)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapRow {
    /// The gap; its revisions share it.
    pub gap_id: String,
    /// 0 when opened, then 1, 2 ..
    pub revision: u64,
    /// Whose entries are missing.
    pub subject_writer: String,
    /// Of which epoch.
    pub subject_epoch: u64,
    /// Of which stream, when known.
    pub subject_stream: Option<String>,
    /// First missing seq.
    pub from_seq: Option<u64>,
    /// First seq after the hole.
    pub until_seq: Option<u64>,
    /// First missing statement.
    pub from_statement: Option<u64>,
    /// First statement after the hole.
    pub until_statement: Option<u64>,
    /// Time of the statement before.
    pub not_before: Option<Time>,
    /// Time of the statement after.
    pub not_after: Option<Time>,
    /// Stable word.
    pub cause: String,
    /// `sequence`, `statement`, `two_sided`, `declared` or `silence`.
    pub detected_by: String,
    /// When the collector opened it.
    pub opened_at: Time,
    /// When it was filled; null while open.
    pub closed_at: Option<Time>,
    /// What a person said of it.
    pub explanation: Option<String>,
    /// Where that was discussed.
    pub ticket: Option<String>,
}

impl GapRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::Gaps, header, out);
        w.text(5, &self.gap_id).u64(6, self.revision);
        w.text(7, &self.subject_writer).u64(8, self.subject_epoch);
        w.text_opt(9, self.subject_stream.as_deref());
        w.u64_opt(10, self.from_seq).u64_opt(11, self.until_seq);
        w.u64_opt(12, self.from_statement)
            .u64_opt(13, self.until_statement);
        w.time_opt(14, self.not_before).time_opt(15, self.not_after);
        w.text(16, &self.cause).text(17, &self.detected_by);
        w.time(18, self.opened_at).time_opt(19, self.closed_at);
        w.text_opt(20, self.explanation.as_deref())
            .text_opt(21, self.ticket.as_deref());
    }

    /// Reads R back.
    ///
    /// # Errors
    /// When the bytes are no row of `gaps`.
    pub fn decode(bytes: &[u8]) -> Result<(Header, Self), RecordError> {
        let (header, f) = open(TableId::Gaps, bytes)?;
        let row = Self {
            gap_id: f.text(5)?.to_owned(),
            revision: f.u64(6)?,
            subject_writer: f.text(7)?.to_owned(),
            subject_epoch: f.u64(8)?,
            subject_stream: f.text_opt(9)?.map(str::to_owned),
            from_seq: f.u64_opt(10)?,
            until_seq: f.u64_opt(11)?,
            from_statement: f.u64_opt(12)?,
            until_statement: f.u64_opt(13)?,
            not_before: f.time_opt(14)?,
            not_after: f.time_opt(15)?,
            cause: f.text(16)?.to_owned(),
            detected_by: f.text(17)?.to_owned(),
            opened_at: f.time(18)?,
            closed_at: f.time_opt(19)?,
            explanation: f.text_opt(20)?.map(str::to_owned),
            ticket: f.text_opt(21)?.map(str::to_owned),
        };
        Ok((header, row))
    }
}

/// One row of `conflicts`. Field names are the column names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictRow {
    /// Who signed twice.
    pub subject_writer: String,
    /// In which epoch.
    pub subject_epoch: u64,
    /// Under which number.
    pub number: u64,
    /// Hash of the statement that counts.
    pub kept_sha256: Hash,
    /// Hash of the other.
    pub other_sha256: Hash,
    /// The other's bytes.
    pub other_statement: Vec<u8>,
    /// The other's signature.
    pub other_signature: Vec<u8>,
    /// When the collector saw it.
    pub detected_at: Time,
}

impl ConflictRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::Conflicts, header, out);
        w.text(5, &self.subject_writer)
            .u64(6, self.subject_epoch)
            .u64(7, self.number);
        w.bytes(8, &self.kept_sha256.0)
            .bytes(9, &self.other_sha256.0);
        w.bytes(10, &self.other_statement)
            .bytes(11, &self.other_signature);
        w.time(12, self.detected_at);
    }
}

/// One row of `issuance`. Field names are the column names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuanceRow {
    /// `svid`, `token` or `epoch`.
    pub kind: String,
    /// Serial of the certificate, hex; `jti` of a token.
    pub serial: Option<String>,
    /// Whose.
    pub spiffe_id: String,
    /// Valid from.
    pub not_before: Option<Time>,
    /// Valid until.
    pub not_after: Option<Time>,
    /// Hash of the certificate; of a token the one to which it is bound.
    pub cert_sha256: Option<Hash>,
    /// Hash of its public key.
    pub spki_sha256: Option<Hash>,
    /// When control issued it or saw the epoch.
    pub issued_at: Time,
    /// `join_token`, `renewal` or `self`; `client_credentials` of a token.
    pub method: Option<String>,
    /// The epoch seen.
    pub subject_epoch: Option<u64>,
    /// Network peer that asked.
    pub peer_address: Option<String>,
}

impl IssuanceRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::Issuance, header, out);
        w.text(5, &self.kind)
            .text_opt(6, self.serial.as_deref())
            .text(7, &self.spiffe_id);
        w.time_opt(8, self.not_before).time_opt(9, self.not_after);
        w.bytes_opt(10, hash(&self.cert_sha256))
            .bytes_opt(11, hash(&self.spki_sha256));
        w.time(12, self.issued_at)
            .text_opt(13, self.method.as_deref());
        w.u64_opt(14, self.subject_epoch)
            .text_opt(15, self.peer_address.as_deref());
    }

    /// Reads R back.
    ///
    /// # Errors
    /// When the bytes are no row of `issuance`.
    pub fn decode(bytes: &[u8]) -> Result<(Header, Self), RecordError> {
        let (header, f) = open(TableId::Issuance, bytes)?;
        let row = Self {
            kind: f.text(5)?.to_owned(),
            serial: f.text_opt(6)?.map(str::to_owned),
            spiffe_id: f.text(7)?.to_owned(),
            not_before: f.time_opt(8)?,
            not_after: f.time_opt(9)?,
            cert_sha256: f.hash_opt(10)?,
            spki_sha256: f.hash_opt(11)?,
            issued_at: f.time(12)?,
            method: f.text_opt(13)?.map(str::to_owned),
            subject_epoch: f.u64_opt(14)?,
            peer_address: f.text_opt(15)?.map(str::to_owned),
        };
        Ok((header, row))
    }
}

/// What the collector found when it checked who announced an audit key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trust {
    /// The SVID is the writer's and the TLS peer's.
    Verified,
    /// The SVID had expired, and control's log holds it.
    Late,
    /// It could not be verified; kept in the open.
    Unverified,
}

impl Trust {
    /// The word in the books.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Late => "late",
            Self::Unverified => "unverified",
        }
    }

    /// The value of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Verified, Self::Late, Self::Unverified]
            .into_iter()
            .find(|t| t.as_str() == word)
    }
}

/// One row of `statements`, made from what a writer signed and nothing else, so that a verifier
/// makes the same row again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementRow {
    /// Place of the row.
    pub header: Header,
    kind: &'static str,
    number: Option<u64>,
    sha256: Hash,
    previous: Option<Hash>,
    time: Time,
    signed: Signed,
    audit_key: [u8; 32],
    trust: Trust,
    reason: Option<String>,
    entries: Option<u64>,
    dropped: Option<u64>,
}

impl StatementRow {
    /// The row of a statement, signed by `audit_key`, whose announcement was found `trust`.
    ///
    /// # Errors
    /// When the bytes are no statement.
    pub fn of_statement(
        signed: &Signed,
        audit_key: [u8; 32],
        trust: Trust,
        reason: Option<&str>,
    ) -> Result<Self, StatementError> {
        let statement = Statement::decode(&signed.bytes)?;
        let class = statement
            .covered()
            .map(|(_, range)| range.stream.class.clone())
            .max()
            .unwrap_or_else(RetentionClass::permanent);
        Ok(Self {
            header: Header {
                writer: statement.writer.clone(),
                epoch: statement.epoch,
                stream: Stream::new(TableId::Statements, class, 0),
                seq: statement.number,
            },
            kind: statement.kind.as_str(),
            number: Some(statement.number),
            sha256: statement_hash(&signed.bytes),
            previous: statement.previous,
            time: statement.time,
            audit_key,
            trust,
            reason: reason.map(str::to_owned),
            entries: Some(statement.covered().map(|(_, range)| range.count).sum()),
            dropped: Some(statement.drops.iter().map(|drop| drop.dropped).sum()),
            signed: signed.clone(),
        })
    }

    /// The row of an announcement that was found `trust`.
    ///
    /// # Errors
    /// When the bytes are no announcement.
    pub fn of_announcement(
        signed: &Signed,
        trust: Trust,
        reason: Option<&str>,
    ) -> Result<Self, AnnouncementError> {
        let announcement = Announcement::decode(&signed.bytes)?;
        Ok(Self {
            header: Header {
                writer: announcement.writer,
                epoch: announcement.epoch,
                stream: Stream::new(TableId::Statements, RetentionClass::permanent(), 0),
                seq: 0,
            },
            kind: "announcement",
            number: None,
            sha256: sha256(&signed.bytes),
            previous: None,
            time: announcement.time,
            audit_key: announcement.audit_key,
            trust,
            reason: reason.map(str::to_owned),
            entries: None,
            dropped: None,
            signed: signed.clone(),
        })
    }

    /// The row's stream, as text: announcements stand beside lane 0.
    #[must_use]
    pub fn stream_text(&self) -> String {
        match self.number {
            Some(_) => self.header.stream.to_string(),
            None => format!(
                "{}/{}/announcement",
                TableId::Statements.name(),
                self.header.stream.class
            ),
        }
    }

    /// Appends R to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let stream = self.stream_text();
        let header = HeaderRef {
            writer: self.header.writer.as_str(),
            epoch: self.header.epoch,
            stream: &stream,
            seq: self.header.seq,
        };
        let mut w = record::begin(TableId::Statements, &header, out);
        w.text(5, self.kind)
            .u64_opt(6, self.number)
            .bytes(7, &self.sha256.0);
        w.bytes_opt(8, self.previous.as_ref().map(|hash| hash.0.as_slice()))
            .time(9, self.time);
        w.bytes(10, &self.signed.bytes)
            .bytes(11, &self.signed.signature);
        w.bytes(12, &self.audit_key).text(13, self.trust.as_str());
        w.text_opt(14, self.reason.as_deref());
        w.u64_opt(15, self.entries).u64_opt(16, self.dropped);
    }

    /// The signed bytes, audit key and trust of a sealed row, from which [`StatementRow`] is made
    /// again: whether it is an announcement, what was signed, the key, the trust, the reason.
    ///
    /// # Errors
    /// When the bytes are no row of `statements`.
    pub fn parts(bytes: &[u8]) -> Result<StatementParts, RecordError> {
        let view = RecordView::parse(bytes)?;
        view.expect(TableId::Statements)?;
        let f = Fields::parse(view.body)?;
        record::only_known(TableId::Statements, &f)?;
        Ok(StatementParts {
            is_announcement: f.text(5)? == "announcement",
            signed: Signed {
                bytes: f.bytes(10)?.to_vec(),
                signature: f.bytes(11)?.to_vec(),
            },
            audit_key: f.array_opt(12)?.ok_or(crate::tlv::TlvError::Missing(12))?,
            trust: Trust::from_word(f.text(13)?).ok_or(crate::tlv::TlvError::Wrong(13))?,
            reason: f.text_opt(14)?.map(str::to_owned),
        })
    }
}

/// What a sealed row of `statements` was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementParts {
    /// Announcement, or statement.
    pub is_announcement: bool,
    /// What was signed.
    pub signed: Signed,
    /// Key of the epoch.
    pub audit_key: [u8; 32],
    /// What the collector found of the announcement.
    pub trust: Trust,
    /// Why it is not verified.
    pub reason: Option<String>,
}

impl StatementParts {
    /// Makes the row's canonical bytes again.
    ///
    /// # Errors
    /// When the signed bytes are no statement or announcement.
    pub fn record(&self) -> Result<Vec<u8>, StatementError> {
        let reason = self.reason.as_deref();
        let row = if self.is_announcement {
            StatementRow::of_announcement(&self.signed, self.trust, reason).map_err(|error| {
                match error {
                    AnnouncementError::Field(error) => StatementError::Field(error),
                    AnnouncementError::Id(error) => StatementError::Id(error),
                }
            })?
        } else {
            StatementRow::of_statement(&self.signed, self.audit_key, self.trust, reason)?
        };
        let mut out = Vec::new();
        row.encode(&mut out);
        Ok(out)
    }
}

/// A hash that may be absent, as the encoder takes it.
fn hash(hash: &Option<Hash>) -> Option<&[u8]> {
    hash.as_ref().map(|hash| hash.0.as_slice())
}

fn open(table: TableId, bytes: &[u8]) -> Result<(Header, Fields<'_>), RecordError> {
    let view = RecordView::parse(bytes)?;
    view.expect(table)?;
    let fields = Fields::parse(view.body)?;
    record::only_known(table, &fields)?;
    Ok((view.header()?, fields))
}

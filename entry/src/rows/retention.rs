//! Rows of retention: dispositions and legal holds.

use super::{hash, open};
use crate::id::TraceId;
use crate::record::{self, Header, HeaderRef, RecordError};
use crate::table::TableId;
use crate::tlv::TlvError;
use crate::{Hash, Time};

/// Step of a person's consent to a plan, in [`RetentionActionRow::step`].
pub const STEP_APPROVED: &str = "approved";
/// Step of making a plan, in [`RetentionActionRow::step`].
pub const STEP_PLANNED: &str = "planned";
/// What was done, in [`RetentionActionRow::outcome`].
pub const OUTCOME_DONE: &str = "done";
/// What was refused, in [`RetentionActionRow::outcome`].
pub const OUTCOME_REFUSED: &str = "refused";

/// One row of `retention_actions`: one step of a disposition. Field names are the column names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionActionRow {
    /// The disposition; its steps share it.
    pub action_id: String,
    /// `dry_run`, `planned`, `approved`, `executing`, `executed`.
    pub step: String,
    /// When.
    pub occurred_at: Time,
    /// Who; nobody in particular for what runs by itself.
    pub actor: Option<String>,
    /// SHA-256 of the plan's bytes, once there is one.
    pub plan_sha256: Option<Hash>,
    /// `done` or `refused`.
    pub outcome: String,
    /// Stable word for a refusal.
    pub reason: Option<String>,
    /// The same in words.
    pub detail: Option<String>,
    /// Segments concerned.
    pub segments: Option<u64>,
    /// Records in them.
    pub records: Option<u64>,
    /// Bytes of their files.
    pub bytes: Option<u64>,
    /// Earliest time in them.
    pub oldest: Option<Time>,
    /// Latest time in them.
    pub newest: Option<Time>,
    /// SHA-256 of the classes file in force.
    pub classes_sha256: Option<Hash>,
    /// Origin of the log concerned.
    pub log_origin: Option<String>,
    /// Number of the last manifest that an execution wrote.
    pub manifest: Option<u64>,
}

impl RetentionActionRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::RetentionActions, header, out);
        w.text(5, &self.action_id)
            .text(6, &self.step)
            .time(7, self.occurred_at)
            .text_opt(8, self.actor.as_deref())
            .bytes_opt(9, hash(&self.plan_sha256));
        w.text(10, &self.outcome)
            .text_opt(11, self.reason.as_deref())
            .text_opt(12, self.detail.as_deref());
        w.u64_opt(13, self.segments)
            .u64_opt(14, self.records)
            .u64_opt(15, self.bytes);
        w.time_opt(16, self.oldest).time_opt(17, self.newest);
        w.bytes_opt(18, hash(&self.classes_sha256))
            .text_opt(19, self.log_origin.as_deref())
            .u64_opt(20, self.manifest);
    }

    /// Reads R back.
    ///
    /// # Errors
    /// When the bytes are no row of `retention_actions`.
    pub fn decode(bytes: &[u8]) -> Result<(Header, Self), RecordError> {
        let (header, f) = open(TableId::RetentionActions, bytes)?;
        let row = Self {
            action_id: f.text(5)?.to_owned(),
            step: f.text(6)?.to_owned(),
            occurred_at: f.time(7)?,
            actor: f.text_opt(8)?.map(str::to_owned),
            plan_sha256: f.hash_opt(9)?,
            outcome: f.text(10)?.to_owned(),
            reason: f.text_opt(11)?.map(str::to_owned),
            detail: f.text_opt(12)?.map(str::to_owned),
            segments: f.u64_opt(13)?,
            records: f.u64_opt(14)?,
            bytes: f.u64_opt(15)?,
            oldest: f.time_opt(16)?,
            newest: f.time_opt(17)?,
            classes_sha256: f.hash_opt(18)?,
            log_origin: f.text_opt(19)?.map(str::to_owned),
            manifest: f.u64_opt(20)?,
        };
        Ok((header, row))
    }
}

/// One row of `legal_holds`: one revision of a hold. Field names are the column names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegalHoldRow {
    /// The hold; its revisions share it.
    pub hold_id: String,
    /// 1 when placed, then 2, 3 ..
    pub revision: u64,
    /// `placed`, `release_asked` or `released`.
    pub state: String,
    /// The case that it is for.
    pub matter: String,
    /// Short name of the service that called or was called.
    pub service: Option<String>,
    /// Operation called.
    pub operation: Option<String>,
    /// Trace.
    pub trace_id: Option<TraceId>,
    /// Begin of the time range, inclusive.
    pub from_time: Option<Time>,
    /// End of the time range, exclusive.
    pub until_time: Option<Time>,
    /// Who did it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub occurred_at: Time,
}

impl LegalHoldRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::LegalHolds, header, out);
        w.text(5, &self.hold_id)
            .u64(6, self.revision)
            .text(7, &self.state)
            .text(8, &self.matter);
        w.text_opt(9, self.service.as_deref())
            .text_opt(10, self.operation.as_deref());
        w.bytes_opt(11, self.trace_id.as_ref().map(|id| id.bytes().as_slice()));
        w.time_opt(12, self.from_time).time_opt(13, self.until_time);
        w.text(14, &self.actor)
            .text(15, &self.reason)
            .time(16, self.occurred_at);
    }

    /// Reads R back.
    ///
    /// # Errors
    /// When the bytes are no row of `legal_holds`.
    pub fn decode(bytes: &[u8]) -> Result<(Header, Self), RecordError> {
        let (header, f) = open(TableId::LegalHolds, bytes)?;
        let trace_id = f
            .array_opt(11)?
            .map(|bytes| TraceId::new(bytes).ok_or(TlvError::Wrong(11)))
            .transpose()?;
        let row = Self {
            hold_id: f.text(5)?.to_owned(),
            revision: f.u64(6)?,
            state: f.text(7)?.to_owned(),
            matter: f.text(8)?.to_owned(),
            service: f.text_opt(9)?.map(str::to_owned),
            operation: f.text_opt(10)?.map(str::to_owned),
            trace_id,
            from_time: f.time_opt(12)?,
            until_time: f.time_opt(13)?,
            actor: f.text(14)?.to_owned(),
            reason: f.text(15)?.to_owned(),
            occurred_at: f.time(16)?,
        };
        Ok((header, row))
    }
}

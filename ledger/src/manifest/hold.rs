//! What a manifest of kind `hold` says: a legal hold, as whoever deletes found it.

use counterfoil_entry::Time;
use counterfoil_entry::id::TraceId;
use counterfoil_entry::tlv::{Encoder, Fields, TlvError};

use super::ManifestError;

/// A revision of a legal hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The hold; its revisions share it.
    pub hold_id: String,
    /// 1 when placed, and higher for each change.
    pub revision: u64,
    /// Whether it was placed or released.
    pub state: HoldState,
    /// The case that it is for.
    pub matter: String,
    /// What it holds.
    pub predicate: Predicate,
}

/// Whether a hold binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldState {
    /// It binds.
    Placed,
    /// It binds no more.
    Released,
}

/// What a hold holds: rows for which all that is given is so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Predicate {
    /// Short name of the service that called or was called.
    pub service: Option<String>,
    /// Operation called.
    pub operation: Option<String>,
    /// Trace.
    pub trace_id: Option<TraceId>,
    /// Begin of the time range, inclusive.
    pub from: Option<Time>,
    /// End of the time range, exclusive.
    pub until: Option<Time>,
}

impl HoldState {
    /// The word in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Released => "released",
        }
    }
}

impl Predicate {
    /// Whether it asks for nothing but times.
    #[must_use]
    pub const fn is_of_times(&self) -> bool {
        self.service.is_none() && self.operation.is_none() && self.trace_id.is_none()
    }

    /// Whether its time range and `[first, last]` have an instant in common.
    #[must_use]
    pub fn overlaps(&self, first: Time, last: Time) -> bool {
        self.from.is_none_or(|from| from <= last) && self.until.is_none_or(|until| first < until)
    }
}

impl Hold {
    pub(super) fn encode(&self, to: &mut Encoder<'_>) {
        let of = &self.predicate;
        to.text(64, &self.hold_id)
            .u64(65, self.revision)
            .text(66, self.state.as_str())
            .text(67, &self.matter)
            .text_opt(68, of.service.as_deref())
            .text_opt(69, of.operation.as_deref())
            .bytes_opt(70, of.trace_id.as_ref().map(|id| id.bytes().as_slice()))
            .time_opt(71, of.from)
            .time_opt(72, of.until);
    }

    pub(super) fn decode(fields: &Fields<'_>) -> Result<Self, ManifestError> {
        let state = match fields.text(66)? {
            "placed" => HoldState::Placed,
            "released" => HoldState::Released,
            _ => return Err(TlvError::Wrong(66).into()),
        };
        let trace_id = fields
            .array_opt(70)?
            .map(|bytes| TraceId::new(bytes).ok_or(TlvError::Wrong(70)))
            .transpose()?;
        Ok(Self {
            hold_id: fields.text(64)?.to_owned(),
            revision: fields.u64(65)?,
            state,
            matter: fields.text(67)?.to_owned(),
            predicate: Predicate {
                service: fields.text_opt(68)?.map(str::to_owned),
                operation: fields.text_opt(69)?.map(str::to_owned),
                trace_id,
                from: fields.time_opt(71)?,
                until: fields.time_opt(72)?,
            },
        })
    }
}

//! What the collector answers a writer, as `docs/format.md` section 7 gives it.

use http::StatusCode;
use serde::Serialize;
use std::collections::BTreeMap;

/// A greeting or an acknowledgement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Acknowledged {
    pub(crate) origin: String,
    pub(crate) checkpoint: String,
    /// Only in a greeting: the writer's epochs that are not closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) epochs: Option<Vec<KnownEpoch>>,
}

/// What is known of an epoch that is not closed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct KnownEpoch {
    pub(crate) epoch: u64,
    pub(crate) number: Option<u64>,
    pub(crate) sha256: Option<String>,
    /// Next sequence number of each stream.
    pub(crate) streams: BTreeMap<String, u64>,
}

/// Why something was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Malformed,
    Signature,
    Root,
    NotTheWriter,
    TooLarge,
    EntriesMissing,
    NotAnnounced,
    Overload,
}

/// A refusal: the reason for programs, the detail for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
}

/// The answer to a request.
pub(crate) type Answer = Result<Acknowledged, Refused>;

impl Reason {
    /// The stable word.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Signature => "signature",
            Self::Root => "root",
            Self::NotTheWriter => "not_the_writer",
            Self::TooLarge => "too_large",
            Self::EntriesMissing => "entries_missing",
            Self::NotAnnounced => "not_announced",
            Self::Overload => "overload",
        }
    }

    /// Whether sending the same again can never help.
    pub(crate) const fn is_permanent(self) -> bool {
        !matches!(
            self,
            Self::EntriesMissing | Self::NotAnnounced | Self::Overload
        )
    }

    /// The status that goes with it.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Malformed | Self::Signature | Self::Root => StatusCode::BAD_REQUEST,
            Self::NotTheWriter => StatusCode::FORBIDDEN,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::EntriesMissing | Self::NotAnnounced => StatusCode::CONFLICT,
            Self::Overload => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Refused {
    /// A refusal for `reason`.
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }

    /// The JSON body.
    pub(crate) fn body(&self) -> String {
        serde_json::json!({
            "reason": self.reason.word(),
            "detail": self.detail,
            "permanent": self.reason.is_permanent(),
        })
        .to_string()
    }
}

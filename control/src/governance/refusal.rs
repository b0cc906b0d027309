//! Refusals: values with a stable reason, the field meant, and a sentence for the person who asked.

use crate::catalogue::DocumentError;

use super::records::EventRecord;

/// Why something was not done. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}{detail}", field.as_ref().map(|f| format!("{f}: ")).unwrap_or_default())]
pub(crate) struct Refusal {
    /// What kind of refusal it is.
    pub(crate) kind: RefusalKind,
    /// Stable word.
    pub(crate) reason: &'static str,
    /// The field of the request that is meant, as in `grants[3].expires`.
    pub(crate) field: Option<String>,
    /// A sentence for who asked.
    pub(crate) detail: String,
    /// Where a document is wrong.
    pub(crate) document: Option<Box<DocumentError>>,
    /// Grants that stand against it.
    pub(crate) grants: Vec<String>,
    /// What the books keep of an attempt that was forbidden.
    pub(crate) event: Option<Box<EventRecord>>,
}

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// A value is not accepted.
    Value,
    /// This person may not do it; the attempt is recorded.
    Forbidden,
    /// What was named is not there.
    Missing,
    /// It does not fit how things stand.
    Conflict,
}

impl Refusal {
    fn new(kind: RefusalKind, reason: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind,
            reason,
            field: None,
            detail: detail.into(),
            document: None,
            grants: Vec::new(),
            event: None,
        }
    }

    /// A value that is not accepted.
    pub(crate) fn value(field: &str, detail: impl Into<String>) -> Self {
        let mut refusal = Self::new(RefusalKind::Value, "value_not_accepted", detail);
        refusal.field = Some(field.to_owned());
        refusal
    }

    /// A document that cannot be used.
    pub(crate) fn document(error: DocumentError) -> Self {
        let mut refusal = Self::new(RefusalKind::Value, "document_refused", error.to_string());
        refusal.field = Some("document".to_owned());
        refusal.document = Some(Box::new(error));
        refusal
    }

    /// What is named in the path of the request is not there.
    pub(crate) fn missing(detail: impl Into<String>) -> Self {
        Self::new(RefusalKind::Missing, "not_found", detail)
    }

    /// Something that does not fit how things stand.
    pub(crate) fn conflict(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::new(RefusalKind::Conflict, reason, detail)
    }

    /// Something that this person may not do.
    pub(crate) fn forbidden(
        event: EventRecord,
        detail: impl Into<String>,
        word: &'static str,
    ) -> Self {
        let mut refusal = Self::new(RefusalKind::Forbidden, word, detail);
        refusal.event = Some(Box::new(event));
        refusal
    }

    /// Names the field as a part of `outer`.
    pub(crate) fn inside(mut self, outer: &str) -> Self {
        self.field = Some(match self.field {
            Some(field) => format!("{outer}.{field}"),
            None => outer.to_owned(),
        });
        self
    }
}

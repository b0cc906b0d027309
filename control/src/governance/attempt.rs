//! Who does what: the event that is made of it, whether it was done or refused.

use counterfoil_entry::{Hash, Time};
use rand::Rng as _;

use super::records::EventRecord;
use super::refusal::Refusal;

/// Who acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Actor {
    /// A person's name, or a SPIFFE id.
    pub(crate) name: String,
    /// The teams of that person.
    pub(crate) teams: Vec<String>,
    /// Whether it is an administrator.
    pub(crate) admin: bool,
    /// From where, when over the network.
    pub(crate) peer_address: Option<String>,
}

impl Actor {
    /// Whether the person is a member of a team.
    pub(crate) fn is_of(&self, team: &str) -> bool {
        self.teams.iter().any(|one| one == team)
    }
}

/// Something that somebody is about to do.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    event: EventRecord,
}

impl Attempt {
    pub(crate) fn new(
        actor: &Actor,
        now: Time,
        action: &str,
        object_kind: &str,
        object_id: &str,
    ) -> Self {
        Self {
            event: EventRecord {
                event_id: new_id("e", now),
                occurred_at: now,
                actor: actor.name.clone(),
                action: action.to_owned(),
                object_kind: object_kind.to_owned(),
                object_id: object_id.to_owned(),
                object_revision: None,
                before_sha256: None,
                after_sha256: None,
                ticket: None,
                comment: None,
                outcome: "done".to_owned(),
                reason: None,
                peer_address: actor.peer_address.clone(),
            },
        }
    }

    pub(crate) fn ticket(mut self, ticket: Option<String>) -> Self {
        self.event.ticket = ticket;
        self
    }

    pub(crate) fn comment(mut self, comment: Option<String>) -> Self {
        self.event.comment = comment;
        self
    }

    pub(crate) fn event_id(&self) -> String {
        self.event.event_id.clone()
    }

    /// The event of what was done.
    pub(crate) fn done(
        mut self,
        revision: u64,
        before: Option<Hash>,
        after: Option<Hash>,
    ) -> EventRecord {
        self.event.object_revision = Some(revision);
        self.event.before_sha256 = before;
        self.event.after_sha256 = after;
        self.event
    }

    /// The refusal of what this person may not do, with the event that keeps the attempt.
    pub(crate) fn refused(&self, reason: &'static str, detail: impl Into<String>) -> Refusal {
        let mut event = self.event.clone();
        event.outcome = "refused".to_owned();
        event.reason = Some(reason.to_owned());
        Refusal::forbidden(event, detail, reason)
    }
}

/// An id that sorts by time: milliseconds since the epoch, then 64 random bits.
pub(crate) fn new_id(prefix: &str, now: Time) -> String {
    let ms = now.as_ns().max(0) / 1_000_000;
    format!("{prefix}-{ms:012x}{:016x}", rand::rng().random::<u64>())
}

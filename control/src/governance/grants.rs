//! The life of a grant: asked for, decided by somebody else, reviewed, taken away or run out.

use std::sync::Arc;

use counterfoil_entry::Time;
use counterfoil_trust::SpiffeId;

use super::attempt::{Actor, Attempt, new_id};
use super::estate::{Change, Estate};
use super::records::{ApiRecord, ApiStatus, GrantRecord, State, object_sha256};
use super::refusal::Refusal;
use super::requests::{self, GrantImport, GrantRequest, Note};

/// Every grant is looked at again each quarter.
const REVIEW_AFTER_NS: i64 = 90 * 86_400 * 1_000_000_000;
const GRANT_ID_BYTES_MAX: usize = 64;

/// What a person may do with a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Approve,
    Reject,
    Revoke,
    Review,
    ProposeRevocation,
    WithdrawProposal,
}

impl Step {
    const fn action(self) -> &'static str {
        match self {
            Self::Approve => "grant.approved",
            Self::Reject => "grant.rejected",
            Self::Revoke => "grant.revoked",
            Self::Review => "grant.reviewed",
            Self::ProposeRevocation => "grant.revocation_proposed",
            Self::WithdrawProposal => "grant.proposal_withdrawn",
        }
    }
}

/// Asks for a grant. Anybody may.
pub(crate) fn request(
    estate: &Estate,
    asked: &GrantRequest,
    actor: &Actor,
    now: Time,
) -> Result<(Change, GrantRecord), Refusal> {
    let wanted = Wanted {
        consumer: &asked.consumer,
        api: &asked.api,
        operations: &asked.operations,
        purpose: &asked.purpose,
        ticket: &asked.ticket,
        not_before: asked.not_before,
        expires: asked.expires,
    };
    let api = wanted.api(estate)?;
    if api.status == ApiStatus::Deprecated {
        let detail = format!("the API {} is deprecated: no new grants", api.api);
        return Err(Refusal::conflict("api_deprecated", detail));
    }
    let id = new_id("g", now);
    let mut grant = wanted.record(estate, id, &actor.name, now)?;
    let attempt = Attempt::new(actor, now, "grant.requested", "grant", &grant.grant_id)
        .ticket(Some(grant.ticket.clone()));
    let mut change = Change::default();
    grant.event_id = attempt.event_id();
    let after = object_sha256(&grant);
    change
        .events
        .push(attempt.done(grant.revision, None, Some(after)));
    change.grants.push(Arc::new(grant.clone()));
    Ok((change, grant))
}

/// Takes a grant of an older system in, already approved there. The same again changes nothing.
pub(crate) fn import(
    estate: &Estate,
    given: &GrantImport,
    actor: &Actor,
    now: Time,
) -> Result<Change, Refusal> {
    let requested_by = requests::name("requested_by", &given.requested_by)?;
    let approved_by = requests::name("approved_by", &given.approved_by)?;
    if is_same_person(&requested_by, &approved_by) {
        let detail = "it is requested_by; another person must have approved";
        return Err(Refusal::value("approved_by", detail));
    }
    let id = match &given.grant_id {
        None => new_id("g", now),
        Some(id) if is_grant_id(id) => id.clone(),
        Some(_) => {
            let detail = "it is 1 to 64 of a-z A-Z 0-9 . - _";
            return Err(Refusal::value("grant_id", detail));
        }
    };
    let wanted = Wanted {
        consumer: &given.consumer,
        api: &given.api,
        operations: &given.operations,
        purpose: &given.purpose,
        ticket: &given.ticket,
        not_before: given.not_before,
        expires: given.expires,
    };
    let mut grant = wanted.record(estate, id, &requested_by, now)?;
    if let Some(old) = estate.grants.get(&grant.grant_id) {
        let is_same = old.consumer == grant.consumer
            && old.api == grant.api
            && old.operations == grant.operations
            && old.expires == grant.expires
            && old.not_before == grant.not_before;
        return if is_same {
            Ok(Change::default())
        } else {
            let detail = format!("there is another grant {}", grant.grant_id);
            let mut refusal = Refusal::conflict("grant_id_taken", detail);
            refusal.field = Some("grant_id".to_owned());
            Err(refusal)
        };
    }
    grant.state = State::Approved;
    grant.decided_by = Some(approved_by);
    grant.decided_at = Some(now);
    grant.review_due_at = Some(now.plus_ns(REVIEW_AFTER_NS));
    let attempt = Attempt::new(actor, now, "grant.imported", "grant", &grant.grant_id)
        .ticket(Some(grant.ticket.clone()));
    grant.event_id = attempt.event_id();
    let mut change = Change::default();
    let after = object_sha256(&grant);
    change
        .events
        .push(attempt.done(grant.revision, None, Some(after)));
    change.grants.push(Arc::new(grant));
    Ok(change)
}

/// Takes one step with a grant.
pub(crate) fn take(
    estate: &Estate,
    grant_id: &str,
    step: Step,
    note: &Note,
    actor: &Actor,
    now: Time,
) -> Result<(Change, GrantRecord), Refusal> {
    let old = find(estate, grant_id)?;
    let attempt = Attempt::new(actor, now, step.action(), "grant", grant_id)
        .ticket(requests::name_opt("ticket", note.ticket.as_deref())?)
        .comment(requests::text_opt("comment", note.comment.as_deref())?);
    check_person(estate, old, step, actor, &attempt)?;
    check_state(estate, old, step, now)?;
    let mut grant = GrantRecord::clone(old);
    let who = Some(actor.name.clone());
    match step {
        Step::Approve => {
            grant.state = State::Approved;
            (grant.decided_by, grant.decided_at) = (who, Some(now));
            grant.review_due_at = Some(now.plus_ns(REVIEW_AFTER_NS));
        }
        Step::Reject => {
            grant.state = State::Rejected;
            (grant.decided_by, grant.decided_at) = (who, Some(now));
        }
        Step::Revoke => {
            grant.state = State::Revoked;
            (grant.revoked_by, grant.revoked_at) = (who, Some(now));
            grant.revocation_proposed_by = None;
        }
        Step::Review => {
            (grant.reviewed_by, grant.reviewed_at) = (who, Some(now));
            grant.review_due_at = Some(now.plus_ns(REVIEW_AFTER_NS));
        }
        Step::ProposeRevocation => grant.revocation_proposed_by = who,
        Step::WithdrawProposal => grant.revocation_proposed_by = None,
    }
    let mut change = revised(old, grant, attempt, now);
    change.urgent = step == Step::Revoke;
    let grant = change.grants.first().unwrap_or(old);
    let grant = GrantRecord::clone(grant);
    Ok((change, grant))
}

/// Records of each grant that ran out that it did.
pub(crate) fn expire(estate: &Estate, actor: &Actor, now: Time) -> Change {
    let mut change = Change::default();
    let is_over = |grant: &&Arc<GrantRecord>| {
        matches!(grant.state, State::Requested | State::Approved) && grant.expires <= now
    };
    for old in estate.grants.values().filter(is_over) {
        let mut grant = GrantRecord::clone(old);
        grant.state = State::Expired;
        grant.revocation_proposed_by = None;
        let attempt = Attempt::new(actor, now, "grant.expired", "grant", &grant.grant_id);
        change.append(revised(old, grant, attempt, now));
    }
    change
}

/// When the next grant runs out of which that is not recorded.
pub(crate) fn next_expiry(estate: &Estate) -> Option<Time> {
    let open = estate.grants.values();
    open.filter(|grant| matches!(grant.state, State::Requested | State::Approved))
        .map(|grant| grant.expires)
        .min()
}

/// Which grants are meant; all when nothing is given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) state: Option<State>,
    /// A SPIFFE id or the name of a workload.
    pub(crate) consumer: Option<String>,
    pub(crate) api: Option<String>,
}

/// The grants that `filter` means, oldest first.
pub(crate) fn list(estate: &Estate, filter: &Filter) -> Result<Vec<GrantRecord>, Refusal> {
    let consumer = match filter.consumer.as_deref() {
        None => None,
        Some(named) => {
            let missing = || Refusal::value("consumer", format!("{} is no workload", shown(named)));
            Some(&estate.workload(named.trim()).ok_or_else(missing)?.spiffe_id)
        }
    };
    let wanted = |grant: &&Arc<GrantRecord>| {
        filter.state.is_none_or(|state| grant.state == state)
            && consumer.is_none_or(|id| grant.consumer == *id)
            && filter.api.as_ref().is_none_or(|api| grant.api == *api)
    };
    let found = estate.grants.values().filter(wanted);
    let mut found: Vec<_> = found.map(|grant| GrantRecord::clone(grant)).collect();
    found.sort_by(|a, b| (a.requested_at, &a.grant_id).cmp(&(b.requested_at, &b.grant_id)));
    Ok(found)
}

fn revised(old: &GrantRecord, mut grant: GrantRecord, attempt: Attempt, now: Time) -> Change {
    grant.revision = old.revision + 1;
    grant.recorded_at = now;
    grant.event_id = attempt.event_id();
    let (before, after) = (object_sha256(old), object_sha256(&grant));
    Change {
        events: vec![attempt.done(grant.revision, Some(before), Some(after))],
        grants: vec![Arc::new(grant)],
        ..Change::default()
    }
}

pub(crate) fn find<'a>(
    estate: &'a Estate,
    grant_id: &str,
) -> Result<&'a Arc<GrantRecord>, Refusal> {
    let missing = || Refusal::missing(format!("there is no grant {grant_id}"));
    estate.grants.get(grant_id).ok_or_else(missing)
}

/// Four eyes: the owning team decides, and in it somebody who did not ask.
fn check_person(
    estate: &Estate,
    grant: &GrantRecord,
    step: Step,
    actor: &Actor,
    attempt: &Attempt,
) -> Result<(), Refusal> {
    let owner = estate
        .apis
        .get(&grant.api)
        .map(|api| api.owner_team.as_str());
    let owns = owner.is_some_and(|team| actor.is_of(team));
    let asked = is_same_person(&grant.requested_by, &actor.name);
    let gives_up = matches!(
        step,
        Step::Revoke | Step::ProposeRevocation | Step::WithdrawProposal
    );
    if gives_up && (owns || asked || actor.admin) {
        return Ok(());
    }
    if asked && !gives_up && step != Step::Reject {
        let detail = format!(
            "{} asked for this grant; another person must decide",
            actor.name
        );
        return Err(attempt.refused("four_eyes", detail));
    }
    // Who takes back what he asked for decides nothing.
    if owns || (asked && step == Step::Reject) {
        return Ok(());
    }
    let team = owner.unwrap_or("nobody");
    let detail = format!(
        "the API {} is owned by {team}, of which {} is none",
        grant.api, actor.name
    );
    Err(attempt.refused("not_owner", detail))
}

fn check_state(estate: &Estate, grant: &GrantRecord, step: Step, now: Time) -> Result<(), Refusal> {
    let wanted = match step {
        Step::Approve | Step::Reject => State::Requested,
        _ => State::Approved,
    };
    let state = grant.state.as_str();
    if grant.state != wanted {
        let detail = format!(
            "grant {} is {state}, not {}",
            grant.grant_id,
            wanted.as_str()
        );
        return Err(Refusal::conflict("grant_state", detail));
    }
    let proposed = grant.revocation_proposed_by.as_deref();
    match (step, proposed) {
        (Step::ProposeRevocation, Some(who)) => {
            let detail = format!("{who} has proposed that already");
            return Err(Refusal::conflict("already_proposed", detail));
        }
        (Step::WithdrawProposal, None) => {
            let detail = "nobody has proposed to revoke it";
            return Err(Refusal::conflict("not_proposed", detail));
        }
        _ => {}
    }
    if step != Step::Approve {
        return Ok(());
    }
    if grant.expires <= now {
        let detail = format!(
            "grant {} was asked for until {}",
            grant.grant_id, grant.expires
        );
        return Err(Refusal::conflict("grant_expired", detail));
    }
    let api = estate.apis.get(&grant.api);
    let api = api.filter(|api| api.status != ApiStatus::Retired);
    let gone = grant.operations.iter();
    let gone = gone
        .into_iter()
        .find(|o| !api.is_some_and(|api| api.has(o)));
    match gone {
        None => Ok(()),
        Some(operation) => {
            let detail = format!(
                "the API {} has no operation {operation} any more",
                grant.api
            );
            Err(Refusal::conflict("operation_gone", detail))
        }
    }
}

/// What somebody wants, before it is checked.
struct Wanted<'a> {
    consumer: &'a str,
    api: &'a str,
    operations: &'a [String],
    purpose: &'a str,
    ticket: &'a str,
    not_before: Option<Time>,
    expires: Time,
}

impl Wanted<'_> {
    fn api<'e>(&self, estate: &'e Estate) -> Result<&'e Arc<ApiRecord>, Refusal> {
        let api = estate.apis.get(self.api.trim());
        api.filter(|api| api.status != ApiStatus::Retired)
            .ok_or_else(|| Refusal::value("api", format!("there is no API {}", shown(self.api))))
    }

    fn consumer(&self, estate: &Estate) -> Result<(SpiffeId, String), Refusal> {
        let workload = estate.workload(self.consumer.trim()).ok_or_else(|| {
            let detail = format!("{} is no workload", shown(self.consumer));
            Refusal::value("consumer", detail)
        })?;
        Ok((workload.spiffe_id.clone(), workload.app.clone()))
    }

    fn operations(&self, api: &ApiRecord) -> Result<Vec<String>, Refusal> {
        let field = "operations";
        let names = match self.operations {
            [all] if all == "*" => api.operations.iter().map(|o| o.operation.clone()).collect(),
            names => names.to_vec(),
        };
        requests::operations(field, &names)?;
        match names.iter().position(|name| !api.has(name)) {
            None => Ok(names),
            Some(at) => {
                let name = names.get(at).map_or("", String::as_str);
                let detail = format!("the API {} has no operation {}", api.api, shown(name));
                Err(Refusal::value(&format!("{field}[{at}]"), detail))
            }
        }
    }

    /// The first revision, requested, without its event.
    fn record(
        &self,
        estate: &Estate,
        grant_id: String,
        requested_by: &str,
        now: Time,
    ) -> Result<GrantRecord, Refusal> {
        let (consumer, app) = self.consumer(estate)?;
        let api = self.api(estate)?;
        if self.expires <= now {
            return Err(Refusal::value("expires", "it must be in the future"));
        }
        if self.not_before.is_some_and(|from| from >= self.expires) {
            return Err(Refusal::value("not_before", "it must be before expires"));
        }
        Ok(GrantRecord {
            grant_id,
            revision: 1,
            state: State::Requested,
            consumer,
            consumer_app: Some(app),
            api: api.api.clone(),
            operations: self.operations(api)?,
            purpose: requests::text("purpose", self.purpose)?,
            ticket: requests::name("ticket", self.ticket)?,
            requested_by: requested_by.to_owned(),
            requested_at: now,
            decided_by: None,
            decided_at: None,
            not_before: self.not_before,
            expires: self.expires,
            reviewed_by: None,
            reviewed_at: None,
            review_due_at: None,
            revoked_by: None,
            revoked_at: None,
            revocation_proposed_by: None,
            recorded_at: now,
            event_id: String::new(),
            owner_team: Some(api.owner_team.clone()),
        })
    }
}

/// Names of people are compared as people would: a space or a capital letter makes no other person.
pub(crate) fn is_same_person(one: &str, other: &str) -> bool {
    one.trim().to_lowercase() == other.trim().to_lowercase()
}

/// What a person wrote, short enough to be said back.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(100).collect();
    if shown.len() < text.len() && text.chars().count() > 100 {
        shown.push('…');
    }
    shown
}

fn is_grant_id(id: &str) -> bool {
    (1..=GRANT_ID_BYTES_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

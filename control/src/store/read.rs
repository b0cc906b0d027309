//! Tables into records.

use std::collections::HashMap;
use std::sync::Arc;

use counterfoil_entry::{Hash, Time};
use counterfoil_trust::SpiffeId;
use counterfoil_trust::bundle::{Access, OperationRights};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Settings, StoreError};
use crate::catalogue::WorkloadRule;
use crate::governance::estate::Estate;
use crate::governance::records::{ApiRecord, ApiStatus, EventRecord, GrantRecord, State};

const APIS: &str =
    "SELECT api, revision, api_version, status, owner_team, server, access, protocol,
    openapi, document_sha256, scopes, retention_class, recorded_at, event_id FROM apis";
const OPERATIONS: &str = "SELECT api, operation, method, route, scopes, retention_class, open
    FROM operations";
const GRANTS: &str = "SELECT grant_id, revision, state, consumer, consumer_app, api, operations,
    purpose, ticket, requested_by, requested_at, decided_by, decided_at, not_before, expires,
    reviewed_by, reviewed_at, review_due_at, revoked_by, revoked_at, revocation_proposed_by,
    recorded_at, event_id, owner_team FROM grants";
const EVENTS: &str = "SELECT event_id, occurred_at, actor, action, object_kind, object_id,
    object_revision, before_sha256, after_sha256, ticket, comment, outcome, reason, peer_address
    FROM events";

/// The newest revision of everything.
pub(super) fn estate(from: &Connection, now: Time) -> Result<Estate, StoreError> {
    let mut estate = Estate::default();
    let mut statement = from.prepare(
        "SELECT spiffe_id, revision, name, app, team, site, zone, addresses, join_token_sha256
         FROM workloads w
         WHERE revision = (SELECT max(revision) FROM workloads WHERE spiffe_id = w.spiffe_id)",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        estate.put_workload(&Arc::new(workload(row)?));
    }
    let newest = "a WHERE revision = (SELECT max(revision) FROM apis WHERE api = a.api)";
    let mut operations: HashMap<String, Vec<OperationRights>> = HashMap::new();
    let mut statement = from.prepare(&format!("{OPERATIONS} {newest} ORDER BY api, position"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let of_api = operations.entry(row.get(0)?).or_default();
        of_api.push(operation(row)?);
    }
    let mut statement = from.prepare(&format!("{APIS} {newest}"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let operations = operations.remove(&name).unwrap_or_default();
        estate.put_api(&Arc::new(api(row, operations)?), now);
    }
    let newest =
        "g WHERE revision = (SELECT max(revision) FROM grants WHERE grant_id = g.grant_id)";
    let mut statement = from.prepare(&format!("{GRANTS} {newest}"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        estate.put_grant(&Arc::new(grant(row)?), now);
    }
    Ok(estate)
}

pub(super) fn settings(from: &Connection) -> Result<Option<Settings>, StoreError> {
    let row = |row: &Row<'_>| {
        Ok(Settings {
            trust_domain: row.get(0)?,
            default_class: row.get(1)?,
        })
    };
    let found = from.query_row("SELECT trust_domain, default_class FROM settings", [], row);
    Ok(found.optional()?)
}

/// One revision of an API.
pub(super) fn api_revision(
    from: &Connection,
    name: &str,
    revision: i64,
) -> Result<ApiRecord, StoreError> {
    let of_one = "WHERE api = ?1 AND revision = ?2";
    let mut statement = from.prepare(&format!("{OPERATIONS} {of_one} ORDER BY position"))?;
    let mut rows = statement.query(params![name, revision])?;
    let mut operations = Vec::new();
    while let Some(row) = rows.next()? {
        operations.push(operation(row)?);
    }
    let mut statement = from.prepare(&format!("{APIS} {of_one}"))?;
    let mut rows = statement.query(params![name, revision])?;
    let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    api(row, operations)
}

/// One revision of a grant.
pub(super) fn grant_revision(
    from: &Connection,
    grant_id: &str,
    revision: i64,
) -> Result<GrantRecord, StoreError> {
    let sql = format!("{GRANTS} WHERE grant_id = ?1 AND revision = ?2");
    let mut statement = from.prepare(&sql)?;
    let mut rows = statement.query(params![grant_id, revision])?;
    grant(rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?)
}

/// One event.
pub(super) fn event_of_id(from: &Connection, event_id: &str) -> Result<EventRecord, StoreError> {
    let mut statement = from.prepare(&format!("{EVENTS} WHERE event_id = ?1"))?;
    let mut rows = statement.query(params![event_id])?;
    event(rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?)
}

pub(super) fn events(
    from: &Connection,
    after: Option<&str>,
    limit: u32,
) -> Result<Option<Vec<EventRecord>>, StoreError> {
    let number: i64 = match after {
        None => 0,
        Some(event_id) => {
            let mut statement = from.prepare("SELECT number FROM events WHERE event_id = ?1")?;
            match statement
                .query_row([event_id], |row| row.get(0))
                .optional()?
            {
                None => return Ok(None),
                Some(number) => number,
            }
        }
    };
    let sql = format!("{EVENTS} WHERE number > ?1 ORDER BY number LIMIT ?2");
    let mut statement = from.prepare(&sql)?;
    let mut rows = statement.query(params![number, limit])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(event(row)?);
    }
    Ok(Some(events))
}

fn workload(row: &Row<'_>) -> Result<WorkloadRule, StoreError> {
    Ok(WorkloadRule {
        spiffe_id: spiffe_id(row, 0)?,
        revision: number(row, 1)?,
        name: row.get(2)?,
        app: row.get(3)?,
        team: row.get(4)?,
        site: row.get(5)?,
        zone: row.get(6)?,
        addresses: list(row, 7)?,
        join_token_sha256: hash(row, 8)?,
    })
}

fn api(row: &Row<'_>, operations: Vec<OperationRights>) -> Result<ApiRecord, StoreError> {
    Ok(ApiRecord {
        api: row.get(0)?,
        revision: number(row, 1)?,
        api_version: row.get(2)?,
        status: word(row, 3, "status", ApiStatus::from_word)?,
        owner_team: row.get(4)?,
        server: match row.get::<_, Option<String>>(5)? {
            None => None,
            Some(_) => Some(spiffe_id(row, 5)?),
        },
        access: word(row, 6, "access", Access::from_word)?,
        protocol: row.get(7)?,
        openapi: row.get(8)?,
        document_sha256: hash(row, 9)?.ok_or_else(|| unknown("document_sha256", "null"))?,
        operations,
        scopes: list(row, 10)?,
        retention_class: row.get(11)?,
        recorded_at: time(row, 12)?,
        event_id: row.get(13)?,
    })
}

fn operation(row: &Row<'_>) -> Result<OperationRights, StoreError> {
    Ok(OperationRights {
        operation: row.get(1)?,
        method: row.get(2)?,
        route: row.get(3)?,
        scopes: list(row, 4)?,
        retention_class: row.get(5)?,
        open: row.get(6)?,
    })
}

fn grant(row: &Row<'_>) -> Result<GrantRecord, StoreError> {
    Ok(GrantRecord {
        grant_id: row.get(0)?,
        revision: number(row, 1)?,
        state: word(row, 2, "state", State::from_word)?,
        consumer: spiffe_id(row, 3)?,
        consumer_app: row.get(4)?,
        api: row.get(5)?,
        operations: list(row, 6)?,
        purpose: row.get(7)?,
        ticket: row.get(8)?,
        requested_by: row.get(9)?,
        requested_at: time(row, 10)?,
        decided_by: row.get(11)?,
        decided_at: time_opt(row, 12)?,
        not_before: time_opt(row, 13)?,
        expires: time(row, 14)?,
        reviewed_by: row.get(15)?,
        reviewed_at: time_opt(row, 16)?,
        review_due_at: time_opt(row, 17)?,
        revoked_by: row.get(18)?,
        revoked_at: time_opt(row, 19)?,
        revocation_proposed_by: row.get(20)?,
        recorded_at: time(row, 21)?,
        event_id: row.get(22)?,
        owner_team: row.get(23)?,
    })
}

fn event(row: &Row<'_>) -> Result<EventRecord, StoreError> {
    Ok(EventRecord {
        event_id: row.get(0)?,
        occurred_at: time(row, 1)?,
        actor: row.get(2)?,
        action: row.get(3)?,
        object_kind: row.get(4)?,
        object_id: row.get(5)?,
        object_revision: match row.get::<_, Option<i64>>(6)? {
            None => None,
            Some(_) => Some(number(row, 6)?),
        },
        before_sha256: hash(row, 7)?,
        after_sha256: hash(row, 8)?,
        ticket: row.get(9)?,
        comment: row.get(10)?,
        outcome: row.get(11)?,
        reason: row.get(12)?,
        peer_address: row.get(13)?,
    })
}

fn unknown(column: &'static str, value: &str) -> StoreError {
    StoreError::Value {
        column,
        value: value.to_owned(),
    }
}

fn word<T>(
    row: &Row<'_>,
    at: usize,
    column: &'static str,
    from_word: impl Fn(&str) -> Option<T>,
) -> Result<T, StoreError> {
    let word: String = row.get(at)?;
    from_word(&word).ok_or_else(|| unknown(column, &word))
}

fn spiffe_id(row: &Row<'_>, at: usize) -> Result<SpiffeId, StoreError> {
    let text: String = row.get(at)?;
    SpiffeId::parse(&text).map_err(|_| unknown("a SPIFFE id", &text))
}

fn hash(row: &Row<'_>, at: usize) -> Result<Option<Hash>, StoreError> {
    let text: Option<String> = row.get(at)?;
    let parse = |text: String| text.parse().map_err(|_| unknown("a hash", &text));
    text.map(parse).transpose()
}

fn list(row: &Row<'_>, at: usize) -> Result<Vec<String>, StoreError> {
    let text: String = row.get(at)?;
    serde_json::from_str(&text).map_err(|_| unknown("a list", &text))
}

fn number(row: &Row<'_>, at: usize) -> Result<u64, StoreError> {
    let number: i64 = row.get(at)?;
    u64::try_from(number).map_err(|_| unknown("a revision", &number.to_string()))
}

fn time(row: &Row<'_>, at: usize) -> Result<Time, StoreError> {
    Ok(Time::from_ns(row.get(at)?))
}

fn time_opt(row: &Row<'_>, at: usize) -> Result<Option<Time>, StoreError> {
    Ok(row.get::<_, Option<i64>>(at)?.map(Time::from_ns))
}

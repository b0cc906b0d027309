//! Changes into tables.

use counterfoil_entry::Time;
use rusqlite::{Connection, Transaction, params};

use super::{Settings, StoreError};
use crate::catalogue::WorkloadRule;
use crate::governance::estate::{Change, Document};
use crate::governance::records::{ApiRecord, EventRecord, GrantRecord};

/// Writes `change` and what it owes to the books: events first, then what they made.
pub(super) fn change(to: &Transaction<'_>, change: &Change) -> Result<(), StoreError> {
    for record in &change.events {
        event(to, record)?;
        owe(to, "event", &record.event_id, 0)?;
    }
    for (workload, event_id) in &change.workloads {
        self::workload(to, workload, event_id)?;
    }
    for (api, document) in &change.apis {
        self::api(to, api, document.as_ref())?;
        owe(to, "api", &api.api, api.revision)?;
    }
    for record in &change.grants {
        grant(to, record)?;
        owe(to, "grant", &record.grant_id, record.revision)?;
    }
    Ok(())
}

pub(super) fn settings(to: &Connection, settings: &Settings) -> Result<(), StoreError> {
    to.execute(
        "INSERT INTO settings (number, trust_domain, default_class) VALUES (1, ?1, ?2)
         ON CONFLICT (number) DO UPDATE
         SET trust_domain = excluded.trust_domain, default_class = excluded.default_class",
        params![settings.trust_domain, settings.default_class],
    )?;
    Ok(())
}

fn event(to: &Transaction<'_>, record: &EventRecord) -> Result<(), StoreError> {
    let mut statement = to.prepare(
        "INSERT INTO events (number, event_id, occurred_at, actor, action, object_kind, object_id,
            object_revision, before_sha256, after_sha256, ticket, comment, outcome, reason,
            peer_address)
         SELECT coalesce(max(number), 0) + 1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12,
            ?13, ?14 FROM events",
    )?;
    statement.execute(params![
        record.event_id,
        record.occurred_at.as_ns(),
        record.actor,
        record.action,
        record.object_kind,
        record.object_id,
        record.object_revision.map(integer),
        record.before_sha256.map(|hash| hash.to_string()),
        record.after_sha256.map(|hash| hash.to_string()),
        record.ticket,
        record.comment,
        record.outcome,
        record.reason,
        record.peer_address,
    ])?;
    Ok(())
}

fn workload(to: &Transaction<'_>, record: &WorkloadRule, event_id: &str) -> Result<(), StoreError> {
    let mut statement = to.prepare(
        "INSERT INTO workloads (spiffe_id, revision, name, app, team, site, zone, addresses,
            join_token_sha256, event_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    statement.execute(params![
        record.spiffe_id.as_str(),
        integer(record.revision),
        record.name,
        record.app,
        record.team,
        record.site,
        record.zone,
        list(&record.addresses),
        record.join_token_sha256.map(|hash| hash.to_string()),
        event_id,
    ])?;
    Ok(())
}

fn api(
    to: &Transaction<'_>,
    record: &ApiRecord,
    document: Option<&Document>,
) -> Result<(), StoreError> {
    let sha256 = record.document_sha256.to_string();
    if let Some(document) = document {
        let mut statement = to.prepare(
            "INSERT INTO documents (sha256, file, text) VALUES (?1, ?2, ?3)
             ON CONFLICT (sha256) DO NOTHING",
        )?;
        statement.execute(params![sha256, document.file, document.text])?;
    }
    let mut statement = to.prepare(
        "INSERT INTO apis (api, revision, api_version, status, owner_team, server, access, protocol,
            openapi, document_sha256, scopes, retention_class, recorded_at, event_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?;
    statement.execute(params![
        record.api,
        integer(record.revision),
        record.api_version,
        record.status.as_str(),
        record.owner_team,
        record.server.as_ref().map(|id| id.as_str()),
        record.access.as_str(),
        record.protocol,
        record.openapi,
        sha256,
        list(&record.scopes),
        record.retention_class,
        record.recorded_at.as_ns(),
        record.event_id,
    ])?;
    let mut statement = to.prepare(
        "INSERT INTO operations (api, revision, position, operation, method, route, scopes,
            retention_class, open)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for (position, operation) in (0_i64..).zip(&record.operations) {
        statement.execute(params![
            record.api,
            integer(record.revision),
            position,
            operation.operation,
            operation.method,
            operation.route,
            list(&operation.scopes),
            operation.retention_class,
            operation.open,
        ])?;
    }
    Ok(())
}

fn grant(to: &Transaction<'_>, record: &GrantRecord) -> Result<(), StoreError> {
    let ns = |time: Option<Time>| time.map(Time::as_ns);
    let mut statement = to.prepare(
        "INSERT INTO grants (grant_id, revision, state, consumer, consumer_app, api, operations,
            purpose, ticket, requested_by, requested_at, decided_by, decided_at, not_before, expires,
            reviewed_by, reviewed_at, review_due_at, revoked_by, revoked_at, revocation_proposed_by,
            recorded_at, event_id, owner_team)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19,
            ?20, ?21, ?22, ?23, ?24)",
    )?;
    statement.execute(params![
        record.grant_id,
        integer(record.revision),
        record.state.as_str(),
        record.consumer.as_str(),
        record.consumer_app,
        record.api,
        list(&record.operations),
        record.purpose,
        record.ticket,
        record.requested_by,
        record.requested_at.as_ns(),
        record.decided_by,
        ns(record.decided_at),
        ns(record.not_before),
        record.expires.as_ns(),
        record.reviewed_by,
        ns(record.reviewed_at),
        ns(record.review_due_at),
        record.revoked_by,
        ns(record.revoked_at),
        record.revocation_proposed_by,
        record.recorded_at.as_ns(),
        record.event_id,
        record.owner_team,
    ])?;
    Ok(())
}

fn owe(to: &Transaction<'_>, kind: &str, object_id: &str, revision: u64) -> Result<(), StoreError> {
    let mut statement = to.prepare(
        "INSERT INTO outbox (number, kind, object_id, revision)
         SELECT coalesce(max(number), 0) + 1, ?1, ?2, ?3 FROM outbox",
    )?;
    statement.execute(params![kind, object_id, integer(revision)])?;
    Ok(())
}

fn list(texts: &[String]) -> String {
    serde_json::Value::from(texts).to_string()
}

/// Revisions and positions stay far below the largest integer of SQL.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

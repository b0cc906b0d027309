//! The outbox: what the books are owed, as rows of their tables, and where it was written.

use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::rows::{ApiRow, GovernanceEventRow, GrantRow, OperationRow};
use counterfoil_entry::table::TableId;
use counterfoil_spool::{AppendError, Lane};
use rusqlite::{Connection, Transaction, params};

use super::write::integer;
use super::{StoreError, read};
use crate::governance::records::{ApiRecord, EventRecord, GrantRecord};

/// One thing owed: usually one row, for an API all of its operations besides.
#[derive(Debug)]
pub(crate) struct Owed {
    number: i64,
    pub(crate) rows: Vec<Row>,
}

/// One row of the books.
#[derive(Debug)]
pub(crate) enum Row {
    Event(GovernanceEventRow),
    Api(ApiRow),
    Operation(OperationRow),
    Grant(GrantRow),
}

/// Where something that was owed stands in the books.
#[derive(Debug)]
pub(crate) struct Written {
    number: i64,
    epoch: u64,
    seq: u64,
}

impl Owed {
    /// Appends the rows. They are on the disk only when `lane` was synced.
    pub(crate) fn append(&self, lane: &mut Lane, epoch: u64) -> Result<Written, AppendError> {
        let class = RetentionClass::permanent();
        let mut first = None;
        for row in &self.rows {
            let seq = match row {
                Row::Event(row) => lane.append(TableId::GovernanceEvents, &class, |h, out| {
                    row.encode(h, out)
                }),
                Row::Api(row) => lane.append(TableId::Apis, &class, |h, out| row.encode(h, out)),
                Row::Operation(row) => {
                    lane.append(TableId::Operations, &class, |h, out| row.encode(h, out))
                }
                Row::Grant(row) => {
                    lane.append(TableId::Grants, &class, |h, out| row.encode(h, out))
                }
            }?;
            first.get_or_insert(seq);
        }
        Ok(Written {
            number: self.number,
            epoch,
            seq: first.unwrap_or_default(),
        })
    }
}

pub(super) fn owed(from: &Connection, limit: u32) -> Result<Vec<Owed>, StoreError> {
    let mut statement = from.prepare(
        "SELECT number, kind, object_id, revision FROM outbox WHERE epoch IS NULL
         ORDER BY number LIMIT ?1",
    )?;
    let mut rows = statement.query([limit])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let (kind, object_id, revision): (String, String, i64) =
            (row.get(1)?, row.get(2)?, row.get(3)?);
        let rows = match kind.as_str() {
            "event" => vec![Row::Event(read::event_of_id(from, &object_id)?.into())],
            "api" => api_rows(read::api_revision(from, &object_id, revision)?),
            _ => vec![Row::Grant(
                read::grant_revision(from, &object_id, revision)?.into(),
            )],
        };
        all.push(Owed {
            number: row.get(0)?,
            rows,
        });
    }
    Ok(all)
}

pub(super) fn mark(to: &Transaction<'_>, written: &[Written]) -> Result<(), StoreError> {
    let mut statement = to.prepare("UPDATE outbox SET epoch = ?2, seq = ?3 WHERE number = ?1")?;
    for one in written {
        statement.execute(params![one.number, integer(one.epoch), integer(one.seq)])?;
    }
    Ok(())
}

/// The API last: who sees it sees its operations.
fn api_rows(api: ApiRecord) -> Vec<Row> {
    let row = |o: &counterfoil_trust::bundle::OperationRights| {
        Row::Operation(OperationRow {
            api: api.api.clone(),
            api_version: api.api_version.clone(),
            revision: api.revision,
            operation: o.operation.clone(),
            method: o.method.clone(),
            route: o.route.clone(),
            scopes: o.scopes.clone(),
            class: o.retention_class.clone(),
            open: o.open,
            recorded_at: api.recorded_at,
            event_id: api.event_id.clone(),
        })
    };
    let mut rows: Vec<_> = api.operations.iter().map(row).collect();
    rows.push(Row::Api(ApiRow {
        operations: u64::try_from(api.operations.len()).unwrap_or(u64::MAX),
        api: api.api,
        api_version: api.api_version,
        revision: api.revision,
        status: api.status.as_str().to_owned(),
        owner_team: api.owner_team,
        server: api.server.map(|id| id.to_string()),
        access: api.access.as_str().to_owned(),
        openapi: api.openapi,
        document_sha256: api.document_sha256,
        scopes: api.scopes,
        class: api.retention_class,
        recorded_at: api.recorded_at,
        event_id: api.event_id,
    }));
    rows
}

impl From<EventRecord> for GovernanceEventRow {
    fn from(event: EventRecord) -> Self {
        Self {
            event_id: event.event_id,
            occurred_at: event.occurred_at,
            actor: event.actor,
            action: event.action,
            object_kind: event.object_kind,
            object_id: event.object_id,
            object_revision: event.object_revision,
            before_sha256: event.before_sha256,
            after_sha256: event.after_sha256,
            ticket: event.ticket,
            comment: event.comment,
            outcome: event.outcome,
            reason: event.reason,
            peer_address: event.peer_address,
        }
    }
}

impl From<GrantRecord> for GrantRow {
    fn from(grant: GrantRecord) -> Self {
        Self {
            grant_id: grant.grant_id,
            revision: grant.revision,
            state: grant.state.as_str().to_owned(),
            consumer: grant.consumer.to_string(),
            consumer_app: grant.consumer_app,
            api: grant.api,
            operations: grant.operations,
            purpose: grant.purpose,
            ticket: grant.ticket,
            requested_by: grant.requested_by,
            requested_at: grant.requested_at,
            decided_by: grant.decided_by,
            decided_at: grant.decided_at,
            not_before: grant.not_before,
            expires: grant.expires,
            reviewed_by: grant.reviewed_by,
            reviewed_at: grant.reviewed_at,
            review_due_at: grant.review_due_at,
            revoked_by: grant.revoked_by,
            revoked_at: grant.revoked_at,
            recorded_at: grant.recorded_at,
            event_id: grant.event_id,
            owner_team: grant.owner_team,
        }
    }
}

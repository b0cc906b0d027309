//! APIs: a document comes in as a new revision, and leaves when nobody holds a grant on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use counterfoil_entry::{Time, tree};
use counterfoil_trust::SpiffeId;
use counterfoil_trust::allow::check_apis;
use counterfoil_trust::bundle::OperationRights;
use serde::Serialize;
use utoipa::ToSchema;

use super::attempt::{Actor, Attempt};
use super::estate::{Change, Document, Estate};
use super::grants::shown;
use super::records::{ApiRecord, ApiStatus, object_sha256};
use super::refusal::Refusal;
use super::requests::{self, ApiImport, NewStatus, StatusChange};
use crate::catalogue::openapi;

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ApiImported {
    /// The API as it is now.
    #[serde(flatten)]
    pub(crate) api: ApiRecord,
    /// `created`, `revised` or `unchanged`.
    pub(crate) outcome: ImportOutcome,
    /// Operations that are new.
    pub(crate) added: Vec<String>,
    /// Operations that are gone.
    pub(crate) removed: Vec<String>,
    /// Operations of which something else than the name changed.
    pub(crate) changed: Vec<String>,
}

/// Whether an import changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ImportOutcome {
    /// The API is new.
    Created,
    /// It has a new revision.
    Revised,
    /// All of it was so already.
    Unchanged,
}

/// Brings a document in. Administrators may, and members of the owning team.
pub(crate) fn import(
    estate: &Estate,
    given: &ApiImport,
    default_class: &str,
    actor: &Actor,
    now: Time,
) -> Result<(Change, ApiImported), Refusal> {
    let file = requests::name("file", &given.file)?;
    let ticket = requests::name_opt("ticket", given.ticket.as_deref())?;
    let comment = requests::text_opt("comment", given.comment.as_deref())?;
    let document =
        openapi::parse(&file, &given.document, default_class).map_err(Refusal::document)?;
    let name = document.rights.api.clone();
    let old = estate.apis.get(&name);
    let attempt = Attempt::new(actor, now, "api.imported", "api", &name)
        .ticket(ticket)
        .comment(comment);
    let new = record(estate, given, document, old, now, &file)?;
    check_owner(estate, &new, old, actor, &attempt)?;
    let news = News::between(old, &new);
    let still_published = old.is_some_and(|old| old.status == ApiStatus::Published);
    if let Some(old) = old.filter(|old| still_published && is_same(old, &new)) {
        let unchanged = news.imported(ApiRecord::clone(old), ImportOutcome::Unchanged);
        return Ok((Change::default(), unchanged));
    }
    check_grants(estate, &name, &news.removed, now)?;
    check_paths(estate, &new)?;
    let takes_rights = old.is_some_and(|old| {
        !news.removed.is_empty()
            || !news.changed.is_empty()
            || old.access != new.access
            || old.server != new.server
    });
    let outcome = if old.is_some() {
        ImportOutcome::Revised
    } else {
        ImportOutcome::Created
    };
    let text = Document {
        file,
        text: given.document.clone(),
    };
    let (mut change, api) = revised(old, new, attempt, Some(text));
    change.urgent = takes_rights;
    Ok((change, news.imported(api, outcome)))
}

/// Deprecates or retires an API. Administrators may, and members of the owning team.
pub(crate) fn set_status(
    estate: &Estate,
    name: &str,
    asked: &StatusChange,
    actor: &Actor,
    now: Time,
) -> Result<(Change, ApiRecord), Refusal> {
    let old = find(estate, name)?;
    let (status, action) = match asked.status {
        NewStatus::Deprecated => (ApiStatus::Deprecated, "api.deprecated"),
        NewStatus::Retired => (ApiStatus::Retired, "api.retired"),
    };
    let attempt = Attempt::new(actor, now, action, "api", name)
        .ticket(requests::name_opt("ticket", asked.ticket.as_deref())?)
        .comment(requests::text_opt("comment", asked.comment.as_deref())?);
    check_member(&old.owner_team, actor, &attempt)?;
    if old.status == status {
        return Ok((Change::default(), ApiRecord::clone(old)));
    }
    if old.status == ApiStatus::Retired {
        let detail = format!("the API {name} is retired; an import publishes it again");
        return Err(Refusal::conflict("api_retired", detail));
    }
    if status == ApiStatus::Retired {
        let all: Vec<_> = old.operations.iter().map(|o| o.operation.clone()).collect();
        check_grants(estate, name, &all, now)?;
    }
    let mut new = ApiRecord::clone(old);
    new.status = status;
    new.recorded_at = now;
    let (mut change, api) = revised(Some(old), new, attempt, None);
    change.urgent = status == ApiStatus::Retired;
    Ok((change, api))
}

pub(crate) fn find<'a>(estate: &'a Estate, name: &str) -> Result<&'a Arc<ApiRecord>, Refusal> {
    let missing = || Refusal::missing(format!("there is no API {}", shown(name)));
    estate.apis.get(name).ok_or_else(missing)
}

/// The next revision, without its number and event. What nobody names stays as it was.
fn record(
    estate: &Estate,
    given: &ApiImport,
    document: openapi::Document,
    old: Option<&Arc<ApiRecord>>,
    now: Time,
    file: &str,
) -> Result<ApiRecord, Refusal> {
    let said = document.owner_team.as_deref();
    let asked = requests::name_opt("owner_team", given.owner_team.as_deref())?;
    let owner_team = match (said, asked) {
        (Some(said), Some(asked)) if said != asked => {
            let detail = format!("the document says {}", shown(said));
            return Err(Refusal::value("owner_team", detail));
        }
        (Some(said), _) => requests::name("owner_team", said).map_err(|r| {
            Refusal::document(openapi::DocumentError {
                file: file.to_owned(),
                line: None,
                place: "x-counterfoil.owner_team".to_owned(),
                reason: r.detail,
            })
        })?,
        (None, Some(asked)) => asked,
        (None, None) => match old {
            Some(old) => old.owner_team.clone(),
            None => {
                let detail = "the document names no owner_team in x-counterfoil; give one";
                return Err(Refusal::value("owner_team", detail));
            }
        },
    };
    let access = match (document.access, given.access) {
        (Some(said), Some(asked)) if said != asked => {
            let detail = format!("the document says {}", said.as_str());
            return Err(Refusal::value("access", detail));
        }
        (said, asked) => said.or(asked).or_else(|| old.map(|old| old.access)),
    };
    Ok(ApiRecord {
        server: server(estate, given, &document, old, file)?,
        api: document.rights.api,
        api_version: document.rights.api_version,
        revision: 1,
        status: ApiStatus::Published,
        owner_team,
        access: access.unwrap_or_default(),
        protocol: document.rights.protocol,
        openapi: document.openapi,
        document_sha256: tree::sha256(given.document.as_bytes()),
        operations: document.rights.operations,
        scopes: document.scopes,
        retention_class: document.class,
        recorded_at: now,
        event_id: String::new(),
    })
}

/// The workload that serves the API: as the document or the request names it, else as before.
fn server(
    estate: &Estate,
    given: &ApiImport,
    document: &openapi::Document,
    old: Option<&Arc<ApiRecord>>,
    file: &str,
) -> Result<Option<SpiffeId>, Refusal> {
    let said = match document.service.as_deref() {
        None => None,
        Some(name) => Some(estate.workload(name).ok_or_else(|| {
            Refusal::document(openapi::DocumentError {
                file: file.to_owned(),
                line: openapi::line_of_service(&given.document),
                place: "x-counterfoil.service".to_owned(),
                reason: format!("service {} is no workload", shown(name)),
            })
        })?),
    };
    let asked =
        match given.server.as_deref() {
            None => None,
            Some(name) => Some(estate.workload(name.trim()).ok_or_else(|| {
                Refusal::value("server", format!("{} is no workload", shown(name)))
            })?),
        };
    match (said, asked) {
        (Some(said), Some(asked)) if said != asked => {
            let detail = format!("the document says {}", said.name);
            Err(Refusal::value("server", detail))
        }
        (Some(one), _) | (None, Some(one)) => Ok(Some(one.spiffe_id.clone())),
        (None, None) => Ok(old.and_then(|old| old.server.clone())),
    }
}

fn check_owner(
    estate: &Estate,
    new: &ApiRecord,
    old: Option<&Arc<ApiRecord>>,
    actor: &Actor,
    attempt: &Attempt,
) -> Result<(), Refusal> {
    if let Some(old) = old {
        check_member(&old.owner_team, actor, attempt)?;
    }
    check_member(&new.owner_team, actor, attempt)?;
    // Open operations of an API are open on its server: only who runs that may say so.
    let moved = old.is_none_or(|old| old.server != new.server);
    let server = new.server.as_ref().filter(|_| moved);
    let server = server.and_then(|id| estate.catalogue.workloads.get(id));
    match server.filter(|server| !actor.admin && !actor.is_of(&server.team)) {
        None => Ok(()),
        Some(server) => {
            let detail = format!(
                "the workload {} is run by {}, of which {} is none",
                server.name, server.team, actor.name
            );
            Err(attempt.refused("not_owner", detail))
        }
    }
}

fn check_member(team: &str, actor: &Actor, attempt: &Attempt) -> Result<(), Refusal> {
    if actor.admin || actor.is_of(team) {
        return Ok(());
    }
    let detail = format!(
        "the API is owned by {team}, of which {} is none, nor an administrator",
        actor.name
    );
    Err(attempt.refused("not_owner", detail))
}

/// An operation that somebody holds a grant on does not go away under it.
fn check_grants(estate: &Estate, api: &str, removed: &[String], now: Time) -> Result<(), Refusal> {
    let in_force = estate.grants.values().filter(|grant| {
        grant.api == api && grant.holds(now) && grant.operations.iter().any(|o| removed.contains(o))
    });
    let grants: Vec<String> = in_force.map(|grant| grant.grant_id.clone()).collect();
    if grants.is_empty() {
        return Ok(());
    }
    let named: Vec<_> = grants.iter().take(10).map(String::as_str).collect();
    let detail = format!(
        "operations would go away on which {} grants are in force, revoke them first: {}",
        grants.len(),
        named.join(", ")
    );
    let mut refusal = Refusal::conflict("grants_in_force", detail);
    refusal.grants = grants;
    Err(refusal)
}

/// The APIs of one workload share its listener, so that their paths must not meet.
fn check_paths(estate: &Estate, new: &ApiRecord) -> Result<(), Refusal> {
    let Some(server) = &new.server else {
        return Ok(());
    };
    let others = estate.catalogue.apis_of(server);
    let mut apis: Vec<_> = others.filter(|api| api.api != new.api).cloned().collect();
    if apis.is_empty() {
        return Ok(());
    }
    apis.push(new.rights());
    check_apis(&apis).map_err(|error| {
        let detail = format!("{server} serves another API with which it cannot stand: {error}");
        Refusal::conflict("paths_meet", detail)
    })
}

fn is_same(old: &ApiRecord, new: &ApiRecord) -> bool {
    let mut alike = new.clone();
    alike.revision = old.revision;
    alike.recorded_at = old.recorded_at;
    alike.event_id.clone_from(&old.event_id);
    alike == *old
}

fn revised(
    old: Option<&Arc<ApiRecord>>,
    mut new: ApiRecord,
    attempt: Attempt,
    document: Option<Document>,
) -> (Change, ApiRecord) {
    new.revision = old.map_or(1, |old| old.revision + 1);
    new.event_id = attempt.event_id();
    let before = old.map(|old| object_sha256(&**old));
    let after = Some(object_sha256(&new));
    let change = Change {
        events: vec![attempt.done(new.revision, before, after)],
        apis: vec![(Arc::new(new.clone()), document)],
        ..Change::default()
    };
    (change, new)
}

/// What an import changes of the operations.
struct News {
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
}

impl News {
    fn between(old: Option<&Arc<ApiRecord>>, new: &ApiRecord) -> Self {
        let by_name = |operations: &[OperationRights]| -> BTreeMap<String, OperationRights> {
            let named = operations.iter().map(|o| (o.operation.clone(), o.clone()));
            named.collect()
        };
        let old = old.map(|old| by_name(&old.operations)).unwrap_or_default();
        let new = by_name(&new.operations);
        let keys = |from: &BTreeMap<_, _>, without: &BTreeMap<String, OperationRights>| {
            let keys = from.keys().filter(|name| !without.contains_key(*name));
            keys.cloned().collect::<Vec<String>>()
        };
        let changed = new
            .iter()
            .filter(|(name, o)| old.get(*name).is_some_and(|was| was != *o));
        Self {
            added: keys(&new, &old),
            removed: keys(&old, &new),
            changed: changed.map(|(name, _)| name.clone()).collect(),
        }
    }

    fn imported(self, api: ApiRecord, outcome: ImportOutcome) -> ApiImported {
        ApiImported {
            api,
            outcome,
            added: self.added,
            removed: self.removed,
            changed: self.changed,
        }
    }
}

//! The routes for people.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, middleware};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;
use tracing::error;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Details, Problem, Refused};
use super::ask::{self, Asked, Body, Named};
use super::login::{Login, log_in};
use crate::governance::apis::{self, ApiImported, ImportOutcome};
use crate::governance::desk::{Desk, EstateImported};
use crate::governance::explain::{self, Explanation};
use crate::governance::grants::{self, Filter, Step};
use crate::governance::records::{
    ApiDetail, ApiRecord, EventRecord, GrantRecord, State as GrantState, WorkloadView,
};
use crate::governance::requests::{
    AccessWord, ApiImport, EstateImport, GrantRequest, Note, StatusChange, WorkloadRequest,
};
use crate::governance::workloads::WorkloadRegistered;
use crate::governance::{Actor, GovernanceError};
use crate::metrics::{self, Requests};
use counterfoil_entry::clock;

/// Decisions wait for each other anyway; reading must not wait behind all of them.
const JOBS_MAX: usize = 16;
/// Ten estates of 2,000 workloads.
const ESTATE_BYTES_MAX: usize = 128 << 20;
const EVENTS_DEFAULT: u32 = 100;
const EVENTS_MAX: u32 = 1_000;

/// What the routes share.
#[derive(Debug)]
pub(crate) struct Door {
    desk: Arc<Desk>,
    jobs: Semaphore,
    jwks: Value,
}

impl Door {
    /// Where people's changes are made.
    pub(super) fn desk(&self) -> Arc<Desk> {
        Arc::clone(&self.desk)
    }

    /// `jwks` are the keys that sign tokens, as others read them.
    pub(crate) fn new(desk: Arc<Desk>, jwks: Value) -> Self {
        Self {
            desk,
            jwks,
            jobs: Semaphore::new(JOBS_MAX),
        }
    }

    /// Does what blocks on the disk or takes long off the network's threads.
    async fn job<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Desk) -> Result<R, GovernanceError> + Send + 'static,
    ) -> Result<R, Problem> {
        // The semaphore is never closed: without a permit there would only be more at once.
        let _slot = self.jobs.acquire().await.ok();
        let desk = Arc::clone(&self.desk);
        match tokio::task::spawn_blocking(move || work(&desk)).await {
            Ok(done) => done.map_err(Problem::from),
            Err(panic) => {
                error!(%panic, "a request ended unexpectedly");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Err(Problem::new(status, "internal", "this should not happen"))
            }
        }
    }
}

type Shared = State<Arc<Door>>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Counterfoil governance",
        description = "Catalogue, grants and explanations. Every change is an entry in the books.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(Details, AccessWord, GrantState)),
    modifiers(&Basic),
    security(("basic" = [])),
)]
struct Described;

struct Basic;

impl Modify for Basic {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let basic = SecurityScheme::Http(Http::new(HttpAuthScheme::Basic));
        components.add_security_scheme("basic", basic);
    }
}

fn described() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::with_openapi(Described::openapi())
        .routes(routes!(list_apis, import_api))
        .routes(routes!(show_api))
        .routes(routes!(set_api_status))
        .routes(routes!(list_workloads, register_workload))
        .routes(routes!(import_estate))
        .routes(routes!(list_grants, request_grant))
        .routes(routes!(show_grant))
        .routes(routes!(approve_grant))
        .routes(routes!(reject_grant))
        .routes(routes!(revoke_grant))
        .routes(routes!(review_grant))
        .routes(routes!(propose_revocation))
        .routes(routes!(withdraw_proposal))
        .routes(routes!(explain_call))
        .routes(routes!(list_events))
}

/// The routes behind the log-in, and those before it.
pub(super) fn router(
    door: Arc<Door>,
    login: Arc<Login>,
    address: SocketAddr,
    requests: Requests,
) -> Router {
    let open = OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(jwks));
    let (open, open_document) = open.with_state(Arc::clone(&door)).split_for_parts();
    let (inner, mut document) = described().split_for_parts();
    document.merge(open_document);
    let document = serde_json::to_value(&document).unwrap_or_default();
    inside(inner, Arc::clone(&door))
        .layer(middleware::from_fn_with_state((login, door), log_in))
        .merge(open)
        .route(
            "/v1/openapi.json",
            axum::routing::get(move || std::future::ready(Json(document))),
        )
        .merge(
            Router::new()
                .route("/metrics", axum::routing::get(metrics::show))
                .with_state(requests.clone()),
        )
        .method_not_allowed_fallback(method_unknown)
        .layer(middleware::from_fn_with_state(
            (requests, "people"),
            metrics::count,
        ))
        .layer(Extension(address))
}

/// The routes without a log-in, for who has proved otherwise who he is.
pub(crate) fn inner(door: Arc<Door>) -> Router {
    let (inner, _) = described().split_for_parts();
    inside(inner, door)
}

fn inside(routes: Router<Arc<Door>>, door: Arc<Door>) -> Router {
    routes
        .fallback(nothing)
        .method_not_allowed_fallback(method_unknown)
        .with_state(door)
}

async fn nothing() -> Problem {
    let detail = "there is nothing here; /v1/openapi.json tells what there is";
    Problem::new(StatusCode::NOT_FOUND, "route_unknown", detail)
}

async fn method_unknown() -> Problem {
    let detail = "this path knows other methods";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_unknown", detail)
}

#[derive(Serialize, ToSchema)]
struct Apis {
    apis: Vec<ApiRecord>,
}

#[derive(Serialize, ToSchema)]
struct Workloads {
    workloads: Vec<WorkloadView>,
}

#[derive(Serialize, ToSchema)]
struct Grants {
    grants: Vec<GrantRecord>,
}

#[derive(Serialize, ToSchema)]
struct Events {
    events: Vec<EventRecord>,
}

#[derive(Serialize, ToSchema)]
struct Health {
    #[schema(value_type = String)]
    status: &'static str,
}

/// Whether control answers.
#[utoipa::path(get, path = "/v1/health", tag = "control", security(()), responses((status = 200, body = Health)))]
async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// The keys that sign access tokens (RFC 7517).
#[utoipa::path(
    get, path = "/v1/jwks", tag = "control", security(()),
    responses((status = 200, body = Object, content_type = "application/jwk-set+json"))
)]
async fn jwks(State(door): Shared) -> Response {
    let content = [(CONTENT_TYPE, "application/jwk-set+json")];
    (content, door.jwks.to_string()).into_response()
}

/// All APIs.
#[utoipa::path(get, path = "/v1/apis", tag = "catalogue", responses((status = 200, body = Apis), Refused))]
async fn list_apis(State(door): Shared, asked: Asked) -> Result<Json<Apis>, Problem> {
    asked.end()?;
    let estate = door.desk.estate();
    let apis = estate.apis.values().map(|api| ApiRecord::clone(api));
    Ok(Json(Apis {
        apis: apis.collect(),
    }))
}

/// Brings in an OpenAPI document: a new API, or a new revision of one.
#[utoipa::path(
    post, path = "/v1/apis", tag = "catalogue", request_body = ApiImport,
    responses(
        (status = 201, body = ApiImported), (status = 200, body = ApiImported, description = "It was so already."),
        Refused,
    )
)]
async fn import_api(
    State(door): Shared,
    Extension(actor): Extension<Actor>,
    Body(given): Body<ApiImport>,
) -> Result<Response, Problem> {
    let imported = door
        .job(move |desk| desk.import_api(&given, &actor))
        .await?;
    let status = match imported.outcome {
        ImportOutcome::Unchanged => StatusCode::OK,
        ImportOutcome::Created | ImportOutcome::Revised => StatusCode::CREATED,
    };
    Ok((status, Json(imported)).into_response())
}

/// One API with its operations.
#[utoipa::path(
    get, path = "/v1/apis/{api}", tag = "catalogue", params(("api" = String, Path, description = "Its name.")),
    responses((status = 200, body = ApiDetail), Refused)
)]
async fn show_api(State(door): Shared, Named(api): Named) -> Result<Json<ApiDetail>, Problem> {
    let estate = door.desk.estate();
    Ok(Json(ApiDetail::from(&**apis::find(&estate, &api)?)))
}

/// Deprecates or retires an API.
#[utoipa::path(
    post, path = "/v1/apis/{api}/status", tag = "catalogue", request_body = StatusChange,
    params(("api" = String, Path, description = "Its name.")),
    responses((status = 200, body = ApiRecord), Refused)
)]
async fn set_api_status(
    State(door): Shared,
    Extension(actor): Extension<Actor>,
    Named(api): Named,
    Body(asked): Body<StatusChange>,
) -> Result<Json<ApiRecord>, Problem> {
    let changed = door.job(move |desk| desk.set_status(&api, &asked, &actor));
    changed.await.map(Json)
}

/// All workloads.
#[utoipa::path(get, path = "/v1/workloads", tag = "catalogue", responses((status = 200, body = Workloads), Refused))]
async fn list_workloads(State(door): Shared, asked: Asked) -> Result<Json<Workloads>, Problem> {
    asked.end()?;
    let estate = door.desk.estate();
    let workloads = estate.catalogue.workloads.values();
    Ok(Json(Workloads {
        workloads: workloads.map(|w| WorkloadView::from(&**w)).collect(),
    }))
}

/// Registers a workload, or changes what is known of it.
#[utoipa::path(
    post, path = "/v1/workloads", tag = "catalogue", request_body = WorkloadRequest,
    responses((status = 201, body = WorkloadRegistered), Refused)
)]
async fn register_workload(
    State(door): Shared,
    Extension(actor): Extension<Actor>,
    Body(asked): Body<WorkloadRequest>,
) -> Result<Response, Problem> {
    let registered = door.job(move |desk| desk.register_workload(&asked, &actor));
    Ok((StatusCode::CREATED, Json(registered.await?)).into_response())
}

/// Brings in a whole estate in one transaction, for administrators.
#[utoipa::path(
    post, path = "/v1/import", tag = "catalogue", request_body = EstateImport,
    responses((status = 200, body = EstateImported), Refused)
)]
async fn import_estate(
    State(door): Shared,
    Extension(actor): Extension<Actor>,
    request: Request,
) -> Result<Json<EstateImported>, Problem> {
    // So much is read of nobody else.
    if !actor.admin {
        door.job(move |desk| desk.refuse_import(&actor)).await?;
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "not_admin",
            "for administrators only",
        ));
    }
    let given: EstateImport = ask::read(request, ESTATE_BYTES_MAX).await?;
    let imported = door.job(move |desk| desk.import_estate(&given, &actor));
    imported.await.map(Json)
}

/// Grants, oldest first.
#[utoipa::path(
    get, path = "/v1/grants", tag = "grants",
    params(
        ("state" = Option<GrantState>, Query, description = "Those in this state."),
        ("consumer" = Option<String>, Query, description = "Those of this SPIFFE id or workload."),
        ("api" = Option<String>, Query, description = "Those on this API."),
    ),
    responses((status = 200, body = Grants), Refused)
)]
async fn list_grants(State(door): Shared, mut asked: Asked) -> Result<Json<Grants>, Problem> {
    let state = match asked.take("state") {
        None => None,
        Some(word) => Some(GrantState::from_word(&word).ok_or_else(|| {
            let words = "it is requested, approved, rejected, revoked or expired";
            ask::refused("state", words)
        })?),
    };
    let filter = Filter {
        state,
        consumer: asked.take("consumer"),
        api: asked.take("api"),
    };
    asked.end()?;
    let grants = door.job(move |desk| Ok(grants::list(&desk.estate(), &filter)?));
    Ok(Json(Grants {
        grants: grants.await?,
    }))
}

/// Asks for a grant. Somebody of the owning team decides.
#[utoipa::path(
    post, path = "/v1/grants", tag = "grants", request_body = GrantRequest,
    responses((status = 201, body = GrantRecord), Refused)
)]
async fn request_grant(
    State(door): Shared,
    Extension(actor): Extension<Actor>,
    Body(asked): Body<GrantRequest>,
) -> Result<Response, Problem> {
    let requested = door.job(move |desk| desk.request_grant(&asked, &actor));
    Ok((StatusCode::CREATED, Json(requested.await?)).into_response())
}

/// One grant.
#[utoipa::path(
    get, path = "/v1/grants/{id}", tag = "grants", params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, body = GrantRecord), Refused)
)]
async fn show_grant(State(door): Shared, Named(id): Named) -> Result<Json<GrantRecord>, Problem> {
    let estate = door.desk.estate();
    Ok(Json(GrantRecord::clone(grants::find(&estate, &id)?)))
}

/// What the routes that change a grant have in common.
macro_rules! step {
    ($(#[doc = $doc:literal])+ $name:ident, $path:literal, $step:ident) => {
        $(#[doc = $doc])+
        #[utoipa::path(
            post, path = $path, tag = "grants", request_body(content = Option<Note>),
            params(("id" = String, Path, description = "The grant's id.")),
            responses((status = 200, body = GrantRecord), Refused)
        )]
        async fn $name(
            State(door): Shared,
            Extension(actor): Extension<Actor>,
            Named(id): Named,
            Body(note): Body<Option<Note>>,
        ) -> Result<Json<GrantRecord>, Problem> {
            let note = note.unwrap_or_default();
            let taken = door.job(move |desk| desk.take_step(&id, Step::$step, &note, &actor));
            taken.await.map(Json)
        }
    };
}

step!(
    /// Approves a grant: for members of the owning team, other than who asked.
    approve_grant, "/v1/grants/{id}/approve", Approve
);
step!(
    /// Rejects a grant: for members of the owning team, and for who asked.
    reject_grant, "/v1/grants/{id}/reject", Reject
);
step!(
    /// Takes a grant away: for members of the owning team, for who asked, and for administrators.
    revoke_grant, "/v1/grants/{id}/revoke", Revoke
);
step!(
    /// Reviews a grant that stays: for members of the owning team, other than who asked.
    review_grant, "/v1/grants/{id}/review", Review
);
step!(
    /// Proposes to take a grant away. The candidate rights lose it, and entries show what that changes.
    propose_revocation, "/v1/grants/{id}/propose-revocation", ProposeRevocation
);
step!(
    /// Withdraws such a proposal.
    withdraw_proposal, "/v1/grants/{id}/withdraw-proposal", WithdrawProposal
);

/// What the callee's proxy decides on a call, why, and which grants come near.
#[utoipa::path(
    get, path = "/v1/policy/explain", tag = "policy",
    params(
        ("as" = String, Query, description = "Who would call: a SPIFFE id or a workload's name."),
        ("call" = String, Query, description = "Method and path, as in POST /payments."),
        ("to" = Option<String>, Query, description = "Whom: a workload or an API. Needed when several answer such a call."),
    ),
    responses((status = 200, body = Explanation), Refused)
)]
async fn explain_call(State(door): Shared, mut asked: Asked) -> Result<Json<Explanation>, Problem> {
    let (caller, call) = (asked.need("as")?, asked.need("call")?);
    let to = asked.take("to");
    asked.end()?;
    let explained = door.job(move |desk| {
        let (estate, class) = (desk.estate(), desk.default_class());
        let explained =
            explain::explain(&estate, class, &caller, &call, to.as_deref(), clock::wall());
        Ok(explained?)
    });
    explained.await.map(Json)
}

/// What was done and what was refused, oldest first.
#[utoipa::path(
    get, path = "/v1/events", tag = "grants",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many; 100 when absent."),
        ("after" = Option<String>, Query, description = "Those after the event of this id."),
    ),
    responses((status = 200, body = Events), Refused)
)]
async fn list_events(State(door): Shared, mut asked: Asked) -> Result<Json<Events>, Problem> {
    let limit = match asked.take("limit") {
        None => EVENTS_DEFAULT,
        Some(text) => match text.parse() {
            Ok(limit @ 1..=EVENTS_MAX) => limit,
            _ => return Err(ask::refused("limit", "it is a number from 1 to 1000")),
        },
    };
    let after = asked.take("after");
    asked.end()?;
    let events = door.job(move |desk| desk.events(after.as_deref(), limit));
    Ok(Json(Events {
        events: events.await?,
    }))
}

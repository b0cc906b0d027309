//! The governance state of a data directory on which no control runs: the same routes as behind the
//! door for people, asked in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::config;
use crate::governance::{Actor, Governance};
use crate::people::{Door, People, PeopleError, inner};
use crate::store::{Settings, Store, StoreError};

/// What changes the state and needs no second person and no running control.
const ALLOWED: [&str; 4] = ["/v1/apis", "/v1/grants", "/v1/import", "/v1/workloads"];
/// Who may log in, in the data directory of an estate.
const PEOPLE_FILE: &str = "people.toml";
/// Answers are made here; this bounds no stranger.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Why a data directory cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// There is no such folder.
    #[error("{dir} is no data directory")]
    Absent {
        /// The folder.
        dir: PathBuf,
    },
    /// Control runs on it.
    #[error("control, or another command, works on {dir}: ask the running control by its URL")]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// The people cannot be read.
    #[error(transparent)]
    People(PeopleError),
    /// Name and password do not fit.
    #[error("name or password is wrong")]
    Login,
    /// The state cannot be used.
    #[error(transparent)]
    Store(StoreError),
}

/// The state, open in this process alone. What is recorded here reaches the books, and takes effect,
/// when control starts.
#[derive(Debug)]
pub struct Desk {
    routes: Router,
    person: Actor,
}

impl Desk {
    /// Opens the state below `data_dir` for who only looks. `person` would be written down.
    ///
    /// # Errors
    /// [`OfflineError`]
    pub fn open(data_dir: &Path, person: &str) -> Result<Self, OfflineError> {
        Self::of(store(data_dir)?, administrator(person))
    }

    /// Opens the state below `data_dir` as a person of its `people.toml`, who may do there what they may
    /// do behind the door.
    ///
    /// # Errors
    /// [`OfflineError`]; [`OfflineError::Login`] when name and password do not fit.
    pub fn log_in(data_dir: &Path, name: &str, password: &str) -> Result<Self, OfflineError> {
        let known = person(data_dir, name, password)?;
        let actor = Actor {
            name: known.name,
            teams: known.teams,
            admin: known.admin,
            peer_address: None,
        };
        Self::of(store(data_dir)?, actor)
    }

    /// As [`Desk::open`], for an estate on which control has not run yet: `trust_domain` is the one
    /// that it will be configured with.
    ///
    /// # Errors
    /// [`OfflineError`]
    pub fn begin(data_dir: &Path, person: &str, trust_domain: &str) -> Result<Self, OfflineError> {
        let mut store = store(data_dir)?;
        if store.settings().map_err(OfflineError::Store)?.is_none() {
            let settings = Settings {
                trust_domain: trust_domain.to_owned(),
                default_class: config::default_class(),
            };
            store
                .keep_settings(&settings)
                .map_err(OfflineError::Store)?;
        }
        Self::of(store, administrator(person))
    }

    fn of(store: Store, person: Actor) -> Result<Self, OfflineError> {
        let settings = store.settings().map_err(OfflineError::Store)?;
        let settings = settings.unwrap_or_else(|| Settings {
            trust_domain: String::new(),
            default_class: config::default_class(),
        });
        let governance = Governance::of(store, &settings.trust_domain, &settings.default_class)
            .map_err(OfflineError::Store)?;
        let desk = crate::governance::desk::Desk::new(governance, person.clone(), None);
        Ok(Self {
            routes: inner(Arc::new(Door::new(Arc::new(desk), Value::Null))),
            person,
        })
    }

    /// Asks as the door for people would be asked: all GETs, and `POST` of APIs, workloads, requests
    /// for grants and whole estates, whose grants name two people themselves. Anything else needs a running control and is refused with the reason `offline`.
    pub async fn ask(
        &self,
        method: Method,
        path_and_query: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let path = path_and_query.split('?').next().unwrap_or_default();
        let is_allowed =
            method == Method::GET || (method == Method::POST && ALLOWED.contains(&path));
        if !is_allowed {
            let detail = "this needs a running control: ask it by its URL";
            return problem(StatusCode::FORBIDDEN, "offline", detail);
        }
        let request = Request::builder()
            .method(method)
            .uri(path_and_query)
            .extension(self.person.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body.map_or_else(Body::empty, |body| Body::from(body.to_string())));
        let Ok(request) = request else {
            return problem(StatusCode::BAD_REQUEST, "req_malformed", "this is no path");
        };
        let answer = match self.routes.clone().oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        let status = answer.status();
        let body = to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await;
        let body = body
            .ok()
            .and_then(|body| serde_json::from_slice(&body).ok());
        (status, body.unwrap_or(Value::Null))
    }
}

/// Somebody who has logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Log-in name.
    pub name: String,
    /// Teams.
    pub teams: Vec<String>,
    /// Whether this person may register workloads and import anything.
    pub admin: bool,
}

/// The person of `people.toml` below `data_dir` whom name and password fit; control may run meanwhile.
///
/// # Errors
/// [`OfflineError::People`], and [`OfflineError::Login`] when they do not fit.
pub fn person(data_dir: &Path, name: &str, password: &str) -> Result<Known, OfflineError> {
    let people = People::load(&data_dir.join(PEOPLE_FILE)).map_err(OfflineError::People)?;
    let fits = people.fits(name, password);
    let person = people
        .find(name)
        .filter(|_| fits)
        .ok_or(OfflineError::Login)?;
    Ok(Known {
        name: person.name.clone(),
        teams: person.teams.clone(),
        admin: person.admin,
    })
}

/// Who makes an estate, with nobody there yet who could log in.
fn administrator(name: &str) -> Actor {
    Actor {
        name: name.trim().to_owned(),
        teams: Vec::new(),
        admin: true,
        peer_address: None,
    }
}

fn store(data_dir: &Path) -> Result<Store, OfflineError> {
    let dir = data_dir.to_owned();
    if !data_dir.is_dir() {
        return Err(OfflineError::Absent { dir });
    }
    Store::open(&data_dir.join("control")).map_err(|error| match error {
        StoreError::Locked { .. } => OfflineError::InUse { dir },
        error => OfflineError::Store(error),
    })
}

fn problem(status: StatusCode, reason: &str, detail: &str) -> (StatusCode, Value) {
    let body = json!({
        "type": format!("urn:counterfoil:problem:{reason}"),
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": detail,
        "reason": reason,
    });
    (status, body)
}

#[cfg(test)]
mod tests;

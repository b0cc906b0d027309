//! Control's door for people, as the commands see it: a request, and an answer or a problem.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use counterfoil_control::offline::Desk;
use http::{Method, StatusCode};
use serde_json::Value;

use super::password;
use crate::{
    args::DoorArgs,
    client::{HttpError, Server, Session},
    exit::Failure,
    site::known_version,
};

/// Where control listens for people by default.
const PORT: u16 = 15_444;

/// A control, asked as somebody.
#[derive(Debug)]
pub(crate) enum Door {
    /// One that runs.
    Server(Session),
    /// The state that one left, which is nobody's as long as none runs.
    Directory {
        desk: Desk,
        /// Whether somebody has logged in.
        is_named: bool,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoorError {
    /// Control said no.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// Control could not be asked.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Something else answered.
    #[error("{0} was answered to {1} by something that is not control's door for people")]
    Form(StatusCode, String),
    /// Somebody must be written down.
    #[error(
        "say with --user who does this, and give the password as PGPASSWORD; only reading needs neither"
    )]
    Nameless,
}

/// What control says about a request that it did not do (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Problem {
    status: StatusCode,
    /// With file and line where a document is meant.
    detail: String,
    reason: Option<String>,
    field: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        let named = [("reason", &self.reason), ("field", &self.field)];
        let named: Vec<_> = named
            .iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name} {value}")))
            .collect();
        if !named.is_empty() {
            write!(f, " ({})", named.join(", "))?;
        }
        if self.status == StatusCode::UNAUTHORIZED {
            f.write_str(
                "; give the person in the URL or as --user, and the password as PGPASSWORD",
            )?;
        }
        Ok(())
    }
}

impl Problem {
    /// Whether the person is not known, so that no further request can do better.
    pub(super) fn is_login(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    fn read(status: StatusCode, body: &Value) -> Option<Self> {
        let text = |name: &str| {
            body.get(name)
                .and_then(Value::as_str)
                .map(ToOwned::to_owned)
        };
        let mut detail = text("detail").or_else(|| text("title"))?;
        if let Some(file) = text("file").filter(|file| !detail.contains(file)) {
            let line = body.get("line").and_then(Value::as_u64);
            let line = line.map(|line| format!(":{line}")).unwrap_or_default();
            let place = text("place").filter(|place| !place.is_empty());
            let place = place.map(|place| format!("{place}: ")).unwrap_or_default();
            detail = format!("{file}{line}: {place}{detail}");
        }
        Some(Self {
            status,
            detail,
            reason: text("reason"),
            field: text("field"),
        })
    }
}

impl Door {
    /// Opens the door that the options name, asking for the password on a terminal.
    pub(super) async fn open(args: &DoorArgs) -> Result<Self, Failure> {
        if let Some(directory) = &args.data_dir {
            return Self::directory(directory, args.user.as_deref());
        }
        let url = args
            .url
            .clone()
            .or_else(|| std::env::var("COUNTERFOIL_CONTROL_URL").ok());
        let url = url.unwrap_or_else(|| format!("http://127.0.0.1:{PORT}"));
        let password = std::env::var("PGPASSWORD").ok();
        let mut server = Server::parse(&url, PORT, args.user.as_deref(), password.as_deref())
            .map_err(Failure::usage)?;
        if let (Some(user), None) = (&server.user, &server.password) {
            server.password = password::prompt(&format!("Password of {user}"))?;
        }
        let connected = Self::connect(&server, args.cacert.as_ref()).await;
        connected.map_err(|error| match error {
            HttpError::NoRoots => Failure::usage(error),
            other => other.into(),
        })
    }

    fn directory(directory: &Path, user: Option<&str>) -> Result<Self, Failure> {
        known_version(directory).map_err(Failure::of_directory)?;
        if !directory.join("people.toml").exists() {
            // Nobody could log in yet, nor behind the door.
            return Ok(Self::Directory {
                desk: Desk::open(directory, user.unwrap_or("nobody"))?,
                is_named: user.is_some(),
            });
        }
        let password = match (user, std::env::var("PGPASSWORD").ok()) {
            (None, _) => None,
            (Some(_), Some(password)) => Some(password),
            (Some(user), None) => password::prompt(&format!("Password of {user}"))?,
        };
        let desk = match (user, &password) {
            (Some(user), Some(password)) => Desk::log_in(directory, user, password)?,
            _ => Desk::open(directory, "nobody")?,
        };
        Ok(Self::Directory {
            desk,
            is_named: password.is_some(),
        })
    }

    /// Whether what is done takes effect only when control starts.
    pub(super) const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }

    /// Connects to a server.
    pub(crate) async fn connect(
        server: &Server,
        roots: Option<&PathBuf>,
    ) -> Result<Self, HttpError> {
        let session = Session::open(server, roots.map(PathBuf::as_path)).await?;
        Ok(Self::Server(session))
    }

    /// Asks for something.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Value, DoorError> {
        self.ask(Method::GET, path, None).await
    }

    /// Has something done.
    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Result<Value, DoorError> {
        self.ask(Method::POST, path, Some(body)).await
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, DoorError> {
        let asked = format!("{method} {}", path.split('?').next().unwrap_or(path));
        match self {
            Self::Server(session) => {
                let reply = session.send(method, path, body).await?;
                let body = serde_json::from_slice(&reply.body).ok();
                read(reply.status, body, asked)
            }
            Self::Directory { is_named, .. } if body.is_some() && !*is_named => {
                Err(DoorError::Nameless)
            }
            Self::Directory { desk, .. } => {
                let (status, body) = desk.ask(method, path, body.cloned()).await;
                read(status, Some(body), asked)
            }
        }
    }
}

/// The body of an answer, or the problem that it tells.
fn read(status: StatusCode, body: Option<Value>, asked: String) -> Result<Value, DoorError> {
    match body {
        Some(body) if status.is_success() => Ok(body),
        Some(body) => match Problem::read(status, &body) {
            Some(problem) => Err(problem.into()),
            None => Err(DoorError::Form(status, asked)),
        },
        None => Err(DoorError::Form(status, asked)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, body: &'static str) -> String {
        let status = StatusCode::from_u16(status).unwrap();
        let asked = "GET /v1/apis".to_owned();
        let body = serde_json::from_str(body).ok();
        read(status, body, asked).unwrap_err().to_string()
    }

    #[test]
    fn a_problem_is_told_with_reason_and_field() {
        let body = r#"{"title":"Bad request","status":422,"detail":"no workload is called pay","reason":"unknown_consumer","field":"consumer"}"#;
        assert_eq!(
            said(422, body),
            "no workload is called pay (reason unknown_consumer, field consumer)"
        );
        assert_eq!(said(404, r#"{"title":"Not found"}"#), "Not found");
        let login = said(401, r#"{"detail":"who asks?","reason":"login"}"#);
        assert!(login.contains("PGPASSWORD"), "{login}");
    }

    #[test]
    fn a_problem_of_a_document_names_file_and_line_once() {
        let body = r#"{"detail":"no such method","file":"a.yaml","line":7,"place":"paths./a"}"#;
        assert_eq!(said(422, body), "a.yaml:7: paths./a: no such method");
        let body = r#"{"detail":"a.yaml:7: no such method","file":"a.yaml","line":7}"#;
        assert_eq!(said(422, body), "a.yaml:7: no such method");
    }

    #[test]
    fn what_is_not_control_is_told_apart() {
        for (status, body) in [(502, "<html>"), (200, "<html>"), (500, "{}")] {
            let said = said(status, body);
            assert!(said.contains("not control's door"), "{said}");
        }
    }
}

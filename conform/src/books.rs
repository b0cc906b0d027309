//! What the target wrote about a call: asked in SQL, or read from the spools of a throw-away world.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use counterfoil_entry::entry::Entry;
use counterfoil_entry::frame::FrameReader;
use counterfoil_entry::word::Phase;
use serde_json::{Map, Value};

use crate::sql::{Server, SqlError};

/// What a spool file begins with (`docs/format.md` 4).
const SPOOL_MAGIC: &[u8] = b"CFSPOOL1";
const SPOOL_RECORD: u8 = 1;

/// Where the target's entries are read.
#[derive(Debug)]
pub(crate) enum Books {
    /// Spools that no collector empties.
    Spools(Vec<PathBuf>),
    /// The SQL endpoint.
    Sql(Server),
}

/// Why the books gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// A spool could not be read.
    #[error("cannot read {}", path.display())]
    Spool {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The SQL endpoint gave no answer.
    #[error(transparent)]
    Sql(#[from] SqlError),
}

/// One entry, as far as checks look at it. What is null is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) side: String,
    pub(crate) kind: String,
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    pub(crate) parent_span_id: String,
    pub(crate) source: String,
    pub(crate) outcome: String,
    pub(crate) error_type: String,
    pub(crate) decision: String,
    pub(crate) reason: String,
    pub(crate) grant_id: String,
    pub(crate) shadow_decision: String,
    pub(crate) bundle_sha256: String,
    pub(crate) peer_port: u16,
    /// The whole row, to look for what must not stand in it.
    pub(crate) text: String,
}

impl Row {
    /// In few words.
    pub(crate) fn words(&self) -> String {
        let error = match self.error_type.as_str() {
            "" => String::new(),
            error => format!(" ({error})"),
        };
        format!("{} {} {}{error}", self.decision, self.reason, self.outcome)
    }
}

impl Books {
    /// The final entries of a trace.
    pub(crate) async fn by_trace(&self, trace: &str) -> Result<Vec<Row>, ReadError> {
        match self {
            Self::Spools(roots) => rows(roots, |row| row.trace_id == trace),
            Self::Sql(server) => {
                let sql =
                    format!("SELECT * FROM entries WHERE trace_id = '{trace}' AND phase = 'final'");
                Ok(server.ask(&sql).await?.iter().map(of_object).collect())
            }
        }
    }

    /// The refused handshakes of a local port, in the last minutes.
    pub(crate) async fn by_port(&self, port: u16) -> Result<Vec<Row>, ReadError> {
        match self {
            Self::Spools(roots) => rows(roots, |row| {
                row.peer_port == port && row.kind == "tls_failure"
            }),
            Self::Sql(server) => {
                let sql = format!(
                    "SELECT * FROM entries WHERE kind = 'tls_failure' AND peer_port = {port} \
                     AND start_time > now() - INTERVAL '2 minutes'"
                );
                Ok(server.ask(&sql).await?.iter().map(of_object).collect())
            }
        }
    }

    /// How long a row may take until it can be read: batches leave twice a second.
    pub(crate) const fn limit(&self) -> Duration {
        match self {
            Self::Spools(_) => Duration::from_secs(2),
            Self::Sql(_) => Duration::from_secs(6),
        }
    }

    /// How long a second row may come after the first.
    pub(crate) const fn settle(&self) -> Duration {
        match self {
            Self::Spools(_) => Duration::from_millis(100),
            Self::Sql(_) => Duration::from_millis(1_200),
        }
    }

    /// How often to look.
    pub(crate) const fn pause(&self) -> Duration {
        match self {
            Self::Spools(_) => Duration::from_millis(20),
            Self::Sql(_) => Duration::from_millis(200),
        }
    }
}

fn of_object(object: &Map<String, Value>) -> Row {
    let text = |name: &str| match object.get(name) {
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    };
    let port = object.get("peer_port").and_then(Value::as_u64);
    Row {
        side: text("side"),
        kind: text("kind"),
        trace_id: text("trace_id"),
        span_id: text("span_id"),
        parent_span_id: text("parent_span_id"),
        source: text("source"),
        outcome: text("outcome"),
        error_type: text("error_type"),
        decision: text("decision"),
        reason: text("reason"),
        grant_id: text("grant_id"),
        shadow_decision: text("shadow_decision"),
        bundle_sha256: text("bundle_sha256"),
        peer_port: port.and_then(|port| port.try_into().ok()).unwrap_or(0),
        text: Value::Object(object.clone()).to_string(),
    }
}

fn of_entry(entry: &Entry) -> Row {
    fn shown(value: Option<impl ToString>) -> String {
        value.map_or_else(String::new, |value| value.to_string())
    }
    Row {
        side: entry.side.as_str().to_owned(),
        kind: entry.kind.as_str().to_owned(),
        trace_id: shown(entry.trace_id),
        span_id: shown(entry.span_id),
        parent_span_id: shown(entry.parent_span_id),
        source: shown(entry.source.as_deref()),
        outcome: shown(entry.outcome.map(|word| word.as_str())),
        error_type: shown(entry.error_type.as_deref()),
        decision: entry.decision.as_str().to_owned(),
        reason: entry.reason.to_string(),
        grant_id: shown(entry.grant_id.as_deref()),
        shadow_decision: shown(entry.shadow_decision.as_deref()),
        bundle_sha256: shown(entry.bundle_sha256),
        peer_port: entry.peer_port.unwrap_or(0),
        text: format!("{entry:?}"),
    }
}

fn rows(roots: &[PathBuf], keeps: impl Fn(&Row) -> bool) -> Result<Vec<Row>, ReadError> {
    let mut found = Vec::new();
    for root in roots {
        for file in files(root)? {
            let is_entries = file
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("entries."));
            if is_entries {
                let bytes = read(&file)?;
                let frames = bytes.strip_prefix(SPOOL_MAGIC).unwrap_or_default();
                let records = FrameReader::new(frames).filter(|frame| frame.kind == SPOOL_RECORD);
                let entries = records.filter_map(|frame| Entry::decode(frame.payload).ok());
                let finals = entries.filter(|(_, entry)| entry.phase == Phase::Final);
                found.extend(finals.map(|(_, entry)| of_entry(&entry)).filter(&keeps));
            }
        }
    }
    Ok(found)
}

/// Whether any file below `roots` holds one of `secrets`; which.
pub(crate) fn find_secret(
    roots: &[PathBuf],
    secrets: &[String],
) -> Result<Option<(PathBuf, usize)>, ReadError> {
    for root in roots {
        for file in files(root)? {
            let bytes = read(&file)?;
            let at = secrets.iter().position(|secret| {
                let secret = secret.as_bytes();
                bytes
                    .windows(secret.len().max(1))
                    .any(|part| part == secret)
            });
            if let Some(at) = at {
                return Ok(Some((file, at)));
            }
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<Vec<u8>, ReadError> {
    match std::fs::read(path) {
        // a file can go between the listing and now
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|source| ReadError::Spool {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Every file below `root`, or `root` itself.
fn files(root: &Path) -> Result<Vec<PathBuf>, ReadError> {
    if !root.is_dir() {
        return Ok(vec![root.to_owned()]);
    }
    let failed = |source| ReadError::Spool {
        path: root.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for item in std::fs::read_dir(root).map_err(failed)? {
        found.extend(files(&item.map_err(failed)?.path())?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_sql_and_what_is_null_in_them() {
        let object = serde_json::json!({
            "side": "server", "trace_id": "ab", "grant_id": null, "peer_port": 40_001
        });
        let row = of_object(object.as_object().unwrap());
        assert_eq!((row.side.as_str(), row.grant_id.as_str()), ("server", ""));
        assert_eq!(row.peer_port, 40_001);
        assert!(row.text.contains("\"trace_id\":\"ab\""), "{}", row.text);
    }

    #[test]
    fn a_secret_is_found_in_any_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/b"), "x the secret y").unwrap();
        let roots = [folder.path().to_owned()];
        let found = |secret: &str| find_secret(&roots, &[secret.to_owned()]).unwrap();
        assert_eq!(found("the secret").unwrap().1, 0);
        assert_eq!(found("another"), None);
    }
}

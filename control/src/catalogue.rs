//! The catalogue: APIs from OpenAPI documents, workloads and grants, taken whole or not at all.

mod grants;
mod openapi;
mod workloads;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use counterfoil_trust::SpiffeId;
use counterfoil_trust::bundle::ApiRights;

pub(crate) use grants::GrantRule;
pub(crate) use workloads::WorkloadRule;

/// A document of more than this is refused unread; the largest public bank API has half of it.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Everything that governs the estate.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    pub(crate) apis: BTreeMap<String, Api>,
    pub(crate) workloads: BTreeMap<SpiffeId, WorkloadRule>,
    pub(crate) grants: Vec<GrantRule>,
}

/// One API and the workload that serves it.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) rights: ApiRights,
    pub(crate) server: Option<SpiffeId>,
}

/// Why a catalogue is refused: the file, where in it, and the reason.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {reason}", file.display(), Place(*line, place))]
pub struct CatalogueError {
    /// The file.
    pub file: PathBuf,
    /// Its line, counted from 1, where it is known.
    pub line: Option<u64>,
    /// The path inside the document, as in `paths./accounts.get`; empty for the whole.
    pub place: String,
    /// What is wrong.
    pub reason: String,
}

struct Place<'a>(Option<u64>, &'a str);

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(line) = self.0 {
            write!(f, ":{line}")?;
        }
        if self.1.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", self.1)
        }
    }
}

impl CatalogueError {
    pub(crate) fn new(file: &Path, reason: impl std::fmt::Display) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            place: String::new(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn at(mut self, line: Option<u64>, place: impl Into<String>) -> Self {
        self.line = line;
        self.place = place.into();
        self
    }
}

/// What tells that a catalogue was changed: path, size and time of change of each of its files.
pub(crate) type Fingerprint = Vec<(PathBuf, u64, Option<SystemTime>)>;

impl Catalogue {
    /// Reads the folder `dir`: `apis/*.yaml`, `.yml` or `.json`, `workloads.toml` and `grants.toml`.
    ///
    /// # Errors
    /// [`CatalogueError`] names the first file that is not good; nothing of the rest is used then.
    pub fn load(
        dir: &Path,
        trust_domain: &str,
        default_class: &str,
    ) -> Result<Self, CatalogueError> {
        let mut documents = Vec::new();
        for file in api_files(dir)? {
            let text = read(&file)?;
            documents.push((openapi::parse(&file, &text, default_class)?, file));
        }
        let file = dir.join("workloads.toml");
        let workloads = workloads::parse(&file, &read(&file)?, trust_domain)?;
        let mut catalogue = Self {
            apis: BTreeMap::new(),
            workloads: BTreeMap::new(),
            grants: Vec::new(),
        };
        for workload in workloads {
            catalogue
                .workloads
                .insert(workload.spiffe_id.clone(), workload);
        }
        catalogue.join_apis(documents, &file)?;
        let file = dir.join("grants.toml");
        catalogue.grants = grants::parse(&file, &read(&file)?, &catalogue)?;
        Ok(catalogue)
    }

    /// Gives each API the workload that serves it, named by the document or by the workload.
    fn join_apis(
        &mut self,
        documents: Vec<(openapi::Document, PathBuf)>,
        workloads_file: &Path,
    ) -> Result<(), CatalogueError> {
        let by_name: HashMap<&str, &SpiffeId> = self
            .workloads
            .values()
            .map(|w| (w.name.as_str(), &w.spiffe_id))
            .collect();
        let mut claimed: HashMap<&str, &SpiffeId> = HashMap::new();
        for workload in self.workloads.values() {
            for api in &workload.apis {
                if claimed.insert(api, &workload.spiffe_id).is_some() {
                    let reason = format!("API {api} is served by two workloads");
                    return Err(CatalogueError::new(workloads_file, reason));
                }
            }
        }
        for (document, file) in documents {
            let named = match &document.service {
                None => None,
                Some(name) => Some(*by_name.get(name.as_str()).ok_or_else(|| {
                    CatalogueError::new(&file, format!("service {name} is no workload"))
                        .at(None, "x-counterfoil.service")
                })?),
            };
            let api = document.rights.api.clone();
            let server = match (named, claimed.remove(api.as_str())) {
                (Some(one), Some(other)) if one != other => {
                    let reason = format!("API {api} is served by {one} and by {other}");
                    return Err(CatalogueError::new(&file, reason));
                }
                (one, other) => one.or(other).cloned(),
            };
            if self.apis.contains_key(&api) {
                let reason = format!("another document has the API {api} too");
                return Err(CatalogueError::new(&file, reason).at(None, "info.title"));
            }
            self.apis.insert(
                api,
                Api {
                    rights: document.rights,
                    server,
                },
            );
        }
        match claimed.keys().min() {
            Some(api) => {
                let reason = format!("no document in apis/ has the API {api}");
                Err(CatalogueError::new(workloads_file, reason))
            }
            None => self.check_servers(workloads_file),
        }
    }

    /// The APIs of one workload share its listener, so that their paths must not meet.
    fn check_servers(&self, workloads_file: &Path) -> Result<(), CatalogueError> {
        let servers: HashSet<&SpiffeId> = self
            .apis
            .values()
            .filter_map(|api| api.server.as_ref())
            .collect();
        for server in servers {
            let apis: Vec<_> = self.apis_of(server).cloned().collect();
            counterfoil_trust::allow::check_apis(&apis)
                .map_err(|e| CatalogueError::new(workloads_file, e).at(None, server.to_string()))?;
        }
        Ok(())
    }

    /// The APIs that a workload serves.
    pub(crate) fn apis_of<'a>(
        &'a self,
        server: &'a SpiffeId,
    ) -> impl Iterator<Item = &'a ApiRights> {
        self.apis
            .values()
            .filter(move |a| a.server.as_ref() == Some(server))
            .map(|a| &a.rights)
    }
}

/// What tells whether [`Catalogue::load`] could give something else than before.
pub(crate) fn fingerprint(dir: &Path) -> Fingerprint {
    let mut files = api_files(dir).unwrap_or_default();
    files.push(dir.join("workloads.toml"));
    files.push(dir.join("grants.toml"));
    let stamp = |file: PathBuf| match fs::metadata(&file) {
        Ok(meta) => (file, meta.len(), meta.modified().ok()),
        Err(_) => (file, 0, None),
    };
    files.into_iter().map(stamp).collect()
}

fn api_files(dir: &Path) -> Result<Vec<PathBuf>, CatalogueError> {
    let dir = dir.join("apis");
    let unreadable = |e| CatalogueError::new(&dir, format!("cannot read the folder: {e}"));
    let mut files = Vec::new();
    for entry in fs::read_dir(&dir).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let extension = file.extension().and_then(|e| e.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<String, CatalogueError> {
    let unreadable = |e| CatalogueError::new(file, format!("cannot read the file: {e}"));
    let size = fs::metadata(file).map_err(unreadable)?.len();
    if size > DOCUMENT_BYTES_MAX {
        let reason = format!("the file has {size} bytes, more than {DOCUMENT_BYTES_MAX}");
        return Err(CatalogueError::new(file, reason));
    }
    fs::read_to_string(file).map_err(unreadable)
}

/// The line, counted from 1, of the byte at `offset`.
fn line_at(text: &str, offset: usize) -> Option<u64> {
    let before = text.as_bytes().get(..offset)?;
    let lines = before.split(|byte| *byte == b'\n').count();
    u64::try_from(lines).ok()
}

/// A TOML reader's error with its line.
fn toml_error(file: &Path, text: &str, error: &toml::de::Error) -> CatalogueError {
    let line = error.span().and_then(|span| line_at(text, span.start));
    CatalogueError::new(file, error.message()).at(line, "")
}

#[cfg(test)]
mod tests;

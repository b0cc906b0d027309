//! The catalogue: APIs from OpenAPI documents, workloads and grants, taken whole or not at all.

mod grants;
mod openapi;
mod workloads;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use counterfoil_trust::SpiffeId;
use counterfoil_trust::bundle::ApiRights;

pub(crate) use grants::GrantRule;
pub(crate) use workloads::WorkloadRule;

/// A document of more than this is refused unread; the largest public bank API has half of it.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Everything that governs the estate. Clones share their elements.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    pub(crate) apis: BTreeMap<String, Arc<Api>>,
    pub(crate) workloads: BTreeMap<SpiffeId, Arc<WorkloadRule>>,
    pub(crate) grants: BTreeMap<String, Arc<GrantRule>>,
    served: BTreeMap<SpiffeId, BTreeSet<String>>,
    by_api: BTreeMap<String, BTreeSet<String>>,
    by_consumer: BTreeMap<SpiffeId, BTreeSet<String>>,
}

/// One API and the workload that serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Api {
    pub(crate) rights: ApiRights,
    pub(crate) server: Option<SpiffeId>,
}

/// What a grant means for bundles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrantState {
    /// In force within its dates.
    Approved,
    /// Asked for: only the candidate rights hold it.
    Requested,
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
        let mut catalogue = Self::default();
        for (workload, _) in &workloads {
            catalogue.put_workload(Arc::new(workload.clone()));
        }
        catalogue.join_apis(documents, &workloads, &file)?;
        let file = dir.join("grants.toml");
        for grant in grants::parse(&file, &read(&file)?, &catalogue)? {
            catalogue.put_grant(grant);
        }
        Ok(catalogue)
    }

    /// Gives each API the workload that serves it, named by the document or by the workload.
    fn join_apis(
        &mut self,
        documents: Vec<(openapi::Document, PathBuf)>,
        workloads: &[(WorkloadRule, Vec<String>)],
        workloads_file: &Path,
    ) -> Result<(), CatalogueError> {
        let by_name: HashMap<&str, &SpiffeId> = workloads
            .iter()
            .map(|(w, _)| (w.name.as_str(), &w.spiffe_id))
            .collect();
        let mut claimed: HashMap<&str, &SpiffeId> = HashMap::new();
        for (workload, apis) in workloads {
            for api in apis {
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
            self.put_api(Api {
                rights: document.rights,
                server,
            });
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
        server: &SpiffeId,
    ) -> impl Iterator<Item = &'a ApiRights> + use<'a> {
        let names = self.served.get(server).into_iter().flatten();
        names
            .filter_map(|name| self.apis.get(name))
            .map(|api| &api.rights)
    }

    /// The grants on an API.
    pub(crate) fn grants_on<'a>(
        &'a self,
        api: &str,
    ) -> impl Iterator<Item = &'a Arc<GrantRule>> + use<'a> {
        let ids = self.by_api.get(api).into_iter().flatten();
        ids.filter_map(|id| self.grants.get(id))
    }

    /// The grants of a consumer.
    pub(crate) fn grants_of<'a>(
        &'a self,
        consumer: &SpiffeId,
    ) -> impl Iterator<Item = &'a Arc<GrantRule>> + use<'a> {
        let ids = self.by_consumer.get(consumer).into_iter().flatten();
        ids.filter_map(|id| self.grants.get(id))
    }

    /// Takes an API in, instead of the one of its name.
    pub(crate) fn put_api(&mut self, api: Api) {
        let name = api.rights.api.clone();
        self.take_api(&name);
        if let Some(server) = &api.server {
            let served = self.served.entry(server.clone()).or_default();
            served.insert(name.clone());
        }
        self.apis.insert(name, Arc::new(api));
    }

    /// Takes an API out.
    pub(crate) fn take_api(&mut self, name: &str) {
        let old = self.apis.remove(name);
        if let Some(server) = old.as_ref().and_then(|api| api.server.as_ref()) {
            remove(&mut self.served, server, name);
        }
    }

    /// Takes a workload in, instead of the one of its SPIFFE id.
    pub(crate) fn put_workload(&mut self, workload: Arc<WorkloadRule>) {
        self.workloads.insert(workload.spiffe_id.clone(), workload);
    }

    /// Takes a grant in, instead of the one of its id.
    pub(crate) fn put_grant(&mut self, grant: GrantRule) {
        self.take_grant(&grant.id);
        let id = grant.id.clone();
        let on_api = self.by_api.entry(grant.api.clone()).or_default();
        on_api.insert(id.clone());
        let held = self.by_consumer.entry(grant.consumer.clone()).or_default();
        held.insert(id.clone());
        self.grants.insert(id, Arc::new(grant));
    }

    /// Takes a grant out.
    pub(crate) fn take_grant(&mut self, id: &str) {
        if let Some(old) = self.grants.remove(id) {
            remove(&mut self.by_api, &old.api, id);
            remove(&mut self.by_consumer, &old.consumer, id);
        }
    }
}

fn remove<K: Ord>(index: &mut BTreeMap<K, BTreeSet<String>>, key: &K, id: &str) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(key);
        }
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

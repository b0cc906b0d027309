//! OpenAPI 3.0 and 3.1 documents: their operations, or the reason why a document is refused whole.

use std::collections::BTreeSet;
use std::path::Path;

use counterfoil_entry::id::RetentionClass;
use counterfoil_trust::allow::check_apis;
use counterfoil_trust::bundle::{Access, ApiRights, OperationRights};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::CatalogueError;

const METHODS: [&str; 8] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];
const PATH_ITEM_KEYS: [&str; 4] = ["summary", "description", "servers", "parameters"];
const EXTENSION: &str = "x-counterfoil";

/// What a document says that matters to the mesh.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) rights: ApiRights,
    /// Name of the workload that serves it.
    pub(super) service: Option<String>,
}

/// The extension at the document's top.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DocumentExtension {
    service: Option<String>,
    /// What the proxy sees before each path, as in `/open-banking/v4`; paths as written without it.
    base_path: String,
    protocol: Option<String>,
    class: Option<String>,
    scopes: Vec<String>,
}

/// The extension of one operation: what it does not name it has from the document.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct OperationExtension {
    class: Option<String>,
    scopes: Option<Vec<String>>,
    open: bool,
}

/// A place in the document and what is wrong there.
struct Fault {
    place: Vec<String>,
    reason: String,
}

impl Fault {
    fn new(place: &[&str], reason: impl Into<String>) -> Self {
        Self {
            place: place.iter().map(|&p| p.to_owned()).collect(),
            reason: reason.into(),
        }
    }
}

/// Reads a document; one bad operation refuses it whole.
pub(super) fn parse(
    file: &Path,
    text: &str,
    default_class: &str,
) -> Result<Document, CatalogueError> {
    let root = read(file, text)?;
    let document = document(&root, default_class).map_err(|fault| {
        let line = line_of(text, &fault.place);
        CatalogueError::new(file, fault.reason).at(line, fault.place.join("."))
    })?;
    check_apis(std::slice::from_ref(&document.rights))
        .map_err(|e| CatalogueError::new(file, e).at(None, "paths"))?;
    Ok(document)
}

fn read(file: &Path, text: &str) -> Result<Value, CatalogueError> {
    if file.extension().is_some_and(|e| e == "json") {
        return serde_json::from_str(text).map_err(|e| {
            let line = u64::try_from(e.line()).ok().filter(|line| *line > 0);
            CatalogueError::new(file, e).at(line, "")
        });
    }
    // The reader's own budget bounds depth, nodes, anchors and aliases; snippets are left out so
    // that errors stay on one line.
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| {
        let line = e.location().map(|at| at.line());
        CatalogueError::new(file, e.to_string().replace('\n', " ")).at(line, "")
    })
}

fn document(root: &Value, default_class: &str) -> Result<Document, Fault> {
    let version = text(root, &["openapi"])?;
    let old = version.starts_with("3.0.");
    if !old && !version.starts_with("3.1.") {
        let reason = format!("{version} is not supported, 3.0 and 3.1 are");
        return Err(Fault::new(&["openapi"], reason));
    }
    let own: DocumentExtension = extension(root, &[EXTENSION])?;
    let class = own.class.as_deref().unwrap_or(default_class);
    check_class(class, &[EXTENSION, "class"])?;
    let rules = Rules {
        root,
        needs_responses: old,
        own: &own,
        class,
    };
    let mut operations = Vec::new();
    let mut names = BTreeSet::new();
    for (path, item) in object(root.get("paths"), &["paths"])? {
        if path.starts_with("x-") {
            continue;
        }
        for operation in rules.path_item(path, item)? {
            if !names.insert(operation.operation.clone()) {
                let method = operation.method.to_lowercase();
                let reason = format!("another operation is named {} too", operation.operation);
                return Err(Fault::new(&["paths", path, &method, "operationId"], reason));
            }
            operations.push(operation);
        }
    }
    let rights = ApiRights {
        api: text(root, &["info", "title"])?.to_owned(),
        api_version: text(root, &["info", "version"])?.to_owned(),
        protocol: own.protocol.clone(),
        access: Access::default(),
        operations,
    };
    Ok(Document {
        rights,
        service: own.service,
    })
}

/// What holds for every operation of one document.
struct Rules<'a> {
    root: &'a Value,
    needs_responses: bool,
    own: &'a DocumentExtension,
    class: &'a str,
}

impl Rules<'_> {
    fn path_item(&self, path: &str, item: &Value) -> Result<Vec<OperationRights>, Fault> {
        let place = ["paths", path];
        if !path.starts_with('/') {
            return Err(Fault::new(&place, "a path begins with /"));
        }
        let item = object(Some(item), &place)?;
        let mut operations = Vec::new();
        for (key, value) in item {
            if METHODS.contains(&key.as_str()) {
                operations.push(self.operation(path, key, value, item)?);
            } else if !PATH_ITEM_KEYS.contains(&key.as_str()) && !key.starts_with("x-") {
                let reason = "it is neither a method nor a field of a path item";
                return Err(Fault::new(&["paths", path, key], reason));
            }
        }
        Ok(operations)
    }

    fn operation(
        &self,
        path: &str,
        method: &str,
        value: &Value,
        item: &Map<String, Value>,
    ) -> Result<OperationRights, Fault> {
        let place = ["paths", path, method];
        let operation = object(Some(value), &place)?;
        let upper = method.to_uppercase();
        let name = match operation.get("operationId") {
            None => format!("{upper} {path}"),
            Some(Value::String(name)) if !name.is_empty() => name.clone(),
            Some(_) => {
                let place = ["paths", path, method, "operationId"];
                return Err(Fault::new(
                    &place,
                    "an operationId is a text that is not empty",
                ));
            }
        };
        match operation.get("responses") {
            Some(Value::Object(responses)) if !responses.is_empty() => {}
            None if !self.needs_responses => {}
            None => return Err(Fault::new(&place, "it has no responses")),
            Some(_) => {
                let place = ["paths", path, method, "responses"];
                return Err(Fault::new(
                    &place,
                    "responses are an object that is not empty",
                ));
            }
        }
        self.check_parameters(path, method, operation, item)?;
        let place = ["paths", path, method, EXTENSION];
        let own: OperationExtension = extension(value, &place)?;
        let class = own.class.as_deref().unwrap_or(self.class);
        check_class(class, &place)?;
        Ok(OperationRights {
            operation: name,
            method: upper,
            route: format!("{}{path}", self.own.base_path.trim_end_matches('/')),
            scopes: own.scopes.unwrap_or_else(|| self.own.scopes.clone()),
            retention_class: class.to_owned(),
            open: own.open,
        })
    }

    /// The parameters in the template and the path parameters that are declared must be the same.
    fn check_parameters(
        &self,
        path: &str,
        method: &str,
        operation: &Map<String, Value>,
        item: &Map<String, Value>,
    ) -> Result<(), Fault> {
        let place = ["paths", path, method, "parameters"];
        let mut declared = BTreeSet::new();
        for list in [item.get("parameters"), operation.get("parameters")]
            .into_iter()
            .flatten()
        {
            let list = list
                .as_array()
                .ok_or_else(|| Fault::new(&place, "it is no list"))?;
            for parameter in list {
                let parameter = self.resolve(parameter).ok_or_else(|| {
                    Fault::new(&place, "a parameter's $ref leads nowhere in this document")
                })?;
                let field = |key| parameter.get(key).and_then(Value::as_str);
                let (Some(name), Some(place_in)) = (field("name"), field("in")) else {
                    return Err(Fault::new(
                        &place,
                        "a parameter has no name or no place (in)",
                    ));
                };
                if place_in == "path" {
                    declared.insert(name);
                }
            }
        }
        let in_template: BTreeSet<&str> = path
            .split('/')
            .filter_map(|s| s.strip_prefix('{').and_then(|s| s.strip_suffix('}')))
            .collect();
        if let Some(name) = in_template.difference(&declared).next() {
            let reason = format!("the path parameter {name} is not declared");
            return Err(Fault::new(&place, reason));
        }
        if let Some(name) = declared.difference(&in_template).next() {
            let reason = format!("the path has no parameter {name}");
            return Err(Fault::new(&place, reason));
        }
        Ok(())
    }

    fn resolve<'v>(&'v self, value: &'v Value) -> Option<&'v Value> {
        match value.get("$ref") {
            None => Some(value),
            Some(reference) => {
                let target = self.root.pointer(reference.as_str()?.strip_prefix('#')?)?;
                // A reference to a reference is not followed: it could go round for ever.
                target.get("$ref").is_none().then_some(target)
            }
        }
    }
}

fn object<'a>(value: Option<&'a Value>, place: &[&str]) -> Result<&'a Map<String, Value>, Fault> {
    match value {
        Some(Value::Object(map)) => Ok(map),
        None => Err(Fault::new(place, "it is missing")),
        Some(_) => Err(Fault::new(place, "it is no object")),
    }
}

fn text<'a>(root: &'a Value, place: &[&str]) -> Result<&'a str, Fault> {
    let value = place.iter().try_fold(root, |value, key| value.get(key));
    match value.and_then(Value::as_str) {
        Some(text) if !text.trim().is_empty() => Ok(text),
        _ => Err(Fault::new(place, "it must be a text that is not empty")),
    }
}

fn extension<T: Default + for<'de> Deserialize<'de>>(
    holder: &Value,
    place: &[&str],
) -> Result<T, Fault> {
    match holder.get(EXTENSION) {
        None => Ok(T::default()),
        Some(value) => T::deserialize(value).map_err(|e| Fault::new(place, e.to_string())),
    }
}

fn check_class(class: &str, place: &[&str]) -> Result<(), Fault> {
    RetentionClass::parse(class)
        .map(drop)
        .map_err(|_| Fault::new(place, format!("{class} is no retention class")))
}

/// The line of a place in block YAML or in JSON with a key a line: each key is looked for among the
/// lines that are indented below the one before it. The last one that is found counts.
fn line_of(text: &str, place: &[String]) -> Option<u64> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = (1_u64..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty());
    let mut found: Option<(u64, usize)> = None;
    for key in place {
        let below = |line: &str| found.is_none_or(|(_, above)| indent(line) > above);
        match lines
            .by_ref()
            .take_while(|(_, line)| below(line))
            .find(|(_, line)| is_key(line, key))
        {
            Some((number, line)) => found = Some((number, indent(line))),
            None => break,
        }
    }
    found.map(|(number, _)| number)
}

fn is_key(line: &str, key: &str) -> bool {
    let line = line.trim_start().trim_start_matches(['"', '\'']);
    line.strip_prefix(key).is_some_and(|rest| {
        rest.trim_start_matches(['"', '\''])
            .trim_start()
            .starts_with(':')
    })
}

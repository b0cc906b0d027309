//! OpenAPI 3.0 and 3.1 documents: their operations, or the reason why a document is refused whole.

mod lines;
mod read;
mod refs;

use std::collections::{BTreeMap, BTreeSet};

use counterfoil_entry::id::RetentionClass;
use counterfoil_trust::allow::{AllowError, check_apis};
use counterfoil_trust::bundle::{Access, ApiRights, OperationRights};
use serde::Deserialize;
use serde_json::{Map, Value};

use lines::line_of;
use refs::Refs;

const METHODS: [&str; 8] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];
const PATH_ITEM_KEYS: [&str; 5] = ["$ref", "summary", "description", "servers", "parameters"];
const EXTENSION: &str = "x-counterfoil";
/// The largest public bank APIs have about 600.
const OPERATIONS_MAX: usize = 5_000;
/// Names become columns of every entry.
const TITLE_BYTES_MAX: usize = 200;
const VERSION_BYTES_MAX: usize = 100;
const OPERATION_BYTES_MAX: usize = 512;
const SCOPE_BYTES_MAX: usize = 64;
const SCOPES_MAX: usize = 32;

/// What a document says that matters to the mesh.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) rights: ApiRights,
    /// OpenAPI version.
    pub(crate) openapi: String,
    /// Name of the workload that serves it.
    pub(crate) service: Option<String>,
    pub(crate) owner_team: Option<String>,
    /// Whether the document itself says what callers have to show.
    pub(crate) access: Option<Access>,
    /// Retention class of operations that name none.
    pub(crate) class: String,
    /// Scopes of operations that name none.
    pub(crate) scopes: Vec<String>,
}

/// Why a document is refused: the file, where in it, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {reason}", Place(*line, place))]
pub(crate) struct DocumentError {
    /// The file, as its sender names it.
    pub(crate) file: String,
    /// Its line, counted from 1, where it is known.
    pub(crate) line: Option<u64>,
    /// The path inside the document, as in `paths./accounts.get`; empty for the whole.
    pub(crate) place: String,
    /// What is wrong.
    pub(crate) reason: String,
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

/// The extension at the document's top.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DocumentExtension {
    service: Option<String>,
    owner_team: Option<String>,
    access: Option<Access>,
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
#[derive(Debug)]
struct Fault {
    place: Vec<String>,
    reason: String,
    /// A text that stands in the line meant, when the place alone does not tell it.
    near: Option<String>,
}

impl Fault {
    fn new<S: AsRef<str>>(place: &[S], reason: impl Into<String>) -> Self {
        Self {
            place: place.iter().map(|p| p.as_ref().to_owned()).collect(),
            reason: reason.into(),
            near: None,
        }
    }
}

/// Reads a document; one bad operation refuses it whole.
///
/// `file` decides by its ending whether JSON or YAML is meant, else the text does.
pub(crate) fn parse(
    file: &str,
    text: &str,
    default_class: &str,
) -> Result<Document, DocumentError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let root = read::read(file, text)?;
    document(&root, text, default_class).map_err(|fault| DocumentError {
        file: file.to_owned(),
        line: line_of(text, &fault.place, fault.near.as_deref()),
        place: fault.place.join("."),
        reason: fault.reason,
    })
}

fn document(root: &Value, source: &str, default_class: &str) -> Result<Document, Fault> {
    let openapi = text(root, &["openapi"], VERSION_BYTES_MAX)?;
    let old = openapi.starts_with("3.0.");
    if !old && !openapi.starts_with("3.1.") {
        let reason = format!("{openapi} is not supported, 3.0 and 3.1 are");
        return Err(Fault::new(&["openapi"], reason));
    }
    let api = text(root, &["info", "title"], TITLE_BYTES_MAX)?.to_owned();
    let api_version = version(root, source)?;
    let refs = Refs::new(root);
    refs.check_all()?;
    let own: DocumentExtension = extension(root, &[EXTENSION])?;
    let class = own.class.as_deref().unwrap_or(default_class);
    check_class(class, &[EXTENSION, "class"])?;
    check_scopes(&own.scopes, &[EXTENSION, "scopes"])?;
    let rules = Rules {
        refs,
        needs_responses: old,
        own: &own,
        class,
    };
    let (operations, places) = rules.operations(root, old)?;
    let rights = ApiRights {
        api,
        api_version,
        protocol: own.protocol.clone(),
        access: own.access.unwrap_or_default(),
        operations,
    };
    check_apis(std::slice::from_ref(&rights)).map_err(|error| misplaced(&error, &places))?;
    Ok(Document {
        rights,
        openapi: openapi.to_owned(),
        class: class.to_owned(),
        service: own.service,
        owner_team: own.owner_team,
        access: own.access,
        scopes: own.scopes,
    })
}

/// The place of each operation, by its name.
type Places = BTreeMap<String, Vec<String>>;

/// Where the operation stands that an allow-list does not take.
fn misplaced(error: &AllowError, places: &Places) -> Fault {
    let operation = match error {
        AllowError::Route { operation, .. } | AllowError::Class { operation, .. } => operation,
        AllowError::Twice { other, .. } => other,
        _ => "",
    };
    match places.get(operation) {
        Some(place) => Fault::new(place, error.to_string()),
        None => Fault::new(&["paths"], error.to_string()),
    }
}

/// The version, which YAML reads as a number when nobody put it in quotes.
fn version(root: &Value, source: &str) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct Head {
        info: Info,
    }
    #[derive(Deserialize)]
    struct Info {
        version: String,
    }
    let place = ["info", "version"];
    let value = root.get("info").and_then(|info| info.get("version"));
    if value.is_some_and(Value::is_number)
        && let Ok(head) = serde_saphyr::from_str_with_options::<Head>(source, read::options())
    {
        return Ok(head.info.version);
    }
    Ok(text(root, &place, VERSION_BYTES_MAX)?.to_owned())
}

/// What holds for every operation of one document.
struct Rules<'a> {
    refs: Refs<'a>,
    needs_responses: bool,
    own: &'a DocumentExtension,
    class: &'a str,
}

/// A path item, or what its `$ref` leads to: together they are one path.
struct Layer<'a> {
    place: Vec<String>,
    item: &'a Map<String, Value>,
}

impl<'a> Rules<'a> {
    fn operations(
        &self,
        root: &'a Value,
        needs_paths: bool,
    ) -> Result<(Vec<OperationRights>, Places), Fault> {
        let mut operations = Vec::new();
        let mut places = Places::new();
        let paths = match root.get("paths") {
            None if !needs_paths => return Ok((operations, places)),
            paths => object(paths, &["paths"])?,
        };
        for (path, item) in paths {
            if path.starts_with("x-") {
                continue;
            }
            for (operation, place) in self.path_item(path, item)? {
                let name = operation.operation.clone();
                if places.contains_key(&name) {
                    let reason = format!("another operation is named {name} too");
                    return Err(Fault::new(&below(&place, "operationId"), reason));
                }
                if operations.len() == OPERATIONS_MAX {
                    let reason = format!("there are more than {OPERATIONS_MAX} operations");
                    return Err(Fault::new(&place, reason));
                }
                places.insert(name, place);
                operations.push(operation);
            }
        }
        Ok((operations, places))
    }

    fn path_item(
        &self,
        path: &str,
        item: &'a Value,
    ) -> Result<Vec<(OperationRights, Vec<String>)>, Fault> {
        let place = ["paths", path];
        if !path.starts_with('/') {
            return Err(Fault::new(&place, "a path begins with /"));
        }
        let takes_a_part = |segment: &str| {
            let name = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
            segment.contains(['{', '}']) && name.is_none()
        };
        if path.split('/').any(takes_a_part) {
            return Err(Fault::new(&place, "a parameter takes a whole segment"));
        }
        let layers = self.layers(&place, item)?;
        let mut operations: Vec<(OperationRights, Vec<String>)> = Vec::new();
        for layer in &layers {
            for (key, value) in layer.item {
                let place = below(&layer.place, key);
                if METHODS.contains(&key.as_str()) {
                    let method = key.to_uppercase();
                    if operations.iter().any(|(o, _)| o.method == method) {
                        let reason = "the path item and what its $ref leads to both have it";
                        return Err(Fault::new(&place, reason));
                    }
                    let operation = self.operation(path, &place, value, &layers)?;
                    operations.push((operation, place));
                } else if key == EXTENSION {
                    let reason = "it belongs to the document or to an operation";
                    return Err(Fault::new(&place, reason));
                } else if !PATH_ITEM_KEYS.contains(&key.as_str()) && !key.starts_with("x-") {
                    let reason = "it is neither a method nor a field of a path item";
                    return Err(Fault::new(&place, reason));
                }
            }
        }
        Ok(operations)
    }

    /// The path item and, one after another, what `$ref`s lead to.
    fn layers(&self, place: &[&str], item: &'a Value) -> Result<Vec<Layer<'a>>, Fault> {
        let own = Layer {
            place: place.iter().map(|&p| p.to_owned()).collect(),
            item: object(Some(item), place)?,
        };
        let mut layers = vec![own];
        let mut seen = BTreeSet::new();
        while let Some(last) = layers.last()
            && let Some(reference) = last.item.get("$ref")
        {
            let (target_place, target) = self.refs.step(&last.place, reference, &mut seen)?;
            let item = object(Some(target), &target_place)?;
            layers.push(Layer {
                place: target_place,
                item,
            });
        }
        Ok(layers)
    }

    fn operation(
        &self,
        path: &str,
        place: &[String],
        value: &Value,
        layers: &[Layer<'a>],
    ) -> Result<OperationRights, Fault> {
        let operation = object(Some(value), place)?;
        let method = place
            .last()
            .map(|method| method.to_uppercase())
            .unwrap_or_default();
        let name = match operation.get("operationId") {
            None => format!("{method} {path}"),
            Some(Value::String(name)) if !name.trim().is_empty() => name.clone(),
            Some(_) => {
                let reason = "an operationId is a text that is not empty";
                return Err(Fault::new(&below(place, "operationId"), reason));
            }
        };
        let route = format!("{}{path}", self.own.base_path.trim_end_matches('/'));
        if name.len().max(route.len()) > OPERATION_BYTES_MAX || name.contains(char::is_control) {
            let reason = format!(
                "its name or path has more than {OPERATION_BYTES_MAX} bytes or control characters"
            );
            return Err(Fault::new(place, reason));
        }
        self.check_responses(operation.get("responses"), place)?;
        self.check_parameters(path, place, operation.get("parameters"), layers)?;
        let place = below(place, EXTENSION);
        let own: OperationExtension = extension(value, &place)?;
        let class = own.class.as_deref().unwrap_or(self.class);
        check_class(class, &place)?;
        let scopes = own.scopes.unwrap_or_else(|| self.own.scopes.clone());
        check_scopes(&scopes, &place)?;
        Ok(OperationRights {
            operation: name,
            method,
            route,
            scopes,
            retention_class: class.to_owned(),
            open: own.open,
        })
    }

    fn check_responses(&self, responses: Option<&Value>, place: &[String]) -> Result<(), Fault> {
        match responses {
            Some(Value::Object(responses)) if !responses.is_empty() => Ok(()),
            None if !self.needs_responses => Ok(()),
            None => Err(Fault::new(place, "it has no responses")),
            Some(_) => {
                let reason = "responses are an object that is not empty";
                Err(Fault::new(&below(place, "responses"), reason))
            }
        }
    }

    /// The parameters in the template and the path parameters that are declared must be the same.
    fn check_parameters(
        &self,
        path: &str,
        place: &[String],
        own: Option<&'a Value>,
        layers: &[Layer<'a>],
    ) -> Result<(), Fault> {
        let place = below(place, "parameters");
        let mut declared = BTreeSet::new();
        let inherited = layers.iter().filter_map(|l| l.item.get("parameters"));
        for list in inherited.chain(own) {
            let list = list
                .as_array()
                .ok_or_else(|| Fault::new(&place, "it is no list"))?;
            for parameter in list {
                let parameter = self.refs.resolve(&place, parameter)?;
                let field = |key| parameter.get(key).and_then(Value::as_str);
                let (Some(name), Some(place_in)) = (field("name"), field("in")) else {
                    let reason = "a parameter has no name or no place (in)";
                    return Err(Fault::new(&place, reason));
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
}

/// The line in which a document names the workload that serves it.
pub(crate) fn line_of_service(text: &str) -> Option<u64> {
    let place = [EXTENSION, "service"].map(str::to_owned);
    line_of(text, &place, None)
}

fn below<S: AsRef<str>>(place: &[S], key: &str) -> Vec<String> {
    let above = place.iter().map(AsRef::as_ref);
    above
        .chain(std::iter::once(key))
        .map(str::to_owned)
        .collect()
}

fn object<'a, S: AsRef<str>>(
    value: Option<&'a Value>,
    place: &[S],
) -> Result<&'a Map<String, Value>, Fault> {
    match value {
        Some(Value::Object(map)) => Ok(map),
        None => Err(Fault::new(place, "it is missing")),
        Some(_) => Err(Fault::new(place, "it is no object")),
    }
}

fn text<'a>(root: &'a Value, place: &[&str], bytes_max: usize) -> Result<&'a str, Fault> {
    let value = place.iter().try_fold(root, |value, key| value.get(key));
    match value.and_then(Value::as_str).map(str::trim) {
        None | Some("") => Err(Fault::new(place, "it must be a text that is not empty")),
        Some(text) if text.len() > bytes_max || text.contains(char::is_control) => {
            let reason = format!("it has more than {bytes_max} bytes or control characters");
            Err(Fault::new(place, reason))
        }
        Some(text) => Ok(text),
    }
}

fn extension<T: Default + for<'de> Deserialize<'de>, S: AsRef<str>>(
    holder: &Value,
    place: &[S],
) -> Result<T, Fault> {
    match holder.get(EXTENSION) {
        None => Ok(T::default()),
        Some(value) => T::deserialize(value).map_err(|e| Fault::new(place, e.to_string())),
    }
}

fn check_class<S: AsRef<str>>(class: &str, place: &[S]) -> Result<(), Fault> {
    RetentionClass::parse(class)
        .map(drop)
        .map_err(|_| Fault::new(place, format!("{class} is no retention class")))
}

fn check_scopes<S: AsRef<str>>(scopes: &[String], place: &[S]) -> Result<(), Fault> {
    let is_good = |scope: &String| {
        !scope.trim().is_empty()
            && scope.len() <= SCOPE_BYTES_MAX
            && !scope.contains(char::is_control)
    };
    if scopes.len() <= SCOPES_MAX && scopes.iter().all(is_good) {
        return Ok(());
    }
    let reason =
        format!("scopes are up to {SCOPES_MAX} texts of up to {SCOPE_BYTES_MAX} bytes, none empty");
    Err(Fault::new(place, reason))
}

#[cfg(test)]
mod tests;

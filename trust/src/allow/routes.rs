//! From method and path to operation.

use std::collections::HashMap;
use std::sync::Arc;

use counterfoil_entry::id::RetentionClass;

use super::gate::{is_unambiguous, path_of};
use super::{AllowError, Operation, Reason};
use crate::bundle::{ApiRights, OperationRights};
use crate::token;

/// The operations of one workload.
#[derive(Debug)]
pub(super) struct Routes {
    router: matchit::Router<usize>,
    /// One element a path template: its methods and the index of each one's operation.
    methods: Vec<Vec<(Arc<str>, usize)>>,
    operations: Vec<Arc<Operation>>,
    by_name: HashMap<(Arc<str>, Arc<str>), usize>,
}

/// What a router knows of a request.
#[derive(Debug)]
pub(super) enum Found<'a> {
    Operation(usize, &'a Arc<Operation>),
    Nothing(Reason),
}

impl Routes {
    pub(super) fn compile(apis: &[ApiRights]) -> Result<Self, AllowError> {
        let mut routes = Self {
            router: matchit::Router::new(),
            methods: Vec::new(),
            operations: Vec::new(),
            by_name: HashMap::new(),
        };
        let mut shapes: HashMap<String, usize> = HashMap::new();
        for api in apis {
            for rights in &api.operations {
                routes.add(api, rights, &mut shapes)?;
            }
        }
        Ok(routes)
    }

    fn add(
        &mut self,
        api: &ApiRights,
        rights: &OperationRights,
        shapes: &mut HashMap<String, usize>,
    ) -> Result<(), AllowError> {
        let route_error = |why: String| AllowError::Route {
            operation: rights.operation.clone(),
            route: rights.route.clone(),
            why,
        };
        let shape = shape(&rights.route).map_err(|why| route_error(why.to_owned()))?;
        let operation = Arc::new(compile_operation(api, rights)?);
        let index = self.operations.len();
        let slot = match shapes.get(&shape) {
            Some(slot) => *slot,
            None => {
                let slot = self.methods.len();
                self.router
                    .insert(&*shape, slot)
                    .map_err(|e| route_error(e.to_string()))?;
                shapes.insert(shape, slot);
                self.methods.push(Vec::new());
                slot
            }
        };
        let methods = self
            .methods
            .get_mut(slot)
            .ok_or_else(|| route_error(String::new()))?;
        let name = (Arc::clone(&operation.api), Arc::clone(&operation.operation));
        let same_path = methods
            .iter()
            .find(|(method, _)| *method == operation.method);
        if let Some(other) = same_path
            .map(|(_, i)| *i)
            .or_else(|| self.by_name.get(&name).copied())
        {
            let one = self.operations.get(other).map(|o| o.operation.to_string());
            return Err(AllowError::Twice {
                one: one.unwrap_or_default(),
                other: rights.operation.clone(),
            });
        }
        methods.push((Arc::clone(&operation.method), index));
        self.by_name.insert(name, index);
        self.operations.push(operation);
        Ok(())
    }

    pub(super) fn index_of(&self, api: &str, operation: &str) -> Option<usize> {
        self.by_name.get(&(api.into(), operation.into())).copied()
    }

    /// The path is matched first, a literal segment before a parameter, and the method then among
    /// those of that template only, as OpenAPI says.
    pub(super) fn find(&self, method: &str, target: &str) -> Found<'_> {
        let Some(path) = path_of(target) else {
            return Found::Nothing(Reason::PathAmbiguous);
        };
        let Ok(matched) = self.router.at(path) else {
            return Found::Nothing(Reason::RouteUnknown);
        };
        let methods = self
            .methods
            .get(*matched.value)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let index = methods
            .iter()
            .find(|(declared, _)| **declared == *method)
            .map(|(_, i)| *i);
        index
            .and_then(|index| Some(Found::Operation(index, self.operations.get(index)?)))
            .unwrap_or(Found::Nothing(Reason::MethodNotDeclared))
    }
}

fn compile_operation(api: &ApiRights, rights: &OperationRights) -> Result<Operation, AllowError> {
    let class = RetentionClass::parse(&rights.retention_class).map_err(|_| AllowError::Class {
        operation: rights.operation.clone(),
        class: rights.retention_class.clone(),
    })?;
    Ok(Operation {
        api: api.api.as_str().into(),
        api_version: api.api_version.as_str().into(),
        protocol: api.protocol.as_deref().map(Arc::from),
        operation: rights.operation.as_str().into(),
        method: rights.method.as_str().into(),
        route: rights.route.as_str().into(),
        scopes: rights
            .scopes
            .iter()
            .map(|scope| Arc::from(scope.as_str()))
            .collect(),
        class,
        open: rights.open,
        access: api.access,
        token_scope: token::scope([rights.operation.as_str()]).into(),
    })
}

/// The template in the router's notation, parameters numbered, so that two templates which match
/// the same paths are one.
fn shape(route: &str) -> Result<String, &'static str> {
    if !route.starts_with('/') {
        return Err("a route begins with /");
    }
    let mut shape = String::with_capacity(route.len());
    let mut literals = String::with_capacity(route.len());
    for (number, segment) in route.split('/').enumerate().skip(1) {
        shape.push('/');
        literals.push('/');
        match segment
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
        {
            Some(name) if !name.is_empty() && !name.contains(['{', '}']) => {
                shape.push_str(&format!("{{p{number}}}"));
                literals.push('p');
            }
            _ if segment.contains(['{', '}']) => {
                return Err("a parameter takes a whole segment");
            }
            _ if segment.contains('%') => return Err("a literal segment holds no percent sign"),
            _ => {
                shape.push_str(segment);
                literals.push_str(segment);
            }
        }
    }
    if is_unambiguous(&literals) {
        Ok(shape)
    } else {
        Err("no path of it passes the path gate")
    }
}

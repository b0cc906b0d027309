//! The OpenAPI document of an API.

use serde_json::{Map, Value, json};

use crate::{Api, Operation};

impl Api {
    /// Its OpenAPI 3.1 document, with retention class and scopes in `x-counterfoil`.
    #[must_use]
    pub fn document(&self) -> Value {
        let mut paths = Map::new();
        for operation in &self.operations {
            let item = paths
                .entry(operation.route.clone())
                .or_insert_with(|| path_item(operation));
            if let Some(item) = item.as_object_mut() {
                item.insert(operation.method.to_ascii_lowercase(), described(operation));
            }
        }
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": self.name,
                "version": self.version,
                "x-criticality": self.criticality.as_str(),
            },
            "x-counterfoil": {
                "owner_team": self.team,
                "class": self.class,
                "scopes": self.scopes,
            },
            "paths": paths,
        })
    }
}

fn path_item(operation: &Operation) -> Value {
    if operation.route.contains("{id}") {
        json!({ "parameters": [
            { "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }
        ] })
    } else {
        json!({})
    }
}

fn described(operation: &Operation) -> Value {
    let mut value = json!({
        "operationId": operation.name,
        "responses": { "200": { "description": "done" } },
    });
    if let (true, Some(value)) = (operation.open, value.as_object_mut()) {
        value.insert("x-counterfoil".to_owned(), json!({ "open": true }));
    }
    value
}

//! `$ref`s inside one document: followed step by step, so that none can go round for ever.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Fault;

/// Keys below which `$ref` is an example or a value and no reference.
const VALUES: [&str; 5] = ["example", "examples", "default", "enum", "const"];

/// So many references may stand between two steps of a pointer.
const HOPS_MAX: usize = 16;

/// The references of one document.
pub(super) struct Refs<'a> {
    root: &'a Value,
}

impl<'a> Refs<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        Self { root }
    }

    /// What `value`, or what its `$ref` leads to in the end, is.
    pub(super) fn resolve(&self, place: &[String], value: &'a Value) -> Result<&'a Value, Fault> {
        let mut seen = BTreeSet::new();
        let (mut place, mut value) = (place.to_vec(), value);
        while let Some(reference) = value.get("$ref") {
            (place, value) = self.step(&place, reference, &mut seen)?;
        }
        Ok(value)
    }

    /// What one `$ref` leads to, and where that stands. `seen` holds those before it on the way.
    pub(super) fn step(
        &self,
        place: &[String],
        reference: &Value,
        seen: &mut BTreeSet<String>,
    ) -> Result<(Vec<String>, &'a Value), Fault> {
        let fault = |near: Option<&str>, reason: String| {
            let mut fault = Fault::new(place, reason);
            fault.near = near.map(str::to_owned);
            fault
        };
        let Some(reference) = reference.as_str() else {
            return Err(fault(None, "a $ref is a text".to_owned()));
        };
        let Some(fragment) = reference.strip_prefix('#') else {
            let reason = format!("the $ref {reference} leads outside of this document");
            return Err(fault(Some(reference), reason));
        };
        if !seen.insert(reference.to_owned()) {
            let reason = format!("the $ref {reference} leads back to itself");
            return Err(fault(Some(reference), reason));
        }
        let pointer = percent_decoded(fragment);
        let target = self.find(&pointer).ok_or_else(|| {
            let reason = format!("the $ref {reference} leads nowhere in this document");
            fault(Some(reference), reason)
        })?;
        let place = pointer.split('/').skip(1);
        let place = place.map(|token| token.replace("~1", "/").replace("~0", "~"));
        Ok((place.collect(), target))
    }

    /// What stands at a JSON pointer (RFC 6901). On the way it goes through references, as most readers
    /// of OpenAPI do.
    fn find(&self, pointer: &str) -> Option<&'a Value> {
        if pointer.is_empty() {
            return Some(self.root);
        }
        let mut value = self.root;
        for token in pointer.strip_prefix('/')?.split('/') {
            let key = token.replace("~1", "/").replace("~0", "~");
            let mut hops = 0;
            value = loop {
                let below = match value {
                    Value::Array(list) => key.parse::<usize>().ok().and_then(|at| list.get(at)),
                    other => other.get(&key),
                };
                if let Some(below) = below {
                    break below;
                }
                hops += 1;
                let reference = value.get("$ref").and_then(Value::as_str);
                let inner = reference.and_then(|r| r.strip_prefix('#'));
                value = inner
                    .filter(|_| hops < HOPS_MAX)
                    .and_then(|inner| self.root.pointer(&percent_decoded(inner)))?;
            };
        }
        Some(value)
    }

    /// Refuses a document in which an inner `$ref` leads nowhere or, through nothing but others,
    /// back to itself. A schema that holds itself is lawful, and is no such circle.
    pub(super) fn check_all(&self) -> Result<(), Fault> {
        self.check(self.root, &mut Vec::new())
    }

    fn check(&self, value: &'a Value, place: &mut Vec<String>) -> Result<(), Fault> {
        match value {
            Value::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    place.push(index.to_string());
                    self.check(value, place)?;
                    place.pop();
                }
            }
            // With an `$id`, references inside are relative to it.
            Value::Object(map) if !map.get("$id").is_some_and(Value::is_string) => {
                let reference = map.get("$ref").and_then(Value::as_str);
                if reference.is_some_and(|reference| reference.starts_with("#/")) {
                    self.follow(place, value)?;
                }
                for (key, value) in map {
                    if !VALUES.contains(&key.as_str()) && !key.starts_with("x-") {
                        place.push(key.clone());
                        self.check(value, place)?;
                        place.pop();
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Follows a chain of inner references until it ends or leaves the document.
    fn follow(&self, place: &[String], value: &'a Value) -> Result<(), Fault> {
        let mut seen = BTreeSet::new();
        let (mut place, mut value) = (place.to_vec(), value);
        while let Some(reference) = value.get("$ref")
            && reference.as_str().is_some_and(|r| r.starts_with("#/"))
        {
            (place, value) = self.step(&place, reference, &mut seen)?;
        }
        Ok(())
    }
}

/// A fragment without its `%` escapes; one that is no UTF-8 then leads nowhere.
fn percent_decoded(fragment: &str) -> String {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                let mut escaped = [0];
                match hex::decode_to_slice([*high, *low], &mut escaped) {
                    Ok(()) => bytes.extend(escaped),
                    Err(_) => bytes.extend([b'%', *high, *low]),
                }
                after
            }
            _ => {
                bytes.push(*byte);
                after
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

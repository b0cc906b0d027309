//! Reading YAML and JSON of strangers: bounded, and no key twice.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::DocumentError;

/// A document of more than this is refused unread; the largest public bank API has half of it.
const BYTES_MAX: usize = 8 << 20;
/// JSON's reader stops there too. Real documents have less than 30 levels.
const DEPTH_MAX: usize = 127;
/// The largest public bank API has 350,000 nodes.
const NODES_MAX: usize = 1_000_000;
/// What all aliases together may unfold to. Documents have a handful of them.
const ALIASED_MAX: usize = 100_000;
/// A level of YAML takes up to 20 kB of stack.
const STACK_BYTES: usize = 16 << 20;

/// How YAML is read: bounded in depth, nodes and what aliases unfold to. Snippets are left out, so
/// that errors stay on one line.
pub(super) fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: 2 * NODES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIASED_MAX,
        },
        // `no` and `y` are texts, as in YAML 1.2 and JSON.
        strict_booleans: true,
        // Limits of schemas may be infinite. Nothing reads them.
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
    }
}

/// Reads `text` as what the ending of `file` says, else as what it looks like.
pub(super) fn read(file: &str, text: &str) -> Result<Value, DocumentError> {
    let fault = |line: Option<u64>, reason: String| DocumentError {
        file: file.to_owned(),
        line,
        place: String::new(),
        reason: reason.replace('\n', " "),
    };
    if text.len() > BYTES_MAX {
        let reason = format!("it has {} bytes, more than {BYTES_MAX}", text.len());
        return Err(fault(None, reason));
    }
    let ending = file.rsplit_once('.').map(|(_, ending)| ending);
    let ending = ending.map(str::to_ascii_lowercase);
    let is_json = match ending.as_deref() {
        Some("json") => true,
        Some("yaml" | "yml") => false,
        _ => text.trim_start().starts_with('{'),
    };
    let parse = || -> Result<Strict, DocumentError> {
        if is_json {
            return serde_json::from_str(text).map_err(|e| {
                let line = u64::try_from(e.line()).ok().filter(|line| *line > 0);
                fault(line, e.to_string())
            });
        }
        serde_saphyr::from_str_with_options(text, options()).map_err(|e| {
            let line = e.location().map(|at| at.line());
            fault(line, e.to_string())
        })
    };
    let parsed = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, parse).ok()?;
        thread.join().ok()
    });
    match parsed {
        Some(parsed) => parsed.map(|Strict(value)| value),
        None => Err(fault(None, "it cannot be read now".to_owned())),
    }
}

/// A value in which no object has a key twice: of two rights under one key, neither is meant more.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Level(0).deserialize(deserializer).map(Self)
    }
}

/// How many levels stand above a value.
#[derive(Clone, Copy)]
struct Level(usize);

impl Level {
    fn below<E: Error>(self) -> Result<Self, E> {
        if self.0 < DEPTH_MAX {
            Ok(Self(self.0 + 1))
        } else {
            Err(E::custom(format!("it has more than {DEPTH_MAX} levels")))
        }
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    // Limits of schemas may be larger than any integer here. Nothing reads them.
    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(below)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!(
                    "the key {key} stands there twice"
                )));
            }
            let value = map.next_value_seed(below)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

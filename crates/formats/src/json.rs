//! JSON from strangers: bounded in size, in nodes and in depth, and without duplicate keys.

use crate::error::{shown, shown_message};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// The largest file parsed into a [`Value`]. Real ones stay below 2 MB.
pub(crate) const BYTES_MAX: usize = 16 << 20;
/// The most values in one file: each costs up to about 150 bytes of memory. Real ones have below 100,000.
const NODES_MAX: u32 = 200_000;

/// Parses `bytes` as one JSON object.
///
/// # Errors
/// What is wrong and where. Nesting beyond 128 levels is refused by serde_json itself.
pub(crate) fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    if bytes.len() > BYTES_MAX {
        return Err(format!("the file has {} bytes; at most {BYTES_MAX} are allowed", bytes.len()));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let mut nodes_left = NODES_MAX;
    let value = Node { nodes_left: &mut nodes_left }.deserialize(&mut deserializer);
    let value = value.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| shown_message(&error))?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err("the file is not a JSON object".into()),
    }
}

struct Node<'n> {
    nodes_left: &'n mut u32,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        *self.nodes_left = self
            .nodes_left
            .checked_sub(1)
            .ok_or_else(|| de::Error::custom(format_args!("more than {NODES_MAX} values")))?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(truth.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element_seed(Node { nodes_left: &mut *self.nodes_left })? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = pairs.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(de::Error::custom(format_args!("the key `{}` occurs twice", shown(&key))));
            }
            let value = pairs.next_value_seed(Node { nodes_left: &mut *self.nodes_left })?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

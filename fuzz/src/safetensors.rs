//! safetensors files: headers that fit their data, and such that nearly do.

use crate::allocator::within_limit;
use crate::damage::{Damage, Edge, damaged};
use arbitrary::Arbitrary;
use freehold_formats::Safetensors;
use serde_json::{Map, Value, json};

const DTYPES: [&str; 10] = ["F32", "F16", "BF16", "F64", "I64", "I8", "U8", "BOOL", "F8_E4M3", "Q4"];
const WIDTHS: [u64; 10] = [4, 2, 2, 8, 8, 1, 1, 1, 1, 1];

/// A tensor.
#[derive(Arbitrary, Debug)]
pub struct Entry {
    dtype: u8,
    shape: Vec<Dimension>,
    begin: Option<Edge>,
    end: Option<Edge>,
    extra: bool,
}

/// A dimension.
#[derive(Arbitrary, Debug)]
pub enum Dimension {
    /// 0 to 7.
    Small(u8),
    /// Any.
    Edge(Edge),
    /// Not one at all.
    Negative(i8),
    /// Nor this.
    Float(f32),
}

/// A file.
#[derive(Arbitrary, Debug)]
pub struct Input {
    tensors: Vec<Entry>,
    metadata: Option<Vec<(String, String)>>,
    header_length: Option<Edge>,
    data_change: i8,
    damages: Vec<Damage>,
}

/// Reads it.
pub fn check(input: &Input) {
    let mut header = Map::new();
    let mut end = 0u64;
    for (index, entry) in input.tensors.iter().take(32).enumerate() {
        let dtype = usize::from(entry.dtype) % DTYPES.len();
        let mut size = Some(WIDTHS[dtype]);
        let shape: Vec<Value> = (entry.shape.iter().take(6))
            .map(|dimension| match dimension {
                Dimension::Small(number) => {
                    size = size.and_then(|size| size.checked_mul(u64::from(number % 8)));
                    json!(number % 8)
                }
                Dimension::Edge(number) => {
                    size = size.and_then(|size| size.checked_mul(number.value()));
                    json!(number.value())
                }
                Dimension::Negative(number) => json!(number),
                Dimension::Float(number) => json!(number),
            })
            .collect();
        let begin = end;
        end = end.saturating_add(size.filter(|size| *size < 1 << 16).unwrap_or(0));
        let offsets = [entry.begin.map_or(begin, Edge::value), entry.end.map_or(end, Edge::value)];
        let mut tensor = json!({"dtype": DTYPES[dtype], "shape": shape, "data_offsets": offsets});
        if entry.extra {
            tensor["extra"] = json!([[]]);
        }
        header.insert(format!("t{}", index / 2 * 2), tensor);
    }
    if let Some(metadata) = &input.metadata {
        header.insert("__metadata__".into(), metadata.iter().cloned().map(|(k, v)| (k, Value::from(v))).collect());
    }
    let header = Value::from(header).to_string();
    let length = input.header_length.map_or(header.len() as u64, Edge::value);
    let mut file = [&length.to_le_bytes(), header.as_bytes()].concat();
    let data = usize::try_from(end).unwrap_or(0).min(1 << 20).saturating_add_signed(input.data_change.into());
    file.resize(file.len() + data, 1);
    let file = damaged(file, &input.damages);
    within_limit(file.len() * 2, || {
        let _ = Safetensors::from_bytes(file.clone());
    });
}

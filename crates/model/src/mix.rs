//! Which tensor of a quantised file has which type: llama.cpp's named mixes.
//!
//! A mix gives most matrices one type, and more bits to those whose errors are known to hurt most: values and
//! down-projections of some layers, attention's output, the output head. The rules are those of llama.cpp
//! (`src/llama-quant.cpp`, `llama_tensor_get_type_impl`), so that a name means the same there and here.

use crate::conversion::Quantization;
use freehold_base::Dtype;
use freehold_formats::{Array, Metadata, Value};

/// A named way to encode a model's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// As llama.cpp calls it.
    pub name: &'static str,
    /// What most matrices are.
    pub dtype: Dtype,
    /// llama.cpp's number of it (`general.file_type`).
    pub(crate) file_type: u32,
    kind: Kind,
}

/// Which rules go beyond the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Q2K,
    Q3KM,
    Q3KL,
    Q4KS,
    Q4KM,
    Q5KM,
    /// IQ4_NL and IQ4_XS.
    Iq4,
}

impl Mix {
    /// All there are.
    pub const ALL: [Self; 18] = [
        Self::new("F16", 1, Dtype::F16, Kind::Plain),
        Self::new("BF16", 32, Dtype::BF16, Kind::Plain),
        Self::new("Q4_0", 2, Dtype::Q4_0, Kind::Plain),
        Self::new("Q4_1", 3, Dtype::Q4_1, Kind::Plain),
        Self::new("Q5_0", 8, Dtype::Q5_0, Kind::Plain),
        Self::new("Q5_1", 9, Dtype::Q5_1, Kind::Plain),
        Self::new("Q8_0", 7, Dtype::Q8_0, Kind::Plain),
        Self::new("Q2_K", 10, Dtype::Q2_K, Kind::Q2K),
        Self::new("Q3_K_S", 11, Dtype::Q3_K, Kind::Plain),
        Self::new("Q3_K_M", 12, Dtype::Q3_K, Kind::Q3KM),
        Self::new("Q3_K_L", 13, Dtype::Q3_K, Kind::Q3KL),
        Self::new("Q4_K_S", 14, Dtype::Q4_K, Kind::Q4KS),
        Self::new("Q4_K_M", 15, Dtype::Q4_K, Kind::Q4KM),
        Self::new("Q5_K_S", 16, Dtype::Q5_K, Kind::Plain),
        Self::new("Q5_K_M", 17, Dtype::Q5_K, Kind::Q5KM),
        Self::new("Q6_K", 18, Dtype::Q6_K, Kind::Plain),
        Self::new("IQ4_NL", 25, Dtype::IQ4_NL, Kind::Iq4),
        Self::new("IQ4_XS", 30, Dtype::IQ4_XS, Kind::Iq4),
    ];

    const fn new(name: &'static str, file_type: u32, dtype: Dtype, kind: Kind) -> Self {
        Self { name, dtype, file_type, kind }
    }

    /// The one of this name, in capitals or not.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mix| mix.name.eq_ignore_ascii_case(name))
    }
}

/// What the rules ask about a model.
pub(crate) struct Facts {
    layers: usize,
    /// Query heads that share keys and values.
    group: usize,
    experts: usize,
    /// Llama 2 and 3, and Qwen 2, of 70 billion parameters, by their 80 layers.
    is_70b: bool,
    /// The embedding is the output head too.
    is_tied: bool,
}

impl Facts {
    /// Reads a GGUF file's keys, which are those of a model that was looked through.
    pub(crate) fn read(metadata: &Metadata, is_tied: bool) -> Result<Self, freehold_formats::Error> {
        let architecture = metadata.str("general.architecture")?;
        let number = |key: &str| match metadata.get(&format!("{architecture}.{key}")) {
            // Of the first layer.
            Some(Value::Array(Array::U32(numbers))) => numbers.first().map(|&number| number as usize),
            Some(Value::Array(Array::I32(numbers))) => numbers.first().and_then(|&number| number.try_into().ok()),
            _ => metadata.optional_u32(&format!("{architecture}.{key}")).ok().flatten().map(|number| number as usize),
        };
        let layers = metadata.u32(&format!("{architecture}.block_count"))? as usize;
        let heads = number("attention.head_count").unwrap_or(1);
        let group = heads / number("attention.head_count_kv").unwrap_or(heads).max(1);
        let is_70b = layers == 80 && (architecture == "qwen2" || architecture == "llama" && group > 1);
        Ok(Self { layers, group, experts: number("expert_count").unwrap_or(0), is_70b, is_tied })
    }
}

/// Decides tensor after tensor.
pub(crate) struct Decider<'a> {
    quantization: &'a Quantization<'a>,
    facts: Facts,
    /// Tensors that make values, in order of layers.
    values: Vec<String>,
}

impl<'a> Decider<'a> {
    /// `names` are those of the model's tensors.
    pub(crate) fn new<'n>(
        quantization: &'a Quantization<'a>,
        facts: Facts,
        names: impl Iterator<Item = &'n str>,
    ) -> Self {
        let mut values: Vec<String> = names.filter(|name| makes_values(name)).map(str::to_owned).collect();
        values.sort_by_key(|name| layer(name));
        Self { quantization, facts, values }
    }

    /// The type of a tensor (its shape outermost first); `None` where it stays as it is.
    pub(crate) fn dtype(&self, name: &str, shape: &[usize]) -> Option<Dtype> {
        // Dimensions of 1 outside are none.
        let matrix = shape.len() - shape.iter().take_while(|&&size| size == 1).count() > 1;
        if !matrix || !name.ends_with("weight") || name.contains("_norm.weight") || name.contains("ffn_gate_inp.weight")
        {
            return None;
        }
        let (cols, dtype) = (*shape.last()?, self.quantization.mix.dtype);
        let of_role = || if is_block(dtype) { self.of_role(name, cols) } else { dtype };
        Some(fitting((self.quantization.choice)(name).unwrap_or_else(of_role), cols))
    }

    fn of_role(&self, name: &str, cols: usize) -> Dtype {
        use Kind::{Iq4, Plain, Q2K, Q3KL, Q3KM, Q4KM, Q4KS, Q5KM};
        let Self { quantization, facts, values } = self;
        let Mix { dtype, kind, .. } = quantization.mix;
        let has_importance = quantization.importance.is_some();
        let eight_experts = facts.experts == 8;
        if name == "output.weight" || facts.is_tied && name == "token_embd.weight" {
            let to_bytes = dtype == Dtype::Q8_0 || !cols.is_multiple_of(dtype.block().0);
            return if to_bytes { Dtype::Q8_0 } else { Dtype::Q6_K };
        }
        if makes_values(name) {
            let index = values.iter().position(|known| known == name).unwrap_or(0);
            let dtype = match kind {
                Q2K if facts.group >= 4 => Dtype::Q4_K,
                Q2K => Dtype::Q3_K,
                Q3KM if index < 2 => Dtype::Q5_K,
                Q3KM => Dtype::Q4_K,
                Q3KL => Dtype::Q5_K,
                Iq4 if facts.group >= 4 => Dtype::Q5_K,
                Q4KM | Q5KM if has_more_bits(index, values.len()) => Dtype::Q6_K,
                Q4KS if index < 4 => Dtype::Q5_K,
                _ => dtype,
            };
            return match dtype {
                _ if eight_experts => Dtype::Q8_0,
                Dtype::Q3_K | Dtype::Q4_K if facts.is_70b => Dtype::Q5_K,
                _ => dtype,
            };
        }
        if name.contains("attn_k.weight") && eight_experts {
            return Dtype::Q8_0;
        }
        if name.contains("attn_output.weight") {
            return match kind {
                _ if eight_experts => match dtype {
                    Dtype::Q2_K | Dtype::Q3_K | Dtype::Q4_K | Dtype::IQ4_NL | Dtype::IQ4_XS if kind != Q3KL => {
                        Dtype::Q5_K
                    }
                    _ => dtype,
                },
                Q2K => Dtype::Q3_K,
                Q3KM => Dtype::Q4_K,
                Q3KL => Dtype::Q5_K,
                _ => dtype,
            };
        }
        if name.contains("ffn_down") {
            let (layer, layers) = (layer(name), facts.layers);
            return match kind {
                Q2K => Dtype::Q3_K,
                Q3KM if layer < layers / 16 => Dtype::Q5_K,
                Q3KM => Dtype::Q4_K,
                Q3KL => Dtype::Q5_K,
                Q4KM | Q5KM if has_more_bits(layer, layers) => Dtype::Q6_K,
                Iq4 if has_importance => dtype,
                Iq4 | Q4KS if layer < layers / 8 => Dtype::Q5_K,
                // Even with an importance matrix these are at times far off in the first layers, and the types with minima
                // are so without one.
                Plain if has_importance && layer < layers / 8 => match dtype {
                    Dtype::Q4_0 => Dtype::Q4_1,
                    Dtype::Q5_0 => Dtype::Q5_1,
                    _ => dtype,
                },
                Plain | Q4KM | Q5KM | Iq4 | Q4KS => dtype,
            };
        }
        dtype
    }
}

/// Whether numbers are encoded in blocks.
pub(crate) fn is_block(dtype: Dtype) -> bool {
    dtype.block().0 > 1
}

/// The type itself, or what stands in for it where rows are no whole blocks.
pub(crate) fn fitting(dtype: Dtype, cols: usize) -> Dtype {
    if cols.is_multiple_of(dtype.block().0) {
        return dtype;
    }
    match dtype {
        _ if !cols.is_multiple_of(32) => Dtype::F16,
        Dtype::IQ4_XS => Dtype::IQ4_NL,
        Dtype::Q2_K | Dtype::Q3_K => Dtype::Q4_0,
        Dtype::Q4_K => Dtype::Q5_0,
        Dtype::Q5_K => Dtype::Q5_1,
        _ => Dtype::Q8_0,
    }
}

/// The first and last eighths, and every third in between.
fn has_more_bits(index: usize, count: usize) -> bool {
    index < count / 8 || index >= 7 * count / 8 || (index - count / 8) % 3 == 2
}

fn makes_values(name: &str) -> bool {
    ["attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"].iter().any(|role| name.contains(role))
}

/// The number of a tensor's layer; 0 for those of none.
fn layer(name: &str) -> usize {
    name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()).and_then(|layer| layer.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Decider, Facts, Mix};
    use crate::Quantization;
    use freehold_base::Dtype;
    use freehold_formats::ImportanceMatrix;
    use std::collections::BTreeMap;

    /// What an importance matrix changes in llama.cpp's rules; `cargo xtask parity-quantize` compares all of them.
    #[test]
    fn types_with_an_importance_matrix() {
        let importance = ImportanceMatrix::new(BTreeMap::new(), Vec::new(), 0, 0);
        for (mix, layer, plain, with) in [
            ("q4_0", 1, Dtype::Q4_0, Dtype::Q4_1),
            ("q4_0", 2, Dtype::Q4_0, Dtype::Q4_0),
            ("q5_0", 1, Dtype::Q5_0, Dtype::Q5_1),
            ("q4_1", 1, Dtype::Q4_1, Dtype::Q4_1),
            ("q8_0", 1, Dtype::Q8_0, Dtype::Q8_0),
            ("iq4_xs", 1, Dtype::Q5_K, Dtype::IQ4_XS),
            ("iq4_nl", 1, Dtype::Q5_K, Dtype::IQ4_NL),
            ("iq4_nl", 2, Dtype::IQ4_NL, Dtype::IQ4_NL),
            ("q4_k_s", 1, Dtype::Q5_K, Dtype::Q5_K),
            ("q2_k", 1, Dtype::Q3_K, Dtype::Q3_K),
        ] {
            for (importance, expected) in [(None, plain), (Some(&importance), with)] {
                let mix = Mix::named(mix).unwrap();
                let quantization = Quantization { mix, choice: &|_| None, importance, requantize: false };
                let facts = Facts { layers: 16, group: 1, experts: 0, is_70b: false, is_tied: false };
                let decider = Decider::new(&quantization, facts, [].into_iter());
                let found = decider.dtype(&format!("blk.{layer}.ffn_down.weight"), &[256, 512]);
                assert_eq!(found, Some(expected), "{}, layer {layer}", mix.name);
            }
        }
    }
}

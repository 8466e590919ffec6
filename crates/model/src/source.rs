//! One view of a checkpoint for all architectures: hyper-parameters and tensors under GGUF's names, whether the file is
//! a GGUF or a Hugging Face folder.

use crate::Error;
use freehold_formats::{Checkpoint, RopeLayers, RopeParameters, RopeScaling as Scaling, TensorView};
use freehold_kernels::{Compute, Matrix, RopeFrequencies, RopeScaling};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Tensors of the whole model: (GGUF, Hugging Face).
const GLOBAL_NAMES: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Tensors of a layer: (GGUF after `blk.N.`, Hugging Face after `model.layers.N.`).
const LAYER_NAMES: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// GGUF's tensor of factors by which rope's frequencies are divided (Llama 3 and others).
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// A checkpoint being loaded.
pub(crate) struct Source<'a> {
    checkpoint: &'a Checkpoint,
    pub(crate) compute: &'a Compute,
    used: RefCell<BTreeSet<String>>,
    progress: RefCell<&'a mut dyn FnMut(u64)>,
}

/// A tensor's place: of the whole model or of one layer.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Model,
    Layer(usize),
}

impl<'a> Source<'a> {
    /// `progress` is told the bytes of each tensor loaded.
    pub(crate) fn new(checkpoint: &'a Checkpoint, compute: &'a Compute, progress: &'a mut dyn FnMut(u64)) -> Self {
        Self { checkpoint, compute, used: RefCell::default(), progress: RefCell::new(progress) }
    }

    /// Whether it is a GGUF; otherwise a Hugging Face folder.
    pub(crate) fn is_gguf(&self) -> bool {
        matches!(self.checkpoint, Checkpoint::Gguf(_))
    }

    /// The architecture: GGUF's `general.architecture`, Hugging Face's `model_type`.
    pub(crate) fn architecture(&self) -> Result<String, Error> {
        Ok(match self.checkpoint {
            Checkpoint::Gguf(gguf) => gguf.metadata().str("general.architecture")?.to_owned(),
            Checkpoint::HuggingFace(folder) => folder.config().str("model_type")?.to_owned(),
        })
    }

    /// The full key under which GGUF keeps a parameter of this architecture.
    fn gguf_key(&self, key: &str) -> Result<String, Error> {
        Ok(format!("{}.{key}", self.architecture()?))
    }

    /// A count between 1 and `max`, under GGUF's and Hugging Face's name for it; `None` where it is absent.
    pub(crate) fn optional_count(&self, gguf: &str, hf: &str, max: usize) -> Result<Option<usize>, Error> {
        let (key, value) = match self.checkpoint {
            Checkpoint::Gguf(file) => {
                let key = self.gguf_key(gguf)?;
                let value = file.metadata().optional_u64(&key)?;
                (key, value)
            }
            Checkpoint::HuggingFace(folder) => (hf.to_owned(), folder.config().optional_u64(hf)?),
        };
        match value.map(usize::try_from) {
            None => Ok(None),
            Some(Ok(count)) if (1..=max).contains(&count) => Ok(Some(count)),
            Some(_) => Err(Error::Parameter { key, problem: format!("is not between 1 and {max}") }),
        }
    }

    /// A count that must be there.
    pub(crate) fn count(&self, gguf: &str, hf: &str, max: usize) -> Result<usize, Error> {
        self.optional_count(gguf, hf, max)?.ok_or_else(|| Error::Parameter {
            key: if self.is_gguf() { gguf.to_owned() } else { hf.to_owned() },
            problem: "is missing".to_owned(),
        })
    }

    /// A small positive number, as the epsilon of a norm.
    pub(crate) fn epsilon(&self, gguf: &str, hf: &str) -> Result<f32, Error> {
        let (key, value) = match self.checkpoint {
            Checkpoint::Gguf(file) => {
                let key = self.gguf_key(gguf)?;
                let value = file.metadata().f32(&key)?;
                (key, value)
            }
            Checkpoint::HuggingFace(folder) => (hf.to_owned(), folder.config().f64(hf)? as f32),
        };
        if value > 0.0 && value < 1.0 {
            return Ok(value);
        }
        Err(Error::Parameter { key, problem: format!("is {value}, not a small positive number") })
    }

    /// Refuses a Hugging Face setting with any other value than the one that is implemented; absent is fine.
    pub(crate) fn require_text(&self, hf: &str, expected: &str) -> Result<(), Error> {
        let Checkpoint::HuggingFace(folder) = self.checkpoint else { return Ok(()) };
        match folder.config().optional_str(hf)? {
            Some(found) if found != expected => Err(Error::Parameter {
                key: hf.to_owned(),
                problem: format!("is `{found}`; only `{expected}` is supported"),
            }),
            _ => Ok(()),
        }
    }

    /// The window of each layer, from Hugging Face's `sliding_window` and `layer_types`. GGUF files of these
    /// architectures have none.
    pub(crate) fn windows(&self, layers: usize) -> Result<Vec<Option<usize>>, Error> {
        let Checkpoint::HuggingFace(folder) = self.checkpoint else { return Ok(vec![None; layers]) };
        let config = folder.config();
        let enabled = config.optional_bool("use_sliding_window")?.unwrap_or(true);
        let window = self.optional_count("", "sliding_window", usize::MAX)?.filter(|_| enabled);
        let bad = |problem: String| Error::Parameter { key: "layer_types".to_owned(), problem };
        let Some(types) = config.get("layer_types") else {
            // Before `layer_types`, qwen2 and qwen3 had full attention below `max_window_layers`.
            let full = self.optional_full_layers(layers)?;
            return Ok((0..layers).map(|layer| window.filter(|_| layer >= full)).collect());
        };
        let types = types.as_array().map_or(&[][..], Vec::as_slice);
        if types.len() != layers {
            return Err(bad(format!("has {} entries for {layers} layers", types.len())));
        }
        let of_type = |kind: &serde_json::Value| match (kind.as_str(), window) {
            (Some("full_attention"), _) => Ok(None),
            (Some("sliding_attention"), Some(window)) => Ok(Some(window)),
            _ => Err(bad("has an entry that is not supported".to_owned())),
        };
        types.iter().map(of_type).collect()
    }

    fn optional_full_layers(&self, layers: usize) -> Result<usize, Error> {
        let Checkpoint::HuggingFace(folder) = self.checkpoint else { return Ok(0) };
        let full = folder.config().optional_u64("max_window_layers")?.unwrap_or(0);
        Ok(usize::try_from(full).unwrap_or(layers).min(layers))
    }

    /// Rope's frequencies for heads of `head_dim`.
    pub(crate) fn rope(&self, head_dim: usize) -> Result<RopeFrequencies, Error> {
        let parameters = match self.checkpoint {
            Checkpoint::Gguf(file) => {
                RopeParameters::from_metadata(file.metadata(), &self.architecture()?, RopeLayers::All)?
            }
            Checkpoint::HuggingFace(folder) => RopeParameters::from_config(folder.config(), RopeLayers::All)?,
        };
        let rotary_dim = match self.optional_count("rope.dimension_count", "rotary_dim", head_dim)? {
            Some(dim) => dim,
            None => (head_dim as f64 * parameters.partial_rotary_factor) as usize,
        };
        let scaling = match parameters.scaling {
            Scaling::Default => RopeScaling::None,
            Scaling::Linear { factor } => RopeScaling::Linear { factor },
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                RopeScaling::Llama3 {
                    factor,
                    low_frequency_factor: low_freq_factor,
                    high_frequency_factor: high_freq_factor,
                    original_context: original_max_position_embeddings as f64,
                }
            }
            Scaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                attention_factor,
                mscale,
                mscale_all_dim,
                truncate,
            } => RopeScaling::Yarn {
                factor,
                original_context: original_max_position_embeddings as f64,
                beta_fast,
                beta_slow,
                truncate,
                attention_factor,
                mscale,
                mscale_all_dim,
            },
            Scaling::LongRope {
                short_factor,
                long_factor,
                factor,
                original_max_position_embeddings,
                attention_factor,
            } => {
                let context = self.count("context_length", "max_position_embeddings", usize::MAX)?;
                let long = context as u64 > original_max_position_embeddings;
                RopeScaling::LongRope {
                    factors: (if long { long_factor } else { short_factor }).iter().map(|&f| f as f32).collect(),
                    factor,
                    original_context: original_max_position_embeddings as f64,
                    attention_factor,
                }
            }
        };
        let scaling = match self.checkpoint.tensor(ROPE_FACTORS) {
            Some(tensor) => RopeScaling::Factors(self.numbers(&tensor, rotary_dim / 2)?),
            None => scaling,
        };
        Ok(RopeFrequencies::new(parameters.theta, rotary_dim, &scaling)?)
    }

    /// The file's name of a tensor's part (`weight` or `bias`).
    fn name(&self, place: Place, name: &str, part: &str) -> String {
        let translate = |names: &[(&str, &'static str)]| {
            names.iter().find(|(gguf, _)| *gguf == name).expect("every name has its translation").1
        };
        match (place, self.is_gguf()) {
            (Place::Model, true) => format!("{name}.{part}"),
            (Place::Layer(layer), true) => format!("blk.{layer}.{name}.{part}"),
            (Place::Model, false) => format!("{}.{part}", translate(&GLOBAL_NAMES)),
            (Place::Layer(layer), false) => format!("model.layers.{layer}.{}.{part}", translate(&LAYER_NAMES)),
        }
    }

    fn find(&self, place: Place, name: &str, part: &str) -> Option<TensorView<'a>> {
        let tensor = self.checkpoint.tensor(&self.name(place, name, part))?;
        self.used.borrow_mut().insert(tensor.name.to_owned());
        (self.progress.borrow_mut())(tensor.bytes.len() as u64);
        Some(tensor)
    }

    /// Whether the file has this tensor.
    pub(crate) fn has(&self, place: Place, name: &str, part: &str) -> bool {
        self.checkpoint.tensor(&self.name(place, name, part)).is_some()
    }

    /// The rows of a weight matrix, before its shape is known.
    pub(crate) fn rows(&self, place: Place, name: &str) -> Result<usize, Error> {
        let full_name = self.name(place, name, "weight");
        let tensor = self.checkpoint.tensor(&full_name).ok_or(Error::MissingTensor(full_name))?;
        let rows = tensor.shape.first().copied().unwrap_or(0);
        usize::try_from(rows).map_err(|_| wrong_shape(&tensor, &[0, 0]))
    }

    /// A weight matrix of `rows` × `cols`, packed.
    pub(crate) fn matrix(&self, place: Place, name: &str, rows: usize, cols: usize) -> Result<Matrix, Error> {
        let missing = || Error::MissingTensor(self.name(place, name, "weight"));
        let tensor = self.find(place, name, "weight").ok_or_else(missing)?;
        if tensor.shape != [rows as u64, cols as u64] {
            return Err(wrong_shape(&tensor, &[rows as u64, cols as u64]));
        }
        Matrix::pack(tensor.dtype, rows, cols, tensor.bytes, self.compute.pool()).map_err(|source| Error::Tensor {
            name: tensor.name.to_owned(),
            dtype: tensor.dtype,
            source,
        })
    }

    /// A vector of `length` numbers as f32.
    pub(crate) fn vector(&self, place: Place, name: &str, length: usize) -> Result<Vec<f32>, Error> {
        let missing = || Error::MissingTensor(self.name(place, name, "weight"));
        self.numbers(&self.find(place, name, "weight").ok_or_else(missing)?, length)
    }

    /// The bias of a projection, where there is one.
    pub(crate) fn bias(&self, place: Place, name: &str, length: usize) -> Result<Option<Vec<f32>>, Error> {
        self.find(place, name, "bias").map(|tensor| self.numbers(&tensor, length)).transpose()
    }

    fn numbers(&self, tensor: &TensorView<'_>, length: usize) -> Result<Vec<f32>, Error> {
        if tensor.shape != [length as u64] {
            return Err(wrong_shape(tensor, &[length as u64]));
        }
        let row = Matrix::pack(tensor.dtype, 1, length, tensor.bytes, self.compute.pool())
            .map_err(|source| Error::Tensor { name: tensor.name.to_owned(), dtype: tensor.dtype, source })?;
        let mut numbers = vec![0.0; length];
        row.dequantize_row(0, &mut numbers);
        Ok(numbers)
    }

    /// Whether the configuration says that the embedding is the output head. GGUF says it by leaving the head out.
    pub(crate) fn is_tied(&self) -> Result<bool, Error> {
        match self.checkpoint {
            Checkpoint::Gguf(_) => Ok(false),
            Checkpoint::HuggingFace(folder) => {
                Ok(folder.config().optional_bool("tie_word_embeddings")?.unwrap_or(false))
            }
        }
    }

    /// Refuses a checkpoint that holds more than was used: what it asks for is not what would be computed.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let used = self.used.into_inner();
        let known = |name: &str| {
            used.contains(name)
                || name == ROPE_FACTORS
                // Stored beside a tied embedding by some tools, equal to it.
                || name == "lm_head.weight"
                // A table derived from the configuration, stored by old versions of transformers.
                || name.ends_with("rotary_emb.inv_freq")
        };
        match self.checkpoint.tensors().find(|tensor| !known(tensor.name)) {
            Some(tensor) => Err(Error::UnusedTensor(tensor.name.to_owned())),
            None => Ok(()),
        }
    }
}

fn wrong_shape(tensor: &TensorView<'_>, expected: &[u64]) -> Error {
    Error::WrongShape { name: tensor.name.to_owned(), found: tensor.shape.to_vec(), expected: expected.to_vec() }
}

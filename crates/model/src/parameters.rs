//! A checkpoint's hyper-parameters for all architectures, under GGUF's and Hugging Face's keys.

use crate::Error;
use crate::source::{Place, Source};
use freehold_formats::{Array, Checkpoint, RopeLayers, RopeParameters, RopeScaling as Scaling, Value};
use freehold_kernels::{RopeFrequencies, RopeScaling};

impl Source<'_> {
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

    /// Notes a parameter under GGUF's key of it, where a GGUF file is to be written. `None` is what GGUF has no key for.
    pub(crate) fn note_key<'k>(&self, key: impl Into<Option<&'k str>>, value: impl FnOnce() -> Value) {
        if let (Some(notes), Some(key)) = (&self.notes, key.into()) {
            notes.borrow_mut().key(key, value());
        }
    }

    /// The same for a count. Whoever reads GGUF expects 32 bits of one.
    pub(crate) fn note_count<'k>(&self, key: impl Into<Option<&'k str>>, count: usize) -> Result<(), Error> {
        let Some(key) = key.into().filter(|_| self.notes.is_some()) else { return Ok(()) };
        let problem = || Error::Parameter { key: key.to_owned(), problem: format!("is {count}, beyond 32 bits") };
        let count = u32::try_from(count).map_err(|_| problem())?;
        self.note_key(key, || Value::U32(count));
        Ok(())
    }

    /// The full key of a parameter in this file, of GGUF's and Hugging Face's names for it; `None` where its form has none.
    fn key(&self, gguf: Option<&str>, hf: Option<&str>) -> Result<Option<String>, Error> {
        match self.checkpoint {
            Checkpoint::Gguf(_) => gguf.map(|key| self.gguf_key(key)).transpose(),
            Checkpoint::HuggingFace(_) => Ok(hf.map(str::to_owned)),
        }
    }

    /// A count between 1 and `max`, under GGUF's and Hugging Face's name for it; `None` where it is absent.
    pub(crate) fn optional_count<'k>(
        &self,
        gguf: impl Into<Option<&'k str>>,
        hf: impl Into<Option<&'k str>>,
        max: usize,
    ) -> Result<Option<usize>, Error> {
        let gguf = gguf.into();
        let Some(key) = self.key(gguf, hf.into())? else { return Ok(None) };
        let value = match self.checkpoint {
            Checkpoint::Gguf(file) => file.metadata().optional_u64(&key)?,
            Checkpoint::HuggingFace(folder) => folder.config().optional_u64(&key)?,
        };
        match value.map(usize::try_from) {
            None => Ok(None),
            Some(Ok(count)) if (1..=max).contains(&count) => {
                self.note_count(gguf, count)?;
                Ok(Some(count))
            }
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
            self.note_key(gguf, || Value::F32(value));
            return Ok(value);
        }
        Err(Error::Parameter { key, problem: format!("is {value}, not a small positive number") })
    }

    /// A number above 0, under GGUF's and Hugging Face's name for it; `None` where it is absent. It is no subnormal one, whose
    /// reciprocal could be infinite.
    pub(crate) fn optional_number<'k>(
        &self,
        gguf: impl Into<Option<&'k str>>,
        hf: impl Into<Option<&'k str>>,
    ) -> Result<Option<f32>, Error> {
        let gguf = gguf.into();
        let Some(key) = self.key(gguf, hf.into())? else { return Ok(None) };
        let value = match self.checkpoint {
            Checkpoint::Gguf(file) => file.metadata().optional_f32(&key)?,
            Checkpoint::HuggingFace(folder) => folder.config().optional_f64(&key)?.map(|value| value as f32),
        };
        match value {
            Some(value) if !(value > 0.0 && value.is_normal()) => {
                let problem = format!("is {value}, not a number above 0 that can be divided by");
                Err(Error::Parameter { key, problem })
            }
            Some(value) => {
                self.note_key(gguf, || Value::F32(value));
                Ok(Some(value))
            }
            None => Ok(None),
        }
    }

    /// Whether Hugging Face's configuration has this setting.
    pub(crate) fn has_setting(&self, hf: &str) -> bool {
        matches!(self.checkpoint, Checkpoint::HuggingFace(folder) if folder.config().get(hf).is_some())
    }

    /// Hugging Face's setting of this name, if it is there; GGUF files have none of these.
    pub(crate) fn optional_bool(&self, hf: &str) -> Result<Option<bool>, Error> {
        match self.checkpoint {
            Checkpoint::Gguf(_) => Ok(None),
            Checkpoint::HuggingFace(folder) => Ok(folder.config().optional_bool(hf)?),
        }
    }

    /// Refuses a Hugging Face configuration in which a setting is there and is not what is implemented.
    pub(crate) fn refuse_unless(
        &self,
        hf: &str,
        supported: &str,
        is_supported: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<(), Error> {
        let Checkpoint::HuggingFace(folder) = self.checkpoint else { return Ok(()) };
        let Some(value) = folder.config().get(hf).filter(|value| !is_supported(value)) else { return Ok(()) };
        let found = if value.is_array() || value.is_object() { "something else".to_owned() } else { value.to_string() };
        let problem = format!("is {found}; only {supported} is supported");
        Err(Error::Parameter { key: hf.to_owned(), problem })
    }

    /// The window of each layer. `full_every`: in files that do not list the kinds of layers, those whose number, counted
    /// from 1, is a multiple of it attend to everything; where it is missing, none does.
    pub(crate) fn windows(&self, layers: usize, full_every: Option<usize>) -> Result<Vec<Option<usize>>, Error> {
        let spread = |window: usize, full_every: Option<usize>| {
            let is_full = |layer: usize| full_every.is_some_and(|every| (layer + 1).is_multiple_of(every));
            (0..layers).map(|layer| (!is_full(layer)).then_some(window)).collect()
        };
        match self.checkpoint {
            Checkpoint::Gguf(file) => {
                let metadata = file.metadata();
                let window = metadata.optional_u64(&self.gguf_key("attention.sliding_window")?)?.unwrap_or(0);
                let window = usize::try_from(window).unwrap_or(usize::MAX);
                if window == 0 {
                    return Ok(vec![None; layers]);
                }
                let key = self.gguf_key("attention.sliding_window_pattern")?;
                match metadata.get(&key) {
                    Some(Value::Array(Array::Bool(windowed))) if windowed.len() == layers => {
                        Ok(windowed.iter().map(|&windowed| windowed.then_some(window)).collect())
                    }
                    Some(Value::Array(_)) => {
                        let problem = format!("is no list of {layers} truths, one per layer");
                        Err(Error::Parameter { key, problem })
                    }
                    Some(_) => {
                        Ok(spread(window, self.optional_count("attention.sliding_window_pattern", None, 1 << 10)?))
                    }
                    None => Ok(spread(window, full_every)),
                }
            }
            Checkpoint::HuggingFace(folder) => {
                let windows = self
                    .windows_of_config(folder.config(), layers, |window, every| spread(window, every.or(full_every)))?;
                if let Some(&window) = windows.iter().flatten().next() {
                    self.note_count("attention.sliding_window", window)?;
                    let windowed = windows.iter().map(Option::is_some).collect();
                    self.note_key("attention.sliding_window_pattern", || Value::Array(Array::Bool(windowed)));
                }
                Ok(windows)
            }
        }
    }

    /// The same of a Hugging Face configuration. `spread` gives all but every so many layers a window.
    fn windows_of_config(
        &self,
        config: &freehold_formats::Config,
        layers: usize,
        spread: impl FnOnce(usize, Option<usize>) -> Vec<Option<usize>>,
    ) -> Result<Vec<Option<usize>>, Error> {
        let window = config.optional_u64("sliding_window")?.filter(|&window| window > 0);
        let window = window.map(|window| usize::try_from(window).unwrap_or(usize::MAX));
        if let Some(types) = config.get("layer_types") {
            return windows_of_types(types, layers, window);
        }
        let Some(window) = window else { return Ok(vec![None; layers]) };
        if let Some(full) = config.optional_u64("max_window_layers")? {
            // Before `layer_types`, qwen2 and qwen3 had full attention below `max_window_layers`.
            return Ok((0..layers).map(|layer| (layer as u64 >= full).then_some(window)).collect());
        }
        Ok(spread(window, self.optional_count(None, "sliding_window_pattern", 1 << 10)?))
    }

    /// Which layers rotate q and k, by SmolLM3's settings. GGUF files have none: there all but every fourth do.
    pub(crate) fn layers_with_rope(&self, layers: usize) -> Result<Vec<bool>, Error> {
        let Checkpoint::HuggingFace(folder) = self.checkpoint else {
            return Ok((1..=layers).map(|layer| !layer.is_multiple_of(4)).collect());
        };
        let Some(list) = folder.config().get("no_rope_layers") else {
            let interval = self.optional_count(None, "no_rope_layer_interval", 1 << 10)?.unwrap_or(4);
            return Ok((1..=layers).map(|layer| !layer.is_multiple_of(interval)).collect());
        };
        // The name says the opposite of what the entries mean.
        let truths = list.as_array().map(|list| list.iter().filter_map(serde_json::Value::as_u64).collect::<Vec<_>>());
        match truths {
            Some(truths) if truths.len() == layers => Ok(truths.into_iter().map(|truth| truth != 0).collect()),
            _ => Err(Error::Parameter {
                key: "no_rope_layers".to_owned(),
                problem: format!("is no list of {layers} numbers, one per layer"),
            }),
        }
    }

    /// Rope's frequencies for heads of `head_dim`.
    pub(crate) fn rope(&self, head_dim: usize, layers: RopeLayers) -> Result<RopeFrequencies, Error> {
        self.rope_frequencies(head_dim, &self.rope_parameters(layers)?)
    }

    /// What the file says of rope.
    pub(crate) fn rope_parameters(&self, layers: RopeLayers) -> Result<RopeParameters, Error> {
        Ok(match self.checkpoint {
            Checkpoint::Gguf(file) => RopeParameters::from_metadata(file.metadata(), &self.architecture()?, layers)?,
            Checkpoint::HuggingFace(folder) => {
                let parameters = RopeParameters::from_config(folder.config(), layers)?;
                for (key, value) in parameters.gguf_keys(layers) {
                    self.note_key(key, || value);
                }
                parameters
            }
        })
    }

    /// The frequencies that follow from it, and from the tensors that a GGUF file has for them.
    pub(crate) fn rope_frequencies(
        &self,
        head_dim: usize,
        parameters: &RopeParameters,
    ) -> Result<RopeFrequencies, Error> {
        let rotary_dim = match self.optional_count("rope.dimension_count", "rotary_dim", head_dim)? {
            Some(dim) => dim,
            None => (head_dim as f64 * parameters.partial_rotary_factor) as usize,
        };
        let scaling = match self.rope_factors(rotary_dim / 2, &parameters.scaling)? {
            Some(scaling) => scaling,
            None => self.rope_scaling(&parameters.scaling)?,
        };
        let frequencies = RopeFrequencies::new(parameters.theta, rotary_dim, &scaling)?;
        if self.notes.is_some() {
            self.note_rope(parameters, &frequencies)?;
        }
        Ok(frequencies)
    }

    /// Notes what GGUF has of the frequencies besides the parameters.
    fn note_rope(&self, parameters: &RopeParameters, frequencies: &RopeFrequencies) -> Result<(), Error> {
        self.note_count("rope.dimension_count", 2 * frequencies.pairs())?;
        let attention_factor = || Value::F32(frequencies.attention_factor());
        match &parameters.scaling {
            Scaling::Llama3 { .. } => {
                let plain = RopeFrequencies::new(parameters.theta, 2 * frequencies.pairs(), &RopeScaling::None)?;
                let pairs = plain.inverse().iter().zip(frequencies.inverse());
                let factor = |(&plain, &scaled): (&f32, &f32)| (f64::from(plain) / f64::from(scaled)) as f32;
                self.note_numbers("rope_freqs.weight", &pairs.map(factor).collect::<Vec<_>>());
            }
            Scaling::Default
            | Scaling::Linear { .. }
            | Scaling::Yarn { attention_factor: None, mscale: None, mscale_all_dim: None, .. } => {}
            Scaling::Yarn { .. } => self.note_key("rope.scaling.yarn_attn_factor", attention_factor),
            Scaling::LongRope { short_factor, long_factor, .. } => {
                for (name, factors) in [("short", short_factor), ("long", long_factor)] {
                    let factors: Vec<f32> = factors.iter().map(|&factor| factor as f32).collect();
                    self.note_numbers(&format!("rope_factors_{name}.weight"), &factors);
                }
                self.note_key("rope.scaling.attn_factor", attention_factor);
            }
        }
        Ok(())
    }

    /// The scaling that is written down as tensors, for `pairs` rotated pairs.
    fn rope_factors(&self, pairs: usize, scaling: &Scaling) -> Result<Option<RopeScaling>, Error> {
        let Checkpoint::Gguf(file) = self.checkpoint else { return Ok(None) };
        // Llama 3's.
        if let Some(tensor) = self.find("rope_freqs.weight") {
            if matches!(scaling, Scaling::Llama3 { .. }) {
                // The file also says what they were made from, which is not rounded.
                return Ok(None);
            }
            return Ok(Some(RopeScaling::Factors(self.numbers(&tensor, &[pairs])?)));
        }
        let Some(long) = self.find("rope_factors_long.weight") else { return Ok(None) };
        let short = self.require("rope_factors_short.weight", &[pairs])?;
        let original = file.metadata().u64(&self.gguf_key("rope.scaling.original_context_length")?)?;
        let factors = if self.reaches_beyond(original)? { long } else { short };
        let attention_factor = self.optional_number("rope.scaling.attn_factor", None)?;
        Ok(Some(RopeScaling::LongRope {
            factors: self.numbers(&factors, &[pairs])?,
            factor: 1.0,
            original_context: original as f64,
            attention_factor: Some(f64::from(attention_factor.unwrap_or(1.0))),
        }))
    }

    /// Whether the model's context is longer than `original`: LongRoPE's factors are chosen by it, once for the model.
    fn reaches_beyond(&self, original: u64) -> Result<bool, Error> {
        Ok(self.count("context_length", "max_position_embeddings", usize::MAX)? as u64 > original)
    }

    fn rope_scaling(&self, scaling: &Scaling) -> Result<RopeScaling, Error> {
        Ok(match *scaling {
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
                attention_multiplier,
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
                attention_multiplier,
                mscale,
                mscale_all_dim,
            },
            Scaling::LongRope {
                ref short_factor,
                ref long_factor,
                factor,
                original_max_position_embeddings: original,
                attention_factor,
            } => {
                let factors = if self.reaches_beyond(original)? { long_factor } else { short_factor };
                RopeScaling::LongRope {
                    factors: factors.iter().map(|&factor| factor as f32).collect(),
                    factor,
                    original_context: original as f64,
                    attention_factor,
                }
            }
        })
    }

    /// Whether the output head has weights of its own; otherwise the embedding serves. GGUF says it by leaving the head out,
    /// as llama.cpp reads it. Where a configuration ties them, transformers still takes a head that is in the file and is
    /// another one.
    pub(crate) fn has_head(&self) -> Result<bool, Error> {
        let Checkpoint::HuggingFace(folder) = self.checkpoint else { return Ok(self.has(Place::Model, "output")) };
        let tied = folder.config().optional_bool("tie_word_embeddings")?.unwrap_or(self.conventions.tied);
        Ok(!tied || self.differ(Place::Model, "output", "token_embd"))
    }
}

/// The windows of layers whose kinds are listed in `layer_types`.
fn windows_of_types(
    types: &serde_json::Value,
    layers: usize,
    window: Option<usize>,
) -> Result<Vec<Option<usize>>, Error> {
    let bad = |problem: String| Error::Parameter { key: "layer_types".to_owned(), problem };
    let types = types.as_array().map_or(&[][..], Vec::as_slice);
    if types.len() != layers {
        return Err(bad(format!("has {} entries for {layers} layers", types.len())));
    }
    let of_type = |kind: &serde_json::Value| match (kind.as_str(), window) {
        (Some("full_attention"), _) => Ok(None),
        (Some("sliding_attention"), Some(window)) => Ok(Some(window)),
        (Some("sliding_attention"), None) => Err(Error::Parameter {
            key: "sliding_window".to_owned(),
            problem: "is missing, and `layer_types` has layers with a window".to_owned(),
        }),
        _ => Err(bad("has an entry that is not supported".to_owned())),
    };
    types.iter().map(of_type).collect()
}

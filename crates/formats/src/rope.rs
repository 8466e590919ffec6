//! How a model rotates queries and keys by their position, normalised over the ways it is written down.

use crate::error::{Error, Result, shown};
use crate::hugging_face::Config;
use crate::metadata::{Metadata, Value};

/// What both transformers' configurations and llama.cpp take where a file gives no base frequency.
const THETA_DEFAULT: f64 = 10_000.0;
/// "YaRN: Efficient Context Window Extension of Large Language Models" (Peng et al., 2023), section 3.2: α and β for
/// the Llama family, which every implementation took over as defaults.
const YARN_BETA_SLOW_DEFAULT: f64 = 1.0;
const YARN_BETA_FAST_DEFAULT: f64 = 32.0;

const FACTOR: &str = "rope.scaling.factor";
const ORIGINAL: &str = "rope.scaling.original_context_length";
/// Of our own: GGUF has Llama 3's scaling only as the factors that follow from it, rounded, which do not give the same
/// frequencies to the bit.
const LLAMA3_FACTOR: &str = "rope.llama3.factor";
const LLAMA3_LOW: &str = "rope.llama3.low_freq_factor";
const LLAMA3_HIGH: &str = "rope.llama3.high_freq_factor";
const LLAMA3_ORIGINAL: &str = "rope.llama3.original_context_length";

/// Rotary position embedding ("RoFormer", Su et al., 2021) with the scaling of its frequencies. Every number is finite,
/// and positive where not said otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeParameters {
    /// The base of the frequencies: pair `i` of `d` rotated numbers turns by `theta^(-2i/d)` per position.
    pub theta: f64,
    /// How the frequencies are changed for contexts longer than those first trained on.
    pub scaling: RopeScaling,
    /// The part of each head that is rotated, above 0 and at most 1.
    pub partial_rotary_factor: f64,
}

/// How rotary frequencies are scaled.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// They are not. A GGUF of a model with [`RopeScaling::Llama3`] or [`RopeScaling::LongRope`] says this as well, and has
    /// the factors by which frequencies are divided as tensors: `rope_freqs.weight`, or `rope_factors_long.weight` and
    /// `rope_factors_short.weight`. Files that Freehold wrote say [`RopeScaling::Llama3`] too, under keys of its own.
    Default,
    /// Every frequency is divided by `factor` ("Extending Context Window of Large Language Models via Positional
    /// Interpolation", Chen et al., 2023).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Low frequencies are divided by `factor`, high ones kept, those between interpolated (Llama 3.1).
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are high frequencies. Greater than
        /// `low_freq_factor`.
        high_freq_factor: f64,
        /// The context first trained on, in tokens.
        original_max_position_embeddings: u64,
    },
    /// "YaRN" (Peng et al., 2023).
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// The context first trained on, in tokens.
        original_max_position_embeddings: u64,
        /// Dimensions that turn more often than this over the original context are kept.
        beta_fast: f64,
        /// Dimensions that turn less often than this over the original context are divided by `factor`.
        beta_slow: f64,
        /// By what queries and keys are multiplied; `None`: derived from `factor` and the two numbers below.
        attention_factor: Option<f64>,
        /// By what the derived attention factor is multiplied; 1 but in some GGUF files.
        attention_multiplier: f64,
        /// DeepSeek's weights of the derived attention factor. Not negative.
        mscale: Option<f64>,
        /// See `mscale`.
        mscale_all_dim: Option<f64>,
        /// Whether the bounds between kept and divided dimensions are rounded to whole dimensions.
        truncate: bool,
    },
    /// "LongRoPE" (Ding et al., 2024): each frequency is divided by a factor of its own.
    LongRope {
        /// The factors for contexts up to the original one.
        short_factor: Vec<f64>,
        /// The factors for longer ones.
        long_factor: Vec<f64>,
        /// The longest context over the original one.
        factor: f64,
        /// The context first trained on, in tokens.
        original_max_position_embeddings: u64,
        /// By what queries and keys are multiplied; `None`: derived from `factor`.
        attention_factor: Option<f64>,
    },
}

/// Which layers of a model the parameters are wanted for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeLayers {
    /// All of them: a model that has parameters for kinds of layers is refused.
    All,
    /// Those that attend to everything, in a model whose other layers have a window and parameters of their own.
    Full,
    /// Those with a window, in such a model. Their frequencies are not scaled unless the file says so.
    Windowed {
        /// Their base where the file names none; `None`: that of the full layers.
        theta_default: Option<f64>,
    },
}

impl RopeParameters {
    /// From `config.json`, in the style of transformers 5 (`rope_parameters`) or the one before (`rope_theta` and
    /// `rope_scaling` with `rope_type` or `type`). A missing `rope_theta` is 10,000, as in the configuration classes of
    /// Llama, Mistral and Qwen. Parameters for kinds of layers are objects under the kind's name, or, in the older style,
    /// `rope_local_base_freq`.
    ///
    /// # Errors
    /// [`Error::HuggingFace`] where a number is missing or out of range, or the kind of scaling is not supported.
    pub fn from_config(config: &Config, layers: RopeLayers) -> Result<Self> {
        let mut scaling = match config.optional_object("rope_parameters")? {
            Some(parameters) => Some(parameters),
            None => config.optional_object("rope_scaling")?,
        };
        let kind = match layers {
            RopeLayers::All => None,
            RopeLayers::Full => Some("full_attention"),
            RopeLayers::Windowed { .. } => Some("sliding_attention"),
        };
        let own = match (&scaling, kind) {
            (Some(scaling), Some(kind)) => scaling.optional_object(kind)?,
            _ => None,
        };
        if let (None, RopeLayers::Windowed { theta_default }) = (&own, layers) {
            let theta = match positive(config, "rope_local_base_freq")?.or(theta_default) {
                Some(theta) => theta,
                None => Self::from_config(config, RopeLayers::Full)?.theta,
            };
            let partial_rotary_factor = Self::from_config(config, RopeLayers::Full)?.partial_rotary_factor;
            return Ok(Self { theta, scaling: RopeScaling::Default, partial_rotary_factor });
        }
        scaling = own.or(scaling);
        // Either style may leave a number where the other has it.
        let number = |key: &str| -> Result<Option<f64>> {
            match scaling.as_ref().map(|scaling| positive(scaling, key)).transpose()?.flatten() {
                Some(number) => Ok(Some(number)),
                None => positive(config, key),
            }
        };
        let partial_rotary_factor = number("partial_rotary_factor")?.unwrap_or(1.0);
        if partial_rotary_factor > 1.0 {
            return Err(config.error("partial_rotary_factor", format!("it is {partial_rotary_factor}, more than 1")));
        }
        Ok(Self {
            theta: number("rope_theta")?.unwrap_or(THETA_DEFAULT),
            scaling: match &scaling {
                Some(scaling) => scaling_of(config, scaling)?,
                None => RopeScaling::Default,
            },
            partial_rotary_factor,
        })
    }

    /// From the keys `{architecture}.rope.…` of a GGUF file.
    ///
    /// # Errors
    /// [`Error::Gguf`] where a number is missing or out of range, or the kind of scaling is not supported.
    pub fn from_metadata(metadata: &Metadata, architecture: &str, layers: RopeLayers) -> Result<Self> {
        let keys = Keys { metadata, architecture };
        let theta = keys.positive("rope.freq_base")?.unwrap_or(THETA_DEFAULT);
        let (theta, scaling) = match layers {
            RopeLayers::All | RopeLayers::Full => (theta, keys.scaling()?),
            RopeLayers::Windowed { theta_default } => {
                let own = keys.positive("rope.freq_base_swa")?.or(theta_default);
                (own.unwrap_or(theta), RopeScaling::Default)
            }
        };
        Ok(Self { theta, scaling, partial_rotary_factor: keys.partial_rotary_factor()? })
    }
}

impl RopeParameters {
    /// The keys of a GGUF file that say the same to [`Self::from_metadata`], without the architecture in front, as far as
    /// they are no numbers of a model's own: factors of frequencies are tensors, and a given attention factor counts as a
    /// whole.
    pub fn gguf_keys(&self, layers: RopeLayers) -> Vec<(&'static str, Value)> {
        let float = |number: f64| Value::F32(number as f32);
        // A context beyond 32 bits is none; it is refused where the model's own is.
        let count = |positions: u64| Value::U32(u32::try_from(positions).unwrap_or(u32::MAX));
        if matches!(layers, RopeLayers::Windowed { .. }) {
            return vec![("rope.freq_base_swa", float(self.theta))];
        }
        let mut keys = vec![("rope.freq_base", float(self.theta))];
        match self.scaling {
            RopeScaling::Default => {}
            RopeScaling::Linear { factor } => {
                keys.extend([("rope.scaling.type", Value::String("linear".into())), (FACTOR, float(factor))]);
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                keys.extend([
                    (LLAMA3_FACTOR, float(factor)),
                    (LLAMA3_LOW, float(low_freq_factor)),
                    (LLAMA3_HIGH, float(high_freq_factor)),
                    (LLAMA3_ORIGINAL, count(original_max_position_embeddings)),
                ]);
            }
            RopeScaling::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, .. } => {
                keys.extend([
                    ("rope.scaling.type", Value::String("yarn".into())),
                    (FACTOR, float(factor)),
                    (ORIGINAL, count(original_max_position_embeddings)),
                    ("rope.scaling.yarn_beta_fast", float(beta_fast)),
                    ("rope.scaling.yarn_beta_slow", float(beta_slow)),
                ]);
            }
            RopeScaling::LongRope { original_max_position_embeddings, .. } => {
                keys.push((ORIGINAL, count(original_max_position_embeddings)));
            }
        }
        keys
    }
}

fn scaling_of(config: &Config, scaling: &Config) -> Result<RopeScaling> {
    let kind = match scaling.optional_str("rope_type")? {
        Some(kind) => kind,
        None => scaling.optional_str("type")?.unwrap_or("default"),
    };
    let needed = |key: &str| positive(scaling, key)?.ok_or_else(|| scaling.error(key, "it is missing".into()));
    let original = |fallback: Option<u64>| {
        const KEY: &str = "original_max_position_embeddings";
        match scaling.optional_u64(KEY)?.or(config.optional_u64(KEY)?).or(fallback) {
            Some(0) => Err(scaling.error(KEY, "it is 0".into())),
            Some(positions) => Ok(positions),
            None => Err(scaling.error(KEY, "it is missing".into())),
        }
    };
    match kind {
        "default" => match scaling.values().values().find(|value| value.is_object()) {
            // Transformers 5 writes an object per kind of layer for models that need it.
            Some(_) => Err(scaling.unsupported("rope_type", "it differs between kinds of layers".into())),
            None => Ok(RopeScaling::Default),
        },
        "linear" => Ok(RopeScaling::Linear { factor: needed("factor")? }),
        "llama3" => {
            let (low_freq_factor, high_freq_factor) = (needed("low_freq_factor")?, needed("high_freq_factor")?);
            if low_freq_factor >= high_freq_factor {
                return Err(scaling.error("high_freq_factor", "it must be greater than low_freq_factor".into()));
            }
            Ok(RopeScaling::Llama3 {
                factor: needed("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original(None)?,
            })
        }
        "yarn" => Ok(RopeScaling::Yarn {
            factor: needed("factor")?,
            original_max_position_embeddings: original(config.optional_u64("max_position_embeddings")?)?,
            beta_fast: positive(scaling, "beta_fast")?.unwrap_or(YARN_BETA_FAST_DEFAULT),
            beta_slow: positive(scaling, "beta_slow")?.unwrap_or(YARN_BETA_SLOW_DEFAULT),
            attention_factor: positive(scaling, "attention_factor")?,
            attention_multiplier: 1.0,
            mscale: not_negative(scaling, "mscale")?,
            mscale_all_dim: not_negative(scaling, "mscale_all_dim")?,
            truncate: scaling.optional_bool("truncate")?.unwrap_or(true),
        }),
        // What Phi-3 called it at first.
        "longrope" | "su" => {
            let original = original(None)?;
            let longest = config.optional_u64("max_position_embeddings")?.unwrap_or(original);
            Ok(RopeScaling::LongRope {
                short_factor: factors(scaling, "short_factor")?,
                long_factor: factors(scaling, "long_factor")?,
                factor: positive(scaling, "factor")?.unwrap_or(longest as f64 / original as f64),
                original_max_position_embeddings: original,
                attention_factor: positive(scaling, "attention_factor")?,
            })
        }
        other => Err(scaling.error(
            "rope_type",
            format!("`{}` is not supported; default, linear, llama3, longrope and yarn are", shown(other)),
        )),
    }
}

/// A list of factors, each above 0.
fn factors(config: &Config, key: &str) -> Result<Vec<f64>> {
    let list = config.get(key).and_then(serde_json::Value::as_array);
    let list = list.ok_or_else(|| config.error(key, "it is missing or no list".into()))?;
    let positive = |value: &serde_json::Value| value.as_f64().filter(|factor| *factor > 0.0 && factor.is_finite());
    list.iter()
        .map(|value| positive(value).ok_or_else(|| config.error(key, "not every entry is a number above 0".into())))
        .collect()
}

fn positive(config: &Config, key: &str) -> Result<Option<f64>> {
    match config.optional_f64(key)? {
        Some(number) if number <= 0.0 => Err(config.error(key, format!("it is {number}, but must be above 0"))),
        number => Ok(number),
    }
}

fn not_negative(config: &Config, key: &str) -> Result<Option<f64>> {
    match config.optional_f64(key)? {
        Some(number) if number < 0.0 => Err(config.error(key, format!("it is {number}, but must not be negative"))),
        number => Ok(number),
    }
}

/// The keys of one architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn error(&self, name: &str, problem: String) -> Error {
        Error::Gguf {
            field: format!("metadata key `{}`", shown(&self.key(name))),
            problem,
            remedy: "Convert the model to GGUF again with a current converter, or use another file",
        }
    }

    fn positive(&self, name: &str) -> Result<Option<f64>> {
        match self.metadata.optional_f32(&self.key(name))? {
            Some(number) if !(number.is_finite() && number > 0.0) => {
                Err(self.error(name, format!("it is {number}, but must be finite and above 0")))
            }
            number => Ok(number.map(f64::from)),
        }
    }

    fn scaling(&self) -> Result<RopeScaling> {
        if let Some(factor) = self.positive(LLAMA3_FACTOR)? {
            let needed = |name: &str| self.positive(name)?.ok_or_else(|| self.error(name, "it is missing".into()));
            let (low_freq_factor, high_freq_factor) = (needed(LLAMA3_LOW)?, needed(LLAMA3_HIGH)?);
            if low_freq_factor >= high_freq_factor {
                return Err(self.error(LLAMA3_HIGH, format!("it must be greater than {LLAMA3_LOW}")));
            }
            let original_max_position_embeddings = self.positions(LLAMA3_ORIGINAL)?;
            return Ok(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original_max_position_embeddings
                    .ok_or_else(|| self.error(LLAMA3_ORIGINAL, "it is missing".into()))?,
            });
        }
        let factor = match self.positive(FACTOR)? {
            Some(factor) => Some(factor),
            // What the key was called in 2023.
            None => self.positive("rope.scale_linear")?,
        };
        match (self.metadata.optional_str(&self.key("rope.scaling.type"))?, factor) {
            (None, None) | (Some("none" | "longrope"), _) => Ok(RopeScaling::Default),
            // A factor alone is linear.
            (None | Some("linear"), Some(factor)) => Ok(RopeScaling::Linear { factor }),
            (Some("yarn"), Some(factor)) => self.yarn(factor),
            (Some("linear" | "yarn"), None) => Err(self.error(FACTOR, "it is missing".into())),
            (Some(other), _) => Err(self.error(
                "rope.scaling.type",
                format!("`{}` is not supported; none, linear, longrope and yarn are", shown(other)),
            )),
        }
    }

    /// A number of positions, which must not be 0.
    fn positions(&self, name: &str) -> Result<Option<u64>> {
        match self.metadata.optional_u64(&self.key(name))? {
            Some(0) => Err(self.error(name, "it is 0".into())),
            positions => Ok(positions),
        }
    }

    fn yarn(&self, factor: f64) -> Result<RopeScaling> {
        let original = match self.positions(ORIGINAL)? {
            Some(positions) => positions,
            None => self.metadata.u64(&self.key("context_length"))?,
        };
        // DeepSeek's multiplier, and mixtures with plain interpolation, which no known file asks for.
        for name in ["rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_ext_factor"] {
            if self.metadata.optional_f32(&self.key(name))?.is_some_and(|number| number != 1.0) {
                return Err(self.error(name, "it is not supported".into()));
            }
        }
        // Converters copy the configuration's attention factor, which is the whole of it, to the one key, and to the other
        // what llama.cpp multiplies with what it derives from the factor.
        let attention_multiplier = self.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let attention_factor = self.positive("rope.scaling.yarn_attn_factor")?.filter(|_| attention_multiplier == 1.0);
        Ok(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast: self.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(YARN_BETA_FAST_DEFAULT),
            beta_slow: self.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(YARN_BETA_SLOW_DEFAULT),
            attention_factor,
            attention_multiplier,
            mscale: None,
            mscale_all_dim: None,
            truncate: true,
        })
    }

    /// The rotated dimensions over the size of a head.
    fn partial_rotary_factor(&self) -> Result<f64> {
        const ROTATED: &str = "rope.dimension_count";
        let Some(rotated) = self.metadata.optional_u32(&self.key(ROTATED))? else {
            return Ok(1.0);
        };
        let head = match self.metadata.optional_u32(&self.key("attention.key_length"))? {
            Some(length) => length,
            None => {
                let width = self.metadata.u32(&self.key("embedding_length"))?;
                let heads = self.metadata.u32(&self.key("attention.head_count"))?;
                width.checked_div(heads).ok_or_else(|| self.error("attention.head_count", "it is 0".into()))?
            }
        };
        if rotated == 0 || rotated > head {
            return Err(self.error(ROTATED, format!("it is {rotated}, but a head has {head} dimensions")));
        }
        Ok(f64::from(rotated) / f64::from(head))
    }
}

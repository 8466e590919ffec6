//! One file per architecture: what its files are called and what distinguishes it.

mod ernie4_5;
mod exaone4;
mod gemma;
mod gemma2;
mod gemma3;
mod glm4;
mod gpt_oss;
mod granite;
mod hunyuan_dense;
mod llama;
mod olmo2;
mod olmoe;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
mod seed_oss;
mod smollm3;

use crate::Error;
use crate::config::Config;
use crate::decoder::Variant;
use crate::source::{Conventions, Source};
use freehold_kernels::Gate;

/// An architecture: how it is recognised and built.
pub(crate) struct Architecture {
    /// GGUF's `general.architecture`, which is its name here.
    pub(crate) gguf: &'static str,
    /// The values of Hugging Face's `model_type`.
    pub(crate) hugging_face: &'static [&'static str],
    pub(crate) conventions: Conventions,
    pub(crate) variant: fn(&Source<'_>, &Config) -> Result<Variant, Error>,
}

static ARCHITECTURES: [&Architecture; 20] = [
    &llama::LLAMA,
    &qwen2::QWEN2,
    &qwen2_moe::QWEN2_MOE,
    &qwen3::QWEN3,
    &qwen3_moe::QWEN3_MOE,
    &gemma::GEMMA,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &phi3::PHI3,
    &olmo2::OLMO2,
    &olmoe::OLMOE,
    &granite::GRANITE,
    &granite::GRANITE_MOE,
    &smollm3::SMOLLM3,
    &exaone4::EXAONE4,
    &glm4::GLM4,
    &ernie4_5::ERNIE4_5,
    &hunyuan_dense::HUNYUAN_DENSE,
    &seed_oss::SEED_OSS,
    &gpt_oss::GPT_OSS,
];

/// The hyper-parameters of whatever architecture the checkpoint names.
pub(crate) fn parameters(source: &mut Source<'_>) -> Result<(Config, Variant), Error> {
    let name = source.architecture()?;
    let is_gguf = source.is_gguf();
    let names = |architecture: &&'static Architecture| {
        if is_gguf { vec![architecture.gguf] } else { architecture.hugging_face.to_vec() }
    };
    let Some(architecture) = ARCHITECTURES.iter().find(|architecture| names(architecture).contains(&name.as_str()))
    else {
        let supported: Vec<&str> = ARCHITECTURES.iter().flat_map(names).collect();
        return Err(Error::UnsupportedArchitecture { name, supported: supported.join(", ") });
    };
    source.conventions = architecture.conventions;
    if source.has_setting("quantization_config") {
        let problem = "asks for weights quantised in Hugging Face's ways; use the model as GGUF".to_owned();
        return Err(Error::Parameter { key: "quantization_config".to_owned(), problem });
    }
    let config = Config::load(source, architecture.gguf)?;
    let variant = (architecture.variant)(source, &config)?;
    check_activation(source, variant.gate)?;
    Ok((config, variant))
}

/// Refuses a configuration that names another activation than the architecture's.
fn check_activation(source: &Source<'_>, gate: Gate) -> Result<(), Error> {
    let expected = match gate {
        Gate::Silu | Gate::ClampedSilu { .. } => "silu",
        Gate::Gelu => "gelu_pytorch_tanh",
    };
    // Where Gemma's configurations have both, the second one counts.
    let key = if source.has_setting("hidden_activation") { "hidden_activation" } else { "hidden_act" };
    source.refuse_unless(key, &format!("`{expected}`"), |value| value.as_str() == Some(expected))
}

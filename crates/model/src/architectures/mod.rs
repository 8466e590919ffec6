//! One file per architecture: what its files are called and what distinguishes it.

mod llama;
mod qwen2;
mod qwen3;

use crate::Error;
use crate::config::Config;
use crate::decoder::{Decoder, Variant};
use crate::source::Source;

/// An architecture: how it is recognised and built.
pub(crate) struct Architecture {
    /// GGUF's `general.architecture` and Hugging Face's `model_type`; the first one is its name here.
    pub(crate) names: &'static [&'static str],
    pub(crate) variant: fn(&Source<'_>) -> Result<Variant, Error>,
}

static ARCHITECTURES: [&Architecture; 3] = [&llama::LLAMA, &qwen2::QWEN2, &qwen3::QWEN3];

/// Loads whatever architecture the checkpoint names.
pub(crate) fn load(source: &Source<'_>) -> Result<(Config, Decoder), Error> {
    let name = source.architecture()?;
    let Some(architecture) = ARCHITECTURES.iter().find(|architecture| architecture.names.contains(&name.as_str()))
    else {
        let supported: Vec<&str> = ARCHITECTURES.iter().flat_map(|architecture| architecture.names).copied().collect();
        return Err(Error::UnsupportedArchitecture { name, supported: supported.join(", ") });
    };
    source.require_text("hidden_act", "silu")?;
    let variant = (architecture.variant)(source)?;
    let config = Config::load(source, architecture.names[0])?;
    let decoder = Decoder::load(source, &config, &variant)?;
    Ok((config, decoder))
}

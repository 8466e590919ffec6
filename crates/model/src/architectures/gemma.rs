//! Gemma (arXiv 2403.08295): GELU in the gate, embeddings scaled by √width, norms that are stored less 1.

use super::Architecture;
use crate::Error;
use crate::config::Config;
use crate::decoder::Variant;
use crate::source::{Conventions, Source};
use freehold_kernels::Gate;

pub(super) static GEMMA: Architecture = Architecture {
    gguf: "gemma",
    hugging_face: &["gemma"],
    conventions: Conventions::GEMMA,
    variant: |source, config| gemma(source, config, Variant::plain(source, config)?),
};

/// Adds what all Gemmas have in common.
pub(super) fn gemma(source: &Source<'_>, config: &Config, base: Variant) -> Result<Variant, Error> {
    source.refuse_unless("use_bidirectional_attention", "`false`", |value| value.as_bool() == Some(false))?;
    Ok(Variant { gate: Gate::Gelu, embedding_scale: Some((config.width as f32).sqrt()), ..base })
}

/// The scale of scores. GGUF files do not name it: the models of 27 billion parameters, told by their number of layers,
/// take another width of heads than theirs.
pub(super) fn attention_scale(source: &Source<'_>, config: &Config, layers_of_27b: usize) -> Result<f32, Error> {
    let of_27b = (config.layers == layers_of_27b).then_some((config.width / config.heads) as f32);
    let width = match source.optional_number(None, "query_pre_attn_scalar")? {
        Some(width) => width,
        None if source.is_gguf() => of_27b.unwrap_or(config.head_dim as f32),
        // What the configuration classes take.
        None => 256.0,
    };
    Ok(1.0 / width.sqrt())
}

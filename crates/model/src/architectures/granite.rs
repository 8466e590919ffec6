//! Granite 3 (IBM): a Llama whose embeddings, scores, residual additions and logits are scaled.

use super::Architecture;
use crate::decoder::Variant;
use crate::source::Conventions;

pub(super) static GRANITE: Architecture = Architecture {
    gguf: "granite",
    hugging_face: &["granite"],
    conventions: Conventions::LLAMA,
    variant: |source, config| {
        let plain = Variant::plain(source, config)?;
        let attention_scale = source.optional_number("attention.scale", "attention_multiplier")?;
        let logits_scaling = source.optional_number("logit_scale", "logits_scaling")?;
        Ok(Variant {
            interleaved: source.is_gguf(),
            embedding_scale: source.optional_number("embedding_scale", "embedding_multiplier")?,
            attention_scale: attention_scale.unwrap_or(plain.attention_scale),
            residual_scale: source.optional_number("residual_scale", "residual_multiplier")?.unwrap_or(1.0),
            logit_scale: logits_scaling.map(|scaling| 1.0 / scaling),
            ..plain
        })
    },
};

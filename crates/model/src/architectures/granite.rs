//! Granite 3 (IBM): a Llama whose embeddings, scores, residual additions and logits are scaled, in some models with experts.

use super::Architecture;
use crate::Error;
use crate::config::Config;
use crate::decoder::Variant;
use crate::experts::{ExpertsShape, fused_units};
use crate::source::{Conventions, Interleaved, Source};
use freehold_kernels::RouteShare;

pub(super) static GRANITE: Architecture =
    Architecture { gguf: "granite", hugging_face: &["granite"], conventions: Conventions::LLAMA, variant: granite };

pub(super) static GRANITE_MOE: Architecture = Architecture {
    gguf: "granitemoe",
    hugging_face: &["granitemoe"],
    conventions: Conventions { names: &[("ffn_gate_inp", "block_sparse_moe.router.layer")], ..Conventions::LLAMA },
    variant: |source, config| {
        let mut experts = ExpertsShape::load(source, config.feed_forward, RouteShare::OfChosen)?;
        if let (false, Some(experts)) = (source.is_gguf(), &mut experts) {
            experts.load_units = fused_units;
        }
        Ok(Variant { experts, ..granite(source, config)? })
    },
};

fn granite(source: &Source<'_>, config: &Config) -> Result<Variant, Error> {
    let plain = Variant::plain(source, config)?;
    let attention_scale = source.optional_number("attention.scale", "attention_multiplier")?;
    let logits_scaling = source.optional_number("logit_scale", "logits_scaling")?;
    Ok(Variant {
        interleaved: Interleaved::Gguf,
        embedding_scale: source.optional_number("embedding_scale", "embedding_multiplier")?,
        attention_scale: attention_scale.unwrap_or(plain.attention_scale),
        residual_scale: source.optional_number("residual_scale", "residual_multiplier")?.unwrap_or(1.0),
        logit_scale: logits_scaling.map(|scaling| 1.0 / scaling),
        ..plain
    })
}

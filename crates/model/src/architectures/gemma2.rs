//! Gemma 2 (arXiv 2408.00118): norms before and after each block, windows in every other layer, scores and logits capped.

use super::{Architecture, gemma};
use crate::decoder::{LayerNorms, Variant};
use crate::source::Conventions;
use freehold_formats::RopeLayers;

pub(super) static GEMMA2: Architecture = Architecture {
    gguf: "gemma2",
    hugging_face: &["gemma2"],
    conventions: Conventions { names: &[("ffn_norm", "pre_feedforward_layernorm")], ..Conventions::GEMMA },
    variant: |source, config| {
        // Without it, a file would silently be run as another model.
        source.count("attention.sliding_window", "sliding_window", usize::MAX)?;
        let ropes = vec![source.rope(config.head_dim, RopeLayers::All)?];
        let base = Variant::of(ropes, source.windows(config.layers, Some(2))?, config);
        Ok(Variant {
            norms: LayerNorms::AROUND,
            attention_scale: gemma::attention_scale(source, config, 46)?,
            attention_softcap: source.optional_number("attn_logit_softcapping", "attn_logit_softcapping")?,
            logit_softcap: source.optional_number("final_logit_softcapping", "final_logit_softcapping")?,
            ..gemma::gemma(source, config, base)?
        })
    },
};

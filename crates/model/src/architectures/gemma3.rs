//! Gemma 3 (arXiv 2503.19786): Gemma 2 with norms of q and k in place of the caps, five layers with a window to one without,
//! and rotary frequencies of their own in the layers with a window. Text only.

use super::{Architecture, gemma};
use crate::blocks::HeadNorms;
use crate::decoder::{LayerNorms, Variant};
use crate::source::Conventions;

/// The base of the layers with a window, where files do not name it.
const WINDOWED_THETA: f64 = 10_000.0;

pub(super) static GEMMA3: Architecture = Architecture {
    gguf: "gemma3",
    hugging_face: &["gemma3_text"],
    conventions: Conventions { names: &[("ffn_norm", "pre_feedforward_layernorm")], ..Conventions::GEMMA },
    variant: |source, config| {
        let base = Variant::with_local_rope(source, config, 6, Some(WINDOWED_THETA))?;
        Ok(Variant {
            norms: LayerNorms::AROUND,
            head_norms: HeadNorms::EachHead,
            attention_scale: gemma::attention_scale(source, config, 62)?,
            attention_softcap: source.optional_number("attn_logit_softcapping", "attn_logit_softcapping")?,
            logit_softcap: source.optional_number("final_logit_softcapping", "final_logit_softcapping")?,
            ..gemma::gemma(source, config, base)?
        })
    },
};

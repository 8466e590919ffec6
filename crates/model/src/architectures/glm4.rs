//! GLM-4 of 2025 (Zhipu AI): norms before and after each block, rope over half of each head, whose halves are interleaved.

use super::Architecture;
use crate::decoder::{LayerNorms, Variant};
use crate::source::{Conventions, Interleaved};

pub(super) static GLM4: Architecture = Architecture {
    gguf: "glm4",
    hugging_face: &["glm4"],
    conventions: Conventions {
        names: &[
            ("post_attention_norm", "post_self_attn_layernorm"),
            ("post_ffw_norm", "post_mlp_layernorm"),
            ("ffn_up", "mlp.gate_up_proj"),
        ],
        ..Conventions::LLAMA
    },
    variant: |source, config| {
        Ok(Variant {
            norms: LayerNorms::AROUND,
            interleaved: Interleaved::Everywhere,
            fused_gate: true,
            ..Variant::plain(source, config)?
        })
    },
};

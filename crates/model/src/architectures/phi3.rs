//! Phi-3 (arXiv 2404.14219) and Phi-4: q, k and v in one tensor, gate and its other half in one, LongRoPE in the models for
//! long contexts.

use super::Architecture;
use crate::decoder::Variant;
use crate::source::Conventions;

pub(super) static PHI3: Architecture = Architecture {
    gguf: "phi3",
    hugging_face: &["phi3"],
    conventions: Conventions { names: &[("ffn_up", "mlp.gate_up_proj")], ..Conventions::LLAMA },
    variant: |source, config| Ok(Variant { fused_gate: true, ..Variant::windowed(source, config)? }),
};

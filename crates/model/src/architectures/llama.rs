//! Llama (arXiv 2302.13971 and its successors), which Mistral and SmolLM share.

use super::Architecture;
use crate::decoder::Variant;
use freehold_kernels::RopeStyle;

pub(super) static LLAMA: Architecture = Architecture {
    names: &["llama", "mistral"],
    variant: |source| {
        // GGUF files of this architecture hold q and k with the two halves of each head interleaved.
        let rope_style = if source.is_gguf() { RopeStyle::Pairs } else { RopeStyle::Halves };
        Ok(Variant { rope_style, head_norms: false })
    },
};

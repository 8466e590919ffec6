//! Qwen3 (arXiv 2505.09388): norms over each head of q and k in place of Qwen2's biases.

use super::{Architecture, qwen2};
use crate::blocks::HeadNorms;
use crate::decoder::Variant;
use crate::source::Conventions;

pub(super) static QWEN3: Architecture = Architecture {
    gguf: "qwen3",
    hugging_face: &["qwen3"],
    conventions: Conventions::LLAMA,
    variant: |source, config| {
        Ok(Variant { head_norms: HeadNorms::EachHead, ..qwen2::windowed_if_used(source, config)? })
    },
};

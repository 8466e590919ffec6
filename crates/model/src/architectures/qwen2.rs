//! Qwen2 and Qwen2.5 (arXiv 2407.10671): biases on q, k and v, which every projection loads where they are.

use super::Architecture;
use crate::decoder::Variant;
use crate::source::Conventions;

pub(super) static QWEN2: Architecture = Architecture {
    gguf: "qwen2",
    hugging_face: &["qwen2"],
    conventions: Conventions::LLAMA,
    variant: |source, config| Variant::plain(source, config),
};

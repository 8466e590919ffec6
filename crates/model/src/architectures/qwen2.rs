//! Qwen2 and Qwen2.5 (arXiv 2407.10671): biases on q, k and v, which every projection loads where they are.

use super::Architecture;
use crate::Error;
use crate::config::Config;
use crate::decoder::Variant;
use crate::source::{Conventions, Source};

pub(super) static QWEN2: Architecture = Architecture {
    gguf: "qwen2",
    hugging_face: &["qwen2"],
    conventions: Conventions::LLAMA,
    variant: windowed_if_used,
};

/// With windows where the configuration switches them on.
pub(super) fn windowed_if_used(source: &Source<'_>, config: &Config) -> Result<Variant, Error> {
    if source.optional_bool("use_sliding_window")?.unwrap_or(false) {
        Variant::windowed(source, config)
    } else {
        Variant::plain(source, config)
    }
}

//! Qwen3-MoE (arXiv 2505.09388): Qwen3 with experts, none of them shared.

use super::Architecture;
use crate::blocks::HeadNorms;
use crate::decoder::Variant;
use crate::experts::{self, ExpertsShape};
use crate::source::Conventions;

pub(super) static QWEN3_MOE: Architecture = Architecture {
    gguf: "qwen3moe",
    hugging_face: &["qwen3_moe"],
    conventions: Conventions::LLAMA,
    variant: |source, config| {
        source.refuse_unless("use_sliding_window", "`false`", |value| value.as_bool() == Some(false))?;
        experts::require_in_every_layer(source)?;
        // GGUF files do not say it: all published models normalise.
        let share = experts::share(source, true)?;
        Ok(Variant {
            head_norms: HeadNorms::EachHead,
            experts: ExpertsShape::load(source, experts::inner(source)?, share)?,
            ..Variant::plain(source, config)?
        })
    },
};

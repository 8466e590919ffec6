//! OLMoE (arXiv 2409.02060): a Llama with experts, and norms over all heads of q and k together.

use super::Architecture;
use crate::blocks::HeadNorms;
use crate::decoder::Variant;
use crate::experts::{self, ExpertsShape};
use crate::source::Conventions;

pub(super) static OLMOE: Architecture = Architecture {
    gguf: "olmoe",
    hugging_face: &["olmoe"],
    conventions: Conventions::LLAMA,
    variant: |source, config| {
        source.refuse_unless("clip_qkv", "`null`", |_| false)?;
        // GGUF files do not say it: the published models do not normalise.
        let share = experts::share(source, false)?;
        Ok(Variant {
            head_norms: HeadNorms::AllHeads,
            experts: ExpertsShape::load(source, config.feed_forward, share)?,
            ..Variant::plain(source, config)?
        })
    },
};

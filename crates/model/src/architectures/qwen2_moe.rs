//! Qwen1.5-MoE and Qwen2-MoE (arXiv 2407.10671, section 2.2.2): Qwen2 with experts, one of them shared by all tokens.

use super::Architecture;
use crate::decoder::Variant;
use crate::experts::{self, ExpertsShape};
use crate::source::Conventions;

pub(super) static QWEN2_MOE: Architecture = Architecture {
    gguf: "qwen2moe",
    hugging_face: &["qwen2_moe"],
    conventions: Conventions::LLAMA,
    variant: |source, config| {
        source.refuse_unless("use_sliding_window", "`false`", |value| value.as_bool() == Some(false))?;
        experts::require_in_every_layer(source)?;
        let inner = experts::inner(source)?;
        // GGUF files do not say it: of the published models none normalises.
        let share = experts::share(source, false)?;
        let shared_inner =
            source.count("expert_shared_feed_forward_length", "shared_expert_intermediate_size", experts::MAX_INNER)?;
        let mut experts = ExpertsShape::load(source, inner, share)?;
        if let Some(experts) = &mut experts {
            experts.shared_inner = Some(shared_inner);
        }
        Ok(Variant { experts, ..Variant::plain(source, config)? })
    },
};

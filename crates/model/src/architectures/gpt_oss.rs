//! GPT-OSS (arXiv 2508.10925): experts with a clamped gate and biases, a sink in every head, windows in every other layer.

use super::Architecture;
use crate::decoder::{LayerNorms, Variant};
use crate::experts::{self, ExpertsShape, interleaved_units};
use crate::source::Conventions;
use freehold_formats::{RopeLayers, RopeScaling};
use freehold_kernels::{Gate, RouteShare};

pub(super) static GPT_OSS: Architecture = Architecture {
    gguf: "gpt-oss",
    hugging_face: &["gpt_oss"],
    conventions: Conventions { names: &[("ffn_gate_inp", "mlp.router")], ..Conventions::LLAMA },
    variant: |source, config| {
        let mut parameters = source.rope_parameters(RopeLayers::All)?;
        if let (true, RopeScaling::Yarn { truncate, .. }) = (source.is_gguf(), &mut parameters.scaling) {
            // GGUF has no key for it, and these models do not round the bounds.
            *truncate = false;
        }
        // GGUF files have it twice.
        let inner = source.count("expert_feed_forward_length", "intermediate_size", experts::MAX_INNER)?;
        let mut experts = ExpertsShape::load(source, inner, RouteShare::OfChosen)?;
        if let (false, Some(experts)) = (source.is_gguf(), &mut experts) {
            experts.load_units = interleaved_units;
        }
        let ropes = vec![source.rope_frequencies(config.head_dim, &parameters)?];
        Ok(Variant {
            norms: LayerNorms::BEFORE_NAMED_POST_ATTENTION,
            sinks: true,
            gate: Gate::ClampedSilu {
                alpha: source.optional_number(None, "swiglu_alpha")?.unwrap_or(1.702),
                limit: source.optional_number(None, "swiglu_limit")?.unwrap_or(7.0),
            },
            experts,
            ..Variant::of(ropes, source.windows(config.layers, Some(2))?, config)
        })
    },
};

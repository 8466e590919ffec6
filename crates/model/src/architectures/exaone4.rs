//! EXAONE 4 (arXiv 2507.11407): norms after each block and over each head of q and k; in the large models three layers with a
//! window to one without, which does not embed positions.

use super::Architecture;
use crate::blocks::HeadNorms;
use crate::decoder::{LayerNorms, Variant};
use crate::source::Conventions;
use freehold_formats::RopeLayers;

pub(super) static EXAONE4: Architecture = Architecture {
    gguf: "exaone4",
    hugging_face: &["exaone4"],
    conventions: Conventions::LLAMA,
    variant: |source, config| {
        let ropes = vec![source.rope(config.head_dim, RopeLayers::All)?];
        let mut variant = Variant::of(ropes, source.windows(config.layers, Some(4))?, config);
        if variant.layers.iter().any(|layer| layer.window.is_some()) {
            for layer in variant.layers.iter_mut().filter(|layer| layer.window.is_none()) {
                layer.rope = None;
            }
        }
        Ok(Variant { norms: LayerNorms::AFTER, head_norms: HeadNorms::EachHead, ..variant })
    },
};

//! OLMo 2 (arXiv 2501.00656) and OLMo 3 (arXiv 2512.13961): norms after each block and over all heads of q and k together;
//! in OLMo 3 three layers with a window to one without, whose rotary frequencies alone are scaled.

use super::Architecture;
use crate::blocks::HeadNorms;
use crate::decoder::{LayerNorms, Variant};
use crate::source::Conventions;

pub(super) static OLMO2: Architecture = Architecture {
    gguf: "olmo2",
    hugging_face: &["olmo2", "olmo3"],
    conventions: Conventions::LLAMA,
    variant: |source, config| {
        Ok(Variant {
            norms: LayerNorms::AFTER,
            head_norms: HeadNorms::AllHeads,
            ..Variant::with_local_rope(source, config, 4, None)?
        })
    },
};

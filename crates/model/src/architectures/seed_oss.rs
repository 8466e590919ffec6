//! Seed-OSS (ByteDance): a Llama with biases on q, k and v.

use super::Architecture;
use crate::decoder::{LayerNorms, Variant};
use crate::source::Conventions;

pub(super) static SEED_OSS: Architecture = Architecture {
    gguf: "seed_oss",
    hugging_face: &["seed_oss"],
    conventions: Conventions::LLAMA,
    variant: |source, config| {
        Ok(Variant { norms: LayerNorms::BEFORE_NAMED_POST_ATTENTION, ..Variant::plain(source, config)? })
    },
};

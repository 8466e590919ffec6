//! SmolLM3 (Hugging Face): a Llama in which every fourth layer does not embed positions (arXiv 2501.18795).

use super::Architecture;
use crate::decoder::{LayerKind, Variant};
use crate::source::{Conventions, Interleaved};

pub(super) static SMOLLM3: Architecture = Architecture {
    gguf: "smollm3",
    hugging_face: &["smollm3"],
    conventions: Conventions { tied: true, ..Conventions::LLAMA },
    variant: |source, config| {
        source.refuse_unless("use_sliding_window", "`false`", |value| value.as_bool() == Some(false))?;
        let plain = Variant::plain(source, config)?;
        let rotates = source.layers_with_rope(config.layers)?;
        let layers = plain.layers.iter().zip(rotates);
        let layers = layers.map(|(kind, rotates)| LayerKind { rope: rotates.then_some(0), ..*kind });
        Ok(Variant { layers: layers.collect(), interleaved: Interleaved::Gguf, ..plain })
    },
};

//! Llama (arXiv 2302.13971 and its successors), which Mistral, Mixtral (arXiv 2401.04088) and SmolLM share.

use super::Architecture;
use crate::decoder::Variant;
use crate::experts::ExpertsShape;
use crate::source::{Conventions, Interleaved};
use freehold_kernels::RouteShare;

pub(super) static LLAMA: Architecture = Architecture {
    gguf: "llama",
    hugging_face: &["llama", "mistral", "mixtral"],
    conventions: Conventions {
        names: &[
            ("ffn_gate_inp", "block_sparse_moe.gate"),
            ("ffn_gate_exps", "block_sparse_moe.experts.{}.w1"),
            ("ffn_up_exps", "block_sparse_moe.experts.{}.w3"),
            ("ffn_down_exps", "block_sparse_moe.experts.{}.w2"),
        ],
        ..Conventions::LLAMA
    },
    variant: |source, config| {
        // Llama's own class has no windows, whatever its configuration says.
        let is_llama = !source.is_gguf() && source.architecture()? == "llama";
        let base = if is_llama { Variant::plain(source, config)? } else { Variant::windowed(source, config)? };
        Ok(Variant {
            interleaved: Interleaved::Gguf,
            experts: ExpertsShape::load(source, config.feed_forward, RouteShare::OfChosen)?,
            ..base
        })
    },
};

//! Qwen3 (arXiv 2505.09388): norms over each head of q and k in place of Qwen2's biases.

use super::Architecture;
use crate::decoder::Variant;
use freehold_kernels::RopeStyle;

pub(super) static QWEN3: Architecture =
    Architecture { names: &["qwen3"], variant: |_| Ok(Variant { rope_style: RopeStyle::Halves, head_norms: true }) };
